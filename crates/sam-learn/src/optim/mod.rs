//! From gradients to steps: parameter groups, clipping, learning rates, the moving average of the weights. AdamW itself is
//! [`sam_model::ops::InPlaceAdamW`].

mod average;
mod gradients;
mod groups;
mod parameters;
mod schedule;

pub use gradients::clip_by_global_norm;
pub use groups::{freeze, optimiser_and_rates};
pub use parameters::PartSize;

pub(crate) use average::averaged;
pub(crate) use gradients::scaled;
pub(crate) use groups::is_encoder_frozen;
pub(crate) use parameters::part_sizes;
