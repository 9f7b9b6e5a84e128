//! Linear layers of rows, and their ways back.
//!
//! Weights are `[inputs, outputs]`, as burn keeps them. Letters: `R` rows, `I` inputs, `O` outputs.

use rayon::prelude::*;

use crate::product::{Matrix, Threads, product};
use crate::vector::vectorised;

/// Rows that one thread takes at once between products.
pub(crate) const ROWS_PER_PART: usize = 128;

/// A matrix and a bias.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// `[I, O]`.
    pub weight: &'a [f32],
    /// `[O]`.
    pub bias: &'a [f32],
}

/// Gradients of a linear layer.
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
        let mut y = product(x, self.matrix(), Threads::All);
        finish(&mut y, self.bias, |value| value);
        y
    }

    /// Gradients from the input and the gradient of the output; `wanted` says which, in the order of [`LinearGrads`], the
    /// others stay empty.
    #[must_use]
    pub fn backward(&self, x: &[f32], d_y: &[f32], wanted: [bool; 3]) -> LinearGrads {
        let (rows, inputs, outputs) = (self.rows(x), self.inputs(), self.bias.len());
        let d = Matrix::new(d_y, rows, outputs);
        let [x_wanted, weight_wanted, bias_wanted] = wanted;
        let when = |is_wanted: bool, grad: &dyn Fn() -> Vec<f32>| if is_wanted { grad() } else { Vec::new() };
        LinearGrads {
            x: when(x_wanted, &|| product(d, self.matrix().transposed(), Threads::All)),
            weight: when(weight_wanted, &|| product(Matrix::new(x, rows, inputs).transposed(), d, Threads::All)),
            bias: when(bias_wanted, &|| column_sums(d_y, outputs)),
        }
    }
}

/// A product to which rows are added that several objects share: `x W + shared[of]`.
///
/// Letters: `O` objects, `B` lists of shared rows, `P` rows of an object.
#[derive(Clone, Copy, Debug)]
pub struct SharedLinear<'a> {
    /// `[I, D]`.
    pub weight: &'a [f32],
    /// `[B, P, D]`.
    pub shared: &'a [f32],
    /// `P`.
    pub rows: usize,
    /// `[O]`, the list of each object.
    pub of: &'a [usize],
}

impl SharedLinear<'_> {
    fn sizes(&self, x: &[f32]) -> (usize, usize) {
        let n = self.of.len() * self.rows;
        assert!(n > 0 && x.len().is_multiple_of(n), "inputs are [O, P, I]");
        let inputs = x.len() / n;
        assert!(inputs > 0 && self.weight.len().is_multiple_of(inputs), "a weight is [I, D]");
        let outputs = self.weight.len() / inputs;
        assert!(self.of.iter().all(|of| (of + 1) * self.rows * outputs <= self.shared.len()), "rows are [B, P, D]");
        (inputs, outputs)
    }

    /// # Shapes
    /// - `x`: `[O, P, I]`
    /// - returns `[O, P, D]`
    #[must_use]
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let (inputs, outputs) = self.sizes(x);
        let x = Matrix::new(x, self.of.len() * self.rows, inputs);
        let mut y = product(x, Matrix::new(self.weight, inputs, outputs), Threads::All);
        let size = self.rows * outputs;
        y.par_chunks_mut(size).zip(self.of).for_each(|(y, of)| {
            let shared = &self.shared[of * size..][..size];
            vectorised(
                #[inline(always)]
                || y.iter_mut().zip(shared).for_each(|(y, shared)| *y += shared),
            );
        });
        y
    }

    /// Gradients of `x`, the weight and the shared rows, from the input and the gradient of the output.
    #[must_use]
    pub fn backward(&self, x: &[f32], d_y: &[f32]) -> [Vec<f32>; 3] {
        let (inputs, outputs) = self.sizes(x);
        let rows = self.of.len() * self.rows;
        let d = Matrix::new(d_y, rows, outputs);
        [
            product(d, Matrix::new(self.weight, inputs, outputs).transposed(), Threads::All),
            product(Matrix::new(x, rows, inputs).transposed(), d, Threads::All),
            sums_by_list(d_y, self.of, self.shared.len()),
        ]
    }
}

/// Adds the values of each object to those of its list, objects in order; `n` values in all lists together.
#[must_use]
pub fn sums_by_list(values: &[f32], of: &[usize], n: usize) -> Vec<f32> {
    let size = values.len() / of.len();
    let mut sums = vec![0f32; n];
    sums.par_chunks_mut(size).enumerate().for_each(|(list, sums)| {
        for (values, _) in values.chunks_exact(size).zip(of).filter(|(_, of)| **of == list) {
            vectorised(
                #[inline(always)]
                || sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value),
            );
        }
    });
    sums
}

/// `function(row + bias)` in place.
#[inline(always)]
pub(crate) fn finish(values: &mut [f32], bias: &[f32], function: impl Fn(f32) -> f32 + Sync) {
    values.par_chunks_mut(ROWS_PER_PART * bias.len()).for_each(|part| {
        vectorised(
            #[inline(always)]
            || {
                for row in part.chunks_exact_mut(bias.len()) {
                    for (value, bias) in row.iter_mut().zip(bias) {
                        *value = function(*value + bias);
                    }
                }
            },
        );
    });
}

/// Sums over rows: parts of fixed size, then the parts in order.
#[must_use]
pub fn column_sums(values: &[f32], columns: usize) -> Vec<f32> {
    let of_part = |part: &[f32]| {
        let mut sums = vec![0f32; columns];
        vectorised(
            #[inline(always)]
            || {
                for row in part.chunks_exact(columns) {
                    sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
            },
        );
        sums
    };
    let parts: Vec<Vec<f32>> = values.par_chunks(ROWS_PER_PART * columns).map(of_part).collect();
    let mut sums = vec![0f32; columns];
    for part in &parts {
        sums.iter_mut().zip(part).for_each(|(sum, value)| *sum += value);
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Wide, check, values};

    #[test]
    fn layers_and_their_gradients_are_those_of_the_definition() {
        for (rows, inputs, outputs) in [(1, 1, 1), (3, 5, 7), (301, 16, 33)] {
            let (x, d_y) = (values(rows * inputs, 1), values(rows * outputs, 2));
            let (weight, bias) = (values(inputs * outputs, 3), values(outputs, 4));
            let layer = Linear { weight: &weight, bias: &bias };
            let (x_64, w_64, d_64) = (Wide::new(&x, inputs), Wide::new(&weight, outputs), Wide::new(&d_y, outputs));
            check("y", &layer.forward(&x), &x_64.times(&w_64).plus(&bias).values, 1e-6);
            let grads = layer.backward(&x, &d_y, [true; 3]);
            check("x", &grads.x, &d_64.times(&w_64.transposed()).values, 1e-6);
            check("weight", &grads.weight, &x_64.transposed().times(&d_64).values, 1e-6);
            check("bias", &grads.bias, &d_64.sums(), 1e-6);
            for one in 0..3 {
                let few = layer.backward(&x, &d_y, std::array::from_fn(|at| at == one));
                let pairs = [(few.x, &grads.x), (few.weight, &grads.weight), (few.bias, &grads.bias)];
                for (at, (few, all)) in pairs.iter().enumerate() {
                    assert!(if at == one { few == *all } else { few.is_empty() }, "gradient {at} when {one} is wanted");
                }
            }
        }
    }

    #[test]
    fn shared_rows_are_added_and_summed_on_the_way_back() {
        let (of, rows, inputs, outputs) = ([1, 0, 1], 5, 3, 4);
        let (x, d_y) = (values(15 * inputs, 1), values(15 * outputs, 2));
        let (weight, shared) = (values(inputs * outputs, 3), values(2 * rows * outputs, 4));
        let layer = SharedLinear { weight: &weight, shared: &shared, rows, of: &of };
        let (x_64, w_64, d_64) = (Wide::new(&x, inputs), Wide::new(&weight, outputs), Wide::new(&d_y, outputs));
        let size = rows * outputs;
        let mut expected = x_64.times(&w_64).values;
        let mut d_shared = vec![0f64; 2 * size];
        for (at, value) in expected.iter_mut().enumerate() {
            let place = of[at / size] * size + at % size;
            *value += f64::from(shared[place]);
            d_shared[place] += d_64.values[at];
        }
        check("y", &layer.forward(&x), &expected, 1e-6);
        let [got_x, got_weight, got_shared] = layer.backward(&x, &d_y);
        check("x", &got_x, &d_64.times(&w_64.transposed()).values, 1e-6);
        check("weight", &got_weight, &x_64.transposed().times(&d_64).values, 1e-6);
        check("shared", &got_shared, &d_shared, 1e-6);
    }
}
