//! The neck of every image encoder: from the last map to the embedding.
//!
//! Shapes: `G` size of the grid, `D` channels of the last map.

use super::EPS;
use crate::graph::{Graph, Value};
use crate::layers::Convolution;

/// # Shapes
/// - `x`: `[1, G, G, D]`
/// - returns `[1, out_chans, G, G]`
pub(super) fn neck(graph: &mut Graph<'_>, x: &Value) -> Value {
    let x = graph.linear(x, "0");
    let x = graph.norm(&x, "1", EPS);
    let x = graph.transpose(&x, &[0, 3, 1, 2]);
    let x = graph.convolution(&x, "2", Convolution { kernel: 3, stride: 1, padding: 1, groups: 1 });
    graph.norm_2d(&x, "3", EPS)
}
