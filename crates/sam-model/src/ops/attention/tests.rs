//! The kernels against the plain forms.

use std::sync::Arc;

use burn::tensor::{DType, Device, Distribution, Tensor, Tolerance};

use super::plain::plain_grid_attention;
use super::window::plain_window_attention;
use super::*;
use crate::ops::shared_rows::Rows;

/// Sums of thousands of terms differ in their order.
const FORWARD: f32 = 1e-5;
const BACKWARD: f32 = 1e-4;

fn random<const D: usize>(shape: [usize; D], size: f64) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, size), &Device::flex())
}

fn tracked<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    Tensor::from_inner(tensor.clone()).require_grad()
}

fn equal<const D: usize>(got: Tensor<D>, expected: Tensor<D>, tolerance: f32) {
    // Pure rounding noise is not compared relative to itself.
    let largest = expected.clone().abs().max().into_scalar::<f32>().max(1e-2);
    let (got, expected) = (got.div_scalar(largest), expected.div_scalar(largest));
    got.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(tolerance));
}

#[test]
fn fused_window_attention_equals_the_plain_form() {
    for ([height, width], heads, channels, window) in
        [([7, 9], 3, 4, 4), ([8, 8], 2, 8, 4), ([3, 3], 1, 4, 7), ([1, 1], 1, 2, 1), ([30, 17], 2, 8, 14)]
    {
        let values = 3 * heads * channels;
        let plain = [random([2, height, width, values], 1.0)];
        let (padding, biases) = (random([values], 1.0), random([heads, window * window], 1.0));
        let weights = random([2, height, width, heads * channels], 1.0);
        let run = |attend: fn(WindowAttentionInputs) -> Tensor<4>| {
            let (qkv, padding, biases) = (tracked(&plain[0]), tracked(&padding), tracked(&biases));
            let inputs =
                WindowAttentionInputs { qkv: qkv.clone(), padding: padding.clone(), biases: biases.clone(), window };
            let out = attend(inputs);
            let grads = (out.clone() * Tensor::from_inner(weights.clone())).sum().backward();
            let grad = qkv.grad(&grads).expect("tracked");
            // Where no window is padded, nothing comes back.
            let of_padding = padding.grad(&grads).unwrap_or_else(|| Tensor::zeros([values], &Device::flex()));
            (out.inner(), grad, of_padding, biases.grad(&grads).expect("tracked"))
        };
        let (out, d_qkv, d_padding, d_biases) = run(window_attention);
        let (out_2, d_qkv_2, d_padding_2, d_biases_2) = run(plain_window_attention);
        equal(out, out_2, FORWARD);
        equal(d_qkv, d_qkv_2, BACKWARD);
        equal(d_padding, d_padding_2, BACKWARD);
        equal(d_biases, d_biases_2, BACKWARD);
    }
}

#[test]
fn fused_grid_attention_equals_the_plain_form() {
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
        let tables = attended.map(|size| random([2 * size - 1, channels], 0.5));
        let weights = Tensor::from_inner(random([2, height, width, heads * channels], 1.0));
        let results = [true, false].map(|is_fused| {
            let (qkv, bias, tables) = (tracked(&qkv), tracked(&bias), tables.each_ref().map(tracked));
            let [rows, columns] = tables.clone();
            let given = has_tables.then_some(PositionTables { rows, columns });
            let attend = if is_fused { grid_attention } else { plain_grid_attention };
            let inputs = GridAttentionInputs { qkv: qkv.clone(), bias: bias.clone(), tables: given, heads, window };
            let out = attend(inputs);
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
fn fused_cross_attention_equals_the_plain_form() {
    let device = Device::flex();
    let (heads, width) = (2, 8);
    for (index, queries, keys, has_absent) in
        [(None, 5, 7, true), (Some(vec![1, 0, 1]), 3, 33, false), (None, 1, 1, false)]
    {
        let image_index = index.map(Arc::new);
        let sequences = if image_index.is_some() { 2 } else { 3 };
        let (q, k, v) = (
            random([3, queries, width], 1.0),
            random([sequences, keys, width], 1.0),
            random([sequences, keys, width], 1.0),
        );
        let absent: Vec<bool> = (0..3 * keys).map(|at| at % keys % 3 == 2).collect();
        let weights = random([3, queries, width], 1.0);
        let attend = |q: Tensor<3>, k: Tensor<3>, v: Tensor<3>| {
            let absent = has_absent.then(|| AbsentKeys::new(absent.clone(), [3, keys], &device));
            let rows = |values| Rows { values, image_index: image_index.clone() };
            let (q, k, v) = (Rows::own(q), rows(k), rows(v));
            cross_attention(CrossAttentionInputs { q, k, v, absent_keys: absent, heads })
        };
        // The kernels are for f32 only, so f64 takes the plain form.
        let wide = |x: &Tensor<3>| tracked(&x.clone().cast(DType::F64));
        let (q_64, k_64, v_64) = (wide(&q), wide(&k), wide(&v));
        let (q, k, v) = (tracked(&q), tracked(&k), tracked(&v));
        let (out, plain) = (attend(q.clone(), k.clone(), v.clone()), attend(q_64.clone(), k_64.clone(), v_64.clone()));
        let narrow = |x: Tensor<3>| x.cast(DType::F32);
        equal(out.clone().inner(), narrow(plain.clone().inner()), FORWARD);
        let weights = Tensor::from_inner(weights);
        let grads = (out * weights.clone()).sum().backward();
        let plain_grads = (plain * weights.cast(DType::F64)).sum().backward();
        for (got, expected) in [(q, q_64), (k, k_64), (v, v_64)] {
            let expected = narrow(expected.grad(&plain_grads).expect("tracked"));
            equal(got.grad(&grads).expect("tracked"), expected, BACKWARD);
        }
    }
}
