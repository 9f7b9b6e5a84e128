//! `sam-train annotate`: makes a project of images and a model, and serves it to a browser on this machine.
//!
//! Signals need no handling: whatever was answered is on disk, and the lock ends with the process.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, anyhow};
use sam_engine::{Inference, Project, Server, ServerOptions, Settings, Store};
use sam_infer::Predictor;
use sam_model::weights::Checkpoint;

use crate::cli::{AnnotateArguments, AnnotateCommand, NewProjectArguments, ServeArguments};
use crate::export::{LABEL_WIDTH, print_load_report};
use crate::failure::{BadInput, Failure};
use crate::output::{errors, output};
use crate::timing::timed;
use crate::train::checkpoint_file;

pub(crate) fn run(arguments: &AnnotateArguments) -> Result<(), Failure> {
    match &arguments.command {
        Some(AnnotateCommand::Init(arguments)) => init(arguments),
        None => serve(&arguments.serve),
    }
}

fn init(arguments: &NewProjectArguments) -> Result<(), Failure> {
    let file = checkpoint_file(&arguments.checkpoint);
    if !Checkpoint::open(&file).bad_input()?.is_segmenter() {
        Err(anyhow!("{}: must be a segmenter, got a masked autoencoder", file.display())).bad_input()?;
    }
    // The project is opened from anywhere later, and a run that goes on gives it a better checkpoint.
    let absolute = |path: &Path| std::path::absolute(path).with_context(|| path.display().to_string());
    let (images, checkpoint) = (absolute(&arguments.images)?, absolute(&arguments.checkpoint)?);
    let settings = Settings::new(images, checkpoint, arguments.classes.clone());
    let project = Project::create(&arguments.out, &settings).bad_input()?;
    print_left_out(&project)?;
    let out = arguments.out.display();
    writeln!(output(), "{} images; next: sam-train annotate {out}", project.images().len())?;
    Ok(())
}

fn serve(arguments: &ServeArguments) -> Result<(), Failure> {
    let folder = arguments.project.as_deref().context("a project is required").bad_input()?;
    let project = Project::open(folder).bad_input()?;
    print_left_out(&project)?;
    let settings = project.settings().clone();
    let device = arguments.device.open().bad_input()?;
    let checkpoint = checkpoint_file(&project.checkpoint());
    let loaded = timed("loaded", || Predictor::from_checkpoint(&checkpoint, &device));
    let (predictor, report) = loaded.bad_input()?;
    print_load_report(&mut errors(), &report, LABEL_WIDTH)?;
    let embeddings = project.folder().join("embeddings");
    let inference = Inference::start(predictor, &checkpoint, project.images(), (&embeddings, settings.embeddings_gib))
        .bad_input()?;
    let store = Store::open(project).bad_input()?;
    let server = Server::bind(store, inference, ServerOptions { port: arguments.port }).bad_input()?;
    let mut out = output();
    writeln!(out, "open {}", server.address())?;
    writeln!(out, "every finished mask is saved at once; Ctrl-C ends the program")?;
    out.flush()?;
    drop(out);
    if !arguments.no_browser {
        open_browser(&server.write_start_page()?);
    }
    server.run()?;
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

/// Opens a page with the system's browser. Where there is none, the address is printed anyway.
fn open_browser(page: &Path) {
    let program = if cfg!(target_os = "macos") {
        "open"
    } else if cfg!(windows) {
        "explorer"
    } else {
        "xdg-open"
    };
    let command =
        Command::new(program).arg(page).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    if let Ok(mut child) = command {
        // Its end is awaited elsewhere, so that no zombie is left.
        let _ = std::thread::Builder::new().spawn(move || child.wait());
    }
}
