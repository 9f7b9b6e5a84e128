//! A convolution without bias and its batch norm, of which every convolution of TinyViT consists (`tiny_vit_sam.py::Conv2d_BN`).
//!
//! Letters: `B` images, `H W` map, `C` channels in, `D` channels out, `K` kernel size.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::batch_norm::BatchNorm;
use super::config::BatchNormStatistics;
use crate::ops::convolution::{Convolution, Then, convolution, convolution_of_images, then};

/// Sizes of a convolution. Its padding keeps the map's size, but for the stride.
#[derive(Clone, Copy, Debug)]
pub(super) struct ConvSizes {
    pub(super) channels_in: usize,
    pub(super) channels_out: usize,
    /// 1 or 3.
    pub(super) kernel: usize,
    pub(super) stride: usize,
    /// One kernel per channel instead of one over all.
    pub(super) is_depthwise: bool,
}

impl ConvSizes {
    /// 1 x 1.
    pub(super) fn pointwise(channels_in: usize, channels_out: usize) -> Self {
        Self { channels_in, channels_out, kernel: 1, stride: 1, is_depthwise: false }
    }

    /// 3 x 3, each channel for itself.
    pub(super) fn depthwise(channels: usize, stride: usize) -> Self {
        Self { channels_in: channels, channels_out: channels, kernel: 3, stride, is_depthwise: true }
    }

    pub(super) fn init(self, statistics: BatchNormStatistics, device: &Device) -> ConvNorm {
        let Self { channels_in, channels_out, kernel, stride, is_depthwise } = self;
        let shape = [channels_out, if is_depthwise { 1 } else { channels_in }, kernel, kernel];
        ConvNorm {
            c: ConvWeight { weight: Initializer::Zeros.init(shape, device) },
            bn: BatchNorm::new(channels_out, statistics, device),
            stride,
            is_depthwise,
        }
    }
}

/// A convolution and its batch norm.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// Without bias.
    pub c: ConvWeight,
    /// After it.
    pub bn: BatchNorm,
    pub(super) stride: usize,
    pub(super) is_depthwise: bool,
}

/// The parameter of a convolution.
#[derive(Module, Debug)]
pub struct ConvWeight {
    /// `[D, C, K, K]`, or `[D, 1, K, K]`, as PyTorch's `Conv2d`.
    pub weight: Param<Tensor<4>>,
}

impl ConvNorm {
    /// # Shapes
    /// - `x_bhwc`: `[B, H, W, C]`
    /// - returns `[B, H / stride, W / stride, D]`
    pub(super) fn forward(&self, x_bhwc: Tensor<4>, after: Then) -> Tensor<4> {
        match self.takes_batch(&x_bhwc) {
            true => self.normalise(convolution(x_bhwc, self.without_norm(), Then::Nothing), after),
            false => convolution(x_bhwc, self.with_norm(), after),
        }
    }

    /// # Shapes
    /// - `images`: `[B, C, H, W]`
    /// - returns `[B, H / stride, W / stride, D]`
    pub(super) fn forward_images(&self, images: Tensor<4>, after: Then) -> Tensor<4> {
        match self.takes_batch(&images) {
            true => self.normalise(convolution_of_images(images, self.without_norm(), Then::Nothing), after),
            false => convolution_of_images(images, self.with_norm(), after),
        }
    }

    fn takes_batch(&self, x: &Tensor<4>) -> bool {
        self.bn.takes_batch(&x.device())
    }

    fn normalise(&self, convolved: Tensor<4>, after: Then) -> Tensor<4> {
        then(self.bn.forward_batch(convolved), after)
    }

    /// The weight and the bias of a convolution that gives the same by the stored statistics.
    ///
    /// # Shapes
    /// - returns `[D, C, K, K]` (`[D, 1, K, K]` of a depthwise one) and `[D]`
    pub fn folded(&self) -> (Tensor<4>, Tensor<1>) {
        let [scale, shift] = self.bn.scale_and_shift();
        let [channels] = scale.dims();
        (self.c.weight.val() * scale.reshape([channels, 1, 1, 1]), shift)
    }

    /// Moves the norm into the convolution; what is left of it adds the bias.
    pub(super) fn fold(&mut self) {
        let (weight, bias) = self.folded();
        let id = self.c.weight.id;
        self.c.weight = self.c.weight.clone().transform_for_load(weight, id);
        self.bn.only_add(bias);
    }

    /// The convolution with its norm folded into it.
    pub(super) fn with_norm(&self) -> Convolution {
        let (weight, bias) = self.folded();
        Convolution { weight, bias, stride: self.stride, is_depthwise: self.is_depthwise }
    }

    fn without_norm(&self) -> Convolution {
        let weight = self.c.weight.val();
        let bias = Tensor::zeros([weight.dims()[0]], (&weight.device(), weight.dtype()));
        Convolution { weight, bias, stride: self.stride, is_depthwise: self.is_depthwise }
    }
}
