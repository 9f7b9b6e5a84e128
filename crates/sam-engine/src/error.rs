//! What can go wrong in a project.

use std::path::PathBuf;

use sam_data::DataError;
use sam_eval::EvalError;
use sam_infer::PromptError;
use sam_infer::cache::CacheError;

/// An error of a project, its images or its server.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A JSON file of the project is damaged.
    #[error("{}: must be a file of this project: {source}; restore it, or move it away", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: serde_json::Error,
    },
    /// `engine.toml` cannot be understood.
    #[error("{}: {source}", path.display())]
    Settings {
        /// The file.
        path: PathBuf,
        /// The parser's error.
        source: toml::de::Error,
    },
    /// The folder is no project, or another kind of one.
    #[error("{}: {problem}", path.display())]
    Project {
        /// The folder or file.
        path: PathBuf,
        /// What was expected, what is there, what to do.
        problem: String,
    },
    /// Another process works in the folder.
    #[error("{}: another program works here ({holder}); close it first", folder.display())]
    InUse {
        /// The project.
        folder: PathBuf,
        /// What its lock says.
        holder: String,
    },
    /// The image is another one than the one that was annotated.
    #[error(
        "{name}: the image has changed since it was annotated: {was}, now {is}; restore it, or give the new one another name"
    )]
    ImageChanged {
        /// Relative to the folder of images.
        name: String,
        /// Size and fingerprint in the annotation file.
        was: String,
        /// Size and fingerprint of the file.
        is: String,
    },
    /// A link leads out of the folder of images.
    #[error("{name}: lies outside of the folder of images; copy it there")]
    ImageOutside {
        /// Relative to the folder of images.
        name: String,
    },
    /// A request that cannot be carried out as it is.
    #[error("{0}")]
    Invalid(String),
    /// Too little is annotated to retrain a model.
    #[error("{0}")]
    TooFew(String),
    /// Evaluations cannot be compared.
    #[error(transparent)]
    Eval(Box<EvalError>),
    /// An image cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// An embedding cannot be kept.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Clicks or a box that the model cannot take.
    #[error(transparent)]
    Prompt(#[from] PromptError),
}

impl From<EvalError> for EngineError {
    fn from(error: EvalError) -> Self {
        Self::Eval(Box::new(error))
    }
}

impl EngineError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
