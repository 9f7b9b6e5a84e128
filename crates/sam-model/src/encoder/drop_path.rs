//! Drop path (stochastic depth, arXiv 1603.09382): in training a residual branch is skipped for whole samples.
//!
//! By hand, as burn has none. As in timm and ViTDet the other samples are scaled by `1 / (1 - p)`, so nothing changes at
//! inference.

use burn::module::{Flag, Module, Param};
use burn::tensor::Tensor;

use crate::ops::dropout::kept;

/// Drops a residual branch per sample while training.
#[derive(Module, Debug)]
pub struct DropPath {
    /// Probability of dropping the branch, in `[0, 1)`.
    pub probability: f64,
    /// Off in a model that is frozen or came from `valid()`.
    pub training: Param<Flag>,
}

impl DropPath {
    /// `probability` must be in `[0, 1)`.
    pub fn new(probability: f64) -> Self {
        assert!((0.0..1.0).contains(&probability), "drop path must be in [0, 1), got {probability}");
        Self { probability, training: Param::from_bool(true) }
    }

    /// Multiplies each sample of the branch by zero or by `1 / (1 - p)`; drawn from the stream of [`crate::seed_dropout`].
    ///
    /// # Shapes
    /// - `branch`: `[B, ..]`
    /// - returns the same shape
    pub fn forward<const D: usize>(&self, branch: Tensor<D>) -> Tensor<D> {
        if self.probability == 0.0 || !self.training.is_enabled() || !branch.device().is_autodiff() {
            return branch;
        }
        let mut per_sample = [1; D];
        per_sample[0] = branch.dims()[0];
        let factors = kept(per_sample, 1.0 - self.probability, &branch.device()).cast(branch.dtype());
        branch * factors
    }
}

/// The reference's linearly increasing rates: 0 at block 0, `rate` at the last (ViTDet; arXiv 2304.02643 §A).
pub(crate) fn linear_rates(rate: f64, depth: usize) -> Vec<f64> {
    (0..depth).map(|block| rate * block as f64 / depth.saturating_sub(1).max(1) as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_increase_linearly_from_zero() {
        assert_eq!(linear_rates(0.4, 5), [0.0, 0.1, 0.2, 0.30000000000000004, 0.4]);
        assert_eq!(linear_rates(0.4, 1), [0.0]);
    }
}
