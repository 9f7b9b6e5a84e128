//! The sizes of a TinyViT from its tensors. They determine all but the size of images, which no tensor depends on.

use super::recognise::{Hints, Shapes, Unrecognised};
use crate::config::{SamConfig, Variant};
use crate::encoder::{BatchNormStatistics, ImageEncoderConfig, TinyVitConfig};

/// Layers of a TinyViT.
const LAYERS: usize = 4;

/// Whether there is a TinyViT under official keys, whole or damaged.
pub(super) fn has_tiny_vit(tensors: &Shapes<'_>) -> bool {
    tensors.tensors.keys().any(|key| key.starts_with("image_encoder.layers."))
}

/// The encoder's sizes, from tensors under official keys. `out_chans` is that of the published models where there is no neck.
pub(super) fn recognise_tiny_vit(tensors: &Shapes<'_>, hints: &Hints) -> Result<ImageEncoderConfig, Unrecognised> {
    let published = TinyVitConfig::published();
    let layers = tensors.count("image_encoder.layers.")?;
    if layers != LAYERS {
        let problem = format!("there are {layers} layers under `image_encoder.layers.`; a TinyViT has {LAYERS}");
        return Err(Unrecognised::Other(problem));
    }
    let key = |layer: usize, name: &str| format!("image_encoder.layers.{layer}.blocks.0.{name}");
    let (mut embed_dims, mut depths) = ([0; LAYERS], [0; LAYERS]);
    let [hidden, dim, ..] = tensors.shape::<4>(&key(0, "conv1.c.weight"))?;
    embed_dims[0] = dim;
    let mbconv_ratio = ratio(&key(0, "conv1.c.weight"), hidden, dim)?;
    depths[0] = tensors.count("image_encoder.layers.0.blocks.")?;
    let (mut num_heads, mut window_sizes, mut mlp_ratio) = ([0; 3], [0; 3], None);
    for layer in 1..LAYERS {
        depths[layer] = tensors.count(&format!("image_encoder.layers.{layer}.blocks."))?;
        let fc1 = key(layer, "mlp.fc1.weight");
        let [hidden, dim] = tensors.shape::<2>(&fc1)?;
        embed_dims[layer] = dim;
        let of_layer = ratio(&fc1, hidden, dim)?;
        if *mlp_ratio.get_or_insert(of_layer) != of_layer {
            let problem = format!("has {hidden} hidden values; all layers have the same multiple of their channels");
            return Err(Unrecognised::Odd(fc1, problem));
        }
        let biases = key(layer, "attn.attention_biases");
        let [heads, cells] = tensors.shape::<2>(&biases)?;
        let window = cells.isqrt();
        if window * window != cells || cells == 0 {
            return Err(Unrecognised::Odd(biases, format!("must be of the cells of a square window, got {cells}")));
        }
        (num_heads[layer - 1], window_sizes[layer - 1]) = (heads, window);
    }
    Ok(ImageEncoderConfig::TinyVit(TinyVitConfig {
        image_size: hints.image_size.unwrap_or(published.image_size),
        embed_dims,
        depths,
        num_heads,
        window_sizes,
        mbconv_ratio,
        mlp_ratio: mlp_ratio.unwrap_or(published.mlp_ratio),
        out_chans: tensors.axis("image_encoder.neck.0.weight", 0).unwrap_or(published.out_chans),
        drop_path_rate: 0.0,
        batch_norm: BatchNormStatistics::Frozen,
    }))
}

/// The segmenter that a TinyViT without neck and decoder fits: MobileSAM's, or one of these sizes with its decoder.
pub(super) fn recognise_bare_tiny_vit(tensors: &Shapes<'_>, hints: &Hints) -> Result<SamConfig, Unrecognised> {
    let image_encoder = recognise_tiny_vit(tensors, hints)?;
    Ok(SamConfig { image_encoder, ..SamConfig::published(Variant::Mobile) })
}

fn ratio(key: &str, hidden: usize, dim: usize) -> Result<usize, Unrecognised> {
    if dim > 0 && hidden > 0 && hidden.is_multiple_of(dim) {
        return Ok(hidden / dim);
    }
    Err(Unrecognised::Odd(key.to_owned(), format!("must have a multiple of {dim} rows, got {hidden}")))
}
