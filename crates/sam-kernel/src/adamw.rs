//! AdamW in one pass over a parameter (Loshchilov 2019, arXiv 1711.05101, algorithm 2, as PyTorch computes it).

use rayon::prelude::*;

use crate::vector::{LANES, sum_of_lanes, vectorised};

/// Values that one thread takes at once.
const CHUNK: usize = 1 << 15;

/// Hyperparameters of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f64,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay, multiplied by the learning rate.
    pub weight_decay: f64,
    /// Number of this step, starting at 1; the bias correction it is for vanishes long before the largest.
    pub time: i32,
}

/// A parameter with its gradient and its moments, all of one length.
#[derive(Debug)]
pub struct ParameterState<'a> {
    /// Updated in place.
    pub weights: &'a mut [f32],
    /// Gradient of the loss with respect to `weights`.
    pub grads: &'a [f32],
    /// First moment, updated in place.
    pub moment_1: &'a mut [f32],
    /// Second moment, updated in place.
    pub moment_2: &'a mut [f32],
}

impl AdamW {
    /// Updates weights and moments by one step.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn step(&self, ParameterState { weights, grads, moment_1, moment_2 }: ParameterState<'_>) {
        let n = weights.len();
        assert!(
            [grads.len(), moment_1.len(), moment_2.len()] == [n; 3],
            "moments and gradients are as many as weights"
        );
        let [keep_1, keep_2] = self.betas.map(|beta| beta as f32);
        let [add_1, add_2] = self.betas.map(|beta| (1.0 - beta) as f32);
        let [corrected_1, corrected_2] = self.betas.map(|beta| 1.0 - beta.powi(self.time));
        let rate = (self.lr / corrected_1) as f32;
        let root_scale = (1.0 / corrected_2.sqrt()) as f32;
        let (shrink, eps) = ((1.0 - self.lr * self.weight_decay) as f32, self.eps as f32);
        let chunks = weights.par_chunks_mut(CHUNK).zip(grads.par_chunks(CHUNK));
        let chunks = chunks.zip(moment_1.par_chunks_mut(CHUNK)).zip(moment_2.par_chunks_mut(CHUNK));
        chunks.for_each(|(((weights, grads), first), second)| {
            vectorised(
                #[inline(always)]
                || {
                    for (((weight, grad), first), second) in weights.iter_mut().zip(grads).zip(first).zip(second) {
                        *first = *first * keep_1 + grad * add_1;
                        *second = *second * keep_2 + grad * grad * add_2;
                        *weight = *weight * shrink - rate * *first / (second.sqrt() * root_scale + eps);
                    }
                },
            );
        });
    }
}

/// The sum of squares, in f64 over chunks of a fixed size.
#[must_use]
pub fn sum_of_squares(values: &[f32]) -> f64 {
    let of_chunk = |chunk: &[f32]| {
        vectorised(
            #[inline(always)]
            || {
                let mut lanes = [0f32; LANES];
                let (chunks, rest) = chunk.as_chunks::<LANES>();
                for chunk in chunks {
                    for lane in 0..LANES {
                        lanes[lane] = chunk[lane].mul_add(chunk[lane], lanes[lane]);
                    }
                }
                f64::from(sum_of_lanes(lanes)) + rest.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>()
            },
        )
    };
    let sums: Vec<f64> = values.par_chunks(CHUNK).map(of_chunk).collect();
    sums.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, values};

    #[test]
    fn steps_match_the_definition() {
        let n = 40_001;
        let (mut weights, mut first, mut second) = (values(n, 1), vec![0f32; n], vec![0f32; n]);
        let mut exact: Vec<[f64; 3]> = weights.iter().map(|&w| [f64::from(w), 0.0, 0.0]).collect();
        for time in 1..=4 {
            let adamw = AdamW { lr: 0.01, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.1, time };
            let grads = values(n, 10 + time.unsigned_abs());
            let (moment_1, moment_2) = (&mut first, &mut second);
            adamw.step(ParameterState { weights: &mut weights, grads: &grads, moment_1, moment_2 });
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
    fn sums_of_squares_are_accurate() {
        let values = values(100_003, 1);
        let exact: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
        assert!((sum_of_squares(&values) / exact - 1.0).abs() < 1e-6);
    }
}
