//! Shared by the unit tests: pseudo-random tensors, the same in every run. burn's own come from a generator of the process, which the tests
//! that run at the same time share.

use burn::tensor::{Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::init::normal;

/// A stream of values for the CPU, without autodiff.
pub(crate) struct Random(StdRng);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// Normal of mean zero.
    pub(crate) fn normal<const D: usize>(&mut self, shape: [usize; D], std: f32) -> Tensor<D> {
        self.tensor(shape, |stream| std * normal(stream))
    }

    /// Uniform between -1 and 1.
    pub(crate) fn uniform<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        self.tensor(shape, |stream| stream.random_range(-1.0..=1.0))
    }

    fn tensor<const D: usize>(&mut self, shape: [usize; D], mut draw: impl FnMut(&mut StdRng) -> f32) -> Tensor<D> {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw(&mut self.0)).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }
}
