//! Image decoding to RGB, as Pillow's `ImageOps.exif_transpose(Image.open(path)).convert("RGB")`.
//!
//! The format is detected from the content, never from the extension. EXIF orientation is applied. Grey is repeated,
//! palettes are expanded, alpha is dropped and not composited (as in `convert("RGB")`), 16-bit samples keep their high byte.
//!
//! Different from Pillow: a 16-bit grey PNG is reduced by the high byte, where Pillow clips everything above 255 to
//! white. JPEG pixels may differ from libjpeg's by a few grey levels (another inverse DCT). Colour profiles are ignored
//! by both. Only the first frame of an animation and the first page of a TIFF are read.
//!
//! Layout: height x width x 3, row-major, 8 bits, in `image::RgbImage`.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use crate::error::ImageError;

/// The largest number of pixels of an image or a mask, whatever limit is set: 500 Mpx, or 1.5 GB as RGB.
pub const MAX_PIXELS: u64 = 500_000_000;

/// The number of pixels that an image may declare unless another limit is set: 100 Mpx, or 300 MB as RGB.
pub const DEFAULT_MAX_PIXELS: u64 = 100_000_000;

/// Bytes of the widest pixel that is accepted, 16-bit RGBA.
const BYTES_PER_PIXEL: u64 = 8;

/// Reads an image file of at most [`DEFAULT_MAX_PIXELS`] as upright RGB.
///
/// # Errors
///
/// When the file cannot be read, is not a JPEG, PNG, TIFF, BMP, WebP or GIF, is damaged or cut off, has float or 32-bit pixels,
/// is empty, or has more pixels.
pub fn decode_rgb(path: &Path) -> Result<RgbImage, ImageError> {
    decode_rgb_within(path, DEFAULT_MAX_PIXELS)
}

/// As [`decode_rgb`] with another limit.
///
/// # Errors
///
/// As [`decode_rgb`].
pub fn decode_rgb_within(path: &Path, max_pixels: u64) -> Result<RgbImage, ImageError> {
    decode_rgb_bytes(&read_file(path)?, &path.display().to_string(), max_pixels)
}

/// Decodes the bytes of an image file as upright RGB. `name` identifies it in errors, such as `shard.tar:sa_1.jpg`. An image
/// that declares more than `max_pixels` is rejected before anything is allocated for it.
///
/// # Errors
///
/// As [`decode_rgb`], without those of reading.
pub fn decode_rgb_bytes(bytes: &[u8], name: &str, max_pixels: u64) -> Result<RgbImage, ImageError> {
    let file = EncodedImage { max_pixels, ..EncodedImage::new(bytes, name)? };
    file.reject_truncated_jpeg()?;
    file.guarded(|| {
        let mut decoder = file.decoder()?;
        // An image with a damaged EXIF block is still usable; every viewer shows it unrotated.
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let image = DynamicImage::from_decoder(decoder).map_err(|e| file.decode_error(e))?;
        let mut image = DynamicImage::ImageRgb8(file.rgb8_from_any(image)?);
        image.apply_orientation(orientation);
        Ok(image.into_rgb8())
    })
}

/// Checks the declared size of an image, before anything is allocated for it.
///
/// # Errors
///
/// When it has more than `max_pixels`.
pub fn check_size(size_hw: [usize; 2], name: &str, max_pixels: u64) -> Result<(), ImageError> {
    let limit = max_pixels.min(MAX_PIXELS);
    let n_pixels = (size_hw[0] as u64).saturating_mul(size_hw[1] as u64);
    if n_pixels <= limit {
        return Ok(());
    }
    Err(ImageError::TooLarge { name: name.to_owned(), size_hw, n_pixels, limit })
}

fn read_file(path: &Path) -> Result<Vec<u8>, ImageError> {
    let read = sam_files::read_regular(path, sam_files::MAX_FILE_BYTES);
    read.map_err(|source| ImageError::Io { path: path.to_path_buf(), source })
}

/// Encoded bytes with their format, and a name for errors.
struct EncodedImage<'a> {
    bytes: &'a [u8],
    name: &'a str,
    format: ImageFormat,
    max_pixels: u64,
}

impl<'a> EncodedImage<'a> {
    fn new(bytes: &'a [u8], name: &'a str) -> Result<Self, ImageError> {
        let Ok(format) = image::guess_format(bytes) else {
            return Err(ImageError::UnknownFormat {
                name: name.to_owned(),
                n_bytes: bytes.len(),
                head: head_of(bytes),
            });
        };
        match format {
            ImageFormat::Jpeg
            | ImageFormat::Png
            | ImageFormat::Tiff
            | ImageFormat::Bmp
            | ImageFormat::WebP
            | ImageFormat::Gif => Ok(Self { bytes, name, format, max_pixels: DEFAULT_MAX_PIXELS }),
            _ => Err(ImageError::UnsupportedFormat { name: name.to_owned(), format: format_name(format) }),
        }
    }

    /// A decoder with a parsed header and a validated size.
    fn decoder(&self) -> Result<impl ImageDecoder + 'a, ImageError> {
        let mut limits = Limits::no_limits();
        limits.max_alloc = Some(self.max_pixels.saturating_mul(BYTES_PER_PIXEL));
        let mut reader = ImageReader::with_format(Cursor::new(self.bytes), self.format);
        reader.limits(limits);
        let decoder = reader.into_decoder().map_err(|e| self.decode_error(e))?;
        let (width, height) = decoder.dimensions();
        let size_hw = [height as usize, width as usize];
        if width == 0 || height == 0 {
            return Err(ImageError::EmptyImage { name: self.name.to_owned(), size_hw });
        }
        check_size(size_hw, self.name, self.max_pixels)?;
        Ok(decoder)
    }

    fn rgb8_from_any(&self, image: DynamicImage) -> Result<RgbImage, ImageError> {
        Ok(match image {
            DynamicImage::ImageRgb8(rgb) => rgb,
            DynamicImage::ImageLuma8(_) | DynamicImage::ImageLumaA8(_) | DynamicImage::ImageRgba8(_) => {
                image.into_rgb8()
            }
            // `to_rgb8` would round to the nearest of 255 levels; Pillow and OpenCV take the high byte.
            DynamicImage::ImageLuma16(grey) => high_bytes(grey.width(), grey.height(), grey.as_raw(), 1),
            DynamicImage::ImageLumaA16(grey) => high_bytes(grey.width(), grey.height(), grey.as_raw(), 2),
            DynamicImage::ImageRgb16(rgb) => high_bytes(rgb.width(), rgb.height(), rgb.as_raw(), 3),
            DynamicImage::ImageRgba16(rgba) => high_bytes(rgba.width(), rgba.height(), rgba.as_raw(), 4),
            other => {
                return Err(ImageError::PixelKind {
                    name: self.name.to_owned(),
                    format: self.described_format(),
                    detail: format!("{:?} pixels", other.color()),
                });
            }
        })
    }

    /// zune-jpeg fills the missing part of a truncated file with grey and reports success. A model must not be trained on
    /// that, so the end marker is required, as in Pillow.
    fn reject_truncated_jpeg(&self) -> Result<(), ImageError> {
        if self.format != ImageFormat::Jpeg || has_end_of_image(self.bytes) {
            return Ok(());
        }
        Err(ImageError::TruncatedJpeg { name: self.name.to_owned(), n_bytes: self.bytes.len() })
    }

    /// Decoders parse untrusted bytes and have panicked before; one bad file in eleven million must not end a run.
    fn guarded<T>(&self, decode: impl FnOnce() -> Result<T, ImageError>) -> Result<T, ImageError> {
        catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| {
            Err(ImageError::DecoderPanicked { name: self.name.to_owned(), format: format_name(self.format) })
        })
    }

    fn decode_error(&self, source: image::ImageError) -> ImageError {
        let name = self.name.to_owned();
        let format = self.described_format();
        match source {
            image::ImageError::Unsupported(reason) => {
                ImageError::PixelKind { name, format, detail: reason.to_string() }
            }
            source => ImageError::Decode { name, format, source: Box::new(source) },
        }
    }

    /// The format, with a note if the extension names another one; a wrong extension alone is not an error.
    fn described_format(&self) -> String {
        let format = format_name(self.format);
        match ImageFormat::from_path(self.name) {
            Ok(named) if named != self.format => {
                format!("{format} (the extension says {})", format_name(named))
            }
            _ => format,
        }
    }
}

/// `n_channels` interleaved 16-bit samples per pixel to RGB; one or two channels are grey with or without alpha.
fn high_bytes(width: u32, height: u32, samples: &[u16], n_channels: usize) -> RgbImage {
    let mut rgb = RgbImage::new(width, height);
    for (out, pixel) in rgb.chunks_exact_mut(3).zip(samples.chunks_exact(n_channels)) {
        let [r, g, b] = if n_channels < 3 { [pixel[0]; 3] } else { [pixel[0], pixel[1], pixel[2]] };
        out.copy_from_slice(&[r, g, b].map(|sample| (sample >> 8) as u8));
    }
    rgb
}

/// Whether an end-of-image marker follows the first start of scan. Before the scan, an EXIF thumbnail has an end marker of
/// its own; within the scan, entropy-coded data escapes every 0xFF, so the pair cannot occur by accident.
fn has_end_of_image(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    let mut at = 2;
    // Segments before the scan: 0xFF, marker, big-endian length including itself.
    while let Some(&[prefix, marker, hi, lo]) = bytes.get(at..at + 4) {
        if prefix != 0xFF {
            // Decoders tolerate junk between segments.
            at += 1;
        } else if marker == START_OF_SCAN {
            return bytes[at..].windows(2).rev().any(|pair| pair == [0xFF, 0xD9]);
        } else if matches!(marker, 0xFF | 0x00 | 0x01 | 0xD0..=0xD8) {
            // A fill byte, or a marker without a length.
            at += if marker == 0xFF { 1 } else { 2 };
        } else {
            at += 2 + usize::from(u16::from_be_bytes([hi, lo])).max(2);
        }
    }
    false
}

fn format_name(format: ImageFormat) -> String {
    match format {
        ImageFormat::Jpeg => "JPEG".to_owned(),
        ImageFormat::WebP => "WebP".to_owned(),
        other => format!("{other:?}").to_uppercase(),
    }
}

fn head_of(bytes: &[u8]) -> String {
    let head = &bytes[..bytes.len().min(12)];
    if !head.is_empty() && head.iter().all(|b| b.is_ascii_graphic() || *b == b' ') {
        return format!("\"{}\"", String::from_utf8_lossy(head));
    }
    if head.is_empty() {
        return "nothing".to_owned();
    }
    head.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" ")
}
