//! `task = "pretrain"`: an encoder learns from images alone, as a masked autoencoder. The defaults are the recommended
//! command's of the reference (He 2021, arXiv 2111.06377; `PRETRAIN.md`).

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use sam_data::loader::{ErrorPolicy, LoaderOptions};
use sam_data::transforms::{Augmentation, ResizedCrop};
use sam_learn::options::{
    LogOptions, LrDecay, MaeObjective, OptimiserOptions, RECONSTRUCTION_LOSS, RunOptions, ScheduleOptions,
    ValidationOptions,
};
use sam_learn::pretraining::rate_of_base;
use sam_model::{MaeConfig, MaeTarget, Variant};
use serde::{Deserialize, Serialize};

use super::data::OnUnreadable;
use super::data_source::{DataSource, SynthPlan};
use super::document::Document;
use super::problems::ConfigError;
use super::ranges::{BETWEEN_0_AND_1, POSITIVE, SHARE_ABOVE_0};
use super::reader::{Paths, Reader, Section};
use super::run::{check_validation, default_every_steps, read_log, read_run};
use super::{Task, read_task};

/// Sizes of images that are pre-trained on.
const IMAGE_SIZES: std::ops::RangeInclusive<usize> = 16..=(1 << 15);

/// Threads and batches ahead; more was mistyped.
const WORKERS: std::ops::RangeInclusive<usize> = 0..=1024;

/// 40 epochs of 800.
const WARMUP_PART: u64 = 20;

/// Everything that decides a pre-training. Printed before it, saved with it, and read again to go on with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PretrainPlan {
    /// Tells this plan from a training's.
    pub(crate) task: PretrainTask,
    /// Images of a step, all batches together.
    pub(crate) images_per_step: usize,
    /// Where it happens.
    pub(crate) run: RunOptions,
    /// Which network, and from which weights.
    pub(crate) model: PretrainModelPlan,
    /// What is learned from.
    pub(crate) data: PretrainDataPlan,
    /// What is removed and painted.
    pub(crate) mae: MaeObjective,
    /// How gradients become steps.
    pub(crate) optimiser: OptimiserOptions,
    /// How many steps, at which rates.
    pub(crate) schedule: ScheduleOptions,
    /// When it is judged.
    pub(crate) validation: ValidationOptions,
    /// What it says on the way.
    pub(crate) log: LogOptions,
}

/// The one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PretrainTask {
    /// `task = "pretrain"`.
    Pretrain,
}

/// Which network.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PretrainModelPlan {
    /// A masked autoencoder to go on from; none: from scratch.
    pub(crate) mae: Option<PathBuf>,
    /// Its sizes.
    pub(crate) config: MaeConfig,
}

/// Images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PretrainDataPlan {
    /// What is learned from.
    pub(crate) train: DataSource,
    /// Whether it is opened as a data set with labels, which are then left aside.
    pub(crate) kind: SourceKind,
    /// What is never learned from.
    pub(crate) held_out: HeldOutPlan,
    /// Images of a batch.
    pub(crate) images_per_batch: NonZeroUsize,
    /// Smallest share of an image's area that is looked at.
    pub(crate) area_share_min: f64,
    /// Chance of mirroring.
    pub(crate) horizontal_flip: f64,
    /// Threads that read and transform.
    pub(crate) workers: usize,
    /// Batches that are made ahead.
    pub(crate) prefetch: usize,
    /// What happens when an image cannot be read.
    pub(crate) on_unreadable: OnUnreadable,
}

/// How `data.train` is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SourceKind {
    /// All images below a folder and in its shards.
    Images,
    /// The images of a data set of a known format.
    Labelled,
}

/// What is never learned from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum HeldOutPlan {
    /// Nothing: the last checkpoint is the best.
    Nothing,
    /// A share of the training images, by a hash of their names.
    Share(f64),
    /// Another folder.
    Images(PathBuf),
    /// Scenes made on the fly.
    Synth(SynthPlan),
}

impl PretrainPlan {
    /// The plan of a configuration.
    ///
    /// # Errors
    ///
    /// With everything that is wrong, each with its line.
    pub(crate) fn read(document: &Document, paths: Paths) -> Result<Self, ConfigError> {
        let reader = Reader::new(document, paths);
        read_task(&reader);
        let data = reader.top().section("data");
        let images_per_step = data.integer("images_per_step", 1, 1..);
        let optimiser = read_optimiser(&reader, images_per_step);
        let accumulation = optimiser.accumulation;
        let schedule = read_schedule(&reader);
        let model = PretrainModelPlan::read(&reader);
        let multiple = format!("a multiple of optimiser.accumulation ({accumulation}), which cuts a step into batches");
        let keys = ["data.images_per_step", "optimiser.accumulation"];
        reader.check(images_per_step.is_multiple_of(accumulation), &keys, &multiple, images_per_step);
        let plan = Self {
            task: PretrainTask::Pretrain,
            images_per_step,
            run: read_run(&reader),
            data: PretrainDataPlan::read(&reader, &data, images_per_step / accumulation),
            mae: read_objective(&reader, &model.config),
            validation: read_validation(&reader, schedule.steps),
            log: read_log(&reader),
            model,
            optimiser,
            schedule,
        };
        reader.finish()?;
        Ok(plan)
    }

    /// Whether a saved plan is one of these.
    pub(crate) fn is_saved_at(path: &Path) -> bool {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let table: Option<toml::Table> = toml::from_str(&text).ok();
        table.is_some_and(|table| table.get("task").and_then(toml::Value::as_str) == Some(Task::Pretrain.name()))
    }

    /// As it is printed and saved.
    ///
    /// # Errors
    ///
    /// When a number does not fit into TOML.
    pub(crate) fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
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
            on_error: match self.data.on_unreadable {
                OnUnreadable::Stop => ErrorPolicy::Stop,
                OnUnreadable::Skip => ErrorPolicy::Skip,
            },
            ..LoaderOptions::default()
        }
    }
}

impl PretrainModelPlan {
    fn read(reader: &Reader<'_>) -> Self {
        let model = reader.top().section("model");
        let mae = model.input_path_if_given("mae");
        let variants = Variant::ALL.map(|variant| (variant.name(), variant));
        let variant = model.choice_if_given("variant", &variants);
        let image_size = model.integer("image_size", 224, IMAGE_SIZES);
        let hw = model.integers_if_given::<usize>("image_size_hw", IMAGE_SIZES);
        let sizes = model.section("sizes");
        let is_custom = model.is_given("sizes");
        let one = "given without model.sizes: one of both says the sizes";
        reader.check(!(is_custom && model.is_given("variant")), &["model.variant"], one, "both");
        let one = "given without model.image_size: one of both says the size";
        let both = model.is_given("image_size") && model.is_given("image_size_hw");
        reader.check(!both, &["model.image_size_hw"], one, "both");
        if !is_custom {
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
        // SAM's patches have 16 px whatever the size; the published autoencoder of ViT-H has 14.
        let patch_size = model.integer("patch_size", 16, 1..=1024);
        let required = |key: &str, what: &str, published: usize| {
            let value = sizes.integer_if_given(key, 1..);
            if is_custom { sizes.required(key, what, value, published) } else { value.unwrap_or(published) }
        };
        let embed_dim = required("embed_dim", "the width of the encoder's tokens", published.embed_dim);
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
            DataSource::Files(_) | DataSource::Synth(_) => SourceKind::Labelled,
        };
        let kinds = [("images", SourceKind::Images), ("labelled", SourceKind::Labelled)];
        let kind = data.choice("source", default, &kinds);
        let policies = [("stop", OnUnreadable::Stop), ("skip", OnUnreadable::Skip)];
        let held_out = HeldOutPlan::read(reader, data, &train);
        let mut plan = Self {
            train,
            kind,
            held_out,
            images_per_batch: NonZeroUsize::new(images_per_batch).unwrap_or(NonZeroUsize::MIN),
            area_share_min: data.float("area_share_min", 0.2, SHARE_ABOVE_0),
            horizontal_flip: data.float("horizontal_flip", 0.5, 0.0..=1.0),
            workers: 2,
            prefetch: 2,
            on_unreadable: data.choice("on_unreadable", OnUnreadable::Stop, &policies),
        };
        plan.read_changeable(data);
        plan
    }

    /// What may be another on resume.
    pub(super) fn read_changeable(&mut self, data: &Section<'_>) {
        self.workers = data.integer("workers", self.workers, WORKERS);
        self.prefetch = data.integer("prefetch", self.prefetch, 1..=*WORKERS.end());
    }
}

/// Folders and shards; other files are lists of labels.
fn is_images(path: &Path) -> bool {
    !path.is_file() || path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("tar"))
}

impl HeldOutPlan {
    fn read(reader: &Reader<'_>, data: &Section<'_>, train: &DataSource) -> Self {
        let share = data.float_or_none("hold_out", None, BETWEEN_0_AND_1);
        let path = data.input_path_if_given("validation");
        let train_synth = match train {
            DataSource::Synth(synth) => synth.after(),
            DataSource::Files(_) => SynthPlan::default(),
        };
        let is_synth = data.is_given("validation_synth");
        let synth = SynthPlan::read(reader, &data.section("validation_synth"), &train_synth);
        let given: Vec<&str> = [
            share.map(|_| "data.hold_out"),
            path.as_ref().map(|_| "data.validation"),
            is_synth.then_some("[data.validation_synth]"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let one = "given alone: one of data.hold_out, data.validation and [data.validation_synth] is held out";
        reader.check(given.len() < 2, &["data.hold_out", "data.validation"], one, given.join(" and "));
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
    let expected = format!("a share that keeps and removes at least one of the {n_patches} patches of an image");
    reader.check(n_kept > 0 && n_kept < n_patches.max(2), &["mae.mask_ratio"], &expected, mask_ratio);
    MaeObjective { mask_ratio, target: mae.choice("target", MaeTarget::NormalisedPixels, &targets) }
}

/// Validated by the loss alone: no prompts, and always before the first step, too.
fn read_validation(reader: &Reader<'_>, steps: u64) -> ValidationOptions {
    let validation = reader.top().section("validation");
    let mut options = ValidationOptions {
        every_steps: default_every_steps(steps),
        metric: RECONSTRUCTION_LOSS.to_owned(),
        clicks: Vec::new(),
        boxes: false,
        max_images: validation.integer("max_images", 256, 1..),
        patience: 0,
        baseline: true,
    };
    change_validation(&mut options, &validation);
    check_validation(&options, reader, steps);
    options
}

/// Reads the keys of `[validation]` that can change on resume.
pub(super) fn change_validation(options: &mut ValidationOptions, validation: &Section<'_>) {
    options.every_steps = validation.integer("every_steps", options.every_steps, 1..);
    options.patience = validation.integer("patience", options.patience, 0..);
}

fn read_optimiser(reader: &Reader<'_>, images_per_step: usize) -> OptimiserOptions {
    let optimiser = reader.top().section("optimiser");
    let base_lr = optimiser.float("base_lr", 1.5e-4, POSITIVE);
    let lr = optimiser.float("lr", rate_of_base(base_lr, images_per_step), POSITIVE);
    let one = "given without optimiser.lr: base_lr * images_per_step / 256 is the rate";
    let both = optimiser.is_given("base_lr") && optimiser.is_given("lr");
    reader.check(!both, &["optimiser.base_lr"], one, "both");
    OptimiserOptions {
        lr,
        weight_decay: optimiser.float("weight_decay", 0.05, 0.0..),
        betas: optimiser.float_pair_if_given("betas", 0.0..1.0).unwrap_or([0.9, 0.95]),
        eps: optimiser.float("eps", 1e-8, POSITIVE),
        clip_norm: optimiser.float_or_none("clip_norm", None, POSITIVE),
        accumulation: optimiser.integer("accumulation", 1, 1..),
        ema_decay: optimiser.float_or_none("ema_decay", None, BETWEEN_0_AND_1),
        ..OptimiserOptions::default()
    }
}

/// Half a cosine down to nothing after the warm-up, by the step.
fn read_schedule(reader: &Reader<'_>) -> ScheduleOptions {
    let schedule = reader.top().section("schedule");
    let steps = schedule.integer_if_given::<u64>("steps", 1..);
    let steps = schedule.required("steps", "how many steps the run has", steps, 1);
    let warmup_steps = schedule.integer("warmup_steps", steps / WARMUP_PART, 0..);
    let final_share = schedule.float("final_share", 0.0, 0.0..=1.0);
    let keys = ["schedule.warmup_steps", "schedule.steps"];
    reader.check(warmup_steps < steps, &keys, &format!("below schedule.steps ({steps})"), warmup_steps);
    ScheduleOptions { steps, warmup_steps, decay: LrDecay::Cosine { final_share } }
}
