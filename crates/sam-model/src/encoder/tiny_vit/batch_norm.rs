//! Batch normalisation whose statistics are stored, or those of the batch in a training that asks for it (Ioffe 2015, arXiv
//! 1502.03167).
//!
//! Stored statistics fold into the convolution before: `w γ / √(σ² + ε)` and `β - μ γ / √(σ² + ε)`. Prediction and a training
//! with frozen statistics compute exactly that, and gradients reach γ and β through the folded weights.
//!
//! Differs from burn's: its running statistics are shared between clones of a module, so a moving average of the weights, a
//! measurement or a shard would change those of the training. Here a forward pass only notes what it saw, in the module that ran
//! it, and the training takes that over when it is done with the batch.

use std::sync::{Mutex, PoisonError};

use burn::module::{Initializer, Module, Param};
use burn::tensor::{Device, Tensor};

use super::config::BatchNormStatistics;

/// Added to the variance (PyTorch's default, which TinyViT takes).
const EPSILON: f64 = 1e-5;

/// Part of a batch's statistics in the new running ones (PyTorch's default).
const MOMENTUM: f64 = 0.1;

/// The parameters and statistics of a batch norm, under PyTorch's names.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// `[C]`, γ.
    pub weight: Param<Tensor<1>>,
    /// `[C]`, β.
    pub bias: Param<Tensor<1>>,
    /// `[C]`, μ; never learns by gradients.
    pub running_mean: Param<Tensor<1>>,
    /// `[C]`, σ²; never learns by gradients.
    pub running_var: Param<Tensor<1>>,
    #[module(skip)]
    statistics: BatchNormStatistics,
    #[module(skip)]
    seen: Seen,
}

impl BatchNorm {
    /// The identity, up to ε.
    pub(super) fn new(channels: usize, statistics: BatchNormStatistics, device: &Device) -> Self {
        let zeros = || Initializer::Zeros.init([channels], device);
        let ones = || Initializer::Ones.init([channels], device);
        Self {
            weight: ones(),
            bias: zeros(),
            running_mean: zeros().set_require_grad(false),
            running_var: ones().set_require_grad(false),
            statistics,
            seen: Seen::default(),
        }
    }

    /// Whether a map of this device is normalised by its own statistics.
    pub(super) fn takes_batch(&self, device: &Device) -> bool {
        self.statistics == BatchNormStatistics::Running && device.is_autodiff()
    }

    /// A factor and a summand for each channel, by the stored statistics.
    ///
    /// # Shapes
    /// - returns two of `[C]`
    pub(super) fn scale_and_shift(&self) -> [Tensor<1>; 2] {
        let scale = self.weight.val() / (self.running_var.val() + EPSILON).sqrt();
        let shift = self.bias.val() - self.running_mean.val() * scale.clone();
        [scale, shift]
    }

    /// Normalises by the batch's own statistics and notes them.
    ///
    /// # Shapes
    /// - `x_bhwc`: `[B, H, W, C]`
    /// - returns the same shape
    pub(super) fn forward_batch(&self, x_bhwc: Tensor<4>) -> Tensor<4> {
        let shape = x_bhwc.dims();
        let [batch, height, width, channels] = shape;
        let n = batch * height * width;
        let x = x_bhwc.reshape([n, channels]);
        let mean = x.clone().mean_dim(0); // [1, C]
        let centred = x - mean.clone();
        let variance = centred.clone().powf_scalar(2.0).mean_dim(0);
        // The running variance is of the population, as PyTorch has it.
        let unbiased = variance.clone().detach().inner() * (n as f64 / (n.max(2) - 1) as f64);
        self.seen.note([mean.detach().inner().reshape([channels]), unbiased.reshape([channels])]);
        let normalised = centred / (variance + EPSILON).sqrt();
        let [weight, bias] = [&self.weight, &self.bias].map(|values| values.val().reshape([1, channels]));
        (normalised * weight + bias).reshape(shape)
    }

    /// Takes over the statistics of the forward passes since the last call, in their order.
    pub(super) fn follow(&mut self) {
        for [mean, variance] in self.seen.take() {
            for (running, of_batch) in [(&mut self.running_mean, mean), (&mut self.running_var, variance)] {
                let before = running.val().inner();
                let now = Tensor::from_inner(before * (1.0 - MOMENTUM) + of_batch * MOMENTUM);
                let id = running.id;
                *running = running.clone().transform_for_load(now, id);
            }
        }
    }

    /// Becomes the norm that adds `bias`, to rounding.
    ///
    /// # Shapes
    /// - `bias`: `[C]`
    pub(super) fn only_add(&mut self, bias: Tensor<1>) {
        let zeros = bias.zeros_like();
        let set = |parameter: &mut Param<Tensor<1>>, values: Tensor<1>| {
            let id = parameter.id;
            *parameter = parameter.clone().transform_for_load(values, id);
        };
        set(&mut self.weight, bias.ones_like());
        set(&mut self.running_mean, zeros.clone());
        set(&mut self.running_var, zeros + (1.0 - EPSILON));
        set(&mut self.bias, bias);
    }

    /// Keeps the stored statistics from now on if neither γ nor β learns; returns whether they are running.
    pub(super) fn settle(&mut self) -> bool {
        if !self.weight.is_require_grad() && !self.bias.is_require_grad() {
            self.statistics = BatchNormStatistics::Frozen;
        }
        self.statistics == BatchNormStatistics::Running
    }
}

/// Mean and variance of batches that were seen. A clone has seen nothing: what a copy of a network computes is not the
/// training's.
#[derive(Debug, Default)]
struct Seen(Mutex<Vec<[Tensor<1>; 2]>>);

impl Clone for Seen {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Seen {
    fn note(&self, statistics: [Tensor<1>; 2]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(statistics);
    }

    fn take(&self) -> Vec<[Tensor<1>; 2]> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
