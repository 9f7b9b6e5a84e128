//! AdamW as burn's [`ModuleOptimizer`](burn::optim::ModuleOptimizer) takes it: on the processor weights and moments move in
//! place, in one look at each; elsewhere it is burn's own. The state is burn's, so it can be saved and go on anywhere.

use burn::backend::Flex;
use burn::backend::tensor::FloatTensor;
use burn::optim::{AdamW, AdamWConfig, AdamWState, AdaptiveMomentumState, LearningRate, Optimizer};
use burn::tensor::{Device, Tensor};
use sam_kernel::adamw as kernel;
use sam_model::fused::is_fusible;

/// The rate is not among these: it changes from step to step and from group to group.
#[derive(Clone)]
pub(crate) struct InPlaceAdamW {
    betas: [f64; 2],
    eps: f64,
    weight_decay: f64,
    plain: AdamW,
}

impl InPlaceAdamW {
    pub(crate) fn new(betas: [f64; 2], eps: f64, weight_decay: f64) -> Self {
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
        let [mut weights, mut first, mut second] = [weights, moment_1, moment_2].map(in_memory);
        let grad = in_memory(grad);
        let adamw = kernel::AdamW {
            lr,
            betas: self.betas,
            eps: self.eps,
            weight_decay: self.weight_decay,
            time: i32::try_from(time).unwrap_or(i32::MAX),
        };
        adamw.step(weights.storage_mut(), grad.storage(), first.storage_mut(), second.storage_mut());
        let [weights, first, second] = [weights, first, second].map(Tensor::from_primitive::<Flex>);
        (weights, Some(AdamWState::new(AdaptiveMomentumState::new(time, first, second))))
    }

    fn to_device<const D: usize>(state: AdamWState<D>, device: &Device) -> AdamWState<D> {
        AdamW::to_device(state, device)
    }
}

/// The numbers of a fusible tensor, rows one after the other.
pub(crate) fn in_memory<const D: usize>(tensor: Tensor<D>) -> FloatTensor<Flex> {
    let tensor = tensor.try_into_primitive::<Flex>().expect("the tensor is fusible");
    if tensor.is_contiguous() && tensor.bytes().len() == tensor.layout().num_elements() * size_of::<f32>() {
        // As it is: a copy would leave two owners, and what has two owners is copied when it is written.
        return tensor;
    }
    tensor.to_contiguous()
}
