//! The two kinds of MLP.
//!
//! [`MlpBlock`] is the transformer's (`common.py::MLPBlock`): two layers with GELU in the image encoder, with ReLU in the
//! mask decoder's two-way blocks and with either GELU in CLIP. [`Mlp`] is the decoder's head (`mask_decoder.py::MLP`): any number of layers with
//! ReLU between them, used by the hypernetworks and by the IoU prediction.

use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::activation::{relu, sigmoid};
use burn::tensor::{Device, Tensor};
use sam_kernel::linear as kernel;
use sam_kernel::mlp::{self, MlpGrads, MlpNeeds};

use super::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};
use super::gelu::gelu;
use super::linear::{LayerPrecision, is_adapted, linear, linear_in, linear_layer};

/// The activation function between the two layers of an MLP.
pub use sam_kernel::mlp::Activation;

/// Two linear layers with an activation between them.
#[derive(Module, Debug)]
pub struct MlpBlock {
    /// `[C] -> [hidden]`.
    pub lin1: Linear,
    /// `[hidden] -> [C]`.
    pub lin2: Linear,
    #[module(skip)]
    activation: Activation,
}

impl MlpBlock {
    /// A block for tokens of dimension `dim` with `hidden_dim` hidden values.
    pub fn new(dim: usize, hidden_dim: usize, activation: Activation, device: &Device) -> Self {
        Self { lin1: linear_layer(dim, hidden_dim, device), lin2: linear_layer(hidden_dim, dim, device), activation }
    }

    /// # Shapes
    /// - `x`: `[.., C]`
    /// - returns the same shape
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.forward_in(x, LayerPrecision::AsSet)
    }

    /// As [`MlpBlock::forward`], of given numbers.
    pub(crate) fn forward_in<const D: usize>(&self, x: Tensor<D>, precision: LayerPrecision) -> Tensor<D> {
        two_layers_in([&self.lin1, &self.lin2], self.activation, x, precision)
    }
}

/// Two linear layers with an activation between them.
///
/// # Shapes
/// - `x`: `[.., C]`
/// - returns `[.., D]`
pub(crate) fn two_layers<const D: usize>(layers: [&Linear; 2], activation: Activation, x: Tensor<D>) -> Tensor<D> {
    two_layers_in(layers, activation, x, LayerPrecision::AsSet)
}

fn two_layers_in<const D: usize>(
    layers: [&Linear; 2],
    activation: Activation,
    x: Tensor<D>,
    precision: LayerPrecision,
) -> Tensor<D> {
    let [first, second] = layers;
    // An adapter stands beside its layer, which is then no part of one operation.
    let is_whole = !is_adapted(first) && !is_adapted(second);
    if is_whole && is_fusible(&x) {
        let operation = MlpOp { shape: x.dims().to_vec(), activation, precision };
        let bias = |layer: &Linear| layer.bias.as_ref().expect("every layer of the reference has a bias").val();
        let inputs = [
            x.into_dispatch(),
            first.weight.val().into_dispatch(),
            bias(first).into_dispatch(),
            second.weight.val().into_dispatch(),
            bias(second).into_dispatch(),
        ];
        return fused(operation, inputs);
    }
    let hidden = linear_in(first, x, precision);
    let hidden = match activation {
        Activation::Gelu => gelu(hidden),
        Activation::QuickGelu => hidden.clone() * sigmoid(hidden * mlp::QUICK_GELU_STEEPNESS),
        Activation::Relu => relu(hidden),
    };
    linear_in(second, hidden, precision)
}

#[derive(Debug)]
struct MlpOp {
    shape: Vec<usize>,
    activation: Activation,
    precision: LayerPrecision,
}

impl MlpOp {
    fn kernel<'a>(&self, [first_weight, first_bias, second_weight, second_bias]: [&'a [f32]; 4]) -> mlp::Mlp<'a> {
        mlp::Mlp {
            first: kernel::Linear { weight: first_weight, bias: first_bias },
            second: kernel::Linear { weight: second_weight, bias: second_bias },
            activation: self.activation,
        }
    }
}

impl SliceOperation<5> for MlpOp {
    fn forward(&self, [x, parameters @ ..]: [&[f32]; 5]) -> SliceOutput {
        let mlp = self.kernel(parameters);
        let (values, saved) = match self.precision {
            LayerPrecision::AsSet => mlp.forward_with_hidden(x),
            LayerPrecision::Int8 => (mlp.forward_int8(x), Vec::new()),
        };
        SliceOutput { values, shape: self.shape.clone(), saved }
    }

    fn backward(&self, pass: BackwardInputs<'_, 5>) -> [Vec<f32>; 5] {
        let [x, parameters @ ..] = pass.inputs;
        let [_, first_weight, _, second_weight, _] = pass.needs_grad;
        let needs = MlpNeeds { first_weight, second_weight };
        let MlpGrads { x, first_weight, first_bias, second_weight, second_bias } =
            self.kernel(parameters).backward(x, pass.saved, pass.d_output, needs);
        [x, first_weight, first_bias, second_weight, second_bias]
    }
}

/// Linear layers with ReLU between them and nothing after the last.
#[derive(Module, Debug)]
pub struct Mlp {
    /// Input first.
    pub layers: Vec<Linear>,
}

impl Mlp {
    /// `depth` layers: `input -> hidden -> .. -> output`.
    pub fn new(input: usize, hidden: usize, output: usize, depth: usize, device: &Device) -> Self {
        assert!(depth > 0, "an MLP needs at least one layer");
        let layers = (0..depth)
            .map(|layer| {
                let inputs = if layer == 0 { input } else { hidden };
                let outputs = if layer + 1 == depth { output } else { hidden };
                linear_layer(inputs, outputs, device)
            })
            .collect();
        Self { layers }
    }

    /// # Shapes
    /// - `x`: `[.., input]`
    /// - returns `[.., output]`
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let last = self.layers.len() - 1;
        self.layers.iter().enumerate().fold(x, |x, (index, layer)| {
            let x = linear(layer, x);
            if index < last { relu(x) } else { x }
        })
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Tolerance};

    use super::*;
    use crate::testing::Random;

    /// f64 takes the plain form.
    #[test]
    fn the_kernel_equals_the_plain_form_of_every_activation() {
        let device = Device::flex();
        let mut values = Random::new(1);
        let mut random = |shape: [usize; 2]| values.normal(shape, 1.0);
        for activation in [Activation::Gelu, Activation::QuickGelu, Activation::Relu] {
            let mut block = MlpBlock::new(6, 20, activation, &device);
            block.lin1.weight = burn::module::Param::from_tensor(random([6, 20]));
            block.lin2.weight = burn::module::Param::from_tensor(random([20, 6]));
            let x = random([40, 6]);
            let wide = |layer: &Linear| Linear {
                weight: burn::module::Param::from_tensor(layer.weight.val().cast(DType::F64)),
                bias: layer.bias.as_ref().map(|bias| burn::module::Param::from_tensor(bias.val().cast(DType::F64))),
            };
            let plain = MlpBlock { lin1: wide(&block.lin1), lin2: wide(&block.lin2), activation };
            let expected = plain.forward(x.clone().cast(DType::F64)).cast(DType::F32);
            block.forward(x).into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(2e-5));
        }
    }
}
