//! AdamW in one pass over a parameter (Loshchilov 2019, arXiv 1711.05101, algorithm 2, as PyTorch computes it).

use rayon::prelude::*;

use crate::vector::{LANES, sum_of_lanes, vectorised};

/// Numbers that one thread takes at once.
const PART: usize = 1 << 15;

/// What a step is made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// How much of the two moments stays.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Share of a weight, times the rate, that is taken off.
    pub weight_decay: f64,
    /// Steps so far, this one included; what it corrects is gone long before the largest.
    pub time: i32,
}

impl AdamW {
    /// Moves weights and moments by one step.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn step(&self, weights: &mut [f32], grads: &[f32], first: &mut [f32], second: &mut [f32]) {
        let n = weights.len();
        assert!([grads.len(), first.len(), second.len()] == [n; 3], "moments and gradients are as many as weights");
        let [keep_1, keep_2] = self.betas.map(|beta| beta as f32);
        let [add_1, add_2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let [corrected_1, corrected_2] = self.betas.map(|beta| 1.0 - beta.powi(self.time));
        let rate = (self.lr / corrected_1) as f32;
        let share = (1.0 / corrected_2.sqrt()) as f32;
        let (shrink, eps) = ((1.0 - self.lr * self.weight_decay) as f32, self.eps as f32);
        let parts = weights.par_chunks_mut(PART).zip(grads.par_chunks(PART));
        let parts = parts.zip(first.par_chunks_mut(PART)).zip(second.par_chunks_mut(PART));
        parts.for_each(|(((weights, grads), first), second)| {
            vectorised(
                #[inline(always)]
                || {
                    for (((weight, grad), first), second) in weights.iter_mut().zip(grads).zip(first).zip(second) {
                        *first = *first * keep_1 + grad * add_1;
                        *second = *second * keep_2 + grad * grad * add_2;
                        *weight = *weight * shrink - rate * *first / (second.sqrt() * share + eps);
                    }
                },
            );
        });
    }
}

/// The sum of all squares, in f64 over parts of fixed size.
#[must_use]
pub fn sum_of_squares(values: &[f32]) -> f64 {
    let of_part = |part: &[f32]| {
        vectorised(
            #[inline(always)]
            || {
                let mut lanes = [0f32; LANES];
                let (chunks, rest) = part.as_chunks::<LANES>();
                for chunk in chunks {
                    for lane in 0..LANES {
                        lanes[lane] = chunk[lane].mul_add(chunk[lane], lanes[lane]);
                    }
                }
                f64::from(sum_of_lanes(lanes)) + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
            },
        )
    };
    let parts: Vec<f64> = values.par_chunks(PART).map(of_part).collect();
    parts.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, values};

    #[test]
    fn steps_are_those_of_the_algorithm() {
        let n = 40_001;
        let (mut weights, mut first, mut second) = (values(n, 1), vec![0f32; n], vec![0f32; n]);
        let mut exact: Vec<[f64; 3]> = weights.iter().map(|&w| [f64::from(w), 0.0, 0.0]).collect();
        for time in 1..=4 {
            let adamw = AdamW { lr: 0.01, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.1, time };
            let grads = values(n, 10 + time.unsigned_abs());
            adamw.step(&mut weights, &grads, &mut first, &mut second);
            for ([w, m, v], &grad) in exact.iter_mut().zip(&grads) {
                let g = f64::from(grad);
                *m = 0.9 * *m + 0.1 * g;
                *v = 0.99 * *v + 0.01 * g * g;
                let (m, v) = (*m / (1.0 - 0.9f64.powi(time)), *v / (1.0 - 0.99f64.powi(time)));
                *w = *w * (1.0 - 0.01 * 0.1) - 0.01 * m / (v.sqrt() + 1e-8);
            }
        }
        check("weights", &weights, &exact.iter().map(|e| e[0]).collect::<Vec<_>>(), 1e-6);
        check("first", &first, &exact.iter().map(|e| e[1]).collect::<Vec<_>>(), 1e-6);
        check("second", &second, &exact.iter().map(|e| e[2]).collect::<Vec<_>>(), 1e-6);
    }

    #[test]
    fn squares_are_summed_exactly_enough() {
        let values = values(100_003, 1);
        let exact: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((sum_of_squares(&values) / exact - 1.0).abs() < 1e-6);
    }
}
