//! The kernels against the plain forms.

use std::sync::Arc;

use burn::tensor::{DType, Device, Tensor, Tolerance};

use super::plain::plain_grid_attention;
use super::window::plain_window_attention;
use super::*;
use crate::ops::shared_rows::Rows;
use crate::testing::Random;

/// Rounding of f32, relative to the largest value, where scores have a standard deviation of about one.
const FORWARD: f32 = 1e-5;
const BACKWARD: f32 = 2e-4;

/// A leaf, in f64 where the plain form is to compute what the kernel rounds.
fn tracked<const D: usize>(tensor: &Tensor<D>, dtype: DType) -> Tensor<D> {
    Tensor::from_inner(tensor.clone().cast(dtype)).require_grad()
}

fn equal<const D: usize>(got: Tensor<D>, expected: Tensor<D>, tolerance: f32) {
    let expected = expected.cast(DType::F32);
    // Pure rounding noise is not compared relative to itself.
    let largest = expected.clone().abs().max().into_scalar::<f32>().max(1e-2);
    let (got, expected) = (got.div_scalar(largest), expected.div_scalar(largest));
    got.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(tolerance));
}

#[test]
fn fused_window_attention_equals_the_plain_form() {
    let mut random = Random::new(1);
    for ([height, width], heads, channels, window) in
        [([7, 9], 3, 4, 4), ([8, 8], 2, 8, 4), ([3, 3], 1, 4, 7), ([1, 1], 1, 2, 1), ([30, 17], 2, 8, 14)]
    {
        let values = 3 * heads * channels;
        let qkv = random.normal([2, height, width, values], 1.0);
        let (padding, biases) = (random.normal([values], 1.0), random.normal([heads, window * window], 1.0));
        let weights = random.normal([2, height, width, heads * channels], 1.0);
        let run = |attend: fn(WindowAttentionInputs) -> Tensor<4>, dtype: DType| {
            let (qkv, padding, biases) = (tracked(&qkv, dtype), tracked(&padding, dtype), tracked(&biases, dtype));
            let inputs =
                WindowAttentionInputs { qkv: qkv.clone(), padding: padding.clone(), biases: biases.clone(), window };
            let out = attend(inputs);
            let grads = (out.clone() * Tensor::from_inner(weights.clone().cast(dtype))).sum().backward();
            let grad = qkv.grad(&grads).expect("tracked");
            // Where no window is padded, nothing comes back.
            let of_padding = padding.grad(&grads).unwrap_or_else(|| Tensor::zeros([values], &Device::flex()));
            (out.inner(), grad, of_padding, biases.grad(&grads).expect("tracked"))
        };
        let (out, d_qkv, d_padding, d_biases) = run(window_attention, DType::F32);
        let (out_2, d_qkv_2, d_padding_2, d_biases_2) = run(plain_window_attention, DType::F64);
        equal(out, out_2, FORWARD);
        equal(d_qkv, d_qkv_2, BACKWARD);
        equal(d_padding, d_padding_2, BACKWARD);
        equal(d_biases, d_biases_2, BACKWARD);
    }
}

#[test]
fn fused_grid_attention_equals_the_plain_form() {
    let mut random = Random::new(2);
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
        let (qkv, bias) = (random.normal([2, height, width, values], size), random.normal([values], 1.0));
        let tables = attended.map(|size| random.normal([2 * size - 1, channels], 0.5));
        let weights = random.normal([2, height, width, heads * channels], 1.0);
        let results = [(true, DType::F32), (false, DType::F64)].map(|(is_fused, dtype)| {
            let (qkv, bias) = (tracked(&qkv, dtype), tracked(&bias, dtype));
            let tables = tables.each_ref().map(|table| tracked(table, dtype));
            let [rows, columns] = tables.clone();
            let given = has_tables.then_some(PositionTables { rows, columns });
            let attend = if is_fused { grid_attention } else { plain_grid_attention };
            let inputs = GridAttentionInputs { qkv: qkv.clone(), bias: bias.clone(), tables: given, heads, window };
            let out = attend(inputs);
            let grads = (out.clone() * Tensor::from_inner(weights.clone().cast(dtype))).sum().backward();
            let d_tables = tables.map(|table| table.grad(&grads));
            (out.inner(), qkv.grad(&grads).expect("tracked"), bias.grad(&grads), d_tables)
        });
        let [(out, d_qkv, d_bias, d_tables), (plain, plain_qkv, plain_bias, plain_tables)] = results;
        // The rounding of a score is relative to it, and becomes one of its exponential.
        let scale = size * size;
        equal(out, plain, scale * FORWARD);
        equal(d_qkv, plain_qkv, scale * BACKWARD);
        let d_bias = d_bias.expect("it is an input");
        let plain_bias = plain_bias.unwrap_or_else(|| d_bias.zeros_like());
        equal(d_bias, plain_bias, scale * BACKWARD);
        for (got, expected) in d_tables.into_iter().zip(plain_tables) {
            assert_eq!(got.is_some(), has_tables);
            if let (Some(got), Some(expected)) = (got, expected) {
                equal(got, expected, scale * BACKWARD);
            }
        }
    }
}

#[test]
fn fused_cross_attention_equals_the_plain_form() {
    let mut random = Random::new(3);
    let device = Device::flex();
    let (heads, width) = (2, 8);
    for (index, queries, keys, has_absent) in
        [(None, 5, 7, true), (Some(vec![1, 0, 1]), 3, 33, false), (None, 1, 1, false)]
    {
        let image_index = index.map(Arc::new);
        let sequences = if image_index.is_some() { 2 } else { 3 };
        let (q, k, v) = (
            random.normal([3, queries, width], 1.0),
            random.normal([sequences, keys, width], 1.0),
            random.normal([sequences, keys, width], 1.0),
        );
        let absent: Vec<bool> = (0..3 * keys).map(|at| at % keys % 3 == 2).collect();
        let weights = random.normal([3, queries, width], 1.0);
        let attend = |q: Tensor<3>, k: Tensor<3>, v: Tensor<3>| {
            let absent = has_absent.then(|| AbsentKeys::new(absent.clone(), [3, keys], &device));
            let rows = |values| Rows { values, image_index: image_index.clone() };
            let (q, k, v) = (Rows::own(q), rows(k), rows(v));
            cross_attention(CrossAttentionInputs { q, k, v, absent_keys: absent, heads })
        };
        // The kernels are for f32 only, so f64 takes the plain form.
        let leaves = |dtype| [&q, &k, &v].map(|x| tracked(x, dtype));
        let ([q, k, v], [q_64, k_64, v_64]) = (leaves(DType::F32), leaves(DType::F64));
        let (out, plain) = (attend(q.clone(), k.clone(), v.clone()), attend(q_64.clone(), k_64.clone(), v_64.clone()));
        equal(out.clone().inner(), plain.clone().inner(), FORWARD);
        let weights = Tensor::from_inner(weights);
        let grads = (out * weights.clone()).sum().backward();
        let plain_grads = (plain * weights.cast(DType::F64)).sum().backward();
        for (got, expected) in [(q, q_64), (k, k_64), (v, v_64)] {
            let expected = expected.grad(&plain_grads).expect("tracked");
            equal(got.grad(&grads).expect("tracked"), expected, BACKWARD);
        }
    }
}
