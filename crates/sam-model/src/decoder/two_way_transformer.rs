//! The mask decoder's transformer: tokens attend to each other, to the image, and the image back to the tokens
//! (arXiv 2304.02643 §A and figure 14; `segment_anything/modeling/transformer.py`).
//!
//! Differs from the reference: dropout of the residual branches in training (the paper says 0.1, the code has none), and
//! absent tokens are masked out. What depends on an image or on positions alone is computed once for all objects
//! ([`TwoWayTransformer::prepare`]); sums are the reference's, in another order: `(x + p) W` is `x W + p W`.
//!
//! Shapes: `O` objects, `T` tokens, `B` images, `P` image positions, `C` embedding dimension.

use std::sync::Arc;

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor};

use crate::ops::attention::{AbsentKeys, CrossAttentionInputs, cross_attention};
use crate::ops::dropout::dropout;
use crate::ops::layer_norm::normalise;
use crate::ops::linear::{linear, linear_layer};
use crate::ops::mlp::{Activation, MlpBlock};
use crate::ops::shared_rows::{ImageIndex, Rows, SharedLinearInputs, normalise_sum, shared_linear};

/// Epsilon of the decoder's layer normalisations: PyTorch's default, unlike the encoder's.
pub(crate) const DECODER_LAYER_NORM_EPS: f64 = 1e-5;

/// Sizes of the transformer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct TwoWayTransformerConfig {
    /// Blocks.
    pub depth: usize,
    /// Embedding dimension `C` of tokens and image positions.
    pub dim: usize,
    /// Heads of every attention.
    pub num_heads: usize,
    /// Hidden dimension of the token MLP.
    pub mlp_dim: usize,
    /// Inner dimension of the attention between tokens and image: `dim / 2` in the paper.
    pub cross_dim: usize,
    /// Dropout of each residual branch in training.
    pub dropout: f64,
}

impl TwoWayTransformerConfig {
    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub(crate) fn init(&self, device: &Device) -> TwoWayTransformer {
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

/// Two-way blocks, then a final attention of the tokens to the image.
#[derive(Module, Debug)]
pub struct TwoWayTransformer {
    /// The blocks.
    pub layers: Vec<TwoWayAttentionBlock>,
    /// Tokens to image, after the blocks.
    pub final_attn_token_to_image: DownsampledAttention,
    /// After the last attention.
    pub norm_final_attn: LayerNorm,
    /// Dropout of the last residual branch.
    pub dropout: Dropout,
}

/// The tokens of the image: shared by its objects, plus what a mask prompt adds for one of them.
#[derive(Clone, Debug)]
pub(crate) struct ImageTokens {
    /// `[B, P, C]`.
    pub(crate) shared: Tensor<3>,
    /// The image of each object.
    pub(crate) image_index: ImageIndex,
    /// Added per object, as a product: `[O, P, I]` and `[I, C]`; `I` is small, so products with it are cheap.
    pub(crate) own: Option<(Tensor<3>, Tensor<2>)>,
}

/// Projections of images and positions alone, shared by all objects.
#[derive(Clone, Debug)]
pub(crate) struct Prepared {
    /// Projections for the first block.
    first: FirstBlock,
    /// Projections of the positions alone, for each later block.
    later: Vec<LaterBlock>,
    /// Keys of the positions alone, for the last attention.
    last_keys: Tensor<3>,
}

/// Projections of the image tokens for the first block, `[B, P, inner]` each; keys and queries include the positions.
#[derive(Clone, Debug)]
struct FirstBlock {
    keys: Tensor<3>,
    values: Tensor<3>,
    queries: Tensor<3>,
}

/// Projections of the positions alone, `[1, P, inner]` each.
#[derive(Clone, Debug)]
struct LaterBlock {
    keys: Tensor<3>,
    queries: Tensor<3>,
}

impl TwoWayTransformer {
    /// Computes what does not depend on the objects.
    ///
    /// # Shapes
    /// - `shared`: `[B, P, C]`, `image_positions`: `[1, P, C]`
    pub(crate) fn prepare(&self, shared: Tensor<3>, image_positions: Tensor<3>) -> Prepared {
        let (first, later) = self.layers.split_first().expect("a decoder has a block");
        let positioned = shared.clone() + image_positions.clone();
        let to_image = |block: &TwoWayAttentionBlock, x: Tensor<3>| linear(&block.cross_attn_token_to_image.k_proj, x);
        let to_tokens = |block: &TwoWayAttentionBlock, x: Tensor<3>| linear(&block.cross_attn_image_to_token.q_proj, x);
        Prepared {
            first: FirstBlock {
                keys: to_image(first, positioned.clone()),
                values: linear(&first.cross_attn_token_to_image.v_proj, shared),
                queries: to_tokens(first, positioned),
            },
            later: later
                .iter()
                .map(|block| LaterBlock {
                    keys: to_image(block, image_positions.clone()),
                    queries: to_tokens(block, image_positions.clone()),
                })
                .collect(),
            last_keys: linear(&self.final_attn_token_to_image.k_proj, image_positions),
        }
    }

    /// # Shapes
    /// - `tokens`: `[O, T, C]`, `absent`: `[O, T]`, tokens that an object does not have
    /// - returns tokens `[O, T, C]` and image `[O, P, C]`
    pub(crate) fn forward(
        &self,
        image: ImageTokens,
        prepared: &Prepared,
        tokens: Tensor<3>,
        absent: Option<&AbsentKeys>,
    ) -> (Tensor<3>, Tensor<3>) {
        // The initial tokens serve as the tokens' positions, which every attention adds again.
        let positions = tokens.clone();
        let (first, later) = self.layers.split_first().expect("a decoder has a block");
        let FirstBlock { keys, values, queries } = prepared.first.clone();
        let inputs = ImageInputs {
            keys: image.project(&first.cross_attn_token_to_image.k_proj, keys),
            values: image.project(&first.cross_attn_token_to_image.v_proj, values),
            queries: image.project(&first.cross_attn_image_to_token.q_proj, queries),
            residual: image.rows(),
        };
        let (mut tokens, mut image) = first.forward(tokens, inputs, &positions, absent);
        let [objects, ..] = image.dims();
        let image_index = &Arc::new(vec![0; objects]); // All objects share one row of positions.
        for (block, LaterBlock { keys, queries }) in later.iter().zip(prepared.later.iter().cloned()) {
            let positioned = |layer: &Linear, shared: Tensor<3>| {
                let (x, weight) = (image.clone(), layer.weight.val());
                Rows::own(shared_linear(SharedLinearInputs { x, weight, shared, image_index }))
            };
            let inputs = ImageInputs {
                keys: positioned(&block.cross_attn_token_to_image.k_proj, keys),
                values: Rows::own(linear(&block.cross_attn_token_to_image.v_proj, image.clone())),
                queries: positioned(&block.cross_attn_image_to_token.q_proj, queries),
                residual: Rows::own(image.clone()),
            };
            (tokens, image) = block.forward(tokens, inputs, &positions, absent);
        }
        let last = &self.final_attn_token_to_image;
        let (x, weight, shared) = (image.clone(), last.k_proj.weight.val(), prepared.last_keys.clone());
        let keys = shared_linear(SharedLinearInputs { x, weight, shared, image_index });
        let values = linear(&last.v_proj, image.clone());
        let attended = last.attend(tokens.clone() + positions, Rows::own(keys), Rows::own(values));
        (norm_of_sum(&self.norm_final_attn, dropout(&self.dropout, attended), Rows::own(tokens)), image)
    }
}

impl ImageTokens {
    /// A projection of the image tokens, given that of the shared part.
    fn project(&self, layer: &Linear, shared: Tensor<3>) -> Rows {
        let image_index = &self.image_index;
        match &self.own {
            None => Rows::shared(shared, image_index),
            Some((own, weight)) => {
                let weight = weight.clone().matmul(layer.weight.val());
                Rows::own(shared_linear(SharedLinearInputs { x: own.clone(), weight, shared, image_index }))
            }
        }
    }

    /// The image tokens themselves.
    fn rows(&self) -> Rows {
        let (shared, image_index) = (self.shared.clone(), &self.image_index);
        match &self.own {
            None => Rows::shared(shared, image_index),
            Some((own, weight)) => {
                let (x, weight) = (own.clone(), weight.clone());
                Rows::own(shared_linear(SharedLinearInputs { x, weight, shared, image_index }))
            }
        }
    }
}

/// The image tokens' inputs of a block.
struct ImageInputs {
    /// Keys of the attention from tokens to image.
    keys: Rows,
    /// Values of the attention from tokens to image.
    values: Rows,
    /// Queries of the attention from image to tokens.
    queries: Rows,
    /// The block's result is added to these.
    residual: Rows,
}

/// Self-attention of tokens, attention of tokens to image, MLP of tokens, attention of image to tokens; each followed by
/// its norm.
#[derive(Module, Debug)]
pub struct TwoWayAttentionBlock {
    /// Among the tokens.
    pub self_attn: DownsampledAttention,
    /// After `self_attn`.
    pub norm1: LayerNorm,
    /// Attention of the tokens to the image.
    pub cross_attn_token_to_image: DownsampledAttention,
    /// After `cross_attn_token_to_image`.
    pub norm2: LayerNorm,
    /// Over the tokens.
    pub mlp: MlpBlock,
    /// After `mlp`.
    pub norm3: LayerNorm,
    /// After `cross_attn_image_to_token`, over the image tokens.
    pub norm4: LayerNorm,
    /// Attention of the image to the tokens.
    pub cross_attn_image_to_token: DownsampledAttention,
    /// Dropout of each residual branch.
    pub dropout: Dropout,
    is_first: bool,
}

impl TwoWayAttentionBlock {
    fn forward(
        &self,
        tokens: Tensor<3>,
        image: ImageInputs,
        positions: &Tensor<3>,
        absent: Option<&AbsentKeys>,
    ) -> (Tensor<3>, Tensor<3>) {
        let tokens = if self.is_first {
            // The first block's tokens are their own positions, so the reference adds neither these nor a residual.
            let attended = self.self_attn.forward(tokens.clone(), tokens, absent);
            normalise(attended, &self.norm1, DECODER_LAYER_NORM_EPS)
        } else {
            let attended = self.self_attn.forward(tokens.clone() + positions.clone(), tokens.clone(), absent);
            norm_of_sum(&self.norm1, dropout(&self.dropout, attended), Rows::own(tokens))
        };

        let positioned = tokens.clone() + positions.clone();
        let attended = self.cross_attn_token_to_image.attend(positioned, image.keys, image.values);
        let tokens = norm_of_sum(&self.norm2, dropout(&self.dropout, attended), Rows::own(tokens));

        let expanded = self.mlp.forward(tokens.clone());
        let tokens = norm_of_sum(&self.norm3, dropout(&self.dropout, expanded), Rows::own(tokens));

        let positioned = tokens.clone() + positions.clone();
        let attended =
            self.cross_attn_image_to_token.attend_to_tokens(image.queries, positioned, tokens.clone(), absent);
        let image = norm_of_sum(&self.norm4, dropout(&self.dropout, attended), image.residual);
        (tokens, image)
    }
}

/// Multi-head attention whose inner dimension may be smaller than its outer one (the reference's `Attention`).
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
        assert_eq!(inner_dim % num_heads, 0, "num_heads {num_heads} must divide the attention's dimension {inner_dim}");
        Self {
            q_proj: linear_layer(dim, inner_dim, device),
            k_proj: linear_layer(dim, inner_dim, device),
            v_proj: linear_layer(dim, inner_dim, device),
            out_proj: linear_layer(inner_dim, dim, device),
            num_heads,
        }
    }

    /// Self-attention: queries and keys from `positioned`, values from `tokens`.
    ///
    /// # Shapes
    /// - `positioned`, `tokens`: `[O, T, C]`, `absent`: `[O, T]`
    /// - returns `[O, T, C]`
    fn forward(&self, positioned: Tensor<3>, tokens: Tensor<3>, absent: Option<&AbsentKeys>) -> Tensor<3> {
        let queries = Rows::own(linear(&self.q_proj, positioned.clone()));
        self.attend_to_tokens(queries, positioned, tokens, absent)
    }

    /// Attention of tokens to keys and values that are already projected.
    fn attend(&self, tokens: Tensor<3>, keys: Rows, values: Rows) -> Tensor<3> {
        let queries = Rows::own(linear(&self.q_proj, tokens));
        self.attention(queries, keys, values, None)
    }

    /// Attention of queries that are already projected to tokens.
    fn attend_to_tokens(
        &self,
        queries: Rows,
        positioned: Tensor<3>,
        tokens: Tensor<3>,
        absent: Option<&AbsentKeys>,
    ) -> Tensor<3> {
        let keys = Rows::own(linear(&self.k_proj, positioned));
        let values = Rows::own(linear(&self.v_proj, tokens));
        self.attention(queries, keys, values, absent.cloned())
    }

    fn attention(&self, q: Rows, k: Rows, v: Rows, absent_keys: Option<AbsentKeys>) -> Tensor<3> {
        let heads = self.num_heads;
        linear(&self.out_proj, cross_attention(CrossAttentionInputs { q, k, v, absent_keys, heads }))
    }
}

fn norm_of_sum(norm: &LayerNorm, x: Tensor<3>, other: Rows) -> Tensor<3> {
    normalise_sum(x, other, norm, DECODER_LAYER_NORM_EPS)
}
