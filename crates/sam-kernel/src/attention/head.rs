//! One head: queries against keys, in tiles of both.
//!
//! Rows of keys are padded to a multiple of [`LANES`]; the terms of padding are minus infinity.
//!
//! Letters: `N` queries, `M` keys with padding, `C` channels, `H W` the grid of the keys, `P` its padded width.

use std::ops::Range;

use rayon::prelude::*;

use super::OutputGrad;
use crate::matmul::{Matrix, Precision, Product, Threads, Write, matmul_f32, matmul_into};
use crate::vector::{LANES, exp, larger, sum_of_lanes, vectorised};

/// Queries of a tile; with [`KEYS_PER_TILE`] keys its scores stay in a core's L2 cache (256 KiB).
const QUERIES_PER_TILE: usize = 128;
/// Keys of a tile, rounded to whole rows.
const KEYS_PER_TILE: usize = 512;

/// Inputs of a head, row-major.
pub(super) struct Head<'a> {
    pub(super) channels: usize,
    /// Scale of the products of queries and keys, not of the terms.
    pub(super) scale: f32,
    /// `[N, C]`.
    pub(super) q: &'a [f32],
    /// `[M, C]`.
    pub(super) k: &'a [f32],
    /// `[M, C]`.
    pub(super) v: &'a [f32],
    pub(super) terms: Terms<'a>,
}

/// Added to the scaled products.
#[derive(Clone, Copy)]
pub(super) enum Terms<'a> {
    /// A value per key, `[M]`: 0, or minus infinity where a key is masked out.
    Keys(&'a [f32]),
    /// Decomposed relative positions.
    Relative(Relative<'a>),
    /// A value per query and key.
    Pairs(Pairs<'a>),
}

/// Terms of all pairs of cells of a window, for the queries that there are.
#[derive(Clone, Copy)]
pub(super) struct Pairs<'a> {
    /// `[cells, M]`; minus infinity for padding of the keys.
    pub(super) terms: &'a [f32],
    /// Row and column of each query.
    pub(super) cells: &'a [[usize; 2]],
    /// Cells of a row.
    pub(super) columns: usize,
}

/// A term per query and row of keys, and one per query and column of keys (MViTv2, arXiv 2112.01526, eq. 4).
#[derive(Clone, Copy)]
pub(super) struct Relative<'a> {
    /// `[2 H - 1, C]`, the reversed table of rows.
    pub(super) rows_reversed: &'a [f32],
    /// `[2 W - 1, C]`, the reversed table of columns.
    pub(super) columns_reversed: &'a [f32],
    /// `[H, W]`.
    pub(super) grid: [usize; 2],
    /// Row and column of each query.
    pub(super) cells: &'a [[usize; 2]],
}

/// Gradients of a head's inputs, in their layouts.
pub(super) struct HeadGrads {
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
    /// Gradients of the reversed tables.
    pub(super) tables: Option<[Vec<f32>; 2]>,
    /// `[N, M]`, those of [`Pairs`]; else empty.
    pub(super) pairs: Vec<f32>,
}

/// The terms of a tile of queries, in the order in which a row of scores needs them.
struct TileTerms {
    /// `[n, 2 H - 1]`: those of a query in row `r` start at `H - 1 - r`.
    rows: Vec<f32>,
    /// `[n, P]`.
    columns: Vec<f32>,
}

impl Head<'_> {
    fn n_queries(&self) -> usize {
        self.q.len() / self.channels
    }

    fn n_keys(&self) -> usize {
        self.k.len() / self.channels
    }

    /// Length of a row of keys, padding included.
    fn row_length(&self) -> usize {
        match self.terms {
            Terms::Keys(_) | Terms::Pairs(_) => self.n_keys(),
            Terms::Relative(relative) => relative.grid[1].next_multiple_of(LANES),
        }
    }

    fn key_tiles(&self) -> impl Iterator<Item = Range<usize>> + use<> {
        let tile = match self.terms {
            Terms::Keys(_) | Terms::Pairs(_) => KEYS_PER_TILE,
            Terms::Relative(_) => (KEYS_PER_TILE / self.row_length()).max(1) * self.row_length(),
        };
        let n = self.n_keys();
        (0..n).step_by(tile).map(move |start| start..(start + tile).min(n))
    }

    fn rows<'a>(&self, values: &'a [f32], range: &Range<usize>) -> Matrix<'a> {
        let c = self.channels;
        Matrix::new(&values[range.start * c..range.end * c], range.len(), c)
    }

    fn tile_terms(&self, queries: &Range<usize>) -> Option<TileTerms> {
        let Terms::Relative(relative) = self.terms else { return None };
        let [height, width] = relative.grid;
        let padded = self.row_length();
        let q = self.rows(self.q, queries);
        let table = |values, n: usize| Matrix::new(values, n, self.channels).transposed();
        let rows = matmul_f32(q, table(relative.rows_reversed, 2 * height - 1));
        let all = matmul_f32(q, table(relative.columns_reversed, 2 * width - 1));
        let mut columns = vec![f32::NEG_INFINITY; queries.len() * padded];
        for ((line, all), [_, column]) in
            columns.chunks_exact_mut(padded).zip(all.chunks_exact(2 * width - 1)).zip(&relative.cells[queries.clone()])
        {
            line[..width].copy_from_slice(&all[width - 1 - column..][..width]);
        }
        Some(TileTerms { rows, columns })
    }

    /// Splits a row of scores as its terms are: calls `see(start, term of the piece, terms of its keys)` for each piece.
    #[inline(always)]
    fn for_each_piece<'t>(
        &'t self,
        query_in_tile: usize,
        query: usize,
        keys: &Range<usize>,
        terms: Option<&'t TileTerms>,
        mut see: impl FnMut(usize, f32, &'t [f32]),
    ) {
        match (self.terms, terms) {
            (Terms::Relative(relative), Some(terms)) => {
                let [height, _] = relative.grid;
                let padded = self.row_length();
                let n = 2 * height - 1;
                let first = height - 1 - relative.cells[query][0] + keys.start / padded;
                let rows = &terms.rows[query_in_tile * n + first..][..keys.len() / padded];
                let columns = &terms.columns[query_in_tile * padded..][..padded];
                for (piece, &row) in rows.iter().enumerate() {
                    see(piece * padded, row, columns);
                }
            }
            (Terms::Keys(terms), _) => see(0, 0.0, &terms[keys.clone()]),
            (Terms::Pairs(Pairs { terms, cells, columns }), _) => {
                let [row, column] = cells[query];
                see(0, 0.0, &terms[(row * columns + column) * self.n_keys()..][keys.clone()]);
            }
            (Terms::Relative(_), None) => unreachable!("relative terms are made for every tile"),
        }
    }
}

/// Writes `softmax(scale q k^T + terms) v` to `out`, `[N, C]`, and the logarithm of each row's sum of exponentials to
/// `log_sums`, `[N]`.
pub(super) fn forward(head: &Head<'_>, out: &mut [f32], log_sums: &mut [f32]) {
    let tiles = out.par_chunks_mut(QUERIES_PER_TILE * head.channels).zip(log_sums.par_chunks_mut(QUERIES_PER_TILE));
    tiles.enumerate().for_each_init(Vec::new, |scores, (tile, (out, log_sums))| {
        let start = tile * QUERIES_PER_TILE;
        forward_tile(head, start..start + log_sums.len(), scores, out, log_sums);
    });
}

fn forward_tile(head: &Head<'_>, queries: Range<usize>, scores: &mut Vec<f32>, out: &mut [f32], log_sums: &mut [f32]) {
    let (n, channels) = (queries.len(), head.channels);
    let q = head.rows(head.q, &queries);
    let terms = head.tile_terms(&queries);
    let mut largest = vec![f32::NEG_INFINITY; n];
    let mut sums = vec![0f32; n];
    for (tile, keys) in head.key_tiles().enumerate() {
        scores.resize(n * keys.len(), 0.0);
        let k_t = head.rows(head.k, &keys).transposed();
        matmul_into(scores, Write::Overwrite, on_this_thread(head.scale, q, k_t));
        vectorised(
            #[inline(always)]
            || {
                for (row, scores) in scores.chunks_exact_mut(keys.len()).enumerate() {
                    let mut lanes = [f32::NEG_INFINITY; LANES];
                    head.for_each_piece(
                        row,
                        queries.start + row,
                        &keys,
                        terms.as_ref(),
                        #[inline(always)]
                        |at, of_row, of_columns| {
                            add_terms(&mut scores[at..][..of_columns.len()], of_row, of_columns, &mut lanes);
                        },
                    );
                    let before = largest[row];
                    let now = lanes.iter().copied().fold(before, larger);
                    // If all keys so far are masked out, their exponentials are 0, not those of minus infinity.
                    let shift = if now == f32::NEG_INFINITY { 0.0 } else { now };
                    let sum = exponentials(scores, shift);
                    if tile == 0 {
                        sums[row] = sum;
                    } else {
                        let fade = exp(before - shift);
                        sums[row] = sums[row] * fade + sum;
                        out[row * channels..][..channels].iter_mut().for_each(|value| *value *= fade);
                    }
                    largest[row] = now;
                }
            },
        );
        let write = if tile == 0 { Write::Overwrite } else { Write::Accumulate };
        let probabilities = Matrix::new(scores, n, keys.len());
        matmul_into(out, write, on_this_thread(1.0, probabilities, head.rows(head.v, &keys)));
    }
    vectorised(
        #[inline(always)]
        || {
            for (row, out) in out.chunks_exact_mut(channels).enumerate() {
                let scale = 1.0 / sums[row];
                out.iter_mut().for_each(|value| *value *= scale);
                log_sums[row] = largest[row] + sums[row].ln();
            }
        },
    );
}

fn on_this_thread<'a>(scale: f32, a: Matrix<'a>, b: Matrix<'a>) -> Product<'a> {
    Product::new(scale, a, b, Threads::One)
}

/// Adds terms to scores and updates the maximum of each lane.
#[inline(always)]
fn add_terms(scores: &mut [f32], of_row: f32, of_columns: &[f32], lanes: &mut [f32; LANES]) {
    let (scores, _) = scores.as_chunks_mut::<LANES>();
    let (terms, _) = of_columns.as_chunks::<LANES>();
    for (scores, terms) in scores.iter_mut().zip(terms) {
        let mut sums = *scores;
        for lane in 0..LANES {
            sums[lane] += of_row + terms[lane];
        }
        for lane in 0..LANES {
            lanes[lane] = larger(lanes[lane], sums[lane]);
        }
        *scores = sums;
    }
}

/// `e^(score - shift)` in place, and their sum.
#[inline(always)]
fn exponentials(scores: &mut [f32], shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let (chunks, _) = scores.as_chunks_mut::<LANES>();
    for chunk in chunks {
        let mut powers = *chunk;
        for power in &mut powers {
            *power = exp(*power - shift);
        }
        for lane in 0..LANES {
            lanes[lane] += powers[lane];
        }
        *chunk = powers;
    }
    sum_of_lanes(lanes)
}

/// Gradients of [`forward`] from its results and the gradient of `out`; on the calling thread.
pub(super) fn backward(head: &Head<'_>, OutputGrad { out, log_sums, d_out }: OutputGrad<'_>) -> HeadGrads {
    let (n, channels) = (head.n_queries(), head.channels);
    let terms = head.tile_terms(&(0..n));
    let mut d_terms = terms
        .as_ref()
        .map(|terms| TileTerms { rows: vec![0.0; terms.rows.len()], columns: vec![0.0; terms.columns.len()] });
    // Per row the dot product of the output and its gradient, which the softmax subtracts (Dao 2022, eq. 4).
    let paired: Vec<f32> = out
        .chunks_exact(channels)
        .zip(d_out.chunks_exact(channels))
        .map(|(out, d_out)| out.iter().zip(d_out).map(|(a, b)| a * b).sum())
        .collect();
    let mut grads = HeadGrads {
        q: vec![0.0; head.q.len()],
        k: vec![0.0; head.k.len()],
        v: vec![0.0; head.v.len()],
        tables: None,
        pairs: if matches!(head.terms, Terms::Pairs(_)) { vec![0.0; n * head.n_keys()] } else { Vec::new() },
    };
    let (mut scores, mut d_scores) = (Vec::new(), Vec::new());
    for keys in head.key_tiles() {
        let of_keys = keys.start * channels..keys.end * channels;
        let (k, v) = (head.rows(head.k, &keys), head.rows(head.v, &keys));
        for start in (0..n).step_by(QUERIES_PER_TILE) {
            let queries = start..(start + QUERIES_PER_TILE).min(n);
            let (q, d_out) = (head.rows(head.q, &queries), head.rows(d_out, &queries));
            let size = queries.len() * keys.len();
            scores.resize(size, 0.0);
            d_scores.resize(size, 0.0);
            matmul_into(&mut scores, Write::Overwrite, on_this_thread(head.scale, q, k.transposed()));
            matmul_into(&mut d_scores, Write::Overwrite, on_this_thread(1.0, d_out, v.transposed()));
            let rows = scores.chunks_exact_mut(keys.len()).zip(d_scores.chunks_exact_mut(keys.len()));
            vectorised(
                #[inline(always)]
                || {
                    for ((scores, d_scores), query) in rows.zip(queries.clone()) {
                        let (log_sum, paired) = (log_sums[query], paired[query]);
                        head.for_each_piece(
                            query,
                            query,
                            &keys,
                            terms.as_ref(),
                            #[inline(always)]
                            |at, of_row, of_columns| {
                                let (scores, d_scores) =
                                    (&mut scores[at..][..of_columns.len()], &mut d_scores[at..][..of_columns.len()]);
                                softmax_backward(scores, d_scores, of_row - log_sum, of_columns, paired);
                            },
                        );
                        if let (Terms::Relative(relative), Some(d_terms)) = (head.terms, &mut d_terms) {
                            d_terms.add(&relative, query, &keys, d_scores);
                        }
                    }
                },
            );
            if let Terms::Pairs(_) = head.terms {
                for (d_scores, query) in d_scores.chunks_exact(keys.len()).zip(queries.clone()) {
                    grads.pairs[query * head.n_keys()..][keys.clone()].copy_from_slice(d_scores);
                }
            }
            let (p, d_s) =
                (Matrix::new(&scores, queries.len(), keys.len()), Matrix::new(&d_scores, queries.len(), keys.len()));
            let (d_q, d_kv) = (queries.start * channels..queries.end * channels, of_keys.clone());
            let add = |to: &mut [f32], scale, a, b| matmul_into(to, Write::Accumulate, on_this_thread(scale, a, b));
            add(&mut grads.v[d_kv.clone()], 1.0, p.transposed(), d_out);
            add(&mut grads.k[d_kv], head.scale, d_s.transposed(), q);
            add(&mut grads.q[d_q], head.scale, d_s, k);
        }
    }
    if let (Terms::Relative(relative), Some(d_terms)) = (head.terms, d_terms) {
        grads.tables = Some(d_terms.finish(head, &relative, &mut grads.q));
    }
    grads
}

/// Turns scores into probabilities, and gradients of probabilities into gradients of scores.
#[inline(always)]
fn softmax_backward(scores: &mut [f32], d_scores: &mut [f32], of_row: f32, of_columns: &[f32], paired: f32) {
    let (scores, _) = scores.as_chunks_mut::<LANES>();
    let (d_scores, _) = d_scores.as_chunks_mut::<LANES>();
    let (terms, _) = of_columns.as_chunks::<LANES>();
    for ((scores, d_scores), terms) in scores.iter_mut().zip(d_scores).zip(terms) {
        let (mut p, mut d) = (*scores, *d_scores);
        for lane in 0..LANES {
            p[lane] = exp(p[lane] + (of_row + terms[lane]));
        }
        for lane in 0..LANES {
            d[lane] = p[lane] * (d[lane] - paired);
        }
        (*scores, *d_scores) = (p, d);
    }
}

impl TileTerms {
    /// Adds a row of gradients of scores to the gradients of its terms.
    #[inline(always)]
    fn add(&mut self, relative: &Relative<'_>, query: usize, keys: &Range<usize>, d_scores: &[f32]) {
        let [height, width] = relative.grid;
        let padded = width.next_multiple_of(LANES);
        let n = 2 * height - 1;
        let first = height - 1 - relative.cells[query][0] + keys.start / padded;
        let rows = &mut self.rows[query * n + first..];
        let columns = &mut self.columns[query * padded..][..padded];
        for (d_scores, row) in d_scores.chunks_exact(padded).zip(rows) {
            let mut lanes = [0f32; LANES];
            let (columns, _) = columns.as_chunks_mut::<LANES>();
            let (d_scores, _) = d_scores.as_chunks::<LANES>();
            for (d_scores, columns) in d_scores.iter().zip(columns) {
                for lane in 0..LANES {
                    lanes[lane] += d_scores[lane];
                    columns[lane] += d_scores[lane];
                }
            }
            *row += sum_of_lanes(lanes);
        }
    }

    /// Gradients of the reversed tables; adds the contribution to the gradient of the queries.
    fn finish(self, head: &Head<'_>, relative: &Relative<'_>, d_q: &mut [f32]) -> [Vec<f32>; 2] {
        let (n, channels) = (head.n_queries(), head.channels);
        let [height, width] = relative.grid;
        let padded = width.next_multiple_of(LANES);
        let mut all = vec![0f32; n * (2 * width - 1)];
        for ((all, line), [_, column]) in
            all.chunks_exact_mut(2 * width - 1).zip(self.columns.chunks_exact(padded)).zip(relative.cells)
        {
            all[width - 1 - column..][..width].copy_from_slice(&line[..width]);
        }
        let q = Matrix::new(head.q, n, channels);
        let mut table = |d_terms: &[f32], size: usize, values: &[f32]| {
            let d_terms = Matrix::new(d_terms, n, 2 * size - 1);
            let values = Matrix::new(values, 2 * size - 1, channels);
            let product = Product { precision: Precision::F32, ..on_this_thread(1.0, d_terms, values) };
            matmul_into(d_q, Write::Accumulate, product);
            matmul_f32(d_terms.transposed(), q)
        };
        [table(&self.rows, height, relative.rows_reversed), table(&all, width, relative.columns_reversed)]
    }
}
