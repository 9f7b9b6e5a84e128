//! Linear layers and two-layer perceptrons of rows, and their ways back.
//!
//! A perceptron goes through its rows in tiles and forgets the hidden values; they are computed again on the way back. That
//! is one product of five more, and spares the largest tensors of a transformer.
//!
//! Weights are `[inputs, outputs]`, as burn keeps them. Letters: `R` rows, `I` inputs, `H` hidden, `O` outputs.

use rayon::prelude::*;

use crate::product::{Before, Matrix, Threads, multiply, product};
use crate::vector::{gelu, gelu_slope, vectorised};

/// Rows of a perceptron whose hidden values exist at once.
const ROWS_PER_TILE: usize = 1024;
/// Rows that one thread takes at once between products.
const ROWS_PER_PART: usize = 128;

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
    fn inputs(&self) -> usize {
        let outputs = self.bias.len();
        assert!(outputs > 0 && self.weight.len().is_multiple_of(outputs), "a weight is [inputs, outputs]");
        self.weight.len() / outputs
    }

    fn matrix(&self) -> Matrix<'_> {
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

/// The non-linearity of a perceptron.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Exact GELU.
    Gelu,
    /// Rectified linear.
    Relu,
}

/// Two linear layers with a non-linearity between them.
#[derive(Clone, Copy, Debug)]
pub struct Perceptron<'a> {
    /// `[I] -> [H]`.
    pub first: Linear<'a>,
    /// `[H] -> [O]`.
    pub second: Linear<'a>,
    /// Between them.
    pub activation: Activation,
}

/// Gradients of a perceptron.
#[derive(Clone, Debug)]
pub struct PerceptronGrads {
    /// `[R, I]`.
    pub x: Vec<f32>,
    /// Weight and bias of the first layer.
    pub first: [Vec<f32>; 2],
    /// Weight and bias of the second layer.
    pub second: [Vec<f32>; 2],
}

impl Perceptron<'_> {
    /// # Shapes
    /// - `x`: `[R, I]`
    /// - returns `[R, O]`
    #[must_use]
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let (inputs, hidden, outputs) = self.sizes(x);
        let mut y = vec![0f32; x.len() / inputs * outputs];
        let tiles = x.chunks(ROWS_PER_TILE * inputs).zip(y.chunks_mut(ROWS_PER_TILE * outputs));
        for (x, y) in tiles {
            let rows = x.len() / inputs;
            let mut values = product(Matrix::new(x, rows, inputs), self.first.matrix(), Threads::All);
            match self.activation {
                Activation::Gelu => finish(&mut values, self.first.bias, gelu),
                Activation::Relu => finish(&mut values, self.first.bias, relu),
            }
            let values = Matrix::new(&values, rows, hidden);
            multiply(y, Before::Lost, 1.0, values, self.second.matrix(), Threads::All);
            finish(y, self.second.bias, |value| value);
        }
        y
    }

    /// Gradients from the input and the gradient of the output.
    #[must_use]
    pub fn backward(&self, x: &[f32], d_y: &[f32]) -> PerceptronGrads {
        let (inputs, hidden, outputs) = self.sizes(x);
        let mut d_x = vec![0f32; x.len()];
        let mut first = [vec![0f32; self.first.weight.len()], vec![0f32; hidden]];
        let mut second = [vec![0f32; self.second.weight.len()], column_sums(d_y, outputs)];
        let tiles = x.chunks(ROWS_PER_TILE * inputs).zip(d_y.chunks(ROWS_PER_TILE * outputs));
        for ((x, d_y), d_x) in tiles.zip(d_x.chunks_mut(ROWS_PER_TILE * inputs)) {
            let rows = x.len() / inputs;
            let (x, d_y) = (Matrix::new(x, rows, inputs), Matrix::new(d_y, rows, outputs));
            let mut values = product(x, self.first.matrix(), Threads::All);
            let mut d_values = product(d_y, self.second.matrix().transposed(), Threads::All);
            match self.activation {
                Activation::Gelu => finish_backward(&mut values, &mut d_values, self.first.bias, gelu, gelu_slope),
                Activation::Relu => finish_backward(&mut values, &mut d_values, self.first.bias, relu, relu_slope),
            }
            for (sum, value) in first[1].iter_mut().zip(column_sums(&d_values, hidden)) {
                *sum += value;
            }
            let (values, d_values) = (Matrix::new(&values, rows, hidden), Matrix::new(&d_values, rows, hidden));
            multiply(&mut second[0], Before::Kept, 1.0, values.transposed(), d_y, Threads::All);
            multiply(&mut first[0], Before::Kept, 1.0, x.transposed(), d_values, Threads::All);
            multiply(d_x, Before::Lost, 1.0, d_values, self.first.matrix().transposed(), Threads::All);
        }
        PerceptronGrads { x: d_x, first, second }
    }

    /// Inputs, hidden values, outputs.
    fn sizes(&self, x: &[f32]) -> (usize, usize, usize) {
        let (inputs, hidden) = (self.first.inputs(), self.second.inputs());
        assert_eq!(self.first.bias.len(), hidden, "the second layer takes what the first gives");
        assert!(x.len().is_multiple_of(inputs), "rows have {inputs} values");
        (inputs, hidden, self.second.bias.len())
    }
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    // No number stays none.
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn relu_slope(x: f32) -> f32 {
    // As above.
    if x <= 0.0 { 0.0 } else { 1.0 }
}

/// `function(row + bias)` in place.
#[inline(always)]
fn finish(values: &mut [f32], bias: &[f32], function: impl Fn(f32) -> f32 + Sync) {
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

/// Products without bias become `function(row + bias)`, gradients of these become gradients of the products.
#[inline(always)]
fn finish_backward(
    values: &mut [f32],
    d_values: &mut [f32],
    bias: &[f32],
    function: impl Fn(f32) -> f32 + Sync,
    slope: impl Fn(f32) -> f32 + Sync,
) {
    let size = ROWS_PER_PART * bias.len();
    values.par_chunks_mut(size).zip(d_values.par_chunks_mut(size)).for_each(|(values, d_values)| {
        vectorised(
            #[inline(always)]
            || {
                let rows = values.chunks_exact_mut(bias.len()).zip(d_values.chunks_exact_mut(bias.len()));
                for (values, d_values) in rows {
                    for ((value, d_value), bias) in values.iter_mut().zip(d_values).zip(bias) {
                        let before = *value + bias;
                        *value = function(before);
                        *d_value *= slope(before);
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
    use crate::testing::{self, check, values};

    struct Wide {
        values: Vec<f64>,
        columns: usize,
    }

    impl Wide {
        fn new(values: &[f32], columns: usize) -> Self {
            Self { values: values.iter().map(|&x| f64::from(x)).collect(), columns }
        }

        fn rows(&self) -> usize {
            self.values.len() / self.columns
        }

        fn transposed(&self) -> Self {
            let (rows, columns) = (self.rows(), self.columns);
            let values = (0..rows * columns).map(|at| self.values[at % rows * columns + at / rows]).collect();
            Self { values, columns: rows }
        }

        fn times(&self, other: &Self) -> Self {
            let inner = self.columns;
            assert_eq!(inner, other.rows());
            let at = |i: usize, j: usize| {
                (0..inner).map(|l| self.values[i * inner + l] * other.values[l * other.columns + j]).sum()
            };
            let values = (0..self.rows() * other.columns).map(|p| at(p / other.columns, p % other.columns)).collect();
            Self { values, columns: other.columns }
        }

        fn plus(mut self, bias: &[f32]) -> Self {
            let columns = self.columns;
            self.values.iter_mut().enumerate().for_each(|(at, value)| *value += f64::from(bias[at % columns]));
            self
        }

        fn map(&self, function: impl Fn(f64) -> f64) -> Self {
            Self { values: self.values.iter().map(|&x| function(x)).collect(), columns: self.columns }
        }

        fn zip(&self, other: &Self) -> Self {
            let values = self.values.iter().zip(&other.values).map(|(a, b)| a * b).collect();
            Self { values, columns: self.columns }
        }

        fn sums(&self) -> Vec<f64> {
            (0..self.columns).map(|c| self.values.iter().skip(c).step_by(self.columns).sum()).collect()
        }
    }

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

    #[test]
    fn perceptrons_and_their_gradients_are_those_of_the_definition() {
        let relu_slope = |x: f64| f64::from(u8::from(x > 0.0));
        for (rows, inputs, hidden, outputs, activation) in
            [(1, 1, 1, 1, Activation::Relu), (5, 3, 8, 4, Activation::Gelu), (1100, 6, 20, 5, Activation::Gelu)]
        {
            let (x, d_y) = (values(rows * inputs, 1), values(rows * outputs, 2));
            let (w1, b1, w2, b2) =
                (values(inputs * hidden, 3), values(hidden, 4), values(hidden * outputs, 5), values(outputs, 6));
            let first = Linear { weight: &w1, bias: &b1 };
            let layers = Perceptron { first, second: Linear { weight: &w2, bias: &b2 }, activation };
            let (x_64, d_64) = (Wide::new(&x, inputs), Wide::new(&d_y, outputs));
            let (w1_64, w2_64) = (Wide::new(&w1, hidden), Wide::new(&w2, outputs));
            let before = x_64.times(&w1_64).plus(&b1);
            let (after, slope) = match activation {
                Activation::Gelu => (before.map(testing::gelu), before.map(testing::gelu_slope)),
                Activation::Relu => (before.map(|x| x.max(0.0)), before.map(relu_slope)),
            };
            check("y", &layers.forward(&x), &after.times(&w2_64).plus(&b2).values, 2e-6);
            let grads = layers.backward(&x, &d_y);
            let d_before = d_64.times(&w2_64.transposed()).zip(&slope);
            check("x", &grads.x, &d_before.times(&w1_64.transposed()).values, 5e-6);
            check("first weight", &grads.first[0], &x_64.transposed().times(&d_before).values, 5e-6);
            check("first bias", &grads.first[1], &d_before.sums(), 5e-6);
            check("second weight", &grads.second[0], &after.transposed().times(&d_64).values, 5e-6);
            check("second bias", &grads.second[1], &d_64.sums(), 5e-6);
        }
    }
}
