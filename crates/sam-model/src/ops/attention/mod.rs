//! Scaled dot-product attention in the two forms that SAM has: over a grid of tokens or its windows, with decomposed relative
//! positions (MViTv2, arXiv 2112.01526, eq. 4; `image_encoder.py::add_decomposed_rel_pos`), and between two token sequences.
//! A third, of each token to those before it, is for the texts of CLIP: at most 77 tokens, so it has no kernel. A fourth, in
//! windows with a bias per distance, is TinyViT's.
//!
//! On the CPU all but the third are kernels of `sam-kernel`, which never store all scores and compute no padding; elsewhere they are
//! matrix products and a softmax (`plain.rs`).

mod causal;
mod cross;
mod grid;
mod plain;
mod rows;
#[cfg(all(test, feature = "autodiff"))]
mod tests;
mod window;

pub(crate) use causal::causal_attention;
pub(crate) use cross::{AbsentKeys, CrossAttentionInputs, cross_attention};
pub(crate) use grid::{GridAttentionInputs, PositionTables, grid_attention};
pub use plain::relative_position;
pub(crate) use window::{WindowAttentionInputs, window_attention};
