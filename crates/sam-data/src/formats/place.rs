//! Locations of files (on disk, inside a tar shard, in memory) and the headers of images there.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::metadata::Orientation;
use image::{ImageDecoder, ImageFormat, ImageReader};
use sam_image::{Mask, Rle, check_size};

use crate::cloud::CloudShards;
use crate::error::DataError;
use crate::formats::memory::SampleSize;
use crate::formats::raster::tiff_header;
use crate::formats::signature;

/// Location of a file.
#[derive(Clone, Debug)]
pub(crate) enum FilePlace {
    /// A file of its own.
    Path(PathBuf),
    /// A member of an archive, read in place.
    Within { archive: PathBuf, member: String, at: u64, len: u64 },
    /// A member of an archive in the cloud.
    Cloud { shards: Arc<CloudShards>, shard: usize, member: String, at: u64, len: u64 },
    /// Bytes embedded in the annotation.
    Memory { name: String, bytes: Vec<u8> },
}

impl FilePlace {
    /// The name used in messages.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Path(path) => path.display().to_string(),
            Self::Within { archive, member, .. } => format!("{}:{member}", archive.display()),
            Self::Cloud { shards, shard, member, .. } => format!("{}:{member}", shards.address(*shard)),
            Self::Memory { name, .. } => name.clone(),
        }
    }

    pub(crate) fn read(&self) -> Result<Vec<u8>, DataError> {
        match self {
            Self::Path(path) => {
                let read = sam_files::read_regular(path, sam_files::MAX_FILE_BYTES);
                read.map_err(|error| DataError::io(path, error))
            }
            Self::Within { archive, at, len, .. } => read_range(archive, *at, *len),
            Self::Cloud { shards, shard, at, len, .. } => shards.read(*shard, *at, *len),
            Self::Memory { bytes, .. } => Ok(bytes.clone()),
        }
    }

    /// Size of the encoded file.
    pub(crate) fn n_bytes(&self) -> Result<u64, DataError> {
        Ok(match self {
            Self::Path(path) => std::fs::metadata(path).map_err(|error| DataError::io(path, error))?.len(),
            Self::Within { len, .. } | Self::Cloud { len, .. } => *len,
            Self::Memory { bytes, .. } => bytes.len() as u64,
        })
    }

    /// Reads size and orientation of the image, from its first bytes if the format allows. An image of more than `max_pixels`
    /// is an error.
    pub(crate) fn image_header(&self, max_pixels: u64) -> Result<ImageHeader, DataError> {
        let name = self.name();
        match self {
            Self::Path(path) => {
                let file = sam_files::open_regular(path).map_err(|error| DataError::io(path, error))?;
                ImageHeader::read(BufReader::new(file), &name, max_pixels)
            }
            Self::Within { len, .. } | Self::Cloud { len, .. } => {
                // Headers are short; if one is long, the whole member is read.
                let n_head = (*len).min(HEAD_BYTES);
                let head = match self {
                    Self::Within { archive, at, .. } => read_range(archive, *at, n_head)?,
                    Self::Cloud { shards, shard, at, .. } => shards.read(*shard, *at, n_head)?,
                    Self::Path(_) | Self::Memory { .. } => Vec::new(),
                };
                match ImageHeader::read(Cursor::new(&head), &name, max_pixels) {
                    Err(_) if (head.len() as u64) < *len => {
                        ImageHeader::read(Cursor::new(&self.read()?), &name, max_pixels)
                    }
                    result => result,
                }
            }
            Self::Memory { bytes, .. } => ImageHeader::read(Cursor::new(bytes), &name, max_pixels),
        }
    }
}

const HEAD_BYTES: u64 = 1 << 16;

/// Reads a range of a file.
pub(crate) fn read_range(path: &Path, at: u64, len: u64) -> Result<Vec<u8>, DataError> {
    let mut file = sam_files::open_regular(path).map_err(|error| DataError::io(path, error))?;
    read_open_range(&mut file, path, at, len)
}

/// Reads a range of an open file. A length from a damaged index cannot allocate more than the file has.
pub(crate) fn read_open_range(file: &mut File, path: &Path, at: u64, len: u64) -> Result<Vec<u8>, DataError> {
    let io = |error| DataError::io(path, error);
    file.seek(SeekFrom::Start(at)).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(len).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 == len {
        return Ok(bytes);
    }
    Err(io(std::io::Error::new(
        std::io::ErrorKind::UnexpectedEof,
        format!("must have {len} bytes from byte {at}, got {}; did the file change after it was opened?", bytes.len()),
    )))
}

/// Size and orientation of an image file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ImageHeader {
    /// Size of the pixels as they are stored.
    pub(crate) stored_hw: [usize; 2],
    /// The EXIF orientation.
    pub(crate) orientation: Orientation,
    /// What is decoded for each pixel.
    pub(crate) samples: SampleSize,
}

impl ImageHeader {
    /// Reads the header of an image of at most `max_pixels`. JPEG markers are parsed by hand because decoders read the whole
    /// file.
    pub(crate) fn read(mut reader: impl BufRead + Seek, name: &str, max_pixels: u64) -> Result<Self, DataError> {
        let io = |error| DataError::io(Path::new(name), error);
        let head = reader.fill_buf().map_err(io)?;
        signature::check(head, Path::new(name), "an image")?;
        if head.starts_with(&[0xFF, 0xD8]) {
            if let Some(header) = read_jpeg_header(&mut reader).map_err(io)? {
                check_size(header.stored_hw, name, max_pixels)?;
                return Ok(header);
            }
            reader.seek(SeekFrom::Start(0)).map_err(io)?;
        } else if head.starts_with(b"II*\0") || head.starts_with(b"MM\0*") || head.starts_with(b"II+\0") {
            return tiff_header(reader, name, max_pixels);
        }
        let guessed = ImageReader::new(&mut reader).with_guessed_format().map_err(io)?;
        let is_known = matches!(
            guessed.format(),
            Some(ImageFormat::Jpeg | ImageFormat::Png | ImageFormat::Bmp | ImageFormat::WebP | ImageFormat::Gif)
        );
        if is_known && let Ok(mut decoder) = guessed.into_decoder() {
            let (width, height) = decoder.dimensions();
            let colour = decoder.original_color_type();
            let n_channels = u64::from(colour.channel_count()).max(1);
            let header = Self {
                stored_hw: [height as usize, width as usize],
                samples: SampleSize { n_channels, bits: u64::from(colour.bits_per_pixel()) / n_channels },
                orientation: decoder.orientation().unwrap_or(Orientation::NoTransforms),
            };
            if width > 0 && height > 0 {
                check_size(header.stored_hw, name, max_pixels)?;
                return Ok(header);
            }
        }
        // The full decoder produces the error message.
        let mut bytes = Vec::new();
        reader.seek(SeekFrom::Start(0)).map_err(io)?;
        reader.take(sam_files::MAX_FILE_BYTES).read_to_end(&mut bytes).map_err(io)?;
        let image = sam_image::decode_rgb_bytes(&bytes, name, max_pixels)?;
        Ok(Self {
            stored_hw: [image.height() as usize, image.width() as usize],
            samples: SampleSize { n_channels: 3, bits: 8 },
            orientation: Orientation::NoTransforms,
        })
    }

    /// Whether the EXIF orientation swaps width and height.
    pub(crate) fn is_swapped(&self) -> bool {
        matches!(
            self.orientation,
            Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH
        )
    }

    /// Size of the upright image, which is the size of masks.
    pub(crate) fn upright_hw(&self) -> [usize; 2] {
        let [height, width] = self.stored_hw;
        if self.is_swapped() { [width, height] } else { [height, width] }
    }

    /// Rotates a mask of the stored pixels as the image is rotated.
    pub(crate) fn upright(&self, stored: &Rle) -> Rle {
        let from = stored.to_mask();
        let [height, width] = from.size_hw();
        Rle::from_mask(&Mask::from_fn(
            if self.is_swapped() { [width, height] } else { [height, width] },
            |row, column| match self.orientation {
                Orientation::NoTransforms => from.get(row, column),
                Orientation::Rotate90 => from.get(height - 1 - column, row),
                Orientation::Rotate180 => from.get(height - 1 - row, width - 1 - column),
                Orientation::Rotate270 => from.get(column, width - 1 - row),
                Orientation::FlipHorizontal => from.get(row, width - 1 - column),
                Orientation::FlipVertical => from.get(height - 1 - row, column),
                Orientation::Rotate90FlipH => from.get(column, row),
                Orientation::Rotate270FlipH => from.get(height - 1 - column, width - 1 - row),
            },
        ))
    }
}

/// Size from the first start-of-frame, orientation from the EXIF block before it; `None` for unusual markers.
fn read_jpeg_header(reader: &mut (impl BufRead + Seek)) -> std::io::Result<Option<ImageHeader>> {
    const EXIF: &[u8] = b"Exif\0\0";
    const PROGRESSIVE: u8 = 0xC2;
    let mut orientation = Orientation::NoTransforms;
    reader.seek(SeekFrom::Start(2))?;
    loop {
        let mut head = [0u8; 4];
        if !fills(reader, &mut head[..2])? || head[0] != 0xFF {
            return Ok(None);
        }
        if head[1] == 0xFF {
            // A fill byte: the second of the two may start the marker.
            reader.seek_relative(-1)?;
            continue;
        }
        if matches!(head[1], 0x01 | 0xD0..=0xD8) {
            continue;
        }
        if !fills(reader, &mut head[2..])? {
            return Ok(None);
        }
        let len = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let Some(len) = len.checked_sub(2) else {
            return Ok(None);
        };
        match head[1] {
            // Start of frame; C4, C8 and CC are tables.
            0xC0..=0xCF if !matches!(head[1], 0xC4 | 0xC8 | 0xCC) => {
                let mut frame = [0u8; 6];
                if !fills(reader, &mut frame)? {
                    return Ok(None);
                }
                let height = usize::from(u16::from_be_bytes([frame[1], frame[2]]));
                let width = usize::from(u16::from_be_bytes([frame[3], frame[4]]));
                let is_valid = height > 0 && width > 0;
                // Progressive images are decoded as a whole before they are converted: 16-bit coefficients.
                let samples =
                    SampleSize { n_channels: frame[5].into(), bits: if head[1] == PROGRESSIVE { 16 } else { 8 } };
                return Ok(is_valid.then_some(ImageHeader { stored_hw: [height, width], orientation, samples }));
            }
            0xE1 => {
                let mut segment = vec![0u8; len];
                if !fills(reader, &mut segment)? {
                    return Ok(None);
                }
                if let Some(exif) = segment.strip_prefix(EXIF) {
                    orientation = Orientation::from_exif_chunk(exif).unwrap_or(orientation);
                }
            }
            0xD9 | 0xDA => return Ok(None),
            _ => reader.seek_relative(len as i64)?,
        }
    }
}

fn fills(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<bool> {
    match reader.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}
