//! The pre-norm transformer block of SAM's image encoder, with windows and relative positions or without; the blocks of the
//! masked autoencoder and of both towers of CLIP are the same without either.
//!
//! Shapes: `B` images, `H W` grid, `N` tokens of a sequence, `C` embedding dimension.

use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor};

use super::drop_path::DropPath;
use crate::ops::attention::{
    AbsentKeys, CrossAttentionInputs, GridAttentionInputs, PositionTables, causal_attention, cross_attention,
    grid_attention,
};
use crate::ops::int8_encoder;
use crate::ops::layer_norm::normalise;
use crate::ops::linear::{LayerPrecision, linear, linear_in, linear_layer};
use crate::ops::mlp::{Activation, MlpBlock};
use crate::ops::shared_rows::Rows;

/// Epsilon of the encoder's layer normalisations (`build_sam.py`).
pub(crate) const ENCODER_LAYER_NORM_EPS: f64 = 1e-6;

/// Sizes of one transformer block.
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
    /// Between the layers of the MLP.
    pub activation: Activation,
    /// Epsilon of the norms.
    pub norm_eps: f64,
}

impl BlockConfig {
    /// A block with SAM's GELU and epsilon, without windows, relative positions and drop path.
    pub fn new(dim: usize, num_heads: usize, mlp_dim: usize) -> Self {
        Self {
            dim,
            num_heads,
            mlp_dim,
            window: 0,
            rel_pos: None,
            drop_path: 0.0,
            activation: Activation::Gelu,
            norm_eps: ENCODER_LAYER_NORM_EPS,
        }
    }

    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub fn init(&self, device: &Device) -> Block {
        let norm = || LayerNormConfig::new(self.dim).with_epsilon(self.norm_eps).init(device);
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
            mlp: MlpBlock::new(self.dim, self.mlp_dim, self.activation, device),
            drop_path: DropPath::new(self.drop_path),
            window: self.window,
            norm_eps: self.norm_eps,
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
    /// Two layers.
    pub mlp: MlpBlock,
    /// On both branches.
    pub drop_path: DropPath,
    window: usize,
    norm_eps: f64,
}

impl Block {
    /// # Shapes
    /// - `x`: `[B, H, W, C]`; a token sequence is a grid with `H = 1`
    /// - returns the same shape
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let attended = self.attn.forward(normalise(x.clone(), &self.norm1, self.norm_eps), self.window);
        let x = x + self.drop_path.forward(attended);
        let expanded = self.mlp.forward_in(normalise(x.clone(), &self.norm2, self.norm_eps), self.attn.precision());
        x + self.drop_path.forward(expanded)
    }

    /// Token sequences whose tokens attend to themselves and those before them; without drop path, for inference.
    ///
    /// # Shapes
    /// - `x`: `[B, N, C]`
    /// - returns the same shape
    pub(crate) fn forward_causal(&self, x: Tensor<3>) -> Tensor<3> {
        let attended = self.attn.forward_causal(normalise(x.clone(), &self.norm1, self.norm_eps));
        self.add_mlp(x + attended)
    }

    /// The first token's row of a whole block, all that its readers need of CLIP's last one; without drop path, for
    /// inference.
    ///
    /// # Shapes
    /// - `x`: `[B, N, C]`; `absent`: `[B, N]`, the tokens that the first does not attend to, if any
    /// - returns `[B, 1, C]`
    pub(crate) fn forward_first(&self, x: Tensor<3>, absent: Option<AbsentKeys>) -> Tensor<3> {
        let attended = self.attn.forward_first(normalise(x.clone(), &self.norm1, self.norm_eps), absent);
        self.add_mlp(x.narrow(1, 0, 1) + attended)
    }

    fn add_mlp(&self, x: Tensor<3>) -> Tensor<3> {
        let expanded = self.mlp.forward(normalise(x.clone(), &self.norm2, self.norm_eps));
        x + expanded
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
        let precision = self.precision();
        let qkv = linear_in(&self.qkv, x, precision);
        let bias = self.qkv.bias.as_ref().expect("queries, keys and values have a bias").val();
        let tables = self.rel_pos_h.as_ref().zip(self.rel_pos_w.as_ref());
        let tables = tables.map(|(rows, columns)| PositionTables { rows: rows.val(), columns: columns.val() });
        let attended = grid_attention(GridAttentionInputs { qkv, bias, tables, heads: self.num_heads, window });
        linear_in(&self.proj, attended, precision)
    }

    /// The numbers that the block's layers multiply: only SAM's image encoder has relative positions.
    fn precision(&self) -> LayerPrecision {
        if int8_encoder() && self.rel_pos_h.is_some() { LayerPrecision::Int8 } else { LayerPrecision::AsSet }
    }

    /// # Shapes
    /// - `x`: `[B, N, C]`
    /// - returns the same shape
    fn forward_causal(&self, x: Tensor<3>) -> Tensor<3> {
        linear(&self.proj, causal_attention(linear(&self.qkv, x), self.num_heads))
    }

    /// # Shapes
    /// - `x`: `[B, N, C]`; `absent`: `[B, N]`
    /// - returns `[B, 1, C]`
    fn forward_first(&self, x: Tensor<3>, absent: Option<AbsentKeys>) -> Tensor<3> {
        let [_, _, channels] = x.dims();
        let qkv = linear(&self.qkv, x);
        let q = Rows::own(qkv.clone().narrow(1, 0, 1).narrow(2, 0, channels));
        let [k, v] = [channels, 2 * channels].map(|start| Rows::own(qkv.clone().narrow(2, start, channels)));
        let heads = self.num_heads;
        linear(&self.proj, cross_attention(CrossAttentionInputs { q, k, v, absent_keys: absent, heads }))
    }
}
