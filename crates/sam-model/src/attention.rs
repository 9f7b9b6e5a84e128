//! Scaled dot-product attention in the two forms that SAM has: over a grid of tokens or its windows, with decomposed relative
//! positions (MViTv2, arXiv 2112.01526, eq. 4; `image_encoder.py::add_decomposed_rel_pos`), and between two lists.
//!
//! On the processor both are operations of `sam-kernel`, which never hold all scores and compute no padding; elsewhere they are
//! products and a softmax ([`crate::plain_attention`]).
//!
//! Shapes: `B` images or objects, `H W` grid, `A` heads, `N` queries, `M` keys, `C` channels per head.

use std::sync::Arc;

use burn::tensor::{Bool, Device, Tensor, TensorData};
use sam_kernel::attention::{CrossAttention, CrossInputs, SelfAttention, Tables};

use crate::fused::{SliceOperation, SliceOutput, WayBack, fused, is_fusible};
use crate::plain_attention::{plain_attention, plain_self_attention, resized};
use crate::shared_rows::{ListOf, Rows};

/// Attention of the tokens of a grid to each other, or to those of their window.
///
/// As in the reference the scale applies to q·k only, and the relative terms take the unscaled queries; windows reach beyond
/// the grid, and what lies there has the projection's bias as key and value.
///
/// # Shapes
/// - `qkv`: `[B, H, W, 3 * A * C]`, queries first, not scaled; `bias`: `[3 * A * C]`, that of the projection to `qkv`
/// - `tables`: `[2 * rows - 1, C]` and `[2 * columns - 1, C]` for the attended grid, or of other lengths, then resized
/// - `window`: side of a window, 0 for the whole grid
/// - returns `[B, H, W, A * C]`
pub fn self_attention(
    qkv: Tensor<4>,
    bias: Tensor<1>,
    tables: Option<[Tensor<2>; 2]>,
    heads: usize,
    window: usize,
) -> Tensor<4> {
    let [images, height, width, values] = qkv.dims();
    let attended = if window == 0 { [height, width] } else { [window; 2] };
    let tables = tables.map(|[rows, columns]| [resized(rows, attended[0]), resized(columns, attended[1])]);
    if is_fusible(&qkv) {
        let channels = values / (3 * heads);
        let sizes = SelfAttention { images, grid: [height, width], heads, channels, window };
        let mut inputs = vec![qkv.into_dispatch(), bias.into_dispatch()];
        inputs.extend(tables.into_iter().flatten().map(Tensor::into_dispatch));
        return fused(sizes, inputs);
    }
    plain_self_attention(qkv, bias, tables, heads, window)
}

/// Attention of one list of tokens to another; objects may share either.
///
/// `absent_keys` marks keys that take no part (`true` = left out); each query needs at least one key that does.
///
/// # Shapes
/// - `q`: lists of `[N, A * C]`, not scaled; `k`, `v`: lists of `[M, A * C]`, shared alike; `absent_keys`: `[O, M]`
/// - returns `[O, N, A * C]`
pub fn cross_attention(q: Rows, k: Rows, v: Rows, absent_keys: Option<AbsentKeys>, heads: usize) -> Tensor<3> {
    let objects = q.objects();
    let [_, queries, width] = q.values.dims();
    let [_, keys, _] = k.values.dims();
    let channels = width / heads;
    if is_fusible(&q.values) {
        let operation = Between {
            sizes: CrossAttention { objects, queries, keys, heads, channels },
            q_of: q.of,
            keys_of: k.of,
            absent: absent_keys.map(|absent| absent.on_host),
        };
        return fused(operation, [q.values, k.values, v.values].map(Tensor::into_dispatch).to_vec());
    }
    let split = |x: Rows, n: usize| x.copied().reshape([objects, n, heads, channels]).swap_dims(1, 2); // [O, A, n, C]
    let absent = absent_keys.map(|absent| absent.on_device.reshape([objects, 1, 1, keys]));
    let q = split(q, queries) * (channels as f64).powf(-0.5);
    plain_attention(q, split(k, keys), split(v, keys), absent).swap_dims(1, 2).reshape([objects, queries, width])
}

/// Keys that take no part, `true`, where attention needs to know: `[B, M]`.
#[derive(Clone, Debug)]
pub struct AbsentKeys {
    on_host: Arc<Vec<bool>>,
    on_device: Tensor<2, Bool>,
}

impl AbsentKeys {
    /// From the host, row by row.
    pub fn new(absent: Vec<bool>, [objects, keys]: [usize; 2], device: &Device) -> Self {
        let on_device = Tensor::from_data(TensorData::new(absent.clone(), [objects, keys]), device);
        Self { on_host: Arc::new(absent), on_device }
    }
}

impl SliceOperation for SelfAttention {
    fn forward(&self, inputs: &[&[f32]]) -> SliceOutput {
        let (values, kept) = SelfAttention::forward(self, inputs[0], inputs[1], tables_of(inputs));
        let [height, width] = self.grid;
        SliceOutput { values, shape: vec![self.images, height, width, self.heads * self.channels], kept }
    }

    fn backward(&self, way: WayBack<'_>) -> Vec<Vec<f32>> {
        let WayBack { inputs, output, kept, d_output, .. } = way;
        let grads = SelfAttention::backward(self, inputs[0], inputs[1], tables_of(inputs), [output, kept, d_output]);
        let mut all = vec![grads.qkv, grads.bias];
        all.extend(grads.tables.into_iter().flatten());
        all
    }
}

fn tables_of<'a>(inputs: &[&'a [f32]]) -> Option<Tables<'a>> {
    match inputs {
        [_, _, rows, columns] => Some(Tables { rows, columns }),
        _ => None,
    }
}

/// A [`CrossAttention`] with what objects share and the keys it leaves out.
#[derive(Debug)]
struct Between {
    sizes: CrossAttention,
    q_of: Option<ListOf>,
    keys_of: Option<ListOf>,
    absent: Option<Arc<Vec<bool>>>,
}

impl Between {
    fn inputs<'a>(&'a self, inputs: &[&'a [f32]]) -> CrossInputs<'a> {
        CrossInputs {
            q: inputs[0],
            k: inputs[1],
            v: inputs[2],
            q_of: self.q_of.as_ref().map(|of| of.as_slice()),
            keys_of: self.keys_of.as_ref().map(|of| of.as_slice()),
            absent: self.absent.as_ref().map(|absent| absent.as_slice()),
        }
    }
}

impl SliceOperation for Between {
    fn forward(&self, inputs: &[&[f32]]) -> SliceOutput {
        let (values, kept) = self.sizes.forward(self.inputs(inputs));
        let CrossAttention { objects, queries, heads, channels, .. } = self.sizes;
        SliceOutput { values, shape: vec![objects, queries, heads * channels], kept }
    }

    fn backward(&self, way: WayBack<'_>) -> Vec<Vec<f32>> {
        let grads = self.sizes.backward(self.inputs(way.inputs), [way.output, way.kept, way.d_output]);
        vec![grads.q, grads.k, grads.v]
    }
}
