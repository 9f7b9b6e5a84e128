//! Convolutions of 1 x 1 and 3 x 3 over channels-last maps, with a bias and an activation: those of TinyViT, whose batch norms
//! are folded into them; and its inverted bottlenecks, three of them in one.
//!
//! The weight has the layout of PyTorch's `Conv2d`. A map is padded by half a kernel, so its size is divided by the stride.
//! On the CPU, depthwise convolutions are a kernel with a backward pass, 1 x 1 ones a linear layer; dense 3 x 3 ones and
//! bottlenecks are kernels without gradients only.
//!
//! Letters: `B` images, `H W` map, `C` channels in, `D` channels out, `K` kernel size.

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Device, Tensor};
use sam_kernel::bottleneck::Bottleneck;
use sam_kernel::convolution::{self as kernel, Order};
use sam_kernel::depthwise::{After, Depthwise, DepthwiseNeeds};
use sam_kernel::linear::Linear;

use super::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};
use super::gelu::gelu;
use super::linear::linear_of;

/// A convolution.
#[derive(Clone, Debug)]
pub(crate) struct Convolution {
    /// `[D, C, K, K]`, of a depthwise one `[D, 1, K, K]`.
    pub(crate) weight: Tensor<4>,
    /// `[D]`.
    pub(crate) bias: Tensor<1>,
    /// 1 or 2.
    pub(crate) stride: usize,
    /// One kernel per channel instead of one over all.
    pub(crate) is_depthwise: bool,
}

/// What follows an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Nothing.
    Nothing,
    /// Exact GELU.
    Gelu,
}

/// Applies a convolution and what follows.
///
/// # Shapes
/// - `x_bhwc`: `[B, H, W, C]`
/// - returns `[B, H / stride, W / stride, D]`
pub(crate) fn convolution(x_bhwc: Tensor<4>, layer: Convolution, after: Then) -> Tensor<4> {
    let [channels_out, channels_in, kernel, _] = layer.weight.dims();
    if kernel == 1 && layer.stride == 1 && !layer.is_depthwise {
        let matrix = layer.weight.reshape([channels_out, channels_in]).transpose();
        return then(linear_of(x_bhwc, matrix, layer.bias), after);
    }
    if !is_fusible(&x_bhwc) {
        return plain(x_bhwc, layer, after);
    }
    if layer.is_depthwise {
        return depthwise(x_bhwc, layer, after);
    }
    let [images, height, width, _] = x_bhwc.dims();
    match has_gradients(&x_bhwc, &layer) {
        true => plain(x_bhwc, layer, after),
        false => dense(x_bhwc, layer, DenseOp::new([images, height, width], Order::ChannelsLast, after)),
    }
}

/// As [`convolution`], of images as they come.
///
/// # Shapes
/// - `images`: `[B, C, H, W]`
/// - returns `[B, H / stride, W / stride, D]`
pub(crate) fn convolution_of_images(images: Tensor<4>, layer: Convolution, after: Then) -> Tensor<4> {
    let [batch, _, height, width] = images.dims();
    if is_fusible(&images) && !has_gradients(&images, &layer) {
        return dense(images, layer, DenseOp::new([batch, height, width], Order::ChannelsFirst, after));
    }
    convolution(images.permute([0, 2, 3, 1]), layer, after)
}

/// An inverted bottleneck without gradients: a 1 x 1 convolution and GELU, a depthwise one and GELU, a 1 x 1 one; of a residual
/// one then the input and GELU.
///
/// # Shapes
/// - `x_bhwc`: `[B, H, W, C]`
/// - returns `[B, H / stride, W / stride, D]`
pub(crate) fn bottleneck(x_bhwc: Tensor<4>, layers: [Convolution; 3], is_residual: bool) -> Tensor<4> {
    let is_learning = layers.iter().any(|layer| has_gradients(&x_bhwc, layer));
    let [first, middle, last] = layers;
    if !is_fusible(&x_bhwc) || is_learning {
        let x = convolution(x_bhwc.clone(), first, Then::Gelu);
        let x = convolution(convolution(x, middle, Then::Gelu), last, Then::Nothing);
        return if is_residual { then(x_bhwc + x, Then::Gelu) } else { x };
    }
    let [images, height, width, _] = x_bhwc.dims();
    let matrix = |layer: &Convolution| {
        let [channels_out, channels_in, ..] = layer.weight.dims();
        layer.weight.clone().reshape([channels_out, channels_in]).transpose()
    };
    let inputs = [
        x_bhwc.into_dispatch(),
        matrix(&first).into_dispatch(),
        first.bias.into_dispatch(),
        middle.weight.into_dispatch(),
        middle.bias.into_dispatch(),
        matrix(&last).into_dispatch(),
        last.bias.into_dispatch(),
    ];
    fused(BottleneckOp { images, size_hw: [height, width], stride: middle.stride, is_residual }, inputs)
}

/// Applies what follows.
///
/// # Shapes
/// - `x`: any
/// - returns the same shape
pub(crate) fn then(x: Tensor<4>, after: Then) -> Tensor<4> {
    match after {
        Then::Nothing => x,
        Then::Gelu => gelu(x),
    }
}

fn has_gradients(x: &Tensor<4>, layer: &Convolution) -> bool {
    let is_autodiff = |device: Device| device.is_autodiff();
    is_autodiff(x.device()) || is_autodiff(layer.weight.device())
}

/// In burn's operations.
fn plain(x_bhwc: Tensor<4>, layer: Convolution, after: Then) -> Tensor<4> {
    let Convolution { weight, bias, stride, is_depthwise } = layer;
    let [channels_out, _, kernel, _] = weight.dims();
    let (padding, groups) = (kernel / 2, if is_depthwise { channels_out } else { 1 });
    let options = ConvOptions::new([stride; 2], [padding; 2], [1, 1], groups);
    let y = conv2d(x_bhwc.permute([0, 3, 1, 2]), weight, Some(bias), options);
    // Before the map is permuted, which would then be copied.
    then(y, after).permute([0, 2, 3, 1])
}

fn depthwise(x_bhwc: Tensor<4>, layer: Convolution, after: Then) -> Tensor<4> {
    let [images, height, width, channels] = x_bhwc.dims();
    let sizes = Depthwise { images, size_hw: [height, width], channels, stride: layer.stride };
    // With gradients the activation is an operation of its own.
    let inside = if has_gradients(&x_bhwc, &layer) { Then::Nothing } else { after };
    let inputs = [x_bhwc.into_dispatch(), layer.weight.into_dispatch(), layer.bias.into_dispatch()];
    let out = fused(DepthwiseOp { sizes, after: inside.of_kernel() }, inputs);
    if inside == after { out } else { then(out, after) }
}

fn dense(x: Tensor<4>, layer: Convolution, operation: DenseOp) -> Tensor<4> {
    let operation = DenseOp { stride: layer.stride, ..operation };
    fused(operation, [x.into_dispatch(), layer.weight.into_dispatch(), layer.bias.into_dispatch()])
}

impl Then {
    fn of_kernel(self) -> After {
        match self {
            Then::Nothing => After::Nothing,
            Then::Gelu => After::Gelu,
        }
    }
}

#[derive(Debug)]
struct DepthwiseOp {
    sizes: Depthwise,
    after: After,
}

impl SliceOperation<3> for DepthwiseOp {
    fn forward(&self, [x, weight, bias]: [&[f32]; 3]) -> SliceOutput {
        let Depthwise { images, channels, .. } = self.sizes;
        let [height, width] = self.sizes.out_hw();
        SliceOutput::new(self.sizes.forward(x, weight, bias, self.after), [images, height, width, channels])
    }

    fn backward(&self, pass: BackwardInputs<'_, 3>) -> [Vec<f32>; 3] {
        let [x, weight, _] = pass.inputs;
        let needs = DepthwiseNeeds { x: pass.needs_grad[0], weight: pass.needs_grad[1] };
        let grads = self.sizes.backward(x, weight, pass.d_output, needs);
        [grads.x, grads.weight, grads.bias]
    }
}

#[derive(Debug)]
struct DenseOp {
    images: usize,
    size_hw: [usize; 2],
    order: Order,
    stride: usize,
    after: After,
}

impl DenseOp {
    fn new([images, height, width]: [usize; 3], order: Order, after: Then) -> Self {
        Self { images, size_hw: [height, width], order, stride: 1, after: after.of_kernel() }
    }
}

impl SliceOperation<3> for DenseOp {
    fn forward(&self, [x, weight, bias]: [&[f32]; 3]) -> SliceOutput {
        let Self { images, size_hw, order, stride, after } = *self;
        let layer = kernel::Convolution { images, size_hw, order, stride, weight, bias, after };
        let [height, width] = layer.out_hw();
        SliceOutput::new(layer.forward(x), [images, height, width, bias.len()])
    }

    fn backward(&self, _pass: BackwardInputs<'_, 3>) -> [Vec<f32>; 3] {
        unreachable!("with gradients, dense convolutions are burn's")
    }
}

#[derive(Debug)]
struct BottleneckOp {
    images: usize,
    size_hw: [usize; 2],
    stride: usize,
    is_residual: bool,
}

impl SliceOperation<7> for BottleneckOp {
    fn forward(&self, [x, first, first_bias, depthwise, depthwise_bias, last, last_bias]: [&[f32]; 7]) -> SliceOutput {
        let Self { images, size_hw, stride, is_residual } = *self;
        let block = Bottleneck {
            images,
            size_hw,
            stride,
            first: Linear { weight: first, bias: first_bias },
            depthwise,
            depthwise_bias,
            last: Linear { weight: last, bias: last_bias },
            is_residual,
        };
        let [height, width] = block.out_hw();
        SliceOutput::new(block.forward(x), [images, height, width, last_bias.len()])
    }

    fn backward(&self, _pass: BackwardInputs<'_, 7>) -> [Vec<f32>; 7] {
        unreachable!("with gradients, bottlenecks are made of their parts")
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Tolerance};

    use super::*;
    use crate::testing::Random;

    fn layer(
        random: &mut Random,
        [channels_in, channels_out]: [usize; 2],
        kernel: usize,
        stride: usize,
        is_depthwise: bool,
    ) -> Convolution {
        let weight = random.normal([channels_out, if is_depthwise { 1 } else { channels_in }, kernel, kernel], 0.5);
        Convolution { weight, bias: random.normal([channels_out], 0.5), stride, is_depthwise }
    }

    /// f64 takes the plain form.
    fn wide(layer: &Convolution) -> Convolution {
        let (weight, bias) = (layer.weight.clone().cast(DType::F64), layer.bias.clone().cast(DType::F64));
        Convolution { weight, bias, ..layer.clone() }
    }

    fn equal(got: Tensor<4>, expected: Tensor<4>) {
        let expected = expected.cast(DType::F32).into_data();
        got.into_data().assert_approx_eq::<f32>(&expected, Tolerance::absolute(2e-5));
    }

    #[test]
    fn kernels_equal_the_plain_form() {
        let random = &mut Random::new(1);
        for after in [Then::Nothing, Then::Gelu] {
            for layer in [
                layer(random, [6, 5], 1, 1, false),
                layer(random, [6, 5], 3, 2, false),
                layer(random, [6, 6], 3, 1, true),
                layer(random, [6, 6], 3, 2, true),
            ] {
                let x = random.normal([2, 7, 10, 6], 0.5);
                let expected = convolution(x.clone().cast(DType::F64), wide(&layer), after);
                equal(convolution(x.clone(), layer.clone(), after), expected.clone());
                if !layer.is_depthwise && layer.stride == 2 {
                    equal(convolution_of_images(x.permute([0, 3, 1, 2]), layer, after), expected);
                }
            }
        }
    }

    #[test]
    fn a_bottleneck_equals_its_parts() {
        let random = &mut Random::new(2);
        for (stride, channels_out, is_residual) in [(1, 6, true), (2, 9, false)] {
            let layers = [
                layer(random, [6, 20], 1, 1, false),
                layer(random, [20, 20], 3, stride, true),
                layer(random, [20, channels_out], 1, 1, false),
            ];
            let x = random.normal([2, 9, 11, 6], 0.5);
            let expected = bottleneck(x.clone().cast(DType::F64), layers.each_ref().map(wide), is_residual);
            equal(bottleneck(x, layers, is_residual), expected);
        }
    }
}
