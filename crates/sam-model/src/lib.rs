//! The networks of Segment Anything on burn, and their weights in every published layout.
//!
//! [`SamConfig`] holds the sizes, [`Sam`] computes, [`weights`] reads and writes checkpoints, [`clip`] turns texts into
//! prompts. Knows burn; knows no data set, no loss and no configuration file. The device is always the caller's choice.
//!
//! ```
//! use burn::tensor::Device;
//! use sam_model::init::initialise;
//! use sam_model::{MaskOutput, ObjectPrompt, Prompts, Sam, SamConfig, Variant};
//!
//! let mut config = SamConfig::published(Variant::VitB);
//! let vit = config.image_encoder.vit_mut().expect("vit_b has a plain ViT");
//! (vit.image_size, vit.embed_dim, vit.depth, vit.num_heads, vit.mlp_dim) = (64, 32, 2, 2, 64);
//! (vit.window_size, vit.global_attn_indexes) = (2, vec![1]);
//! let device = Device::flex();
//! let sam = initialise(config.init(&device)?, 0);
//!
//! let image = Sam::preprocess(&[128; 48 * 64 * 3], [48, 64], 64, &device);
//! let embeddings = sam.encode(image);
//! let click = ObjectPrompt { points_xy_px: vec![([20.0, 30.0], true)], ..ObjectPrompt::default() };
//! let prompts = Prompts::from_objects(&[click], config.low_res_side(), &device);
//! let decoded = sam.decode(embeddings, &[0], &prompts, MaskOutput::Multi);
//! assert_eq!(decoded.low_res_logits.dims(), [1, 3, 16, 16]);
//! assert_eq!(decoded.iou_predictions.dims(), [1, 3]);
//! # Ok::<(), sam_model::SamConfigError>(())
//! ```

pub mod clip;
mod config;
mod decoder;
pub mod device_check;
mod encoder;
pub mod init;
pub mod lora;
mod mae;
pub mod ops;
mod preprocess;
mod prompt;
mod sam;
mod stage;
#[cfg(test)]
mod testing;
pub mod weights;

pub use config::{SamConfig, SamConfigError, Variant};
pub use decoder::{DecodedMasks, MaskDecoder, MaskDecoderConfig, MaskOutput};
pub use encoder::tiny_vit;
pub use encoder::{
    BatchNormStatistics, Block, BlockConfig, DropPath, ImageEncoder, ImageEncoderConfig, Neck, TinyVit, TinyVitConfig,
    Vit, VitConfig,
};
pub use mae::{MaeConfig, MaeTarget, MaskedAutoencoder, RandomMasking, Reconstruction, masking_noise};
pub use ops::mlp::Activation;
pub use ops::{bf16_products, int8_encoder, seed_dropout, set_bf16_products, set_int8_encoder};
pub use preprocess::{PIXEL_MEAN, PIXEL_STD, normalise_pixels};
pub use prompt::{
    MaskPrompts, Modality, ObjectPrompt, PromptEncoder, PromptEncoderConfig, Prompts, SparsePrompts, TextPrompt,
    TextPromptConfig, TextPrompts, TextVector, TokenKind,
};
pub use sam::{EncodedImages, MASK_THRESHOLD, Sam};
pub use sam_kernel::{bf16_speedup, has_bf16_products, has_int8_products, instruction_set};
pub use stage::Stage;
