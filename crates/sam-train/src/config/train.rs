//! `task = "train"`: the plan of a training run, with every default and every derived number; and `[result]`.

use sam_learn::options::{
    LogOptions, LoraOptions, LossOptions, OptimiserOptions, PromptOptions, RunOptions, ScheduleOptions,
    ValidationOptions,
};
use sam_model::ImageEncoderConfig;
use sam_model::weights::PUBLISHED_IMAGE_SIZE;
use serde::{Deserialize, Serialize};

use super::also::{AlsoPlan, read_also};
use super::cache::CachePlan;
use super::data::DataPlan;
use super::distil::DistilPlan;
use super::learning::{read_loss, read_optimiser, read_prompts, read_schedule};
use super::limits::{Batches, Blocks, check_parameters};
use super::lora::read_lora;
use super::model::{MaePlan, ModelPlan};
use super::plan::Task;
use super::ranges::IMAGE_SIZES;
use super::reader::{Reader, Section};
use super::run::{read_log, read_run, read_validation};
use crate::cli::FormatArgument;

/// Everything that decides a run. It is printed before the run, saved with it, and read again to resume it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainPlan {
    /// Where it runs.
    pub(crate) run: RunOptions,
    /// The network and its initial weights.
    pub(crate) model: ModelPlan,
    /// Training and validation data.
    pub(crate) data: DataPlan,
    /// Embeddings that are kept on disk.
    #[serde(default = "CachePlan::off")]
    pub(crate) cache: CachePlan,
    /// How the annotator is simulated.
    pub(crate) prompts: PromptOptions,
    /// The training objective.
    pub(crate) loss: LossOptions,
    /// The teacher of a distillation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) distil: Option<DistilPlan>,
    /// Low-rank adapters, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lora: Option<LoraOptions>,
    /// The optimiser.
    pub(crate) optimiser: OptimiserOptions,
    /// Number of steps and learning rates.
    pub(crate) schedule: ScheduleOptions,
    /// When and how it is validated.
    pub(crate) validation: ValidationOptions,
    /// Other data that it is validated on, too.
    #[serde(default, rename = "validation_also", skip_serializing_if = "Vec::is_empty")]
    pub(crate) also: Vec<AlsoPlan>,
    /// What it logs.
    pub(crate) log: LogOptions,
    /// Exported files.
    pub(crate) result: ResultPlan,
}

impl TrainPlan {
    pub(super) fn read(reader: &Reader<'_>, task: Task) -> Self {
        let optimiser = read_optimiser(reader);
        let schedule = read_schedule(reader);
        let model = ModelPlan::read(reader);
        let run = read_run(reader);
        let is_distilled = task == Task::Distil;
        let data = DataPlan::read(reader, optimiser.accumulation, is_distilled);
        let distil = is_distilled.then(|| DistilPlan::read(reader, schedule.steps, data.source));
        Self {
            distil,
            cache: CachePlan::read(reader, &run.dir, &data.augmentation),
            run,
            data,
            prompts: read_prompts(reader),
            loss: read_loss(reader),
            validation: read_validation(reader, schedule.steps, is_distilled),
            also: read_also(reader),
            log: read_log(reader),
            result: ResultPlan::read(reader, model.image_size()),
            lora: read_lora(reader, &model),
            model,
            optimiser,
            schedule,
        }
    }
}

impl TrainPlan {
    /// The task that it was read for.
    pub(crate) fn task(&self) -> Task {
        if self.distil.is_some() { Task::Distil } else { Task::Train }
    }

    pub(super) fn check_memory(&self, reader: &Reader<'_>) {
        let side = self.model.image_size().unwrap_or(PUBLISHED_IMAGE_SIZE);
        let DataPlan { images_per_batch, prefetch, .. } = self.data;
        Batches { n_images: images_per_batch.get(), image_hw: [side; 2], prefetch }.check(reader);
        let (ModelPlan::Scratch(config)
        | ModelPlan::Mae(MaePlan { config, .. })
        | ModelPlan::TinyVit(MaePlan { config, .. })) = &self.model
        else {
            return;
        };
        let decoder = &config.mask_decoder;
        let mut blocks = vec![Blocks { depth: decoder.depth, dim: decoder.transformer_dim, mlp_dim: decoder.mlp_dim }];
        let n_positions = match &config.image_encoder {
            ImageEncoderConfig::Vit(vit) => {
                blocks.push(Blocks { depth: vit.depth, dim: vit.embed_dim, mlp_dim: vit.mlp_dim });
                (vit.image_size / vit.patch_size.max(1)).pow(2)
            }
            ImageEncoderConfig::TinyVit(tiny) => {
                let ratios = [tiny.mbconv_ratio, tiny.mlp_ratio, tiny.mlp_ratio, tiny.mlp_ratio];
                let layers = tiny.depths.into_iter().zip(tiny.embed_dims).zip(ratios);
                blocks.extend(layers.map(|((depth, dim), ratio)| Blocks { depth, dim, mlp_dim: dim * ratio }));
                // It has no table of them.
                0
            }
        };
        check_parameters(reader, &blocks, [n_positions, config.image_encoder.embed_dim()]);
    }
}

/// The exported files of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResultPlan {
    /// Formats in which the best weights are exported.
    pub(crate) export: Vec<FormatArgument>,
    /// Image size of these files; by default that of training.
    pub(crate) export_image_size: Option<usize>,
}

impl ResultPlan {
    pub(super) fn read(reader: &Reader<'_>, trained_size: Option<usize>) -> Self {
        let mut plan = Self { export: vec![FormatArgument::Safetensors], export_image_size: None };
        plan.change(&reader.top().section("result"));
        plan.check(reader, trained_size);
        plan
    }

    /// `trained_size` is `None` when it is that of a checkpoint, which is not open yet.
    pub(super) fn check(&self, reader: &Reader<'_>, trained_size: Option<usize>) {
        let Some(size) = self.export_image_size else { return };
        let is_written = size == PUBLISHED_IMAGE_SIZE || Some(size) == trained_size;
        let expected =
            format!("{PUBLISHED_IMAGE_SIZE}, which other programs load, or omitted for the size of training");
        reader.check(is_written, &["result.export_image_size", "model.image_size"], &expected, size);
    }

    /// Reads the keys of `[result]` that can change on resume: all of them.
    pub(super) fn change(&mut self, result: &Section<'_>) {
        let exports = [
            ("safetensors", FormatArgument::Safetensors),
            ("pth", FormatArgument::Pth),
            ("huggingface", FormatArgument::Huggingface),
        ];
        let export = result.choices("export", "[\"safetensors\"]", &exports);
        self.export = export.unwrap_or_else(|| self.export.clone());
        self.export_image_size = result.integer_if_given("export_image_size", IMAGE_SIZES).or(self.export_image_size);
    }
}
