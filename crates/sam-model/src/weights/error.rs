//! Errors of checkpoints, worded so that the user can fix them.

use std::fmt;
use std::path::PathBuf;

use super::pth::PthError;
use super::state_dict::Dtype;
use crate::config::SamConfigError;

/// Maximum number of entries of a list in an error message.
const LISTED: usize = 12;

/// Reading or writing a checkpoint failed.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system reported an error.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The bytes are not of a known container.
    #[error("{}: not a checkpoint: {reason}", path.display())]
    NotACheckpoint {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        reason: String,
    },
    /// The file is shorter than its header declares.
    #[error(
        "{}: truncated: its header declares {expected} bytes, the file has {got}; copy or download it again",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that the header declares.
        expected: u64,
        /// Bytes of the file.
        got: u64,
    },
    /// A `.pth` could not be read.
    #[error(transparent)]
    Pth(Box<PthError>),
    /// A checkpoint of an unknown kind of model.
    #[error("{}: {what}", path.display())]
    UnknownLayout {
        /// The file.
        path: PathBuf,
        /// What it appears to be, and what is supported.
        what: String,
    },
    /// Tensors are missing, unexpected, or of another shape.
    #[error("{}: does not fit {model}:{mismatch}", path.display())]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The recognised model.
        model: String,
        /// All mismatches.
        mismatch: Box<Mismatch>,
    },
    /// The sizes inferred from the tensors contradict each other.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The contradictions.
        source: SamConfigError,
    },
    /// A tensor is not of a floating-point type.
    #[error("{}: tensor `{key}` is {dtype:?}; weights must be F32, F16, BF16 or F64", path.display())]
    NotAFloat {
        /// The file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// Its type.
        dtype: Dtype,
    },
    /// A weight is NaN or infinite, or too large for the requested data type.
    #[error("{}: tensor `{key}` holds {value}, which is not a finite weight{hint}", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        key: String,
        /// The first such value.
        value: f32,
        /// How to fix it.
        hint: &'static str,
    },
    /// A written file reads back differently.
    #[error("{}: written, but tensor `{key}` read back differs; the disk or its driver is at fault", path.display())]
    ReadBack {
        /// The file.
        path: PathBuf,
        /// The first tensor that differs.
        key: String,
    },
    /// An adapter cannot be read or written.
    #[error("{}: {what}", path.display())]
    Adapter {
        /// The folder or file.
        path: PathBuf,
        /// What was found and what was expected.
        what: String,
    },
    /// A text prompt cannot be read, or belongs to another checkpoint.
    #[error("{}: {what}", path.display())]
    TextPrompt {
        /// The file.
        path: PathBuf,
        /// What was found and what was expected.
        what: String,
    },
    /// The format does not support the request.
    #[error("{0}")]
    Unsupported(String),
}

impl From<PthError> for WeightsError {
    fn from(error: PthError) -> Self {
        WeightsError::Pth(Box::new(error))
    }
}

/// Differences between the tensors of a file and of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// In the model, not in the file: file key, shape, the nearest unused key of the file.
    pub missing: Vec<(String, Vec<usize>, Option<String>)>,
    /// In the file, not in the model: file key, shape, the nearest unfilled key of the model.
    pub extra: Vec<(String, Vec<usize>, Option<String>)>,
    /// In both, but of another shape: file key, expected, got.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl Mismatch {
    /// Whether there is no difference.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.wrong_shape.is_empty()
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nearest = |key: &Option<String>| key.as_ref().map(|key| format!(" (nearest: `{key}`)")).unwrap_or_default();
        section(f, "missing from the file", &self.missing, |(key, shape, near)| {
            format!("`{key}` {shape:?}{}", nearest(near))
        })?;
        section(f, "in the file, but unknown to the model", &self.extra, |(key, shape, near)| {
            format!("`{key}` {shape:?}{}", nearest(near))
        })?;
        section(f, "of another shape", &self.wrong_shape, |(key, expected, got)| {
            format!("`{key}`: expected {expected:?}, got {got:?}")
        })
    }
}

fn section<T>(f: &mut fmt::Formatter<'_>, title: &str, items: &[T], line: impl Fn(&T) -> String) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {} {title}:", items.len())?;
    for item in items.iter().take(LISTED) {
        write!(f, "\n    {}", line(item))?;
    }
    if items.len() > LISTED {
        write!(f, "\n    and {} more", items.len() - LISTED)?;
    }
    Ok(())
}

/// The candidate most similar to `key`, if any is similar enough.
pub(crate) fn nearest_key<'a>(key: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    const SIMILAR_ENOUGH: f64 = 0.75;
    candidates
        .map(|candidate| (strsim::normalized_levenshtein(key, candidate), candidate))
        .filter(|(similarity, _)| *similarity >= SIMILAR_ENOUGH)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.to_owned())
}
