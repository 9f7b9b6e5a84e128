//! MobileSAM's TinyViT (`mobile_sam/modeling/tiny_vit_sam.py`): a stem and bottlenecks of convolutions, attention in windows with
//! convolutions in between, a neck.
//!
//! Batch norms are folded into the convolutions before. Maps are channels-first where they are convolved, channels-last where
//! they attend. Biases by distance are looked up at export: a table of `L` values per head becomes one of `L` queries by `L`
//! keys, so the graph has no look-up.
//!
//! Shapes: `H` side of a map, `D` its channels, `A` heads, `C` channels of a head, `S` side of a window, `L = S S` its tokens.

use sam_model::TinyVitConfig;

use super::neck::neck;
use super::windows::Windows;
use crate::graph::{Arrangement, Graph, Value};
use crate::layers::Convolution;
use crate::storage::Role;

/// Epsilon of the layer norms of attention and MLP (PyTorch's default, which TinyViT takes).
const LAYER_NORM_EPS: f32 = 1e-5;

/// Layers: one of convolutions and three of attention.
const LAYERS: usize = 4;

/// Convolutions, layers, neck.
///
/// # Shapes
/// - `image`: `[1, 3, S, S]`, normalised
/// - returns `[1, out_chans, G, G]`
pub(super) fn tiny_vit(graph: &mut Graph<'_>, config: &TinyVitConfig, image: &Value) -> Value {
    let mut x = graph.within("patch_embed", |graph| {
        let shrinking = Convolution { kernel: 3, stride: 2, padding: 1, groups: 1 };
        let x = graph.folded_convolution(image, "seq.0", shrinking);
        let x = graph.gelu(&x);
        graph.folded_convolution(&x, "seq.2", shrinking)
    });
    let [_, sides @ ..] = sides(config);
    x = graph.within("layers.0", |graph| {
        let x = convolution_blocks(graph, config, &x);
        downsample(graph, config, 0, &x)
    });
    for (layer, side) in (1..LAYERS).zip(sides) {
        x = graph.within(format!("layers.{layer}"), |graph| {
            let last = graph.transpose(&x, &[0, 2, 3, 1]);
            let last = window_blocks(graph, config, &WindowLayer::new(config, layer, side), &last);
            if layer + 1 == LAYERS {
                return last;
            }
            let first = graph.transpose(&last, &[0, 3, 1, 2]);
            downsample(graph, config, layer, &first)
        });
    }
    graph.within("neck", |graph| neck(graph, &x))
}

/// Bytes of the largest part of a graph while it runs: attention, or a hidden map and its activation.
pub(super) fn bytes_to_run(config: &TinyVitConfig) -> u64 {
    let hidden = |side: usize, channels: usize| {
        [side, side, channels, 3 * size_of::<f32>()].map(|size| size as u64).into_iter().product::<u64>()
    };
    let [first, sides @ ..] = sides(config);
    let of_convolutions = hidden(first, config.embed_dims[1].max(config.embed_dims[0] * config.mbconv_ratio));
    let of_layer = |(layer, side): (usize, usize)| {
        let WindowLayer { heads, dim, windows, .. } = WindowLayer::new(config, layer, side);
        windows.attention_bytes(heads).max(hidden(side, dim * config.mlp_ratio))
    };
    (1..LAYERS).zip(sides).map(of_layer).fold(of_convolutions, u64::max)
}

/// The sides of the maps of all layers.
fn sides(config: &TinyVitConfig) -> [usize; LAYERS] {
    [4, 8, 16, 16].map(|pixels| config.image_size / pixels)
}

/// A layer of windowed attention.
struct WindowLayer {
    layer: usize,
    heads: usize,
    dim: usize,
    windows: Windows,
}

impl WindowLayer {
    fn new(config: &TinyVitConfig, layer: usize, side: usize) -> Self {
        let [heads, window] = [config.num_heads[layer - 1], config.window_sizes[layer - 1]];
        let dim = config.embed_dims[layer];
        Self { layer, heads, dim, windows: Windows::new(side, window, dim) }
    }
}

/// Layer 0: bottlenecks with a residual, and an activation after the sum.
///
/// # Shapes
/// - `x`: `[1, D, H, H]`
/// - returns the same
fn convolution_blocks(graph: &mut Graph<'_>, config: &TinyVitConfig, x: &Value) -> Value {
    let hidden = config.embed_dims[0] * config.mbconv_ratio;
    (0..config.depths[0]).fold(x.clone(), |x, block| {
        graph.within(format!("blocks.{block}"), |graph| {
            let branch = bottleneck(graph, &x, hidden, 1);
            let sum = graph.add(&x, &branch);
            graph.gelu(&sum)
        })
    })
}

/// From one layer to the next; the last has the grid of the one before it.
///
/// # Shapes
/// - `x`: `[1, D, H, H]`
/// - returns `[1, D', H / 2, H / 2]` or `[1, D', H, H]`
fn downsample(graph: &mut Graph<'_>, config: &TinyVitConfig, layer: usize, x: &Value) -> Value {
    let stride = if layer + 2 < LAYERS { 2 } else { 1 };
    graph.within("downsample", |graph| bottleneck(graph, x, config.embed_dims[layer + 1], stride))
}

/// A convolution of single pixels to `hidden` channels, one of each channel, and one of single pixels.
///
/// # Shapes
/// - `x`: `[1, D, H, H]`
/// - returns `[1, D', H / stride, H / stride]`
fn bottleneck(graph: &mut Graph<'_>, x: &Value, hidden: usize, stride: usize) -> Value {
    let pointwise = Convolution { kernel: 1, stride: 1, padding: 0, groups: 1 };
    let x = graph.folded_convolution(x, "conv1", pointwise);
    let x = graph.gelu(&x);
    let x = graph.folded_convolution(&x, "conv2", depthwise(hidden, stride));
    let x = graph.gelu(&x);
    graph.folded_convolution(&x, "conv3", pointwise)
}

fn depthwise(channels: usize, stride: usize) -> Convolution {
    Convolution { kernel: 3, stride, padding: 1, groups: channels }
}

/// Layer 1, 2 or 3.
///
/// # Shapes
/// - `x`: `[1, H, H, D]`
/// - returns the same
fn window_blocks(graph: &mut Graph<'_>, config: &TinyVitConfig, layer: &WindowLayer, x: &Value) -> Value {
    (0..config.depths[layer.layer])
        .fold(x.clone(), |x, block| graph.within(format!("blocks.{block}"), |graph| window_block(graph, layer, &x)))
}

/// Attention, a convolution of each channel without residual or activation, MLP.
///
/// # Shapes
/// - `x`: `[1, H, H, D]`
/// - returns the same
fn window_block(graph: &mut Graph<'_>, layer: &WindowLayer, x: &Value) -> Value {
    let attended = graph.within("attn", |graph| attention(graph, layer, x));
    let x = graph.add(x, &attended);
    let first = graph.transpose(&x, &[0, 3, 1, 2]);
    let convolved = graph.folded_convolution(&first, "local_conv", depthwise(layer.dim, 1));
    let x = graph.transpose(&convolved, &[0, 2, 3, 1]);
    let expanded = graph.within("mlp", |graph| {
        let normal = graph.norm(&x, "norm", LAYER_NORM_EPS);
        let hidden = graph.linear(&normal, "fc1");
        let active = graph.gelu(&hidden);
        graph.linear(&active, "fc2")
    });
    graph.add(&x, &expanded)
}

/// Padding is before the norm, which leaves its bias of it, and takes part.
///
/// # Shapes
/// - `x`: `[1, H, H, D]`
/// - returns the same
fn attention(graph: &mut Graph<'_>, layer: &WindowLayer, x: &Value) -> Value {
    let WindowLayer { heads, dim, windows, .. } = layer;
    let (heads, count, length) = (*heads, windows.count(), windows.side * windows.side);
    let channels = dim / heads;
    let tokens = windows.partition(graph, x); // [windows, L, D]
    let normal = graph.norm(&tokens, "norm", LAYER_NORM_EPS);
    // Queries, keys and values of one head after the other.
    let qkv = graph.linear(&normal, "qkv");
    let qkv = graph.reshape(&qkv, &[count, length, heads, 3, channels]);
    let qkv = graph.transpose(&qkv, &[3, 0, 2, 1, 4]);
    let [q, k, v] = graph.split(&qkv, 0, 1).map(|part| graph.squeeze(&part, 0)); // [windows, A, L, C]
    let scaled = graph.scaled(&q, (channels as f32).powf(-0.5));
    let keys = graph.transpose(&k, &[0, 1, 3, 2]);
    let scores = graph.matmul(&scaled, &keys);
    let biases = biases(graph, heads, windows.side);
    let scores = graph.add(&scores, &biases);
    let weights = graph.softmax(&scores);
    let attended = graph.matmul(&weights, &v);
    let attended = graph.transpose(&attended, &[0, 2, 1, 3]);
    let attended = graph.reshape(&attended, &[count, length, *dim]);
    let projected = graph.linear(&attended, "proj");
    windows.join(graph, &projected)
}

/// The bias of each query and key, by the distance of their rows and of their columns.
///
/// # Shapes
/// - returns `[A, L queries, L keys]`
fn biases(graph: &mut Graph<'_>, heads: usize, side: usize) -> Value {
    let length = side * side;
    let distance = move |query: usize, key: usize| {
        (query / side).abs_diff(key / side) * side + (query % side).abs_diff(key % side)
    };
    let arrange = move |table: Vec<f32>| {
        let entry = |at: usize| table[at / length / length * length + distance(at / length % length, at % length)];
        (0..heads * length * length).map(entry).collect()
    };
    let arrangement = Arrangement { shape: vec![heads, length, length], channels: 0, arrange: Box::new(arrange) };
    graph.weight("attention_biases", Role::Table, arrangement)
}
