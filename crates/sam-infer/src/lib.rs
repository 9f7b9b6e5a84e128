//! Prompts in, masks out: what a program that deploys SAM depends on.
//!
//! [`Predictor`] embeds images once and answers any number of prompts, in pixels of the original image. No gradients and
//! no training anywhere in this crate's dependencies.

pub mod device;
pub mod embedding;
pub mod predictor;
pub mod prompt;

pub use device::{DeviceError, DeviceName};
pub use embedding::{EmbeddingError, ImageEmbedding, picture_fingerprint};
pub use predictor::{Prediction, Predictor, most_confident};
pub use prompt::{Prompt, PromptError};
pub use sam_model::{MASK_THRESHOLD, MaskOutput};
