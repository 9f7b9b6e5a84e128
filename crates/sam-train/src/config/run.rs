//! `[run]`, `[validation]` and `[log]`, which training and pre-training share: where a run happens, how it is validated and
//! what it logs. The keys are the fields of [`sam_learn::options`].

use std::path::PathBuf;

use sam_eval::{ClickMetricsConfig, EvalProtocol, Protocol, Start, TextSource, metric_names, text_metric_names};
use sam_infer::{DeviceName, Precision};
use sam_learn::options::{Activations, EMBEDDING_COSINE, EMBEDDING_MSE, LogOptions, RunOptions, ValidationOptions};

use super::reader::{Reader, Section};
use super::suggestion::nearest;
use super::text::WORDS;

/// No machine has more cores.
const THREADS: std::ops::RangeInclusive<usize> = 0..=4096;

/// Largest default number of steps between validations.
const VALIDATION_STEPS: u64 = 1000;

/// Smallest default number of validations in a run.
const VALIDATIONS: u64 = 10;

pub(super) fn read_run(reader: &Reader<'_>) -> RunOptions {
    let run = reader.top().section("run");
    let dir = run.text_if_given("dir").map(|dir| std::path::absolute(&dir).unwrap_or_else(|_| dir.into()));
    let dir = run.required("dir", "the folder of the run", dir, PathBuf::new());
    let folder = dir.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into_owned());
    let activations = [("keep", Activations::Keep), ("recompute", Activations::Recompute)];
    let mut options = RunOptions {
        dir,
        name: folder,
        seed: run.integer("seed", 0, 0..),
        device: DeviceName::default().to_string(),
        devices: Vec::new(),
        threads: 0,
        parallel: run.integer("parallel", 1, 1..=*THREADS.end()),
        activations: run.choice("activations", Activations::Keep, &activations),
        precision: run.choice("precision", Precision::F32, &Precision::OF_TRAINING),
    };
    change_run(&mut options, &run);
    let keys = ["run.devices", "run.device"];
    let is_one = options.devices.is_empty() || !run.is_given("device");
    reader.check(is_one, &keys, "either several devices or one", "both");
    options
}

/// Reads the keys of `[run]` that can change on resume.
pub(super) fn change_run(options: &mut RunOptions, run: &Section<'_>) {
    options.name = run.text_if_given("name").unwrap_or_else(|| options.name.clone());
    options.device = run.text_with("device", &options.device, cannot_compute);
    if run.is_given("device") {
        options.devices.clear();
    }
    if let Some(devices) = run.texts_if_given("devices", cannot_compute) {
        if let Some(first) = devices.first() {
            options.device.clone_from(first);
        }
        options.devices = devices;
    }
    options.threads = run.integer("threads", options.threads, THREADS);
}

pub(super) fn cannot_compute(device: &str) -> Option<String> {
    device.parse::<DeviceName>().is_err().then(|| "cpu, cuda, cuda:N, vulkan or wgpu".to_owned())
}

/// `has_teacher`: embeddings are compared, too.
pub(super) fn read_validation(reader: &Reader<'_>, steps: u64, has_teacher: bool) -> ValidationOptions {
    let validation = reader.top().section("validation");
    let clicks = validation.integers_if_given("clicks", 1..=MAX_CLICKS);
    let mut clicks = clicks.unwrap_or_else(|| vec![1, 3]);
    clicks.sort_unstable();
    clicks.dedup();
    let mut options = ValidationOptions {
        every_steps: default_every_steps(steps),
        metric: String::new(),
        clicks,
        boxes: validation.flag("box", true),
        texts: read_texts(reader, &validation),
        max_images: validation.integer("max_images", 0, 0..),
        patience: 0,
        baseline: true,
    };
    change_validation(&mut options, &validation);
    let names = metric_names(&protocols(&options));
    let problem = names.as_ref().err().map(ToString::to_string);
    let texts = options.texts.iter().flat_map(|_| text_metric_names());
    let embeddings = [EMBEDDING_MSE, EMBEDDING_COSINE].into_iter().filter(|_| has_teacher).map(str::to_owned);
    let names: Vec<String> = names.unwrap_or_default().into_iter().chain(texts).chain(embeddings).collect();
    let metric = validation.text_if_given("metric");
    // The metric that SAM reports first: the best of three masks for a single click.
    let default = names.iter().find(|name| *name == "miou_1_oracle").or(names.first()).cloned();
    options.metric = metric.or(default).unwrap_or_default();
    validation.defaults_to("metric", &format!("\"{}\"", options.metric));
    validation.defaults_to("clicks", &format!("{:?}", options.clicks));
    let keys = ["validation.clicks", "validation.box"];
    reader.check(problem.is_none(), &keys, "clicks that can be given", problem.unwrap_or_default());
    let prompts = options.boxes || options.texts.is_some() || !options.clicks.is_empty();
    reader.check(prompts, &keys, "a list of at least one click when validation.box is false", "none");
    let meant = nearest(&options.metric, names.iter().map(String::as_str));
    let meant = meant.map_or(String::new(), |name| format!("; did you mean \"{name}\"?"));
    let expected = format!("one of the metrics of this validation: {}", names.join(", "));
    let is_computed = names.is_empty() || names.contains(&options.metric);
    reader.check(is_computed, &["validation.metric"], &expected, format!("\"{}\"{meant}", options.metric));
    check_validation(&options, reader, steps);
    options
}

/// The texts that are prompts of a validation, whose CLIP is that of the training.
fn read_texts(reader: &Reader<'_>, validation: &Section<'_>) -> Option<TextSource> {
    let is_asked = validation.flag("text", false);
    let texts = validation.choice("texts", TextSource::Both, &WORDS);
    validation.only_if(is_asked, "text", &["texts"], "text = true");
    let has_clip = reader.top().section("prompts").is_given("text");
    let expected = "false without [prompts.text], which names the CLIP";
    reader.check(!is_asked || has_clip, &["validation.text", "prompts.text"], expected, is_asked);
    is_asked.then_some(texts)
}

/// Steps between validations, unless the configuration gives them.
pub(super) fn default_every_steps(steps: u64) -> u64 {
    (steps / VALIDATIONS).clamp(1, VALIDATION_STEPS)
}

/// Reads the keys of `[validation]` that can change on resume.
pub(super) fn change_validation(options: &mut ValidationOptions, validation: &Section<'_>) {
    options.every_steps = validation.integer("every_steps", options.every_steps, 1..);
    options.patience = validation.integer("patience", options.patience, 0..);
    options.baseline = validation.flag("baseline", options.baseline);
}

pub(super) fn check_validation(options: &ValidationOptions, reader: &Reader<'_>, steps: u64) {
    let keys = ["validation.every_steps", "schedule.steps"];
    let expected = format!("at most schedule.steps ({steps}): the run would end before");
    reader.check(options.every_steps <= steps, &keys, &expected, options.every_steps);
}

/// The protocols of a validation: clicks first, then boxes.
pub(crate) fn protocols(options: &ValidationOptions) -> Vec<EvalProtocol> {
    let clicks = options.clicks.last().map(|&n_clicks| {
        let protocol = Protocol { start: Start::Click, n_clicks, ..Protocol::default() };
        (protocol, options.clicks.clone())
    });
    let boxes = options.boxes.then(|| {
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

/// More clicks than any protocol of the field uses.
const MAX_CLICKS: usize = 100;

pub(super) fn read_log(reader: &Reader<'_>) -> LogOptions {
    let mut options = LogOptions { every_steps: 10, previews: 4, tensorboard: true };
    change_log(&mut options, &reader.top().section("log"));
    options
}

/// Reads the keys of `[log]` that can change on resume: all of them.
pub(super) fn change_log(options: &mut LogOptions, log: &Section<'_>) {
    options.every_steps = log.integer("every_steps", options.every_steps, 1..);
    options.previews = log.integer("previews", options.previews, 0..=64);
    options.tensorboard = log.flag("tensorboard", options.tensorboard);
}
