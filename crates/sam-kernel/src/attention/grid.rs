//! Self-attention over a grid of tokens, or over square windows of it: the encoder's.
//!
//! Letters: `B` images, `H W` grid, `A` heads, `C` channels of a head.

use super::head::{Head, HeadGrads, Relative, Terms, backward, forward};
use super::windows::{Gathered, GridSizes, KeyPadding, Storage, Windows};
use super::{AttentionOutput, OutputGrad};

/// A self-attention over a grid of these sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridAttention(pub GridSizes);

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

/// Reversed tables: the entries of a query then start at its own position and are contiguous.
struct Reversed {
    rows: Vec<f32>,
    columns: Vec<f32>,
}

/// What a job adds to its scores.
enum GridTerms {
    /// 0 for a key, minus infinity for padding of a row.
    Keys(Vec<f32>),
    Relative(Reversed),
}

impl GridAttention {
    /// Attention of every image, window and head.
    ///
    /// # Shapes
    /// - returns `out`: `[B, H, W, A * C]`, `log_sums`: a value per query and head, by images, windows and heads
    #[must_use]
    pub fn forward(&self, inputs: GridInputs<'_>) -> AttentionOutput {
        self.check(inputs);
        let (windows, terms) = (self.windows(), self.terms(inputs.tables));
        let of_jobs: Vec<(Vec<f32>, Vec<f32>)> = windows.map(|job| {
            let rows = windows.gather(inputs.qkv, inputs.bias, job);
            let n = rows.cells.len();
            let (mut out, mut log_sums) = (vec![0.0; n * self.0.channels], vec![0.0; n]);
            forward(&self.head(&rows, &terms), &mut out, &mut log_sums);
            (out, log_sums)
        });
        let (outs, log_sums): (Vec<_>, Vec<_>) = of_jobs.into_iter().unzip();
        AttentionOutput { out: windows.join_outs(&outs), log_sums: log_sums.concat() }
    }

    /// Gradients from the inputs and the result of [`GridAttention::forward`], and the gradient of its output.
    #[must_use]
    pub fn backward(&self, inputs: GridInputs<'_>, output: OutputGrad<'_>) -> GridGrads {
        self.check(inputs);
        let (windows, terms) = (self.windows(), self.terms(inputs.tables));
        let of_jobs: Vec<HeadGrads> = windows.map(|job| {
            let rows = windows.gather(inputs.qkv, inputs.bias, job);
            let [out, d_out] = [output.out, output.d_out].map(|values| windows.gather_out(values, job));
            let log_sums = windows.of_queries(output.log_sums, job);
            backward(&self.head(&rows, &terms), OutputGrad { out: &out, log_sums, d_out: &d_out })
        });
        GridGrads {
            qkv: windows.join_grads(&of_jobs),
            bias: windows.padding_grads(&of_jobs),
            tables: self.table_grads(&of_jobs),
        }
    }

    fn windows(&self) -> Windows {
        Windows { sizes: self.0, storage: Storage::PartByPart, padding: KeyPadding::EveryRow }
    }

    fn check(&self, GridInputs { qkv, bias, tables }: GridInputs<'_>) {
        self.windows().check(qkv, bias);
        if let Some(tables) = tables {
            let ([rows, columns], c) = (self.windows().attended(), self.0.channels);
            assert_eq!(tables.rows.len(), (2 * rows - 1) * c, "the table of rows is [2 rows - 1, C]");
            assert_eq!(tables.columns.len(), (2 * columns - 1) * c, "the table of columns is [2 columns - 1, C]");
        }
    }

    fn terms(&self, tables: Option<Tables<'_>>) -> GridTerms {
        let Some(tables) = tables else {
            let ([rows, columns], row_length) = (self.windows().attended(), self.windows().row_length());
            let term = |at: usize| if at % row_length < columns { 0.0 } else { f32::NEG_INFINITY };
            return GridTerms::Keys((0..rows * row_length).map(term).collect());
        };
        let reverse = |table: &[f32]| table.chunks_exact(self.0.channels).rev().flatten().copied().collect();
        GridTerms::Relative(Reversed { rows: reverse(tables.rows), columns: reverse(tables.columns) })
    }

    fn head<'a>(&self, rows: &'a Gathered, terms: &'a GridTerms) -> Head<'a> {
        let terms = match terms {
            GridTerms::Keys(terms) => Terms::Keys(terms),
            GridTerms::Relative(reversed) => Terms::Relative(Relative {
                rows_reversed: &reversed.rows,
                columns_reversed: &reversed.columns,
                grid: self.windows().attended(),
                cells: &rows.cells,
            }),
        };
        let channels = self.0.channels;
        Head { channels, scale: (channels as f32).powf(-0.5), q: &rows.q, k: &rows.k, v: &rows.v, terms }
    }

    fn table_grads(&self, of_jobs: &[HeadGrads]) -> Option<TableGrads> {
        let mut sums: Option<[Vec<f32>; 2]> = None;
        for tables in of_jobs.iter().filter_map(|grads| grads.tables.as_ref()) {
            match &mut sums {
                None => sums = Some(tables.clone()),
                Some(sums) => {
                    for (sum, table) in sums.iter_mut().zip(tables) {
                        sum.iter_mut().zip(table).for_each(|(sum, value)| *sum += value);
                    }
                }
            }
        }
        let reverse = |sum: Vec<f32>| sum.chunks_exact(self.0.channels).rev().flatten().copied().collect();
        sums.map(|[rows, columns]| TableGrads { rows: reverse(rows), columns: reverse(columns) })
    }
}
