//! The sum of the ranks' gradients.

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Tensor, TensorData};

use super::{RankError, Ranks, sum};

/// Sums gradients over the ranks, parameter by parameter in the order of the ranks. A parameter has a gradient where any rank has
/// one.
pub(crate) fn sum_gradients<M: Module>(
    ranks: &dyn Ranks,
    network: &M,
    grads: GradientsParams,
) -> Result<GradientsParams, RankError> {
    if ranks.n() == 1 {
        return Ok(grads);
    }
    let mut flat = Flat { grads: &grads, values: Vec::new(), n_with: Vec::new() };
    network.visit(&mut flat);
    let Flat { mut values, n_with, .. } = flat;
    let n_values = values.len();
    values.extend(n_with);
    drop(grads);
    let values = sum(ranks, values)?;
    let (values, n_with) = values.split_at(n_values);
    let mut summed = Summed { grads: GradientsParams::new(), values, n_with: n_with.iter() };
    network.visit(&mut summed);
    Ok(summed.grads)
}

/// All gradients one after the other, with zeros for those that are missing.
struct Flat<'a> {
    grads: &'a GradientsParams,
    values: Vec<f32>,
    /// By parameter, 1 where it has a gradient.
    n_with: Vec<f32>,
}

impl ModuleVisitor for Flat<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        match self.grads.get::<D>(param.id) {
            Some(grad) => {
                let data = grad.into_data().convert::<f32>();
                self.values.extend_from_slice(data.as_slice::<f32>().expect("converted to f32"));
                self.n_with.push(1.0);
            }
            None => {
                self.values.resize(self.values.len() + param.lazy_shape().num_elements(), 0.0);
                self.n_with.push(0.0);
            }
        }
    }
}

struct Summed<'a> {
    grads: GradientsParams,
    values: &'a [f32],
    n_with: std::slice::Iter<'a, f32>,
}

impl ModuleVisitor for Summed<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        let dims = value.dims();
        let (own, rest) = self.values.split_at(dims.iter().product());
        self.values = rest;
        if self.n_with.next().is_some_and(|&n| n > 0.0) {
            let grad = Tensor::<D>::from_data(TensorData::new(own.to_vec(), dims), &value.device().inner());
            self.grads.register(param.id, grad);
        }
    }
}
