//! Attention between two lists of tokens: the mask decoder's.
//!
//! Letters: `O` objects, `N` queries, `M` keys, `A` heads, `C` channels of a head.

use rayon::prelude::*;

use super::head::{Head, HeadGrads, Terms, backward, forward};
use crate::vector::LANES;

/// Sizes of an attention between two lists.
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

/// Gradients of an attention between two lists.
#[derive(Clone, Debug)]
pub struct CrossGrads {
    /// `[O, N, A * C]`.
    pub q: Vec<f32>,
    /// `[O, M, A * C]`.
    pub k: Vec<f32>,
    /// `[O, M, A * C]`.
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
    /// `softmax(q k^T / sqrt(C)) v` per object and head, and what [`CrossAttention::backward`] needs, `[O, A, N]`.
    ///
    /// # Shapes
    /// - `q`: `[O, N, A * C]`, `k`, `v`: `[O, M, A * C]`; `absent`: `[O, M]`, keys that take no part; each object needs
    ///   one that does
    /// - returns `[O, N, A * C]`
    #[must_use]
    pub fn forward(&self, q: &[f32], k: &[f32], v: &[f32], absent: Option<&[bool]>) -> (Vec<f32>, Vec<f32>) {
        self.check(q, k, v, absent);
        let of_heads: Vec<(Vec<f32>, Vec<f32>)> = self.map_heads(|object, head| {
            let rows = self.gather(q, k, v, absent, object, head);
            let mut out = vec![0.0; self.queries * self.channels];
            let mut log_sums = vec![0.0; self.queries];
            forward(&self.head(&rows), &mut out, &mut log_sums);
            (out, log_sums)
        });
        let (outs, log_sums): (Vec<_>, Vec<_>) = of_heads.into_iter().unzip();
        (self.join(self.queries, |object_head| &outs[object_head]), log_sums.concat())
    }

    /// Gradients from what [`CrossAttention::forward`] took and gave, and the gradient of its output.
    #[must_use]
    pub fn backward(
        &self,
        [q, k, v]: [&[f32]; 3],
        absent: Option<&[bool]>,
        [out, log_sums, d_out]: [&[f32]; 3],
    ) -> CrossGrads {
        self.check(q, k, v, absent);
        let of_heads: Vec<HeadGrads> = self.map_heads(|object, head| {
            let rows = self.gather(q, k, v, absent, object, head);
            let [out, d_out] = [out, d_out].map(|values| self.rows(values, self.queries, 0, object, head));
            let log_sums = &log_sums[(object * self.heads + head) * self.queries..][..self.queries];
            backward(&self.head(&rows), &out, log_sums, &d_out)
        });
        CrossGrads {
            q: self.join(self.queries, |object_head| &of_heads[object_head].q),
            k: self.join(self.keys, |object_head| &of_heads[object_head].k),
            v: self.join(self.keys, |object_head| &of_heads[object_head].v),
        }
    }

    fn check(&self, q: &[f32], k: &[f32], v: &[f32], absent: Option<&[bool]>) {
        let width = self.heads * self.channels;
        assert_eq!(q.len(), self.objects * self.queries * width, "queries are [O, N, A * C]");
        assert_eq!(k.len(), self.objects * self.keys * width, "keys are [O, M, A * C]");
        assert_eq!(v.len(), k.len(), "there are as many values as keys");
        assert!(absent.is_none_or(|absent| absent.len() == self.objects * self.keys), "absent keys are [O, M]");
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

    fn gather(&self, q: &[f32], k: &[f32], v: &[f32], absent: Option<&[bool]>, object: usize, head: usize) -> Gathered {
        let empty = self.keys.next_multiple_of(LANES) - self.keys;
        let mut terms = vec![0f32; self.keys];
        if let Some(absent) = absent {
            for (term, &absent) in terms.iter_mut().zip(&absent[object * self.keys..]) {
                *term = if absent { f32::NEG_INFINITY } else { 0.0 };
            }
        }
        terms.resize(self.keys + empty, f32::NEG_INFINITY);
        Gathered {
            q: self.rows(q, self.queries, 0, object, head),
            k: self.rows(k, self.keys, empty, object, head),
            v: self.rows(v, self.keys, empty, object, head),
            terms,
        }
    }

    /// `[n, C]` of `[O, n, A * C]`, and empty rows behind.
    fn rows(&self, values: &[f32], n: usize, n_empty: usize, object: usize, head: usize) -> Vec<f32> {
        let (width, c) = (self.heads * self.channels, self.channels);
        let mut rows = Vec::with_capacity((n + n_empty) * c);
        for row in values[object * n * width..][..n * width].chunks_exact(width) {
            rows.extend_from_slice(&row[head * c..][..c]);
        }
        rows.resize((n + n_empty) * c, 0.0);
        rows
    }

    /// `[O, n, A * C]` from `[n, C]` of each object and head.
    fn join<'a>(&self, n: usize, of_head: impl Fn(usize) -> &'a Vec<f32> + Sync) -> Vec<f32> {
        let (width, c) = (self.heads * self.channels, self.channels);
        let mut joined = vec![0f32; self.objects * n * width];
        if n > 0 {
            joined.par_chunks_mut(n * width).enumerate().for_each(|(object, rows)| {
                for head in 0..self.heads {
                    let values = of_head(object * self.heads + head);
                    for (row, values) in rows.chunks_exact_mut(width).zip(values.chunks_exact(c)) {
                        row[head * c..][..c].copy_from_slice(values);
                    }
                }
            });
        }
        joined
    }
}
