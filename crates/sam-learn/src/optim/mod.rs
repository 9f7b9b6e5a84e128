//! What learns: adapters and frozen parameters. From gradients to steps: parameter groups, clipping, learning rates, the moving
//! average of the weights. AdamW itself is [`sam_model::ops::InPlaceAdamW`].

mod average;
mod gradients;
mod groups;
mod learning;
mod lora;
mod parameters;
mod patterns;
mod schedule;

pub use gradients::clip_by_global_norm;
pub use groups::{EncoderLayers, optimiser_and_rates};
pub use learning::choose_learning;
pub use lora::adapt;
pub use parameters::PartSize;

pub(crate) use average::{Decay, averaged};
pub(crate) use gradients::scaled;
pub(crate) use learning::{is_encoder_frozen, learned_keys};
pub(crate) use parameters::part_sizes;
