//! The networks of Segment Anything on burn, and their weights in every published layout.
//!
//! [`SamConfig`] names the sizes, [`Sam`] computes, [`weights`] reads and writes checkpoints. Knows burn; knows no data
//! set, no loss and no configuration file. The device is always the caller's choice.

mod config;
mod decoder;
mod encoder;
pub mod init;
mod mae;
pub mod ops;
mod preprocess;
mod prompt;
mod sam;
mod stage;
pub mod weights;

pub use config::{SamConfig, SamConfigError, Variant};
pub use decoder::{DecodedMasks, MaskDecoder, MaskDecoderConfig, MaskOutput};
pub use encoder::{Block, BlockConfig, DropPath, ImageEncoder, ImageEncoderConfig};
pub use mae::{MaeConfig, MaeTarget, MaskedAutoencoder, RandomMasking, Reconstruction, masking_noise};
pub use preprocess::{PIXEL_MEAN, PIXEL_STD, normalise_pixels};
pub use prompt::{MaskPrompts, ObjectPrompt, PromptEncoder, PromptEncoderConfig, Prompts, SparsePrompts, TokenKind};
pub use sam::{EncodedImages, MASK_THRESHOLD, Sam};
pub use stage::Stage;
