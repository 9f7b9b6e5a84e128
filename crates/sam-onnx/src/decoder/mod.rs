//! Prompts and embedding to masks: the prompt encoder, the mask decoder and the resize to the original image as one graph, with
//! the inputs and outputs of the official export (`scripts/export_onnx_model.py`, `segment_anything/utils/onnx.py`).
//!
//! Differs from the official graph: a mask prompt is used where `has_mask_input` is above zero (the official formula weighs both
//! embeddings, so that a -1, which occurs, gives neither), and the crop of the padding is a value instead of a constant of the
//! traced example.
//!
//! Shapes: `N` points of a prompt with its padding point, `T` tokens, `G` grid, `P = G G` cells, `C` embedding dimension,
//! `S` image size, `M` masks.

mod masks;
mod prompts;
mod transformer;

use sam_model::SamConfig;

use crate::encoder::EMBEDDING;
use crate::graph::{DataType, Dimension, Finished, Graph, Value, Weights};
use crate::{ExportOptions, Masks, OnnxError};

/// The six inputs, in the official order.
struct Inputs {
    /// `[1, C, G, G]`.
    embedding: Value,
    /// `[1, N, 2]`, x then y in the padded input.
    coords: Value,
    /// `[1, N]`: -1 padding, 0 background, 1 object, 2 and 3 the corners of a box.
    labels: Value,
    /// `[1, 1, 4G, 4G]`, logits.
    mask: Value,
    /// `[1]`.
    has_mask: Value,
    /// `[2]`, height then width.
    image_size: Value,
}

/// The decoder's result for all masks.
struct Decoded {
    /// `[1, M, 4G, 4G]`, logits.
    low_res: Value,
    /// `[1, M]`.
    iou: Value,
    masks: usize,
}

/// The graph of the prompt encoder and the mask decoder.
///
/// # Errors
///
/// When a weight is not finite in the type in which it is stored.
pub(crate) fn decoder_graph(
    config: &SamConfig,
    weights: &Weights,
    options: &ExportOptions,
) -> Result<Finished, OnnxError> {
    let mut graph = Graph::new(weights, options.opset);
    let inputs = inputs(&mut graph, config);
    let prompts = graph.within("prompt_encoder", |graph| prompts::embed(graph, config, &inputs));
    let mut decoded = graph.within("mask_decoder", |graph| {
        let (tokens, image) = transformer::two_way(graph, config, &prompts);
        masks::predict(graph, config, &tokens, &image)
    });
    if options.masks != Masks::All {
        decoded = graph.within("selection", |graph| masks::most_confident(graph, &decoded, &inputs.labels));
    }
    let full = graph.within("postprocess", |graph| masks::in_image_size(graph, config, &decoded, &inputs.image_size));
    outputs(&mut graph, config, options.masks, &decoded, &full);
    graph.finish("mask_decoder")
}

fn inputs(graph: &mut Graph<'_>, config: &SamConfig) -> Inputs {
    let grid = config.image_encoder.grid_size();
    let fixed = Dimension::Fixed;
    let points = Dimension::Dynamic("num_points");
    Inputs {
        embedding: graph.input(EMBEDDING, &[1, config.image_encoder.out_chans(), grid, grid].map(fixed)),
        coords: graph.input("point_coords", &[fixed(1), points, fixed(2)]),
        labels: graph.input("point_labels", &[fixed(1), points]),
        mask: graph.input("mask_input", &[1, 1, config.low_res_side(), config.low_res_side()].map(fixed)),
        has_mask: graph.input("has_mask_input", &[fixed(1)]),
        image_size: graph.input("orig_im_size", &[fixed(2)]),
    }
}

fn outputs(graph: &mut Graph<'_>, config: &SamConfig, masks: Masks, decoded: &Decoded, full: &Value) {
    let (fixed, side) = (Dimension::Fixed, config.low_res_side());
    let [height, width] = ["mask_height", "mask_width"].map(Dimension::Dynamic);
    let shape = [fixed(1), fixed(decoded.masks), height, width];
    let crop = (masks == Masks::Cropped).then(|| graph.within("crop", |graph| masks::crop(graph, full)));
    match &crop {
        Some(crop) => graph.output(&crop.mask, "masks", DataType::U8, &shape),
        None => graph.output(full, "masks", DataType::F32, &shape),
    }
    graph.output(&decoded.iou, "iou_predictions", DataType::F32, &[1, decoded.masks].map(fixed));
    graph.output(&decoded.low_res, "low_res_masks", DataType::F32, &[1, decoded.masks, side, side].map(fixed));
    let Some(crop) = crop else { return };
    for (value, name) in crop.corners.iter().zip(CROP_CORNERS) {
        graph.output(value, name, DataType::I64, &[fixed(1)]);
    }
}

/// Outputs of CVAT's decoder: the first and the last column and row of the mask, in the order left, top, right, bottom.
pub(crate) const CROP_CORNERS: [&str; 4] = ["xtl", "ytl", "xbr", "ybr"];
