//! Two-layer perceptrons of rows, and their way back.
//!
//! A perceptron goes through its rows in tiles and forgets the hidden values; they are computed again on the way back. That
//! is one product of five more, and spares the largest tensors of a transformer.
//!
//! Letters: `R` rows, `I` inputs, `H` hidden, `O` outputs.

use rayon::prelude::*;

use crate::linear::{Linear, ROWS_PER_PART, column_sums, finish};
use crate::product::{Before, Matrix, Threads, multiply, product};
use crate::vector::{gelu, gelu_slope, vectorised};

/// Rows whose hidden values exist at once.
const ROWS_PER_TILE: usize = 1024;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Wide, check, values};

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
