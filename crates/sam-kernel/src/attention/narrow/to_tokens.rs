//! Many queries, few keys: from image to tokens.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::{MOST, ROWS, add_sums, lanes, objects_of_sequences, scale, sequence, sequence_mut};
use crate::attention::cross::{CrossAttention, CrossGrads, CrossInputs};
use crate::attention::{AttentionOutput, OutputGrad};
use crate::thin::{Rows, RowsMut, Table, add_over_rows, multiply, sums_len};
use crate::vector::{LANES, exp, sum_of_lanes};

/// See [`super::forward`].
pub(super) fn forward_to_tokens(sizes: &CrossAttention, inputs: CrossInputs<'_>) -> AttentionOutput {
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
            let mut to = RowsMut::whole(scores, lanes);
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
pub(super) fn backward_to_tokens(
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
            let mut to = RowsMut::whole(p, lanes);
            multiply(simd, n, rows(q), (&keys.columns, lanes), Some(terms), &mut to);
            let mut to = RowsMut::whole(d_scores, lanes);
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

/// `[L]`: minus infinity for the lanes without a key, and for keys that are masked out.
fn key_terms(sizes: &CrossAttention, absent: Option<&[bool]>, object: usize) -> Vec<f32> {
    let is_there = |key: usize| key < sizes.keys && absent.is_none_or(|absent| !absent[object * sizes.keys + key]);
    (0..lanes(sizes.keys)).map(|key| if is_there(key) { 0.0 } else { f32::NEG_INFINITY }).collect()
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
