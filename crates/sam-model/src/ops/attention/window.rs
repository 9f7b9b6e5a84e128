//! Self-attention in windows of a grid, with a bias per head and per distance of rows and columns (LeViT, arXiv 2104.01136;
//! TinyViT).
//!
//! Shapes: `B` images, `H W` grid, `A` heads, `C` channels per head, `W` side of a window, `N` its cells.

use burn::tensor::{Int, Tensor, TensorData};
use sam_kernel::attention::{WindowAttention, WindowGrads, WindowInputs};

use crate::ops::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};

use super::grid::{output, sizes};
use super::plain::{plain_attention_with_terms, window_partition, window_unpartition};

/// Inputs of [`window_attention`].
#[derive(Clone, Debug)]
pub(crate) struct WindowAttentionInputs {
    /// `[B, H, W, 3 * A * C]`, for each head its query, its key and its value; not scaled.
    pub(crate) qkv: Tensor<4>,
    /// `[3 * A * C]`, the same of cells outside of the grid, which take part as keys.
    pub(crate) padding: Tensor<1>,
    /// `[A, W * W]`, by `|dy| * W + |dx|`.
    pub(crate) biases: Tensor<2>,
    /// `W`.
    pub(crate) window: usize,
}

/// Attention of each token to all tokens of its window.
///
/// # Shapes
/// - returns `[B, H, W, A * C]`
pub(crate) fn window_attention(inputs: WindowAttentionInputs) -> Tensor<4> {
    if !is_fusible(&inputs.qkv) {
        return plain_window_attention(inputs);
    }
    let WindowAttentionInputs { qkv, padding, biases, window } = inputs;
    let [heads, _] = biases.dims();
    let kernel = WindowAttention(sizes(&qkv, heads, window));
    fused(kernel, [qkv.into_dispatch(), padding.into_dispatch(), biases.into_dispatch()])
}

impl SliceOperation<3> for WindowAttention {
    fn saves_output(&self) -> bool {
        true
    }

    fn forward(&self, [qkv, padding, biases]: [&[f32]; 3]) -> SliceOutput {
        output(self.0, WindowAttention::forward(self, WindowInputs { qkv, padding, biases }))
    }

    fn backward(&self, pass: BackwardInputs<'_, 3>) -> [Vec<f32>; 3] {
        let [qkv, padding, biases] = pass.inputs;
        let inputs = WindowInputs { qkv, padding, biases };
        let WindowGrads { qkv, padding, biases } = WindowAttention::backward(self, inputs, pass.into());
        [qkv, padding, biases]
    }
}

/// [`window_attention`] in burn's operations.
pub(super) fn plain_window_attention(inputs: WindowAttentionInputs) -> Tensor<4> {
    let WindowAttentionInputs { qkv, padding, biases, window } = inputs;
    let [_, height, width, values] = qkv.dims();
    let [heads, _] = biases.dims();
    let (tokens, channels) = (window * window, values / (3 * heads));
    let windows = window_partition(qkv, &padding, window);
    let [batch, ..] = windows.dims();
    let qkv = windows.reshape([batch, tokens, heads, 3, channels]).permute([3, 0, 2, 1, 4]); // [3, B, A, N, C]
    let part = |index: usize| qkv.clone().narrow(0, index, 1).squeeze_dim::<4>(0);
    let (q, k, v) = (part(0) * (channels as f64).powf(-0.5), part(1), part(2));
    let index = TensorData::new(distances(window), [tokens * tokens]);
    let index = Tensor::<1, Int>::from_data(index, &biases.device());
    let terms = biases.select(1, index).reshape([1, heads, tokens, tokens]);
    let attended = plain_attention_with_terms([q, k, v], terms);
    let attended = attended.swap_dims(1, 2).reshape([batch, window, window, heads * channels]);
    window_unpartition(attended, window, [height, width])
}

/// For each pair of cells of a window, row-major, the place of its bias.
fn distances(window: usize) -> Vec<i64> {
    let cells = || (0..window * window).map(|cell| (cell / window, cell % window));
    let place = |(row, column): (usize, usize), (key_row, key_column): (usize, usize)| {
        (row.abs_diff(key_row) * window + column.abs_diff(key_column)) as i64
    };
    cells().flat_map(|query| cells().map(move |key| place(query, key))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reference numbers distances by their first occurrence among the pairs, row-major.
    #[test]
    fn biases_are_numbered_by_first_occurrence() {
        for window in [1, 2, 7] {
            let mut seen: Vec<(usize, usize)> = Vec::new();
            let cells = || (0..window * window).map(|cell| (cell / window, cell % window));
            let pairs = cells().flat_map(|a: (usize, usize)| cells().map(move |b: (usize, usize)| (a, b)));
            let expected: Vec<i64> = pairs
                .map(|(a, b)| {
                    let distance = (a.0.abs_diff(b.0), a.1.abs_diff(b.1));
                    let place = seen.iter().position(|&other| other == distance).unwrap_or_else(|| {
                        seen.push(distance);
                        seen.len() - 1
                    });
                    place as i64
                })
                .collect();
            assert_eq!(distances(window), expected, "window {window}");
        }
    }
}
