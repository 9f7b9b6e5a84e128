//! `task = "evaluate"` and `sam-train eval`: checkpoints on data sets, with reports for people and a gate for CI.
//!
//! All input is checked before the first image is encoded: the data, the detections, the metrics of the gate, and files that
//! would be replaced.

mod boxes;
mod cached;
mod data;
mod edges;
mod files;
mod proposals;
mod sets;
mod table;
mod texts;

use std::collections::BTreeMap;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow};
use burn::tensor::Device;
use sam_eval::{
    ComparisonRow, EvalProtocols, EvalSet, Gate, Metrics, PredictorSegmenter, Results, Table, Verdict, compare,
    evaluate, read_images,
};
use sam_infer::{Precision, Predictor};
use sam_model::Sam;
use sam_model::lora::AdapterFile;
use sam_model::weights::Checkpoint;

use crate::cli::{RunArguments, Verbosity};
use crate::config::EvaluatePlan;
use crate::export::{LABEL_WIDTH, print_load_report};
use crate::failure::{BadInput, Failure};
use crate::names;
use crate::progress::Progress;
use crate::train::{adapter_folder, checkpoint_file};

use boxes::BoxTask;
use data::OpenSet;
use files::{ModelOutcome, Shown};
use proposals::ProposalTask;
use texts::TextTask;

/// Runs an evaluation.
pub(crate) fn run_plan(plan: &EvaluatePlan, arguments: &RunArguments) -> Result<(), Failure> {
    let started = Instant::now();
    if let Some(edges) = &plan.edges {
        return edges::run_plan(plan, edges, arguments);
    }
    let mut known = plan.metric_names().bad_input()?;
    files::check_out(plan, arguments.force).bad_input()?;
    let gate = open_gate(plan).bad_input()?;
    let device = plan.run.measure.open_device().bad_input()?;
    let sets = data::open(plan)?;
    let boxes = match &plan.detections {
        Some(detections) => Some(BoxTask::open(plan, detections, &sets[0])?),
        None => None,
    };
    let proposals = match &plan.proposals {
        Some(task) => Some(ProposalTask::open(plan, task, &sets)?),
        None => None,
    };
    if proposals.as_ref().is_some_and(|proposals| !proposals.has_frequencies()) {
        // A gate on them is then an error before anything is computed.
        known.retain(|name| !["_rare", "_common", "_frequent"].iter().any(|frequency| name.ends_with(frequency)));
    }
    if let Some(boxes) = &boxes {
        known.extend(boxes.metric_names().bad_input()?);
    }
    if let Some(gate) = &gate {
        gate.check_names(&known).bad_input()?;
        gate.check_places(&data::places(&sets)).bad_input()?;
    }
    // An unreadable checkpoint must be found before the first one has been evaluated for an hour.
    let checkpoints: Vec<Checkpoint> = open_checkpoints(plan).bad_input()?;

    let texts = match &plan.text {
        Some(text) => Some(TextTask::open(plan, text, &sets, &checkpoints, &device)?),
        None => None,
    };
    let is_quiet = arguments.verbosity.level() == Verbosity::Quiet;
    if arguments.verbosity.level() == Verbosity::Verbose {
        print_surroundings(plan)?;
    }
    let mut outcomes = Vec::new();
    if let Some(boxes) = boxes.as_ref().filter(|_| plan.uses_no_model()) {
        outcomes.push(score_only(plan, boxes)?);
    }
    let names = names::of_checkpoints(&plan.model.checkpoints.checkpoint);
    for ((checkpoint, name), path) in checkpoints.iter().zip(names).zip(&plan.model.checkpoints.checkpoint) {
        if checkpoints.len() > 1 && !is_quiet {
            writeln!(crate::output::errors(), "evaluating {}", path.display())?;
        }
        let model = ModelToEvaluate { name, path, checkpoint, is_quiet };
        let (boxes, proposals, texts) = (boxes.as_ref(), proposals.as_ref(), texts.as_ref());
        let tasks = Tasks { sets: &sets, boxes, proposals, texts };
        outcomes.push(evaluate_model(plan, model, &tasks, &device)?);
    }
    let tables: Vec<Table> = sets.iter().filter_map(|set| set.losses.as_ref()?.table()).collect();
    finish(plan, Finished { outcomes: &outcomes, tables: &tables, started }, gate.as_ref())
}

/// What `--verbose` adds.
fn print_surroundings(plan: &EvaluatePlan) -> std::io::Result<()> {
    let mut errors = crate::output::errors();
    writeln!(errors, "{}", crate::train::program_line())?;
    let measure = &plan.run.measure;
    let n_threads = rayon::current_num_threads();
    writeln!(errors, "device: {}; {n_threads} compute threads, {} readers", measure.device, measure.workers)?;
    plan.data.iter().try_for_each(|data| writeln!(errors, "data: {}", data.files.path.display()))
}

fn open_gate(plan: &EvaluatePlan) -> anyhow::Result<Option<Gate>> {
    let Some(config) = &plan.gate else { return Ok(None) };
    let baseline = match &config.baseline {
        Some(path) => {
            let name = path.display().to_string();
            let text = sam_files::read_text(path, sam_files::MAX_TEXT_BYTES).with_context(|| name.clone())?;
            Some(Results::from_json(&name, &text)?)
        }
        None => None,
    };
    Ok(Some(Gate::new(config, baseline)?))
}

fn open_checkpoints(plan: &EvaluatePlan) -> anyhow::Result<Vec<Checkpoint>> {
    let open = |path: &std::path::PathBuf| {
        let checkpoint = Checkpoint::open(&checkpoint_file(path))?;
        match checkpoint.is_segmenter() {
            true => Ok(checkpoint),
            false => {
                Err(anyhow!("{}: {} has no decoder, so it cannot be evaluated", path.display(), checkpoint.kind()))
            }
        }
    };
    plan.model.checkpoints.checkpoint.iter().map(open).collect()
}

struct ModelToEvaluate<'a> {
    name: String,
    path: &'a Path,
    checkpoint: &'a Checkpoint,
    is_quiet: bool,
}

/// What a checkpoint is evaluated on.
struct Tasks<'a> {
    sets: &'a [OpenSet],
    boxes: Option<&'a BoxTask>,
    proposals: Option<&'a ProposalTask>,
    texts: Option<&'a TextTask>,
}

/// A checkpoint on the device.
struct LoadedModel {
    sam: Sam,
    /// Where the adapters come from that were merged into it.
    adapters: Option<(&'static str, String)>,
}

fn load_model(
    plan: &EvaluatePlan,
    checkpoint: &Checkpoint,
    device: &Device,
    is_quiet: bool,
) -> Result<LoadedModel, Failure> {
    let (sam, report) = checkpoint.load(device).bad_input()?;
    if !is_quiet {
        print_load_report(&mut crate::output::errors(), &report, LABEL_WIDTH)?;
    }
    let Some(path) = &plan.model.adapter else { return Ok(LoadedModel { sam, adapters: None }) };
    let file = AdapterFile::open(&adapter_folder(path)).bad_input()?;
    let adapters = Some(("adapter", path.display().to_string()));
    Ok(LoadedModel { sam: file.merge_into(sam).bad_input()?, adapters })
}

/// One checkpoint on everything.
fn evaluate_model(
    plan: &EvaluatePlan,
    model: ModelToEvaluate<'_>,
    tasks: &Tasks<'_>,
    device: &Device,
) -> Result<ModelOutcome, Failure> {
    let started = Instant::now();
    let &Tasks { sets, boxes, proposals, texts } = tasks;
    let LoadedModel { sam, adapters } = load_model(plan, model.checkpoint, device, model.is_quiet)?;
    let of_sets: Vec<EvalSet> = sets.iter().map(|set| set.set.clone()).collect();
    let predictor = Predictor::new(&sam);
    let mut average_precisions = Vec::new();
    if let Some(proposals) = proposals {
        average_precisions.extend(proposals.evaluate(&predictor, sets)?);
    }
    let mut segmenter = PredictorSegmenter::new(predictor);
    if let Some(cache) = &plan.cache {
        let say = |text: &str| {
            if !model.is_quiet {
                let _ = writeln!(crate::output::errors(), "{text}");
            }
        };
        segmenter = segmenter.with_cache(cached::fill(cache, &sam, &of_sets, &say)?);
    }
    drop(sam);

    let protocols = plan.protocols();
    let (mut runs, mut text_run, mut galleries) = (Vec::new(), None, Vec::new());
    if !protocols.is_empty() || texts.is_some() {
        let images = read_images(&of_sets, plan.run.measure.workers);
        let n_images = images.n_images();
        let n_queries = texts.map_or(0, |texts| texts.n_queries);
        let n_objects = sets.iter().map(|set| set.n_objects).sum::<usize>() * protocols.len() + n_queries;
        let what = if protocols.is_empty() { "evaluating texts" } else { "evaluating objects" };
        let mut progress = Progress::new(what, n_objects as u64);
        let prompts = EvalProtocols { objects: &protocols, text: texts.map(|texts| &texts.protocol) };
        let evaluation = evaluate(&segmenter, images, n_images, prompts, &mut |at| {
            progress.set(at.n_objects as u64);
            ControlFlow::Continue(())
        });
        drop(progress);
        let evaluation = evaluation.map_err(Failure::of_evaluation)?;
        if plan.run.measure.out.is_some() {
            galleries = sam_eval::galleries(&evaluation, &of_sets, plan.run.gallery).map_err(Failure::of_evaluation)?;
        }
        (runs, text_run) = (evaluation.results.runs, evaluation.results.texts);
    }
    let mut segmentations = None;
    if let Some(boxes) = boxes {
        let found = boxes.segment(&segmenter)?;
        average_precisions.push((boxes.data_set(), boxes.metrics(&found).map_err(Failure::of_evaluation)?));
        segmentations = Some(found.to_json().map_err(Failure::of_evaluation)?);
    }
    let about = about(
        plan,
        sets,
        &[("checkpoint", model.path.display().to_string()), ("model", model.checkpoint.description())]
            .into_iter()
            .chain(adapters)
            .chain(texts.map(|texts| ("clip", texts.clip.clone())))
            .collect::<Vec<_>>(),
    );
    let results = Results::with_texts(about, runs, text_run, &average_precisions).map_err(Failure::of_evaluation)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(ModelOutcome { name: model.name, results, galleries, segmentations, seconds })
}

/// Given masks against the ground truth.
fn score_only(plan: &EvaluatePlan, boxes: &BoxTask) -> Result<ModelOutcome, Failure> {
    let started = Instant::now();
    let metrics: Metrics = boxes.metrics(boxes.detections()).bad_input()?;
    let about = about(plan, &[], &[("segmentations", boxes.detections().name.clone())]);
    let results = Results::new(about, Vec::new(), &[(boxes.data_set(), metrics)]).bad_input()?;
    let name = Path::new(&boxes.detections().name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let seconds = started.elapsed().as_secs_f64();
    Ok(ModelOutcome { name, results, galleries: Vec::new(), segmentations: None, seconds })
}

/// The origin of the results; without times, so that equal runs write equal files.
fn about(plan: &EvaluatePlan, sets: &[OpenSet], model: &[(&str, String)]) -> BTreeMap<String, String> {
    let mut about: BTreeMap<String, String> =
        model.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    about.insert("device".to_owned(), plan.run.measure.device.clone());
    about.insert("precision".to_owned(), Precision::in_use().to_string());
    about.insert("program".to_owned(), concat!("sam-train ", env!("CARGO_PKG_VERSION")).to_owned());
    let data: Vec<String> = plan
        .data
        .iter()
        .enumerate()
        .map(|(at, data)| match sets.get(at) {
            Some(OpenSet { set, n_objects, n_wholly_ignored, .. }) => {
                let ignored = match n_wholly_ignored {
                    0 => String::new(),
                    n => format!(", {n} entirely ignored, excluded"),
                };
                let (name, path, n_images) = (&set.name, data.files.path.display(), set.indices.len());
                format!("{name}: {path}, {n_images} images, {n_objects} objects{ignored}")
            }
            None => data.files.path.display().to_string(),
        })
        .collect();
    about.insert("data".to_owned(), data.join("; "));
    about
}

/// All checkpoints on everything.
struct Finished<'a> {
    outcomes: &'a [ModelOutcome],
    /// What the data sets lose.
    tables: &'a [Table],
    started: Instant,
}

/// Compares the checkpoints, writes and prints; a missed gate is the final error.
fn finish(plan: &EvaluatePlan, finished: Finished<'_>, gate: Option<&Gate>) -> Result<(), Failure> {
    let Finished { outcomes, tables, started } = finished;
    let out = plan.run.measure.out.as_deref();
    let all: Vec<&Results> = outcomes.iter().map(|outcome| &outcome.results).collect();
    let comparison: Vec<ComparisonRow> = compare(&all, &plan.run.bootstrap).bad_input()?;
    if let Some(out) = out {
        files::write_results(out, plan, outcomes)?;
    }
    // The last checkpoint is the one that may be released.
    let verdict: Option<Verdict> = match (gate, outcomes.last()) {
        (Some(gate), Some(last)) => Some(gate.check(&last.results).bad_input()?),
        _ => None,
    };
    let mut of_sets = Vec::new();
    for outcome in outcomes {
        of_sets.extend(sets::table(outcome, &plan.run.bootstrap).bad_input()?);
    }
    if let Some(out) = out {
        let seconds = started.elapsed().as_secs_f64();
        let tables = [&of_sets[..], tables].concat();
        let shown = Shown { comparison: &comparison, verdict: verdict.as_ref(), tables: &tables };
        files::write_reports(out, outcomes, &shown, seconds)?;
    }
    table::print(outcomes, &comparison, out)?;
    of_sets.iter().try_for_each(sets::print)?;
    let Some(verdict) = verdict else { return Ok(()) };
    if verdict.is_pass() {
        writeln!(crate::output::output(), "gate: {} of {} bounds met", verdict.checks.len(), verdict.checks.len())?;
        return Ok(());
    }
    let misses: Vec<String> = verdict.misses().map(|miss| format!("\n  {miss}")).collect();
    let n_checks = verdict.checks.len();
    Err(Failure::Run(anyhow!("the gate is missed, {} of {n_checks} bounds:{}", misses.len(), misses.concat())))
}
