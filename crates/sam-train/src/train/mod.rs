//! `task = "train"`: a plan becomes a run folder.
//!
//! The configuration, the device, the data and the checkpoint are all checked before the folder is made.

mod inputs;
mod lines;
pub(crate) mod pretrain;
mod report;
mod run_folder;
mod session;

pub(crate) use inputs::{load_report_lines, pretrained_file};
pub(crate) use run_folder::RunFolder;

use std::io::Write;
use std::path::Path;

use sam_learn::options::TrainOptions;
use sam_learn::{Outcome, Training, train};
use sam_model::weights::{Dtype, ExportFormat, ExportOptions, ImageSizePolicy, export};

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
    session.start(&Task::Train.to_toml(plan)?, &inputs.notes)?;
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
    let own_size = sam.image_size();
    let size = plan.result.export_image_size.unwrap_or(own_size);
    for &kind in &plan.result.export {
        let image_size = if size == own_size { ImageSizePolicy::Keep } else { ImageSizePolicy::Published };
        if kind == FormatArgument::Safetensors && image_size == ImageSizePolicy::Keep {
            continue; // The best checkpoint is this file.
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
        writeln!(out, "previews:        {}", folder.join("previews").display())?;
    }
    writeln!(
        out,
        "try it:          sam-train predict --checkpoint {} --image IMAGE --point X,Y --out masks",
        outcome.best.display()
    )?;
    Ok(())
}
