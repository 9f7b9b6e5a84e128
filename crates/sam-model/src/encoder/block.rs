//! The pre-norm transformer block of SAM's image encoder, with windows and relative positions or without; the masked
//! autoencoder's blocks are the same without either.
//!
//! Shapes: `B` images, `H W` grid, `C` embedding dimension.

use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor};

use super::drop_path::DropPath;
use crate::ops::attention::{GridAttentionInputs, PositionTables, grid_attention};
use crate::ops::layer_norm::normalise;
use crate::ops::linear::{linear, linear_layer};
use crate::ops::mlp::{Activation, MlpBlock};

/// Epsilon of the encoder's layer normalisations (`build_sam.py`).
pub(crate) const ENCODER_LAYER_NORM_EPS: f64 = 1e-6;

/// Sizes of one transformer block; MAE's blocks are the same with neither window nor relative positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockConfig {
    /// Embedding dimension of the tokens.
    pub dim: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Hidden dimension of the MLP.
    pub mlp_dim: usize,
    /// Size of a window in patches; 0 for attention over the whole grid.
    pub window: usize,
    /// Size of the attended grid that the relative position tables are for; `None` without tables.
    pub rel_pos: Option<usize>,
    /// Probability of dropping either branch in training.
    pub drop_path: f64,
}

impl BlockConfig {
    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub fn init(&self, device: &Device) -> Block {
        let norm = || LayerNormConfig::new(self.dim).with_epsilon(ENCODER_LAYER_NORM_EPS).init(device);
        let table = |size: usize| Initializer::Zeros.init([2 * size - 1, self.dim / self.num_heads], device);
        Block {
            norm1: norm(),
            attn: Attention {
                qkv: linear_layer(self.dim, 3 * self.dim, device),
                proj: linear_layer(self.dim, self.dim, device),
                rel_pos_h: self.rel_pos.map(table),
                rel_pos_w: self.rel_pos.map(table),
                num_heads: self.num_heads,
            },
            norm2: norm(),
            mlp: MlpBlock::new(self.dim, self.mlp_dim, Activation::Gelu, device),
            drop_path: DropPath::new(self.drop_path),
            window: self.window,
        }
    }
}

/// Pre-norm transformer block, with or without windows.
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub norm1: LayerNorm,
    /// Self-attention.
    pub attn: Attention,
    /// Before the MLP.
    pub norm2: LayerNorm,
    /// Two layers with GELU.
    pub mlp: MlpBlock,
    /// On both branches.
    pub drop_path: DropPath,
    window: usize,
}

impl Block {
    /// # Shapes
    /// - `x`: `[B, H, W, C]`; a token sequence is a grid with `H = 1`
    /// - returns the same shape
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let attended = self.attn.forward(normalise(x.clone(), &self.norm1, ENCODER_LAYER_NORM_EPS), self.window);
        let x = x + self.drop_path.forward(attended);
        let expanded = self.mlp.forward(normalise(x.clone(), &self.norm2, ENCODER_LAYER_NORM_EPS));
        x + self.drop_path.forward(expanded)
    }
}

/// Multi-head self-attention over a grid.
#[derive(Module, Debug)]
pub struct Attention {
    /// Projects to queries, keys and values at once.
    pub qkv: Linear,
    /// Projects the concatenated heads.
    pub proj: Linear,
    /// `[2 * rows - 1, C / heads]`.
    pub rel_pos_h: Option<Param<Tensor<2>>>,
    /// `[2 * columns - 1, C / heads]`.
    pub rel_pos_w: Option<Param<Tensor<2>>>,
    num_heads: usize,
}

impl Attention {
    /// # Shapes
    /// - `x`: `[B, H, W, C]`; `window`: size of a window, 0 for the whole grid
    /// - returns the same shape
    pub fn forward(&self, x: Tensor<4>, window: usize) -> Tensor<4> {
        let qkv = linear(&self.qkv, x);
        let bias = self.qkv.bias.as_ref().expect("queries, keys and values have a bias").val();
        let tables = self.rel_pos_h.as_ref().zip(self.rel_pos_w.as_ref());
        let tables = tables.map(|(rows, columns)| PositionTables { rows: rows.val(), columns: columns.val() });
        linear(&self.proj, grid_attention(GridAttentionInputs { qkv, bias, tables, heads: self.num_heads, window }))
    }
}
