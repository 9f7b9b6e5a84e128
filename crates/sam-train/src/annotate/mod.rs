//! `sam-train annotate`: a project of images, masks and a model, in which a person labels and the model gets better.

mod automatic;
mod export;
mod import;
mod round;
mod serve;
mod simulate;
mod status;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow};
use sam_engine::{Project, Settings};
use sam_model::clip::ClipCheckpoint;
use sam_model::weights::Checkpoint;

use crate::cli::{AnnotateArguments, AnnotateCommand, NewProjectArguments};
use crate::failure::{BadInput, Failure};
use crate::output::{errors, output};
use crate::train::checkpoint_file;

pub(crate) fn run(arguments: &AnnotateArguments) -> Result<(), Failure> {
    match &arguments.command {
        Some(AnnotateCommand::Init(arguments)) => init(arguments),
        Some(AnnotateCommand::Round(arguments)) => round::run(arguments),
        Some(AnnotateCommand::Auto(arguments)) => automatic::run(arguments),
        Some(AnnotateCommand::Export(arguments)) => export::run(arguments),
        Some(AnnotateCommand::Import(arguments)) => import::run(arguments),
        Some(AnnotateCommand::Status(arguments)) => status::run(arguments),
        Some(AnnotateCommand::Simulate(arguments)) => simulate::run(arguments),
        None => serve::run(&arguments.serve),
    }
}

fn init(arguments: &NewProjectArguments) -> Result<(), Failure> {
    let file = checkpoint_file(&arguments.checkpoint);
    let checkpoint = Checkpoint::open(&file).bad_input()?;
    if !checkpoint.is_segmenter() {
        Err(anyhow!("{}: must be a segmenter, got {}", file.display(), checkpoint.kind())).bad_input()?;
    }
    // The project is opened from anywhere later.
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
    let (images, checkpoint) = (absolute(&arguments.images)?, absolute(&arguments.checkpoint)?);
    if let Some(path) = &arguments.clip {
        ClipCheckpoint::open(path).with_context(|| format!("--clip {}", path.display())).bad_input()?;
    }
    let settings = Settings {
        clip: arguments.clip.as_deref().map(absolute).transpose()?,
        validation_share: arguments.validation,
        validation_by: arguments.validation_by.into(),
        ..Settings::new(images, checkpoint, arguments.classes.clone())
    };
    let project = Project::create(&arguments.out, &settings).bad_input()?;
    print_left_out(&project)?;
    let out = arguments.out.display();
    let n_validation = (0..project.images().len()).filter(|&index| project.is_validation(index)).count();
    writeln!(
        output(),
        "{} images, {n_validation} of them for validation; next: sam-train annotate {out}",
        project.images().len()
    )?;
    Ok(())
}

fn print_left_out(project: &Project) -> Result<(), Failure> {
    /// The rest is counted.
    const SHOWN: usize = 10;
    let lines = project.images().left_out();
    for line in lines.iter().take(SHOWN) {
        writeln!(errors(), "left out: {line}")?;
    }
    if lines.len() > SHOWN {
        writeln!(errors(), "left out: {} more", lines.len() - SHOWN)?;
    }
    Ok(())
}
