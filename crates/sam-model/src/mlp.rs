//! The two kinds of multi-layer perceptron in SAM.
//!
//! [`MlpBlock`] is the transformer's (`common.py::MLPBlock`): two layers with GELU in the image encoder and with ReLU in
//! the mask decoder's two-way blocks. [`Mlp`] is the decoder's head (`mask_decoder.py::MLP`): any number of layers with
//! ReLU between them, used by the hyper-networks and by the IoU prediction.

use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{gelu, relu};
use burn::tensor::{Device, Tensor};
use sam_kernel::linear as kernel;
use sam_kernel::perceptron::Perceptron;

use crate::fused::{SliceOperation, SliceOutput, WayBack, fused, is_fusible};

/// A linear layer whose parameters are zero until a checkpoint or [`crate::init`] fills them.
pub(crate) fn linear_layer(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs).with_initializer(Initializer::Zeros).init(device)
}

/// A linear layer of rows, whatever is before the last axis.
///
/// # Shapes
/// - `x`: `[.., inputs]`
/// - returns `[.., outputs]`
pub(crate) fn linear<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    match &layer.bias {
        Some(bias) if is_fusible(&x) => {
            let mut shape = x.dims();
            shape[D - 1] = bias.dims()[0];
            let inputs = vec![x.into_dispatch(), layer.weight.val().into_dispatch(), bias.val().into_dispatch()];
            fused(OneLayer { shape: shape.to_vec() }, inputs)
        }
        _ => layer.forward(x),
    }
}

#[derive(Debug)]
struct OneLayer {
    shape: Vec<usize>,
}

impl SliceOperation for OneLayer {
    fn forward(&self, inputs: &[&[f32]]) -> SliceOutput {
        let layer = kernel::Linear { weight: inputs[1], bias: inputs[2] };
        SliceOutput { values: layer.forward(inputs[0]), shape: self.shape.clone(), kept: Vec::new() }
    }

    fn backward(&self, way: WayBack<'_>) -> Vec<Vec<f32>> {
        let layer = kernel::Linear { weight: way.inputs[1], bias: way.inputs[2] };
        let wanted = [way.wanted[0], way.wanted[1], way.wanted[2]];
        let grads = layer.backward(way.inputs[0], way.d_output, wanted);
        vec![grads.x, grads.weight, grads.bias]
    }
}

/// The non-linearity between the two layers of an [`MlpBlock`].
pub use sam_kernel::perceptron::Activation;

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
    /// A block of width `dim` with `hidden_dim` in the middle.
    pub fn new(dim: usize, hidden_dim: usize, activation: Activation, device: &Device) -> Self {
        Self { lin1: linear_layer(dim, hidden_dim, device), lin2: linear_layer(hidden_dim, dim, device), activation }
    }

    /// # Shapes
    /// - `x`: `[.., C]`
    /// - returns the same shape
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        if is_fusible(&x) {
            let parameters = [&self.lin1, &self.lin2].into_iter().flat_map(|layer| {
                let bias = layer.bias.as_ref().expect("every layer of the reference has a bias");
                [layer.weight.val().into_dispatch(), bias.val().into_dispatch()]
            });
            let operation = TwoLayers { shape: x.dims().to_vec(), activation: self.activation };
            return fused(operation, std::iter::once(x.into_dispatch()).chain(parameters).collect());
        }
        let hidden = self.lin1.forward(x);
        let hidden = match self.activation {
            Activation::Gelu => gelu(hidden),
            Activation::Relu => relu(hidden),
        };
        self.lin2.forward(hidden)
    }
}

#[derive(Debug)]
struct TwoLayers {
    shape: Vec<usize>,
    activation: Activation,
}

impl TwoLayers {
    fn kernel<'a>(&self, inputs: &[&'a [f32]]) -> Perceptron<'a> {
        let layer = |at: usize| kernel::Linear { weight: inputs[at], bias: inputs[at + 1] };
        Perceptron { first: layer(1), second: layer(3), activation: self.activation }
    }
}

impl SliceOperation for TwoLayers {
    fn forward(&self, inputs: &[&[f32]]) -> SliceOutput {
        SliceOutput { values: self.kernel(inputs).forward(inputs[0]), shape: self.shape.clone(), kept: Vec::new() }
    }

    fn backward(&self, way: WayBack<'_>) -> Vec<Vec<f32>> {
        let grads = self.kernel(way.inputs).backward(way.inputs[0], way.d_output);
        std::iter::once(grads.x).chain(grads.first).chain(grads.second).collect()
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
