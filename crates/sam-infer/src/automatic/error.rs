//! Errors of automatic masks.

use sam_image::ImageError;

use crate::prompt::PromptError;

/// Why automatic masks could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AutomaticError {
    /// An option outside its range.
    #[error("{name} must be {expected}, got {got}")]
    Option {
        /// The option.
        name: &'static str,
        /// Its range.
        expected: String,
        /// Its value.
        got: String,
    },
    /// A threshold below the scores with which candidates were kept.
    #[error(
        "the threshold of the {what} must be at least {floor}, above which candidates were kept, got {got}; lower ones need \
         the network again"
    )]
    BelowFloor {
        /// The score.
        what: &'static str,
        /// What the candidates were kept with.
        floor: f64,
        /// The threshold.
        got: f64,
    },
    /// A network that predicts NaN or infinity.
    #[error("the model predicts an IoU of {0}; its weights or this device are unusable")]
    NotFinite(f32),
    /// An image that is too large for masks.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The decoder refuses a point.
    #[error(transparent)]
    Prompt(#[from] PromptError),
    /// Stored candidates that contradict themselves.
    #[error("stored candidates are damaged: {0}")]
    Stored(String),
}

impl AutomaticError {
    pub(super) fn option(name: &'static str, expected: String, got: impl std::fmt::Display) -> Self {
        Self::Option { name, expected, got: got.to_string() }
    }
}
