//! A run around its loop, the same for every task: the saved state, the observers of its events, interruption and the end.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, anyhow};
use burn::train::Interrupter;
use sam_data::loader::{LoaderOptions, Samples};
use sam_learn::options::{LogOptions, RunOptions};
use sam_learn::record::{CHECKPOINTS_FOLDER, RunEvent, SavedState, Saves, restore_terminal};
use sam_learn::{Ending, LearnError, Outcome, RunInputs};

use crate::cli::RunArguments;
use crate::failure::{BadInput, Failure};
use crate::interruption::INTERRUPTED;
use crate::output::{errors, output};
use crate::survey::DataLosses;
use crate::train::lines::Lines;
use crate::train::report::ReportWriter;
use crate::train::run_data::RunData;
use crate::train::run_folder::{RunFolder, SessionStart};

/// One run.
pub(super) struct RunSession<'a> {
    folder: RunFolder,
    run: &'a RunOptions,
    arguments: &'a RunArguments,
    resume: Option<SavedState>,
    lines: Arc<Lines>,
    report: ReportWriter,
    interrupter: Interrupter,
    is_terminal: bool,
}

impl<'a> RunSession<'a> {
    /// Sets the number of threads, and finds the saved state of a resumed run.
    pub(super) fn new(
        folder: RunFolder,
        run: &'a RunOptions,
        log: &LogOptions,
        arguments: &'a RunArguments,
    ) -> Result<Self, Failure> {
        use_threads(run.threads)?;
        let Saves { intact: resume, damaged } = match arguments.resume {
            Some(_) => SavedState::newest(&folder.checkpoints()).bad_input()?,
            None => Saves::default(),
        };
        if arguments.resume.is_some() && resume.is_none() {
            let checkpoints = folder.checkpoints();
            writeln!(errors(), "{} has no save; the run starts from its first step", checkpoints.display())?;
        }
        for reason in damaged {
            writeln!(errors(), "a save is skipped because it is damaged: {reason}")?;
        }
        let is_terminal = std::io::stdout().is_terminal() && !arguments.plain;
        Ok(Self {
            run,
            arguments,
            resume,
            lines: Arc::new(Lines::new(log.every_steps, is_terminal)),
            report: ReportWriter::new(folder.clone(), run.name.clone()),
            interrupter: Interrupter::new(),
            is_terminal,
            folder,
        })
    }

    /// Prints `notes` and changes of the data.
    pub(super) fn announce(&self, notes: &[String], data: &[RunData]) -> Result<(), Failure> {
        for change in self.folder.changed_data(data).bad_input()? {
            writeln!(errors(), "{change}")?;
        }
        Ok(print_lines(notes)?)
    }

    /// Prints what a new run will take; a resumed one knows it from its first steps.
    pub(super) fn estimate(&self, lines: impl FnOnce() -> Result<Vec<String>, Failure>) -> Result<(), Failure> {
        if self.resume.is_none() {
            print_lines(&lines()?)?;
        }
        Ok(())
    }

    /// Creates the folder; from here on, Ctrl-C saves.
    pub(super) fn start(&mut self, plan: &str, data: &[RunData]) -> Result<(), Failure> {
        let start =
            SessionStart { plan_toml: plan, device: &self.run.device, config: self.arguments.config.as_deref(), data };
        self.folder.write_start(&start).map_err(|error| {
            let is_held = matches!(error.downcast_ref(), Some(LearnError::InUse { .. }));
            if is_held { Failure::Input(error) } else { Failure::Run(error) }
        })?;
        stop_on_ctrl_c(&self.interrupter)
    }

    /// Keeps what the data sets lose for the report.
    pub(super) fn record_losses(&self, losses: &[DataLosses]) -> Result<(), Failure> {
        Ok(self.folder.write_losses(losses)?)
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The inputs of the run, with the program's observers.
    pub(super) fn inputs(&self, samples: Arc<dyn Samples>, loader: LoaderOptions) -> RunInputs {
        let lines = Arc::clone(&self.lines);
        RunInputs {
            samples,
            loader,
            interrupter: self.interrupter.clone(),
            observers: vec![Box::new(move |event: &RunEvent| lines.show(event)), Box::new(self.report.clone())],
            dashboard: self.is_terminal,
        }
    }

    /// Trains, and prints the outcome; `finish` handles a finished run.
    pub(super) fn run(
        &self,
        learn: impl FnOnce(Option<&SavedState>) -> Result<Outcome, LearnError>,
        finish: impl FnOnce(&Outcome) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let folder = self.folder();
        self.lines.start(folder, self.resume.as_ref().map(|state| &state.progress));
        let outcome = learn(self.resume.as_ref());
        let written = self.report.write();
        let outcome = outcome.map_err(|error| failed(error, folder))?;
        self.lines.end(&outcome);
        self.report.print_path()?;
        match outcome.ending {
            Ending::Interrupted => {
                let (step, shown) = (outcome.progress.step, folder.display());
                writeln!(output(), "stopped after step {step}; resume with: sam-train --resume {shown}")?;
            }
            Ending::Finished | Ending::EarlyStopped => finish(&outcome)?,
        }
        // Last, because everything else is more important.
        Ok(written?)
    }
}

pub(super) fn print_lines(lines: &[String]) -> std::io::Result<()> {
    let mut out = output();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// Compute threads; 0: one per core.
pub(super) fn use_threads(n_threads: usize) -> Result<(), Failure> {
    if n_threads > 0 {
        // Fails only when threads are already started, which would be a bug.
        rayon::ThreadPoolBuilder::new().num_threads(n_threads).build_global().context("run.threads")?;
    }
    Ok(())
}

/// The saved state is still valid, so the message says how to resume.
fn failed(error: LearnError, folder: &Path) -> Failure {
    let saved = SavedState::newest(&folder.join(CHECKPOINTS_FOLDER)).ok().and_then(|saves| saves.intact);
    let hint = saved.map(|state| {
        format!(". step {} is saved; resume with: sam-train --resume {}", state.progress.step, folder.display())
    });
    Failure::Run(anyhow!("{}{}", advised(&error), hint.unwrap_or_default()))
}

/// The message of an error, with the configuration keys that it is about.
pub(super) fn advised(error: &LearnError) -> String {
    advice(error).map_or_else(|| error.to_string(), |advice| format!("{error}. {advice}"))
}

/// The configuration keys that an error of the library is about.
fn advice(error: &LearnError) -> Option<&'static str> {
    match error {
        LearnError::FreezesNothing { .. } | LearnError::NothingLearns => Some("Change optimiser.freeze"),
        LearnError::ShardsWithDropout { .. } => {
            Some("Set run.parallel = 1, or model.drop_path and model.decoder_dropout to 0")
        }
        LearnError::Samples(_) => Some("data.bad = \"drop\" drops and counts what cannot be read"),
        LearnError::NoThreads { .. } => Some("Lower run.parallel"),
        LearnError::NotFinite { .. } => Some("The keys are optimiser.lr and optimiser.clip_norm"),
        LearnError::GradientNotFinite { .. } => Some("The key is optimiser.lr"),
        LearnError::NoSuchMetric { .. } => Some("Change validation.metric"),
        _ => None,
    }
}

/// The first Ctrl-C finishes the step and saves; the second exits immediately. SIGTERM and SIGHUP, which clusters and lost
/// connections send, are treated alike.
pub(super) fn stop_on_ctrl_c(interrupter: &Interrupter) -> Result<(), Failure> {
    let interrupter = interrupter.clone();
    let is_second = AtomicBool::new(false);
    ctrlc::set_handler(move || {
        if is_second.swap(true, Ordering::SeqCst) {
            restore_terminal();
            std::process::exit(i32::from(INTERRUPTED));
        }
        let _ = writeln!(errors(), "\nfinishing this step and saving; press Ctrl-C again to exit immediately");
        interrupter.stop(Some("Ctrl-C"));
    })
    .context("Ctrl-C cannot be caught")?;
    Ok(())
}
