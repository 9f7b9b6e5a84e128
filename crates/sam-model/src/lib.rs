//! The networks of Segment Anything on burn, and their weights in every published layout.
//!
//! [`SamConfig`] names the sizes, [`Sam`] computes, [`weights`] reads and writes checkpoints. Knows burn; knows no data
//! set, no loss and no configuration file. The device is always the caller's choice.

pub mod attention;
pub mod drop_path;
pub mod fingerprint;
pub mod fused;
pub mod image_encoder;
pub mod init;
pub mod layer_norm;
pub mod mae;
pub mod mask_decoder;
pub mod mlp;
pub mod patch_conv;
pub mod plain_attention;
pub mod prompt_encoder;
pub mod resize;
pub mod sam;
pub mod shared_rows;
pub mod stage;
pub mod two_way_transformer;
pub mod weights;

pub use image_encoder::{ImageEncoder, ImageEncoderConfig};
pub use mae::{MaeConfig, MaeTarget, MaskedAutoencoder, RandomMasking, Reconstruction};
pub use mask_decoder::{DecodedMasks, MaskDecoder, MaskDecoderConfig, MaskOutput};
pub use prompt_encoder::{
    MaskPrompts, ObjectPrompt, PromptEncoder, PromptEncoderConfig, Prompts, SparsePrompts, TokenKind,
};
pub use sam::{MASK_THRESHOLD, PIXEL_MEAN, PIXEL_STD, Sam, SamConfig, SamConfigError, Variant};
