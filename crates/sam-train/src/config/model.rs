//! `[model]` of a training: the network and its initial weights.

use std::path::PathBuf;

use sam_model::weights::PUBLISHED_IMAGE_SIZE;
use sam_model::{BatchNormStatistics, SamConfig, Variant};
use serde::{Deserialize, Serialize};

use super::model_sizes::{EncoderKind, check_sizes, read_sizes};
use super::ranges::IMAGE_SIZES;
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
    /// See [`sam_model::VitConfig::drop_path_rate`].
    pub(crate) drop_path: f64,
    /// See [`BatchNormStatistics`]; `None`: those of a TinyViT are frozen, and other models have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) batch_norm: Option<BatchNormStatistics>,
    /// See [`sam_model::MaskDecoderConfig::dropout`].
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
        let encoder = if init == Init::TinyVit { EncoderKind::TinyVit } else { EncoderKind::Vit };
        let network = Network { learning, variant, sizes: read_sizes(&model, encoder, learning) };

        model.only_if(init == Init::Checkpoint, "init", &["checkpoint", "adapter"], "init = \"checkpoint\"");
        model.only_if(init == Init::Mae, "init", &["mae"], "init = \"mae\"");
        model.only_if(init == Init::TinyVit, "init", &["tiny_vit"], "init = \"tiny_vit\"");
        let of_variant = "init = \"scratch\" or \"mae\" (the tensors of other files determine their sizes)";
        model.only_if(matches!(init, Init::Mae | Init::Scratch), "init", &["variant"], of_variant);
        let of_sizes = "init = \"scratch\", \"mae\" or \"tiny_vit\" (the tensors of other files determine their sizes)";
        model.only_if(init != Init::Checkpoint, "init", &["sizes"], of_sizes);
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
            let config = network.around_classifier(reader, &model);
            let what = "the file of a TinyViT that classifies, of its authors or of timm";
            return Self::TinyVit(MaePlan { path: model.required("tiny_vit", what, tiny_vit, PathBuf::new()), config });
        }
        let config = network.new_segmenter(reader, &model, init);
        if init == Init::Mae {
            let what = "the file of a masked autoencoder or the folder of a pre-training run";
            return Self::Mae(MaePlan { path: model.required("mae", what, mae, PathBuf::new()), config });
        }
        Self::Scratch(config)
    }
}

/// What determines a network that is not a checkpoint's.
struct Network {
    learning: Common,
    variant: Option<Variant>,
    /// Of `[model.sizes]`, given or not.
    sizes: SamConfig,
}

impl Network {
    /// MobileSAM, or a TinyViT of other sizes.
    fn around_classifier(self, reader: &Reader<'_>, model: &Section<'_>) -> SamConfig {
        let mut config = self.sizes;
        if !model.is_given("sizes") {
            model.unused(&["sizes"]);
            config = SamConfig::published(Variant::Mobile);
            self.learning.set(&mut config);
        }
        let is_tiny_vit = config.image_encoder.tiny_vit().is_some();
        let keys = ["model.sizes.encoder", "model.init"];
        reader.check(is_tiny_vit, &keys, "\"tiny_vit\" with init = \"tiny_vit\"", "\"vit\"");
        check_sizes(reader, &config);
        config
    }

    /// Of a variant or of `[model.sizes]`.
    fn new_segmenter(self, reader: &Reader<'_>, model: &Section<'_>, init: Init) -> SamConfig {
        let Self { learning, variant, sizes } = self;
        let has_sizes = model.is_given("sizes");
        let one_of_both = "given without model.sizes: both set the sizes";
        reader.check(!(model.is_given("variant") && has_sizes), &["model.variant"], one_of_both, "both");
        if !has_sizes {
            model.unused(&["sizes"]);
            let what = "vit_b, vit_l, vit_h or mobile, or all numbers in [model.sizes]";
            model.required("variant", what, variant, Variant::VitB);
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
            if has_sizes { "sizes" } else { "variant" },
            &["batch_norm"],
            "variant = \"mobile\" or a TinyViT in [model.sizes], as plain ViTs have no batch norms",
        );
        if init == Init::Mae {
            let (key, of_vit, other) = match variant {
                Some(_) => ("model.variant", "vit_b, vit_l or vit_h with init = \"mae\"", "mobile"),
                None => ("model.sizes.encoder", "\"vit\" with init = \"mae\"", "\"tiny_vit\""),
            };
            reader.check(!has_batch_norms, &[key, "model.init"], of_vit, other);
        }
        config
    }
}

/// The keys of `[model]` itself that are part of the network's configuration.
#[derive(Clone, Copy)]
pub(super) struct Common {
    pub(super) image_size: usize,
    pub(super) drop_path: f64,
    pub(super) batch_norm: Option<BatchNormStatistics>,
    pub(super) decoder_dropout: f64,
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
}
