//! Linear layers over the last axis, with a low-rank adapter beside the weight or without.

use burn::module::Initializer;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use sam_kernel::linear::{self as kernel, LinearNeeds};
use sam_kernel::low_rank::LowRankLinear;

use super::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};
use super::products;
use crate::lora::LowRankAdapter;

/// A linear layer whose parameters are zero until a checkpoint or [`crate::init`] fills them.
pub(crate) fn linear_layer(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs).with_initializer(Initializer::Zeros).init(device)
}

/// Whether a low-rank adapter stands beside the layer's weight.
pub(crate) fn is_adapted(layer: &Linear) -> bool {
    layer.weight.reparameterization::<LowRankAdapter>().is_some()
}

/// Applies a linear layer, with its adapter if it has one.
///
/// # Shapes
/// - `x`: `[.., inputs]`
/// - returns `[.., outputs]`
pub(crate) fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    linear_in(layer, x, LayerPrecision::AsSet)
}

/// The numbers that a layer multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LayerPrecision {
    /// As is set for all products.
    AsSet,
    /// Of 8 bits, where the layer is one operation on the CPU; the backward pass is that of [`LayerPrecision::AsSet`].
    Int8,
}

/// As [`linear`], of given numbers.
pub(crate) fn linear_in<const D: usize>(layer: &Linear, x: Tensor<D>, precision: LayerPrecision) -> Tensor<D> {
    let adapter = layer.weight.reparameterization::<LowRankAdapter>();
    match (adapter, &layer.bias) {
        (None, Some(bias)) if is_fusible(&x) => {
            let shape = output_shape(&x, bias.dims()[0]);
            let inputs = [x.into_dispatch(), layer.weight.val().into_dispatch(), bias.val().into_dispatch()];
            fused(LinearOp { shape, precision }, inputs)
        }
        (None, bias) => products::linear(x, layer.weight.val(), bias.as_ref().map(|bias| bias.val())),
        (Some(adapter), Some(bias)) if is_fusible(&x) && !adapter.drops(&x) => {
            let operation = LowRankOp { shape: output_shape(&x, bias.dims()[0]), scale: adapter.scale() as f32 };
            let (weight, bias) = (layer.weight.base(), bias.val());
            let (down, up) = (adapter.lora_a.val(), adapter.up());
            let inputs = [
                x.into_dispatch(),
                weight.into_dispatch(),
                bias.into_dispatch(),
                down.into_dispatch(),
                up.into_dispatch(),
            ];
            fused(operation, inputs)
        }
        // Beside the layer: the adapted weight and its gradient, as large as the layer's, are never made.
        (Some(adapter), bias) => {
            let bias = bias.as_ref().map(|bias| bias.val());
            products::linear(x.clone(), layer.weight.base(), bias) + adapter.forward(x)
        }
    }
}

/// A linear layer of given parameters.
///
/// # Shapes
/// - `x`: `[.., inputs]`, `weight`: `[inputs, outputs]`, `bias`: `[outputs]`
/// - returns `[.., outputs]`
pub(crate) fn linear_of<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Tensor<1>) -> Tensor<D> {
    if !is_fusible(&x) {
        return products::linear(x, weight, Some(bias));
    }
    let shape = output_shape(&x, bias.dims()[0]);
    fused(
        LinearOp { shape, precision: LayerPrecision::AsSet },
        [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()],
    )
}

fn output_shape<const D: usize>(x: &Tensor<D>, outputs: usize) -> Vec<usize> {
    let mut shape = x.dims();
    shape[D - 1] = outputs;
    shape.to_vec()
}

#[derive(Debug)]
struct LinearOp {
    shape: Vec<usize>,
    precision: LayerPrecision,
}

impl SliceOperation<3> for LinearOp {
    fn forward(&self, [x, weight, bias]: [&[f32]; 3]) -> SliceOutput {
        let layer = kernel::Linear { weight, bias };
        let values = match self.precision {
            LayerPrecision::AsSet => layer.forward(x),
            LayerPrecision::Int8 => layer.forward_int8(x),
        };
        SliceOutput::new(values, self.shape.clone())
    }

    fn backward(&self, pass: BackwardInputs<'_, 3>) -> [Vec<f32>; 3] {
        let [x, weight, bias] = pass.inputs;
        let [x_needs, weight_needs, bias_needs] = pass.needs_grad;
        let needs = LinearNeeds { x: x_needs, weight: weight_needs, bias: bias_needs };
        let grads = kernel::Linear { weight, bias }.backward(x, pass.d_output, needs);
        [grads.x, grads.weight, grads.bias]
    }
}

#[derive(Debug)]
struct LowRankOp {
    shape: Vec<usize>,
    scale: f32,
}

impl LowRankOp {
    fn kernel<'a>(&self, [weight, bias, down, up]: [&'a [f32]; 4]) -> LowRankLinear<'a> {
        LowRankLinear { layer: kernel::Linear { weight, bias }, down, up, scale: self.scale }
    }
}

impl SliceOperation<5> for LowRankOp {
    fn forward(&self, [x, parameters @ ..]: [&[f32]; 5]) -> SliceOutput {
        let (values, hidden) = self.kernel(parameters).forward(x);
        SliceOutput { values, shape: self.shape.clone(), saved: hidden }
    }

    fn backward(&self, pass: BackwardInputs<'_, 5>) -> [Vec<f32>; 5] {
        let [x, parameters @ ..] = pass.inputs;
        let [x_needs, weight_needs, bias_needs, ..] = pass.needs_grad;
        let needs = LinearNeeds { x: x_needs, weight: weight_needs, bias: bias_needs };
        let grads = self.kernel(parameters).backward(x, pass.saved, pass.d_output, needs);
        let layer = grads.layer;
        [layer.x, layer.weight, layer.bias, grads.down, grads.up]
    }
}
