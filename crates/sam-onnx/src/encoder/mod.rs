//! Image to embedding: one file per kind of encoder, and the pixels in front of it.

mod vit;

use sam_model::{ImageEncoderConfig, PIXEL_MEAN, PIXEL_STD, SamConfig};

use crate::graph::{DataType, Dimension, Finished, Graph, Value, Weights};
use crate::{ExportOptions, ImageInput, OnnxError};

/// Name of the embedding, an output of the encoder and an input of the decoder.
pub(crate) const EMBEDDING: &str = "image_embeddings";

/// Epsilon of the encoder's norms and of every norm of a map (`build_sam.py`, `common.py`).
pub(crate) const EPS: f32 = 1e-6;

/// The graph of the image encoder.
///
/// # Errors
///
/// When a weight is not finite in the type in which it is stored.
pub(crate) fn encoder_graph(
    config: &SamConfig,
    weights: &Weights,
    options: &ExportOptions,
) -> Result<Finished, OnnxError> {
    let mut graph = Graph::new(weights, options.opset);
    let side = config.image_encoder.image_size();
    let image = match options.input {
        ImageInput::Normalised => {
            let shape = [1, 3, side, side].map(Dimension::Fixed);
            graph.input(options.input.name(), &shape)
        }
        ImageInput::Pixels => {
            let shape = [Dimension::Dynamic("image_height"), Dimension::Dynamic("image_width"), Dimension::Fixed(3)];
            let pixels = graph.input(options.input.name(), &shape);
            graph.within("preprocess", |graph| preprocess(graph, &pixels, side))
        }
    };
    // The kind of encoder is decided here and nowhere else.
    let embedding = match &config.image_encoder {
        ImageEncoderConfig::Vit(config) => graph.within("image_encoder", |graph| vit::vit(graph, config, &image)),
        ImageEncoderConfig::TinyVit(_) => return Err(unsupported_encoder()),
    };
    let grid = config.image_encoder.grid_size();
    let shape = [1, config.image_encoder.out_chans(), grid, grid].map(Dimension::Fixed);
    graph.output(&embedding, EMBEDDING, DataType::F32, &shape);
    graph.finish("image_encoder")
}

/// Bytes that running the graphs takes beyond the weights: those of the largest attention.
#[must_use]
pub fn memory_to_run(config: &SamConfig) -> u64 {
    config.image_encoder.vit().map_or(0, vit::attention_bytes)
}

/// The error of an encoder that has no graph.
pub(crate) fn unsupported_encoder() -> OnnxError {
    let what =
        "ONNX graphs are written of a plain ViT only, and this model has a TinyViT; export to safetensors or pth";
    OnnxError::Unsupported(what.to_owned())
}

/// Normalises an image and pads it at the right and bottom; the padding is zero after normalisation.
///
/// # Shapes
/// - `pixels`: `[H, W, 3]`, 0 to 255, neither above `side`
/// - returns `[1, 3, side, side]`
fn preprocess(graph: &mut Graph<'_>, pixels: &Value, side: usize) -> Value {
    let mean = graph.floats("mean", vec![3], &PIXEL_MEAN);
    let std = graph.floats("std", vec![3], &PIXEL_STD);
    let centred = graph.sub(pixels, &mean);
    let normal = graph.div(&centred, &std);
    let size = graph.node("Shape", &[pixels], &[]);
    let padded = graph.ints(&[side as i64, side as i64, 3]);
    let missing = graph.sub(&padded, &size);
    let before = graph.ints(&[0, 0, 0]);
    let pads = graph.concat(&[&before, &missing], 0);
    let padded = graph.node("Pad", &[&normal, &pads], &[]);
    let channels_first = graph.transpose(&padded, &[2, 0, 1]);
    graph.reshape(&channels_first, &[1, 3, side, side])
}

#[cfg(test)]
mod tests {
    use sam_model::{SamConfig, Variant};

    use super::memory_to_run;

    #[test]
    fn the_largest_attention_is_that_over_the_whole_grid() {
        let mut config = SamConfig::published(Variant::VitB);
        assert_eq!(memory_to_run(&config), 12 * 4096 * 4096 * 3 * 4);
        // Windows of 14 x 14 cells alone: 5 x 5 of them.
        config.image_encoder.vit_mut().expect("a plain ViT").global_attn_indexes.clear();
        assert_eq!(memory_to_run(&config), 25 * 12 * 196 * 196 * 3 * 4);
    }
}
