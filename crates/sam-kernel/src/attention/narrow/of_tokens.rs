//! Few queries, many keys: from tokens to image.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{MOST, ROWS, add_sums, lanes, objects_of_sequences, scale, sequence, sequence_mut};
use crate::attention::cross::{CrossAttention, CrossGrads, CrossInputs};
use crate::attention::{AttentionOutput, OutputGrad};
use crate::thin::{Rows, RowsMut, Table, add_over_rows, multiply, sums_len};
use crate::vector::{LANES, exp, larger};

/// See [`super::forward`].
pub(super) fn forward_of_tokens(sizes: &CrossAttention, inputs: CrossInputs<'_>) -> AttentionOutput {
    let CrossAttention { objects, queries: n_queries, keys, heads, channels } = *sizes;
    let width = heads * channels;
    let mut out = vec![0f32; objects * n_queries * width];
    let mut log_sums = vec![0f32; objects * n_queries * heads];
    out.par_chunks_mut(n_queries * width).zip(log_sums.par_chunks_mut(n_queries * heads)).enumerate().for_each(
        |(object, (out, log_sums))| {
            let q = sequence(inputs.q, n_queries * width, object, inputs.q_index);
            let [k, v] = [inputs.k, inputs.v].map(|x| sequence(x, keys * width, object, inputs.kv_index));
            let queries = &Table::of_heads(q, heads, channels, scale(sizes));
            let absent = inputs.absent.map(|absent| &absent[object * keys..][..keys]);
            let chunks = k.par_chunks(ROWS * width).zip(v.par_chunks(ROWS * width)).enumerate();
            let parts = chunks.map(|(chunk, (k, v))| {
                let absent = absent.map(|absent| &absent[chunk * ROWS..][..k.len() / width]);
                Arch::new().dispatch(OfTokens { channels, queries, n_queries, k, v, absent })
            });
            merge(&parts.collect::<Vec<_>>(), sizes, out, log_sums);
        },
    );
    AttentionOutput { out, log_sums }
}

/// The queries of an object, and up to [`ROWS`] keys.
struct OfTokens<'a> {
    channels: usize,
    queries: &'a [Table],
    n_queries: usize,
    /// `[R, A * C]`, as `v`.
    k: &'a [f32],
    v: &'a [f32],
    /// `[R]`.
    absent: Option<&'a [bool]>,
}

/// What some keys contribute to the output of few queries.
struct Attended {
    /// `[A, L]`, the largest score of each query.
    largest: Vec<f32>,
    /// `[A, L]`, the sum of each query's exponentials, relative to that.
    sums: Vec<f32>,
    /// Sums of the values of each head.
    values: Vec<f32>,
}

impl WithSimd for OfTokens<'_> {
    type Output = Attended;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Attended {
        let Self { channels, queries, n_queries, k, v, absent } = self;
        let (heads, lanes) = (queries.len(), lanes(n_queries));
        let width = heads * channels;
        let n = k.len() / width;
        let len = sums_len(n_queries, channels);
        let mut attended = Attended {
            largest: vec![f32::NEG_INFINITY; heads * lanes],
            sums: vec![0.0; heads * lanes],
            values: vec![0.0; heads * len],
        };
        let mut powers = [0f32; ROWS * MOST];
        let powers = &mut powers[..n * lanes];
        for (head, queries) in queries.iter().enumerate() {
            let rows = |x| Rows::new(x, head * channels, width);
            let mut to = RowsMut::whole(powers, lanes);
            multiply(simd, n, rows(k), (&queries.columns, lanes), None, &mut to);
            if let Some(absent) = absent {
                let of_absent = powers.chunks_exact_mut(lanes).zip(absent).filter(|(_, is_absent)| **is_absent);
                of_absent.for_each(|(scores, _)| scores.fill(f32::NEG_INFINITY));
            }
            let largest = &mut attended.largest[head * lanes..][..lanes];
            let sums = &mut attended.sums[head * lanes..][..lanes];
            for vector in 0..lanes / LANES {
                let (powers, _) = powers.as_chunks_mut::<LANES>();
                let step = lanes / LANES;
                let mut of_lanes = [f32::NEG_INFINITY; LANES];
                for powers in powers[vector..].iter().step_by(step) {
                    for lane in 0..LANES {
                        of_lanes[lane] = larger(of_lanes[lane], powers[lane]);
                    }
                }
                largest[vector * LANES..][..LANES].copy_from_slice(&of_lanes);
                // Where all keys are masked out, their exponentials are 0, not those of minus infinity.
                let shift = of_lanes.map(|largest| if largest == f32::NEG_INFINITY { 0.0 } else { largest });
                let mut of_lanes = [0f32; LANES];
                for powers in powers[vector..].iter_mut().step_by(step) {
                    for lane in 0..LANES {
                        powers[lane] = exp(powers[lane] - shift[lane]);
                    }
                    for lane in 0..LANES {
                        of_lanes[lane] += powers[lane];
                    }
                }
                sums[vector * LANES..][..LANES].copy_from_slice(&of_lanes);
            }
            let values = &mut attended.values[head * len..][..len];
            add_over_rows(simd, n, (powers, lanes), (rows(v), channels), values);
        }
        attended
    }
}

/// Joins the contributions of all keys, in their order.
fn merge(parts: &[Attended], sizes: &CrossAttention, out: &mut [f32], log_sums: &mut [f32]) {
    let CrossAttention { queries, heads, channels, .. } = *sizes;
    let (lanes, len) = (lanes(queries), sums_len(queries, channels));
    let rows = out.chunks_exact_mut(heads * channels).zip(log_sums.chunks_exact_mut(heads)).enumerate();
    for (query, (out, log_sums)) in rows {
        for (head, (out, log_sum)) in out.chunks_exact_mut(channels).zip(log_sums).enumerate() {
            let at = head * lanes + query;
            let largest = parts.iter().map(|part| part.largest[at]).fold(f32::NEG_INFINITY, larger);
            let mut sum = 0f32;
            for part in parts {
                let fade = exp(part.largest[at] - largest);
                sum += fade * part.sums[at];
                let values = &part.values[head * len + query * channels..][..channels];
                out.iter_mut().zip(values).for_each(|(out, value)| *out += fade * value);
            }
            let scale = 1.0 / sum;
            out.iter_mut().for_each(|out| *out *= scale);
            *log_sum = largest + sum.ln();
        }
    }
}

/// Gradients of [`forward_of_tokens`].
pub(super) fn backward_of_tokens(
    sizes: &CrossAttention,
    inputs: CrossInputs<'_>,
    output: OutputGrad<'_>,
) -> CrossGrads {
    let CrossAttention { objects, queries: n_queries, keys, heads, channels } = *sizes;
    let width = heads * channels;
    let queries: Vec<QueryTables> =
        (0..objects).map(|object| QueryTables::new(sizes, inputs, output, object)).collect();
    let (mut d_k, mut d_v) = (vec![0f32; inputs.k.len()], vec![0f32; inputs.v.len()]);
    let of_sequences = objects_of_sequences(d_k.len() / (keys * width), objects, inputs.kv_index);
    let (len, part) = (keys * width, ROWS * width);
    let sequences = (d_k.par_chunks_mut(len).zip(d_v.par_chunks_mut(len)))
        .zip(inputs.k.par_chunks(len).zip(inputs.v.par_chunks(len)))
        .zip(&of_sequences);
    // In the order of sequences and rows, objects within.
    let sums: Vec<Vec<(usize, Vec<f32>)>> = sequences
        .flat_map(|(((d_k, d_v), (k, v)), of_sequence)| {
            let grads = d_k.par_chunks_mut(part).zip(d_v.par_chunks_mut(part));
            let chunks = grads.zip(k.par_chunks(part).zip(v.par_chunks(part))).enumerate();
            chunks.map(|(chunk, ((d_k, d_v), (k, v)))| {
                let of_object = |(nth, &object): (usize, &usize)| {
                    let first = object * keys + chunk * ROWS;
                    let rows = OfTokensBackward {
                        channels,
                        queries: &queries[object],
                        n_queries,
                        k,
                        v,
                        absent: inputs.absent.map(|absent| &absent[first..][..k.len() / width]),
                        d_k: &mut *d_k,
                        d_v: &mut *d_v,
                        adds: nth > 0,
                    };
                    (object, Arch::new().dispatch(rows))
                };
                of_sequence.iter().enumerate().map(of_object).collect()
            })
        })
        .collect();
    let mut d_q = vec![0f32; inputs.q.len()];
    for (object, of_queries) in sums.iter().flatten() {
        let to = sequence_mut(&mut d_q, n_queries * width, *object, inputs.q_index);
        add_sums(of_queries, sizes, scale(sizes), to);
    }
    CrossGrads { q: d_q, k: d_k, v: d_v }
}

/// The few queries of an object with the gradient of their output.
struct QueryTables {
    /// Of each head, scaled.
    queries: Vec<Table>,
    d_out: Vec<Table>,
    /// `[A, L]`, minus infinity where there is no query, so that its probabilities are 0.
    negative_log_sums: Vec<f32>,
    /// `[A, L]`, the output times its gradient, which the softmax subtracts (Dao 2022, eq. 4).
    paired: Vec<f32>,
}

impl QueryTables {
    fn new(sizes: &CrossAttention, inputs: CrossInputs<'_>, output: OutputGrad<'_>, object: usize) -> Self {
        let CrossAttention { queries, heads, channels, .. } = *sizes;
        let (width, lanes) = (heads * channels, lanes(queries));
        let [out, d_out] = [output.out, output.d_out].map(|x| &x[object * queries * width..][..queries * width]);
        let log_sums = &output.log_sums[object * queries * heads..][..queries * heads];
        let mut negative_log_sums = vec![f32::NEG_INFINITY; heads * lanes];
        let mut paired = vec![0f32; heads * lanes];
        for query in 0..queries {
            for head in 0..heads {
                let at = query * width + head * channels;
                negative_log_sums[head * lanes + query] = -log_sums[query * heads + head];
                paired[head * lanes + query] = (at..at + channels).map(|at| out[at] * d_out[at]).sum();
            }
        }
        let q = sequence(inputs.q, queries * width, object, inputs.q_index);
        Self {
            queries: Table::of_heads(q, heads, channels, scale(sizes)),
            d_out: Table::of_heads(d_out, heads, channels, 1.0),
            negative_log_sums,
            paired,
        }
    }
}

/// The queries of an object, and up to [`ROWS`] keys and values, with the gradients of these.
struct OfTokensBackward<'a> {
    channels: usize,
    queries: &'a QueryTables,
    n_queries: usize,
    /// `[R, A * C]`, as `v`.
    k: &'a [f32],
    v: &'a [f32],
    /// `[R]`.
    absent: Option<&'a [bool]>,
    d_k: &'a mut [f32],
    d_v: &'a mut [f32],
    /// Whether the gradients are added to; else they are replaced.
    adds: bool,
}

impl WithSimd for OfTokensBackward<'_> {
    /// Sums over the rows for the queries, yet to be scaled.
    type Output = Vec<f32>;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Vec<f32> {
        let Self { channels, queries: tables, n_queries, k, v, absent, d_k, d_v, adds } = self;
        let (heads, lanes) = (tables.queries.len(), lanes(n_queries));
        let width = heads * channels;
        let n = k.len() / width;
        let len = sums_len(n_queries, channels);
        let mut sums = vec![0f32; heads * len];
        let (mut p, mut d_scores) = ([0f32; ROWS * MOST], [0f32; ROWS * MOST]);
        let (p, d_scores) = (&mut p[..n * lanes], &mut d_scores[..n * lanes]);
        for (head, (queries, d_out)) in tables.queries.iter().zip(&tables.d_out).enumerate() {
            let rows = |x| Rows::new(x, head * channels, width);
            let of_head = head * lanes..(head + 1) * lanes;
            let start = Some(&tables.negative_log_sums[of_head.clone()]);
            let mut to = RowsMut::whole(p, lanes);
            multiply(simd, n, rows(k), (&queries.columns, lanes), start, &mut to);
            let mut to = RowsMut::whole(d_scores, lanes);
            multiply(simd, n, rows(v), (&d_out.columns, lanes), None, &mut to);
            if let Some(absent) = absent {
                let of_absent = p.chunks_exact_mut(lanes).zip(absent).filter(|(_, is_absent)| **is_absent);
                of_absent.for_each(|(scores, _)| scores.fill(f32::NEG_INFINITY));
            }
            let (paired, _) = tables.paired[of_head].as_chunks::<LANES>();
            let scores = p.as_chunks_mut::<LANES>().0.chunks_exact_mut(lanes / LANES);
            for (p, d) in scores.zip(d_scores.as_chunks_mut::<LANES>().0.chunks_exact_mut(lanes / LANES)) {
                for ((p, d), paired) in p.iter_mut().zip(d).zip(paired) {
                    for p in p.iter_mut() {
                        *p = exp(*p);
                    }
                    for lane in 0..LANES {
                        d[lane] = p[lane] * (d[lane] - paired[lane]);
                    }
                }
            }
            let mut to = RowsMut { values: &mut *d_k, first: head * channels, stride: width, adds };
            multiply(simd, n, Rows::new(d_scores, 0, lanes), (&queries.lines, channels), None, &mut to);
            let mut to = RowsMut { values: &mut *d_v, first: head * channels, stride: width, adds };
            multiply(simd, n, Rows::new(p, 0, lanes), (&d_out.lines, channels), None, &mut to);
            add_over_rows(simd, n, (d_scores, lanes), (rows(k), channels), &mut sums[head * len..][..len]);
        }
        sums
    }
}
