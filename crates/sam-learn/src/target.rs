//! Target masks of losses and of simulated clicks.
//!
//! Shapes: `O` objects, `H W` size of the masks.

use std::ops::Range;

use burn::tensor::Tensor;

/// Target masks, and where they are valid.
#[derive(Clone, Debug)]
pub struct Target {
    /// 1 on the object and 0 elsewhere, `[O, 1, H, W]`.
    pub masks: Tensor<4>,
    /// 1 where a pixel is valid and 0 elsewhere, `[O, 1, H, W]`; `None` when all are.
    pub valid: Option<Tensor<4>>,
}

impl Target {
    /// Those of some objects.
    pub(crate) fn objects(&self, objects: Range<usize>) -> Self {
        let rows = |masks: &Tensor<4>| masks.clone().slice_dim(0, objects.clone());
        Self { masks: rows(&self.masks), valid: self.valid.as_ref().map(rows) }
    }
}
