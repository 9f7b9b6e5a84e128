//! `sam-train --config train.toml` and `sam-train --resume RUN`: a plan becomes a run folder.
//!
//! Everything that can be wrong is found before the folder is made: the configuration, the device, the data, the checkpoint.

mod lines;
mod materials;
mod pretrain;
mod report;
mod run_folder;
mod watch;

pub(crate) use materials::{pretrained_file, told};

use std::io::Write;
use std::path::Path;

use anyhow::anyhow;
use sam_learn::options::TrainOptions;
use sam_learn::{Outcome, Training, train};
use sam_model::weights::{Dtype, ExportFormat, ExportOptions, ImageSizePolicy, export};

use crate::cli::RunArguments;
use crate::config::run::Export;
use crate::config::{Document, Paths, PretrainPlan, ResumablePlan, Task, TrainPlan, check_resume};
use crate::eval::{self, EvalPlan};
use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::train::materials::Materials;
use crate::train::run_folder::RunFolder;
use crate::train::watch::Watch;

/// A configuration is carried out, or a run gone on with.
pub(crate) fn run(arguments: &RunArguments) -> Result<(), Failure> {
    match (&arguments.config, &arguments.resume) {
        (Some(config), None) => begin(config, arguments),
        (None, Some(run)) => go_on(run, arguments),
        (Some(config), Some(run)) => go_on_as_configured(run, config, arguments),
        (None, None) => {
            Err(anyhow!("give --config FILE to begin a run, or --resume RUN to go on with one")).bad_input()
        }
    }
}

fn begin(config: &Path, arguments: &RunArguments) -> Result<(), Failure> {
    let document = Document::load(config, &arguments.set).bad_input()?;
    match Task::of(&document).bad_input()? {
        Task::Evaluate => eval::run_plan(&EvalPlan::from_config(config, &arguments.set).bad_input()?),
        Task::Train => {
            let plan = TrainPlan::read(&document, Paths::MustExist).bad_input()?;
            if arguments.check {
                write!(output(), "{}", plan.to_toml()?)?;
                return Ok(());
            }
            let folder = RunFolder::to_make(&plan.run.dir, arguments.force).bad_input()?;
            carry_out(&plan, folder, arguments)
        }
        Task::Pretrain => {
            let plan = PretrainPlan::read(&document, Paths::MustExist).bad_input()?;
            if arguments.check {
                write!(output(), "{}", plan.to_toml()?)?;
                return Ok(());
            }
            let folder = RunFolder::to_make(&plan.run.dir, arguments.force).bad_input()?;
            pretrain::carry_out(&plan, folder, arguments)
        }
    }
}

fn go_on(run: &Path, arguments: &RunArguments) -> Result<(), Failure> {
    let folder = RunFolder::to_resume(run).bad_input()?;
    let saved = folder.plan_path();
    match PretrainPlan::is_saved_at(&saved) {
        true => {
            let plan = PretrainPlan::resumed(&saved, run, &arguments.set).bad_input()?;
            pretrain::carry_out(&plan, folder, arguments)
        }
        false => {
            let plan = TrainPlan::resumed(&saved, run, &arguments.set).bad_input()?;
            carry_out(&plan, folder, arguments)
        }
    }
}

/// A configuration may be given, as long as it is that of the run but for what may change.
fn go_on_as_configured(run: &Path, config: &Path, arguments: &RunArguments) -> Result<(), Failure> {
    let folder = RunFolder::to_resume(run).bad_input()?;
    let saved = folder.plan_path();
    let document = Document::load(config, &arguments.set).bad_input()?;
    let task = if PretrainPlan::is_saved_at(&saved) { Task::Pretrain } else { Task::Train };
    let asked = Task::of(&document).bad_input()?;
    if asked != task {
        let (shown, run, task, asked) = (config.display(), run.display(), task.name(), asked.name());
        return Err(anyhow!("{shown}: task must be \"{task}\", which the run in {run} is, got \"{asked}\""))
            .bad_input();
    }
    match task {
        Task::Pretrain => {
            let plan = PretrainPlan::read(&document, Paths::MustExist).bad_input()?;
            refuse_another(&PretrainPlan::resumed(&saved, run, &[]).bad_input()?, &plan, config)?;
            pretrain::carry_out(&plan, folder, arguments)
        }
        Task::Train | Task::Evaluate => {
            let plan = TrainPlan::read(&document, Paths::MustExist).bad_input()?;
            refuse_another(&TrainPlan::resumed(&saved, run, &[]).bad_input()?, &plan, config)?;
            carry_out(&plan, folder, arguments)
        }
    }
}

fn refuse_another<P: ResumablePlan>(saved: &P, asked: &P, config: &Path) -> Result<(), Failure> {
    let refusals = check_resume(saved, asked)?;
    if refusals.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = refusals.iter().map(|refusal| format!("\n  {refusal}")).collect();
    Err(anyhow!("{}: not the configuration of this run:{}", config.display(), lines.concat())).bad_input()
}

fn carry_out(plan: &TrainPlan, folder: RunFolder, arguments: &RunArguments) -> Result<(), Failure> {
    let watch = Watch::new(folder, &plan.run, &plan.log, arguments)?;
    let materials = Materials::open(plan).bad_input()?;
    watch.begin(&plan.to_toml()?, &materials.notes)?;
    let training = Training {
        options: options(plan),
        samples: materials.samples,
        loader: materials.loader,
        validation: materials.validation,
        interrupter: watch.interrupter(),
        listener: watch.listener(),
        terminal_view: watch.is_terminal(),
    };
    watch.carry_out(|resume| train(materials.sam, training, resume), |outcome| finish(plan, watch.folder(), outcome))
}

fn options(plan: &TrainPlan) -> TrainOptions {
    TrainOptions {
        run: plan.run.clone(),
        prompts: plan.prompts.clone(),
        loss: plan.loss.clone(),
        optimiser: plan.optimiser.clone(),
        schedule: plan.schedule.clone(),
        validation: plan.validation.clone(),
        log: plan.log.clone(),
    }
}

/// Exports, and what to do next.
fn finish(plan: &TrainPlan, folder: &Path, outcome: &Outcome) -> Result<(), Failure> {
    let mut out = output();
    let checkpoint = sam_model::weights::Checkpoint::open(&outcome.best)?;
    let (sam, _) = checkpoint.load(&burn::tensor::Device::flex())?;
    let own_size = sam.image_size();
    let size = plan.result.export_image_size.unwrap_or(own_size);
    for &kind in &plan.result.export {
        let image_size = if size == own_size { ImageSizePolicy::Keep } else { ImageSizePolicy::Published };
        if kind == Export::Safetensors && image_size == ImageSizePolicy::Keep {
            continue; // It is there already: the best checkpoint.
        }
        let format = ExportFormat::from(kind);
        let path = folder.join(match format {
            ExportFormat::Safetensors => format!("export-{size}.safetensors"),
            ExportFormat::Pth => "export.pth".to_owned(),
            ExportFormat::HuggingFace => "export-huggingface".to_owned(),
        });
        let report = export(&sam, ExportOptions { format, dtype: Dtype::F32, image_size }, &path)?;
        writeln!(out, "exported {} ({} tensors, {} px)", report.path.display(), report.tensors, report.image_size)?;
    }
    writeln!(out, "best checkpoint: {}", outcome.best.display())?;
    if plan.log.previews > 0 {
        writeln!(out, "pictures:        {}", folder.join("previews").display())?;
    }
    writeln!(
        out,
        "try it:          sam-train predict --checkpoint {} --image PICTURE --point X,Y --out masks",
        outcome.best.display()
    )?;
    Ok(())
}
