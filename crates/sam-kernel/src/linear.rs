//! Linear layers and their backward passes.
//!
//! Weights are `[inputs, outputs]`, as burn stores them. Letters: `R` rows, `I` inputs, `O` outputs.

use rayon::prelude::*;

use crate::matmul::{Int8Weights, Matrix, Threads, matmul};
use crate::vector::vectorised;

/// Rows that one thread takes at once between matrix products.
pub(crate) const ROWS_PER_CHUNK: usize = 128;

/// Values that one thread adds at once, where all of a map are alike.
const VALUES_PER_CHUNK: usize = 1 << 14;

/// The parameters of a linear layer.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// `[I, O]`.
    pub weight: &'a [f32],
    /// `[O]`.
    pub bias: &'a [f32],
}

/// Which inputs of a linear layer need a gradient.
#[derive(Clone, Copy, Debug)]
pub struct LinearNeeds {
    /// Whether the input needs one.
    pub x: bool,
    /// Whether the weight needs one.
    pub weight: bool,
    /// Whether the bias needs one.
    pub bias: bool,
}

/// Gradients of a linear layer; those that are not needed are empty.
#[derive(Clone, Debug)]
pub struct LinearGrads {
    /// `[R, I]`.
    pub x: Vec<f32>,
    /// `[I, O]`.
    pub weight: Vec<f32>,
    /// `[O]`.
    pub bias: Vec<f32>,
}

impl Linear<'_> {
    pub(crate) fn inputs(&self) -> usize {
        let outputs = self.bias.len();
        assert!(outputs > 0 && self.weight.len().is_multiple_of(outputs), "a weight is [inputs, outputs]");
        self.weight.len() / outputs
    }

    pub(crate) fn matrix(&self) -> Matrix<'_> {
        Matrix::new(self.weight, self.inputs(), self.bias.len())
    }

    fn rows(&self, x: &[f32]) -> usize {
        let inputs = self.inputs();
        assert!(inputs > 0 && x.len().is_multiple_of(inputs), "rows have {inputs} values");
        x.len() / inputs
    }

    /// # Shapes
    /// - `x`: `[R, I]`
    /// - returns `[R, O]`
    #[must_use]
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let x = Matrix::new(x, self.rows(x), self.inputs());
        let mut y = matmul(x, self.matrix(), Threads::All);
        add_bias_and_map(&mut y, self.bias, |value| value);
        y
    }

    /// As [`Linear::forward`], of inputs and weights that are rounded to 8 bits where the processor multiplies them
    /// ([`crate::has_int8_products`]), for inference.
    ///
    /// # Shapes
    /// - `x`: `[R, I]`
    /// - returns `[R, O]`
    #[must_use]
    pub fn forward_int8(&self, x: &[f32]) -> Vec<f32> {
        let Some(weight) = Int8Weights::new(self.matrix()) else { return self.forward(x) };
        let mut y = vec![0f32; self.rows(x) * self.bias.len()];
        weight.multiply(x, &mut y);
        add_bias_and_map(&mut y, self.bias, |value| value);
        y
    }

    /// The gradients that `needs` names, from the input and the gradient of the output.
    ///
    /// # Shapes
    /// - `x`: `[R, I]`, `d_y`: `[R, O]`
    #[must_use]
    pub fn backward(&self, x: &[f32], d_y: &[f32], needs: LinearNeeds) -> LinearGrads {
        let (rows, inputs, outputs) = (self.rows(x), self.inputs(), self.bias.len());
        let d = Matrix::new(d_y, rows, outputs);
        let when = |is_needed: bool, grad: &dyn Fn() -> Vec<f32>| if is_needed { grad() } else { Vec::new() };
        LinearGrads {
            x: when(needs.x, &|| matmul(d, self.matrix().transposed(), Threads::All)),
            weight: when(needs.weight, &|| matmul(Matrix::new(x, rows, inputs).transposed(), d, Threads::All)),
            bias: when(needs.bias, &|| column_sums(d_y, outputs)),
        }
    }
}

/// A matrix product plus rows that the objects of an image share: `x W + shared[image_index]`.
///
/// Letters: `O` objects, `B` images, `P` rows of an object.
#[derive(Clone, Copy, Debug)]
pub struct SharedLinear<'a> {
    /// `[I, D]`.
    pub weight: &'a [f32],
    /// `[B, P, D]`.
    pub shared: &'a [f32],
    /// `P`.
    pub rows: usize,
    /// `[O]`, the image of each object.
    pub image_index: &'a [usize],
}

/// Gradients of a [`SharedLinear`].
#[derive(Clone, Debug)]
pub struct SharedLinearGrads {
    /// `[O, P, I]`.
    pub x: Vec<f32>,
    /// `[I, D]`.
    pub weight: Vec<f32>,
    /// `[B, P, D]`.
    pub shared: Vec<f32>,
}

impl SharedLinear<'_> {
    fn sizes(&self, x: &[f32]) -> (usize, usize) {
        let n = self.image_index.len() * self.rows;
        assert!(n > 0 && x.len().is_multiple_of(n), "inputs are [O, P, I]");
        let inputs = x.len() / n;
        assert!(inputs > 0 && self.weight.len().is_multiple_of(inputs), "a weight is [I, D]");
        let outputs = self.weight.len() / inputs;
        let shared_len = self.shared.len();
        let is_inside = |image: &usize| (image + 1) * self.rows * outputs <= shared_len;
        assert!(self.image_index.iter().all(is_inside), "shared rows are [B, P, D]");
        (inputs, outputs)
    }

    /// # Shapes
    /// - `x`: `[O, P, I]`
    /// - returns `[O, P, D]`
    #[must_use]
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let (inputs, outputs) = self.sizes(x);
        let x = Matrix::new(x, self.image_index.len() * self.rows, inputs);
        let mut y = matmul(x, Matrix::new(self.weight, inputs, outputs), Threads::All);
        let size = self.rows * outputs;
        y.par_chunks_mut(size).zip(self.image_index).for_each(|(y, image)| {
            let shared = &self.shared[image * size..][..size];
            y.par_chunks_mut(VALUES_PER_CHUNK).zip(shared.par_chunks(VALUES_PER_CHUNK)).for_each(|(y, shared)| {
                vectorised(
                    #[inline(always)]
                    || y.iter_mut().zip(shared).for_each(|(y, shared)| *y += shared),
                );
            });
        });
        y
    }

    /// Gradients from the input and the gradient of the output.
    ///
    /// # Shapes
    /// - `x`: `[O, P, I]`, `d_y`: `[O, P, D]`
    #[must_use]
    pub fn backward(&self, x: &[f32], d_y: &[f32]) -> SharedLinearGrads {
        let (inputs, outputs) = self.sizes(x);
        let rows = self.image_index.len() * self.rows;
        let d = Matrix::new(d_y, rows, outputs);
        SharedLinearGrads {
            x: matmul(d, Matrix::new(self.weight, inputs, outputs).transposed(), Threads::All),
            weight: matmul(Matrix::new(x, rows, inputs).transposed(), d, Threads::All),
            shared: sums_by_image(d_y, self.image_index, self.shared.len()),
        }
    }
}

/// For each image the sum of its objects' values, objects in order; `n` values for all images together.
#[must_use]
pub fn sums_by_image(values: &[f32], image_index: &[usize], n: usize) -> Vec<f32> {
    let size = values.len() / image_index.len();
    let mut sums = vec![0f32; n];
    sums.par_chunks_mut(size).enumerate().for_each(|(image, sums)| {
        sums.par_chunks_mut(VALUES_PER_CHUNK).enumerate().for_each(|(chunk, sums)| {
            for (values, _) in values.chunks_exact(size).zip(image_index).filter(|(_, of)| **of == image) {
                let values = &values[chunk * VALUES_PER_CHUNK..];
                vectorised(
                    #[inline(always)]
                    || sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
                );
            }
        });
    });
    sums
}

/// `function(row + bias)` in place.
#[inline(always)]
pub(crate) fn add_bias_and_map(values: &mut [f32], bias: &[f32], function: impl Fn(f32) -> f32 + Sync) {
    values.par_chunks_mut(ROWS_PER_CHUNK * bias.len()).for_each(|chunk| {
        vectorised(
            #[inline(always)]
            || {
                for row in chunk.chunks_exact_mut(bias.len()) {
                    for (value, bias) in row.iter_mut().zip(bias) {
                        *value = function(*value + bias);
                    }
                }
            },
        );
    });
}

/// Sums over rows: over chunks of a fixed size first, then over the chunks in order.
pub(crate) fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let of_chunk = |chunk: &[f32]| {
        let mut sums = vec![0f32; columns];
        vectorised(
            #[inline(always)]
            || {
                for row in chunk.chunks_exact(columns) {
                    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
            },
        );
        sums
    };
    let chunks: Vec<Vec<f32>> = values.par_chunks(ROWS_PER_CHUNK * columns).map(of_chunk).collect();
    let mut sums = vec![0f32; columns];
    for chunk in &chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += value);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Wide, check, values};

    #[test]
    fn layers_and_their_gradients_match_the_definition() {
        for (rows, inputs, outputs) in [(1, 1, 1), (3, 5, 7), (301, 16, 33)] {
            let (x, d_y) = (values(rows * inputs, 1), values(rows * outputs, 2));
            let (weight, bias) = (values(inputs * outputs, 3), values(outputs, 4));
            let layer = Linear { weight: &weight, bias: &bias };
            let (x_64, w_64, d_64) = (Wide::new(&x, inputs), Wide::new(&weight, outputs), Wide::new(&d_y, outputs));
            check("y", &layer.forward(&x), &x_64.times(&w_64).plus(&bias).values, 1e-6);
            let grads = layer.backward(&x, &d_y, LinearNeeds { x: true, weight: true, bias: true });
            check("x", &grads.x, &d_64.times(&w_64.transposed()).values, 1e-6);
            check("weight", &grads.weight, &x_64.transposed().times(&d_64).values, 1e-6);
            check("bias", &grads.bias, &d_64.sums(), 1e-6);
            for one in 0..3 {
                let needs = LinearNeeds { x: one == 0, weight: one == 1, bias: one == 2 };
                let few = layer.backward(&x, &d_y, needs);
                let pairs = [(few.x, &grads.x), (few.weight, &grads.weight), (few.bias, &grads.bias)];
                for (at, (few, all)) in pairs.iter().enumerate() {
                    assert!(if at == one { few == *all } else { few.is_empty() }, "gradient {at} when {one} is needed");
                }
            }
        }
    }

    #[test]
    fn shared_rows_are_added_and_their_gradients_summed() {
        let (image_index, rows, inputs, outputs) = ([1, 0, 1], 5, 3, 4);
        let (x, d_y) = (values(15 * inputs, 1), values(15 * outputs, 2));
        let (weight, shared) = (values(inputs * outputs, 3), values(2 * rows * outputs, 4));
        let layer = SharedLinear { weight: &weight, shared: &shared, rows, image_index: &image_index };
        let (x_64, w_64, d_64) = (Wide::new(&x, inputs), Wide::new(&weight, outputs), Wide::new(&d_y, outputs));
        let size = rows * outputs;
        let mut expected = x_64.times(&w_64).values;
        let mut d_shared = vec![0f64; 2 * size];
        for (at, value) in expected.iter_mut().enumerate() {
            let place = image_index[at / size] * size + at % size;
            *value += f64::from(shared[place]);
            d_shared[place] += d_64.values[at];
        }
        check("y", &layer.forward(&x), &expected, 1e-6);
        let grads = layer.backward(&x, &d_y);
        check("x", &grads.x, &d_64.times(&w_64.transposed()).values, 1e-6);
        check("weight", &grads.weight, &x_64.transposed().times(&d_64).values, 1e-6);
        check("shared", &grads.shared, &d_shared, 1e-6);
    }
}
