//! `task = "train"`: a plan becomes a run folder.
//!
//! The configuration, the device, the data and the checkpoint are all checked before the folder is made.

mod cached;
mod check;
mod console;
mod estimate;
mod inputs;
mod lines;
mod objects;
pub(crate) mod pretrain;
mod report;
mod run_data;
mod run_folder;
mod session;
mod stop;
mod summary;
mod teacher;
mod texts;

pub(crate) use inputs::{adapter_folder, checkpoint_file, load_report_lines, open_device, plan_of_run};
pub(crate) use report::date_and_time;
pub(crate) use run_data::is_same_place;
pub(crate) use run_folder::{EndingRecord, PLAN as PLAN_FILE, RunFolder};
pub(crate) use session::program_line;
pub(crate) use stop::StopSwitch;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use burn::train::Interrupter;
use sam_learn::options::{LoraOptions, TrainOptions};
use sam_learn::record::{ADAPTER_FOLDER, SavedState};
use sam_learn::task::Validation;
use sam_learn::{Outcome, RunInputs, Training, measure_training, profile_training, train, train_on};
use sam_model::weights::{Dtype, ExportFormat, ExportOptions, ImageSizePolicy, TextExport, check_export, export};

use crate::bench::{Benched, Work};
use crate::cli::{FormatArgument, RunArguments};
use crate::config::TrainPlan;
use crate::config::model::ModelPlan;
use crate::failure::{BadInput, Failure};
use crate::team::Team;
use crate::train::cached::Decision;
use crate::train::console::Kind;
use crate::train::estimate::{RunLength, measured};
use crate::train::inputs::{OpenedInputs, describe};
use crate::train::session::{RunSession, Sections, of_learning, print_lines, use_threads};

/// Runs a training.
pub(crate) fn run_plan(
    plan: &TrainPlan,
    folder: RunFolder,
    arguments: &RunArguments,
    team: &Team,
) -> Result<(), Failure> {
    let Some((plan, fewer)) = objects::with_objects_that_fit(plan) else {
        let n = team.ranks.n();
        if n > 1 {
            let what = "objects that fit into the memory of one process";
            return Err(anyhow!("data.objects_per_step: must be a number with {n} ranks; \"auto\" looks for {what}"))
                .bad_input();
        }
        // The process that trains locks it.
        drop(folder);
        return objects::train(plan, arguments);
    };
    let plan = &plan;
    let sections = Sections { run: &plan.run, log: &plan.log, validation: &plan.validation };
    let mut session = RunSession::new(folder, sections, arguments, team)?;
    let (mut inputs, decision) = open(plan)?;
    inputs.notes.extend(fewer);
    session.announce(&inputs.notes, &inputs.data)?;
    session.announce_end(plan.schedule.steps);
    session.estimate(|| estimate(plan, &inputs, &decision))?;
    session.start(&plan.task().to_toml(plan)?, &inputs.data)?;
    session.record_losses(&inputs.losses)?;
    let embeddings = match decision {
        Decision::EachStep { .. } => None,
        Decision::Kept => match session.fill(plan, &inputs)? {
            ControlFlow::Continue(embeddings) => Some(embeddings),
            ControlFlow::Break(()) => return Ok(()),
        },
    };
    let texts = match session.in_turn(|| session.fill_texts(plan, &mut inputs))? {
        ControlFlow::Continue(texts) => texts,
        ControlFlow::Break(()) => return Ok(()),
    };
    let distillation = inputs.distillation(plan, embeddings.clone());
    let training = Training {
        options: options(plan),
        inputs: session.inputs(inputs.samples, inputs.loader),
        validation: inputs.validation,
        embeddings: embeddings.filter(|_| distillation.is_none()),
        distillation,
        texts,
    };
    let learn = |resume: Option<&SavedState>| train_on(&inputs.devices, &inputs.sam, training, resume);
    session.run(learn, |outcome| finish(plan, &session, outcome))
}

/// `--check`: opens everything, measures some steps, and prints the configuration with every default, as `resolved`.
pub(crate) fn check(plan: &TrainPlan, resolved: &str) -> Result<(), Failure> {
    use_threads(plan.run.threads)?;
    let (inputs, decision) = open(plan)?;
    check::print(&inputs.notes, &estimate(plan, &inputs, &decision)?, resolved)
}

/// `--dry-run`: the estimate, and a run of two steps that leaves nothing.
pub(crate) fn dry_run(plan: &TrainPlan) -> Result<(), Failure> {
    use_threads(plan.run.threads)?;
    let (mut inputs, decision) = open(plan)?;
    print_lines(&inputs.notes)?;
    print_lines(&estimate(plan, &inputs, &decision)?)?;
    let vectors = tempfile::tempdir()?;
    let texts = texts::on_demand(plan.prompts.text.as_ref(), inputs.clip.take(), &inputs.samples, vectors.path())?;
    let learn = |shortened: &check::Shortened, resume: Option<&SavedState>| {
        let mut options = options(plan);
        shortened.apply(&mut options.run, &mut options.schedule, &mut options.validation);
        let validation = inputs.validation.clone().map(Validation::shortened);
        // Two steps are not worth an embedding cache.
        let inputs_of_run = shortened.inputs(&inputs.samples, &inputs.loader);
        let distillation = inputs.distillation(plan, None);
        let texts = texts.clone();
        let training = Training { options, inputs: inputs_of_run, validation, embeddings: None, distillation, texts };
        train(inputs.sam.clone(), training, resume)
    };
    let finish = |folder: &Path, outcome: &Outcome| {
        let (sam, _) = sam_model::weights::Checkpoint::open(&outcome.best)?.load(&burn::tensor::Device::flex())?;
        for options in exports(plan, sam.image_size()) {
            export(&sam, options, &folder.join("exported"))?;
        }
        Ok(())
    };
    check::dry_run(&plan.run, learn, finish)
}

/// The inputs, with all that is wrong with them or with the options found before anything is written; and whether their
/// embeddings are kept.
fn open(plan: &TrainPlan) -> Result<(OpenedInputs, Decision), Failure> {
    let mut inputs = OpenedInputs::open(plan).bad_input()?;
    for options in exports(plan, inputs.sam.image_size()) {
        check_export(inputs.sam.config(), options).context("result.export").bad_input()?;
    }
    let decision = cached::decide(plan, &inputs).bad_input()?;
    if let Decision::EachStep { note: Some(note) } = &decision {
        inputs.notes.push(note.clone());
    }
    Ok((inputs, decision))
}

fn estimate(plan: &TrainPlan, inputs: &OpenedInputs, decision: &Decision) -> Result<Vec<String>, Failure> {
    let (measured, embeddings) = measured(|| {
        let unobserved = RunInputs::unobserved(Arc::clone(&inputs.samples), inputs.loader.clone(), Interrupter::new());
        let validation = inputs.validation.clone();
        let distillation = inputs.distillation(plan, None);
        let options = options(plan);
        let training =
            Training { options, inputs: unobserved, validation, embeddings: None, distillation, texts: None };
        Ok(match decision {
            Decision::EachStep { .. } => (measure_training(inputs.sam.clone(), training, false)?, None),
            Decision::Kept => {
                // First, so that the peak memory is also that of the encoder.
                let cost = cached::cost(plan, inputs)?;
                let measured = measure_training(inputs.sam.clone(), training, true)?;
                (measured.map(|measured| cost.without_in_validation(measured)), Some(cost))
            }
        })
    })?;
    let length = RunLength {
        run: &plan.run,
        optimiser: &plan.optimiser,
        schedule: &plan.schedule,
        validation: &plan.validation,
        n_exports: plan.result.export.len(),
        n_images: inputs.samples.n_samples(),
        embeddings,
    };
    Ok(measured.map_or_else(Vec::new, |measured| length.lines(&measured)))
}

/// Measures the phases of some steps, for `bench`; nothing is written.
pub(crate) fn profile(plan: &TrainPlan, n_steps: usize) -> Result<Benched, Failure> {
    use_threads(plan.run.threads)?;
    let (inputs, decision) = open(plan)?;
    let keeps_embeddings = matches!(decision, Decision::Kept);
    let mut what: Vec<String> = vec![describe(&inputs.sam)];
    what.extend(keeps_embeddings.then(|| "kept embeddings".to_owned()));
    let work = Work::of_training(&inputs.sam, plan, plan.prompts.passes(), !keeps_embeddings);
    let unobserved = RunInputs::unobserved(Arc::clone(&inputs.samples), inputs.loader.clone(), Interrupter::new());
    let distillation = inputs.distillation(plan, None);
    let training = Training {
        options: options(plan),
        inputs: unobserved,
        validation: None,
        embeddings: None,
        distillation,
        texts: None,
    };
    let device = inputs.sam.device();
    let profile = profile_training(inputs.sam, training, keeps_embeddings, n_steps).map_err(of_learning)?;
    let shards = plan.run.parallel;
    Ok(Benched { what: what.join(", "), device, device_name: plan.run.device.clone(), profile, work, shards })
}

fn options(plan: &TrainPlan) -> TrainOptions {
    TrainOptions {
        run: plan.run.clone(),
        prompts: plan.prompts.clone(),
        loss: plan.loss.clone(),
        lora: plan.lora.clone().map(|lora| LoraOptions { base: base(plan), ..lora }),
        optimiser: plan.optimiser.clone(),
        schedule: plan.schedule.clone(),
        validation: plan.validation.clone(),
        log: plan.log.clone(),
    }
}

/// The checkpoint that adapters belong to.
fn base(plan: &TrainPlan) -> String {
    match &plan.model {
        ModelPlan::Checkpoint(from) => from.path.display().to_string(),
        ModelPlan::Mae(_) | ModelPlan::TinyVit(_) | ModelPlan::Scratch(_) => String::new(),
    }
}

/// Exports, and prints the next steps.
fn finish(plan: &TrainPlan, session: &RunSession<'_>, outcome: &Outcome) -> Result<(), Failure> {
    let folder = session.folder();
    let print = |text: String| session.console().print(Kind::Result, &text);
    let checkpoint = sam_model::weights::Checkpoint::open(&outcome.best)?;
    let (sam, _) = checkpoint.load(&burn::tensor::Device::flex())?;
    let size = plan.result.export_image_size.unwrap_or(sam.image_size());
    for options in exports(plan, sam.image_size()) {
        let path = folder.join(match options.format {
            ExportFormat::Safetensors => format!("export-{size}.safetensors"),
            ExportFormat::Pth => "export.pth".to_owned(),
            ExportFormat::HuggingFace => "export-huggingface".to_owned(),
        });
        let report = export(&sam, options, &path)?;
        print(format!("exported {} ({} tensors, {} px)", report.path.display(), report.tensors, report.image_size));
    }
    print(format!("best checkpoint: {}", outcome.best.display()));
    if plan.lora.is_some() {
        print(format!("its adapters:    {}", folder.join(ADAPTER_FOLDER).display()));
    }
    if plan.log.previews > 0 {
        print(format!("previews:        {}", folder.join("previews").display()));
    }
    print(format!(
        "try it:          sam-train predict --checkpoint {} --image IMAGE --point X,Y --out masks",
        outcome.best.display()
    ));
    Ok(())
}

/// The exports of a plan, for a model of this image size. The best checkpoint is the export to safetensors at the model's own
/// size.
fn exports(plan: &TrainPlan, own_size: usize) -> Vec<ExportOptions> {
    let size = plan.result.export_image_size.unwrap_or(own_size);
    let image_size = if size == own_size { ImageSizePolicy::Keep } else { ImageSizePolicy::Published };
    let is_best = |kind: &FormatArgument| *kind == FormatArgument::Safetensors && image_size == ImageSizePolicy::Keep;
    let kinds = plan.result.export.iter().filter(|kind| !is_best(kind));
    kinds
        .map(|&kind| ExportOptions { format: kind.into(), dtype: Dtype::F32, image_size, text: TextExport::Beside })
        .collect()
}
