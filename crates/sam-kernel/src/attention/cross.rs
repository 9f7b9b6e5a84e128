//! Attention between two token sequences: the mask decoder's.
//!
//! Letters: `O` objects, `B` images, `N` queries, `M` keys, `A` heads, `C` channels of a head.

use rayon::prelude::*;

use super::head::{Head, HeadGrads, Terms, backward, forward};
use super::narrow::{self, narrow_side};
use super::{AttentionOutput, OutputGrad};
use crate::vector::LANES;

/// Rows that one thread joins at once.
const ROWS_PER_CHUNK: usize = 128;

/// Sizes of a cross attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossAttention {
    /// `O`.
    pub objects: usize,
    /// `N`.
    pub queries: usize,
    /// `M`.
    pub keys: usize,
    /// `A`.
    pub heads: usize,
    /// `C`.
    pub channels: usize,
}

/// Inputs of a cross attention.
#[derive(Clone, Copy, Debug)]
pub struct CrossInputs<'a> {
    /// `[O, N, A * C]`, or `[B, N, A * C]` with [`CrossInputs::q_index`]; not scaled.
    pub q: &'a [f32],
    /// `[O, M, A * C]`, or `[B, M, A * C]` with [`CrossInputs::kv_index`].
    pub k: &'a [f32],
    /// As `k`.
    pub v: &'a [f32],
    /// The image whose queries each object uses, where objects share them.
    pub q_index: Option<&'a [usize]>,
    /// The image whose keys and values each object uses, where objects share them.
    pub kv_index: Option<&'a [usize]>,
    /// Keys that are masked out, `[O, M]`; each object needs one that is not.
    pub absent: Option<&'a [bool]>,
}

/// Gradients of a cross attention, in the shapes of its inputs.
#[derive(Clone, Debug)]
pub struct CrossGrads {
    /// Gradient of [`CrossInputs::q`].
    pub q: Vec<f32>,
    /// Gradient of [`CrossInputs::k`].
    pub k: Vec<f32>,
    /// Gradient of [`CrossInputs::v`].
    pub v: Vec<f32>,
}

/// Rows of one head of one object.
struct Gathered {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    terms: Vec<f32>,
}

impl CrossAttention {
    /// `softmax(q k^T / sqrt(C)) v` per object and head.
    ///
    /// # Shapes
    /// - returns `out`: `[O, N, A * C]`, `log_sums`: what the backward pass needs of each row's softmax, in its order
    #[must_use]
    pub fn forward(&self, inputs: CrossInputs<'_>) -> AttentionOutput {
        self.check(inputs);
        if let Some(few) = narrow_side(self) {
            return narrow::forward(few, self, inputs);
        }
        let of_heads: Vec<(Vec<f32>, Vec<f32>)> = self.map_heads(|object, head| {
            let rows = self.gather(inputs, object, head);
            let mut out = vec![0.0; self.queries * self.channels];
            let mut log_sums = vec![0.0; self.queries];
            forward(&self.head(&rows), &mut out, &mut log_sums);
            (out, log_sums)
        });
        let (outs, log_sums): (Vec<_>, Vec<_>) = of_heads.into_iter().unzip();
        let n = self.objects * self.queries * self.heads * self.channels;
        let out = self.join(n, self.queries, None, |object_head| &outs[object_head]);
        AttentionOutput { out, log_sums: log_sums.concat() }
    }

    /// Gradients from the inputs and the result of [`CrossAttention::forward`], and the gradient of its output.
    #[must_use]
    pub fn backward(&self, inputs: CrossInputs<'_>, output: OutputGrad<'_>) -> CrossGrads {
        self.check(inputs);
        if let Some(few) = narrow_side(self) {
            return narrow::backward(few, self, inputs, output);
        }
        let of_heads: Vec<HeadGrads> = self.map_heads(|object, head| {
            let rows = self.gather(inputs, object, head);
            let [out, d_out] =
                [output.out, output.d_out].map(|values| self.rows(values, self.queries, 0, object, head));
            let log_sums = &output.log_sums[(object * self.heads + head) * self.queries..][..self.queries];
            backward(&self.head(&rows), OutputGrad { out: &out, log_sums, d_out: &d_out })
        });
        CrossGrads {
            q: self.join(inputs.q.len(), self.queries, inputs.q_index, |object_head| &of_heads[object_head].q),
            k: self.join(inputs.k.len(), self.keys, inputs.kv_index, |object_head| &of_heads[object_head].k),
            v: self.join(inputs.v.len(), self.keys, inputs.kv_index, |object_head| &of_heads[object_head].v),
        }
    }

    fn check(&self, inputs: CrossInputs<'_>) {
        let width = self.heads * self.channels;
        for (values, n, index) in [(inputs.q, self.queries, inputs.q_index), (inputs.k, self.keys, inputs.kv_index)] {
            assert!(index.is_none_or(|index| index.len() == self.objects), "each object names its image");
            let needed = index.map_or(self.objects, |index| index.iter().max().map_or(0, |largest| largest + 1));
            let sequences = values.len() / (n * width).max(1);
            assert!(values.len().is_multiple_of((n * width).max(1)), "rows are [.., n, A * C]");
            let is_enough = if index.is_some() { sequences >= needed } else { sequences == needed };
            assert!(is_enough, "expected {needed} token sequences, got {sequences}");
        }
        assert_eq!(inputs.v.len(), inputs.k.len(), "there are as many values as keys");
        let n = self.objects * self.keys;
        assert!(inputs.absent.is_none_or(|absent| absent.len() == n), "absent keys are [O, M]");
    }

    /// In the order of objects, heads within.
    fn map_heads<T: Send>(&self, work: impl Fn(usize, usize) -> T + Sync) -> Vec<T> {
        let heads = self.heads;
        (0..self.objects * heads).into_par_iter().map(|at| work(at / heads, at % heads)).collect()
    }

    fn head<'a>(&self, rows: &'a Gathered) -> Head<'a> {
        Head {
            channels: self.channels,
            scale: (self.channels as f32).powf(-0.5),
            q: &rows.q,
            k: &rows.k,
            v: &rows.v,
            terms: Terms::Keys(&rows.terms),
        }
    }

    fn gather(&self, inputs: CrossInputs<'_>, object: usize, head: usize) -> Gathered {
        let empty = self.keys.next_multiple_of(LANES) - self.keys;
        let mut terms = vec![0f32; self.keys];
        if let Some(absent) = inputs.absent {
            for (term, &absent) in terms.iter_mut().zip(&absent[object * self.keys..]) {
                *term = if absent { f32::NEG_INFINITY } else { 0.0 };
            }
        }
        terms.resize(self.keys + empty, f32::NEG_INFINITY);
        let sequence = |index: Option<&[usize]>| index.map_or(object, |index| index[object]);
        Gathered {
            q: self.rows(inputs.q, self.queries, 0, sequence(inputs.q_index), head),
            k: self.rows(inputs.k, self.keys, empty, sequence(inputs.kv_index), head),
            v: self.rows(inputs.v, self.keys, empty, sequence(inputs.kv_index), head),
            terms,
        }
    }

    /// `[n, C]` of one sequence of `[.., n, A * C]`, followed by rows of zeros.
    fn rows(&self, values: &[f32], n: usize, n_empty: usize, sequence: usize, head: usize) -> Vec<f32> {
        let (width, c) = (self.heads * self.channels, self.channels);
        let mut rows = Vec::with_capacity((n + n_empty) * c);
        for row in values[sequence * n * width..][..n * width].chunks_exact(width) {
            rows.extend_from_slice(&row[head * c..][..c]);
        }
        rows.resize((n + n_empty) * c, 0.0);
        rows
    }

    /// `len` values `[O, n, A * C]` from `[n, C]` of each object and head, or the sums over the objects of each image.
    fn join<'a>(
        &self,
        len: usize,
        n: usize,
        index: Option<&[usize]>,
        of_head: impl Fn(usize) -> &'a Vec<f32> + Sync,
    ) -> Vec<f32> {
        let (width, c) = (self.heads * self.channels, self.channels);
        let mut joined = vec![0f32; len];
        if n == 0 {
            return joined;
        }
        joined.par_chunks_mut(n * width).enumerate().for_each(|(sequence, rows)| {
            let is_its_own = |object: &usize| index.map_or(*object, |index| index[*object]) == sequence;
            let objects: Vec<usize> = (0..self.objects).filter(is_its_own).collect();
            rows.par_chunks_mut(ROWS_PER_CHUNK * width).enumerate().for_each(|(chunk, rows)| {
                for (nth, object) in objects.iter().enumerate() {
                    for head in 0..self.heads {
                        let values = &of_head(object * self.heads + head)[chunk * ROWS_PER_CHUNK * c..];
                        for (row, values) in rows.chunks_exact_mut(width).zip(values.chunks_exact(c)) {
                            let to = &mut row[head * c..][..c];
                            if nth == 0 {
                                to.copy_from_slice(values);
                            } else {
                                to.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
                            }
                        }
                    }
                }
            });
        });
        joined
    }
}
