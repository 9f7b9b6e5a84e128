//! Two-layer MLPs and their backward pass.
//!
//! Rows are processed in tiles. Many hidden values are not stored: the backward pass recomputes them, which costs one matrix product
//! more beside five and saves the largest tensors of a transformer. Few are kept.
//!
//! Letters: `R` rows, `I` inputs, `H` hidden, `O` outputs.

use rayon::prelude::*;

use crate::linear::{Linear, ROWS_PER_CHUNK, add_bias_and_map, column_sums};
use crate::matmul::{Int8Weights, Matrix, Product, Threads, Write, matmul, matmul_into};
use crate::vector::{gelu, gelu_slope, quick_gelu, quick_gelu_slope, vectorised};

pub use crate::vector::QUICK_GELU_STEEPNESS;

/// Rows whose hidden values exist at once.
const ROWS_PER_TILE: usize = 1024;
/// The most hidden values that are kept for the backward pass, 16 MiB.
const KEPT_VALUES: usize = 1 << 22;

/// The activation function of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Exact GELU.
    Gelu,
    /// `x sigma(1.702 x)`, an approximation of GELU: that of OpenAI's CLIP.
    QuickGelu,
    /// Rectified linear.
    Relu,
}

/// Two linear layers with an activation between them.
#[derive(Clone, Copy, Debug)]
pub struct Mlp<'a> {
    /// `[I] -> [H]`.
    pub first: Linear<'a>,
    /// `[H] -> [O]`.
    pub second: Linear<'a>,
    /// Between them.
    pub activation: Activation,
}

/// Which parameters of an MLP need a gradient; its input always does.
#[derive(Clone, Copy, Debug)]
pub struct MlpNeeds {
    /// Whether the weight of the first layer does.
    pub first_weight: bool,
    /// Whether the weight of the second layer does.
    pub second_weight: bool,
}

/// Gradients of an MLP; those of weights that are not needed are empty.
#[derive(Clone, Debug)]
pub struct MlpGrads {
    /// `[R, I]`.
    pub x: Vec<f32>,
    /// `[I, H]`.
    pub first_weight: Vec<f32>,
    /// `[H]`.
    pub first_bias: Vec<f32>,
    /// `[H, O]`.
    pub second_weight: Vec<f32>,
    /// `[O]`.
    pub second_bias: Vec<f32>,
}

impl Mlp<'_> {
    /// # Shapes
    /// - `x`: `[R, I]`
    /// - returns `[R, O]`
    #[must_use]
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        self.forward_keeping(x, None)
    }

    /// As [`Mlp::forward`], with what is kept for the backward pass: hidden values before bias and activation, `[R, H]`, or nothing where
    /// they are many.
    ///
    /// # Shapes
    /// - `x`: `[R, I]`
    /// - returns `[R, O]`, and `[R, H]` or nothing
    #[must_use]
    pub fn forward_with_hidden(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (inputs, hidden, _) = self.sizes(x);
        let n = x.len() / inputs * hidden;
        if n > KEPT_VALUES {
            return (self.forward_keeping(x, None), Vec::new());
        }
        let mut kept = Vec::with_capacity(n);
        (self.forward_keeping(x, Some(&mut kept)), kept)
    }

    fn forward_keeping(&self, x: &[f32], mut kept: Option<&mut Vec<f32>>) -> Vec<f32> {
        let (inputs, hidden, outputs) = self.sizes(x);
        let mut y = vec![0f32; x.len() / inputs * outputs];
        let tiles = x.chunks(ROWS_PER_TILE * inputs).zip(y.chunks_mut(ROWS_PER_TILE * outputs));
        for (x, y) in tiles {
            let rows = x.len() / inputs;
            let mut values = matmul(Matrix::new(x, rows, inputs), self.first.matrix(), Threads::All);
            if let Some(kept) = &mut kept {
                kept.extend_from_slice(&values);
            }
            self.activate(&mut values);
            let values = Matrix::new(&values, rows, hidden);
            matmul_into(y, Write::Overwrite, on_all_threads(values, self.second.matrix()));
            add_bias_and_map(y, self.second.bias, |value| value);
        }
        y
    }

    /// As [`Mlp::forward`], of inputs, hidden values and weights that are rounded to 8 bits where the processor multiplies them
    /// ([`crate::has_int8_products`]), for inference.
    ///
    /// # Shapes
    /// - `x`: `[R, I]`
    /// - returns `[R, O]`
    #[must_use]
    pub fn forward_int8(&self, x: &[f32]) -> Vec<f32> {
        let (inputs, hidden, outputs) = self.sizes(x);
        let weights = Int8Weights::new(self.first.matrix()).zip(Int8Weights::new(self.second.matrix()));
        let Some((first, second)) = weights else { return self.forward(x) };
        let mut y = vec![0f32; x.len() / inputs * outputs];
        let mut values = vec![0f32; (x.len() / inputs).min(ROWS_PER_TILE) * hidden];
        let tiles = x.chunks(ROWS_PER_TILE * inputs).zip(y.chunks_mut(ROWS_PER_TILE * outputs));
        for (x, y) in tiles {
            let values = &mut values[..x.len() / inputs * hidden];
            first.multiply(x, values);
            self.activate(values);
            second.multiply(values, y);
            add_bias_and_map(y, self.second.bias, |value| value);
        }
        y
    }

    /// Adds the bias of the first layer to its products, and activates them.
    fn activate(&self, values: &mut [f32]) {
        match self.activation {
            Activation::Gelu => add_bias_and_map(values, self.first.bias, gelu),
            Activation::QuickGelu => add_bias_and_map(values, self.first.bias, quick_gelu),
            Activation::Relu => add_bias_and_map(values, self.first.bias, relu),
        }
    }

    /// Gradients from the input, what [`Mlp::forward_with_hidden`] kept, if anything, and the gradient of the output.
    ///
    /// # Shapes
    /// - `x`: `[R, I]`, `kept`: `[R, H]` or nothing, `d_y`: `[R, O]`
    #[must_use]
    pub fn backward(&self, x: &[f32], kept: &[f32], d_y: &[f32], needs: MlpNeeds) -> MlpGrads {
        let (inputs, hidden, outputs) = self.sizes(x);
        assert!(kept.is_empty() || kept.len() == x.len() / inputs * hidden, "hidden values are [R, H]");
        let zeros = |is_needed: bool, n: usize| if is_needed { vec![0f32; n] } else { Vec::new() };
        let mut grads = MlpGrads {
            x: vec![0f32; x.len()],
            first_weight: zeros(needs.first_weight, self.first.weight.len()),
            first_bias: vec![0f32; hidden],
            second_weight: zeros(needs.second_weight, self.second.weight.len()),
            second_bias: column_sums(d_y, outputs),
        };
        let tiles = x.chunks(ROWS_PER_TILE * inputs).zip(d_y.chunks(ROWS_PER_TILE * outputs));
        for (tile, ((x, d_y), d_x)) in tiles.zip(grads.x.chunks_mut(ROWS_PER_TILE * inputs)).enumerate() {
            let rows = x.len() / inputs;
            let (x, d_y) = (Matrix::new(x, rows, inputs), Matrix::new(d_y, rows, outputs));
            let mut values = if kept.is_empty() {
                matmul(x, self.first.matrix(), Threads::All)
            } else {
                kept[tile * ROWS_PER_TILE * hidden..][..rows * hidden].to_vec()
            };
            let mut d_values = matmul(d_y, self.second.matrix().transposed(), Threads::All);
            let bias = self.first.bias;
            match self.activation {
                Activation::Gelu => backward_of_map(&mut values, &mut d_values, bias, (gelu, gelu_slope)),
                Activation::QuickGelu => {
                    backward_of_map(&mut values, &mut d_values, bias, (quick_gelu, quick_gelu_slope));
                }
                Activation::Relu => backward_of_map(&mut values, &mut d_values, bias, (relu, relu_slope)),
            }
            for (sum, value) in grads.first_bias.iter_mut().zip(column_sums(&d_values, hidden)) {
                *sum += value;
            }
            let (values, d_values) = (Matrix::new(&values, rows, hidden), Matrix::new(&d_values, rows, hidden));
            // Frozen weights save a third of the products.
            if needs.second_weight {
                matmul_into(&mut grads.second_weight, Write::Accumulate, on_all_threads(values.transposed(), d_y));
            }
            if needs.first_weight {
                matmul_into(&mut grads.first_weight, Write::Accumulate, on_all_threads(x.transposed(), d_values));
            }
            matmul_into(d_x, Write::Overwrite, on_all_threads(d_values, self.first.matrix().transposed()));
        }
        grads
    }

    /// Inputs, hidden values, outputs.
    fn sizes(&self, x: &[f32]) -> (usize, usize, usize) {
        let (inputs, hidden) = (self.first.inputs(), self.second.inputs());
        assert_eq!(self.first.bias.len(), hidden, "the second layer takes what the first gives");
        assert!(x.len().is_multiple_of(inputs), "rows have {inputs} values");
        (inputs, hidden, self.second.bias.len())
    }
}

fn on_all_threads<'a>(a: Matrix<'a>, b: Matrix<'a>) -> Product<'a> {
    Product::new(1.0, a, b, Threads::All)
}

#[inline(always)]
fn relu(x: f32) -> f32 {
    // NaN stays NaN.
    if x < 0.0 { 0.0 } else { x }
}

#[inline(always)]
fn relu_slope(x: f32) -> f32 {
    // As above.
    if x <= 0.0 { 0.0 } else { 1.0 }
}

/// Products without bias become `function(row + bias)`; gradients of these become gradients of the products.
#[inline(always)]
fn backward_of_map(
    values: &mut [f32],
    d_values: &mut [f32],
    bias: &[f32],
    (function, derivative): (impl Fn(f32) -> f32 + Sync, impl Fn(f32) -> f32 + Sync),
) {
    let size = ROWS_PER_CHUNK * bias.len();
    values.par_chunks_mut(size).zip(d_values.par_chunks_mut(size)).for_each(|(values, d_values)| {
        vectorised(
            #[inline(always)]
            || {
                let rows = values.chunks_exact_mut(bias.len()).zip(d_values.chunks_exact_mut(bias.len()));
                for (values, d_values) in rows {
                    for ((value, d_value), bias) in values.iter_mut().zip(d_values).zip(bias) {
                        let before = *value + bias;
                        *value = function(before);
                        *d_value *= derivative(before);
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
    fn many_hidden_values_are_not_kept() {
        let (hidden, weights, bias) = (1 << 12, vec![0.5; 1 << 12], vec![0.0; 1 << 12]);
        let first = Linear { weight: &weights, bias: &bias };
        let layers = Mlp { first, second: Linear { weight: &weights, bias: &[0.0] }, activation: Activation::Relu };
        for (rows, is_kept) in [(KEPT_VALUES / hidden, true), (KEPT_VALUES / hidden + 1, false)] {
            assert_eq!(!layers.forward_with_hidden(&vec![1.0; rows]).1.is_empty(), is_kept);
        }
    }

    #[test]
    fn mlps_and_their_gradients_match_the_definition() {
        let relu_slope = |x: f64| f64::from(u8::from(x > 0.0));
        for (rows, inputs, hidden, outputs, activation) in [
            (1, 1, 1, 1, Activation::Relu),
            (5, 3, 8, 4, Activation::Gelu),
            (1100, 6, 20, 5, Activation::Gelu),
            (1100, 6, 20, 5, Activation::QuickGelu),
        ] {
            let (x, d_y) = (values(rows * inputs, 1), values(rows * outputs, 2));
            let (w1, b1, w2, b2) =
                (values(inputs * hidden, 3), values(hidden, 4), values(hidden * outputs, 5), values(outputs, 6));
            let first = Linear { weight: &w1, bias: &b1 };
            let layers = Mlp { first, second: Linear { weight: &w2, bias: &b2 }, activation };
            let (x_64, d_64) = (Wide::new(&x, inputs), Wide::new(&d_y, outputs));
            let (w1_64, w2_64) = (Wide::new(&w1, hidden), Wide::new(&w2, outputs));
            let before = x_64.times(&w1_64).plus(&b1);
            let (after, slope) = match activation {
                Activation::Gelu => (before.map(testing::gelu), before.map(testing::gelu_slope)),
                Activation::QuickGelu => (before.map(testing::quick_gelu), before.map(testing::quick_gelu_slope)),
                Activation::Relu => (before.map(|x| x.max(0.0)), before.map(relu_slope)),
            };
            check("y", &layers.forward(&x), &after.times(&w2_64).plus(&b2).values, 2e-6);
            let needs = MlpNeeds { first_weight: true, second_weight: true };
            let grads = layers.backward(&x, &[], &d_y, needs);
            let (y, kept) = layers.forward_with_hidden(&x);
            assert!(y == layers.forward(&x) && kept.len() == rows * hidden);
            let from_kept = layers.backward(&x, &kept, &d_y, needs);
            assert!(from_kept.x == grads.x && from_kept.first_weight == grads.first_weight, "kept, not computed again");
            let d_before = d_64.times(&w2_64.transposed()).zip(&slope);
            check("x", &grads.x, &d_before.times(&w1_64.transposed()).values, 5e-6);
            check("first weight", &grads.first_weight, &x_64.transposed().times(&d_before).values, 5e-6);
            check("first bias", &grads.first_bias, &d_before.sums(), 5e-6);
            check("second weight", &grads.second_weight, &after.transposed().times(&d_64).values, 5e-6);
            check("second bias", &grads.second_bias, &d_64.sums(), 5e-6);
            let frozen = layers.backward(&x, &[], &d_y, MlpNeeds { first_weight: false, second_weight: false });
            assert!(frozen.first_weight.is_empty() && frozen.second_weight.is_empty(), "frozen");
            assert!(frozen.x == grads.x && frozen.first_bias == grads.first_bias, "the others are the same to the bit");
        }
    }
}
