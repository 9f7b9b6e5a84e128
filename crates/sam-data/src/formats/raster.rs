//! Stored values of PNG, TIFF and GIF files: palette indices, 16-bit ids, floats, many channels.
//!
//! An image library converts these to colours, which label images and microscopy must not be. Every sample type keeps
//! its full width. In a TIFF with several images, reduced copies (`NewSubfileType` bit 0) are skipped; a stack of pages
//! is rejected, because reading only its first page would lose the rest unnoticed.

use std::io::{BufRead, Cursor, Seek};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use sam_image::check_size;
use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;

use crate::error::DataError;
use crate::formats::gif::read_gif;
use crate::formats::memory::SampleSize;
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::signature;

/// Largest raster in bytes; larger declared sizes are rejected before allocation.
const MAX_RASTER_BYTES: usize = 2 << 30;
/// Maximum ratio of Deflate; a PNG that declares more than its file can hold is truncated or hostile.
const MAX_DEFLATE_RATIO: usize = 1032;

/// Samples of one type, pixel by pixel, channels interleaved.
#[derive(Debug, PartialEq)]
pub(crate) enum Samples {
    U8(Vec<u8>),
    U16(Vec<u16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
}

/// Meaning of the samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// Indices into a colour table.
    Palette,
    /// Grey, with or without alpha.
    Grey,
    /// Red, green and blue, with or without alpha.
    Rgb,
    /// Channels without a colour, or an unsupported colour space.
    Other,
}

/// An image file as stored.
#[derive(Debug)]
pub(crate) struct Raster {
    pub(crate) size_hw: [usize; 2],
    pub(crate) n_channels: usize,
    pub(crate) samples: Samples,
    pub(crate) meaning: Meaning,
    /// The colours of a PNG's palette.
    pub(crate) palette: Option<Vec<[u8; 3]>>,
}

/// The formats whose stored values can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RasterFormat {
    Png,
    Tiff,
    Gif,
}

impl RasterFormat {
    /// Detects the format from the content.
    pub(crate) fn of(bytes: &[u8]) -> Option<Self> {
        const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";
        if bytes.starts_with(PNG) {
            Some(Self::Png)
        } else if [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"].iter().any(|magic| bytes.starts_with(*magic)) {
            Some(Self::Tiff)
        } else if bytes.starts_with(b"GIF8") {
            Some(Self::Gif)
        } else {
            None
        }
    }
}

impl Raster {
    /// Reads a PNG, TIFF or GIF file of at most `max_pixels`.
    pub(crate) fn open(path: &Path, max_pixels: u64) -> Result<Self, DataError> {
        let place = FilePlace::Path(path.to_path_buf());
        Self::read(&place.read()?, &place.name(), max_pixels)
    }

    /// Reads a PNG, TIFF or GIF of at most `max_pixels`; `name` is for messages.
    pub(crate) fn read(bytes: &[u8], name: &str, max_pixels: u64) -> Result<Self, DataError> {
        let read = || match RasterFormat::of(bytes) {
            Some(RasterFormat::Png) => read_png(bytes, name, max_pixels),
            Some(RasterFormat::Tiff) => read_tiff(bytes, name, max_pixels),
            Some(RasterFormat::Gif) => read_gif(bytes, name, max_pixels),
            None => signature::check(bytes, Path::new(name), "a PNG, TIFF or GIF").and(Err(wrong(
                name,
                "a PNG, TIFF or GIF with one value per pixel",
                &describe_head(bytes),
                "save it losslessly, as PNG or TIFF",
            ))),
        };
        // Decoders have panicked on malformed input before.
        catch_unwind(AssertUnwindSafe(read)).unwrap_or_else(|_| {
            Err(wrong(name, "a readable PNG, TIFF or GIF", "data on which the decoder panics", "export it again"))
        })
    }

    /// Whether samples have more than 8 bits.
    pub(crate) fn is_deep(&self) -> bool {
        !matches!(self.samples, Samples::U8(_))
    }

    /// The sample at a flat index.
    pub(crate) fn sample(&self, index: usize) -> f64 {
        match &self.samples {
            Samples::U8(v) => f64::from(v[index]),
            Samples::U16(v) => f64::from(v[index]),
            Samples::U32(v) => f64::from(v[index]),
            Samples::I32(v) => f64::from(v[index]),
            Samples::F32(v) => f64::from(v[index]),
        }
    }
}

/// The header of a TIFF, without its pixels.
pub(crate) fn tiff_header(reader: impl BufRead + Seek, name: &str, max_pixels: u64) -> Result<ImageHeader, DataError> {
    let read = move || {
        let mut decoder = Decoder::new(reader).map_err(|e| damaged(name, &e))?;
        let stored_hw = tiff_size(&mut decoder, name, max_pixels)?;
        let colour = decoder.colortype().map_err(|e| damaged(name, &e))?;
        let samples = SampleSize { n_channels: colour.num_samples().into(), bits: colour.bit_depth().into() };
        let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).unwrap_or(None);
        let orientation = orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
        Ok(ImageHeader { stored_hw, orientation, samples })
    };
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(wrong(name, "a readable TIFF", "data on which the decoder panics", "export it again")))
}

fn tiff_size<R: std::io::Read + Seek>(
    decoder: &mut Decoder<R>,
    name: &str,
    max_pixels: u64,
) -> Result<[usize; 2], DataError> {
    let (width, height) = decoder.dimensions().map_err(|e| damaged(name, &e))?;
    checked_size(height, width, name, max_pixels)
}

fn checked_size(height: u32, width: u32, name: &str, max_pixels: u64) -> Result<[usize; 2], DataError> {
    let size_hw = [height as usize, width as usize];
    if height == 0 || width == 0 {
        let got = format!("{height} x {width} (height x width)");
        return Err(wrong(name, "at least 1 x 1 pixels large", &got, "export it again"));
    }
    check_size(size_hw, name, max_pixels)?;
    Ok(size_hw)
}

fn read_tiff(bytes: &[u8], name: &str, max_pixels: u64) -> Result<Raster, DataError> {
    let mut limits = Limits::default();
    limits.decoding_buffer_size = MAX_RASTER_BYTES;
    limits.intermediate_buffer_size = MAX_RASTER_BYTES;
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(|e| damaged(name, &e))?.with_limits(limits);
    let size_hw = tiff_size(&mut decoder, name, max_pixels)?;
    reject_stack(bytes, name)?;
    let colour = decoder.colortype().map_err(|e| damaged(name, &e))?;
    let n_channels = usize::from(colour.num_samples());
    let mut result = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut result).map_err(|e| damaged(name, &e))?;
    let is_planar = layout.planes > 1;
    if result.as_buffer(0).as_bytes().len() < layout.complete_len {
        return Err(wrong(
            name,
            "small enough to be read at once",
            "planes above the memory limit",
            "cut it into tiles",
        ));
    }
    let bits = colour.bit_depth();
    let samples = match result {
        DecodingResult::U8(v) if bits < 8 => Samples::U8(unpack(&v, size_hw, n_channels, bits, name)?),
        DecodingResult::U8(v) => Samples::U8(v),
        DecodingResult::U16(v) => Samples::U16(v),
        DecodingResult::U32(v) => Samples::U32(v),
        DecodingResult::U64(v) => Samples::U32(narrowed(&v, name)?),
        DecodingResult::I8(v) => Samples::I32(v.into_iter().map(i32::from).collect()),
        DecodingResult::I16(v) => Samples::I32(v.into_iter().map(i32::from).collect()),
        DecodingResult::I32(v) => Samples::I32(v),
        DecodingResult::I64(v) => Samples::I32(narrowed(&v, name)?),
        DecodingResult::F16(v) => Samples::F32(v.into_iter().map(f32::from).collect()),
        DecodingResult::F32(v) => Samples::F32(v),
        DecodingResult::F64(v) => Samples::F32(v.into_iter().map(|x| x as f32).collect()),
    };
    let mut raster = Raster {
        size_hw,
        n_channels,
        samples,
        meaning: match colour {
            ColorType::Palette(_) => Meaning::Palette,
            ColorType::Gray(_) | ColorType::GrayA(_) => Meaning::Grey,
            ColorType::RGB(_) | ColorType::RGBA(_) => Meaning::Rgb,
            _ => Meaning::Other,
        },
        palette: None,
    };
    if is_planar {
        raster.samples = match raster.samples {
            Samples::U8(v) => Samples::U8(interleaved(&v, n_channels)),
            Samples::U16(v) => Samples::U16(interleaved(&v, n_channels)),
            Samples::U32(v) => Samples::U32(interleaved(&v, n_channels)),
            Samples::I32(v) => Samples::I32(interleaved(&v, n_channels)),
            Samples::F32(v) => Samples::F32(interleaved(&v, n_channels)),
        };
    }
    complete(raster, name)
}

fn read_png(bytes: &[u8], name: &str, max_pixels: u64) -> Result<Raster, DataError> {
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MAX_RASTER_BYTES });
    decoder.set_transformations(png::Transformations::IDENTITY);
    decoder.set_ignore_text_chunk(true);
    let mut reader = decoder.read_info().map_err(|e| damaged(name, &e))?;
    let size_hw = checked_size(reader.info().height, reader.info().width, name, max_pixels)?;
    let holds = bytes.len().saturating_mul(MAX_DEFLATE_RATIO).min(MAX_RASTER_BYTES);
    let n_bytes = reader.output_buffer_size().filter(|&n| n <= holds).ok_or_else(|| {
        let got = format!("{} x {} pixels in {} bytes", size_hw[0], size_hw[1], bytes.len());
        wrong(name, "as large as its file can hold", &got, "download it again, or cut it into tiles")
    })?;
    let (colour, depth) = reader.output_color_type();
    let n_channels = colour.samples();
    let samples = if depth == png::BitDepth::Sixteen {
        // Decoded in place, as a second copy would be the largest of all.
        let mut samples = vec![0u16; n_bytes / 2];
        reader.next_frame(bytemuck::cast_slice_mut(&mut samples)).map_err(|e| damaged(name, &e))?;
        samples.iter_mut().for_each(|sample| *sample = u16::from_be(*sample));
        Samples::U16(samples)
    } else {
        let mut packed = vec![0; n_bytes];
        reader.next_frame(&mut packed).map_err(|e| damaged(name, &e))?;
        match depth {
            png::BitDepth::Eight => Samples::U8(packed),
            few => Samples::U8(unpack(&packed, size_hw, n_channels, few as u8, name)?),
        }
    };
    let meaning = match colour {
        png::ColorType::Indexed => Meaning::Palette,
        png::ColorType::Grayscale | png::ColorType::GrayscaleAlpha => Meaning::Grey,
        png::ColorType::Rgb | png::ColorType::Rgba => Meaning::Rgb,
    };
    let palette = reader.info().palette.as_ref();
    let palette = palette.map(|rgb| rgb.chunks_exact(3).map(|rgb| [rgb[0], rgb[1], rgb[2]]).collect());
    complete(Raster { size_hw, n_channels, samples, meaning, palette }, name)
}

/// Rejects a stack before its first page is decoded, as other decoders would read that one.
fn reject_stack(bytes: &[u8], name: &str) -> Result<(), DataError> {
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(|e| damaged(name, &e))?;
    match 1 + further_pages(&mut decoder) {
        1 => Ok(()),
        n_pages => Err(wrong(
            name,
            "a single image",
            &format!("a stack of {n_pages} pages"),
            "save each slice or time point as its own file",
        )),
    }
}

/// Number of pages after the first that are separate images.
fn further_pages<R: std::io::Read + Seek>(decoder: &mut Decoder<R>) -> usize {
    /// Limit of pages, since directories may form a cycle.
    const MAX_PAGES: usize = 100_000;
    let mut n = 0;
    let mut visited = 0;
    while decoder.more_images() && visited < MAX_PAGES {
        if decoder.next_image().is_err() {
            break;
        }
        visited += 1;
        let subfile = decoder.find_tag_unsigned::<u32>(Tag::NewSubfileType).unwrap_or(None);
        if subfile.unwrap_or(0) & 1 == 0 {
            n += 1;
        }
    }
    n
}

/// Unpacks samples of 1, 2 or 4 bits, with rows padded to whole bytes.
fn unpack(
    packed: &[u8],
    [height, width]: [usize; 2],
    n_channels: usize,
    bits: u8,
    name: &str,
) -> Result<Vec<u8>, DataError> {
    let per_row = width * n_channels;
    let row_bytes = (per_row * usize::from(bits)).div_ceil(8);
    if !matches!(bits, 1 | 2 | 4) || packed.len() < row_bytes * height {
        return Err(wrong(
            name,
            "stored with 1, 2, 4, 8, 16 or 32 bits per sample",
            &format!("{bits} bits in {} bytes", packed.len()),
            "save it as 8-bit",
        ));
    }
    let per_byte = 8 / usize::from(bits);
    let mask = (1u16 << bits) as u8 - 1;
    let mut samples = Vec::with_capacity(height * per_row);
    for row in packed.chunks_exact(row_bytes).take(height) {
        for at in 0..per_row {
            let shift = 8 - usize::from(bits) * (at % per_byte + 1);
            samples.push(row[at / per_byte] >> shift & mask);
        }
    }
    Ok(samples)
}

fn interleaved<T: Copy>(planes: &[T], n_channels: usize) -> Vec<T> {
    let n_pixels = planes.len() / n_channels.max(1);
    (0..n_pixels).flat_map(|pixel| (0..n_channels).map(move |channel| planes[channel * n_pixels + pixel])).collect()
}

fn narrowed<A: Copy + std::fmt::Display, B: TryFrom<A>>(wide: &[A], name: &str) -> Result<Vec<B>, DataError> {
    wide.iter()
        .map(|&value| {
            B::try_from(value)
                .map_err(|_| wrong(name, "limited to values that fit 32 bits", &value.to_string(), "renumber its ids"))
        })
        .collect()
}

/// Checks the number of samples, as a short buffer would make every index below panic.
fn complete(raster: Raster, name: &str) -> Result<Raster, DataError> {
    let got = match &raster.samples {
        Samples::U8(v) => v.len(),
        Samples::U16(v) => v.len(),
        Samples::U32(v) => v.len(),
        Samples::I32(v) => v.len(),
        Samples::F32(v) => v.len(),
    };
    let [height, width] = raster.size_hw;
    let expected = height * width * raster.n_channels;
    if got == expected {
        return Ok(raster);
    }
    Err(wrong(name, &format!("complete ({expected} samples)"), &got.to_string(), "export it again"))
}

fn damaged(name: &str, error: &dyn std::fmt::Display) -> DataError {
    wrong(name, "readable", &error.to_string(), "export it again")
}

/// The error for an image that is not as it must be; `name` is that of its file.
pub(crate) fn wrong(name: &str, expected: &str, got: &str, fix: &str) -> DataError {
    DataError::Content {
        path: PathBuf::from(name),
        what: "the image".to_owned(),
        expected: expected.to_owned(),
        got: got.to_owned(),
        fix: fix.to_owned(),
    }
}

fn describe_head(bytes: &[u8]) -> String {
    match image::guess_format(bytes) {
        Ok(format) => format!("{format:?}").to_uppercase(),
        Err(_) if bytes.is_empty() => "an empty file".to_owned(),
        Err(_) => "bytes of no known image format".to_owned(),
    }
}
