//! The crate's error type: file, expected and actual content, and the fix.

use std::path::{Path, PathBuf};

use sam_image::ImageError;

use crate::finding::Finding;

/// An error while opening, reading or writing a data set.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// Reading or writing failed in the operating system.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's error.
        source: std::io::Error,
    },

    /// An image file that cannot be decoded.
    #[error(transparent)]
    Image(#[from] ImageError),

    /// No known format was recognised.
    #[error(
        "{path}: must hold a data set of a known format, got {found}. Looked for: {recognised_by}. Name the format if it is one of these \
         (format = \"coco\" and so on), or convert to one of them",
        path = path.display()
    )]
    UnknownFormat {
        /// The path.
        path: PathBuf,
        /// The files each format is recognised by.
        recognised_by: String,
        /// The files found.
        found: String,
    },

    /// More than one format fits.
    #[error(
        "{path}: must hold a data set of one format, got {formats}. Name one of them (format = \"...\"), or give the path of one part",
        path = path.display()
    )]
    AmbiguousFormat {
        /// The path.
        path: PathBuf,
        /// The formats, each with the file it was recognised by.
        formats: String,
    },

    /// Content that violates its format.
    #[error("{path}: {what} must be {expected}, got {got}; {fix}", path = path.display())]
    Content {
        /// The file or folder.
        path: PathBuf,
        /// The element in question.
        what: String,
        /// The requirement.
        expected: String,
        /// The actual value.
        got: String,
        /// The suggested fix.
        fix: String,
    },

    /// A JSON file that ends early or is malformed.
    #[error(
        "{path}: must be well-formed JSON, got {got} at byte {at}; export or download it again",
        path = path.display()
    )]
    JsonSyntax {
        /// The file.
        path: PathBuf,
        /// Byte offset.
        at: u64,
        /// The unexpected input.
        got: String,
    },

    /// JSON that does not match the format's schema.
    #[error("{path}: must be a {what} JSON file: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The format.
        what: &'static str,
        /// The parser's error, with line and column.
        source: serde_json::Error,
    },

    /// A `data.yaml` that cannot be read.
    #[error("{path}: must be a YOLO data.yaml: {source}", path = path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: Box<serde_saphyr::Error>,
    },

    /// A place in the cloud that cannot be reached or refuses us, or a cache on disk that cannot be written: no fault of the data, and
    /// so a stop whatever is done about bad data.
    #[error("{location}: {problem}; {fix}")]
    Cloud {
        /// The address, or the folder of the cache.
        location: String,
        /// What was expected, what came, and what was tried.
        problem: String,
        /// The suggested fix.
        fix: String,
    },

    /// Problems in the data that would silently change the result.
    #[error("{path}: {}", describe(*count, findings), path = path.display())]
    Findings {
        /// The data set.
        path: PathBuf,
        /// Number of the findings of error severity.
        count: u64,
        /// The first of them.
        findings: Vec<Finding>,
    },

    /// An invalid option.
    #[error("{key} must be {expected}, got {got}")]
    Option {
        /// Key of the option in a configuration.
        key: &'static str,
        /// The requirement.
        expected: String,
        /// The actual value.
        got: String,
    },

    /// The caller stopped the work.
    #[error("stopped; nothing is written")]
    Stopped,

    /// A part of a split without images.
    #[error(
        "the {part} part of the split must have at least one group of images, got {n_groups} in all ({n_images} images); add \
         images, or use a finer group key"
    )]
    EmptySplit {
        /// Name of the part.
        part: String,
        /// Total number of images.
        n_images: usize,
        /// Total number of groups.
        n_groups: usize,
    },

    /// A split by fractions of a data set that has parts of its own.
    #[error(
        "{path}: must be split by its own parts, {parts}: fractions of all images would train on images that are meant for \
         validation; use the given parts, or only one of them",
        path = path.display()
    )]
    OwnParts {
        /// The data set.
        path: PathBuf,
        /// Its parts with their numbers of images.
        parts: String,
    },

    /// An image could not be encoded.
    #[error("{path}: cannot encode: {source}", path = path.display())]
    Encode {
        /// The file to write.
        path: PathBuf,
        /// The encoder's error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl DataError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }

    /// Whether the data could not be looked at, which says nothing about it.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Cloud { .. })
    }
}

/// Number of findings spelt out in an error; `data check` lists the rest.
const SPELT_OUT: usize = 3;

fn describe(count: u64, findings: &[Finding]) -> String {
    let mut text =
        format!("{} problem{} that would silently change the result: ", count, if count == 1 { "" } else { "s" });
    for (at, finding) in findings.iter().take(SPELT_OUT).enumerate() {
        if at > 0 {
            text.push_str("; ");
        }
        text.push_str(&format!("{finding} ({})", finding.kind.fix()));
    }
    if count > SPELT_OUT as u64 {
        text.push_str("; ...");
    }
    text
}
