//! SAM's image encoder: a plain ViT with windowed attention and a few global blocks, then a neck (arXiv 2304.02643 §A,
//! arXiv 2203.16527; `segment_anything/modeling/image_encoder.py`).
//!
//! Maps stay channels-last (`[B, H, W, C]`) from the patch embedding to the neck; the embedding is channels-first, as
//! every consumer expects. The blocks have drop path, which the published code omits.
//!
//! Shapes: `B` images, `S` image size in pixels, `G` grid size (`S / patch`), `C` embedding dimension.

mod block;
mod drop_path;

use burn::module::{Initializer, Module, Param};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

pub(crate) use block::ENCODER_LAYER_NORM_EPS;
pub use block::{Block, BlockConfig};
pub use drop_path::DropPath;

use crate::ops::layer_norm::LayerNorm2d;
use crate::ops::patch_conv::PatchConv;
use crate::stage::{Stage, run};
use drop_path::linear_rates;

/// Sizes of an image encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageEncoderConfig {
    /// Size of the square input in pixels; a multiple of `patch_size`.
    pub image_size: usize,
    /// Size of a patch in pixels.
    pub patch_size: usize,
    /// Embedding dimension of the tokens.
    pub embed_dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block; divides `embed_dim`.
    pub num_heads: usize,
    /// Hidden dimension of a block's MLP.
    pub mlp_dim: usize,
    /// Channels of the embedding.
    pub out_chans: usize,
    /// Size of an attention window in patches.
    pub window_size: usize,
    /// Blocks that attend over the whole image instead of windows.
    pub global_attn_indexes: Vec<usize>,
    /// Drop path rate of the last block in training; rates increase linearly from 0 at block 0.
    #[serde(default)]
    pub drop_path_rate: f64,
}

impl ImageEncoderConfig {
    /// Size of the embedding in patches.
    pub fn grid_size(&self) -> usize {
        self.image_size / self.patch_size
    }

    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    ///
    /// # Panics
    /// When sizes do not divide; [`crate::SamConfig::check`] reports it beforehand.
    pub fn init(&self, device: &Device) -> ImageEncoder {
        let Self { embed_dim, depth, num_heads, mlp_dim, out_chans, .. } = *self;
        let grid = self.grid_size();
        assert_eq!(grid * self.patch_size, self.image_size, "image_size must be a multiple of patch_size");
        assert_eq!(embed_dim % num_heads, 0, "num_heads {num_heads} must divide embed_dim {embed_dim}");
        let blocks = linear_rates(self.drop_path_rate, depth)
            .into_iter()
            .enumerate()
            .map(|(index, drop_path)| {
                let window = if self.global_attn_indexes.contains(&index) { 0 } else { self.window_size };
                let attended = if window == 0 { grid } else { window };
                let rel_pos = Some(attended);
                BlockConfig { window, rel_pos, drop_path, ..BlockConfig::new(embed_dim, num_heads, mlp_dim) }
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

/// The image encoder.
#[derive(Module, Debug)]
pub struct ImageEncoder {
    /// Patches to tokens.
    pub patch_embed: PatchEmbed,
    /// `[1, G, G, C]`, added to the patch tokens.
    pub pos_embed: Param<Tensor<4>>,
    /// The transformer.
    pub blocks: Vec<Block>,
    /// Tokens to the embedding's channels.
    pub neck: Neck,
}

impl ImageEncoder {
    /// # Shapes
    /// - `images`: `[B, 3, S, S]`, normalised and padded (see [`crate::Sam::preprocess`])
    /// - returns `[B, out_chans, G, G]`
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        run(&self.stages(), images)
    }

    /// The encoder as stages: patch embedding, blocks, neck.
    ///
    /// # Shapes
    /// - first input: `[B, 3, S, S]`, last output: `[B, out_chans, G, G]`
    pub fn stages(&self) -> Vec<Stage<'_>> {
        let mut stages: Vec<Stage<'_>> = vec![Box::new(|images| self.embed_patches(images))];
        stages.extend(self.blocks.iter().map(|block| -> Stage<'_> { Box::new(|x| block.forward(x)) }));
        stages.push(Box::new(|x| self.neck.forward(x)));
        stages
    }

    /// Patch tokens with their positions, the input of the first block.
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

/// Two convolutions with their normalisations, from the tokens' dimension to the embedding's channels.
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
