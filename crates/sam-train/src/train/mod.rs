//! `task = "train"`: a plan becomes a run folder.
//!
//! The configuration, the device, the data and the checkpoint are all checked before the folder is made.

mod inputs;
mod lines;
pub(crate) mod pretrain;
mod report;
mod run_data;
mod run_folder;
mod session;

pub(crate) use inputs::{checkpoint_file, load_report_lines};
pub(crate) use run_folder::RunFolder;

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use sam_learn::options::TrainOptions;
use sam_learn::{Outcome, Training, train};
use sam_model::weights::{Dtype, ExportFormat, ExportOptions, ImageSizePolicy, check_export, export};

use crate::cli::{FormatArgument, RunArguments};
use crate::config::{Task, TrainPlan};
use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::train::inputs::OpenedInputs;
use crate::train::session::RunSession;

/// Runs a training.
pub(crate) fn run_plan(plan: &TrainPlan, folder: RunFolder, arguments: &RunArguments) -> Result<(), Failure> {
    let mut session = RunSession::new(folder, &plan.run, &plan.log, arguments)?;
    let inputs = OpenedInputs::open(plan).bad_input()?;
    for options in exports(plan, inputs.sam.image_size()) {
        check_export(inputs.sam.config(), options).context("result.export").bad_input()?;
    }
    session.start(&Task::Train.to_toml(plan)?, &inputs.notes, &inputs.data)?;
    session.record_losses(&inputs.losses)?;
    let training = Training {
        options: options(plan),
        inputs: session.inputs(inputs.samples, inputs.loader),
        validation: inputs.validation,
    };
    session.run(|resume| train(inputs.sam, training, resume), |outcome| finish(plan, session.folder(), outcome))
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

/// Exports, and prints the next steps.
fn finish(plan: &TrainPlan, folder: &Path, outcome: &Outcome) -> Result<(), Failure> {
    let mut out = output();
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
        writeln!(out, "exported {} ({} tensors, {} px)", report.path.display(), report.tensors, report.image_size)?;
    }
    writeln!(out, "best checkpoint: {}", outcome.best.display())?;
    if plan.log.previews > 0 {
        writeln!(out, "previews:        {}", folder.join("previews").display())?;
    }
    writeln!(
        out,
        "try it:          sam-train predict --checkpoint {} --image IMAGE --point X,Y --out masks",
        outcome.best.display()
    )?;
    Ok(())
}

/// The exports of a plan, for a model of this image size. The best checkpoint is the export to safetensors at the model's own
/// size.
fn exports(plan: &TrainPlan, own_size: usize) -> Vec<ExportOptions> {
    let size = plan.result.export_image_size.unwrap_or(own_size);
    let image_size = if size == own_size { ImageSizePolicy::Keep } else { ImageSizePolicy::Published };
    let is_best = |kind: &FormatArgument| *kind == FormatArgument::Safetensors && image_size == ImageSizePolicy::Keep;
    let kinds = plan.result.export.iter().filter(|kind| !is_best(kind));
    kinds.map(|&kind| ExportOptions { format: kind.into(), dtype: Dtype::F32, image_size }).collect()
}
