//! Attention between many rows and few tokens: the mask decoder's, from image to tokens and from tokens to image.
//!
//! The few tokens are tables that stay in the nearest cache, the many rows pass once, where they are, and no score leaves the cache.
//! The products are of f32 whatever is set for others: they are too small to gain from bf16.
//!
//! Letters: `R` rows, the side of which there are many; `L` lanes, a token each, in whole vectors; `A` heads, `C` channels of a head.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::cross::{CrossAttention, CrossGrads, CrossInputs};
use super::{AttentionOutput, OutputGrad};
use crate::thin::{Rows, RowsMut, Table, add_over_rows, multiply, sums_len};
use crate::vector::{LANES, exp, sum_of_lanes};

/// Rows whose scores are computed together: of one head they stay in the first cache.
const ROWS: usize = 128;
/// The most tokens, and the most channels of a head.
const MOST: usize = 4 * LANES;

/// The side of which there are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Few {
    Keys,
    Queries,
}

/// Whether these kernels are for an attention of such sizes, and which side is the narrow one.
pub(super) fn narrow_side(sizes: &CrossAttention) -> Option<Few> {
    let CrossAttention { objects, queries, keys, heads, channels } = *sizes;
    let is_empty = [objects, queries, keys, heads, channels].contains(&0);
    if is_empty || !channels.is_multiple_of(LANES) || channels > MOST {
        None
    } else if keys <= MOST {
        Some(Few::Keys)
    } else if queries <= MOST {
        Some(Few::Queries)
    } else {
        None
    }
}

/// [`CrossAttention::forward`]; of few keys, `log_sums` are the largest score and the reciprocal sum of exponentials relative to that,
/// `[O, N, A, 2]`: more exact than their logarithm where scores are large. Of few queries, `[O, N, A]`.
pub(super) fn forward(few: Few, sizes: &CrossAttention, inputs: CrossInputs<'_>) -> AttentionOutput {
    match few {
        Few::Keys => forward_to_tokens(sizes, inputs),
        Few::Queries => forward_of_tokens(sizes, inputs),
    }
}

/// [`CrossAttention::backward`], from the results of [`forward`].
pub(super) fn backward(
    few: Few,
    sizes: &CrossAttention,
    inputs: CrossInputs<'_>,
    output: OutputGrad<'_>,
) -> CrossGrads {
    match few {
        Few::Keys => backward_to_tokens(sizes, inputs, output),
        Few::Queries => backward_of_tokens(sizes, inputs, output),
    }
}

/// Many queries, few keys.
fn forward_to_tokens(sizes: &CrossAttention, inputs: CrossInputs<'_>) -> AttentionOutput {
    let CrossAttention { objects, queries, keys, heads, channels } = *sizes;
    let width = heads * channels;
    let mut out = vec![0f32; objects * queries * width];
    let mut softmax = vec![0f32; objects * queries * heads * 2];
    out.par_chunks_mut(queries * width).zip(softmax.par_chunks_mut(queries * heads * 2)).enumerate().for_each(
        |(object, (out, softmax))| {
            let q = sequence(inputs.q, queries * width, object, inputs.q_index);
            let [k, v] = [inputs.k, inputs.v].map(|x| sequence(x, keys * width, object, inputs.kv_index));
            let keys = &Table::of_heads(k, heads, channels, scale(sizes));
            let values = &Table::of_heads(v, heads, channels, 1.0);
            let terms = &key_terms(sizes, inputs.absent, object);
            let rows = out.par_chunks_mut(ROWS * width).zip(softmax.par_chunks_mut(ROWS * heads * 2));
            rows.zip(q.par_chunks(ROWS * width)).for_each(|((out, softmax), q)| {
                Arch::new().dispatch(ToTokens { channels, q, keys, values, terms, out, softmax });
            });
        },
    );
    AttentionOutput { out, log_sums: softmax }
}

/// Up to [`ROWS`] queries of an object.
struct ToTokens<'a> {
    channels: usize,
    /// `[R, A * C]`.
    q: &'a [f32],
    /// Of each head, scaled.
    keys: &'a [Table],
    values: &'a [Table],
    /// `[L]`.
    terms: &'a [f32],
    out: &'a mut [f32],
    /// `[R, A, 2]`.
    softmax: &'a mut [f32],
}

impl WithSimd for ToTokens<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { channels, q, keys, values, terms, out, softmax } = self;
        let (heads, lanes) = (keys.len(), terms.len());
        let width = heads * channels;
        let n = q.len() / width;
        let mut scores = [0f32; ROWS * MOST];
        let scores = &mut scores[..n * lanes];
        for (head, (keys, values)) in keys.iter().zip(values).enumerate() {
            let q = Rows::new(q, head * channels, width);
            let mut to = RowsMut { values: scores, first: 0, stride: lanes, adds: false };
            multiply(simd, n, q, (&keys.columns, lanes), Some(terms), &mut to);
            for (scores, softmax) in scores.chunks_exact_mut(lanes).zip(softmax.chunks_exact_mut(2 * heads)) {
                let shift = largest(simd, scores);
                let (scores, _) = scores.as_chunks_mut::<LANES>();
                let mut of_lanes = [0f32; LANES];
                for scores in &mut *scores {
                    for score in scores.iter_mut() {
                        *score = exp(*score - shift);
                    }
                    for lane in 0..LANES {
                        of_lanes[lane] += scores[lane];
                    }
                }
                let scale = 1.0 / sum_of_lanes(of_lanes);
                scores.as_flattened_mut().iter_mut().for_each(|score| *score *= scale);
                softmax[2 * head..][..2].copy_from_slice(&[shift, scale]);
            }
            let mut to = RowsMut { values: &mut *out, first: head * channels, stride: width, adds: false };
            multiply(simd, n, Rows::new(scores, 0, lanes), (&values.lines, channels), None, &mut to);
        }
    }
}

/// Gradients of [`forward_to_tokens`]. Needs no output: a row of it times its gradient is the sum of the probabilities times theirs.
fn backward_to_tokens(
    sizes: &CrossAttention,
    inputs: CrossInputs<'_>,
    OutputGrad { log_sums: softmax, d_out, .. }: OutputGrad<'_>,
) -> CrossGrads {
    let CrossAttention { objects, queries, keys: n_keys, heads, channels } = *sizes;
    let width = heads * channels;
    let of_tokens = |x: &[f32], scale: f32| -> Vec<Vec<Table>> {
        let tokens = |object| sequence(x, n_keys * width, object, inputs.kv_index);
        (0..objects).map(|object| Table::of_heads(tokens(object), heads, channels, scale)).collect()
    };
    let (keys, values) = (of_tokens(inputs.k, scale(sizes)), of_tokens(inputs.v, 1.0));
    let terms: Vec<Vec<f32>> = (0..objects).map(|object| key_terms(sizes, inputs.absent, object)).collect();
    let mut d_q = vec![0f32; inputs.q.len()];
    let of_sequences = objects_of_sequences(d_q.len() / (queries * width), objects, inputs.q_index);
    let sequences = d_q.par_chunks_mut(queries * width).zip(inputs.q.par_chunks(queries * width)).zip(&of_sequences);
    // In the order of sequences and rows, objects within.
    let sums: Vec<Vec<(usize, [Vec<f32>; 2])>> = sequences
        .flat_map(|((d_q, q), of_sequence)| {
            let chunks = d_q.par_chunks_mut(ROWS * width).zip(q.par_chunks(ROWS * width)).enumerate();
            chunks.map(|(chunk, (d_q, q))| {
                let of_object = |(nth, &object): (usize, &usize)| {
                    let first = object * queries + chunk * ROWS;
                    let rows = ToTokensBackward {
                        channels,
                        q,
                        d_out: &d_out[first * width..][..q.len()],
                        softmax: &softmax[first * heads * 2..][..q.len() / channels * 2],
                        keys: &keys[object],
                        values: &values[object],
                        n_keys,
                        terms: &terms[object],
                        d_q: &mut *d_q,
                        adds: nth > 0,
                    };
                    (object, Arch::new().dispatch(rows))
                };
                of_sequence.iter().enumerate().map(of_object).collect()
            })
        })
        .collect();
    let (mut d_k, mut d_v) = (vec![0f32; inputs.k.len()], vec![0f32; inputs.v.len()]);
    for (object, [of_keys, of_values]) in sums.iter().flatten() {
        let to = |grads| sequence_mut(grads, n_keys * width, *object, inputs.kv_index);
        add_sums(of_keys, sizes, scale(sizes), to(&mut d_k));
        add_sums(of_values, sizes, 1.0, to(&mut d_v));
    }
    CrossGrads { q: d_q, k: d_k, v: d_v }
}

/// Up to [`ROWS`] queries of an object, with the gradient of their output.
struct ToTokensBackward<'a> {
    channels: usize,
    /// `[R, A * C]`, as `d_out`.
    q: &'a [f32],
    d_out: &'a [f32],
    /// `[R, A, 2]`.
    softmax: &'a [f32],
    keys: &'a [Table],
    values: &'a [Table],
    n_keys: usize,
    /// `[L]`.
    terms: &'a [f32],
    d_q: &'a mut [f32],
    /// Whether `d_q` is added to; else it is replaced.
    adds: bool,
}

impl WithSimd for ToTokensBackward<'_> {
    /// Sums over the rows for keys, yet to be scaled, and values.
    type Output = [Vec<f32>; 2];

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> [Vec<f32>; 2] {
        let Self { channels, q, d_out, softmax, keys, values, n_keys, terms, d_q, adds } = self;
        let (heads, lanes) = (keys.len(), terms.len());
        let width = heads * channels;
        let n = q.len() / width;
        let len = sums_len(n_keys, channels);
        let mut sums = [vec![0f32; heads * len], vec![0f32; heads * len]];
        let (mut p, mut d_scores) = ([0f32; ROWS * MOST], [0f32; ROWS * MOST]);
        let (p, d_scores) = (&mut p[..n * lanes], &mut d_scores[..n * lanes]);
        for (head, (keys, values)) in keys.iter().zip(values).enumerate() {
            let rows = |x| Rows::new(x, head * channels, width);
            let mut to = RowsMut { values: &mut *p, first: 0, stride: lanes, adds: false };
            multiply(simd, n, rows(q), (&keys.columns, lanes), Some(terms), &mut to);
            let mut to = RowsMut { values: &mut *d_scores, first: 0, stride: lanes, adds: false };
            multiply(simd, n, rows(d_out), (&values.columns, lanes), None, &mut to);
            let scores = p.chunks_exact_mut(lanes).zip(d_scores.chunks_exact_mut(lanes));
            for ((p, d), softmax) in scores.zip(softmax.chunks_exact(2 * heads)) {
                let ((p, _), (d, _)) = (p.as_chunks_mut::<LANES>(), d.as_chunks_mut::<LANES>());
                let (shift, scale) = (softmax[2 * head], softmax[2 * head + 1]);
                let mut of_lanes = [0f32; LANES];
                for (p, d) in p.iter_mut().zip(&*d) {
                    for p in p.iter_mut() {
                        *p = scale * exp(*p - shift);
                    }
                    for lane in 0..LANES {
                        of_lanes[lane] += p[lane] * d[lane];
                    }
                }
                let paired = sum_of_lanes(of_lanes);
                for (p, d) in p.iter().zip(d) {
                    for lane in 0..LANES {
                        d[lane] = p[lane] * (d[lane] - paired);
                    }
                }
            }
            let mut to = RowsMut { values: &mut *d_q, first: head * channels, stride: width, adds };
            multiply(simd, n, Rows::new(d_scores, 0, lanes), (&keys.lines, channels), None, &mut to);
            let [of_keys, of_values] = sums.each_mut().map(|sums| &mut sums[head * len..][..len]);
            add_over_rows(simd, n, (d_scores, lanes), (rows(q), channels), of_keys);
            add_over_rows(simd, n, (p, lanes), (rows(d_out), channels), of_values);
        }
        sums
    }
}

/// Few queries, many keys.
fn forward_of_tokens(sizes: &CrossAttention, inputs: CrossInputs<'_>) -> AttentionOutput {
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
            let mut to = RowsMut { values: &mut *powers, first: 0, stride: lanes, adds: false };
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
fn backward_of_tokens(sizes: &CrossAttention, inputs: CrossInputs<'_>, output: OutputGrad<'_>) -> CrossGrads {
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
                    let absent = |absent: &'_ [bool]| {
                        let first = object * keys + chunk * ROWS;
                        first..first + k.len().min(absent.len() * width) / width
                    };
                    let rows = OfTokensBackward {
                        channels,
                        queries: &queries[object],
                        n_queries,
                        k,
                        v,
                        absent: inputs.absent.map(|all| &all[absent(all)]),
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
            let mut to = RowsMut { values: &mut *p, first: 0, stride: lanes, adds: false };
            multiply(simd, n, rows(k), (&queries.columns, lanes), start, &mut to);
            let mut to = RowsMut { values: &mut *d_scores, first: 0, stride: lanes, adds: false };
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

fn scale(sizes: &CrossAttention) -> f32 {
    (sizes.channels as f32).powf(-0.5)
}

/// Lanes of `n` tokens.
fn lanes(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// `[L]`: minus infinity for the lanes without a key, and for keys that are masked out.
fn key_terms(sizes: &CrossAttention, absent: Option<&[bool]>, object: usize) -> Vec<f32> {
    let is_there = |key: usize| key < sizes.keys && absent.is_none_or(|absent| !absent[object * sizes.keys + key]);
    (0..lanes(sizes.keys)).map(|key| if is_there(key) { 0.0 } else { f32::NEG_INFINITY }).collect()
}

/// The objects of each sequence of the many rows.
fn objects_of_sequences(n_sequences: usize, objects: usize, index: Option<&[usize]>) -> Vec<Vec<usize>> {
    let mut of_sequences = vec![Vec::new(); n_sequences];
    for object in 0..objects {
        of_sequences[index.map_or(object, |index| index[object])].push(object);
    }
    of_sequences
}

/// The sequence of an object.
fn sequence<'a>(values: &'a [f32], len: usize, object: usize, index: Option<&[usize]>) -> &'a [f32] {
    &values[index.map_or(object, |index| index[object]) * len..][..len]
}

fn sequence_mut<'a>(values: &'a mut [f32], len: usize, object: usize, index: Option<&[usize]>) -> &'a mut [f32] {
    &mut values[index.map_or(object, |index| index[object]) * len..][..len]
}

/// Adds the sums of each head, times `scale`, to `[tokens, A * C]`.
fn add_sums(sums: &[f32], sizes: &CrossAttention, scale: f32, out: &mut [f32]) {
    let CrossAttention { heads, channels, .. } = *sizes;
    let of_heads = sums.chunks_exact(sums.len() / heads);
    for (head, sums) in of_heads.enumerate() {
        for (row, sums) in out.chunks_exact_mut(heads * channels).zip(sums.chunks_exact(channels)) {
            row[head * channels..][..channels].iter_mut().zip(sums).for_each(|(to, sum)| *to += scale * sum);
        }
    }
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if b > a { b } else { a }
}

/// The largest of whole vectors of values.
#[inline(always)]
fn largest<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let registers = S::as_simd_f32s(values).0;
    simd.reduce_max_f32s(registers.iter().fold(
        simd.splat_f32s(f32::NEG_INFINITY),
        #[inline(always)]
        |a, b| simd.max_f32s(a, *b),
    ))
}
