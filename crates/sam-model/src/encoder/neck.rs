//! The neck of every image encoder (arXiv 2203.16527 §3; `segment_anything/modeling/image_encoder.py`): from the dimension of
//! the network's maps to the channels of the embedding.
//!
//! Shapes: `B` images, `G` grid size, `C` channels of the network's last map.

use burn::module::{Initializer, Module, Param};
use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};

use crate::ops::layer_norm::LayerNorm2d;
use crate::ops::patch_conv::PatchConv;

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
    /// Parameters at zero, norms at the identity, to be filled by a checkpoint or by [`crate::init`].
    pub(super) fn new(channels_in: usize, out_chans: usize, device: &Device) -> Self {
        Self {
            conv1: PatchConv::new(channels_in, out_chans, 1, false, device),
            norm1: LayerNorm2d::new(out_chans, device),
            conv2: NeckConv { weight: Initializer::Zeros.init([out_chans, out_chans, 3, 3], device) },
            norm2: LayerNorm2d::new(out_chans, device),
        }
    }

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
