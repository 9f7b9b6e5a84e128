//! SAM's own image encoder: a plain ViT with windowed attention and a few global blocks, then a neck (arXiv 2304.02643 §A,
//! arXiv 2203.16527; `segment_anything/modeling/image_encoder.py`).
//!
//! Maps stay channels-last (`[B, H, W, C]`) from the patch embedding to the neck; the embedding is channels-first, as
//! every consumer expects. The blocks have drop path, which the published code omits.
//!
//! Shapes: `B` images, `S` image size in pixels, `G` grid size (`S / patch`), `C` embedding dimension.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::block::{Block, BlockConfig};
use super::drop_path::linear_rates;
use super::neck::Neck;
use crate::config::{MAX_DEPTH, MAX_IMAGE_SIZE, MAX_WIDTH, SizeChecks, divides};
use crate::ops::patch_conv::PatchConv;
use crate::stage::Stage;

/// Sizes of a plain ViT.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitConfig {
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

impl VitConfig {
    /// Size of the embedding in patches.
    pub fn grid_size(&self) -> usize {
        self.image_size / self.patch_size
    }

    pub(super) fn check(&self, checks: &mut SizeChecks) {
        for (name, size, limit) in [
            ("image_size", self.image_size, MAX_IMAGE_SIZE),
            ("patch_size", self.patch_size, MAX_IMAGE_SIZE),
            ("window_size", self.window_size, MAX_IMAGE_SIZE),
            ("embed_dim", self.embed_dim, MAX_WIDTH),
            ("the encoder's mlp_dim", self.mlp_dim, MAX_WIDTH),
            ("out_chans", self.out_chans, MAX_WIDTH),
            ("the encoder's depth", self.depth, MAX_DEPTH),
        ] {
            checks.require(size <= limit, || format!("{name} must be at most {limit}, got {size}"));
        }
        checks.require(divides(self.patch_size, self.image_size), || {
            format!("image_size {} must be a multiple of patch_size {}", self.image_size, self.patch_size)
        });
        checks.require(divides(self.num_heads, self.embed_dim), || {
            format!("num_heads {} must divide embed_dim {}", self.num_heads, self.embed_dim)
        });
        checks.require(self.depth > 0, || "depth must be at least 1".into());
        checks.require(self.mlp_dim > 0 && self.out_chans > 0, || "mlp_dim and out_chans must be at least 1".into());
        for &block in &self.global_attn_indexes {
            checks.require(block < self.depth, || {
                format!("global_attn_indexes names block {block}, but there are only {} blocks", self.depth)
            });
        }
        checks.require(self.window_size > 0 || self.global_attn_indexes.len() == self.depth, || {
            "window_size must be at least 1 unless every block is global".into()
        });
        checks.require((0.0..1.0).contains(&self.drop_path_rate), || {
            format!("drop_path_rate must be in [0, 1), got {}", self.drop_path_rate)
        });
    }

    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    ///
    /// # Panics
    /// When sizes do not divide; [`crate::SamConfig::check`] reports it beforehand.
    pub fn init(&self, device: &Device) -> Vit {
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
        Vit {
            patch_embed: PatchEmbed { proj: PatchConv::new(3, embed_dim, self.patch_size, true, device) },
            pos_embed: Initializer::Zeros.init([1, grid, grid, embed_dim], device),
            blocks,
            neck: Neck::new(embed_dim, out_chans, device),
        }
    }
}

/// The plain ViT and its neck.
#[derive(Module, Debug)]
pub struct Vit {
    /// Patches to tokens.
    pub patch_embed: PatchEmbed,
    /// `[1, G, G, C]`, added to the patch tokens.
    pub pos_embed: Param<Tensor<4>>,
    /// The transformer.
    pub blocks: Vec<Block>,
    /// Tokens to the embedding's channels.
    pub neck: Neck,
}

impl Vit {
    /// Patch embedding and blocks, as stages.
    ///
    /// # Shapes
    /// - first input: `[B, 3, S, S]`, last output: `[B, G, G, C]`
    pub(super) fn stages_before_neck(&self) -> Vec<Stage<'_>> {
        let mut stages: Vec<Stage<'_>> = vec![Box::new(|images| self.embed_patches(images))];
        stages.extend(self.blocks.iter().map(|block| -> Stage<'_> { Box::new(|x| block.forward(x)) }));
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
