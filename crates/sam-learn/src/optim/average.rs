//! The moving average of the weights.

use burn::module::{Module, ModuleMapper, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

use super::parameters::learned_values;

/// An exponential moving average of the weights (Polyak 1992): `average = decay * average + (1 - decay) * weights`.
///
/// The decay rises with the steps as in TensorFlow's `ExponentialMovingAverage`, `min(decay, (1 + n) / (10 + n))`, so a
/// short run is not stuck at its initial weights. What is frozen is left as it is: an average of equal values would be rounded.
pub(crate) fn averaged<M: Module>(average: M, weights: &M, Decay { decay, step, statistics }: Decay) -> M {
    let step = step as f64;
    let decay = decay.min((1.0 + step) / (10.0 + step));
    average.map(&mut Averager { values: learned_values(weights, statistics), decay })
}

/// How far an average follows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Decay {
    /// Of long runs.
    pub(crate) decay: f64,
    /// Steps done.
    pub(crate) step: u64,
    /// Whether the statistics of batch norms change and are averaged, too.
    pub(crate) statistics: bool,
}

struct Averager {
    values: GradientsParams,
    decay: f64,
}

impl ModuleMapper for Averager {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (values, decay) = (&mut self.values, self.decay);
        let Some(value) = values.remove::<D>(param.id) else { return param };
        param.map(|average| average.mul_scalar(decay) + value.mul_scalar(1.0 - decay))
    }
}
