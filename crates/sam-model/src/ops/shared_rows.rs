//! Rows that several objects share. The objects of an image look at one map: what depends on the map alone is computed once,
//! and an object that adds something of its own adds it to the shared rows.
//!
//! Shapes: `O` objects, `B` images, `P` rows of an image, `I` inputs, `D` outputs.

use std::sync::Arc;

use burn::nn::LayerNorm;
use burn::tensor::module::layer_norm;
use burn::tensor::{Int, Tensor, TensorData};
use sam_kernel::layer_norm::{self as kernel, Epilogue};
use sam_kernel::linear::{SharedLinear, sums_by_image};

use super::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};
use super::layer_norm::NormParameters;
use super::products::matmul;

/// The image of each object, `[O]`.
pub(crate) type ImageIndex = Arc<Vec<usize>>;

/// Rows per image or per object.
#[derive(Clone, Debug)]
pub(crate) struct Rows {
    /// `[B, P, D]`, or `[O, P, D]` when each object has its own.
    pub(crate) values: Tensor<3>,
    /// `None` when each object has its own.
    pub(crate) image_index: Option<ImageIndex>,
}

impl Rows {
    /// Rows of each object.
    pub(crate) fn own(values: Tensor<3>) -> Self {
        Self { values, image_index: None }
    }

    /// Rows of each image, shared by its objects.
    pub(crate) fn shared(values: Tensor<3>, image_index: &ImageIndex) -> Self {
        Self { values, image_index: Some(Arc::clone(image_index)) }
    }

    /// `O`.
    pub(crate) fn objects(&self) -> usize {
        self.image_index.as_ref().map_or(self.values.dims()[0], |index| index.len())
    }

    /// `[O, P, D]`, shared rows copied.
    pub(crate) fn expanded(self) -> Tensor<3> {
        match self.image_index {
            Some(index) => expand(self.values, &index),
            None => self.values,
        }
    }
}

/// `[B, P, D]` to `[O, P, D]`.
fn expand(shared: Tensor<3>, image_index: &[usize]) -> Tensor<3> {
    let [images, rows, width] = shared.dims();
    if images == 1 {
        return shared.expand([image_index.len(), rows, width]);
    }
    let index: Vec<i64> = image_index.iter().map(|&image| image as i64).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [image_index.len()]), &shared.device());
    shared.select(0, index)
}

/// Inputs of [`shared_linear`].
pub(crate) struct SharedLinearInputs<'a> {
    /// `[O, P, I]`.
    pub(crate) x: Tensor<3>,
    /// `[I, D]`.
    pub(crate) weight: Tensor<2>,
    /// `[B, P, D]`.
    pub(crate) shared: Tensor<3>,
    /// `[O]`.
    pub(crate) image_index: &'a ImageIndex,
}

/// `x W + shared[image_index]`.
///
/// # Shapes
/// - returns `[O, P, D]`
pub(crate) fn shared_linear(inputs: SharedLinearInputs<'_>) -> Tensor<3> {
    let SharedLinearInputs { x, weight, shared, image_index } = inputs;
    let [objects, rows, _] = x.dims();
    let [_, outputs] = weight.dims();
    assert_eq!(objects, image_index.len(), "each object names its image");
    if is_fusible(&x) {
        let operation = SharedLinearOp { image_index: Arc::clone(image_index), rows, outputs };
        return fused(operation, [x.into_dispatch(), weight.into_dispatch(), shared.into_dispatch()]);
    }
    matmul(x, weight.unsqueeze()) + expand(shared, image_index)
}

#[derive(Debug)]
struct SharedLinearOp {
    image_index: ImageIndex,
    rows: usize,
    outputs: usize,
}

impl SliceOperation<3> for SharedLinearOp {
    fn forward(&self, [x, weight, shared]: [&[f32]; 3]) -> SliceOutput {
        let kernel = SharedLinear { weight, shared, rows: self.rows, image_index: &self.image_index };
        SliceOutput::new(kernel.forward(x), [self.image_index.len(), self.rows, self.outputs])
    }

    fn backward(&self, pass: BackwardInputs<'_, 3>) -> [Vec<f32>; 3] {
        let [x, weight, shared] = pass.inputs;
        let kernel = SharedLinear { weight, shared, rows: self.rows, image_index: &self.image_index };
        let grads = kernel.backward(x, pass.d_output);
        [grads.x, grads.weight, grads.shared]
    }
}

/// The norm of a sum, which ends a residual branch.
///
/// # Shapes
/// - `x`: `[O, P, C]`, `other`: rows `[P, C]` per image or object
/// - returns `[O, P, C]`
pub(crate) fn normalise_sum(x: Tensor<3>, other: Rows, norm: &LayerNorm, eps: f64) -> Tensor<3> {
    let NormParameters { weight, bias, eps } = NormParameters::new(norm, eps);
    if is_fusible(&x) {
        let [objects, ..] = x.dims();
        let image_index = other.image_index.unwrap_or_else(|| Arc::new((0..objects).collect()));
        let operation = NormOfSumOp { image_index, shape: x.dims(), eps: eps as f32 };
        let (x, other) = (x.into_dispatch(), other.values.into_dispatch());
        return fused(operation, [x, other, weight.into_dispatch(), bias.into_dispatch()]);
    }
    layer_norm(x + other.expanded(), weight, Some(bias), eps)
}

#[derive(Debug)]
struct NormOfSumOp {
    image_index: ImageIndex,
    shape: [usize; 3],
    eps: f32,
}

impl SliceOperation<4> for NormOfSumOp {
    fn forward(&self, [x, other, weight, bias]: [&[f32]; 4]) -> SliceOutput {
        let norm = kernel::LayerNorm { weight, bias, eps: self.eps, epilogue: Epilogue::None };
        SliceOutput::new(norm.forward_sum(x, other, &self.image_index), self.shape)
    }

    fn backward(&self, pass: BackwardInputs<'_, 4>) -> [Vec<f32>; 4] {
        let [x, other, weight, bias] = pass.inputs;
        let [_, other_needs_grad, ..] = pass.needs_grad;
        let norm = kernel::LayerNorm { weight, bias, eps: self.eps, epilogue: Epilogue::None };
        let grads = norm.backward_sum(x, other, &self.image_index, pass.d_output);
        let d_other = match other_needs_grad {
            true => sums_by_image(&grads.x, &self.image_index, other.len()),
            false => Vec::new(),
        };
        [grads.x, d_other, grads.weight, grads.bias]
    }
}
