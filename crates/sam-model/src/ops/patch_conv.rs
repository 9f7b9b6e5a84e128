//! Convolutions whose kernel equals their stride, as matrix products.
//!
//! SAM has five of them: the patch embedding, the two strided convolutions that downscale a mask prompt, and the two
//! transposed ones that upscale the decoder's output. Their windows never overlap, so each is one matrix product over
//! patches, which is faster than a general convolution on every backend and keeps the channels last.
//!
//! The parameters have the layout of PyTorch's `Conv2d` and `ConvTranspose2d`, so checkpoints need no conversion.
//! Shapes: `B` batch, `H W` grid, `C` input channels, `D` output channels, `K` kernel size.

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::products::linear;

/// A convolution with stride equal to its kernel, over channels-last maps.
#[derive(Module, Debug)]
pub struct PatchConv {
    /// `[D, C, K, K]`, as PyTorch's `Conv2d`.
    pub weight: Param<Tensor<4>>,
    /// `[D]`; absent where the reference has none (the neck).
    pub bias: Option<Param<Tensor<1>>>,
}

impl PatchConv {
    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub fn new(channels_in: usize, channels_out: usize, kernel: usize, bias: bool, device: &Device) -> Self {
        Self {
            weight: Initializer::Zeros.init([channels_out, channels_in, kernel, kernel], device),
            bias: bias.then(|| Initializer::Zeros.init([channels_out], device)),
        }
    }

    /// # Shapes
    /// - `x_bhwc`: `[B, H, W, C]`, `H` and `W` multiples of `K`
    /// - returns `[B, H / K, W / K, D]`
    pub fn forward(&self, x_bhwc: Tensor<4>) -> Tensor<4> {
        let [batch, height, width, channels] = x_bhwc.dims();
        let [_, channels_in, kernel, _] = self.weight.dims();
        assert_eq!(channels, channels_in, "PatchConv takes {channels_in} channels, got {channels}");
        assert!(
            height % kernel == 0 && width % kernel == 0,
            "a {height}x{width} map does not divide into {kernel}x{kernel} patches"
        );
        let (rows, columns) = (height / kernel, width / kernel);
        let patches = if kernel == 1 {
            x_bhwc
        } else {
            x_bhwc
                .reshape([batch, rows, kernel, columns, kernel, channels])
                .permute([0, 1, 3, 5, 2, 4]) // [B, H/K, W/K, C, K, K]
                .reshape([batch, rows, columns, channels * kernel * kernel])
        };
        let (weight, bias) = self.as_matrix();
        linear(patches, weight, bias)
    }

    /// The weight as a matrix, and the bias.
    ///
    /// # Shapes
    /// - returns `[C * K * K, D]` and `[D]`
    pub fn as_matrix(&self) -> (Tensor<2>, Option<Tensor<1>>) {
        let [channels_out, channels_in, kernel, _] = self.weight.dims();
        let weight = self.weight.val().reshape([channels_out, channels_in * kernel * kernel]).transpose();
        (weight, self.bias.as_ref().map(|bias| bias.val()))
    }
}

/// A transposed convolution with stride equal to its kernel, over channels-last maps.
#[derive(Module, Debug)]
pub struct PatchConvTranspose {
    /// `[C, D, K, K]`, as PyTorch's `ConvTranspose2d`.
    pub weight: Param<Tensor<4>>,
    /// `[D]`.
    pub bias: Param<Tensor<1>>,
}

impl PatchConvTranspose {
    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub fn new(channels_in: usize, channels_out: usize, kernel: usize, device: &Device) -> Self {
        Self {
            weight: Initializer::Zeros.init([channels_in, channels_out, kernel, kernel], device),
            bias: Initializer::Zeros.init([channels_out], device),
        }
    }

    /// # Shapes
    /// - `x_bhwc`: `[B, H, W, C]`
    /// - returns `[B, H * K, W * K, D]`
    pub fn forward(&self, x_bhwc: Tensor<4>) -> Tensor<4> {
        let [batch, height, width, channels] = x_bhwc.dims();
        let [channels_in, channels_out, kernel, _] = self.weight.dims();
        assert_eq!(channels, channels_in, "PatchConvTranspose takes {channels_in} channels, got {channels}");
        let bias = self.bias.val().repeat(&[kernel * kernel]);
        linear(x_bhwc, self.as_matrix(), Some(bias))
            .reshape([batch, height, width, kernel, kernel, channels_out])
            .permute([0, 1, 3, 2, 4, 5]) // [B, H, K, W, K, D]
            .reshape([batch, height * kernel, width * kernel, channels_out])
    }

    /// The weight as a matrix: channels last, so a pixel's outputs are contiguous runs of `D`.
    ///
    /// # Shapes
    /// - returns `[C, K * K * D]`
    pub fn as_matrix(&self) -> Tensor<2> {
        let [channels_in, channels_out, kernel, _] = self.weight.dims();
        self.weight.val().permute([0, 2, 3, 1]).reshape([channels_in, kernel * kernel * channels_out])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Tolerance;
    use burn::tensor::module::{conv_transpose2d, conv2d};
    use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};

    use crate::testing::Random;

    fn nchw(x: Tensor<4>) -> Tensor<4> {
        x.permute([0, 3, 1, 2])
    }

    #[test]
    fn equals_the_general_convolution() {
        let mut random = Random::new(1);
        for (channels_in, channels_out, kernel) in [(3, 5, 4), (4, 6, 2), (7, 2, 1)] {
            let conv = PatchConv {
                weight: Param::from_tensor(random.normal([channels_out, channels_in, kernel, kernel], 1.0)),
                bias: Some(Param::from_tensor(random.normal([channels_out], 1.0))),
            };
            let x = random.normal([2, 3 * kernel, 2 * kernel, channels_in], 1.0);
            let bias = conv.bias.as_ref().map(|bias| bias.val());
            let options = ConvOptions::new([kernel, kernel], [0, 0], [1, 1], 1);
            let expected = conv2d(nchw(x.clone()), conv.weight.val(), bias, options);
            let got = nchw(conv.forward(x));
            got.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-4));
        }
    }

    #[test]
    fn equals_the_general_transposed_convolution() {
        let mut random = Random::new(2);
        let conv = PatchConvTranspose {
            weight: Param::from_tensor(random.normal([6, 4, 2, 2], 1.0)),
            bias: Param::from_tensor(random.normal([4], 1.0)),
        };
        let x = random.normal([2, 3, 5, 6], 1.0);
        let options = ConvTransposeOptions::new([2, 2], [0, 0], [0, 0], [1, 1], 1);
        let expected = conv_transpose2d(nchw(x.clone()), conv.weight.val(), Some(conv.bias.val()), options);
        let got = nchw(conv.forward(x));
        got.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-4));
    }
}
