//! Layer normalisation over the last axis, optionally followed by GELU.
//!
//! The reference's `LayerNorm2d` normalises channels-first maps over their channels; here maps are channels-last, where it is
//! the same operation. It is a type of its own because the checkpoint's keys are `weight` and `bias`.

use burn::module::{Initializer, Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Tensor};
use sam_kernel::layer_norm::{self as kernel, Epilogue};

use super::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};
use super::gelu::gelu;

/// Epsilon of every `LayerNorm2d` in the reference (`segment_anything/modeling/common.py`).
pub(crate) const LAYER_NORM_2D_EPS: f64 = 1e-6;

/// The parameters of a normalisation.
pub(crate) struct NormParameters {
    /// `[C]`.
    pub(crate) weight: Tensor<1>,
    /// `[C]`.
    pub(crate) bias: Tensor<1>,
    /// Added to the variance.
    pub(crate) eps: f64,
}

impl NormParameters {
    /// The parameters of a layer of burn's.
    pub(crate) fn new(norm: &LayerNorm, eps: f64) -> Self {
        let bias = norm.beta.as_ref().expect("every norm of the reference has a bias").val();
        Self { weight: norm.gamma.val(), bias, eps }
    }
}

/// Applies a layer normalisation of burn's.
///
/// # Shapes
/// - `x`: `[.., C]`
/// - returns the same shape
pub(crate) fn normalise<const D: usize>(x: Tensor<D>, norm: &LayerNorm, eps: f64) -> Tensor<D> {
    normalise_with(x, NormParameters::new(norm, eps), Epilogue::None)
}

fn normalise_with<const D: usize>(x: Tensor<D>, norm: NormParameters, epilogue: Epilogue) -> Tensor<D> {
    let NormParameters { weight, bias, eps } = norm;
    if is_fusible(&x) {
        let norm = NormOp { shape: x.dims().to_vec(), eps: eps as f32, epilogue };
        return fused(norm, [x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()]);
    }
    let y = layer_norm(x, weight, Some(bias), eps);
    match epilogue {
        Epilogue::None => y,
        Epilogue::Gelu => gelu(y),
    }
}

#[derive(Debug)]
struct NormOp {
    shape: Vec<usize>,
    eps: f32,
    epilogue: Epilogue,
}

impl SliceOperation<3> for NormOp {
    fn forward(&self, [x, weight, bias]: [&[f32]; 3]) -> SliceOutput {
        let norm = kernel::LayerNorm { weight, bias, eps: self.eps, epilogue: self.epilogue };
        SliceOutput::new(norm.forward(x), self.shape.clone())
    }

    fn backward(&self, pass: BackwardInputs<'_, 3>) -> [Vec<f32>; 3] {
        let [x, weight, bias] = pass.inputs;
        let norm = kernel::LayerNorm { weight, bias, eps: self.eps, epilogue: self.epilogue };
        let grads = norm.backward(x, pass.d_output);
        [grads.x, grads.weight, grads.bias]
    }
}

/// Normalises each pixel over its channels.
#[derive(Module, Debug)]
pub struct LayerNorm2d {
    /// `[C]`.
    pub weight: Param<Tensor<1>>,
    /// `[C]`.
    pub bias: Param<Tensor<1>>,
}

impl LayerNorm2d {
    /// Weights of one and biases of zero.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { weight: Initializer::Ones.init([channels], device), bias: Initializer::Zeros.init([channels], device) }
    }

    /// # Shapes
    /// - `x_bhwc`: `[B, H, W, C]`
    /// - returns the same shape
    pub fn forward(&self, x_bhwc: Tensor<4>) -> Tensor<4> {
        normalise_with(x_bhwc, self.parameters(), Epilogue::None)
    }

    /// As [`LayerNorm2d::forward`], followed by exact GELU.
    ///
    /// # Shapes
    /// - `x_bhwc`: `[B, H, W, C]`
    /// - returns the same shape
    pub fn forward_gelu(&self, x_bhwc: Tensor<4>) -> Tensor<4> {
        normalise_with(x_bhwc, self.parameters(), Epilogue::Gelu)
    }

    fn parameters(&self) -> NormParameters {
        NormParameters { weight: self.weight.val(), bias: self.bias.val(), eps: LAYER_NORM_2D_EPS }
    }
}
