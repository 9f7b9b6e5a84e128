//! The error type of the crate: names the file, the expectation, the value found, and a remedy.

use std::path::PathBuf;

/// Why an image could not be read or written, or why a mask is invalid.
///
/// `name` is the path, or the name that the caller gave to bytes in memory.
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

    /// An unknown image format.
    #[error(
        "{name}: must be a JPEG, PNG, TIFF, BMP or WebP image, got content of no known format ({n_bytes} bytes, \
         starting with {head}); is it a complete download?"
    )]
    UnknownFormat {
        /// The file.
        name: String,
        /// Number of bytes.
        n_bytes: usize,
        /// The first bytes, as hexadecimal digits or as text.
        head: String,
    },

    /// A known image format that is not supported.
    #[error("{name}: must be a JPEG, PNG, TIFF, BMP or WebP image, got {format}; convert it to PNG first")]
    UnsupportedFormat {
        /// The file.
        name: String,
        /// The format of the content.
        format: String,
    },

    /// Pixels without one obvious 8-bit meaning: float, 32-bit integers, unusual channel layouts.
    #[error(
        "{name}: pixels must be 8- or 16-bit integers (not float) in 1, 3 or 4 channels, got a {format} that the decoder \
         rejects ({detail}); export it as 8-bit RGB with an intensity window of your choice (for example percentiles 1 to 99.8)"
    )]
    PixelKind {
        /// The file.
        name: String,
        /// The format of the content.
        format: String,
        /// The decoder's reason.
        detail: String,
    },

    /// More pixels than the limit: a decompression bomb, or an image that must be tiled.
    #[error(
        "{name}: must have at most {limit} pixels (max_pixels), got {height} x {width} (height x width), which are \
         {n_pixels}; cut it into tiles, or raise max_pixels if its origin is trusted",
        height = size_hw[0], width = size_hw[1]
    )]
    TooLarge {
        /// The file.
        name: String,
        /// The declared size.
        size_hw: [usize; 2],
        /// Height x width.
        n_pixels: u64,
        /// The limit.
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
        /// The declared size.
        size_hw: [usize; 2],
    },

    /// A JPEG without its end marker. The decoder would fill the missing rows with grey.
    #[error("{name}: the JPEG stops before its end marker ({n_bytes} bytes); the file is truncated, download it again")]
    TruncatedJpeg {
        /// The file.
        name: String,
        /// Number of bytes.
        n_bytes: usize,
    },

    /// The content is damaged.
    #[error("{name}: cannot decode the {format} content: {source}")]
    Decode {
        /// The file.
        name: String,
        /// The format of the content, with a note if the extension names another one.
        format: String,
        /// The decoder's reason.
        source: Box<image::ImageError>,
    },

    /// The decoder panicked, most likely on a damaged file.
    #[error("{name}: the {format} decoder panicked; the file is probably damaged")]
    DecoderPanicked {
        /// The file.
        name: String,
        /// The format of the content.
        format: String,
    },

    /// An image could not be encoded.
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
        /// Number of pixels.
        got: usize,
    },

    /// More pixels than any image may have.
    #[error(
        "a mask must have at most {limit} pixels, got {height} x {width} (height x width)",
        height = size_hw[0], width = size_hw[1]
    )]
    MaskTooLarge {
        /// The declared size.
        size_hw: [usize; 2],
        /// The limit.
        limit: u64,
    },

    /// Masks of different sizes.
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

    /// A union or intersection of no masks.
    #[error("a merge needs at least one mask, got none")]
    NothingToMerge,

    /// Runs whose sum is not the size of the mask.
    #[error(
        "RLE runs must sum to height x width = {height} x {width} = {expected}, got {got}; is it the size of another image?",
        height = size_hw[0], width = size_hw[1]
    )]
    RleSum {
        /// The declared size.
        size_hw: [usize; 2],
        /// Height x width.
        expected: u64,
        /// Sum of the runs, up to the first excess.
        got: u64,
    },

    /// An invalid character in a compressed RLE.
    #[error("compressed RLE must use the characters '0' to 'o' (48 to 111), got byte {byte} at position {at}")]
    RleByte {
        /// Position in the string.
        at: usize,
        /// The character.
        byte: u8,
    },

    /// A compressed RLE that ends within a number.
    #[error("compressed RLE ends within a run after {n_bytes} bytes; the string is truncated")]
    RleTruncated {
        /// Length of the string.
        n_bytes: usize,
    },

    /// A run that is negative or longer than any mask.
    #[error("RLE run {index} must be between 0 and {limit}, got {got}")]
    RleRun {
        /// Index of the run.
        index: usize,
        /// The limit.
        limit: u64,
        /// The run, up to the invalid part.
        got: i64,
    },

    /// A flat list of coordinates of odd length.
    #[error("a polygon must be a flat list x1, y1, x2, y2, ... of even length, got {got} numbers")]
    PolygonLength {
        /// Number of values.
        got: usize,
    },

    /// A coordinate that is not finite or too large.
    #[error("polygon coordinates must be finite and within {limit:e} pixels, got {got} at position {at}")]
    PolygonCoordinate {
        /// Position in the flat list.
        at: usize,
        /// The coordinate.
        got: f64,
        /// The limit.
        limit: f64,
    },

    /// More masks than a label image can number.
    #[error("a label image of 16 bits holds at most {limit} masks; write run lengths instead")]
    TooManyLabels {
        /// The limit.
        limit: usize,
    },
    /// The number of crowd flags is not the number of ground-truth masks.
    #[error("crowd flags must be one per ground-truth mask ({expected}), got {got}")]
    CrowdFlags {
        /// Number of ground-truth masks.
        expected: usize,
        /// Number of flags.
        got: usize,
    },
}
