//! Points, boxes and a mask to embeddings (`prompt_encoder.py`; in the form of `onnx.py`, where labels are numbers).

use sam_model::SamConfig;

use super::Inputs;
use crate::encoder::EPS;
use crate::graph::{DataType, Graph, Value};
use crate::layers::Convolution;

/// Labels with an embedding, in the order of the table of embeddings: padding, background, object, both corners of a box.
const LABELS: [f32; 5] = [-1.0, 0.0, 1.0, 2.0, 3.0];

/// What the mask decoder takes.
pub(super) struct PromptEmbeddings {
    /// `[1, N, C]`.
    pub(super) sparse: Value,
    /// The image with the mask prompt, `[1, P, C]`.
    pub(super) image: Value,
    /// Positions of the image's cells, `[1, P, C]`.
    pub(super) positions: Value,
}

pub(super) fn embed(graph: &mut Graph<'_>, config: &SamConfig, inputs: &Inputs) -> PromptEmbeddings {
    let sparse = points(graph, config, inputs);
    let mask = mask(graph, &inputs.mask);
    let shape = vec![1, config.prompt_encoder.embed_dim, 1, 1];
    let values = graph.values("no_mask_embed.weight");
    let no_mask = graph.floats("no_mask_embed", shape, &values);
    let zero = graph.number(0.0);
    let has_mask = graph.node("Greater", &[&inputs.has_mask, &zero], &[]);
    let dense = graph.node("Where", &[&has_mask, &mask, &no_mask], &[]);
    let image = graph.add(&inputs.embedding, &dense);
    let grid = config.image_encoder.grid_size();
    let image = graph.reshape(&image, &[1, config.prompt_encoder.embed_dim, grid * grid]);
    let image = graph.transpose(&image, &[0, 2, 1]);
    PromptEmbeddings { sparse, image, positions: cell_positions(graph, grid) }
}

/// # Shapes
/// - returns `[1, N, C]`
fn points(graph: &mut Graph<'_>, config: &SamConfig, inputs: &Inputs) -> Value {
    // Coordinates are of a pixel's corner; its centre is half a pixel further.
    let centres = graph.shifted(&inputs.coords, 0.5);
    let side = graph.number(config.image_encoder.image_size() as f32);
    let unit = graph.div(&centres, &side);
    let positions = positions(graph, &unit);
    let labels = graph.unsqueeze(&inputs.labels, 2); // [1, N, 1]
    let known = graph.floats("labels", vec![LABELS.len()], &LABELS);
    let kinds = graph.node("Equal", &[&labels, &known], &[]);
    let kinds = graph.cast(&kinds, DataType::F32); // [1, N, 5], one-hot
    let mut table = graph.values("not_a_point_embed.weight");
    for kind in 0..LABELS.len() - 1 {
        table.extend(graph.values(&format!("point_embeddings.{kind}.weight")));
    }
    let table = graph.floats("point_embeddings", vec![LABELS.len(), config.prompt_encoder.embed_dim], &table);
    let kind = graph.matmul(&kinds, &table);
    // A padding point has no position.
    let padding = graph.number(LABELS[0]);
    let is_padding = graph.node("Equal", &[&labels, &padding], &[]);
    let nowhere = graph.number(0.0);
    let positions = graph.node("Where", &[&is_padding, &nowhere, &positions], &[]);
    graph.add(&positions, &kind)
}

/// Random Fourier features.
///
/// # Shapes
/// - `unit`: `[1, N, 2]`, x then y, 0 to 1
/// - returns `[1, N, C]`
fn positions(graph: &mut Graph<'_>, unit: &Value) -> Value {
    let doubled = graph.scaled(unit, 2.0);
    let centred = graph.shifted(&doubled, -1.0);
    let frequencies = graph.vector("pe_layer.positional_encoding_gaussian_matrix");
    let projected = graph.matmul(&centred, &frequencies);
    let angles = graph.scaled(&projected, 2.0 * std::f32::consts::PI);
    let [sine, cosine] = ["Sin", "Cos"].map(|op| graph.node(op, &[&angles], &[]));
    graph.concat(&[&sine, &cosine], -1)
}

/// Positions of the centres of the grid's cells, computed in the graph: a table of them would be a fifth of the file.
///
/// # Shapes
/// - returns `[1, P, C]`
fn cell_positions(graph: &mut Graph<'_>, grid: usize) -> Value {
    let centre = |index: usize| (index as f32 + 0.5) / grid as f32;
    let centres: Vec<f32> = (0..grid * grid).flat_map(|cell| [centre(cell % grid), centre(cell / grid)]).collect();
    let centres = graph.floats("cell_centres", vec![1, grid * grid, 2], &centres);
    positions(graph, &centres)
}

/// # Shapes
/// - `mask`: `[1, 1, 4G, 4G]`
/// - returns `[1, C, G, G]`
fn mask(graph: &mut Graph<'_>, mask: &Value) -> Value {
    graph.within("mask_downscaling", |graph| {
        let halving = Convolution { kernel: 2, stride: 2, padding: 0, groups: 1 };
        let mut x = mask.clone();
        for [convolution, norm] in [["0", "1"], ["3", "4"]] {
            x = graph.convolution(&x, convolution, halving);
            x = graph.norm_2d(&x, norm, EPS);
            x = graph.gelu(&x);
        }
        graph.convolution(&x, "6", Convolution { kernel: 1, stride: 1, padding: 0, groups: 1 })
    })
}
