//! Layer normalisation over the last axis, alone or with GELU behind it.
//!
//! The reference's `LayerNorm2d` normalises channels-first maps over their channels; here maps are channels-last, where it is
//! the same thing. Its own type, because the checkpoint's keys are `weight` and `bias`.

use burn::module::{Initializer, Module, Param};
use burn::nn::LayerNorm;
use burn::tensor::activation::gelu;
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Tensor};
use sam_kernel::layer_norm::{self as kernel, Behind};

use crate::fused::{SliceOperation, SliceOutput, WayBack, fused, is_fusible};

/// Epsilon of every `LayerNorm2d` in the reference (`segment_anything/modeling/common.py`).
pub const LAYER_NORM_2D_EPS: f64 = 1e-6;

/// A norm of burn's, which has a way back of its own on the processor.
///
/// # Shapes
/// - `x`: `[.., C]`
/// - returns the same shape
pub fn normalise<const D: usize>(x: Tensor<D>, norm: &LayerNorm, eps: f64) -> Tensor<D> {
    let bias = norm.beta.as_ref().expect("every norm of the reference has a bias");
    norm_of(x, norm.gamma.val(), bias.val(), eps, Behind::Nothing)
}

fn norm_of<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64, behind: Behind) -> Tensor<D> {
    if is_fusible(&x) {
        let norm = Norm { shape: x.dims().to_vec(), eps: eps as f32, behind };
        return fused(norm, vec![x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()]);
    }
    let y = layer_norm(x, weight, Some(bias), eps);
    match behind {
        Behind::Nothing => y,
        Behind::Gelu => gelu(y),
    }
}

#[derive(Debug)]
struct Norm {
    shape: Vec<usize>,
    eps: f32,
    behind: Behind,
}

impl Norm {
    fn kernel<'a>(&self, inputs: &[&'a [f32]]) -> kernel::LayerNorm<'a> {
        kernel::LayerNorm { weight: inputs[1], bias: inputs[2], eps: self.eps, behind: self.behind }
    }
}

impl SliceOperation for Norm {
    fn forward(&self, inputs: &[&[f32]]) -> SliceOutput {
        SliceOutput { values: self.kernel(inputs).forward(inputs[0]), shape: self.shape.clone(), kept: Vec::new() }
    }

    fn backward(&self, way: WayBack<'_>) -> Vec<Vec<f32>> {
        let grads = self.kernel(way.inputs).backward(way.inputs[0], way.d_output);
        vec![grads.x, grads.weight, grads.bias]
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
    /// The identity scale and no shift.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { weight: Initializer::Ones.init([channels], device), bias: Initializer::Zeros.init([channels], device) }
    }

    /// # Shapes
    /// - `x_bhwc`: `[B, H, W, C]`
    /// - returns the same shape
    pub fn forward(&self, x_bhwc: Tensor<4>) -> Tensor<4> {
        norm_of(x_bhwc, self.weight.val(), self.bias.val(), LAYER_NORM_2D_EPS, Behind::Nothing)
    }

    /// As [`LayerNorm2d::forward`], with exact GELU behind.
    pub fn forward_gelu(&self, x_bhwc: Tensor<4>) -> Tensor<4> {
        norm_of(x_bhwc, self.weight.val(), self.bias.val(), LAYER_NORM_2D_EPS, Behind::Gelu)
    }
}
