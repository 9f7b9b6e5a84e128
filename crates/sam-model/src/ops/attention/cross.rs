//! Attention of one token sequence to another; objects may share either.
//!
//! Shapes: `O` objects, `A` heads, `N` queries, `M` keys, `C` channels per head.

use std::sync::Arc;

use burn::tensor::{Bool, Device, Tensor, TensorData};
use sam_kernel::attention::{AttentionOutput, CrossAttention, CrossInputs};

use super::plain::plain_attention;
use crate::ops::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};
use crate::ops::shared_rows::{ImageIndex, Rows};

/// Inputs of [`cross_attention`].
#[derive(Clone, Debug)]
pub(crate) struct CrossAttentionInputs {
    /// Sequences `[N, A * C]`, not scaled.
    pub(crate) q: Rows,
    /// Sequences `[M, A * C]`.
    pub(crate) k: Rows,
    /// Sequences `[M, A * C]`, shared as `k` is.
    pub(crate) v: Rows,
    /// Keys that are masked out, `[O, M]`; each object needs one that is not.
    pub(crate) absent_keys: Option<AbsentKeys>,
    /// `A`.
    pub(crate) heads: usize,
}

/// Attention of each object's queries to its keys.
///
/// # Shapes
/// - returns `[O, N, A * C]`
pub(crate) fn cross_attention(inputs: CrossAttentionInputs) -> Tensor<3> {
    let CrossAttentionInputs { q, k, v, absent_keys, heads } = inputs;
    let objects = q.objects();
    let [_, queries, width] = q.values.dims();
    let [_, keys, _] = k.values.dims();
    let channels = width / heads;
    if is_fusible(&q.values) {
        let operation = CrossAttentionOp {
            sizes: CrossAttention { objects, queries, keys, heads, channels },
            q_index: q.image_index,
            kv_index: k.image_index,
            absent: absent_keys.map(|absent| absent.on_host),
        };
        return fused(operation, [q.values, k.values, v.values].map(Tensor::into_dispatch));
    }
    let split = |x: Rows, n: usize| x.expanded().reshape([objects, n, heads, channels]).swap_dims(1, 2); // [O, A, n, C]
    let absent = absent_keys.map(|absent| absent.on_device.reshape([objects, 1, 1, keys]));
    let q = split(q, queries) * (channels as f64).powf(-0.5);
    plain_attention(q, split(k, keys), split(v, keys), absent).swap_dims(1, 2).reshape([objects, queries, width])
}

/// Keys that attention masks out, `true`: `[O, M]`.
#[derive(Clone, Debug)]
pub(crate) struct AbsentKeys {
    on_host: Arc<Vec<bool>>,
    on_device: Tensor<2, Bool>,
}

impl AbsentKeys {
    /// From the host, row-major.
    pub(crate) fn new(absent: Vec<bool>, [objects, keys]: [usize; 2], device: &Device) -> Self {
        let on_device = Tensor::from_data(TensorData::new(absent.clone(), [objects, keys]), device);
        Self { on_host: Arc::new(absent), on_device }
    }
}

/// A [`CrossAttention`] with its shared sequences and its masked keys.
#[derive(Debug)]
struct CrossAttentionOp {
    sizes: CrossAttention,
    q_index: Option<ImageIndex>,
    kv_index: Option<ImageIndex>,
    absent: Option<Arc<Vec<bool>>>,
}

impl CrossAttentionOp {
    fn inputs<'a>(&'a self, [q, k, v]: [&'a [f32]; 3]) -> CrossInputs<'a> {
        CrossInputs {
            q,
            k,
            v,
            q_index: self.q_index.as_ref().map(|index| index.as_slice()),
            kv_index: self.kv_index.as_ref().map(|index| index.as_slice()),
            absent: self.absent.as_ref().map(|absent| absent.as_slice()),
        }
    }
}

impl SliceOperation<3> for CrossAttentionOp {
    fn saves_output(&self) -> bool {
        true
    }

    fn forward(&self, inputs: [&[f32]; 3]) -> SliceOutput {
        let AttentionOutput { out, log_sums } = self.sizes.forward(self.inputs(inputs));
        let CrossAttention { objects, queries, heads, channels, .. } = self.sizes;
        SliceOutput { values: out, shape: vec![objects, queries, heads * channels], saved: log_sums }
    }

    fn backward(&self, pass: BackwardInputs<'_, 3>) -> [Vec<f32>; 3] {
        let grads = self.sizes.backward(self.inputs(pass.inputs), pass.into());
        [grads.q, grads.k, grads.v]
    }
}
