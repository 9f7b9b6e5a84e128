//! `task = "pretrain"`: an encoder is pre-trained as a masked autoencoder on unlabelled images. The defaults are those of the
//! reference's recommended command (He 2021, arXiv 2111.06377; `PRETRAIN.md`).

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use sam_data::is_cloud;
use sam_data::loader::{ErrorPolicy, LoaderOptions};
use sam_data::synth::SynthScenes;
use sam_data::transforms::{Augmentation, ResizedCrop};
use sam_learn::options::{
    LogOptions, LrDecay, MaeObjective, OptimiserOptions, RECONSTRUCTION_LOSS, RunOptions, ScheduleOptions,
    ValidationOptions, mae_learning_rate,
};
use sam_model::{MaeConfig, MaeTarget, Variant};
use serde::{Deserialize, Serialize};

use super::data::{change_loading, read_on_unreadable};
use super::data_source::{DataSource, read_scenes, scenes_after};
use super::learning::{read_adamw, read_steps};
use super::limits::{Batches, Blocks, check_parameters};
use super::ranges::{BETWEEN_0_AND_1, IMAGE_SIZES, POSITIVE, SHARE_ABOVE_0};
use super::reader::{Reader, Section};
use super::run::{change_validation, check_validation, default_every_steps, read_log, read_run};

/// Warm-up of 40 epochs of 800.
const WARMUP_PART: u64 = 20;

/// Everything that decides a pre-training. It is printed before the run, saved with it, and read again to resume it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PretrainPlan {
    /// Images of a step, all batches together.
    pub(crate) images_per_step: usize,
    /// Where it runs.
    pub(crate) run: RunOptions,
    /// The network and its initial weights.
    pub(crate) model: PretrainModelPlan,
    /// Training data.
    pub(crate) data: PretrainDataPlan,
    /// The training objective.
    pub(crate) mae: MaeObjective,
    /// The optimiser.
    pub(crate) optimiser: OptimiserOptions,
    /// Number of steps and learning rates.
    pub(crate) schedule: ScheduleOptions,
    /// When it is validated.
    pub(crate) validation: ValidationOptions,
    /// What it logs.
    pub(crate) log: LogOptions,
}

/// The network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PretrainModelPlan {
    /// A masked autoencoder to start from; by default random weights.
    pub(crate) mae: Option<PathBuf>,
    /// Its sizes.
    pub(crate) config: MaeConfig,
}

/// Training and held-out images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PretrainDataPlan {
    /// Training data.
    pub(crate) train: DataSource,
    /// Whether it is opened as a labelled data set, whose labels are ignored.
    pub(crate) kind: SourceKind,
    /// Images that are never trained on.
    pub(crate) held_out: HeldOutPlan,
    /// Images of a batch.
    pub(crate) images_per_batch: NonZeroUsize,
    /// Smallest fraction of an image's area in a crop.
    pub(crate) area_share_min: f64,
    /// Probability of a horizontal flip.
    pub(crate) horizontal_flip: f64,
    /// Threads that read and transform.
    pub(crate) workers: usize,
    /// Batches that are prepared ahead.
    pub(crate) prefetch: usize,
    /// How unreadable images are handled.
    pub(crate) on_unreadable: ErrorPolicy,
}

/// How `data.train` is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SourceKind {
    /// All images below a folder and in its shards.
    Images,
    /// The images of a data set of a known format.
    #[default]
    Labelled,
}

impl SourceKind {
    pub(super) const ALL: [(&str, SourceKind); 2] =
        [("images", SourceKind::Images), ("labelled", SourceKind::Labelled)];

    pub(super) fn is_labelled(&self) -> bool {
        *self == Self::Labelled
    }
}

/// Images that are never trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum HeldOutPlan {
    /// None: the last checkpoint is the best.
    Nothing,
    /// A fraction of the training images, by a hash of their names.
    Share(f64),
    /// Another folder.
    Images(PathBuf),
    /// Synthetic scenes, generated on the fly.
    Synth(SynthScenes),
}

impl PretrainPlan {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let data = reader.top().section("data");
        let images_per_step = data.integer("images_per_step", 1, 1..);
        let optimiser = read_optimiser(reader, images_per_step);
        let accumulation = optimiser.accumulation;
        let schedule = read_schedule(reader);
        let model = PretrainModelPlan::read(reader);
        let multiple =
            format!("a multiple of optimiser.accumulation ({accumulation}), which splits a step into batches");
        let keys = ["data.images_per_step", "optimiser.accumulation"];
        reader.check(images_per_step.is_multiple_of(accumulation), &keys, &multiple, images_per_step);
        Self {
            images_per_step,
            run: read_run(reader),
            data: PretrainDataPlan::read(reader, &data, images_per_step / accumulation),
            mae: read_objective(reader, &model.config),
            validation: read_validation(reader, schedule.steps),
            log: read_log(reader),
            model,
            optimiser,
            schedule,
        }
    }

    pub(super) fn check_memory(&self, reader: &Reader<'_>) {
        let config = &self.model.config;
        let PretrainDataPlan { images_per_batch, prefetch, .. } = self.data;
        Batches { n_images: images_per_batch.get(), image_hw: config.image_size_hw, prefetch }.check(reader);
        let blocks = [
            Blocks { depth: config.depth, dim: config.embed_dim, mlp_dim: config.mlp_dim },
            Blocks { depth: config.decoder_depth, dim: config.decoder_embed_dim, mlp_dim: config.decoder_mlp_dim },
        ];
        let n_positions = config.image_size_hw.iter().product::<usize>() / config.patch_size.max(1).pow(2);
        check_parameters(reader, &blocks, [n_positions, config.embed_dim + config.decoder_embed_dim]);
    }

    /// How images are loaded.
    pub(crate) fn loader_options(&self) -> LoaderOptions {
        let PretrainDataPlan { area_share_min, horizontal_flip, images_per_batch, workers, prefetch, .. } = self.data;
        let crop = ResizedCrop::of_pretraining(self.model.config.image_size_hw);
        LoaderOptions {
            seed: self.run.seed,
            n_images: images_per_batch,
            augmentation: Augmentation {
                horizontal_flip_chance: horizontal_flip,
                resized_crop: Some(ResizedCrop { area_share: [area_share_min, 1.0], ..crop }),
                ..Augmentation::default()
            },
            n_workers: workers,
            n_prefetch_batches: prefetch,
            on_error: self.data.on_unreadable,
            ..LoaderOptions::default()
        }
    }
}

impl PretrainModelPlan {
    fn read(reader: &Reader<'_>) -> Self {
        let model = reader.top().section("model");
        let mae = model.input_path_if_given("mae");
        let variants = Variant::VITS.map(|variant| (variant.name(), variant));
        let variant = model.choice_if_given("variant", &variants);
        let image_size = model.integer("image_size", 224, IMAGE_SIZES);
        let hw = model.integers_if_given::<usize>("image_size_hw", IMAGE_SIZES);
        let sizes = model.section("sizes");
        let is_custom = model.is_given("sizes");
        let one = "given without model.sizes: both set the sizes";
        reader.check(!(is_custom && model.is_given("variant")), &["model.variant"], one, "both");
        let one = "given without model.image_size: both set the size";
        let both = model.is_given("image_size") && model.is_given("image_size_hw");
        reader.check(!both, &["model.image_size_hw"], one, "both");
        if model.is_given("image_size_hw") {
            model.unused(&["image_size"]);
        }
        if !is_custom {
            model.unused(&["sizes"]);
            model.required("variant", "vit_b, vit_l or vit_h, or all numbers in [model.sizes]", variant, Variant::VitB);
        }
        let published = MaeConfig::published(variant.unwrap_or(Variant::VitB));
        let image_size_hw = match hw.as_deref() {
            None => [image_size; 2],
            Some(&[height, width]) => [height, width],
            Some(other) => {
                let expected = "height and width, such as [224, 320]";
                reader.check(false, &["model.image_size_hw"], expected, format!("{other:?}"));
                [image_size; 2]
            }
        };
        // SAM's patches have 16 px in all variants; the published autoencoder of ViT-H has 14.
        let patch_size = model.integer("patch_size", 16, 1..=1024);
        let required = |key: &str, what: &str, published: usize| {
            let value = sizes.integer_if_given(key, 1..);
            if is_custom { sizes.required(key, what, value, published) } else { value.unwrap_or(published) }
        };
        let embed_dim = required("embed_dim", "the embedding dimension of the encoder", published.embed_dim);
        let depth = required("depth", "the number of blocks of the encoder", published.depth);
        let num_heads =
            required("num_heads", "the attention heads of a block, which divide embed_dim", published.num_heads);
        let mlp_ratio = sizes.float("mlp_ratio", 4.0, POSITIVE);
        let decoder_embed_dim = sizes.integer("decoder_embed_dim", published.decoder_embed_dim, 1..);
        let config = MaeConfig {
            image_size_hw,
            patch_size,
            embed_dim,
            depth,
            num_heads,
            mlp_dim: (embed_dim as f64 * mlp_ratio) as usize,
            decoder_embed_dim,
            decoder_depth: sizes.integer("decoder_depth", published.decoder_depth, 1..),
            decoder_num_heads: sizes.integer("decoder_heads", published.decoder_num_heads, 1..),
            decoder_mlp_dim: 4 * decoder_embed_dim,
        };
        if let Err(error) = config.check() {
            let keys = ["model.image_size", "model.image_size_hw", "model.patch_size", "model.sizes"];
            reader.object(&keys, format!("[model]: {}", error.problems.join("; ")));
        }
        Self { mae, config }
    }
}

impl PretrainDataPlan {
    fn read(reader: &Reader<'_>, data: &Section<'_>, images_per_batch: usize) -> Self {
        let train = DataSource::read_train(reader, data);
        let default = match &train {
            DataSource::Files(files) if is_images(&files.path) => SourceKind::Images,
            DataSource::Files(_) | DataSource::Several(_) | DataSource::Synth(_) => SourceKind::Labelled,
        };
        let kind = data.choice("source", default, &SourceKind::ALL);
        let held_out = HeldOutPlan::read(reader, data, &train);
        let mut plan = Self {
            on_unreadable: read_on_unreadable(data, &train),
            train,
            kind,
            held_out,
            images_per_batch: NonZeroUsize::new(images_per_batch).unwrap_or(NonZeroUsize::MIN),
            area_share_min: data.float("area_share_min", 0.2, SHARE_ABOVE_0),
            horizontal_flip: data.float("horizontal_flip", 0.5, 0.0..=1.0),
            workers: 2,
            prefetch: 2,
        };
        change_loading(&mut plan.workers, &mut plan.prefetch, data);
        plan
    }
}

/// Folders and shards on disk; other files are annotations, and in the cloud, shards have a JSON beside each image.
fn is_images(path: &Path) -> bool {
    let is_shard = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar"));
    !is_cloud(path) && (!path.is_file() || is_shard)
}

impl HeldOutPlan {
    fn read(reader: &Reader<'_>, data: &Section<'_>, train: &DataSource) -> Self {
        let share = data.float_or_none("hold_out", None, BETWEEN_0_AND_1);
        let path = data.input_path_if_given("validation");
        let is_synth = data.is_given("validation_synth");
        let synth = read_scenes(reader, &data.section("validation_synth"), &scenes_after(train));
        let given: Vec<&str> = [
            share.map(|_| "data.hold_out"),
            path.as_ref().map(|_| "data.validation"),
            is_synth.then_some("[data.validation_synth]"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let one = "given alone: use one of data.hold_out, data.validation and [data.validation_synth]";
        reader.check(given.len() < 2, &["data.hold_out", "data.validation"], one, given.join(" and "));
        if !is_synth {
            data.unused(&["validation_synth"]);
        }
        match (share, path, is_synth) {
            (Some(share), ..) => Self::Share(share),
            (_, Some(path), _) => Self::Images(path),
            (_, _, true) => Self::Synth(synth),
            _ => Self::Nothing,
        }
    }
}

fn read_objective(reader: &Reader<'_>, config: &MaeConfig) -> MaeObjective {
    let mae = reader.top().section("mae");
    let targets = [("pixels", MaeTarget::Pixels), ("normalised_pixels", MaeTarget::NormalisedPixels)];
    let mask_ratio = mae.float("mask_ratio", 0.75, BETWEEN_0_AND_1);
    let n_patches = if config.patch_size > 0 { config.n_patches() } else { 0 };
    let n_kept = sam_model::RandomMasking::n_kept(n_patches, mask_ratio);
    let expected = format!("a fraction that keeps and removes at least one of the {n_patches} patches of an image");
    reader.check(n_kept > 0 && n_kept < n_patches.max(2), &["mae.mask_ratio"], &expected, mask_ratio);
    MaeObjective { mask_ratio, target: mae.choice("target", MaeTarget::NormalisedPixels, &targets) }
}

/// Validated by the loss alone, without prompts.
fn read_validation(reader: &Reader<'_>, steps: u64) -> ValidationOptions {
    let validation = reader.top().section("validation");
    let mut options = ValidationOptions {
        every_steps: default_every_steps(steps),
        metric: RECONSTRUCTION_LOSS.to_owned(),
        clicks: Vec::new(),
        boxes: false,
        texts: None,
        max_images: validation.integer("max_images", 256, 1..),
        patience: 0,
        baseline: true,
    };
    change_validation(&mut options, &validation);
    check_validation(&options, reader, steps);
    options
}

fn read_optimiser(reader: &Reader<'_>, images_per_step: usize) -> OptimiserOptions {
    let optimiser = reader.top().section("optimiser");
    let base_lr = optimiser.float("base_lr", 1.5e-4, POSITIVE);
    let one = "given without optimiser.lr: the rate would be base_lr * images_per_step / 256";
    let both = optimiser.is_given("base_lr") && optimiser.is_given("lr");
    reader.check(!both, &["optimiser.base_lr"], one, "both");
    optimiser.unused(if optimiser.is_given("lr") { &["base_lr"] } else { &["lr"] });
    let default = OptimiserOptions {
        lr: mae_learning_rate(base_lr, images_per_step),
        weight_decay: 0.05,
        betas: [0.9, 0.95],
        clip_norm: None,
        ..OptimiserOptions::default()
    };
    read_adamw(&optimiser, &default)
}

/// A linear warm-up, then half a cosine down to zero, per step.
fn read_schedule(reader: &Reader<'_>) -> ScheduleOptions {
    let schedule = reader.top().section("schedule");
    let [steps, warmup_steps] = read_steps(reader, &schedule, |steps| steps / WARMUP_PART);
    let final_share = schedule.float("final_share", 0.0, 0.0..=1.0);
    ScheduleOptions { steps, warmup_steps, decay: LrDecay::Cosine { final_share } }
}
