//! Tokens and image to masks (`mask_decoder.py`), the choice among them and their way to the image's size (`onnx.py`).

use sam_model::SamConfig;

use super::Decoded;
use crate::encoder::EPS;
use crate::graph::{Attribute, DataType, Graph, Value};

/// Layers of a hypernetwork.
const HYPERNETWORK_DEPTH: usize = 3;

/// Above every difference of predicted IoUs: the single mask wins from this many points on, and loses below.
const POINTS_OF_SINGLE_MASK: f32 = 2.5;
const REWEIGHT: f32 = 1000.0;

/// # Shapes
/// - `tokens`: `[1, T, C]`, `image`: `[1, P, C]`
pub(super) fn predict(graph: &mut Graph<'_>, config: &SamConfig, tokens: &Value, image: &Value) -> Decoded {
    let sizes = &config.mask_decoder;
    let (masks, dim) = (sizes.num_multimask_outputs + 1, sizes.transformer_dim);
    let grid = config.image_encoder.grid_size();
    let map = graph.transpose(image, &[0, 2, 1]);
    let map = graph.reshape(&map, &[1, dim, grid, grid]);
    let map = graph.within("output_upscaling", |graph| {
        let map = graph.doubling(&map, "0");
        let map = graph.norm_2d(&map, "1", EPS);
        let map = graph.gelu(&map);
        let map = graph.doubling(&map, "3");
        graph.gelu(&map)
    });
    let map = graph.reshape(&map, &[1, dim / 8, 16 * grid * grid]);
    let weights: Vec<Value> = (0..masks)
        .map(|mask| {
            let token = graph.slice(tokens, 1, 1 + mask, 2 + mask);
            graph.mlp(&token, &format!("output_hypernetworks_mlps.{mask}"), HYPERNETWORK_DEPTH)
        })
        .collect();
    let weights = graph.concat(&weights.iter().collect::<Vec<_>>(), 1); // [1, M, C / 8]
    let low_res = graph.matmul(&weights, &map);
    let low_res = graph.reshape(&low_res, &[1, masks, 4 * grid, 4 * grid]);
    let token = graph.slice(tokens, 1, 0, 1);
    let token = graph.squeeze(&token, 1);
    let iou = graph.mlp(&token, "iou_prediction_head", sizes.iou_head_depth);
    Decoded { low_res, iou, masks }
}

/// The mask for the prompt: the single one from three points on (a box and a padding point, two clicks and one), else the best
/// of the others.
///
/// # Shapes
/// - `labels`: `[1, N]`
pub(super) fn most_confident(graph: &mut Graph<'_>, decoded: &Decoded, labels: &Value) -> Decoded {
    let shape = graph.node("Shape", &[labels], &[]);
    let n_points = graph.slice(&shape, 0, 1, 2);
    let n_points = graph.cast(&n_points, DataType::F32);
    let excess = graph.shifted(&n_points, -POINTS_OF_SINGLE_MASK);
    let mut factors = vec![0.0; decoded.masks];
    factors[0] = REWEIGHT;
    let factors = graph.floats("single_mask", vec![1, decoded.masks], &factors);
    let advantage = graph.mul(&excess, &factors);
    let scores = graph.add(&decoded.iou, &advantage);
    let best = arg_max(graph, &scores);
    let [low_res, iou] = [&decoded.low_res, &decoded.iou]
        .map(|of_masks| graph.node("Gather", &[of_masks, &best], &[Attribute::Int("axis", 1)]));
    Decoded { low_res, iou, masks: 1 }
}

/// Logits in the size of the original image: enlarged to the input's size, without the padding, resized.
///
/// # Shapes
/// - `image_size`: `[2]`, height then width
/// - returns `[1, M, H, W]`
pub(super) fn in_image_size(graph: &mut Graph<'_>, config: &SamConfig, decoded: &Decoded, image_size: &Value) -> Value {
    let side = config.image_encoder.image_size();
    let padded = graph.ints(&[1, decoded.masks as i64, side as i64, side as i64]);
    let padded = graph.resize(&decoded.low_res, &padded);
    // The size in the input: the longest side is S, halves are rounded up.
    let longest = graph.node("ReduceMax", &[image_size], &[Attribute::Int("keepdims", 0)]);
    let side = graph.number(side as f32);
    let scale = graph.div(&side, &longest);
    let scaled = graph.mul(image_size, &scale);
    let rounded = graph.shifted(&scaled, 0.5);
    let rounded = graph.node("Floor", &[&rounded], &[]);
    let size_in_input = graph.cast(&rounded, DataType::I64);
    let start = graph.ints(&[0, 0]);
    let cropped = graph.slice_between(&padded, &[2, 3], &start, &size_in_input);
    let size = graph.cast(image_size, DataType::I64);
    let masks = graph.ints(&[1, decoded.masks as i64]);
    let size = graph.concat(&[&masks, &size], 0);
    graph.resize(&cropped, &size)
}

/// The part of the image that a mask covers.
pub(super) struct Crop {
    /// `[1, 1, rows, columns]` of bytes, 255 on the mask.
    pub(super) mask: Value,
    /// `[1]` each: the first column and row, the last column and row.
    pub(super) corners: [Value; 4],
}

/// The smallest rectangle with all of the mask; the whole image where the mask is empty.
///
/// # Shapes
/// - `logits`: `[1, 1, H, W]`
pub(super) fn crop(graph: &mut Graph<'_>, logits: &Value) -> Crop {
    let zero = graph.number(0.0);
    let is_on = graph.node("Greater", &[logits, &zero], &[]);
    let on = graph.cast(&is_on, DataType::F32);
    let flat = graph.squeeze(&on, 0); // [1, H, W]
    let [columns, rows] = [1, 2].map(|axis| graph.reduce_max(&flat, axis)); // [1, W] and [1, H]
    let [[left, right], [top, bottom]] = [&columns, &rows].map(|line| ends(graph, line));
    let start = graph.concat(&[&top, &left], 0);
    let last = graph.concat(&[&bottom, &right], 0);
    let one = graph.ints(&[1]);
    let end = graph.add(&last, &one);
    let inside = graph.slice_between(&on, &[2, 3], &start, &end);
    let bright = graph.scaled(&inside, 255.0);
    Crop { mask: graph.cast(&bright, DataType::U8), corners: [left, top, right, bottom] }
}

/// The index of the largest value of a row.
///
/// # Shapes
/// - `x`: `[1, n]`
/// - returns `[1]`
fn arg_max(graph: &mut Graph<'_>, x: &Value) -> Value {
    graph.node("ArgMax", &[x], &[Attribute::Int("axis", 1), Attribute::Int("keepdims", 0)])
}

/// The first and the last index with a one; where there is none, those of the row.
///
/// The rank of each index is added to its value, so that no two are equal: of equal values, some runtimes take the first and
/// some the last.
///
/// # Shapes
/// - `line`: `[1, n]`, ones and zeros
/// - returns `[1]` each
fn ends(graph: &mut Graph<'_>, line: &Value) -> [Value; 2] {
    let shape = graph.node("Shape", &[line], &[]);
    let length = graph.slice(&shape, 0, 1, 2);
    let limit = graph.squeeze(&length, 0);
    let [zero, one] = [0, 1].map(|number| graph.integer(number));
    let index = graph.node("Range", &[&zero, &limit, &one], &[]);
    let [index, length] = [&index, &length].map(|integers| graph.cast(integers, DataType::F32));
    let above_all_ranks = graph.mul(line, &length);
    let ascending = graph.add(&above_all_ranks, &index);
    let descending = graph.sub(&above_all_ranks, &index);
    [&descending, &ascending].map(|ranked| arg_max(graph, ranked))
}
