//! The mask decoder's transformer: tokens attend to each other, to the image, and the image back to the tokens
//! (arXiv 2304.02643 §A and figure 14; `segment_anything/modeling/transformer.py`).
//!
//! Differs from the reference: dropout of the residual branches in training (the paper says 0.1, the code has none), and
//! tokens that an object lacks are hidden. What is computed of an image or of positions alone is computed once for all
//! objects ([`TwoWayTransformer::prepare`]); sums are the reference's, in another order: `(x + p) W` is `x W + p W`.
//!
//! Shapes: `O` objects, `T` tokens, `B` images, `P` image positions, `C` width.

use std::sync::Arc;

use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor};

use crate::attention::{AbsentKeys, cross_attention};
use crate::layer_norm::normalise;
use crate::mlp::{Activation, MlpBlock, linear, linear_layer};
use crate::shared_rows::{ListOf, Rows, normalise_sum, shared_linear};

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

/// The image side as it comes in: what the objects of an image share, and what a mask prompt adds for one of them.
#[derive(Clone, Debug)]
pub struct ImageTokens {
    /// `[B, P, C]`.
    pub shared: Tensor<3>,
    /// The image of each object.
    pub of: ListOf,
    /// What is an object's own, as a product: `[O, P, I]` and `[I, C]`; narrow, so that products of it are cheap.
    pub own: Option<(Tensor<3>, Tensor<2>)>,
}

/// What is computed of images and positions alone, whatever the objects.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Of the first block: keys of the image with its positions, values, queries of the image with its positions.
    first: [Tensor<3>; 3],
    /// Keys and queries of the positions alone, for each block after the first; keys for the last attention.
    later: Vec<[Tensor<3>; 2]>,
    last: Tensor<3>,
}

impl TwoWayTransformer {
    /// # Shapes
    /// - `shared`: `[B, P, C]`, `image_positions`: `[1, P, C]`
    pub fn prepare(&self, shared: Tensor<3>, image_positions: Tensor<3>) -> Prepared {
        let (first, later) = self.layers.split_first().expect("a decoder has a block");
        let placed = shared.clone() + image_positions.clone();
        let to_image = |block: &TwoWayAttentionBlock, x: Tensor<3>| linear(&block.cross_attn_token_to_image.k_proj, x);
        let to_tokens = |block: &TwoWayAttentionBlock, x: Tensor<3>| linear(&block.cross_attn_image_to_token.q_proj, x);
        Prepared {
            first: [
                to_image(first, placed.clone()),
                linear(&first.cross_attn_token_to_image.v_proj, shared),
                to_tokens(first, placed),
            ],
            later: later
                .iter()
                .map(|block| [to_image(block, image_positions.clone()), to_tokens(block, image_positions.clone())])
                .collect(),
            last: linear(&self.final_attn_token_to_image.k_proj, image_positions),
        }
    }

    /// # Shapes
    /// - `tokens`: `[O, T, C]`, `absent`: `[O, T]`, where an object has no such token
    /// - returns tokens `[O, T, C]` and image `[O, P, C]`
    pub fn forward(
        &self,
        image: ImageTokens,
        prepared: &Prepared,
        tokens: Tensor<3>,
        absent: Option<&AbsentKeys>,
    ) -> (Tensor<3>, Tensor<3>) {
        // The tokens as they came in are the tokens' positions: they are added again at every attention.
        let positions = tokens.clone();
        let (first, later) = self.layers.split_first().expect("a decoder has a block");
        let [keys, values, image_queries] = prepared.first.clone();
        let side = ImageSide {
            keys: image.project(&first.cross_attn_token_to_image.k_proj, keys),
            values: image.project(&first.cross_attn_token_to_image.v_proj, values),
            queries: image.project(&first.cross_attn_image_to_token.q_proj, image_queries),
            residual: image.rows(),
        };
        let (mut tokens, mut image) = first.forward(tokens, side, &positions, absent);
        let [objects, ..] = image.dims();
        let only_list = Arc::new(vec![0; objects]);
        for (block, [keys, queries]) in later.iter().zip(prepared.later.iter().cloned()) {
            let placed = |layer: &Linear, of_positions: Tensor<3>| {
                Rows::own(shared_linear(image.clone(), layer.weight.val(), of_positions, &only_list))
            };
            let side = ImageSide {
                keys: placed(&block.cross_attn_token_to_image.k_proj, keys),
                values: Rows::own(linear(&block.cross_attn_token_to_image.v_proj, image.clone())),
                queries: placed(&block.cross_attn_image_to_token.q_proj, queries),
                residual: Rows::own(image.clone()),
            };
            (tokens, image) = block.forward(tokens, side, &positions, absent);
        }
        let last = &self.final_attn_token_to_image;
        let keys = shared_linear(image.clone(), last.k_proj.weight.val(), prepared.last.clone(), &only_list);
        let values = linear(&last.v_proj, image.clone());
        let attended = last.attend(tokens.clone() + positions, Rows::own(keys), Rows::own(values));
        (norm_of_sum(&self.norm_final_attn, self.dropout.forward(attended), Rows::own(tokens)), image)
    }
}

impl ImageTokens {
    /// A projection of the image side, given that of what is shared.
    fn project(&self, layer: &Linear, of_shared: Tensor<3>) -> Rows {
        match &self.own {
            None => Rows::shared(of_shared, &self.of),
            Some((own, weight)) => {
                let weight = weight.clone().matmul(layer.weight.val());
                Rows::own(shared_linear(own.clone(), weight, of_shared, &self.of))
            }
        }
    }

    /// The image side itself.
    fn rows(&self) -> Rows {
        match &self.own {
            None => Rows::shared(self.shared.clone(), &self.of),
            Some((own, weight)) => Rows::own(shared_linear(own.clone(), weight.clone(), self.shared.clone(), &self.of)),
        }
    }
}

/// The image side as a block takes it.
struct ImageSide {
    /// For the tokens that look at the image.
    keys: Rows,
    /// As `keys`.
    values: Rows,
    /// For the image that looks at the tokens.
    queries: Rows,
    /// What the block's result is added to.
    residual: Rows,
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
        tokens: Tensor<3>,
        image: ImageSide,
        positions: &Tensor<3>,
        absent: Option<&AbsentKeys>,
    ) -> (Tensor<3>, Tensor<3>) {
        let tokens = if self.is_first {
            // The first block's tokens are their own positions, so the reference adds neither these nor a residual.
            let attended = self.self_attn.forward(tokens.clone(), tokens, absent);
            normalise(attended, &self.norm1, DECODER_LAYER_NORM_EPS)
        } else {
            let attended = self.self_attn.forward(tokens.clone() + positions.clone(), tokens.clone(), absent);
            norm_of_sum(&self.norm1, self.dropout.forward(attended), Rows::own(tokens))
        };

        let placed = tokens.clone() + positions.clone();
        let attended = self.cross_attn_token_to_image.attend(placed, image.keys, image.values);
        let tokens = norm_of_sum(&self.norm2, self.dropout.forward(attended), Rows::own(tokens));

        let expanded = self.mlp.forward(tokens.clone());
        let tokens = norm_of_sum(&self.norm3, self.dropout.forward(expanded), Rows::own(tokens));

        let placed = tokens.clone() + positions.clone();
        let attended = self.cross_attn_image_to_token.attended_by(image.queries, placed, tokens.clone(), absent);
        let image = norm_of_sum(&self.norm4, self.dropout.forward(attended), image.residual);
        (tokens, image)
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

    /// Among tokens: queries and keys of `placed`, values of `tokens`.
    ///
    /// # Shapes
    /// - `placed`, `tokens`: `[O, T, C]`, `absent`: `[O, T]`
    /// - returns `[O, T, C]`
    fn forward(&self, placed: Tensor<3>, tokens: Tensor<3>, absent: Option<&AbsentKeys>) -> Tensor<3> {
        let queries = Rows::own(linear(&self.q_proj, placed.clone()));
        self.attended_by(queries, placed, tokens, absent)
    }

    /// Of tokens to keys and values that are projected already.
    fn attend(&self, tokens: Tensor<3>, keys: Rows, values: Rows) -> Tensor<3> {
        let queries = Rows::own(linear(&self.q_proj, tokens));
        linear(&self.out_proj, cross_attention(queries, keys, values, None, self.num_heads))
    }

    /// Of queries that are projected already to tokens.
    fn attended_by(
        &self,
        queries: Rows,
        placed: Tensor<3>,
        tokens: Tensor<3>,
        absent: Option<&AbsentKeys>,
    ) -> Tensor<3> {
        let keys = Rows::own(linear(&self.k_proj, placed));
        let values = Rows::own(linear(&self.v_proj, tokens));
        linear(&self.out_proj, cross_attention(queries, keys, values, absent.cloned(), self.num_heads))
    }
}

fn norm_of_sum(norm: &LayerNorm, x: Tensor<3>, other: Rows) -> Tensor<3> {
    normalise_sum(x, other, norm, DECODER_LAYER_NORM_EPS)
}
