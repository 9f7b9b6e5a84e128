//! The one error type of the crate: what was read, what was expected, what came, and what to do about it.

use std::path::PathBuf;

/// Why a file could not become pixels, or why bytes could not become a mask.
///
/// `name` is the path, or for bytes from an archive whatever the caller called them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The operating system could not read or write the file.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// The first bytes are no image format that we know.
    #[error(
        "{name}: must be a JPEG, PNG, TIFF, BMP or WebP image, got content of no known format ({n_bytes} bytes, \
         starting with {head}); is it a complete download?"
    )]
    UnknownFormat {
        /// The file.
        name: String,
        /// How many bytes there were.
        n_bytes: usize,
        /// The first bytes, as hexadecimal digits or as text.
        head: String,
    },

    /// An image format that is known by its first bytes but not read here.
    #[error("{name}: must be a JPEG, PNG, TIFF, BMP or WebP image, got {format}; convert it to PNG first")]
    UnsupportedFormat {
        /// The file.
        name: String,
        /// The format that the content has.
        format: String,
    },

    /// Pixels without one obvious 8-bit meaning: float, 32-bit integers, unusual channel layouts.
    #[error(
        "{name}: pixels must be 8- or 16-bit integers (not float) in 1, 3 or 4 channels, got a {format} that the decoder \
         refuses ({detail}); export it as 8-bit RGB with an intensity window of your choice (for example percentiles 1 to 99.8)"
    )]
    PixelKind {
        /// The file.
        name: String,
        /// The format of the content.
        format: String,
        /// The decoder's own words.
        detail: String,
    },

    /// More pixels than [`crate::decode::MAX_PIXELS`]: a decompression bomb, or a picture to be cut into tiles.
    #[error(
        "{name}: must have at most {limit} pixels, got {height} x {width} (height x width); cut it into tiles first",
        height = size_hw[0], width = size_hw[1]
    )]
    TooLarge {
        /// The file.
        name: String,
        /// The size that the header declares.
        size_hw: [usize; 2],
        /// The most pixels that are allowed.
        limit: u64,
    },

    /// A height or a width of zero.
    #[error(
        "{name}: height and width must be at least 1 px, got {height} x {width}",
        height = size_hw[0], width = size_hw[1]
    )]
    EmptyImage {
        /// The file.
        name: String,
        /// The size that the header declares.
        size_hw: [usize; 2],
    },

    /// A JPEG without its end marker. The decoder would fill the missing rows with grey.
    #[error("{name}: the JPEG stops before its end marker ({n_bytes} bytes); the file is cut off, fetch it again")]
    TruncatedJpeg {
        /// The file.
        name: String,
        /// How many bytes there were.
        n_bytes: usize,
    },

    /// The decoder found the content damaged.
    #[error("{name}: cannot decode the {format} content: {source}")]
    Decode {
        /// The file.
        name: String,
        /// The format that the content has; said too when the extension promises another one.
        format: String,
        /// The decoder's reason.
        source: Box<image::ImageError>,
    },

    /// The decoder gave up in a way that it should not have; the file is still to blame first.
    #[error("{name}: the {format} decoder panicked; the file is probably damaged")]
    DecoderPanicked {
        /// The file.
        name: String,
        /// The format that the content has.
        format: String,
    },

    /// A picture could not be encoded.
    #[error("{path}: cannot encode: {source}", path = path.display())]
    Encode {
        /// The file to write.
        path: PathBuf,
        /// The encoder's reason.
        source: Box<image::ImageError>,
    },

    /// The number of pixels is not height x width.
    #[error(
        "a mask of {height} x {width} (height x width) must have {expected} pixels, got {got}",
        height = size_hw[0], width = size_hw[1]
    )]
    MaskLength {
        /// The declared size.
        size_hw: [usize; 2],
        /// Height x width.
        expected: usize,
        /// How many pixels came.
        got: usize,
    },

    /// More pixels than any image may have, so no mask of an image.
    #[error(
        "a mask must have at most {limit} pixels, got {height} x {width} (height x width)",
        height = size_hw[0], width = size_hw[1]
    )]
    MaskTooLarge {
        /// The declared size.
        size_hw: [usize; 2],
        /// The most pixels that are allowed.
        limit: u64,
    },

    /// Two masks that belong to images of different sizes.
    #[error(
        "masks must have one size, got {} x {} and {} x {} (height x width)",
        expected_hw[0], expected_hw[1], got_hw[0], got_hw[1]
    )]
    SizeMismatch {
        /// Size of the first mask.
        expected_hw: [usize; 2],
        /// Size of the mask that differs.
        got_hw: [usize; 2],
    },

    /// A union or an intersection of nothing has no size.
    #[error("masks to merge must be at least one, got none")]
    NothingToMerge,

    /// Runs that do not fill the mask.
    #[error(
        "RLE runs must sum to height x width = {height} x {width} = {expected}, got {got}; the size of another image?",
        height = size_hw[0], width = size_hw[1]
    )]
    RleSum {
        /// The declared size.
        size_hw: [usize; 2],
        /// Height x width.
        expected: u64,
        /// Sum of the runs, as far as it was counted.
        got: u64,
    },

    /// A character that COCO's compressed RLE does not use.
    #[error("compressed RLE must use the characters '0' to 'o' (48 to 111), got byte {byte} at position {at}")]
    RleByte {
        /// Position in the string.
        at: usize,
        /// The character.
        byte: u8,
    },

    /// A compressed RLE that stops in the middle of a number.
    #[error("compressed RLE stops in the middle of a run after {n_bytes} bytes; the string is cut off")]
    RleTruncated {
        /// Length of the string.
        n_bytes: usize,
    },

    /// A run that is negative or longer than any mask.
    #[error("RLE run {index} must be between 0 and {limit}, got {got}")]
    RleRun {
        /// Index of the run.
        index: usize,
        /// The longest run that is allowed.
        limit: u64,
        /// The run, as far as it was read.
        got: i64,
    },

    /// A flat list of coordinates without a last y.
    #[error("a polygon must be a flat list x1, y1, x2, y2, ... of even length, got {got} numbers")]
    PolygonLength {
        /// How many numbers there were.
        got: usize,
    },

    /// A coordinate that is not a number, or far from any image.
    #[error("polygon coordinates must be finite and within {limit:e} pixels, got {got} at position {at}")]
    PolygonCoordinate {
        /// Position in the flat list.
        at: usize,
        /// The coordinate.
        got: f64,
        /// The largest magnitude that is allowed.
        limit: f64,
    },

    /// One flag per ground-truth mask is needed.
    #[error("crowd flags must be one per ground-truth mask ({expected}), got {got}")]
    CrowdFlags {
        /// How many ground-truth masks there are.
        expected: usize,
        /// How many flags came.
        got: usize,
    },
}
