//! The mask decoder's transformer: tokens attend to each other, to the image, and the image back to the tokens
//! (arXiv 2304.02643 §A and figure 14; `segment_anything/modeling/transformer.py`).
//!
//! Differs from the reference: dropout of the residual branches in training (the paper says 0.1, the code has none),
//! and tokens that an object lacks are hidden.
//!
//! Shapes: `O` objects, `T` tokens, `P` image positions, `C` width.

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor};

use crate::attention::{AbsentKeys, cross_attention};
use crate::layer_norm::normalise;
use crate::mlp::{Activation, MlpBlock, linear, linear_layer};

/// Epsilon of the decoder's layer normalisations: PyTorch's default, unlike the encoder's.
pub const DECODER_LAYER_NORM_EPS: f64 = 1e-5;

/// Sizes of the transformer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TwoWayTransformerConfig {
    /// Blocks.
    pub depth: usize,
    /// Width `C` of tokens and image positions.
    pub dim: usize,
    /// Heads of every attention.
    pub num_heads: usize,
    /// Hidden width of the token MLP.
    pub mlp_dim: usize,
    /// Inner width of the attention between tokens and image: `dim / 2` in the paper.
    pub cross_dim: usize,
    /// Dropout of each residual branch in training.
    pub dropout: f64,
}

impl TwoWayTransformerConfig {
    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub fn init(&self, device: &Device) -> TwoWayTransformer {
        let cross = || DownsampledAttention::new(self.dim, self.cross_dim, self.num_heads, device);
        TwoWayTransformer {
            layers: (0..self.depth).map(|index| self.block(index == 0, device)).collect(),
            final_attn_token_to_image: cross(),
            norm_final_attn: self.norm(device),
            dropout: DropoutConfig::new(self.dropout).init(),
        }
    }

    fn block(&self, is_first: bool, device: &Device) -> TwoWayAttentionBlock {
        let cross = || DownsampledAttention::new(self.dim, self.cross_dim, self.num_heads, device);
        TwoWayAttentionBlock {
            self_attn: DownsampledAttention::new(self.dim, self.dim, self.num_heads, device),
            norm1: self.norm(device),
            cross_attn_token_to_image: cross(),
            norm2: self.norm(device),
            mlp: MlpBlock::new(self.dim, self.mlp_dim, Activation::Relu, device),
            norm3: self.norm(device),
            norm4: self.norm(device),
            cross_attn_image_to_token: cross(),
            dropout: DropoutConfig::new(self.dropout).init(),
            is_first,
        }
    }

    fn norm(&self, device: &Device) -> LayerNorm {
        LayerNormConfig::new(self.dim).with_epsilon(DECODER_LAYER_NORM_EPS).init(device)
    }
}

/// Blocks, then a last look of the tokens at the image.
#[derive(Module, Debug)]
pub struct TwoWayTransformer {
    /// The blocks.
    pub layers: Vec<TwoWayAttentionBlock>,
    /// Tokens to image, after the blocks.
    pub final_attn_token_to_image: DownsampledAttention,
    /// After the last attention.
    pub norm_final_attn: LayerNorm,
    /// On the last residual branch.
    pub dropout: Dropout,
}

impl TwoWayTransformer {
    /// # Shapes
    /// - `image`: `[O, P, C]`, `image_positions`: `[1, P, C]`
    /// - `tokens`: `[O, T, C]`, `absent`: `[O, T]`, where an object has no such token
    /// - returns tokens `[O, T, C]` and image `[O, P, C]`
    pub fn forward(
        &self,
        image: Tensor<3>,
        image_positions: Tensor<3>,
        tokens: Tensor<3>,
        absent: Option<&AbsentKeys>,
    ) -> (Tensor<3>, Tensor<3>) {
        // The tokens as they came in are the tokens' positions: they are added again at every attention.
        let token_positions = tokens.clone();
        let (mut queries, mut keys) = (tokens, image);
        for layer in &self.layers {
            (queries, keys) = layer.forward(queries, keys, &token_positions, &image_positions, absent);
        }
        let attended = self.final_attn_token_to_image.forward(
            queries.clone() + token_positions,
            keys.clone() + image_positions,
            keys.clone(),
            None,
        );
        let queries = norm(&self.norm_final_attn, queries + self.dropout.forward(attended));
        (queries, keys)
    }
}

/// Self-attention of tokens, tokens to image, MLP of tokens, image to tokens; each followed by its norm.
#[derive(Module, Debug)]
pub struct TwoWayAttentionBlock {
    /// Among the tokens.
    pub self_attn: DownsampledAttention,
    /// After `self_attn`.
    pub norm1: LayerNorm,
    /// Tokens look at the image.
    pub cross_attn_token_to_image: DownsampledAttention,
    /// After `cross_attn_token_to_image`.
    pub norm2: LayerNorm,
    /// Of the tokens.
    pub mlp: MlpBlock,
    /// After `mlp`.
    pub norm3: LayerNorm,
    /// After `cross_attn_image_to_token`, on the image side.
    pub norm4: LayerNorm,
    /// The image looks at the tokens.
    pub cross_attn_image_to_token: DownsampledAttention,
    /// On each residual branch.
    pub dropout: Dropout,
    is_first: bool,
}

impl TwoWayAttentionBlock {
    fn forward(
        &self,
        queries: Tensor<3>,
        keys: Tensor<3>,
        token_positions: &Tensor<3>,
        image_positions: &Tensor<3>,
        absent: Option<&AbsentKeys>,
    ) -> (Tensor<3>, Tensor<3>) {
        let queries = if self.is_first {
            // The first block's tokens are their own positions, so the reference adds neither these nor a residual.
            self.self_attn.forward(queries.clone(), queries.clone(), queries, absent.cloned())
        } else {
            let placed = queries.clone() + token_positions.clone();
            let attended = self.self_attn.forward(placed.clone(), placed, queries.clone(), absent.cloned());
            queries + self.dropout.forward(attended)
        };
        let queries = norm(&self.norm1, queries);

        let attended = self.cross_attn_token_to_image.forward(
            queries.clone() + token_positions.clone(),
            keys.clone() + image_positions.clone(),
            keys.clone(),
            None,
        );
        let queries = norm(&self.norm2, queries + self.dropout.forward(attended));

        let expanded = self.mlp.forward(queries.clone());
        let queries = norm(&self.norm3, queries + self.dropout.forward(expanded));

        let attended = self.cross_attn_image_to_token.forward(
            keys.clone() + image_positions.clone(),
            queries.clone() + token_positions.clone(),
            queries.clone(),
            absent.cloned(),
        );
        let keys = norm(&self.norm4, keys + self.dropout.forward(attended));
        (queries, keys)
    }
}

/// Multi-head attention whose inner width may be smaller than its outer one (the reference's `Attention`).
#[derive(Module, Debug)]
pub struct DownsampledAttention {
    /// `[C] -> [inner]`.
    pub q_proj: Linear,
    /// `[C] -> [inner]`.
    pub k_proj: Linear,
    /// `[C] -> [inner]`.
    pub v_proj: Linear,
    /// `[inner] -> [C]`.
    pub out_proj: Linear,
    num_heads: usize,
}

impl DownsampledAttention {
    fn new(dim: usize, inner_dim: usize, num_heads: usize, device: &Device) -> Self {
        assert_eq!(inner_dim % num_heads, 0, "num_heads {num_heads} must divide the attention's width {inner_dim}");
        Self {
            q_proj: linear_layer(dim, inner_dim, device),
            k_proj: linear_layer(dim, inner_dim, device),
            v_proj: linear_layer(dim, inner_dim, device),
            out_proj: linear_layer(inner_dim, dim, device),
            num_heads,
        }
    }

    /// # Shapes
    /// - `q`: `[O, N, C]`, `k`, `v`: `[O, M, C]`, `absent_keys`: `[O, M]`
    /// - returns `[O, N, C]`
    pub fn forward(&self, q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, absent_keys: Option<AbsentKeys>) -> Tensor<3> {
        let (q, k, v) = (linear(&self.q_proj, q), linear(&self.k_proj, k), linear(&self.v_proj, v));
        linear(&self.out_proj, cross_attention(q, k, v, absent_keys, self.num_heads))
    }
}

fn norm(norm: &LayerNorm, x: Tensor<3>) -> Tensor<3> {
    normalise(x, norm, DECODER_LAYER_NORM_EPS)
}
