//! SAM's ViT (`segment_anything/modeling/image_encoder.py`): windowed blocks, a few global ones, a neck.
//!
//! Tokens stay channels-last from the patch embedding to the neck. Relative positions are looked up at export: a table of
//! `2 S - 1` rows becomes one of `S` queries by `S` keys, so the graph has no look-up.
//!
//! Shapes: `G` size of the grid, `D` embedding dimension, `S` size of an attended grid, `R` attended grids times heads,
//! `L = S S` tokens of one, `C` channels of a head.

use sam_model::VitConfig;
use sam_model::weights::resize_relative;

use super::EPS;
use super::neck::neck;
use super::windows::Windows;
use crate::graph::{Arrangement, Graph, Value};
use crate::layers::Convolution;
use crate::storage::Role;

/// Patches to tokens, blocks, neck.
///
/// # Shapes
/// - `image`: `[1, 3, S, S]`, normalised
/// - returns `[1, out_chans, G, G]`
pub(super) fn vit(graph: &mut Graph<'_>, config: &VitConfig, image: &Value) -> Value {
    let patch = config.patch_size;
    let patches = Convolution { kernel: patch, stride: patch, padding: 0, groups: 1 };
    let tokens = graph.convolution(image, "patch_embed.proj", patches);
    let tokens = graph.transpose(&tokens, &[0, 2, 3, 1]); // [1, G, G, D]
    let shape = graph.shape("pos_embed");
    let as_it_is = Arrangement { shape, channels: 0, arrange: Box::new(|values| values) };
    let positions = graph.weight("pos_embed", Role::Table, as_it_is);
    let mut x = graph.add(&tokens, &positions);
    for block in 0..config.depth {
        let window = if config.global_attn_indexes.contains(&block) { None } else { Some(config.window_size) };
        x = graph.within(format!("blocks.{block}"), |graph| transformer_block(graph, config, window, &x));
    }
    graph.within("neck", |graph| neck(graph, &x))
}

/// Bytes of the largest attention of a graph while it runs.
pub(super) fn attention_bytes(config: &VitConfig) -> u64 {
    let grid = config.grid_size();
    let of_windows = |side: usize| {
        let windows = Windows::new(grid, side, config.embed_dim);
        windows.attention_bytes(config.num_heads)
    };
    let is_global = |block: &usize| config.global_attn_indexes.contains(block);
    let sides = (0..config.depth).map(|block| if is_global(&block) { grid } else { config.window_size });
    sides.map(of_windows).max().unwrap_or(0)
}

/// A pre-norm block; without a window over the whole grid.
///
/// # Shapes
/// - `x`: `[1, G, G, D]`
/// - returns the same
fn transformer_block(graph: &mut Graph<'_>, config: &VitConfig, window: Option<usize>, x: &Value) -> Value {
    let normal = graph.norm(x, "norm1", EPS);
    let attended = graph.within("attn", |graph| attention(graph, config, window, &normal));
    let x = graph.add(x, &attended);
    let normal = graph.norm(&x, "norm2", EPS);
    let expanded = graph.within("mlp", |graph| {
        let hidden = graph.linear(&normal, "lin1");
        let active = graph.gelu(&hidden);
        graph.linear(&active, "lin2")
    });
    graph.add(&x, &expanded)
}

/// # Shapes
/// - `x`: `[1, G, G, D]`
/// - returns the same
fn attention(graph: &mut Graph<'_>, config: &VitConfig, window: Option<usize>, x: &Value) -> Value {
    let grid = config.grid_size();
    let windows = Windows::new(grid, window.unwrap_or(grid), config.embed_dim);
    let tokens = windows.partition(graph, x); // [windows, L, D]
    let attended = self_attention(graph, config, &windows, &tokens);
    let projected = graph.linear(&attended, "proj");
    windows.join(graph, &projected)
}

/// Multi-head self-attention with decomposed relative positions.
///
/// # Shapes
/// - `tokens`: `[windows, L, D]`
/// - returns the same
fn self_attention(graph: &mut Graph<'_>, config: &VitConfig, windows: &Windows, tokens: &Value) -> Value {
    let (heads, side) = (config.num_heads, windows.side);
    let (count, length, channels) = (windows.count(), side * side, config.embed_dim / heads);
    let rows = count * heads;
    let qkv = graph.linear(tokens, "qkv");
    let qkv = graph.reshape(&qkv, &[count, length, 3, heads, channels]);
    let qkv = graph.transpose(&qkv, &[2, 0, 3, 1, 4]);
    let qkv = graph.reshape(&qkv, &[3, rows, length, channels]);
    let [q, k, v] = graph.split(&qkv, 0, 1).map(|part| graph.squeeze(&part, 0)); // [R, L, C]

    let scaled = graph.scaled(&q, (channels as f32).powf(-0.5));
    let keys = graph.transpose(&k, &[0, 2, 1]);
    let scores = graph.matmul(&scaled, &keys);
    let scores = graph.reshape(&scores, &[rows, length, side, side]);
    // The reference adds the positions of the unscaled queries.
    let queries = graph.reshape(&q, &[rows, side, side, channels]);
    let table = relative_positions(graph, "rel_pos_h", side);
    let of_rows = graph.matmul(&queries, &table); // [R, S, S, key rows]
    let of_rows = graph.reshape(&of_rows, &[rows, length, side, 1]);
    let by_column = graph.transpose(&queries, &[0, 2, 1, 3]);
    let table = relative_positions(graph, "rel_pos_w", side);
    let of_columns = graph.matmul(&by_column, &table); // [R, S columns, S rows, key columns]
    let of_columns = graph.transpose(&of_columns, &[0, 2, 1, 3]);
    let of_columns = graph.reshape(&of_columns, &[rows, length, 1, side]);
    let scores = graph.add(&scores, &of_rows);
    let scores = graph.add(&scores, &of_columns);
    let scores = graph.reshape(&scores, &[rows, length, length]);

    let weights = graph.softmax(&scores);
    let attended = graph.matmul(&weights, &v);
    let attended = graph.reshape(&attended, &[count, heads, length, channels]);
    let attended = graph.transpose(&attended, &[0, 2, 1, 3]);
    graph.reshape(&attended, &[count, length, config.embed_dim])
}

/// The relative positions of each query and key along one axis.
///
/// # Shapes
/// - returns `[S queries, C, S keys]`
fn relative_positions(graph: &mut Graph<'_>, name: &str, side: usize) -> Value {
    let shape = graph.shape(name);
    let (length, channels) = (shape[0], shape[1]);
    let arrange = move |table: Vec<f32>| {
        let table = resize_relative(&table, length, 2 * side - 1, channels);
        let row = |query: usize, key: usize| query + side - 1 - key;
        let entry = |query: usize, channel: usize, key: usize| table[row(query, key) * channels + channel];
        let mut entries = Vec::with_capacity(side * channels * side);
        for query in 0..side {
            for channel in 0..channels {
                entries.extend((0..side).map(|key| entry(query, channel, key)));
            }
        }
        entries
    };
    let arrangement = Arrangement { shape: vec![side, channels, side], channels: 0, arrange: Box::new(arrange) };
    graph.weight(name, Role::Table, arrangement)
}
