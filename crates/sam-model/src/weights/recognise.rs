//! The sizes of a model from its tensors: nobody is asked for a variant or an image size.
//!
//! Only one number leaves no trace in the tensors, the decoder's heads: it comes from the file's own metadata or from a
//! Hugging Face `config.json`, and is 8 otherwise, as in every published model.

use std::collections::BTreeMap;

use super::state_dict::TensorInfo;
use crate::image_encoder::ImageEncoderConfig;
use crate::mask_decoder::MaskDecoderConfig;
use crate::prompt_encoder::PromptEncoderConfig;
use crate::sam::{SamConfig, Variant};

/// Heads of the mask decoder in every published model.
pub const PUBLISHED_DECODER_HEADS: usize = 8;

/// Reads the sizes off tensors under official keys. The error is a sentence about the tensor that is missing or odd.
pub fn recognise_sam(
    tensors: &BTreeMap<String, TensorInfo>,
    decoder_heads: Option<usize>,
) -> Result<SamConfig, String> {
    let tensors = Shapes { tensors };
    let config = SamConfig {
        image_encoder: recognise_encoder(&tensors)?,
        prompt_encoder: PromptEncoderConfig {
            embed_dim: tensors.axis("prompt_encoder.no_mask_embed.weight", 1)?,
            mask_in_chans: tensors.axis("prompt_encoder.mask_downscaling.3.weight", 0)?,
        },
        mask_decoder: recognise_decoder(&tensors, decoder_heads.unwrap_or(PUBLISHED_DECODER_HEADS))?,
    };
    Ok(config)
}

fn recognise_encoder(tensors: &Shapes<'_>) -> Result<ImageEncoderConfig, String> {
    let patch = tensors.shape::<4>("image_encoder.patch_embed.proj.weight")?;
    let [_, rows, columns, _] = tensors.shape::<4>("image_encoder.pos_embed")?;
    if rows != columns {
        return Err(format!("`image_encoder.pos_embed` must be square, got {rows} x {columns}"));
    }
    let depth = tensors.count("image_encoder.blocks.");
    let (embed_dim, patch_size) = (patch[0], patch[3]);
    let mut tables = Vec::with_capacity(depth);
    for block in 0..depth {
        tables.push(tensors.shape::<2>(&format!("image_encoder.blocks.{block}.attn.rel_pos_h"))?);
    }
    let Some([_, head_dim]) = tables.first().copied() else {
        return Err("there is no `image_encoder.blocks.0`".into());
    };
    if head_dim == 0 || embed_dim % head_dim != 0 {
        return Err(format!("heads of {head_dim} channels do not divide the width {embed_dim}"));
    }
    // Tables of windowed blocks are as long as a window needs; the longer ones belong to global blocks. With one length
    // only, the blocks attend over the whole grid.
    let shortest = tables.iter().map(|table| table[0]).min().unwrap_or(0);
    let longest = tables.iter().map(|table| table[0]).max().unwrap_or(0);
    let side = |length: usize| length.div_ceil(2);
    let is_global = |length: usize| length > shortest || (shortest == longest && side(length) >= rows);
    Ok(ImageEncoderConfig {
        image_size: rows * patch_size,
        patch_size,
        embed_dim,
        depth,
        num_heads: embed_dim / head_dim,
        mlp_dim: tensors.axis("image_encoder.blocks.0.mlp.lin1.weight", 0)?,
        out_chans: tensors.axis("image_encoder.neck.0.weight", 0)?,
        window_size: side(shortest),
        global_attn_indexes: (0..depth).filter(|&block| is_global(tables[block][0])).collect(),
        drop_path_rate: 0.0,
    })
}

fn recognise_decoder(tensors: &Shapes<'_>, num_heads: usize) -> Result<MaskDecoderConfig, String> {
    let mask_tokens = tensors.axis("mask_decoder.mask_tokens.weight", 0)?;
    Ok(MaskDecoderConfig {
        transformer_dim: tensors.axis("mask_decoder.iou_token.weight", 1)?,
        depth: tensors.count("mask_decoder.transformer.layers."),
        num_heads,
        mlp_dim: tensors.axis("mask_decoder.transformer.layers.0.mlp.lin1.weight", 0)?,
        cross_dim: tensors.axis("mask_decoder.transformer.final_attn_token_to_image.q_proj.weight", 0)?,
        num_multimask_outputs: mask_tokens.saturating_sub(1),
        iou_head_depth: tensors.count("mask_decoder.iou_prediction_head.layers."),
        iou_head_hidden_dim: tensors.axis("mask_decoder.iou_prediction_head.layers.0.weight", 0)?,
        dropout: 0.0,
    })
}

/// The SAM that a masked autoencoder's encoder (tensors under official keys) is made for: the published size of its
/// width, at `image_size`, or a small one with four global blocks when the width is not a published one.
pub fn recognise_mae(tensors: &BTreeMap<String, TensorInfo>, image_size: usize) -> Result<SamConfig, String> {
    let tensors = Shapes { tensors };
    let patch = tensors.shape::<4>("image_encoder.patch_embed.proj.weight")?;
    let (embed_dim, patch_size) = (patch[0], patch[3]);
    let depth = tensors.count("image_encoder.blocks.");
    let published = Variant::ALL.map(SamConfig::published).into_iter().find(|config| {
        let encoder = &config.image_encoder;
        (encoder.embed_dim, encoder.depth) == (embed_dim, depth)
    });
    let mut config = published.unwrap_or_else(|| {
        let mut config = SamConfig::published(Variant::VitB);
        let quarters = |quarter: usize| (quarter * depth / 4).max(1) - 1;
        let mut global: Vec<usize> = (1..=4).map(quarters).collect();
        global.dedup();
        config.image_encoder.global_attn_indexes = global;
        // The head width of ViT-B and ViT-L; narrower ones have one head per 16 channels or a single one.
        let head_dim = [64, 16, embed_dim].into_iter().find(|head| embed_dim % head == 0).unwrap_or(embed_dim);
        config.image_encoder.num_heads = embed_dim / head_dim;
        config
    });
    let encoder = &mut config.image_encoder;
    if embed_dim == 1280 && patch_size == 14 {
        return Err(
            "an MAE ViT-H has patches of 14 px, SAM's has 16; pre-train with patch 16 or use a file converted to it"
                .into(),
        );
    }
    (encoder.embed_dim, encoder.depth, encoder.patch_size) = (embed_dim, depth, patch_size);
    encoder.mlp_dim = tensors.axis("image_encoder.blocks.0.mlp.lin1.weight", 0)?;
    encoder.image_size = image_size;
    Ok(config)
}

struct Shapes<'a> {
    tensors: &'a BTreeMap<String, TensorInfo>,
}

impl Shapes<'_> {
    fn shape<const D: usize>(&self, key: &str) -> Result<[usize; D], String> {
        let info = self.tensors.get(key).ok_or_else(|| format!("there is no `{key}`"))?;
        <[usize; D]>::try_from(info.shape.as_slice())
            .map_err(|_| format!("`{key}` must have {D} axes, got {:?}", info.shape))
    }

    fn axis(&self, key: &str, axis: usize) -> Result<usize, String> {
        let info = self.tensors.get(key).ok_or_else(|| format!("there is no `{key}`"))?;
        info.shape.get(axis).copied().ok_or_else(|| format!("`{key}` has too few axes: {:?}", info.shape))
    }

    /// One more than the highest index after `prefix`.
    fn count(&self, prefix: &str) -> usize {
        let index = |key: &String| key.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
        self.tensors.keys().filter_map(index).max().map_or(0, |highest| highest.saturating_add(1))
    }
}
