//! Self-attention over a grid of tokens or its windows.
//!
//! Shapes: `B` images, `H W` grid, `A` heads, `C` channels per head.

use burn::tensor::Tensor;
use sam_kernel::attention::{AttentionOutput, GridAttention, GridGrads, GridInputs, GridSizes, OutputGrad, Tables};

use super::plain::{plain_grid_attention, resized};
use crate::ops::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};

/// Inputs of [`grid_attention`].
#[derive(Clone, Debug)]
pub(crate) struct GridAttentionInputs {
    /// `[B, H, W, 3 * A * C]`, queries first, not scaled.
    pub(crate) qkv: Tensor<4>,
    /// `[3 * A * C]`, the bias of the projection to `qkv`.
    pub(crate) bias: Tensor<1>,
    /// Relative positions, if any.
    pub(crate) tables: Option<PositionTables>,
    /// `A`.
    pub(crate) heads: usize,
    /// Side of a window; 0 for the whole grid.
    pub(crate) window: usize,
}

/// Relative position tables; resized where their lengths do not fit the attended grid.
#[derive(Clone, Debug)]
pub(crate) struct PositionTables {
    /// `[2 * rows - 1, C]`.
    pub(crate) rows: Tensor<2>,
    /// `[2 * columns - 1, C]`.
    pub(crate) columns: Tensor<2>,
}

/// Attention of each token of a grid to all tokens of the grid, or of its window.
///
/// As in the reference the scale applies to q·k only, and the relative terms take the unscaled queries; windows may extend
/// beyond the grid, where the bias of the projection stands for key and value.
///
/// # Shapes
/// - returns `[B, H, W, A * C]`
pub(crate) fn grid_attention(inputs: GridAttentionInputs) -> Tensor<4> {
    let GridAttentionInputs { qkv, bias, tables, heads, window } = inputs;
    let [_, height, width, _] = qkv.dims();
    let [rows, columns] = if window == 0 { [height, width] } else { [window; 2] };
    let tables = tables
        .map(|tables| PositionTables { rows: resized(tables.rows, rows), columns: resized(tables.columns, columns) });
    if !is_fusible(&qkv) {
        return plain_grid_attention(GridAttentionInputs { qkv, bias, tables, heads, window });
    }
    let kernel = GridAttention(sizes(&qkv, heads, window));
    let (qkv, bias) = (qkv.into_dispatch(), bias.into_dispatch());
    match tables {
        Some(PositionTables { rows, columns }) => {
            fused(kernel, [qkv, bias, rows.into_dispatch(), columns.into_dispatch()])
        }
        None => fused(kernel, [qkv, bias]),
    }
}

/// Without relative positions.
impl SliceOperation<2> for GridAttention {
    fn saves_output(&self) -> bool {
        true
    }

    fn forward(&self, [qkv, bias]: [&[f32]; 2]) -> SliceOutput {
        output(self.0, GridAttention::forward(self, GridInputs { qkv, bias, tables: None }))
    }

    fn backward(&self, pass: BackwardInputs<'_, 2>) -> [Vec<f32>; 2] {
        let [qkv, bias] = pass.inputs;
        let grads = GridAttention::backward(self, GridInputs { qkv, bias, tables: None }, pass.into());
        [grads.qkv, grads.bias]
    }
}

/// With relative positions.
impl SliceOperation<4> for GridAttention {
    fn saves_output(&self) -> bool {
        true
    }

    fn forward(&self, [qkv, bias, rows, columns]: [&[f32]; 4]) -> SliceOutput {
        output(self.0, GridAttention::forward(self, GridInputs { qkv, bias, tables: Some(Tables { rows, columns }) }))
    }

    fn backward(&self, pass: BackwardInputs<'_, 4>) -> [Vec<f32>; 4] {
        let [qkv, bias, rows, columns] = pass.inputs;
        let inputs = GridInputs { qkv, bias, tables: Some(Tables { rows, columns }) };
        let GridGrads { qkv, bias, tables } = GridAttention::backward(self, inputs, pass.into());
        let tables = tables.expect("given tables have gradients");
        [qkv, bias, tables.rows, tables.columns]
    }
}

/// Sizes of a self-attention with these queries, keys and values, `[B, H, W, 3 * A * C]`.
pub(super) fn sizes(qkv: &Tensor<4>, heads: usize, window: usize) -> GridSizes {
    let [images, height, width, values] = qkv.dims();
    GridSizes { images, grid: [height, width], heads, channels: values / (3 * heads), window }
}

pub(super) fn output(sizes: GridSizes, AttentionOutput { out, log_sums }: AttentionOutput) -> SliceOutput {
    let [height, width] = sizes.grid;
    let shape = vec![sizes.images, height, width, sizes.heads * sizes.channels];
    SliceOutput { values: out, shape, saved: log_sums }
}

impl<'a, const N: usize> From<BackwardInputs<'a, N>> for OutputGrad<'a> {
    fn from(pass: BackwardInputs<'a, N>) -> Self {
        Self { out: pass.output, log_sums: pass.saved, d_out: pass.d_output }
    }
}
