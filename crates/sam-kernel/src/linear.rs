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

    /// Gradients from the input and the gradient of the output.
    #[must_use]
    pub fn backward(&self, x: &[f32], d_y: &[f32]) -> LinearGrads {
        let (rows, inputs, outputs) = (self.rows(x), self.inputs(), self.bias.len());
        let d = Matrix::new(d_y, rows, outputs);
        LinearGrads {
            x: product(d, self.matrix().transposed(), Threads::All),
            weight: product(Matrix::new(x, rows, inputs).transposed(), d, Threads::All),
            bias: column_sums(d_y, outputs),
        }
    }
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
    if x > 0.0 { 1.0 } else { 0.0 }
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
            let grads = layer.backward(&x, &d_y);
            check("x", &grads.x, &d_64.times(&w_64.transposed()).values, 1e-6);
            check("weight", &grads.weight, &x_64.transposed().times(&d_64).values, 1e-6);
            check("bias", &grads.bias, &d_64.sums(), 1e-6);
        }
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
