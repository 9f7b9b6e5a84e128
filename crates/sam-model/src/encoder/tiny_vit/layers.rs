//! The parts of TinyViT that are convolutions (`tiny_vit_sam.py`): the stem, inverted bottlenecks, and what shrinks a map between
//! two layers.
//!
//! Letters: `B` images, `H W` map, `C` channels, `D` channels of the next layer.

use burn::module::Module;
use burn::tensor::{Device, Tensor};

use super::config::TinyVitConfig;
use super::conv_norm::{ConvNorm, ConvSizes};
use super::window_block::WindowBlock;
use crate::encoder::drop_path::DropPath;
use crate::ops::convolution::{Then, bottleneck, then};
use crate::stage::Stage;

/// The stem: two convolutions of stride 2.
#[derive(Module, Debug)]
pub struct PatchEmbedding {
    /// The two of them. The reference has an activation in between, so its keys are `seq.0` and `seq.2`.
    pub seq: Vec<ConvNorm>,
}

impl PatchEmbedding {
    pub(super) fn new(config: &TinyVitConfig, device: &Device) -> Self {
        let dim = config.embed_dims[0];
        let conv = |channels_in: usize, channels_out: usize| {
            ConvSizes { channels_in, channels_out, kernel: 3, stride: 2, is_depthwise: false }
                .init(config.batch_norm, device)
        };
        Self { seq: vec![conv(3, dim / 2), conv(dim / 2, dim)] }
    }

    /// # Shapes
    /// - `images`: `[B, 3, S, S]`
    /// - returns `[B, S / 4, S / 4, C]`
    pub(super) fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let x = self.seq[0].forward_images(images, Then::Gelu);
        self.seq[1].forward(x, Then::Nothing)
    }
}

/// A layer of convolutions.
#[derive(Module, Debug)]
pub struct ConvLayer {
    /// Inverted bottlenecks.
    pub blocks: Vec<MbConv>,
    /// To the next layer.
    pub downsample: PatchMerging,
}

pub(super) fn conv_layer(config: &TinyVitConfig, drop_path_rates: &[f64], device: &Device) -> ConvLayer {
    let block = |&rate: &f64| MbConv::new(config, rate, device);
    ConvLayer { blocks: drop_path_rates.iter().map(block).collect(), downsample: PatchMerging::new(config, 0, device) }
}

impl ConvLayer {
    pub(super) fn push_stages<'a>(&'a self, stages: &mut Vec<Stage<'a>>) {
        stages.extend(self.blocks.iter().map(|block| -> Stage<'a> { Box::new(|x| block.forward(x)) }));
        stages.push(Box::new(|x| self.downsample.forward(x)));
    }
}

/// A layer of windowed attention.
#[derive(Module, Debug)]
pub struct WindowLayer {
    /// Attention, a convolution and an MLP each.
    pub blocks: Vec<WindowBlock>,
    /// To the next layer; absent from the last.
    pub downsample: Option<PatchMerging>,
}

impl WindowLayer {
    pub(super) fn push_stages<'a>(&'a self, stages: &mut Vec<Stage<'a>>) {
        stages.extend(self.blocks.iter().map(|block| -> Stage<'a> { Box::new(|x| block.forward(x)) }));
        stages.extend(self.downsample.iter().map(|down| -> Stage<'a> { Box::new(|x| down.forward(x)) }));
    }
}

/// An inverted bottleneck: wider, a convolution of each channel, narrower, and a residual. The activation after the sum is the
/// reference's.
#[derive(Module, Debug)]
pub struct MbConv {
    /// 1 x 1, to the hidden channels.
    pub conv1: ConvNorm,
    /// 3 x 3, depthwise.
    pub conv2: ConvNorm,
    /// 1 x 1, back.
    pub conv3: ConvNorm,
    /// On the branch.
    pub drop_path: DropPath,
}

impl MbConv {
    fn new(config: &TinyVitConfig, drop_path_rate: f64, device: &Device) -> Self {
        let dim = config.embed_dims[0];
        let hidden = dim * config.mbconv_ratio;
        let conv = |sizes: ConvSizes| sizes.init(config.batch_norm, device);
        Self {
            conv1: conv(ConvSizes::pointwise(dim, hidden)),
            conv2: conv(ConvSizes::depthwise(hidden, 1)),
            conv3: conv(ConvSizes::pointwise(hidden, dim)),
            drop_path: DropPath::new(drop_path_rate),
        }
    }

    /// # Shapes
    /// - `x`: `[B, H, W, C]`
    /// - returns the same shape
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if !x.device().is_autodiff() {
            return bottleneck(x, [&self.conv1, &self.conv2, &self.conv3].map(ConvNorm::with_norm), true);
        }
        let branch = self.conv1.forward(x.clone(), Then::Gelu);
        let branch = self.conv2.forward(branch, Then::Gelu);
        let branch = self.conv3.forward(branch, Then::Nothing);
        then(x + self.drop_path.forward(branch), Then::Gelu)
    }
}

/// From one layer to the next: other channels, and half the size but before the last layer, which keeps the grid of 16 px.
#[derive(Module, Debug)]
pub struct PatchMerging {
    /// 1 x 1.
    pub conv1: ConvNorm,
    /// 3 x 3, depthwise, of stride 2 or 1.
    pub conv2: ConvNorm,
    /// 1 x 1.
    pub conv3: ConvNorm,
}

impl PatchMerging {
    /// That at the end of a layer. The reference decides the stride by the number of channels (320, 448 and 576 keep the size),
    /// which is that of the last layer in all of its sizes.
    pub(super) fn new(config: &TinyVitConfig, layer: usize, device: &Device) -> Self {
        let [from, to] = [config.embed_dims[layer], config.embed_dims[layer + 1]];
        let stride = if layer + 2 == config.embed_dims.len() { 1 } else { 2 };
        let conv = |sizes: ConvSizes| sizes.init(config.batch_norm, device);
        Self {
            conv1: conv(ConvSizes::pointwise(from, to)),
            conv2: conv(ConvSizes::depthwise(to, stride)),
            conv3: conv(ConvSizes::pointwise(to, to)),
        }
    }

    /// # Shapes
    /// - `x`: `[B, H, W, C]`
    /// - returns `[B, H / stride, W / stride, D]`
    pub(super) fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if !x.device().is_autodiff() {
            return bottleneck(x, [&self.conv1, &self.conv2, &self.conv3].map(ConvNorm::with_norm), false);
        }
        let x = self.conv1.forward(x, Then::Gelu);
        let x = self.conv2.forward(x, Then::Gelu);
        self.conv3.forward(x, Then::Nothing)
    }
}
