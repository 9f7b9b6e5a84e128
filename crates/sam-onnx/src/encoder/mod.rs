//! Image to embedding: one file per kind of encoder, and the pixels in front of it.

mod neck;
mod tiny_vit;
mod vit;
mod windows;

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
        ImageEncoderConfig::TinyVit(config) => {
            graph.within("image_encoder", |graph| tiny_vit::tiny_vit(graph, config, &image))
        }
    };
    let grid = config.image_encoder.grid_size();
    let shape = [1, config.image_encoder.out_chans(), grid, grid].map(Dimension::Fixed);
    graph.output(&embedding, EMBEDDING, DataType::F32, &shape);
    graph.finish("image_encoder")
}

/// Bytes that running the graphs takes beyond the weights: those of the largest attention, or of the widest map.
#[must_use]
pub fn memory_to_run(config: &SamConfig) -> u64 {
    match &config.image_encoder {
        ImageEncoderConfig::Vit(config) => vit::attention_bytes(config),
        ImageEncoderConfig::TinyVit(config) => tiny_vit::bytes_to_run(config),
    }
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

    #[test]
    fn the_widest_map_of_a_light_encoder_grows_with_the_image() {
        let mut config = SamConfig::published(Variant::Mobile);
        assert_eq!(memory_to_run(&config), 256 * 256 * 256 * 3 * 4);
        config.image_encoder.set_image_size(4096);
        assert_eq!(memory_to_run(&config), 1024 * 1024 * 256 * 3 * 4);
        // Windows of 64 cells on a map of 64.
        config.image_encoder.set_image_size(1024);
        config.image_encoder.tiny_vit_mut().expect("a TinyViT").window_sizes = [7, 64, 7];
        assert_eq!(memory_to_run(&config), 5 * 4096 * 4096 * 3 * 4);
    }
}
