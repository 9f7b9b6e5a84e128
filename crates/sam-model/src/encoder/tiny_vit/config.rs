//! Sizes of a TinyViT, and the checks that they fit together.

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{PatchEmbedding, TinyVit, conv_layer, window_layer};
use crate::config::{MAX_DEPTH, MAX_IMAGE_SIZE, MAX_WIDTH, SizeChecks, divides};
use crate::encoder::drop_path::linear_rates;
use crate::encoder::neck::Neck;

/// Layers of attention, after the one of convolutions.
pub(super) const WINDOW_LAYERS: usize = 3;

/// Sizes of a TinyViT: a stem, a layer of convolutions and three of windowed attention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TinyVitConfig {
    /// Size of the square input in pixels; a multiple of 16. No tensor depends on it.
    pub image_size: usize,
    /// Channels of the four layers.
    pub embed_dims: [usize; 4],
    /// Blocks of the four layers.
    pub depths: [usize; 4],
    /// Attention heads of layers 1 to 3, which divide their channels.
    pub num_heads: [usize; WINDOW_LAYERS],
    /// Sides of the windows of layers 1 to 3.
    pub window_sizes: [usize; WINDOW_LAYERS],
    /// Hidden channels of the convolutions of layer 0, as a multiple of its channels.
    pub mbconv_ratio: usize,
    /// Hidden dimension of the MLPs of layers 1 to 3, as a multiple of their channels.
    pub mlp_ratio: usize,
    /// Channels of the embedding.
    pub out_chans: usize,
    /// Drop path rate of the last block in training; rates increase linearly from 0 at block 0.
    #[serde(default)]
    pub drop_path_rate: f64,
    /// What batch norms do in training.
    #[serde(default)]
    pub batch_norm: BatchNormStatistics,
}

/// The statistics that batch norms take in training. In prediction they are always the stored ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchNormStatistics {
    /// The stored ones, which do not change: right for a few images per step.
    #[default]
    Frozen,
    /// Those of the batch; the stored ones follow them. Needs batches of at least eight images or so.
    Running,
}

impl TinyVitConfig {
    /// Side of a cell of the embedding in pixels.
    pub const STRIDE: usize = 16;

    /// TinyViT-5M as in MobileSAM (arXiv 2306.14289; arXiv 2207.10666 table 1), at 1024 px.
    pub fn published() -> Self {
        Self {
            image_size: 1024,
            embed_dims: [64, 128, 160, 320],
            depths: [2, 2, 6, 2],
            num_heads: [4, 5, 10],
            window_sizes: [7, 14, 7],
            mbconv_ratio: 4,
            mlp_ratio: 4,
            out_chans: 256,
            drop_path_rate: 0.0,
            batch_norm: BatchNormStatistics::Frozen,
        }
    }

    /// Channels of the last layer.
    pub fn last_dim(&self) -> usize {
        self.embed_dims[WINDOW_LAYERS]
    }

    /// Blocks of all layers.
    pub fn depth(&self) -> usize {
        self.depths.iter().sum()
    }

    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    ///
    /// # Panics
    /// When sizes do not fit together; [`crate::SamConfig::check`] reports it beforehand.
    pub fn init(&self, device: &Device) -> TinyVit {
        let rates = linear_rates(self.drop_path_rate, self.depth());
        let first_block = |layer: usize| self.depths[..layer].iter().sum::<usize>();
        let rates_of = |layer: usize| &rates[first_block(layer)..][..self.depths[layer]];
        TinyVit {
            patch_embed: PatchEmbedding::new(self, device),
            conv_layer: conv_layer(self, rates_of(0), device),
            window_layers: (1..=WINDOW_LAYERS)
                .map(|layer| window_layer(self, layer, rates_of(layer), device))
                .collect(),
            neck: Neck::new(self.last_dim(), self.out_chans, device),
        }
    }

    pub(in crate::encoder) fn check(&self, checks: &mut SizeChecks) {
        let mut bounded = |name: &str, size: usize, limit: usize| {
            let is_inside = (1..=limit).contains(&size);
            checks.require(is_inside, || format!("{name} must be from 1 to {limit}, got {size}"));
        };
        bounded("image_size", self.image_size, MAX_IMAGE_SIZE);
        bounded("out_chans", self.out_chans, MAX_WIDTH);
        bounded("mbconv_ratio", self.mbconv_ratio, MAX_WIDTH);
        bounded("mlp_ratio", self.mlp_ratio, MAX_WIDTH);
        self.embed_dims.iter().for_each(|&size| bounded("embed_dims", size, MAX_WIDTH));
        self.depths.iter().for_each(|&size| bounded("depths", size, MAX_DEPTH));
        self.window_sizes.iter().for_each(|&size| bounded("window_sizes", size, MAX_WINDOW));
        checks.require(divides(Self::STRIDE, self.image_size), || {
            format!("image_size {} must be a multiple of {}", self.image_size, Self::STRIDE)
        });
        checks.require(divides(2, self.embed_dims[0]), || {
            format!("the first of embed_dims must be even, got {}", self.embed_dims[0])
        });
        for (heads, dim) in self.num_heads.into_iter().zip(&self.embed_dims[1..]) {
            checks.require(divides(heads, *dim), || format!("num_heads {heads} must divide embed_dims {dim}"));
        }
        checks.require((0.0..1.0).contains(&self.drop_path_rate), || {
            format!("drop_path_rate must be in [0, 1), got {}", self.drop_path_rate)
        });
    }
}

/// A table of biases has as many values per head as a window has cells, and a map of them the square of that; larger ones
/// indicate a damaged file (TinyViT-21M at 512 px has 32).
const MAX_WINDOW: usize = 64;
