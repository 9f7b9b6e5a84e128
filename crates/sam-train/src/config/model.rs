//! `[model]`: which network is trained, and from which weights.

use std::path::PathBuf;

use sam_model::weights::PUBLISHED_IMAGE_SIZE;
use sam_model::{ImageEncoderConfig, MaskDecoderConfig, PromptEncoderConfig, SamConfig, Variant};
use serde::{Deserialize, Serialize};

use super::ranges::POSITIVE;
use super::reader::{Reader, Section};

/// Image sizes that any model can have; [`SamConfig::check`] says more once the patch size is known.
const IMAGE_SIZES: std::ops::RangeInclusive<usize> = 16..=(1 << 15);

/// What the loop begins with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ModelPlan {
    /// Weights of a file; its sizes are read off the tensors.
    Checkpoint(CheckpointPlan),
    /// The encoder of a masked autoencoder in a network that is random otherwise.
    Mae(MaePlan),
    /// Random weights in a network of these sizes.
    Scratch(SamConfig),
}

/// A pre-trained encoder and what is made around it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MaePlan {
    /// An official file, one of our own, or the folder of a pre-training run.
    pub(crate) path: PathBuf,
    /// Sizes of the segmenter; those of the encoder must be the file's.
    pub(crate) config: SamConfig,
}

/// What is changed about a checkpoint's network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckpointPlan {
    /// File or Hugging Face folder.
    pub(crate) path: PathBuf,
    /// Side of the model's square while training; none: the checkpoint's own.
    pub(crate) image_size: Option<usize>,
    /// See [`ImageEncoderConfig::drop_path_rate`].
    pub(crate) drop_path: f64,
    /// See [`MaskDecoderConfig::dropout`].
    pub(crate) decoder_dropout: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Init {
    Checkpoint,
    Mae,
    Scratch,
}

impl ModelPlan {
    /// Side of the model's square in training; `None`: the checkpoint's own.
    pub(super) fn image_size(&self) -> Option<usize> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.image_size,
            Self::Mae(MaePlan { config, .. }) | Self::Scratch(config) => Some(config.image_encoder.image_size),
        }
    }

    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let model = reader.top().section("model");
        let inits = [("checkpoint", Init::Checkpoint), ("mae", Init::Mae), ("scratch", Init::Scratch)];
        let init = model.choice("init", Init::Checkpoint, &inits);
        let path = model.input_path_if_given("checkpoint");
        let mae = model.input_path_if_given("mae");
        let image_size = model.integer_if_given("image_size", IMAGE_SIZES);
        let variants = Variant::ALL.map(|variant| (variant.name(), variant));
        let variant = model.choice_if_given("variant", &variants);
        let drop_path = model.float("drop_path", 0.0, 0.0..1.0);
        let decoder_dropout = model.float("decoder_dropout", 0.0, 0.0..1.0);
        let image_size_or_published = image_size.unwrap_or(PUBLISHED_IMAGE_SIZE);
        let sizes = Sizes { image_size: image_size_or_published, drop_path, decoder_dropout }.read(&model);

        model.only_if(init == Init::Checkpoint, "init", &["checkpoint"], "init = \"checkpoint\"");
        model.only_if(init == Init::Mae, "init", &["mae"], "init = \"mae\"");
        let of_sizes = "init = \"scratch\" or \"mae\" (the sizes of a checkpoint are read off its tensors)";
        model.only_if(init != Init::Checkpoint, "init", &["variant", "sizes"], of_sizes);
        if init == Init::Checkpoint {
            let what = "the file to begin with, or init = \"scratch\"";
            let path = model.required("checkpoint", what, path, PathBuf::new());
            return Self::Checkpoint(CheckpointPlan { path, image_size, drop_path, decoder_dropout });
        }
        let one_of_both = "given without model.sizes: one of both says the sizes";
        reader.check(!(model.is_given("variant") && model.is_given("sizes")), &["model.variant"], one_of_both, "both");
        if !model.is_given("sizes") {
            model.required("variant", "vit_b, vit_l or vit_h, or all numbers in [model.sizes]", variant, Variant::VitB);
        }
        let config = match variant {
            Some(variant) => {
                let mut config = SamConfig::published(variant);
                config.image_encoder.image_size = image_size_or_published;
                config.image_encoder.drop_path_rate = drop_path;
                config.mask_decoder.dropout = decoder_dropout;
                config
            }
            None => sizes,
        };
        check_sizes(reader, &config);
        if init == Init::Mae {
            let what = "the file of a masked autoencoder or the folder of a pre-training run";
            return Self::Mae(MaePlan { path: model.required("mae", what, mae, PathBuf::new()), config });
        }
        Self::Scratch(config)
    }
}

/// The part of the sizes that stands in `[model]` itself.
struct Sizes {
    image_size: usize,
    drop_path: f64,
    decoder_dropout: f64,
}

impl Sizes {
    /// `[model.sizes]`; what all published models share is the default.
    fn read(self, model: &Section<'_>) -> SamConfig {
        let is_given = model.is_given("sizes");
        let sizes = model.section("sizes");
        let required = |key: &str, what: &str| {
            let value = sizes.integer_if_given(key, 1..);
            if is_given { sizes.required(key, what, value, 1) } else { value.unwrap_or(1) }
        };
        let embed_dim: usize = required("embed_dim", "the width of the encoder's tokens");
        let depth = required("depth", "the number of blocks of the encoder");
        let num_heads = required("num_heads", "the attention heads of a block, which divide embed_dim");
        let global = sizes.integers_if_given::<usize>("global_attn_indexes", 0..);
        let what = "the blocks that attend over the whole image, from 0 on";
        let global_attn_indexes =
            if is_given { sizes.required("global_attn_indexes", what, global, Vec::new()) } else { Vec::new() };
        let mlp_ratio = sizes.float("mlp_ratio", 4.0, POSITIVE);
        let out_chans = sizes.integer::<usize>("out_chans", 256, 1..);
        SamConfig {
            image_encoder: ImageEncoderConfig {
                image_size: self.image_size,
                patch_size: sizes.integer("patch_size", 16, 1..),
                embed_dim,
                depth,
                num_heads,
                mlp_dim: (embed_dim as f64 * mlp_ratio) as usize,
                out_chans,
                window_size: sizes.integer("window_size", 14, 0..),
                global_attn_indexes,
                drop_path_rate: self.drop_path,
            },
            prompt_encoder: PromptEncoderConfig {
                embed_dim: out_chans,
                mask_in_chans: sizes.integer("mask_in_chans", 16, 1..),
            },
            mask_decoder: MaskDecoderConfig {
                transformer_dim: out_chans,
                depth: sizes.integer("decoder_depth", 2, 1..),
                num_heads: sizes.integer("decoder_heads", 8, 1..),
                mlp_dim: sizes.integer("decoder_mlp_dim", 2048, 1..),
                // As published: half of the width, three masks, a head of three layers as wide as the decoder.
                cross_dim: out_chans / 2,
                num_multimask_outputs: 3,
                iou_head_depth: 3,
                iou_head_hidden_dim: out_chans,
                dropout: self.decoder_dropout,
            },
        }
    }
}

/// Whether the sizes fit together.
fn check_sizes(reader: &Reader<'_>, config: &SamConfig) {
    let problems = config.check().err().map_or(Vec::new(), |error| error.problems);
    let (of_image, of_sizes): (Vec<String>, Vec<String>) =
        problems.into_iter().partition(|problem| problem.starts_with("image_size"));
    if !of_image.is_empty() {
        reader.object(&["model.image_size", "model.sizes"], format!("model.{}", of_image.join("; ")));
    }
    if !of_sizes.is_empty() {
        reader.object(&["model.sizes"], format!("model.sizes do not fit together: {}", of_sizes.join("; ")));
    }
}
