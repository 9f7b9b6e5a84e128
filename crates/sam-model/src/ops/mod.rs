//! Operations of our own beside burn's, and the layers that hold their parameters: one file per operation.
//!
//! Each operation stands beside its plain form in burn's operations and its kernels for particular devices. Which of them
//! runs is decided here and nowhere else: another device's kernel is one more arm in the file of its operation.

#[cfg(feature = "autodiff")]
mod adamw;
pub(crate) mod attention;
pub(crate) mod convolution;
pub(crate) mod dropout;
mod fused;
pub(crate) mod gelu;
pub(crate) mod layer_norm;
pub(crate) mod linear;
pub(crate) mod mask_head;
mod mask_sums;
pub(crate) mod mlp;
pub(crate) mod patch_conv;
pub(crate) mod products;
mod resize;
pub(crate) mod shared_rows;
mod sum_of_squares;

#[cfg(feature = "autodiff")]
pub use adamw::InPlaceAdamW;
pub use attention::relative_position;
pub use dropout::seed_dropout;
pub use mask_sums::{MaskSums, MaskSumsInputs, mask_sums};
pub use products::{bf16_products, int8_encoder, set_bf16_products, set_int8_encoder};
pub use resize::linear_resize_weights;
pub use sum_of_squares::{SumOfSquares, sum_of_squares};

use burn::tensor::Tensor;

/// The number of objects to process together on the device of `x`, so that at most `max_values` values of their maps exist
/// at once. The CPU is faster while maps stay in caches; other devices take all objects together.
pub(crate) fn objects_at_once<const D: usize>(x: &Tensor<D>, values_per_object: usize, max_values: usize) -> usize {
    if fused::is_fusible(x) { (max_values / values_per_object).max(1) } else { usize::MAX }
}
