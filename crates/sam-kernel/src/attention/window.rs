//! Self-attention in square windows of a grid with a bias per head and per distance of rows and columns: TinyViT's.
//!
//! As in [`super::grid`], cells of a window outside of the grid are never computed: all of them have the same key and value.
//! Differs from there: queries, keys and values are stored head by head, and all terms of a window's pairs are one matrix, as
//! windows are small.
//!
//! Letters: `B` images, `H W` grid, `A` heads, `C` channels of a head, `S` side of a window, `N` its cells, `M` cells with padding.

use rayon::prelude::*;

use super::head::{Head, HeadGrads, Pairs, Terms, backward, forward};
use super::{AttentionOutput, OutputGrad};
use crate::vector::LANES;

/// Sizes of a self-attention in windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowAttention {
    /// `B`.
    pub images: usize,
    /// `[H, W]`.
    pub grid: [usize; 2],
    /// `A`.
    pub heads: usize,
    /// `C`.
    pub channels: usize,
    /// `S`.
    pub window: usize,
}

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

/// A window of an image and a head.
#[derive(Clone, Copy)]
struct Job {
    image: usize,
    /// The first cell.
    origin: [usize; 2],
    /// Rows and columns inside the grid.
    real: [usize; 2],
    head: usize,
}

/// Rows of a head in a window.
struct Gathered {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// The cell of each query.
    cells: Vec<usize>,
}

/// Gradients of a job.
struct JobGrads {
    head: HeadGrads,
    /// `[S * S]`.
    biases: Vec<f32>,
}

/// The parts of a head.
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;

impl WindowAttention {
    /// Attention of every image, window and head.
    ///
    /// # Shapes
    /// - returns `out`: `[B, H, W, A * C]`, `log_sums`: a value per query and head, by images, windows and heads
    #[must_use]
    pub fn forward(&self, inputs: WindowInputs<'_>) -> AttentionOutput {
        self.check(inputs);
        let terms = self.terms(inputs.biases);
        let results: Vec<(Vec<f32>, Vec<f32>)> = self.map_jobs(|_, job| {
            let rows = self.gather(inputs, job);
            let n = rows.cells.len();
            let (mut out, mut log_sums) = (vec![0.0; n * self.channels], vec![0.0; n]);
            forward(&self.head(&rows, &terms[job.head]), &mut out, &mut log_sums);
            (out, log_sums)
        });
        let (outs, log_sums): (Vec<_>, Vec<_>) = results.into_iter().unzip();
        let c = self.channels;
        let out = self.join(self.heads * c, |job, _, query, parts| {
            parts.copy_from_slice(&outs[job][query * c..][..c]);
        });
        AttentionOutput { out, log_sums: log_sums.concat() }
    }

    /// Gradients from the inputs and the result of [`WindowAttention::forward`], and the gradient of its output.
    #[must_use]
    pub fn backward(&self, inputs: WindowInputs<'_>, output: OutputGrad<'_>) -> WindowGrads {
        self.check(inputs);
        let terms = self.terms(inputs.biases);
        let firsts = self.first_queries();
        let grads: Vec<JobGrads> = self.map_jobs(|at, job| {
            let rows = self.gather(inputs, job);
            let [out, d_out] = [output.out, output.d_out].map(|values| self.gather_out(values, job));
            let log_sums = &output.log_sums[firsts[at]..][..rows.cells.len()];
            let output = OutputGrad { out: &out, log_sums, d_out: &d_out };
            let head = backward(&self.head(&rows, &terms[job.head]), output);
            let biases = self.bias_grads(&rows.cells, &head.pairs);
            JobGrads { head, biases }
        });
        let c = self.channels;
        let qkv = self.join(3 * self.heads * c, |job, cell, query, parts| {
            let HeadGrads { q, k, v, .. } = &grads[job].head;
            for (part, (values, at)) in parts.chunks_exact_mut(c).zip([(q, query), (k, cell), (v, cell)]) {
                part.copy_from_slice(&values[at * c..][..c]);
            }
        });
        let mut sums = WindowGrads {
            qkv,
            padding: vec![0.0; 3 * self.heads * c],
            biases: vec![0.0; self.heads * self.window * self.window],
        };
        self.map_jobs(|at, job| (at, job))
            .into_iter()
            .for_each(|(at, job)| self.add_shared(&mut sums, job, &grads[at]));
        sums
    }

    fn check(&self, WindowInputs { qkv, padding, biases }: WindowInputs<'_>) {
        let [height, width] = self.grid;
        let values = 3 * self.heads * self.channels;
        assert_eq!(qkv.len(), self.images * height * width * values, "queries, keys and values are [B, H, W, A 3 C]");
        assert_eq!(padding.len(), values, "padding is [A 3 C]");
        assert_eq!(biases.len(), self.heads * self.window * self.window, "biases are [A, S S]");
    }

    /// Keys of a window, padded to whole vectors.
    fn n_keys(&self) -> usize {
        (self.window * self.window).next_multiple_of(LANES)
    }

    /// For each head the terms of all pairs, `[N, M]`.
    fn terms(&self, biases: &[f32]) -> Vec<Vec<f32>> {
        let (side, n_keys) = (self.window, self.n_keys());
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
        let scale = (self.channels as f32).powf(-0.5);
        let terms = Terms::Pairs(Pairs { terms, cells: &rows.cells });
        Head { channels: self.channels, scale, q: &rows.q, k: &rows.k, v: &rows.v, terms }
    }

    fn windows(&self) -> [usize; 2] {
        self.grid.map(|size| size.div_ceil(self.window))
    }

    fn n_jobs(&self) -> usize {
        let [rows, columns] = self.windows();
        self.images * rows * columns * self.heads
    }

    /// The job of an index: images first, windows of an image row by row, heads of a window.
    fn job(&self, index: usize) -> Job {
        let [rows, columns] = self.windows();
        let (head, window) = (index % self.heads, index / self.heads);
        let (image, window) = (window / (rows * columns), window % (rows * columns));
        let origin = [window / columns * self.window, window % columns * self.window];
        let real = [0, 1].map(|axis| self.window.min(self.grid[axis] - origin[axis]));
        Job { image, origin, real, head }
    }

    fn map_jobs<T: Send>(&self, work: impl Fn(usize, Job) -> T + Sync) -> Vec<T> {
        (0..self.n_jobs()).into_par_iter().map(|at| work(at, self.job(at))).collect()
    }

    /// Where the queries of each job begin among those of all.
    fn first_queries(&self) -> Vec<usize> {
        let mut next = 0;
        (0..self.n_jobs())
            .map(|at| {
                let [rows, columns] = self.job(at).real;
                let first = next;
                next += rows * columns;
                first
            })
            .collect()
    }

    /// The token of a cell of a window.
    fn token(&self, job: Job, [row, column]: [usize; 2]) -> usize {
        (job.image * self.grid[0] + job.origin[0] + row) * self.grid[1] + job.origin[1] + column
    }

    fn gather(&self, inputs: WindowInputs<'_>, job: Job) -> Gathered {
        let (c, side, n_keys) = (self.channels, self.window, self.n_keys());
        let n_queries = job.real[0] * job.real[1];
        let mut rows = Gathered {
            q: Vec::with_capacity(n_queries * c),
            k: Vec::with_capacity(n_keys * c),
            v: Vec::with_capacity(n_keys * c),
            cells: Vec::with_capacity(n_queries),
        };
        let of_head = 3 * c;
        for cell in 0..side * side {
            let [row, column] = [cell / side, cell % side];
            let is_real = row < job.real[0] && column < job.real[1];
            let values = match is_real {
                true => &inputs.qkv[(self.token(job, [row, column]) * self.heads + job.head) * of_head..][..of_head],
                false => &inputs.padding[job.head * of_head..][..of_head],
            };
            if is_real {
                rows.q.extend_from_slice(&values[QUERY * c..][..c]);
                rows.cells.push(cell);
            }
            rows.k.extend_from_slice(&values[KEY * c..][..c]);
            rows.v.extend_from_slice(&values[VALUE * c..][..c]);
        }
        rows.k.resize(n_keys * c, 0.0);
        rows.v.resize(n_keys * c, 0.0);
        rows
    }

    /// `[n, C]` of the queries of a job, from `[B, H, W, A * C]`.
    fn gather_out(&self, values: &[f32], job: Job) -> Vec<f32> {
        let c = self.channels;
        let cells = (0..job.real[0]).flat_map(|row| (0..job.real[1]).map(move |column| [row, column]));
        cells.flat_map(|cell| &values[(self.token(job, cell) * self.heads + job.head) * c..][..c]).copied().collect()
    }

    /// `[B, H, W, values]`, the part of a head of each token written by `write(job, cell of the window, query, part)`.
    fn join(&self, values: usize, write: impl Fn(usize, usize, usize, &mut [f32]) + Sync) -> Vec<f32> {
        let [height, width] = self.grid;
        let [rows, columns] = self.windows();
        let side = self.window;
        let mut joined = vec![0f32; self.images * height * width * values];
        joined.par_chunks_mut(width * values).enumerate().for_each(|(line, tokens)| {
            let (image, row) = (line / height, line % height);
            for (column, token) in tokens.chunks_exact_mut(values).enumerate() {
                let window = (image * rows + row / side) * columns + column / side;
                let [row, column_in] = [row % side, column % side];
                let real_columns = side.min(width - column / side * side);
                for (head, parts) in token.chunks_exact_mut(values / self.heads).enumerate() {
                    write(window * self.heads + head, row * side + column_in, row * real_columns + column_in, parts);
                }
            }
        });
        joined
    }

    fn bias_grads(&self, cells: &[usize], pairs: &[f32]) -> Vec<f32> {
        let side = self.window;
        let mut biases = vec![0f32; side * side];
        for (pairs, &query) in pairs.chunks_exact(self.n_keys()).zip(cells) {
            for (key, grad) in pairs[..side * side].iter().enumerate() {
                biases[distance(query, key, side)] += grad;
            }
        }
        biases
    }

    /// Adds what the jobs share: gradients of padding and of biases.
    fn add_shared(&self, sums: &mut WindowGrads, job: Job, grads: &JobGrads) {
        let (c, side) = (self.channels, self.window);
        let biases = &mut sums.biases[job.head * side * side..][..side * side];
        biases.iter_mut().zip(&grads.biases).for_each(|(sum, grad)| *sum += grad);
        for cell in (0..side * side).filter(|cell| cell / side >= job.real[0] || cell % side >= job.real[1]) {
            for (part, values) in [(KEY, &grads.head.k), (VALUE, &grads.head.v)] {
                let to = &mut sums.padding[(job.head * 3 + part) * c..][..c];
                to.iter_mut().zip(&values[cell * c..][..c]).for_each(|(sum, grad)| *sum += grad);
            }
        }
    }
}

/// The place of the bias of a pair of cells.
fn distance(query: usize, key: usize, side: usize) -> usize {
    (query / side).abs_diff(key / side) * side + (query % side).abs_diff(key % side)
}
