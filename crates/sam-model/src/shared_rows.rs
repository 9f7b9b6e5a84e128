//! Rows that several objects share. The objects of an image look at one map: what is computed of it alone is computed once,
//! and an object that adds something of its own adds it to the shared rows.
//!
//! Shapes: `O` objects, `B` lists of shared rows (images), `P` rows of a list, `I` inputs, `D` outputs.

use std::sync::Arc;

use burn::nn::LayerNorm;
use burn::tensor::module::layer_norm;
use burn::tensor::{Int, Tensor, TensorData};
use sam_kernel::layer_norm::{self as kernel, Behind};
use sam_kernel::linear::{SharedLinear, sums_by_list};

use crate::fused::{SliceOperation, SliceOutput, WayBack, fused, is_fusible};

/// The list of each object, `[O]`.
pub type ListOf = Arc<Vec<usize>>;

/// Lists of rows, and which of them each object has.
#[derive(Clone, Debug)]
pub struct Rows {
    /// `[B, P, D]`, or `[O, P, D]` when each object has its own.
    pub values: Tensor<3>,
    /// `None` when each object has its own.
    pub of: Option<ListOf>,
}

impl Rows {
    /// Each object has its own rows.
    pub fn own(values: Tensor<3>) -> Self {
        Self { values, of: None }
    }

    /// Objects share rows.
    pub fn shared(values: Tensor<3>, of: &ListOf) -> Self {
        Self { values, of: Some(Arc::clone(of)) }
    }

    /// `O`.
    pub fn objects(&self) -> usize {
        self.of.as_ref().map_or(self.values.dims()[0], |of| of.len())
    }

    /// `[O, P, D]`, shared rows copied.
    pub fn copied(self) -> Tensor<3> {
        match self.of {
            Some(of) => copies(self.values, &of),
            None => self.values,
        }
    }
}

fn copies(lists: Tensor<3>, of: &[usize]) -> Tensor<3> {
    let [n_lists, rows, width] = lists.dims();
    if n_lists == 1 {
        return lists.expand([of.len(), rows, width]);
    }
    let index: Vec<i64> = of.iter().map(|&list| list as i64).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [of.len()]), &lists.device());
    lists.select(0, index)
}

/// `x W + shared[of]`.
///
/// # Shapes
/// - `x`: `[O, P, I]`, `weight`: `[I, D]`, `shared`: `[B, P, D]`
/// - returns `[O, P, D]`
pub fn shared_linear(x: Tensor<3>, weight: Tensor<2>, shared: Tensor<3>, of: &ListOf) -> Tensor<3> {
    let [objects, rows, _] = x.dims();
    let [_, outputs] = weight.dims();
    assert_eq!(objects, of.len(), "each object has its list");
    if is_fusible(&x) {
        let operation = Product { of: Arc::clone(of), rows, outputs };
        return fused(operation, vec![x.into_dispatch(), weight.into_dispatch(), shared.into_dispatch()]);
    }
    x.matmul(weight.unsqueeze()) + copies(shared, of)
}

#[derive(Debug)]
struct Product {
    of: ListOf,
    rows: usize,
    outputs: usize,
}

impl Product {
    fn kernel<'a>(&'a self, inputs: &[&'a [f32]]) -> SharedLinear<'a> {
        SharedLinear { weight: inputs[1], shared: inputs[2], rows: self.rows, of: &self.of }
    }
}

impl SliceOperation for Product {
    fn forward(&self, inputs: &[&[f32]]) -> SliceOutput {
        let values = self.kernel(inputs).forward(inputs[0]);
        SliceOutput { values, shape: vec![self.of.len(), self.rows, self.outputs], kept: Vec::new() }
    }

    fn backward(&self, way: WayBack<'_>) -> Vec<Vec<f32>> {
        self.kernel(way.inputs).backward(way.inputs[0], way.d_output).into()
    }
}

/// The norm of a sum, as it ends a residual branch.
///
/// # Shapes
/// - `x`: `[O, P, C]`, `other`: lists of `[P, C]`
/// - returns `[O, P, C]`
pub fn normalise_sum(x: Tensor<3>, other: Rows, norm: &LayerNorm, eps: f64) -> Tensor<3> {
    let bias = norm.beta.as_ref().expect("every norm of the reference has a bias").val();
    let weight = norm.gamma.val();
    if is_fusible(&x) {
        let [objects, ..] = x.dims();
        let of = other.of.unwrap_or_else(|| Arc::new((0..objects).collect()));
        let operation = NormOfSum { of, shape: x.dims(), eps: eps as f32 };
        let inputs =
            vec![x.into_dispatch(), other.values.into_dispatch(), weight.into_dispatch(), bias.into_dispatch()];
        return fused(operation, inputs);
    }
    layer_norm(x + other.copied(), weight, Some(bias), eps)
}

#[derive(Debug)]
struct NormOfSum {
    of: ListOf,
    shape: [usize; 3],
    eps: f32,
}

impl NormOfSum {
    fn kernel<'a>(&self, inputs: &[&'a [f32]]) -> kernel::LayerNorm<'a> {
        kernel::LayerNorm { weight: inputs[2], bias: inputs[3], eps: self.eps, behind: Behind::Nothing }
    }
}

impl SliceOperation for NormOfSum {
    fn forward(&self, inputs: &[&[f32]]) -> SliceOutput {
        let values = self.kernel(inputs).forward_sum(inputs[0], inputs[1], &self.of);
        SliceOutput { values, shape: self.shape.to_vec(), kept: Vec::new() }
    }

    fn backward(&self, way: WayBack<'_>) -> Vec<Vec<f32>> {
        let grads = self.kernel(way.inputs).backward_sum(way.inputs[0], way.inputs[1], &self.of, way.d_output);
        let other = if way.wanted[1] { sums_by_list(&grads.x, &self.of, way.inputs[1].len()) } else { Vec::new() };
        vec![grads.x, other, grads.weight, grads.bias]
    }
}
