//! A linear layer with a low-rank adapter beside it (LoRA, Hu 2022, arXiv 2106.09685): `x W + b + s (x A) B`.
//!
//! The adapted weight `W + s A B` is never made, forward or backward: with a rank far below the layer's sizes, the adapter
//! costs a few percent of the layer, and the gradient of a frozen `W` is not computed at all.
//!
//! Letters: `R` rows, `I` inputs, `O` outputs, `r` rank.

use crate::linear::{Linear, LinearGrads, LinearNeeds};
use crate::matmul::{Matrix, Product, Threads, Write, matmul, matmul_into};

/// A linear layer and its adapter.
#[derive(Clone, Copy, Debug)]
pub struct LowRankLinear<'a> {
    /// The adapted layer.
    pub layer: Linear<'a>,
    /// `[I, r]`, LoRA's `A` transposed.
    pub down: &'a [f32],
    /// `[r, O]`, LoRA's `B` transposed.
    pub up: &'a [f32],
    /// Factor on the adapter's output.
    pub scale: f32,
}

/// Gradients of a [`LowRankLinear`]; those of the layer that are not needed are empty.
#[derive(Clone, Debug)]
pub struct LowRankGrads {
    /// Of the input and of the adapted layer.
    pub layer: LinearGrads,
    /// `[I, r]`.
    pub down: Vec<f32>,
    /// `[r, O]`.
    pub up: Vec<f32>,
}

impl LowRankLinear<'_> {
    fn rank(&self) -> usize {
        let (inputs, outputs) = (self.layer.inputs(), self.layer.bias.len());
        let rank = self.down.len() / inputs;
        assert!(rank * inputs == self.down.len() && rank * outputs == self.up.len(), "factors are [I, r] and [r, O]");
        rank
    }

    fn factors(&self) -> (Matrix<'_>, Matrix<'_>) {
        let rank = self.rank();
        let down = Matrix::new(self.down, self.layer.inputs(), rank);
        (down, Matrix::new(self.up, rank, self.layer.bias.len()))
    }

    /// The output, and `x A` for the backward pass.
    ///
    /// # Shapes
    /// - `x`: `[R, I]`
    /// - returns `[R, O]` and `[R, r]`
    #[must_use]
    pub fn forward(&self, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (down, up) = self.factors();
        let rows = x.len() / self.layer.inputs();
        let mut y = self.layer.forward(x);
        let hidden = matmul(Matrix::new(x, rows, self.layer.inputs()), down, Threads::All);
        let product = self.scaled(Matrix::new(&hidden, rows, self.rank()), up);
        matmul_into(&mut y, Write::Accumulate, product);
        (y, hidden)
    }

    /// Gradients from the input, `x A` and the gradient of the output.
    ///
    /// # Shapes
    /// - `x`: `[R, I]`, `hidden`: `[R, r]`, `d_y`: `[R, O]`
    #[must_use]
    pub fn backward(&self, x: &[f32], hidden: &[f32], d_y: &[f32], needs: LinearNeeds) -> LowRankGrads {
        let (down, up) = self.factors();
        let (inputs, outputs, rank) = (self.layer.inputs(), self.layer.bias.len(), self.rank());
        let rows = x.len() / inputs;
        let d = Matrix::new(d_y, rows, outputs);
        let mut layer = self.layer.backward(x, d_y, needs);
        let mut d_hidden = vec![0f32; hidden.len()];
        matmul_into(&mut d_hidden, Write::Overwrite, self.scaled(d, up.transposed()));
        let d_hidden = Matrix::new(&d_hidden, rows, rank);
        if needs.x {
            let product = Product::new(1.0, d_hidden, down.transposed(), Threads::All);
            matmul_into(&mut layer.x, Write::Accumulate, product);
        }
        let mut d_up = vec![0f32; self.up.len()];
        matmul_into(&mut d_up, Write::Overwrite, self.scaled(Matrix::new(hidden, rows, rank).transposed(), d));
        LowRankGrads {
            layer,
            down: matmul(Matrix::new(x, rows, inputs).transposed(), d_hidden, Threads::All),
            up: d_up,
        }
    }

    fn scaled<'m>(&self, a: Matrix<'m>, b: Matrix<'m>) -> Product<'m> {
        Product::new(self.scale, a, b, Threads::All)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Wide, check, values};

    /// Against the layer with the adapted weight, in f64.
    #[test]
    fn adapted_layers_and_their_gradients_match_the_definition() {
        for (rows, inputs, outputs, rank) in [(1, 1, 1, 1), (3, 5, 7, 2), (301, 16, 33, 4)] {
            let (x, d_y) = (values(rows * inputs, 1), values(rows * outputs, 2));
            let (weight, bias) = (values(inputs * outputs, 3), values(outputs, 4));
            let (down, up) = (values(inputs * rank, 5), values(rank * outputs, 6));
            let scale = 0.75;
            let layer = Linear { weight: &weight, bias: &bias };
            let adapted = LowRankLinear { layer, down: &down, up: &up, scale };

            let (x_64, d_64) = (Wide::new(&x, inputs), Wide::new(&d_y, outputs));
            let (down_64, up_64) = (Wide::new(&down, rank), Wide::new(&up, outputs));
            let scaled = |wide: &Wide| wide.map(|value| value * f64::from(scale));
            let weight_64 = Wide::new(&weight, outputs);
            let sum = |a: Wide, b: Wide| -> Vec<f64> { a.values.iter().zip(&b.values).map(|(a, b)| a + b).collect() };
            let (y, hidden) = adapted.forward(&x);
            let hidden_64 = x_64.times(&down_64);
            check("y", &y, &sum(x_64.times(&weight_64).plus(&bias), scaled(&hidden_64.times(&up_64))), 5e-6);
            check("hidden", &hidden, &hidden_64.values, 5e-6);

            let needs = LinearNeeds { x: true, weight: false, bias: false };
            let grads = adapted.backward(&x, &hidden, &d_y, needs);
            let d_hidden = scaled(&d_64.times(&up_64.transposed()));
            let d_x = sum(d_64.times(&weight_64.transposed()), d_hidden.times(&down_64.transposed()));
            check("x", &grads.layer.x, &d_x, 5e-6);
            check("down", &grads.down, &x_64.transposed().times(&d_hidden).values, 1e-5);
            check("up", &grads.up, &scaled(&hidden_64.transposed().times(&d_64)).values, 1e-5);
            assert!(grads.layer.weight.is_empty() && grads.layer.bias.is_empty(), "the layer is frozen");
            let needs = LinearNeeds { x: false, ..needs };
            assert!(adapted.backward(&x, &hidden, &d_y, needs).layer.x.is_empty(), "not needed");
        }
    }
}
