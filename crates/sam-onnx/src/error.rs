//! Errors of an export.

use std::path::PathBuf;

use sam_model::weights::WeightsError;

/// An export to ONNX failed.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// The operating system reported an error.
    #[error("{}: {source}", path.display())]
    Io {
        /// File or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The options contradict each other, or the model cannot be what they ask for.
    #[error("{0}")]
    Unsupported(String),
    /// A weight is NaN or infinite, or too large for the number type in which it is stored.
    #[error("tensor `{key}` holds {value}, which is not a finite weight{hint}")]
    NotFinite {
        /// The official key.
        key: String,
        /// The first such value.
        value: f32,
        /// How to fix it.
        hint: &'static str,
    },
    /// The weights cannot be resized or filled.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A written graph cannot be run.
    #[error("{}: nothing is replaced, as the graph does not run: {reason}", path.display())]
    DoesNotRun {
        /// The file.
        path: PathBuf,
        /// What the runtime says.
        reason: String,
    },
    /// A written graph computes something else than the network.
    #[error(
        "{}: nothing is replaced, as the output `{output}` differs from the network's by {difference:e}, where {allowed:e} is allowed",
        path.display()
    )]
    Differs {
        /// The file.
        path: PathBuf,
        /// The output.
        output: String,
        /// The largest absolute difference.
        difference: f32,
        /// The largest allowed one.
        allowed: f32,
    },
}

impl OnnxError {
    pub(crate) fn io(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// The error of a file that has been written to a temporary folder, with the place where it was to be.
    pub(crate) fn in_folder(mut self, folder: &std::path::Path) -> Self {
        if let Self::Io { path, .. } | Self::DoesNotRun { path, .. } | Self::Differs { path, .. } = &mut self {
            *path = folder.join(path.file_name().unwrap_or_default());
        }
        self
    }

    /// Whether the caller can fix it by other options or another checkpoint.
    pub fn is_bad_input(&self) -> bool {
        matches!(self, Self::Unsupported(_) | Self::NotFinite { .. } | Self::Weights(WeightsError::Unsupported(_)))
    }
}
