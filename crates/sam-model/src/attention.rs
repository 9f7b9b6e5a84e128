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
    fn keeps_output(&self) -> bool {
        true
    }

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
    fn keeps_output(&self) -> bool {
        true
    }

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

#[cfg(all(test, feature = "autodiff"))]
mod tests {
    use super::*;
    use burn::tensor::{Distribution, Tolerance};

    /// Forward and gradients; sums of thousands of terms differ in their order.
    const FORWARD: f32 = 1e-5;
    const BACKWARD: f32 = 1e-4;

    fn random<const D: usize>(shape: [usize; D], size: f64) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, size), &Device::flex())
    }

    fn tracked<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
        Tensor::from_inner(tensor.clone()).require_grad()
    }

    fn equal<const D: usize>(got: Tensor<D>, expected: Tensor<D>, tolerance: f32) {
        // What is nothing but rounding has no size of its own.
        let largest = expected.clone().abs().max().into_scalar::<f32>().max(1e-2);
        let (got, expected) = (got.div_scalar(largest), expected.div_scalar(largest));
        got.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(tolerance));
    }

    #[test]
    fn fused_self_attention_is_the_plain_one() {
        for ([height, width], heads, channels, window, has_tables, size) in [
            ([6, 5], 2, 4, 0, true, 1.0),
            ([1, 1], 1, 3, 0, true, 1.0),
            ([7, 9], 3, 4, 4, true, 1.0),
            ([8, 8], 2, 4, 4, false, 1.0),
            ([1, 70], 2, 8, 0, false, 1.0),
            ([20, 30], 1, 16, 0, true, 8.0),
        ] {
            let attended = if window == 0 { [height, width] } else { [window; 2] };
            let values = 3 * heads * channels;
            let (qkv, bias) = (random([2, height, width, values], size), random([values], 1.0));
            let tables = attended.map(|side| random([2 * side - 1, channels], 0.5));
            let weights = Tensor::from_inner(random([2, height, width, heads * channels], 1.0));
            let results = [true, false].map(|is_fused| {
                let (qkv, bias, tables) = (tracked(&qkv), tracked(&bias), tables.each_ref().map(tracked));
                let given = has_tables.then(|| tables.clone());
                let out = match is_fused {
                    true => self_attention(qkv.clone(), bias.clone(), given, heads, window),
                    false => plain_self_attention(qkv.clone(), bias.clone(), given, heads, window),
                };
                let grads = (out.clone() * weights.clone()).sum().backward();
                let d_tables = tables.map(|table| table.grad(&grads));
                (out.inner(), qkv.grad(&grads).expect("tracked"), bias.grad(&grads), d_tables)
            });
            let [(out, d_qkv, d_bias, d_tables), (plain, plain_qkv, plain_bias, plain_tables)] = results;
            equal(out, plain, FORWARD);
            equal(d_qkv, plain_qkv, BACKWARD);
            let d_bias = d_bias.expect("it is an input");
            let plain_bias = plain_bias.unwrap_or_else(|| d_bias.zeros_like());
            equal(d_bias, plain_bias, BACKWARD);
            for (got, expected) in d_tables.into_iter().zip(plain_tables) {
                assert_eq!(got.is_some(), has_tables);
                if let (Some(got), Some(expected)) = (got, expected) {
                    equal(got, expected, BACKWARD);
                }
            }
        }
    }

    #[test]
    fn fused_cross_attention_is_the_plain_one() {
        let device = Device::flex();
        let (heads, width) = (2, 8);
        for (of, queries, keys, has_absent) in
            [(None, 5, 7, true), (Some(vec![1, 0, 1]), 3, 33, false), (None, 1, 1, false)]
        {
            let of = of.map(Arc::new);
            let lists = if of.is_some() { 2 } else { 3 };
            let (q, k, v) = (
                random([3, queries, width], 1.0),
                random([lists, keys, width], 1.0),
                random([lists, keys, width], 1.0),
            );
            let absent: Vec<bool> = (0..3 * keys).map(|at| at % keys % 3 == 2).collect();
            let weights = random([3, queries, width], 1.0);
            let attend = |q: Tensor<3>, k: Tensor<3>, v: Tensor<3>| {
                let absent = has_absent.then(|| AbsentKeys::new(absent.clone(), [3, keys], &device));
                let rows = |values| Rows { values, of: of.clone() };
                cross_attention(Rows::own(q), rows(k), rows(v), absent, heads)
            };
            // Numbers of 64 bits are none that the kernels know.
            let wide = |x: &Tensor<3>| tracked(&x.clone().cast(burn::tensor::DType::F64));
            let (q_64, k_64, v_64) = (wide(&q), wide(&k), wide(&v));
            let (q, k, v) = (tracked(&q), tracked(&k), tracked(&v));
            let (out, plain) =
                (attend(q.clone(), k.clone(), v.clone()), attend(q_64.clone(), k_64.clone(), v_64.clone()));
            let narrow = |x: Tensor<3>| x.cast(burn::tensor::DType::F32);
            equal(out.clone().inner(), narrow(plain.clone().inner()), FORWARD);
            let weights = Tensor::from_inner(weights);
            let grads = (out * weights.clone()).sum().backward();
            let plain_grads = (plain * weights.cast(burn::tensor::DType::F64)).sum().backward();
            for (got, expected) in [(q, q_64), (k, k_64), (v, v_64)] {
                let expected = narrow(expected.grad(&plain_grads).expect("tracked"));
                equal(got.grad(&grads).expect("tracked"), expected, BACKWARD);
            }
        }
    }
}
