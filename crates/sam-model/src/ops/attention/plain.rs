//! Attention in burn's own operations: computed by devices without kernels of ours, and the reference of the kernels' tests.
//!
//! Relative positions are part of the product of queries and keys: a query is extended by its row and column terms, a key by
//! the one-hot codes of its row and its column. The sum is the same, and no N x N map is added to another. The score map is
//! computed in blocks of query rows (`rows.rs`), forward and backward, so it never exists as a whole.
//!
//! Shapes: `B` batch (images, windows or objects), `A` heads, `N` queries, `M` keys, `C` channels per head.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Device, FloatDType, Int, Tensor, TensorData};

use super::rows::attention_by_rows;
use super::{GridAttentionInputs, PositionTables};
use crate::ops::linear_resize_weights;
use crate::ops::products::{bf16_products, matmul};

/// Largest number of scores that exist at once (64 MiB of f32).
pub(super) const SCORES_PER_BLOCK: usize = 16 * 1024 * 1024;

/// `softmax(q k^T) v`, with scaled queries.
///
/// `absent_keys` marks keys that are masked out (`true`); each query needs at least one that is not.
///
/// # Shapes
/// - `q`: `[B, A, N, C]`, `k`: `[B, A, M, C]`, `v`: `[B, A, M, C']`, `absent_keys`: `[B, 1, 1, M]`
/// - returns `[B, A, N, C']`
pub(super) fn plain_attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    absent_keys: Option<Tensor<4, Bool>>,
) -> Tensor<4> {
    let Some(absent) = absent_keys else { return attention_by_rows(q, k, v) };
    // Only of prompts, which have few tokens.
    let ([batch, heads, queries, _], [_, _, keys, _]) = (q.dims(), k.dims());
    let scores = matmul(q, k.swap_dims(2, 3)); // [B, A, N, M]
    let scores = scores.mask_fill(absent.expand([batch, heads, queries, keys]), f32::NEG_INFINITY);
    matmul(softmax(scores, 3), v)
}

/// `softmax(q k^T + terms) v`, with scaled queries and all scores at once: for windows, which are small.
///
/// # Shapes
/// - `q`, `k`, `v`: `[B, A, N, C]`, `terms`: `[1, A, N, N]`
/// - returns `[B, A, N, C]`
pub(super) fn plain_attention_with_terms([q, k, v]: [Tensor<4>; 3], terms: Tensor<4>) -> Tensor<4> {
    matmul(softmax(matmul(q, k.swap_dims(2, 3)) + terms, 3), v)
}

/// [`crate::ops::attention::self_attention`] with tables of fitting lengths, in burn's operations.
///
/// # Shapes
/// - returns `[B, H, W, A * C]`
pub(super) fn plain_grid_attention(inputs: GridAttentionInputs) -> Tensor<4> {
    let GridAttentionInputs { qkv, bias, tables, heads, window } = inputs;
    let [_, height, width, _] = qkv.dims();
    if window == 0 {
        return whole_grid(qkv, tables, heads);
    }
    let windows = window_partition(qkv, &bias, window);
    window_unpartition(whole_grid(windows, tables, heads), window, [height, width])
}

fn whole_grid(qkv: Tensor<4>, tables: Option<PositionTables>, heads: usize) -> Tensor<4> {
    let [batch, height, width, values] = qkv.dims();
    let (tokens, channels) = (height * width, values / (3 * heads));
    let qkv = qkv.reshape([batch, tokens, 3, heads, channels]).permute([2, 0, 3, 1, 4]); // [3, B, A, N, C]
    let part = |index: usize| qkv.clone().narrow(0, index, 1).squeeze_dim::<4>(0);
    let (q, k, v) = (part(0), part(1), part(2));
    let attended = match tables {
        Some(tables) => with_relative_positions([q, k, v], tables, [height, width]),
        None => plain_attention(q * (channels as f64).powf(-0.5), k, v, None),
    };
    attended.swap_dims(1, 2).reshape([batch, height, width, heads * channels])
}

/// Self-attention over an `height x width` grid with decomposed relative positions.
///
/// As in the reference the scale applies to q·k only; the relative terms take the unscaled queries.
///
/// # Shapes
/// - `q`, `k`, `v`: `[B, A, height * width, C]`, `q` not scaled
/// - returns `[B, A, height * width, C]`
fn with_relative_positions(
    [q, k, v]: [Tensor<4>; 3],
    tables: PositionTables,
    [height, width]: [usize; 2],
) -> Tensor<4> {
    let [batch, heads, tokens, channels] = q.dims();
    assert_eq!(tokens, height * width, "{tokens} tokens do not fill a {height}x{width} grid");
    let device = q.device();
    let scale = (channels as f64).powf(-0.5);
    let relative_h = relative_position(tables.rows, height); // [height, height, C]
    let relative_w = relative_position(tables.columns, width); // [width, width, C]

    let grid = q.clone().reshape([batch * heads, height, width, channels]);
    let by_row = grid.clone().swap_dims(0, 1).reshape([height, batch * heads * width, channels]);
    let by_row = by_row.matmul(relative_h.swap_dims(1, 2)); // [height, B A width, key row]
    let by_row = by_row.reshape([height, batch * heads, width, height]).swap_dims(0, 1);
    let by_column = grid.permute([2, 0, 1, 3]).reshape([width, batch * heads * height, channels]);
    let by_column = by_column.matmul(relative_w.swap_dims(1, 2)); // [width, B A height, key column]
    let by_column = by_column.reshape([width, batch * heads, height, width]).permute([1, 2, 0, 3]);

    let by_row = by_row.reshape([batch, heads, tokens, height]);
    let terms = Tensor::cat(vec![by_row, by_column.reshape([batch, heads, tokens, width])], 3);
    let codes = grid_codes([height, width], &device).cast(terms.dtype()).reshape([1, 1, tokens, height + width]);
    let codes = codes.expand([batch, heads, tokens, height + width]);
    let (terms, codes) = if bf16_products() { in_two_parts(terms, codes) } else { (vec![terms], vec![codes]) };
    let q = Tensor::cat([vec![q * scale], terms].concat(), 3);
    let k = Tensor::cat([vec![k], codes].concat(), 3);
    plain_attention(q, k, v, None)
}

/// Terms as what bf16 holds of them and the rest, so a product of bf16 adds them to 16 bits instead of 8: positions are not rounded.
fn in_two_parts(terms: Tensor<4>, codes: Tensor<4>) -> (Vec<Tensor<4>>, Vec<Tensor<4>>) {
    let dtype = terms.dtype();
    let held = terms.clone().cast(FloatDType::BF16).cast(dtype);
    (vec![held.clone(), terms - held], vec![codes.clone(), codes])
}

/// One-hot codes of each grid cell's row and column, `[height * width, height + width]`.
fn grid_codes([height, width]: [usize; 2], device: &Device) -> Tensor<2> {
    let columns = height + width;
    let mut codes = vec![0f32; height * width * columns];
    for (cell, code) in codes.chunks_exact_mut(columns).enumerate() {
        code[cell / width] = 1.0;
        code[height + cell % width] = 1.0;
    }
    Tensor::from_data(TensorData::new(codes, [height * width, columns]), device)
}

/// Relative position embeddings of every pair of positions along one axis (`image_encoder.py::get_rel_pos` for equal
/// query and key sizes).
///
/// # Shapes
/// - `table`: `[L, C]`, resized linearly when `L` is not `2 * size - 1`
/// - returns `[size, size, C]`, query first
pub fn relative_position(table: Tensor<2>, size: usize) -> Tensor<3> {
    let table = resized(table, size);
    let [_, channels] = table.dims();
    let device = table.device();
    let index: Vec<i64> = (0..size * size).map(|pair| (pair / size + size - 1 - pair % size) as i64).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [size * size]), &device);
    table.select(0, index).reshape([size, size, channels])
}

/// The table of one axis for `size` positions, resized linearly where its length does not fit.
///
/// # Shapes
/// - `table`: `[L, C]`
/// - returns `[2 * size - 1, C]`
pub(super) fn resized(table: Tensor<2>, size: usize) -> Tensor<2> {
    let [length, _] = table.dims();
    let new_length = 2 * size - 1;
    if length == new_length {
        return table;
    }
    let weights = TensorData::new(linear_resize_weights(length, new_length), [new_length, length]);
    Tensor::<2>::from_data(weights, &table.device()).cast(table.dtype()).matmul(table)
}

/// Splits a map into square windows, padded with `fill` at the right and bottom to whole windows.
///
/// # Shapes
/// - `x`: `[B, H, W, C]`, `fill`: `[C]`
/// - returns `[B * rows * columns, window, window, C]`
pub(super) fn window_partition(x: Tensor<4>, fill: &Tensor<1>, window: usize) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let (rows, columns) = (height.div_ceil(window), width.div_ceil(window));
    fill_bottom_right(x, fill, [rows * window, columns * window])
        .reshape([batch, rows, window, columns, window, channels])
        .permute([0, 1, 3, 2, 4, 5]) // [B, rows, columns, window, window, C]
        .reshape([batch * rows * columns, window, window, channels])
}

/// The inverse of [`window_partition`]: joins windows and removes the padding.
///
/// # Shapes
/// - `windows`: `[B * rows * columns, window, window, C]`
/// - returns `[B, H, W, C]`
pub(super) fn window_unpartition(windows: Tensor<4>, window: usize, [height, width]: [usize; 2]) -> Tensor<4> {
    let [count, _, _, channels] = windows.dims();
    let (rows, columns) = (height.div_ceil(window), width.div_ceil(window));
    let batch = count / (rows * columns);
    windows
        .reshape([batch, rows, columns, window, window, channels])
        .permute([0, 1, 3, 2, 4, 5]) // [B, rows, window, columns, window, C]
        .reshape([batch, rows * window, columns * window, channels])
        .narrow(1, 0, height)
        .narrow(2, 0, width)
}

fn fill_bottom_right(x: Tensor<4>, fill: &Tensor<1>, [to_height, to_width]: [usize; 2]) -> Tensor<4> {
    let [batch, height, width, channels] = x.dims();
    let filled = |rows: usize, columns: usize| {
        fill.clone().reshape([1, 1, 1, channels]).expand([batch, rows, columns, channels])
    };
    let x = if to_width > width { Tensor::cat(vec![x, filled(height, to_width - width)], 2) } else { x };
    if to_height > height { Tensor::cat(vec![x, filled(to_height - height, to_width)], 1) } else { x }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Tolerance;

    use crate::testing::Random;

    /// The sum as the reference writes it: full score map plus two broadcast terms.
    #[test]
    fn one_hot_codes_add_the_two_relative_terms() {
        let ([height, width], [batch, heads, channels]) = ([3, 5], [2, 3, 4]);
        let tokens = height * width;
        let shape = [batch, heads, tokens, channels];
        let mut random = Random::new(1);
        let [q, k, v] = [(); 3].map(|()| random.normal(shape, 1.0));
        let [table_h, table_w] = [height, width].map(|side| random.normal([2 * side - 1, channels], 1.0));

        let scores = (q.clone() * (channels as f64).powf(-0.5)).matmul(k.clone().swap_dims(2, 3));
        let mut scores = scores.into_data().try_to_vec::<f32>().expect("f32");
        let host = |t: Tensor<4>| t.into_data().try_to_vec::<f32>().expect("f32");
        let host2 = |t: Tensor<2>| t.into_data().try_to_vec::<f32>().expect("f32");
        let (q_host, h_host, w_host) = (host(q.clone()), host2(table_h.clone()), host2(table_w.clone()));
        for (index, score) in scores.iter_mut().enumerate() {
            let (query_row, key) = (index / tokens, index % tokens);
            let query = query_row % tokens;
            let delta_h = query / width + height - 1 - key / width;
            let delta_w = query % width + width - 1 - key % width;
            for channel in 0..channels {
                let q = q_host[query_row * channels + channel];
                *score += q * (h_host[delta_h * channels + channel] + w_host[delta_w * channels + channel]);
            }
        }
        let scores = TensorData::new(scores, [batch, heads, tokens, tokens]);
        let expected = softmax(Tensor::<4>::from_data(scores, &Device::flex()), 3).matmul(v.clone());
        let got =
            with_relative_positions([q, k, v], PositionTables { rows: table_h, columns: table_w }, [height, width]);
        got.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-5));
    }

    #[test]
    fn a_masked_key_changes_nothing() {
        let mut random = Random::new(2);
        let [q, k, v] = [3, 5, 5].map(|tokens| random.normal([2, 2, tokens, 4], 1.0));
        let expected = plain_attention(q.clone(), k.clone(), v.clone(), None);
        let mut more = |x: Tensor<4>| Tensor::cat(vec![x, random.normal([2, 2, 1, 4], 50.0)], 2);
        let absent = Tensor::<4>::from_data([[[[0., 0., 0., 0., 0., 1.]]]], &Device::flex()).greater_elem(0.5);
        let got = plain_attention(q, more(k), more(v), Some(absent.expand([2, 1, 1, 6])));
        got.into_data().assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(1e-6));
    }

    #[test]
    fn tables_are_indexed_by_query_minus_key() {
        let table = Tensor::<2>::from_data([[-2.], [-1.], [0.], [1.], [2.]], &Device::flex());
        let relative = relative_position(table, 3).reshape([3, 3]);
        relative.into_data().assert_eq(&TensorData::from([[0f32, -1., -2.], [1., 0., -1.], [2., 1., 0.]]), false);
    }

    #[test]
    fn unwindow_of_window_is_the_same_map() {
        let device = Device::flex();
        for ([height, width], window) in [([8, 8], 3), ([6, 6], 3), ([1, 1], 4), ([5, 7], 2)] {
            let x = Random::new(3).uniform([2, height, width, 3]);
            let windows = window_partition(x.clone(), &Tensor::zeros([3], &device), window);
            assert_eq!(windows.dims()[1..3], [window, window]);
            let back = window_unpartition(windows, window, [height, width]);
            back.into_data().assert_eq(&x.into_data(), true);
        }
    }

    #[test]
    fn windows_are_padded() {
        let device = Device::flex();
        let x = Tensor::<4>::zeros([1, 3, 3, 1], &device);
        let windows = window_partition(x, &Tensor::ones([1], &device), 2);
        assert_eq!(windows.dims(), [4, 2, 2, 1]);
        assert_eq!(windows.sum().into_scalar::<f32>(), 7.0);
    }
}
