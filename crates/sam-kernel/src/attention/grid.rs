//! Self-attention over a grid of tokens, or over square windows of it: the encoder's.
//!
//! The reference pads the grid with zeros to whole windows *before* queries, keys and values are formed, so padding has the
//! projection's bias as its key and value and takes part; as a query it is cut off again. Here padding is never computed:
//! its keys and values are the bias.
//!
//! Letters: `B` images, `H W` grid, `A` heads, `C` channels of a head.

use rayon::prelude::*;

use super::head::{Head, HeadGrads, Relative, Terms, backward, forward};
use super::{AttentionOutput, OutputGrad};
use crate::vector::LANES;

/// Sizes of a self-attention over a grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridAttention {
    /// `B`.
    pub images: usize,
    /// `[H, W]`.
    pub grid: [usize; 2],
    /// `A`.
    pub heads: usize,
    /// `C`.
    pub channels: usize,
    /// Side of a window; 0 for the whole grid.
    pub window: usize,
}

/// Inputs of a self-attention over a grid.
#[derive(Clone, Copy, Debug)]
pub struct GridInputs<'a> {
    /// `[B, H, W, 3 * A * C]`, queries first, not scaled.
    pub qkv: &'a [f32],
    /// `[3 * A * C]`, the bias of the projection to `qkv`.
    pub bias: &'a [f32],
    /// Relative positions, where there are any.
    pub tables: Option<Tables<'a>>,
}

/// Relative position tables of the attended grid.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// `[2 * rows - 1, C]`.
    pub rows: &'a [f32],
    /// `[2 * columns - 1, C]`.
    pub columns: &'a [f32],
}

/// Gradients of relative position tables, in their shapes.
#[derive(Clone, Debug)]
pub struct TableGrads {
    /// Gradient of [`Tables::rows`].
    pub rows: Vec<f32>,
    /// Gradient of [`Tables::columns`].
    pub columns: Vec<f32>,
}

/// Gradients of a self-attention over a grid, in the shapes of its inputs.
#[derive(Clone, Debug)]
pub struct GridGrads {
    /// `[B, H, W, 3 * A * C]`.
    pub qkv: Vec<f32>,
    /// `[3 * A * C]`, by way of the padding of windows only.
    pub bias: Vec<f32>,
    /// Gradients of the tables, if there are any.
    pub tables: Option<TableGrads>,
}

/// The part of the grid that a window covers.
#[derive(Clone, Copy)]
struct Window {
    origin: [usize; 2],
    /// Rows and columns inside the grid.
    real: [usize; 2],
}

/// Reversed tables: the entries of a query then start at its own position and are contiguous.
struct Reversed {
    rows: Vec<f32>,
    columns: Vec<f32>,
}

/// Rows of one head of one window.
struct Gathered {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    /// Row and column of each query.
    cells: Vec<[usize; 2]>,
    /// 0 for a key, minus infinity for padding of a row.
    terms: Vec<f32>,
}

impl GridAttention {
    /// Attention of every image, window and head.
    ///
    /// # Shapes
    /// - returns `out`: `[B, H, W, A * C]`, `log_sums`: a value per query and head, by images, windows and heads
    #[must_use]
    pub fn forward(&self, inputs: GridInputs<'_>) -> AttentionOutput {
        self.check(inputs);
        let reversed = inputs.tables.map(|tables| self.reversed(tables));
        let of_heads: Vec<(Vec<f32>, Vec<f32>)> = self.map_heads(|image, window, head| {
            let rows = self.gather(inputs, image, window, head);
            let n = rows.cells.len();
            let (mut out, mut log_sums) = (vec![0.0; n * self.channels], vec![0.0; n]);
            forward(&self.head(&rows, reversed.as_ref()), &mut out, &mut log_sums);
            (out, log_sums)
        });
        let (outs, log_sums): (Vec<_>, Vec<_>) = of_heads.into_iter().unzip();
        let c = self.channels;
        let out = self.join(self.heads * c, |job, place, part| {
            part.copy_from_slice(&outs[job][place.query * c..][..c]);
        });
        AttentionOutput { out, log_sums: log_sums.concat() }
    }

    /// Gradients from the inputs and the result of [`GridAttention::forward`], and the gradient of its output.
    #[must_use]
    pub fn backward(&self, inputs: GridInputs<'_>, output: OutputGrad<'_>) -> GridGrads {
        self.check(inputs);
        let reversed = inputs.tables.map(|tables| self.reversed(tables));
        let of_heads: Vec<HeadGrads> = self.map_heads(|image, window, head| {
            let rows = self.gather(inputs, image, window, head);
            let n = rows.cells.len();
            let [out, d_out] = [output.out, output.d_out].map(|values| self.gather_out(values, image, window, head));
            let log_sums = &output.log_sums[self.first_query(image, window, head)..][..n];
            backward(&self.head(&rows, reversed.as_ref()), OutputGrad { out: &out, log_sums, d_out: &d_out })
        });
        let c = self.channels;
        let d_qkv = self.join(3 * self.heads * c, |job, place, part| {
            let grads = &of_heads[job];
            let (values, at) = match place.part {
                QUERY => (&grads.q, place.query),
                KEY => (&grads.k, place.key),
                _ => (&grads.v, place.key),
            };
            part.copy_from_slice(&values[at * c..][..c]);
        });
        GridGrads { qkv: d_qkv, bias: self.bias_grads(&of_heads), tables: self.table_grads(&of_heads) }
    }

    fn check(&self, GridInputs { qkv, bias, tables }: GridInputs<'_>) {
        let [height, width] = self.grid;
        let values = 3 * self.heads * self.channels;
        assert_eq!(qkv.len(), self.images * height * width * values, "queries, keys and values are [B, H, W, 3 A C]");
        assert_eq!(bias.len(), values, "the bias is [3 A C]");
        if let Some(tables) = tables {
            let [rows, columns] = self.attended();
            assert_eq!(tables.rows.len(), (2 * rows - 1) * self.channels, "the table of rows is [2 rows - 1, C]");
            let expected = (2 * columns - 1) * self.channels;
            assert_eq!(tables.columns.len(), expected, "the table of columns is [2 columns - 1, C]");
        }
    }

    /// Rows and columns that a query attends to, padding included.
    fn attended(&self) -> [usize; 2] {
        if self.window == 0 { self.grid } else { [self.window; 2] }
    }

    /// Length of a row of keys, padding included.
    fn row_length(&self) -> usize {
        self.attended()[1].next_multiple_of(LANES)
    }

    fn windows_per_row(&self) -> usize {
        self.grid[1].div_ceil(self.attended()[1])
    }

    fn n_windows(&self) -> usize {
        self.grid[0].div_ceil(self.attended()[0]) * self.windows_per_row()
    }

    /// The window of an index, in row-major order.
    fn window(&self, index: usize) -> Window {
        let [height, width] = self.grid;
        let [rows, columns] = self.attended();
        let (row, column) = (index / self.windows_per_row() * rows, index % self.windows_per_row() * columns);
        Window { origin: [row, column], real: [rows.min(height - row), columns.min(width - column)] }
    }

    /// Runs `work(image, window, head)`; results are ordered by images, windows within, heads within.
    fn map_heads<T: Send>(&self, work: impl Fn(usize, Window, usize) -> T + Sync) -> Vec<T> {
        let (heads, windows) = (self.heads, self.n_windows());
        let jobs = (0..self.images * windows * heads).into_par_iter();
        jobs.map(|at| work(at / (windows * heads), self.window(at / heads % windows), at % heads)).collect()
    }

    /// Start of a head's queries among those of all heads, in the order of [`GridAttention::map_heads`].
    fn first_query(&self, image: usize, window: Window, head: usize) -> usize {
        let [height, width] = self.grid;
        let [row, column] = window.origin;
        let [rows, columns] = window.real;
        let before = image * height * width + row * width + rows * column;
        before * self.heads + head * rows * columns
    }

    fn reversed(&self, tables: Tables<'_>) -> Reversed {
        let reverse = |table: &[f32]| table.chunks_exact(self.channels).rev().flatten().copied().collect();
        Reversed { rows: reverse(tables.rows), columns: reverse(tables.columns) }
    }

    fn head<'a>(&self, rows: &'a Gathered, reversed: Option<&'a Reversed>) -> Head<'a> {
        let terms = match reversed {
            None => Terms::Keys(&rows.terms),
            Some(reversed) => Terms::Relative(Relative {
                rows_reversed: &reversed.rows,
                columns_reversed: &reversed.columns,
                grid: self.attended(),
                cells: &rows.cells,
            }),
        };
        let scale = (self.channels as f32).powf(-0.5);
        Head { channels: self.channels, scale, q: &rows.q, k: &rows.k, v: &rows.v, terms }
    }

    fn gather(&self, inputs: GridInputs<'_>, image: usize, window: Window, head: usize) -> Gathered {
        let GridInputs { qkv, bias, .. } = inputs;
        let (c, values) = (self.channels, 3 * self.heads * self.channels);
        let [_, width] = self.grid;
        let [rows, columns] = self.attended();
        let row_length = self.row_length();
        let Window { origin, real } = window;
        let part = |values: &[f32], part: usize, to: &mut Vec<f32>| {
            to.extend_from_slice(&values[(part * self.heads + head) * c..][..c]);
        };
        let n_queries = real[0] * real[1];
        let n_keys = rows * row_length;
        let mut gathered = Gathered {
            q: Vec::with_capacity(n_queries * c),
            k: Vec::with_capacity(n_keys * c),
            v: Vec::with_capacity(n_keys * c),
            cells: Vec::with_capacity(n_queries),
            terms: Vec::with_capacity(n_keys),
        };
        for row in 0..rows {
            for column in 0..columns {
                let token = if row < real[0] && column < real[1] {
                    let at = (image * self.grid[0] + origin[0] + row) * width + origin[1] + column;
                    let token = &qkv[at * values..][..values];
                    part(token, QUERY, &mut gathered.q);
                    gathered.cells.push([row, column]);
                    token
                } else {
                    bias
                };
                part(token, KEY, &mut gathered.k);
                part(token, VALUE, &mut gathered.v);
                gathered.terms.push(0.0);
            }
            gathered.k.resize((row + 1) * row_length * c, 0.0);
            gathered.v.resize((row + 1) * row_length * c, 0.0);
            gathered.terms.resize((row + 1) * row_length, f32::NEG_INFINITY);
        }
        gathered
    }

    /// `[n, C]` of the queries of a window, from `[B, H, W, A * C]`.
    fn gather_out(&self, values: &[f32], image: usize, window: Window, head: usize) -> Vec<f32> {
        let (c, width) = (self.channels, self.grid[1]);
        let mut rows = Vec::with_capacity(window.real[0] * window.real[1] * c);
        for row in 0..window.real[0] {
            for column in 0..window.real[1] {
                let at = (image * self.grid[0] + window.origin[0] + row) * width + window.origin[1] + column;
                rows.extend_from_slice(&values[(at * self.heads + head) * c..][..c]);
            }
        }
        rows
    }

    /// `[B, H, W, values]`, each token's parts of `C` values written by `write(job, place, part)`.
    fn join(&self, values: usize, write: impl Fn(usize, Place, &mut [f32]) + Sync) -> Vec<f32> {
        let [height, width] = self.grid;
        let [rows, columns] = self.attended();
        let row_length = self.row_length();
        let mut joined = vec![0f32; self.images * height * width * values];
        joined.par_chunks_mut(width * values).enumerate().for_each(|(line, tokens)| {
            let (image, row) = (line / height, line % height);
            for (column, token) in tokens.chunks_exact_mut(values).enumerate() {
                let window = row / rows * self.windows_per_row() + column / columns;
                let (row, column) = (row % rows, column % columns);
                let query = row * self.window(window).real[1] + column;
                let key = row * row_length + column;
                for (at, part) in token.chunks_exact_mut(self.channels).enumerate() {
                    let job = (image * self.n_windows() + window) * self.heads + at % self.heads;
                    write(job, Place { part: at / self.heads, query, key }, part);
                }
            }
        });
        joined
    }

    fn bias_grads(&self, of_heads: &[HeadGrads]) -> Vec<f32> {
        let c = self.channels;
        let [rows, columns] = self.attended();
        let row_length = self.row_length();
        let mut bias = vec![0f32; 3 * self.heads * c];
        for (job, grads) in of_heads.iter().enumerate() {
            let (window, head) = (self.window(job / self.heads % self.n_windows()), job % self.heads);
            for row in 0..rows {
                let first_padded = if row < window.real[0] { window.real[1] } else { 0 };
                for column in first_padded..columns {
                    let at = (row * row_length + column) * c;
                    for (part, values) in [(KEY, &grads.k), (VALUE, &grads.v)] {
                        let to = &mut bias[(part * self.heads + head) * c..][..c];
                        to.iter_mut().zip(&values[at..][..c]).for_each(|(sum, value)| *sum += value);
                    }
                }
            }
        }
        bias
    }

    fn table_grads(&self, of_heads: &[HeadGrads]) -> Option<TableGrads> {
        let mut sums: Option<[Vec<f32>; 2]> = None;
        for tables in of_heads.iter().filter_map(|grads| grads.tables.as_ref()) {
            match &mut sums {
                None => sums = Some(tables.clone()),
                Some(sums) => {
                    for (sum, table) in sums.iter_mut().zip(tables) {
                        sum.iter_mut().zip(table).for_each(|(sum, value)| *sum += value);
                    }
                }
            }
        }
        let reverse = |sum: Vec<f32>| sum.chunks_exact(self.channels).rev().flatten().copied().collect();
        sums.map(|[rows, columns]| TableGrads { rows: reverse(rows), columns: reverse(columns) })
    }
}

/// The parts of a token's `qkv`.
const QUERY: usize = 0;
const KEY: usize = 1;
const VALUE: usize = 2;

/// The location of a token's part in the result of a head.
struct Place {
    /// [`QUERY`], [`KEY`] or [`VALUE`].
    part: usize,
    query: usize,
    key: usize,
}
