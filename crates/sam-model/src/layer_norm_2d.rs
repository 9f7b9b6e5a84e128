//! LayerNorm over the channels of a feature map (the reference's `LayerNorm2d`).
//!
//! The reference normalises channels-first maps; here maps are channels-last, where it is plain layer normalisation.
//! Its own type, because the checkpoint's keys are `weight` and `bias`.

use burn::module::{Initializer, Module, Param};
use burn::tensor::module::layer_norm;
use burn::tensor::{Device, Tensor};

/// Epsilon of every `LayerNorm2d` in the reference (`segment_anything/modeling/common.py`).
pub const LAYER_NORM_2D_EPS: f64 = 1e-6;

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
        layer_norm(x_bhwc, self.weight.val(), Some(self.bias.val()), LAYER_NORM_2D_EPS)
    }
}
