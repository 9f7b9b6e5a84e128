//! Self-attention in square windows of a grid with a bias per head and per distance of rows and columns: TinyViT's.
//!
//! Differs from [`super::grid`]: queries, keys and values are stored head by head, and all terms of a window's pairs are one matrix,
//! as windows are small.
//!
//! Letters: `B` images, `H W` grid, `A` heads, `C` channels of a head, `S` side of a window, `N` its cells, `M` cells with padding.

use super::head::{Head, HeadGrads, Pairs, Terms, backward, forward};
use super::windows::{Gathered, GridSizes, KeyPadding, Storage, Windows};
use super::{AttentionOutput, OutputGrad};

/// A self-attention in windows of a grid of these sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowAttention(pub GridSizes);

/// Inputs of a self-attention in windows.
#[derive(Clone, Copy, Debug)]
pub struct WindowInputs<'a> {
    /// `[B, H, W, A * 3 * C]`: query, key and value of one head after the other, not scaled.
    pub qkv: &'a [f32],
    /// `[A * 3 * C]`, the same of every cell outside of the grid.
    pub padding: &'a [f32],
    /// `[A, S * S]`, by `|dy| * S + |dx|`.
    pub biases: &'a [f32],
}

/// Gradients of a self-attention in windows, in the shapes of its inputs.
#[derive(Clone, Debug)]
pub struct WindowGrads {
    /// `[B, H, W, A * 3 * C]`.
    pub qkv: Vec<f32>,
    /// `[A * 3 * C]`; queries of padding are nobody's, so theirs is zero.
    pub padding: Vec<f32>,
    /// `[A, S * S]`.
    pub biases: Vec<f32>,
}

impl WindowAttention {
    /// Attention of every image, window and head.
    ///
    /// # Shapes
    /// - returns `out`: `[B, H, W, A * C]`, `log_sums`: a value per query and head, by images, windows and heads
    #[must_use]
    pub fn forward(&self, inputs: WindowInputs<'_>) -> AttentionOutput {
        self.check(inputs);
        let (windows, terms) = (self.windows(), self.terms(inputs.biases));
        let of_jobs: Vec<(Vec<f32>, Vec<f32>)> = windows.map(|job| {
            let rows = windows.gather(inputs.qkv, inputs.padding, job);
            let n = rows.cells.len();
            let (mut out, mut log_sums) = (vec![0.0; n * self.0.channels], vec![0.0; n]);
            forward(&self.head(&rows, &terms[job.head]), &mut out, &mut log_sums);
            (out, log_sums)
        });
        let (outs, log_sums): (Vec<_>, Vec<_>) = of_jobs.into_iter().unzip();
        AttentionOutput { out: windows.join_outs(&outs), log_sums: log_sums.concat() }
    }

    /// Gradients from the inputs and the result of [`WindowAttention::forward`], and the gradient of its output.
    #[must_use]
    pub fn backward(&self, inputs: WindowInputs<'_>, output: OutputGrad<'_>) -> WindowGrads {
        self.check(inputs);
        let (windows, terms) = (self.windows(), self.terms(inputs.biases));
        let of_jobs: Vec<(HeadGrads, Vec<f32>)> = windows.map(|job| {
            let rows = windows.gather(inputs.qkv, inputs.padding, job);
            let [out, d_out] = [output.out, output.d_out].map(|values| windows.gather_out(values, job));
            let log_sums = windows.of_queries(output.log_sums, job);
            let output = OutputGrad { out: &out, log_sums, d_out: &d_out };
            let mut grads = backward(&self.head(&rows, &terms[job.head]), output);
            let biases = self.bias_grads(&rows.cells, &std::mem::take(&mut grads.pairs));
            (grads, biases)
        });
        let (of_jobs, of_biases): (Vec<HeadGrads>, Vec<Vec<f32>>) = of_jobs.into_iter().unzip();
        let n_biases = self.0.window * self.0.window;
        let mut biases = vec![0f32; self.0.heads * n_biases];
        for (job, grads) in of_biases.iter().enumerate() {
            let of_head = &mut biases[job % self.0.heads * n_biases..][..n_biases];
            of_head.iter_mut().zip(grads).for_each(|(sum, grad)| *sum += grad);
        }
        WindowGrads { qkv: windows.join_grads(&of_jobs), padding: windows.padding_grads(&of_jobs), biases }
    }

    fn windows(&self) -> Windows {
        Windows { sizes: self.0, storage: Storage::HeadByHead, padding: KeyPadding::End }
    }

    fn check(&self, WindowInputs { qkv, padding, biases }: WindowInputs<'_>) {
        self.windows().check(qkv, padding);
        assert!(self.0.window > 0, "biases are those of windows");
        assert_eq!(biases.len(), self.0.heads * self.0.window * self.0.window, "biases are [A, S S]");
    }

    /// For each head the terms of all pairs, `[N, M]`.
    fn terms(&self, biases: &[f32]) -> Vec<Vec<f32>> {
        let (side, n_keys) = (self.0.window, self.windows().n_keys());
        let of_head = |biases: &[f32]| {
            let mut terms = vec![f32::NEG_INFINITY; side * side * n_keys];
            for (query, terms) in terms.chunks_exact_mut(n_keys).enumerate() {
                for (key, term) in terms[..side * side].iter_mut().enumerate() {
                    *term = biases[distance(query, key, side)];
                }
            }
            terms
        };
        biases.chunks_exact(side * side).map(of_head).collect()
    }

    fn head<'a>(&self, rows: &'a Gathered, terms: &'a [f32]) -> Head<'a> {
        let channels = self.0.channels;
        let terms = Terms::Pairs(Pairs { terms, cells: &rows.cells, columns: self.0.window });
        Head { channels, scale: (channels as f32).powf(-0.5), q: &rows.q, k: &rows.k, v: &rows.v, terms }
    }

    /// `[S * S]` from the `[N, M]` of a job.
    fn bias_grads(&self, cells: &[[usize; 2]], pairs: &[f32]) -> Vec<f32> {
        let side = self.0.window;
        let mut biases = vec![0f32; side * side];
        for (pairs, [row, column]) in pairs.chunks_exact(self.windows().n_keys()).zip(cells) {
            for (key, grad) in pairs[..side * side].iter().enumerate() {
                biases[distance(row * side + column, key, side)] += grad;
            }
        }
        biases
    }
}

/// The place of the bias of a pair of cells.
fn distance(query: usize, key: usize, side: usize) -> usize {
    (query / side).abs_diff(key / side) * side + (query % side).abs_diff(key % side)
}
