//! Maps as windows whose cells attend to each other, and back.
//!
//! Shapes: `G` size of the grid, `D` channels, `L` tokens of a window.

use crate::graph::{Graph, Value};

/// How a grid is cut into attended windows; a whole grid is one of them.
pub(super) struct Windows {
    grid: usize,
    /// Size of a window.
    pub(super) side: usize,
    per_side: usize,
    dim: usize,
}

impl Windows {
    pub(super) fn new(grid: usize, side: usize, dim: usize) -> Self {
        Self { grid, side, per_side: grid.div_ceil(side), dim }
    }

    pub(super) fn count(&self) -> usize {
        self.per_side * self.per_side
    }

    /// Bytes that attention takes while it runs: scores, scores with positions and their softmax, of every pair of tokens, as
    /// runtimes hold them.
    pub(super) fn attention_bytes(&self, heads: usize) -> u64 {
        let [count, length] = [self.count(), self.side * self.side].map(|size| size as u64);
        count * heads as u64 * length * length * 3 * size_of::<f32>() as u64
    }

    fn padding(&self) -> usize {
        self.per_side * self.side - self.grid
    }

    /// Padding at the right and bottom is zero, and takes part in attention.
    ///
    /// # Shapes
    /// - `x`: `[1, G, G, D]`
    /// - returns `[windows, L, D]`
    pub(super) fn partition(&self, graph: &mut Graph<'_>, x: &Value) -> Value {
        let Self { side, per_side, dim, .. } = *self;
        let mut x = x.clone();
        if self.padding() > 0 {
            let padding = self.padding() as i64;
            let pads = graph.ints(&[0, 0, 0, 0, 0, padding, padding, 0]);
            x = graph.node("Pad", &[&x, &pads], &[]);
        }
        if per_side > 1 {
            x = graph.reshape(&x, &[per_side, side, per_side, side, dim]);
            x = graph.transpose(&x, &[0, 2, 1, 3, 4]);
        }
        graph.reshape(&x, &[self.count(), side * side, dim])
    }

    /// # Shapes
    /// - `x`: `[windows, L, D]`
    /// - returns `[1, G, G, D]`
    pub(super) fn join(&self, graph: &mut Graph<'_>, x: &Value) -> Value {
        let Self { grid, side, per_side, dim } = *self;
        let mut x = x.clone();
        if per_side > 1 {
            x = graph.reshape(&x, &[per_side, per_side, side, side, dim]);
            x = graph.transpose(&x, &[0, 2, 1, 3, 4]);
        }
        x = graph.reshape(&x, &[1, per_side * side, per_side * side, dim]);
        if self.padding() > 0 {
            let [start, end] = [[0, 0], [grid as i64; 2]].map(|corner| graph.ints(&corner));
            x = graph.slice_between(&x, &[1, 2], &start, &end);
        }
        x
    }
}
