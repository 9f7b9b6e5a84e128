//! Linear layers over the last axis.

use burn::module::Initializer;
use burn::nn::{Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use sam_kernel::linear::{self as kernel, LinearNeeds};

use super::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};

/// A linear layer whose parameters are zero until a checkpoint or [`crate::init`] fills them.
pub(crate) fn linear_layer(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs).with_initializer(Initializer::Zeros).init(device)
}

/// Applies a linear layer.
///
/// # Shapes
/// - `x`: `[.., inputs]`
/// - returns `[.., outputs]`
pub(crate) fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    match &layer.bias {
        Some(bias) if is_fusible(&x) => {
            let mut shape = x.dims();
            shape[D - 1] = bias.dims()[0];
            let inputs = [x.into_dispatch(), layer.weight.val().into_dispatch(), bias.val().into_dispatch()];
            fused(LinearOp { shape: shape.to_vec() }, inputs)
        }
        _ => layer.forward(x),
    }
}

#[derive(Debug)]
struct LinearOp {
    shape: Vec<usize>,
}

impl SliceOperation<3> for LinearOp {
    fn forward(&self, [x, weight, bias]: [&[f32]; 3]) -> SliceOutput {
        SliceOutput::new(kernel::Linear { weight, bias }.forward(x), self.shape.clone())
    }

    fn backward(&self, pass: BackwardInputs<'_, 3>) -> [Vec<f32>; 3] {
        let [x, weight, bias] = pass.inputs;
        let [x_needs, weight_needs, bias_needs] = pass.needs_grad;
        let needs = LinearNeeds { x: x_needs, weight: weight_needs, bias: bias_needs };
        let grads = kernel::Linear { weight, bias }.backward(x, pass.d_output, needs);
        [grads.x, grads.weight, grads.bias]
    }
}
