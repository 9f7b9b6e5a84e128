//! Inference with SAM: images and prompts in, masks out. This is the crate that a deploying program depends on.
//!
//! [`Predictor`] embeds an image once and then decodes any number of prompts on it, in pixels of the original image.
//! No gradients and no training anywhere in this crate's dependencies.
//!
//! ```
//! use sam_infer::{DeviceName, MaskOutput, Predictor, Prompt};
//! # use std::path::Path;
//! # use sam_image::RgbImage;
//! # let checkpoint = Path::new("../../tests/fixtures/tiny_sam.safetensors");
//! # let image = RgbImage::new(60, 40);
//!
//! let device = DeviceName::Cpu.open()?;
//! let (predictor, _report) = Predictor::from_checkpoint(checkpoint, &device)?;
//!
//! let embedding = predictor.embed(&image);
//! let click = Prompt { points_xy_px: vec![([30.0, 20.0], true)], ..Prompt::default() };
//! // One click is ambiguous: three masks, from the smallest part to the whole.
//! let prediction = predictor.predict(&embedding, &click, MaskOutput::Multi)?;
//!
//! let best = prediction.best();
//! let mask = &prediction.masks()[best];
//! assert_eq!(mask.size_hw(), [40, 60]);
//! println!("{} px, predicted IoU {:.2}", mask.area_px(), prediction.iou_predictions[best]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod automatic;
pub mod cache;
pub mod clip;
mod device;
mod embedding;
#[cfg(any(feature = "cuda", feature = "vulkan", feature = "wgpu"))]
mod kernel_cache;
mod latent;
mod precision;
mod predictor;
mod prompt;

pub use device::{DeviceError, DeviceName};
pub use embedding::{EmbeddingError, ImageEmbedding};
pub use precision::{Precision, PrecisionInUse};
pub use predictor::{Prediction, Predictor, most_confident};
pub use prompt::{Prompt, PromptError, mask_as_logits};
pub use sam_image::image_fingerprint;
pub use sam_model::{MASK_THRESHOLD, MaskOutput, Modality, TextVector};
