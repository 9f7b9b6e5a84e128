//! `[run]`, `[validation]`, `[log]` and `[result]`: where a run happens, what it is judged by, and what it leaves behind.

use std::path::PathBuf;

use sam_eval::{ClickMetricsConfig, EvalProtocol, Protocol, Start, metric_names};
use sam_infer::DeviceName;
use sam_learn::options::Activations;
use sam_model::weights::ExportFormat;
use sam_model::weights::export::PUBLISHED_IMAGE_SIZE;
use serde::{Deserialize, Serialize};

use super::reader::{Reader, Section};
use super::suggestion::nearest;

/// Nobody has more processors.
const THREADS: std::ops::RangeInclusive<usize> = 0..=4096;

/// A validation comes at least this often, in steps, unless the configuration says otherwise.
const VALIDATION_STEPS: u64 = 1000;

/// And at least so many times in a run.
const VALIDATIONS: u64 = 10;

/// Where a run happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunPlan {
    /// The run folder, as an absolute path.
    pub(crate) dir: PathBuf,
    /// What the run is called in reports; the folder's name unless given.
    pub(crate) name: String,
    /// Of everything random.
    pub(crate) seed: u64,
    /// What [`DeviceName`] understands.
    pub(crate) device: String,
    /// Threads that compute; 0: one for each processor.
    pub(crate) threads: usize,
    /// Parts of a batch that are computed side by side.
    pub(crate) parallel: usize,
    /// What the encoder's blocks keep for the way back.
    #[serde(default)]
    pub(crate) activations: Activations,
}

/// What a run is judged by on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ValidationPlan {
    /// Steps between two validations; checkpoints come with them.
    pub(crate) every_steps: u64,
    /// The metric that chooses `best`; one that [`ValidationPlan::protocols`] gives.
    pub(crate) metric: String,
    /// The k of mIoU@k, rising; empty for none.
    pub(crate) clicks: Vec<usize>,
    /// Whether boxes are tried, too.
    #[serde(rename = "box")]
    pub(crate) boxes: bool,
    /// No more images than this; 0: all.
    pub(crate) max_images: usize,
    /// Validations without a better `metric` after which the run ends; 0: never.
    pub(crate) patience: usize,
    /// Whether the model is validated before the first step, too.
    pub(crate) baseline: bool,
}

/// What a run says on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogPlan {
    /// Steps between two lines.
    pub(crate) every_steps: u64,
    /// Images drawn at each validation.
    pub(crate) previews: usize,
    /// Whether event files for TensorBoard are written.
    pub(crate) tensorboard: bool,
}

/// What a run leaves behind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ResultPlan {
    /// Files that are written of the best weights.
    pub(crate) export: Vec<Export>,
    /// Image size of these files; none: that of training.
    pub(crate) export_image_size: Option<usize>,
}

/// A kind of checkpoint, as `sam-train export --format` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Export {
    /// See [`ExportFormat::Safetensors`].
    Safetensors,
    /// See [`ExportFormat::Pth`].
    Pth,
    /// See [`ExportFormat::HuggingFace`].
    Huggingface,
}

impl From<Export> for ExportFormat {
    fn from(export: Export) -> Self {
        match export {
            Export::Safetensors => Self::Safetensors,
            Export::Pth => Self::Pth,
            Export::Huggingface => Self::HuggingFace,
        }
    }
}

impl RunPlan {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let run = reader.top().section("run");
        let dir = run.text_if_given("dir").map(|dir| std::path::absolute(&dir).unwrap_or_else(|_| dir.into()));
        let dir = run.required("dir", "the folder of the run", dir, PathBuf::new());
        let folder = dir.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
        let activations = [("keep", Activations::Keep), ("recompute", Activations::Recompute)];
        let mut plan = Self {
            dir,
            name: folder,
            seed: run.integer("seed", 0, 0..),
            device: DeviceName::default().to_string(),
            threads: 0,
            parallel: run.integer("parallel", 1, 1..=*THREADS.end()),
            activations: run.choice("activations", Activations::Keep, &activations),
        };
        plan.read_changeable(&run);
        plan
    }

    /// What may be another on resume.
    pub(super) fn read_changeable(&mut self, run: &Section<'_>) {
        self.name = run.text_if_given("name").unwrap_or_else(|| self.name.clone());
        self.device = run.text_with("device", &self.device, cannot_compute);
        self.threads = run.integer("threads", self.threads, THREADS);
    }
}

fn cannot_compute(device: &str) -> Option<String> {
    device.parse::<DeviceName>().is_err().then(|| "cpu, cuda, cuda:N or vulkan".to_owned())
}

impl ValidationPlan {
    pub(super) fn read(reader: &Reader<'_>, steps: u64) -> Self {
        let validation = reader.top().section("validation");
        let clicks = validation.integers_if_given("clicks", 1..=MAX_CLICKS);
        let mut clicks = clicks.unwrap_or_else(|| vec![1, 3]);
        clicks.sort_unstable();
        clicks.dedup();
        let mut plan = Self {
            every_steps: (steps / VALIDATIONS).clamp(1, VALIDATION_STEPS),
            metric: String::new(),
            clicks,
            boxes: validation.flag("box", true),
            max_images: validation.integer("max_images", 0, 0..),
            patience: 0,
            baseline: true,
        };
        plan.read_changeable(&validation);
        let names = metric_names(&plan.protocols());
        let problem = names.as_ref().err().map(ToString::to_string);
        let names = names.unwrap_or_default();
        let metric = validation.text_if_given("metric");
        // What SAM reports first: the best of three masks for a single click.
        let default = names.iter().find(|name| *name == "miou_1_oracle").or(names.first()).cloned();
        plan.metric = metric.or(default).unwrap_or_default();
        let keys = ["validation.clicks", "validation.box"];
        reader.check(problem.is_none(), &keys, "clicks that can be given", problem.unwrap_or_default());
        let prompts = plan.boxes || !plan.clicks.is_empty();
        reader.check(prompts, &keys, "a list of at least one click when validation.box is false", "none");
        let meant = nearest(&plan.metric, names.iter().map(String::as_str));
        let meant = meant.map_or(String::new(), |name| format!("; did you mean \"{name}\"?"));
        let expected = format!("one of the metrics of this validation: {}", names.join(", "));
        let is_computed = names.is_empty() || names.contains(&plan.metric);
        reader.check(is_computed, &["validation.metric"], &expected, format!("\"{}\"{meant}", plan.metric));
        plan.check(reader, steps);
        plan
    }

    /// What may be another on resume.
    pub(super) fn read_changeable(&mut self, validation: &Section<'_>) {
        self.every_steps = validation.integer("every_steps", self.every_steps, 1..);
        self.patience = validation.integer("patience", self.patience, 0..);
        self.baseline = validation.flag("baseline", self.baseline);
    }

    pub(super) fn check(&self, reader: &Reader<'_>, steps: u64) {
        let keys = ["validation.every_steps", "schedule.steps"];
        let expected = format!("at most schedule.steps ({steps}): the run would end before");
        reader.check(self.every_steps <= steps, &keys, &expected, self.every_steps);
    }

    /// How validation prompts, and what is computed of it: clicks first, then boxes.
    pub(crate) fn protocols(&self) -> Vec<EvalProtocol> {
        let clicks = self.clicks.last().map(|&n_clicks| {
            let protocol = Protocol { start: Start::Click, n_clicks, ..Protocol::default() };
            (protocol, self.clicks.clone())
        });
        let boxes = self.boxes.then(|| {
            let protocol = Protocol { start: Start::Box, n_clicks: 0, ..Protocol::default() };
            (protocol, Vec::new())
        });
        let with_metrics = |(protocol, at_clicks): (Protocol, Vec<usize>)| {
            // No NoC: it takes 20 clicks on every object.
            let metrics = ClickMetricsConfig::for_protocol(&protocol);
            let click_metrics = ClickMetricsConfig { at_clicks, noc_percent: Vec::new(), ..metrics };
            EvalProtocol { protocol, click_metrics }
        };
        clicks.into_iter().chain(boxes).map(with_metrics).collect()
    }
}

/// More clicks than any protocol of the field has.
const MAX_CLICKS: usize = 100;

impl LogPlan {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let mut plan = Self { every_steps: 10, previews: 4, tensorboard: true };
        plan.read_changeable(&reader.top().section("log"));
        plan
    }

    /// What may be another on resume: all of it.
    pub(super) fn read_changeable(&mut self, log: &Section<'_>) {
        self.every_steps = log.integer("every_steps", self.every_steps, 1..);
        self.previews = log.integer("previews", self.previews, 0..=64);
        self.tensorboard = log.flag("tensorboard", self.tensorboard);
    }
}

impl ResultPlan {
    pub(super) fn read(reader: &Reader<'_>, trained_size: Option<usize>) -> Self {
        let mut plan = Self { export: vec![Export::Safetensors], export_image_size: None };
        plan.read_changeable(&reader.top().section("result"));
        plan.check(reader, trained_size);
        plan
    }

    /// `trained_size` is `None` when it is the checkpoint's, which nobody has opened yet.
    pub(super) fn check(&self, reader: &Reader<'_>, trained_size: Option<usize>) {
        let Some(size) = self.export_image_size else { return };
        let is_written = size == PUBLISHED_IMAGE_SIZE || Some(size) == trained_size;
        let expected =
            format!("{PUBLISHED_IMAGE_SIZE}, which other programs load, or left out for the size of training");
        reader.check(is_written, &["result.export_image_size", "model.image_size"], &expected, size);
    }

    /// What may be another on resume: all of it.
    pub(super) fn read_changeable(&mut self, result: &Section<'_>) {
        let exports =
            [("safetensors", Export::Safetensors), ("pth", Export::Pth), ("huggingface", Export::Huggingface)];
        let export = result.choices("export", "[\"safetensors\"]", &exports);
        self.export = export.unwrap_or_else(|| self.export.clone());
        self.export_image_size =
            result.integer_if_given("export_image_size", 16..=(1 << 15)).or(self.export_image_size);
    }
}
