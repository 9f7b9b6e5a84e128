//! Clipping by the norm of all gradients together, and scaling.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use sam_model::ops::{SumOfSquares, sum_of_squares};

use crate::device_reads::read;

/// Scales all gradients down together when their L2 norm is above `max`; returns the norm before, too.
#[must_use]
pub fn clip_by_global_norm<M: Module>(model: &M, grads: GradientsParams, max: Option<f64>) -> (GradientsParams, f64) {
    let mut squares = Squares { grads: &grads, sum: 0.0, on_device: Vec::new() };
    model.visit(&mut squares);
    let Squares { mut sum, on_device, .. } = squares;
    if !on_device.is_empty() {
        sum += read(Tensor::<1>::cat(on_device, 0)).iter().sum::<f64>();
    }
    let norm = sum.sqrt();
    match max {
        // As PyTorch's `clip_grad_norm_`, with its 1e-6.
        Some(max) if norm > max && norm.is_finite() => (scaled(model, grads, max / (norm + 1e-6)), norm),
        _ => (grads, norm),
    }
}

/// All gradients times a factor.
pub(crate) fn scaled<M: Module>(model: &M, mut grads: GradientsParams, factor: f64) -> GradientsParams {
    let mut scale = Scale { grads: &mut grads, factor };
    model.visit(&mut scale);
    grads
}

struct Squares<'a> {
    grads: &'a GradientsParams,
    sum: f64,
    /// Sums that other devices hold, read together.
    on_device: Vec<Tensor<1>>,
}

impl ModuleVisitor for Squares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        match self.grads.get::<D>(param.id).map(sum_of_squares) {
            Some(SumOfSquares::Host(sum)) => self.sum += sum,
            Some(SumOfSquares::Device(sum)) => self.on_device.push(sum),
            None => {}
        }
    }
}

struct Scale<'a> {
    grads: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.remove::<D>(param.id) {
            self.grads.register(param.id, grad.mul_scalar(self.factor));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::nn::LinearConfig;
    use burn::tensor::{DType, Device};

    use super::*;
    use crate::device_reads::n_device_reads;

    /// f64 is no type of the CPU kernels, so its sums stay on the device, as on a GPU.
    #[test]
    fn the_norm_of_all_gradients_is_one_read() {
        let device = Device::flex();
        let linear = LinearConfig::new(2, 3).init(&device);
        let bias = linear.bias.as_ref().expect("it has one");
        let gradients = || {
            let mut grads = GradientsParams::new();
            grads.register(linear.weight.id, Tensor::<2>::full([2, 3], 2.0, &device).cast(DType::F64));
            grads.register(bias.id, Tensor::<1>::full([3], 1.0, &device).cast(DType::F64));
            grads
        };
        let before = n_device_reads();
        let (clipped, norm) = clip_by_global_norm(&linear, gradients(), Some(1.0));
        assert_eq!(n_device_reads() - before, 1);
        assert!((norm - 27.0_f64.sqrt()).abs() < 1e-12, "{norm}");
        let (_, norm) = clip_by_global_norm(&linear, clipped, None);
        assert!((norm - 1.0).abs() < 1e-6, "{norm}");
    }
}
