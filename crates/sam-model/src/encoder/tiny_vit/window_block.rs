//! TinyViT's transformer block: attention in windows with a bias per offset, a convolution of each channel, an MLP
//! (`tiny_vit_sam.py::TinyViTBlock`). The norms are inside of attention and MLP, as the keys have them.
//!
//! Shapes: `B` images, `H W` grid, `C` channels, `A` heads, `W` side of a window.

use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig, Linear};
use burn::tensor::{Device, Tensor};

use super::config::TinyVitConfig;
use super::conv_norm::{ConvNorm, ConvSizes};
use super::layers::{PatchMerging, WindowLayer};
use crate::encoder::drop_path::DropPath;
use crate::ops::attention::{WindowAttentionInputs, window_attention};
use crate::ops::convolution::Then;
use crate::ops::layer_norm::normalise;
use crate::ops::linear::{linear, linear_layer};
use crate::ops::mlp::{Activation, two_layers};

/// Epsilon of the layer norms (PyTorch's default, which TinyViT takes).
const LAYER_NORM_EPS: f64 = 1e-5;

/// Layer 1, 2 or 3.
pub(super) fn window_layer(
    config: &TinyVitConfig,
    layer: usize,
    drop_path_rates: &[f64],
    device: &Device,
) -> WindowLayer {
    let block = |&rate: &f64| WindowBlock::new(config, layer, rate, device);
    let is_last = layer + 1 == config.embed_dims.len();
    WindowLayer {
        blocks: drop_path_rates.iter().map(block).collect(),
        downsample: (!is_last).then(|| PatchMerging::new(config, layer, device)),
    }
}

/// A block of windowed attention.
#[derive(Module, Debug)]
pub struct WindowBlock {
    /// In windows, with its norm.
    pub attn: WindowAttention,
    /// 3 x 3, depthwise; neither a residual nor an activation.
    pub local_conv: ConvNorm,
    /// With its norm.
    pub mlp: NormMlp,
    /// On both branches.
    pub drop_path: DropPath,
}

impl WindowBlock {
    fn new(config: &TinyVitConfig, layer: usize, drop_path_rate: f64, device: &Device) -> Self {
        let dim = config.embed_dims[layer];
        let [heads, window] = [config.num_heads[layer - 1], config.window_sizes[layer - 1]];
        Self {
            attn: WindowAttention {
                norm: norm(dim, device),
                qkv: linear_layer(dim, 3 * dim, device),
                proj: linear_layer(dim, dim, device),
                attention_biases: Initializer::Zeros.init([heads, window * window], device),
                window,
            },
            local_conv: ConvSizes::depthwise(dim, 1).init(config.batch_norm, device),
            mlp: NormMlp {
                norm: norm(dim, device),
                fc1: linear_layer(dim, dim * config.mlp_ratio, device),
                fc2: linear_layer(dim * config.mlp_ratio, dim, device),
            },
            drop_path: DropPath::new(drop_path_rate),
        }
    }

    /// # Shapes
    /// - `x`: `[B, H, W, C]`
    /// - returns the same shape
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = x.clone() + self.drop_path.forward(self.attn.forward(x));
        let x = self.local_conv.forward(x, Then::Nothing);
        x.clone() + self.drop_path.forward(self.mlp.forward(x))
    }
}

fn norm(dim: usize, device: &Device) -> LayerNorm {
    LayerNormConfig::new(dim).with_epsilon(LAYER_NORM_EPS).init(device)
}

/// Self-attention in windows.
#[derive(Module, Debug)]
pub struct WindowAttention {
    /// Before the projection.
    pub norm: LayerNorm,
    /// To queries, keys and values of one head after the other.
    pub qkv: Linear,
    /// Projects the concatenated heads.
    pub proj: Linear,
    /// `[A, W * W]`, added to the scores by the distances of rows and of columns, `|dy| * W + |dx|`.
    pub attention_biases: Param<Tensor<2>>,
    pub(super) window: usize,
}

impl WindowAttention {
    /// # Shapes
    /// - `x`: `[B, H, W, C]`
    /// - returns the same shape
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let qkv = linear(&self.qkv, normalise(x, &self.norm, LAYER_NORM_EPS));
        // The reference pads maps to whole windows with zeros, of which the norm leaves its bias.
        let of_zeros = self.norm.beta.as_ref().expect("every norm of the reference has a bias").val();
        let padding = linear(&self.qkv, of_zeros.unsqueeze::<2>()).squeeze_dim::<1>(0);
        let biases = self.attention_biases.val();
        linear(&self.proj, window_attention(WindowAttentionInputs { qkv, padding, biases, window: self.window }))
    }
}

/// A norm and two layers with GELU between them.
#[derive(Module, Debug)]
pub struct NormMlp {
    /// Before the layers.
    pub norm: LayerNorm,
    /// `[C] -> [hidden]`.
    pub fc1: Linear,
    /// `[hidden] -> [C]`.
    pub fc2: Linear,
}

impl NormMlp {
    /// # Shapes
    /// - `x`: `[B, H, W, C]`
    /// - returns the same shape
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        two_layers([&self.fc1, &self.fc2], Activation::Gelu, normalise(x, &self.norm, LAYER_NORM_EPS))
    }
}
