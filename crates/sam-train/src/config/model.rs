//! `[model]` of a training: the network and its initial weights.

use std::path::PathBuf;

use sam_model::weights::PUBLISHED_IMAGE_SIZE;
use sam_model::{
    BatchNormStatistics, ImageEncoderConfig, MaskDecoderConfig, PromptEncoderConfig, SamConfig, Variant, VitConfig,
};
use serde::{Deserialize, Serialize};

use super::ranges::{IMAGE_SIZES, POSITIVE};
use super::reader::{Reader, Section};
use crate::published;

/// The network and its initial weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum ModelPlan {
    /// The weights of a file; its tensors determine the sizes.
    Checkpoint(CheckpointPlan),
    /// The encoder of a masked autoencoder; all other weights are random.
    Mae(MaePlan),
    /// A TinyViT that classifies; all other weights are random.
    TinyVit(MaePlan),
    /// Random weights in a network of these sizes.
    Scratch(SamConfig),
}

/// A pre-trained encoder and the segmenter around it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MaePlan {
    /// An official file, one of this program, or the folder of a pre-training run; of a TinyViT a file of its authors or timm's.
    pub(crate) path: PathBuf,
    /// Sizes of the segmenter; those of the encoder must be the file's.
    pub(crate) config: SamConfig,
}

/// A checkpoint and changes of its network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CheckpointPlan {
    /// File or Hugging Face folder.
    pub(crate) path: PathBuf,
    /// Adapters of an earlier training, as its folder: continued with `[lora]`, else merged into the weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) adapter: Option<PathBuf>,
    /// Model input size during training; by default the checkpoint's.
    pub(crate) image_size: Option<usize>,
    /// See [`VitConfig::drop_path_rate`].
    pub(crate) drop_path: f64,
    /// See [`BatchNormStatistics`]; `None`: those of a TinyViT are frozen, and other models have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) batch_norm: Option<BatchNormStatistics>,
    /// See [`MaskDecoderConfig::dropout`].
    pub(crate) decoder_dropout: f64,
}

#[derive(Clone, Copy, PartialEq)]
enum Init {
    Checkpoint,
    Mae,
    TinyVit,
    Scratch,
}

impl ModelPlan {
    /// Model input size during training; `None`: the checkpoint's.
    pub(super) fn image_size(&self) -> Option<usize> {
        match self {
            Self::Checkpoint(checkpoint) => checkpoint.image_size,
            Self::Mae(MaePlan { config, .. }) | Self::TinyVit(MaePlan { config, .. }) | Self::Scratch(config) => {
                Some(config.image_encoder.image_size())
            }
        }
    }

    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let model = reader.top().section("model");
        let inits = [
            ("checkpoint", Init::Checkpoint),
            ("mae", Init::Mae),
            ("tiny_vit", Init::TinyVit),
            ("scratch", Init::Scratch),
        ];
        let init = model.choice("init", Init::Checkpoint, &inits);
        let path = model.input_path_if_given("checkpoint");
        let adapter = model.input_path_if_given("adapter");
        let mae = model.input_path_if_given("mae");
        let tiny_vit = model.input_path_if_given("tiny_vit");
        let batch_norms = [("frozen", BatchNormStatistics::Frozen), ("running", BatchNormStatistics::Running)];
        let batch_norm = model.choice_if_given("batch_norm", &batch_norms);
        let image_size = model.integer_if_given("image_size", IMAGE_SIZES);
        let variants = Variant::ALL.map(|variant| (variant.name(), variant));
        let variant = model.choice_if_given("variant", &variants);
        let drop_path = model.float("drop_path", 0.0, 0.0..1.0);
        let decoder_dropout = model.float("decoder_dropout", 0.0, 0.0..1.0);
        let image_size_or_published = image_size.unwrap_or(PUBLISHED_IMAGE_SIZE);
        let learning = Common { image_size: image_size_or_published, drop_path, batch_norm, decoder_dropout };
        let sizes = learning.read_sizes(&model);

        model.only_if(init == Init::Checkpoint, "init", &["checkpoint", "adapter"], "init = \"checkpoint\"");
        model.only_if(init == Init::Mae, "init", &["mae"], "init = \"mae\"");
        model.only_if(init == Init::TinyVit, "init", &["tiny_vit"], "init = \"tiny_vit\"");
        let of_sizes = "init = \"scratch\" or \"mae\" (the tensors of other files determine their sizes)";
        model.only_if(matches!(init, Init::Mae | Init::Scratch), "init", &["variant", "sizes"], of_sizes);
        if init == Init::Checkpoint {
            let what = format!("the initial weights, or init = \"scratch\"; {}", published::FIRST.advice());
            let path = model.required("checkpoint", &what, path, PathBuf::new());
            return Self::Checkpoint(CheckpointPlan {
                path,
                adapter,
                image_size,
                drop_path,
                batch_norm,
                decoder_dropout,
            });
        }
        if init == Init::TinyVit {
            let mut config = SamConfig::published(Variant::Mobile);
            learning.set(&mut config);
            check_sizes(reader, &config);
            let what = "the file of a TinyViT that classifies, of its authors or of timm";
            return Self::TinyVit(MaePlan { path: model.required("tiny_vit", what, tiny_vit, PathBuf::new()), config });
        }
        let one_of_both = "given without model.sizes: both set the sizes";
        reader.check(!(model.is_given("variant") && model.is_given("sizes")), &["model.variant"], one_of_both, "both");
        if !model.is_given("sizes") {
            model.unused(&["sizes"]);
            model.required(
                "variant",
                "vit_b, vit_l, vit_h or mobile, or all numbers in [model.sizes]",
                variant,
                Variant::VitB,
            );
        }
        let config = match variant {
            Some(variant) => {
                let mut config = SamConfig::published(variant);
                learning.set(&mut config);
                config
            }
            None => sizes,
        };
        check_sizes(reader, &config);
        let has_batch_norms = config.image_encoder.tiny_vit().is_some();
        model.only_if(
            has_batch_norms,
            "variant",
            &["batch_norm"],
            "variant = \"mobile\", as plain ViTs have no batch norms",
        );
        if init == Init::Mae {
            let of_vit = "vit_b, vit_l or vit_h with init = \"mae\"";
            reader.check(!has_batch_norms, &["model.variant", "model.init"], of_vit, "mobile");
            let what = "the file of a masked autoencoder or the folder of a pre-training run";
            return Self::Mae(MaePlan { path: model.required("mae", what, mae, PathBuf::new()), config });
        }
        Self::Scratch(config)
    }
}

/// The keys of `[model]` itself that are part of the network's configuration.
#[derive(Clone, Copy)]
struct Common {
    image_size: usize,
    drop_path: f64,
    batch_norm: Option<BatchNormStatistics>,
    decoder_dropout: f64,
}

impl Common {
    fn set(self, config: &mut SamConfig) {
        config.image_encoder.set_image_size(self.image_size);
        config.image_encoder.set_drop_path_rate(self.drop_path);
        config.mask_decoder.dropout = self.decoder_dropout;
        if let Some(tiny) = config.image_encoder.tiny_vit_mut() {
            tiny.batch_norm = self.batch_norm.unwrap_or_default();
        }
    }

    /// `[model.sizes]`; the defaults are common to all published models.
    fn read_sizes(self, model: &Section<'_>) -> SamConfig {
        let is_given = model.is_given("sizes");
        let sizes = model.section("sizes");
        let required = |key: &str, what: &str| {
            let value = sizes.integer_if_given(key, 1..);
            if is_given { sizes.required(key, what, value, 1) } else { value.unwrap_or(1) }
        };
        let embed_dim: usize = required("embed_dim", "the embedding dimension of the encoder");
        let depth = required("depth", "the number of blocks of the encoder");
        let num_heads = required("num_heads", "the attention heads of a block, which divide embed_dim");
        let global = sizes.integers_if_given::<usize>("global_attn_indexes", 0..);
        let what = "the indices of the blocks with global attention, from 0";
        let global_attn_indexes =
            if is_given { sizes.required("global_attn_indexes", what, global, Vec::new()) } else { Vec::new() };
        let mlp_ratio = sizes.float("mlp_ratio", 4.0, POSITIVE);
        let out_chans = sizes.integer::<usize>("out_chans", 256, 1..);
        SamConfig {
            image_encoder: ImageEncoderConfig::Vit(VitConfig {
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
            }),
            prompt_encoder: PromptEncoderConfig {
                embed_dim: out_chans,
                mask_in_chans: sizes.integer("mask_in_chans", 16, 1..),
            },
            mask_decoder: MaskDecoderConfig {
                transformer_dim: out_chans,
                depth: sizes.integer("decoder_depth", 2, 1..),
                num_heads: sizes.integer("decoder_heads", 8, 1..),
                mlp_dim: sizes.integer("decoder_mlp_dim", 2048, 1..),
                // As published: half the embedding dimension, three masks, a head of three layers of the decoder's dimension.
                cross_dim: out_chans / 2,
                num_multimask_outputs: 3,
                iou_head_depth: 3,
                iou_head_hidden_dim: out_chans,
                dropout: self.decoder_dropout,
            },
            text: None,
        }
    }
}

/// Reports sizes that do not fit together.
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
