//! AdamW (Loshchilov 2019, arXiv 1711.05101) as an optimiser of burn's: on the CPU weights and moments are updated in place,
//! in one pass; elsewhere it is burn's own. The state is burn's, so it can be saved and resumed on any device.

use burn::backend::Flex;
use burn::optim::{self, AdamWConfig, AdamWState, AdaptiveMomentumState, LearningRate, Optimizer};
use burn::tensor::{Device, Tensor};
use sam_kernel::adamw::{self as kernel, ParameterState};

use super::fused::{contiguous_f32, is_fusible};

/// AdamW without the learning rate, which changes from step to step and from group to group.
#[derive(Clone)]
pub struct InPlaceAdamW {
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    plain: optim::AdamW,
}

impl InPlaceAdamW {
    /// `betas` are the decay rates of the two moments; `weight_decay` is multiplied by the learning rate.
    #[must_use]
    pub fn new(betas: [f64; 2], eps: f64, weight_decay: f64) -> Self {
        let plain = AdamWConfig::new()
            .with_beta_1(betas[0] as f32)
            .with_beta_2(betas[1] as f32)
            .with_epsilon(eps as f32)
            .with_weight_decay(weight_decay as f32)
            .build();
        Self { betas, eps, weight_decay, plain }
    }
}

impl Optimizer for InPlaceAdamW {
    type State<const D: usize> = AdamWState<D>;

    fn step<const D: usize>(
        &self,
        lr: LearningRate,
        weights: Tensor<D>,
        grad: Tensor<D>,
        state: Option<AdamWState<D>>,
    ) -> (Tensor<D>, Option<AdamWState<D>>) {
        if !(is_fusible(&weights) && is_fusible(&grad)) {
            return self.plain.step(lr, weights, grad, state);
        }
        let AdaptiveMomentumState { time, moment_1, moment_2, .. } = match state {
            Some(state) => state.momentum,
            None => AdaptiveMomentumState::new(0, grad.zeros_like(), grad.zeros_like()),
        };
        let time = time + 1;
        let [mut weights, mut first, mut second] = [weights, moment_1, moment_2].map(contiguous_f32);
        let grad = contiguous_f32(grad);
        let kernel = kernel::AdamW {
            lr,
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            time: i32::try_from(time).unwrap_or(i32::MAX),
        };
        kernel.step(ParameterState {
            weights: weights.storage_mut(),
            grads: grad.storage(),
            moment_1: first.storage_mut(),
            moment_2: second.storage_mut(),
        });
        let [weights, first, second] = [weights, first, second].map(Tensor::from_primitive::<Flex>);
        (weights, Some(AdamWState::new(AdaptiveMomentumState::new(time, first, second))))
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        optim::AdamW::to_device(state, device)
    }
}
