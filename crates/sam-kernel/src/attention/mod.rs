//! Attention that never stores all scores: in tiles, with a running softmax (Milakov 2018, arXiv 1805.02867; Dao 2022, arXiv
//! 2205.14135), and with the decomposed relative positions of SAM's encoder inside.
//!
//! Only the output and one value per query are saved for the backward pass, which recomputes the scores.
//!
//! [`GridAttention`] is the encoder's, over a grid or its windows; [`WindowAttention`] that of a TinyViT; [`CrossAttention`] is
//! everything else. All gather the rows of one head at a time for `head`, which does the work; the first two through `windows`, which
//! knows where the tokens of a window are. Where one side of a [`CrossAttention`] has few tokens, `narrow` does it all.

mod cross;
mod grid;
mod head;
mod narrow;
mod window;
mod windows;

pub use cross::{CrossAttention, CrossGrads, CrossInputs};
pub use grid::{GridAttention, GridGrads, GridInputs, TableGrads, Tables};
pub use window::{WindowAttention, WindowGrads, WindowInputs};
pub use windows::GridSizes;

/// Result of an attention.
#[derive(Clone, Debug)]
pub struct AttentionOutput {
    /// The attended values.
    pub out: Vec<f32>,
    /// For the backward pass: the logarithm of each row's sum of exponentials, but for cross attention to few keys, which says what it
    /// keeps.
    pub log_sums: Vec<f32>,
}

/// The result of an attention with its gradient, for the backward pass.
#[derive(Clone, Copy, Debug)]
pub struct OutputGrad<'a> {
    /// See [`AttentionOutput::out`].
    pub out: &'a [f32],
    /// See [`AttentionOutput::log_sums`].
    pub log_sums: &'a [f32],
    /// Gradient of `out`.
    pub d_out: &'a [f32],
}

#[cfg(test)]
mod tests;
