//! The sizes of a model from its tensors, so that users need not name a variant or an image size.
//!
//! Two sizes are not determined by the tensors, or ambiguous: the decoder's heads, and the global blocks when windows are as
//! large as the grid. They are read from the file's own metadata or from a Hugging Face `config.json` ([`Hints`]);
//! otherwise they are those of every published model of that dimension and depth.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::recognise_tiny_vit::{has_tiny_vit, recognise_tiny_vit};
use super::state_dict::TensorInfo;
use crate::config::{SamConfig, Variant};
use crate::decoder::MaskDecoderConfig;
use crate::encoder::{ImageEncoderConfig, VitConfig};
use crate::mae::MaeConfig;
use crate::prompt::PromptEncoderConfig;

/// Heads of the mask decoder in every published model.
pub(super) const PUBLISHED_DECODER_HEADS: usize = 8;

/// More blocks or layers indicate a damaged or hostile file.
const MAX_COUNT: usize = 1000;

/// Sizes that a file declares beside its tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// Heads of every attention in the mask decoder.
    pub decoder_heads: Option<usize>,
    /// Size of a window.
    pub window_size: Option<usize>,
    /// Global blocks.
    pub global_attn_indexes: Option<Vec<usize>>,
    /// Heads of the image encoder, for layouts without relative position tables.
    pub encoder_heads: Option<usize>,
    /// Rows and columns of a masked autoencoder's flat table of positions; a square when not given.
    pub grid_hw: Option<[usize; 2]>,
    /// Size of images, where no tensor depends on it.
    pub image_size: Option<usize>,
}

impl Hints {
    /// Reads a configuration in JSON whose two parts have these names; missing fields are no hints.
    pub fn from_json(config: &Value, encoder: &str, decoder: [&str; 2]) -> Self {
        let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        let encoder = &config[encoder];
        let indexes = encoder["global_attn_indexes"].as_array();
        Self {
            decoder_heads: number(&config[decoder[0]][decoder[1]]),
            window_size: number(&encoder["window_size"]),
            global_attn_indexes: indexes.and_then(|indexes| indexes.iter().map(number).collect()),
            encoder_heads: None,
            grid_hw: None,
            image_size: number(&encoder["image_size"]),
        }
    }
}

impl Hints {
    /// The hints of our own masked autoencoder's configuration.
    pub fn of_autoencoder(config: &MaeConfig) -> Self {
        Self { encoder_heads: Some(config.num_heads), grid_hw: Some(config.grid_hw()), ..Self::default() }
    }
}

/// Why tensors are not a segmenter's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unrecognised {
    /// The tensor of this official key is missing.
    Missing(String),
    /// The tensor of this official key has a wrong shape: the rest of a sentence that starts with the key.
    Odd(String, String),
    /// Another problem: a whole sentence.
    Other(String),
}

/// Infers the sizes from tensors under official keys.
pub fn recognise_sam(tensors: &BTreeMap<String, TensorInfo>, hints: &Hints) -> Result<SamConfig, Unrecognised> {
    let tensors = Shapes { tensors };
    Ok(SamConfig {
        image_encoder: recognise_encoder(&tensors, hints)?,
        prompt_encoder: PromptEncoderConfig {
            embed_dim: tensors.axis("prompt_encoder.no_mask_embed.weight", 1)?,
            mask_in_chans: tensors.axis("prompt_encoder.mask_downscaling.3.weight", 0)?,
        },
        mask_decoder: recognise_decoder(&tensors, hints.decoder_heads.unwrap_or(PUBLISHED_DECODER_HEADS))?,
        text: None,
    })
}

fn recognise_encoder(tensors: &Shapes<'_>, hints: &Hints) -> Result<ImageEncoderConfig, Unrecognised> {
    if has_tiny_vit(tensors) {
        return recognise_tiny_vit(tensors, hints);
    }
    let patch = tensors.shape::<4>("image_encoder.patch_embed.proj.weight")?;
    let positions = "image_encoder.pos_embed";
    let [_, rows, columns, _] = tensors.shape::<4>(positions)?;
    if rows != columns {
        return Err(Unrecognised::Odd(positions.into(), format!("must be square, got {rows} x {columns}")));
    }
    let depth = tensors.count("image_encoder.blocks.")?;
    let (embed_dim, patch_size) = (patch[0], patch[3]);
    let mut lengths = Vec::with_capacity(depth);
    let mut head_dim = embed_dim;
    for block in 0..depth {
        let key = format!("image_encoder.blocks.{block}.attn.rel_pos_h");
        let [length, channels] = tensors.shape::<2>(&key)?;
        if channels == 0 || !embed_dim.is_multiple_of(channels) || length % 2 == 0 {
            let problem =
                format!("must be of odd length and divide the dimension {embed_dim}, got {length} x {channels}");
            return Err(Unrecognised::Odd(key, problem));
        }
        head_dim = channels;
        lengths.push(length);
    }
    if lengths.is_empty() {
        return Err(Unrecognised::Missing("image_encoder.blocks.0.attn.rel_pos_h".into()));
    }
    let (window_size, global_attn_indexes) = windows(&lengths, rows, embed_dim, hints)?;
    Ok(ImageEncoderConfig::Vit(VitConfig {
        image_size: rows * patch_size,
        patch_size,
        embed_dim,
        depth,
        num_heads: embed_dim / head_dim,
        mlp_dim: tensors.axis("image_encoder.blocks.0.mlp.lin1.weight", 0)?,
        out_chans: tensors.axis("image_encoder.neck.0.weight", 0)?,
        window_size,
        global_attn_indexes,
        drop_path_rate: 0.0,
    }))
}

/// The windowed blocks, from the lengths of their position tables: `2 * window - 1` or `2 * grid - 1`.
fn windows(
    lengths: &[usize],
    grid: usize,
    embed_dim: usize,
    hints: &Hints,
) -> Result<(usize, Vec<usize>), Unrecognised> {
    let depth = lengths.len();
    let fits = |window: usize, global: &[usize]| {
        let windowed = |block: &usize| !global.contains(block);
        global.iter().all(|&block| block < depth) && (0..depth).filter(windowed).all(|at| lengths[at] + 1 == 2 * window)
    };
    // The file's own hints first, then those of the published models, where the tables agree with them.
    let said = hints.window_size.zip(hints.global_attn_indexes.clone());
    let known = published_of(embed_dim, depth);
    let known = known.map(|encoder| (encoder.window_size, encoder.global_attn_indexes));
    for (window, global) in said.into_iter().chain(known) {
        if fits(window, &global) {
            return Ok((window, global));
        }
    }
    let with_length = |length: usize| (0..depth).filter(|&block| lengths[block] == length).collect::<Vec<_>>();
    let distinct: BTreeSet<usize> = lengths.iter().copied().collect();
    match distinct.into_iter().collect::<Vec<_>>()[..] {
        // All blocks are global; windows of that size would be equivalent.
        [length] if length + 1 == 2 * grid => Ok((length.div_ceil(2), (0..depth).collect())),
        [length] => Ok((length.div_ceil(2), Vec::new())),
        [short, long] => {
            // Where neither fits the grid, the longer one is of global blocks: it was left at another size.
            let global = if short + 1 == 2 * grid { short } else { long };
            Ok(((short + long - global).div_ceil(2), with_length(global)))
        }
        ref lengths => Err(Unrecognised::Other(format!(
            "the relative position tables have {} lengths ({lengths:?}); a segmenter has one for windows and one for the \
             whole image",
            lengths.len()
        ))),
    }
}

fn recognise_decoder(tensors: &Shapes<'_>, num_heads: usize) -> Result<MaskDecoderConfig, Unrecognised> {
    let mask_tokens = tensors.axis("mask_decoder.mask_tokens.weight", 0)?;
    Ok(MaskDecoderConfig {
        transformer_dim: tensors.axis("mask_decoder.iou_token.weight", 1)?,
        depth: tensors.count("mask_decoder.transformer.layers.")?,
        num_heads,
        mlp_dim: tensors.axis("mask_decoder.transformer.layers.0.mlp.lin1.weight", 0)?,
        cross_dim: tensors.axis("mask_decoder.transformer.final_attn_token_to_image.q_proj.weight", 0)?,
        num_multimask_outputs: mask_tokens.saturating_sub(1),
        iou_head_depth: tensors.count("mask_decoder.iou_prediction_head.layers.")?,
        iou_head_hidden_dim: tensors.axis("mask_decoder.iou_prediction_head.layers.0.weight", 0)?,
        dropout: 0.0,
    })
}

/// The SAM that a masked autoencoder's encoder (tensors under official keys) fits: the published one of its dimension, at
/// `image_size`, or one with four global blocks when dimension and depth are not published ones. Tensors do not determine
/// its heads; without a hint they are assumed, and reported as such.
pub(super) fn recognise_mae(
    tensors: &BTreeMap<String, TensorInfo>,
    hints: &Hints,
    image_size: usize,
) -> Result<SamConfig, Unrecognised> {
    let tensors = Shapes { tensors };
    let patch_key = "image_encoder.patch_embed.proj.weight";
    let patch = tensors.shape::<4>(patch_key)?;
    let (embed_dim, patch_size) = (patch[0], patch[3]);
    let depth = tensors.count("image_encoder.blocks.")?;
    if embed_dim == 1280 && patch_size == 14 {
        let problem = "has patches of 14 px (an MAE ViT-H), SAM's has 16; pre-train with patch 16 or convert the file";
        return Err(Unrecognised::Odd(patch_key.into(), problem.into()));
    }
    let mlp_dim = tensors.axis("image_encoder.blocks.0.mlp.lin1.weight", 0)?;
    let mut encoder = published_of(embed_dim, depth).unwrap_or_else(|| {
        let mut global: Vec<usize> = (1..=4).map(|quarter: usize| (quarter * depth / 4).max(1) - 1).collect();
        global.dedup();
        VitConfig {
            image_size,
            patch_size,
            embed_dim,
            depth,
            num_heads: default_heads(embed_dim),
            mlp_dim,
            out_chans: 256,
            window_size: 14,
            global_attn_indexes: global,
            drop_path_rate: 0.0,
        }
    });
    (encoder.patch_size, encoder.mlp_dim) = (patch_size, mlp_dim);
    encoder.num_heads = hints.encoder_heads.unwrap_or(encoder.num_heads);
    // The nearest multiple of the patch size below.
    encoder.image_size = (image_size / patch_size.max(1)).max(1) * patch_size;
    Ok(SamConfig { image_encoder: ImageEncoderConfig::Vit(encoder), ..SamConfig::published(Variant::VitB) })
}

/// The heads of a masked autoencoder's encoder, where a hint or a published size determines them.
pub(super) fn known_heads(config: &SamConfig, hints: &Hints) -> Option<usize> {
    let encoder = config.image_encoder.vit()?;
    let published = published_of(encoder.embed_dim, encoder.depth).map(|published| published.num_heads);
    hints.encoder_heads.or(published)
}

/// A masked autoencoder's own sizes from its tensors, under its own keys, with the assumptions made. A file without decoder
/// gets the published one.
pub(super) fn recognise_autoencoder(
    tensors: &BTreeMap<String, TensorInfo>,
) -> Result<(MaeConfig, Vec<String>), Unrecognised> {
    let tensors = Shapes { tensors };
    let [embed_dim, _, _, patch_size] = tensors.shape::<4>("patch_embed.proj.weight")?;
    let [_, positions, _] = tensors.shape::<3>("pos_embed")?;
    let size = positions.saturating_sub(1).isqrt();
    if positions != 1 + size * size || size == 0 {
        let problem = format!("must be a class token's and those of a square of patches, got {positions} positions");
        return Err(Unrecognised::Odd("pos_embed".into(), problem));
    }
    let depth = tensors.count("blocks.")?;
    let mut assumed = Vec::new();
    let mut assume = |heads: usize, part: &str| {
        assumed.push(format!(
            "{heads} attention heads in the {part}: a checkpoint of this dimension does not determine their number"
        ));
        heads
    };
    let published = published_of(embed_dim, depth).map(|published| published.num_heads);
    let num_heads = published.unwrap_or_else(|| assume(default_heads(embed_dim), "encoder"));
    let mut config = MaeConfig {
        image_size_hw: [size * patch_size; 2],
        patch_size,
        embed_dim,
        depth,
        num_heads,
        mlp_dim: tensors.axis("blocks.0.mlp.fc1.weight", 0)?,
        ..MaeConfig::published(Variant::VitB)
    };
    if tensors.get("decoder_embed.weight").is_ok() {
        config.decoder_embed_dim = tensors.axis("decoder_embed.weight", 0)?;
        config.decoder_depth = tensors.count("decoder_blocks.")?;
        config.decoder_mlp_dim = match config.decoder_depth {
            0 => 4 * config.decoder_embed_dim,
            _ => tensors.axis("decoder_blocks.0.mlp.fc1.weight", 0)?,
        };
        if config.decoder_embed_dim != MaeConfig::published(Variant::VitB).decoder_embed_dim {
            config.decoder_num_heads = assume(default_heads(config.decoder_embed_dim), "decoder");
        }
    }
    Ok((config, assumed))
}

fn published_of(embed_dim: usize, depth: usize) -> Option<VitConfig> {
    let published = Variant::VITS.into_iter().filter_map(|vit| SamConfig::published(vit).image_encoder.vit().cloned());
    published.into_iter().find(|vit| (vit.embed_dim, vit.depth) == (embed_dim, depth))
}

/// 64 channels per head as in ViT-B and ViT-L, or 16 in small models, or a single head.
fn default_heads(embed_dim: usize) -> usize {
    let head_dim = [64, 16].into_iter().find(|head| embed_dim.is_multiple_of(*head) && embed_dim > *head);
    embed_dim / head_dim.unwrap_or(embed_dim).max(1)
}

/// The shapes of tensors by key.
pub(crate) struct Shapes<'a> {
    pub(crate) tensors: &'a BTreeMap<String, TensorInfo>,
}

impl Shapes<'_> {
    fn get(&self, key: &str) -> Result<&[usize], Unrecognised> {
        let info = self.tensors.get(key).ok_or_else(|| Unrecognised::Missing(key.into()))?;
        Ok(&info.shape)
    }

    pub(crate) fn shape<const D: usize>(&self, key: &str) -> Result<[usize; D], Unrecognised> {
        let shape = self.get(key)?;
        let odd = |_| Unrecognised::Odd(key.into(), format!("must have {D} axes, got {shape:?}"));
        shape.try_into().map_err(odd)
    }

    pub(crate) fn axis(&self, key: &str, axis: usize) -> Result<usize, Unrecognised> {
        let shape = self.get(key)?;
        let odd = || Unrecognised::Odd(key.into(), format!("has too few axes: {shape:?}"));
        shape.get(axis).copied().ok_or_else(odd)
    }

    /// One more than the highest index after `prefix`.
    pub(crate) fn count(&self, prefix: &str) -> Result<usize, Unrecognised> {
        let index = |key: &String| key.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
        match self.tensors.keys().filter_map(index).max() {
            Some(highest) if highest >= MAX_COUNT => Err(Unrecognised::Other(format!(
                "`{prefix}{highest}` is beyond {MAX_COUNT} layers; the file is damaged"
            ))),
            highest => Ok(highest.map_or(0, |highest| highest + 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Windows of 14 on grids below, at and above that size; blocks 1 and 3 are global.
    #[test]
    fn windowed_and_global_blocks_are_distinguished_on_any_grid() {
        for grid in [8, 10, 14, 32, 64] {
            let global = 2 * grid - 1;
            let lengths = [27, global, 27, global];
            let hints = Hints { window_size: Some(14), global_attn_indexes: Some(vec![1, 3]), ..Hints::default() };
            assert_eq!(windows(&lengths, grid, 24, &hints), Ok((14, vec![1, 3])), "grid {grid}, with hints");
            let found = windows(&lengths, grid, 24, &Hints::default());
            // With windows as large as the grid, windowed and global blocks are equivalent.
            let expected = if grid == 14 { (14, vec![0, 1, 2, 3]) } else { (14, vec![1, 3]) };
            assert_eq!(found, Ok(expected), "grid {grid}");
        }
        // A hint that contradicts the tables is ignored.
        let wrong = Hints { window_size: Some(9), global_attn_indexes: Some(vec![0]), ..Hints::default() };
        assert_eq!(windows(&[27, 127, 27, 127], 64, 24, &wrong), Ok((14, vec![1, 3])));
        assert!(windows(&[27, 127, 31, 127], 64, 24, &Hints::default()).is_err());
    }

    #[test]
    fn a_published_model_is_recognised_below_its_window() {
        for grid in [10, 14, 20, 64] {
            let lengths: Vec<usize> =
                (0..12).map(|block| if [2, 5, 8, 11].contains(&block) { 2 * grid - 1 } else { 27 }).collect();
            assert_eq!(windows(&lengths, grid, 768, &Hints::default()), Ok((14, vec![2, 5, 8, 11])), "grid {grid}");
        }
    }

    #[test]
    fn absurd_counts_are_rejected_before_anything_is_allocated() {
        for key in ["image_encoder.blocks.18446744073709551615.x", "image_encoder.blocks.4000000000.x"] {
            let info = TensorInfo { dtype: super::super::Dtype::F32, shape: vec![1] };
            let tensors = BTreeMap::from([(key.to_owned(), info)]);
            let counted = Shapes { tensors: &tensors }.count("image_encoder.blocks.");
            assert!(matches!(counted, Err(Unrecognised::Other(_))), "{key}: {counted:?}");
        }
    }
}
