//! `sam-train annotate PROJECT`: serves a project to a browser on this machine.
//!
//! Signals need no handling: whatever was answered is on disk, and the lock ends with the process.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use burn::tensor::Device;
use sam_engine::{Inference, Model, ModelInUse, Project, Server, ServerOptions, Store, Texts};
use sam_infer::Predictor;
use sam_infer::clip::ClipTexts;

use super::print_left_out;
use crate::cli::ServeArguments;
use crate::export::{LABEL_WIDTH, print_load_report};
use crate::failure::{BadInput, Failure};
use crate::output::{errors, output};
use crate::timing::timed;
use crate::train::checkpoint_file;

/// How soon a better model is used.
const LOOK_EVERY: Duration = Duration::from_millis(500);

pub(super) fn run(arguments: &ServeArguments) -> Result<(), Failure> {
    let folder = arguments.project.as_deref().context("a project is required").bad_input()?;
    let project = Project::open(folder).bad_input()?;
    print_left_out(&project)?;
    let device = arguments.device.open().bad_input()?;
    let in_use = project.model_in_use().bad_input()?;
    let (checkpoint, name) = project.checkpoint().bad_input()?;
    let checkpoint = checkpoint_file(&checkpoint);
    let loaded = timed("loaded", || Predictor::from_checkpoint(&checkpoint, &device));
    let (predictor, report) = loaded.bad_input()?;
    print_load_report(&mut errors(), &report, LABEL_WIDTH)?;
    let (folder, embeddings_gib) = (project.folder().to_owned(), project.settings().embeddings_gib);
    let model = Model::new(predictor, &checkpoint, &embeddings(&folder), name).bad_input()?;
    let texts = open_texts(&project, arguments, &device)?;
    let inference = Inference::start(model, project.images(), folder.clone(), embeddings_gib).bad_input()?;
    let inference = Arc::new(inference.with_texts(texts));
    say_whether_texts(&inference)?;
    let store = Store::open(project).bad_input()?;
    let options = ServerOptions { port: arguments.port, round_command: round_command(&folder, arguments)? };
    let server = Server::bind(store, Arc::clone(&inference), options).bad_input()?;
    let watch = Watch { folder, device, inference, in_use };
    std::thread::Builder::new().name("model".to_owned()).spawn(move || watch.run()).context("a thread is needed")?;
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

/// The CLIP of the command line, otherwise that of the project.
fn open_texts(project: &Project, arguments: &ServeArguments, device: &Device) -> Result<Option<Texts>, Failure> {
    let (path, option) = match (&arguments.clip, project.clip()) {
        (Some(path), _) => (path.clone(), "--clip"),
        (None, Some(path)) => (path, "clip in engine.toml:"),
        (None, None) => return Ok(None),
    };
    let clip = timed("loaded CLIP", || ClipTexts::open(&path, device));
    let clip = clip.with_context(|| format!("{option} {}", path.display())).bad_input()?;
    print_load_report(&mut errors(), clip.report(), LABEL_WIDTH)?;
    Ok(Some(Texts::new(clip)))
}

/// Says why the page has no field for texts, where somebody may expect one: with a CLIP, or a model that takes texts.
fn say_whether_texts(inference: &Inference) -> std::io::Result<()> {
    let takes_texts = inference.model().predictor().config().text.is_some();
    match inference.why_no_texts() {
        None => writeln!(errors(), "texts: the page has a field for them"),
        Some(why) if takes_texts || inference.has_clip() => writeln!(errors(), "no field for texts: {why}"),
        Some(_) => Ok(()),
    }
}

/// The folder of embeddings of a project.
pub(super) fn embeddings(project: &Path) -> PathBuf {
    project.join("embeddings")
}

/// A round is a process of its own with a low priority, so that clicks are answered meanwhile.
fn round_command(folder: &Path, arguments: &ServeArguments) -> Result<Vec<OsString>, Failure> {
    let program = std::env::current_exe().context("this program's own file")?;
    let mut command: Vec<OsString> = Vec::new();
    if cfg!(unix) {
        command.extend(["nice", "-n", "10"].map(OsString::from));
    }
    command.push(program.into());
    command.extend(["annotate", "round", "--device", &arguments.device.name].map(OsString::from));
    command.push(folder.into());
    Ok(command)
}

/// Takes the model of a round once that has put it in use.
struct Watch {
    folder: PathBuf,
    device: Device,
    inference: Arc<Inference>,
    in_use: Option<ModelInUse>,
}

impl Watch {
    fn run(mut self) {
        let mut failed = None;
        loop {
            std::thread::sleep(LOOK_EVERY);
            // A file that is damaged is named when the project is opened the next time; the model in use works on.
            let Ok(in_use) = ModelInUse::read(&self.folder) else { continue };
            if in_use == self.in_use || in_use == failed {
                continue;
            }
            match self.load(in_use.as_ref()) {
                Ok(model) => {
                    let _ = writeln!(errors(), "the model of {} is in use", model.name());
                    let before = self.inference.why_no_texts();
                    self.inference.swap(model);
                    if self.inference.why_no_texts() != before {
                        let _ = say_whether_texts(&self.inference);
                    }
                    self.in_use = in_use;
                }
                Err(error) => {
                    let _ = writeln!(errors(), "a new model cannot be used, and the one before stays: {error:#}");
                    failed = in_use;
                }
            }
        }
    }

    fn load(&self, in_use: Option<&ModelInUse>) -> anyhow::Result<Model> {
        let in_use = in_use.context("model.json is gone")?;
        let checkpoint = self.folder.join(&in_use.checkpoint);
        let (predictor, _) = Predictor::from_checkpoint(&checkpoint, &self.device)?;
        Ok(Model::new(predictor, &checkpoint, &embeddings(&self.folder), in_use.name())?)
    }
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
