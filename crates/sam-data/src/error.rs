//! The one error type of the crate: which file, what was expected, what came, and what to do about it.

use std::path::{Path, PathBuf};

use sam_image::ImageError;

use crate::finding::Finding;

/// Why a data set could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DataError {
    /// The operating system could not read or write.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },

    /// An image file that gives no pixels.
    #[error(transparent)]
    Image(#[from] ImageError),

    /// Nothing that we know was found.
    #[error(
        "{path}: must hold a data set of a known format, got {found}. Looked for: {looked_for}. Name the format if it is one of these \
         (format = \"coco\" and so on), or convert to one of them",
        path = path.display()
    )]
    UnknownFormat {
        /// What was looked at.
        path: PathBuf,
        /// What each format is known by.
        looked_for: String,
        /// What is there.
        found: String,
    },

    /// More than one format fits.
    #[error(
        "{path}: must hold a data set of one format, got {formats}. Name one of them (format = \"...\"), or give the path of one part",
        path = path.display()
    )]
    AmbiguousFormat {
        /// What was looked at.
        path: PathBuf,
        /// The formats, each with what it was recognised by.
        formats: String,
    },

    /// Content that is not as its format says.
    #[error("{path}: {what} must be {expected}, got {got}; {fix}", path = path.display())]
    Content {
        /// The file or folder.
        path: PathBuf,
        /// The part of it.
        what: String,
        /// The rule.
        expected: String,
        /// What came.
        got: String,
        /// What to do about it.
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
        /// Where in it.
        at: u64,
        /// What came there.
        got: String,
    },

    /// JSON whose fields are not those of the format.
    #[error("{path}: must be a {what} JSON file: {source}", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The format.
        what: &'static str,
        /// The parser's reason, with line and column.
        source: serde_json::Error,
    },

    /// A `data.yaml` that cannot be read.
    #[error("{path}: must be a YOLO data.yaml: {source}", path = path.display())]
    Yaml {
        /// The file.
        path: PathBuf,
        /// The parser's reason.
        source: Box<serde_saphyr::Error>,
    },

    /// Something is wrong with the data that must not be passed over in silence.
    #[error("{path}: {}", describe(findings), path = path.display())]
    Findings {
        /// The data set.
        path: PathBuf,
        /// All that was found; errors only.
        findings: Vec<Finding>,
    },

    /// An option that does not fit the data set.
    #[error("{key} must be {expected}, got {got}")]
    Option {
        /// The key as it is typed in a config.
        key: &'static str,
        /// The rule.
        expected: String,
        /// What came.
        got: String,
    },

    /// A part of a split without any image.
    #[error(
        "the {part} part of the split must have at least one image, got none of {n_images} images in {n_groups} groups; \
         use another seed, a larger share, or a finer group key"
    )]
    EmptySplit {
        /// The part.
        part: String,
        /// Images in all.
        n_images: usize,
        /// Groups in all.
        n_groups: usize,
    },

    /// A picture could not be encoded.
    #[error("{path}: cannot encode: {source}", path = path.display())]
    Encode {
        /// The file to write.
        path: PathBuf,
        /// The encoder's reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl DataError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_path_buf(), source }
    }
}

/// How many findings are spelt out in an error; the rest is for `data check`.
const SPELT_OUT: usize = 3;

fn describe(findings: &[Finding]) -> String {
    let mut text = format!(
        "{} problem{} that must not be passed over in silence: ",
        findings.len(),
        if findings.len() == 1 { "" } else { "s" }
    );
    for (at, finding) in findings.iter().take(SPELT_OUT).enumerate() {
        if at > 0 {
            text.push_str("; ");
        }
        text.push_str(&format!("{finding} ({})", finding.kind.fix()));
    }
    if findings.len() > SPELT_OUT {
        text.push_str("; ...");
    }
    text.push_str(
        ". `sam-train data check` lists all; `--drop-bad` (bad = \"drop\" in a config) leaves them out and counts them",
    );
    text
}
