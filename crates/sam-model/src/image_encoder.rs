//! SAM's image encoder: a plain ViT with windowed attention and a few global blocks, then a neck (arXiv 2304.02643 §A,
//! arXiv 2203.16527; `segment_anything/modeling/image_encoder.py`).
//!
//! Maps stay channels-last (`[B, H, W, C]`) from the patch embedding to the neck; the embedding is channels-first, as
//! everything that consumes one expects. The blocks take drop path, which the published code left out.
//!
//! Shapes: `B` images, `S` image side in pixels, `G` grid side (`S / patch`), `C` embedding width, `W` windows.

use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::attention::self_attention;
use crate::drop_path::{DropPath, rising_rates};
use crate::layer_norm::{LayerNorm2d, normalise};
use crate::mlp::{Activation, MlpBlock, linear, linear_layer};
use crate::patch_conv::PatchConv;
use crate::stage::{Stage, run};

/// Epsilon of the encoder's layer normalisations (`build_sam.py`).
pub const ENCODER_LAYER_NORM_EPS: f64 = 1e-6;

/// Sizes of an image encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEncoderConfig {
    /// Side of the square input in pixels; a multiple of `patch_size`.
    pub image_size: usize,
    /// Side of a patch in pixels.
    pub patch_size: usize,
    /// Width of the tokens.
    pub embed_dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block; divides `embed_dim`.
    pub num_heads: usize,
    /// Hidden width of a block's MLP.
    pub mlp_dim: usize,
    /// Channels of the embedding.
    pub out_chans: usize,
    /// Side of an attention window in patches.
    pub window_size: usize,
    /// Blocks that attend over the whole image instead of windows.
    pub global_attn_indexes: Vec<usize>,
    /// Drop path of the last block in training; block 0 has none and the rates rise linearly between.
    #[serde(default)]
    pub drop_path_rate: f64,
}

impl ImageEncoderConfig {
    /// Side of the embedding in patches.
    pub fn grid_size(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    ///
    /// # Panics
    /// When sizes do not divide; [`crate::SamConfig::check`] says so politely beforehand.
    pub fn init(&self, device: &Device) -> ImageEncoder {
        let Self { embed_dim, depth, num_heads, mlp_dim, out_chans, .. } = *self;
        let grid = self.grid_size();
        assert_eq!(grid * self.patch_size, self.image_size, "image_size must be a multiple of patch_size");
        assert_eq!(embed_dim % num_heads, 0, "num_heads {num_heads} must divide embed_dim {embed_dim}");
        let blocks = rising_rates(self.drop_path_rate, depth)
            .into_iter()
            .enumerate()
            .map(|(index, drop_path)| {
                let window = if self.global_attn_indexes.contains(&index) { 0 } else { self.window_size };
                let attended = if window == 0 { grid } else { window };
                BlockConfig { dim: embed_dim, num_heads, mlp_dim, window, rel_pos: Some(attended), drop_path }
                    .init(device)
            })
            .collect();
        ImageEncoder {
            patch_embed: PatchEmbed { proj: PatchConv::new(3, embed_dim, self.patch_size, true, device) },
            pos_embed: Initializer::Zeros.init([1, grid, grid, embed_dim], device),
            blocks,
            neck: Neck {
                conv1: PatchConv::new(embed_dim, out_chans, 1, false, device),
                norm1: LayerNorm2d::new(out_chans, device),
                conv2: NeckConv { weight: Initializer::Zeros.init([out_chans, out_chans, 3, 3], device) },
                norm2: LayerNorm2d::new(out_chans, device),
            },
        }
    }
}

/// Image in, embedding out.
#[derive(Module, Debug)]
pub struct ImageEncoder {
    /// Patches to tokens.
    pub patch_embed: PatchEmbed,
    /// `[1, G, G, C]`, added to the patch tokens.
    pub pos_embed: Param<Tensor<4>>,
    /// The transformer.
    pub blocks: Vec<Block>,
    /// To the embedding's channels.
    pub neck: Neck,
}

impl ImageEncoder {
    /// # Shapes
    /// - `images`: `[B, 3, S, S]`, normalised and padded (see [`crate::Sam::preprocess`])
    /// - returns `[B, out_chans, G, G]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        run(&self.stages(), images)
    }

    /// Patch embedding, blocks, neck.
    pub fn stages(&self) -> Vec<Stage<'_>> {
        let mut stages: Vec<Stage<'_>> = vec![Box::new(|images| self.embed_patches(images))];
        stages.extend(self.blocks.iter().map(|block| -> Stage<'_> { Box::new(|x| block.forward(x)) }));
        stages.push(Box::new(|x| self.neck.forward(x)));
        stages
    }

    /// Patch tokens with their positions: what the first block sees.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, S, S]`
    /// - returns `[B, G, G, C]`
    pub fn embed_patches(&self, images: Tensor<4>) -> Tensor<4> {
        self.patch_embed.forward(images) + self.pos_embed.val()
    }
}

/// Patches to tokens.
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// A convolution whose stride is its kernel.
    pub proj: PatchConv,
}

impl PatchEmbed {
    /// # Shapes
    /// - `images`: `[B, 3, H, W]`
    /// - returns `[B, H / patch, W / patch, C]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        self.proj.forward(images.permute([0, 2, 3, 1]))
    }
}

/// Two convolutions with their normalisations: from the transformer's width to the embedding's.
#[derive(Module, Debug)]
pub struct Neck {
    /// 1 x 1, no bias.
    pub conv1: PatchConv,
    /// After `conv1`.
    pub norm1: LayerNorm2d,
    /// 3 x 3, padded, no bias.
    pub conv2: NeckConv,
    /// After `conv2`.
    pub norm2: LayerNorm2d,
}

/// The neck's 3 x 3 convolution.
#[derive(Module, Debug)]
pub struct NeckConv {
    /// `[out_chans, out_chans, 3, 3]`.
    pub weight: Param<Tensor<4>>,
}

impl Neck {
    /// # Shapes
    /// - `x`: `[B, G, G, C]`
    /// - returns `[B, out_chans, G, G]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.norm1.forward(self.conv1.forward(x));
        let x = x.permute([0, 3, 1, 2]);
        let x = conv2d(x, self.conv2.weight.val(), None, ConvOptions::new([1, 1], [1, 1], [1, 1], 1));
        let x = self.norm2.forward(x.permute([0, 2, 3, 1]));
        x.permute([0, 3, 1, 2]) // [B, out_chans, G, G]
    }
}

/// Sizes of one transformer block; MAE's blocks are the same with neither window nor relative positions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockConfig {
    /// Width of the tokens.
    pub dim: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Hidden width of the MLP.
    pub mlp_dim: usize,
    /// Side of a window in patches, 0 for attention over the whole grid.
    pub window: usize,
    /// Side of the attended grid that the relative position tables are made for; `None` without tables.
    pub rel_pos: Option<usize>,
    /// Probability of dropping either branch in training.
    pub drop_path: f64,
}

impl BlockConfig {
    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub fn init(&self, device: &Device) -> Block {
        let norm = || LayerNormConfig::new(self.dim).with_epsilon(ENCODER_LAYER_NORM_EPS).init(device);
        let table = |side: usize| Initializer::Zeros.init([2 * side - 1, self.dim / self.num_heads], device);
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
    /// - `x`: `[B, H, W, C]`; a plain token list is a grid with `H = 1`
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
    /// Queries, keys and values in one product.
    pub qkv: Linear,
    /// After the heads are joined.
    pub proj: Linear,
    /// `[2 * rows - 1, C / heads]`.
    pub rel_pos_h: Option<Param<Tensor<2>>>,
    /// `[2 * columns - 1, C / heads]`.
    pub rel_pos_w: Option<Param<Tensor<2>>>,
    num_heads: usize,
}

impl Attention {
    /// # Shapes
    /// - `x`: `[B, H, W, C]`; `window`: side of a window, 0 for the whole grid
    /// - returns the same shape
    pub fn forward(&self, x: Tensor<4>, window: usize) -> Tensor<4> {
        let qkv = linear(&self.qkv, x);
        let bias = self.qkv.bias.as_ref().expect("queries, keys and values have a bias").val();
        let tables = self.rel_pos_h.as_ref().zip(self.rel_pos_w.as_ref()).map(|(h, w)| [h.val(), w.val()]);
        linear(&self.proj, self_attention(qkv, bias, tables, self.num_heads, window))
    }
}
