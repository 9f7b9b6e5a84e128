//! The two kinds of multi-layer perceptron in SAM.
//!
//! [`MlpBlock`] is the transformer's (`common.py::MLPBlock`): two layers with GELU in the image encoder and with ReLU in
//! the mask decoder's two-way blocks. [`Mlp`] is the decoder's head (`mask_decoder.py::MLP`): any number of layers with
//! ReLU between them, used by the hyper-networks and by the IoU prediction.

use burn::module::{Initializer, Module};
use burn::nn::{Linear, LinearConfig};
use burn::tensor::activation::{gelu, relu};
use burn::tensor::{Device, Tensor};

/// A linear layer whose parameters are zero until a checkpoint or [`crate::init`] fills them.
pub(crate) fn linear_layer(inputs: usize, outputs: usize, device: &Device) -> Linear {
    LinearConfig::new(inputs, outputs).with_initializer(Initializer::Zeros).init(device)
}

/// The non-linearity between the two layers of an [`MlpBlock`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Exact GELU (by erf, not tanh).
    Gelu,
    /// Rectified linear.
    Relu,
}

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
        let hidden = self.lin1.forward(x);
        let hidden = match self.activation {
            Activation::Gelu => gelu(hidden),
            Activation::Relu => relu(hidden),
        };
        self.lin2.forward(hidden)
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
            let x = layer.forward(x);
            if index < last { relu(x) } else { x }
        })
    }
}
