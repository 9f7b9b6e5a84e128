//! Stopping a run: Ctrl-C and signals, and the dashboard's keys.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use burn::train::Interrupter;

use super::console::{Console, Kind};
use crate::cli::Verbosity;
use crate::dashboard;
use crate::failure::Failure;
use crate::interruption::INTERRUPTED;
use crate::output::errors;

/// Stops one run.
#[derive(Clone)]
pub(crate) struct StopSwitch {
    interrupter: Interrupter,
    console: Arc<Console>,
    folder: PathBuf,
    is_requested: Arc<AtomicBool>,
    has_save: Arc<AtomicBool>,
}

impl StopSwitch {
    /// A switch for the run in `folder`; `has_save` when it can be resumed already.
    pub(super) fn new(interrupter: Interrupter, console: Arc<Console>, folder: PathBuf, has_save: bool) -> Self {
        let has_save = Arc::new(AtomicBool::new(has_save));
        Self { interrupter, console, folder, is_requested: Arc::default(), has_save }
    }

    /// Ctrl-C: the first finishes the step and saves, the second exits immediately. SIGTERM and SIGHUP, which clusters and
    /// lost connections send, are treated alike.
    pub(super) fn catch_signals(&self) -> Result<(), Failure> {
        let switch = self.clone();
        ctrlc::set_handler(move || switch.interrupt()).context("Ctrl-C cannot be caught")?;
        Ok(())
    }

    /// As Ctrl-C.
    pub(crate) fn interrupt(&self) {
        if self.is_requested() {
            self.exit();
        }
        self.stop();
    }

    /// Finishes the step, saves and stops.
    pub(crate) fn stop(&self) {
        if self.is_requested.swap(true, Ordering::SeqCst) {
            return;
        }
        // On the dashboard the request is shown otherwise.
        if !dashboard::is_open() {
            let text = "\nfinishing this step and saving; press Ctrl-C again to exit immediately";
            self.console.print(Kind::Warning, text);
        }
        self.interrupter.stop(Some("Ctrl-C"));
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.is_requested.load(Ordering::SeqCst)
    }

    /// From here on the run can be resumed.
    pub(super) fn saved(&self) {
        self.has_save.store(true, Ordering::SeqCst);
    }

    fn exit(&self) -> ! {
        dashboard::restore();
        let text = match self.has_save.load(Ordering::SeqCst) {
            true => format!("the last save is resumed with: sam-train --resume {}", self.folder.display()),
            false => "there is no save yet".to_owned(),
        };
        let _ = writeln!(errors(), "exited without saving; {text}");
        std::process::exit(i32::from(INTERRUPTED));
    }
}

/// For a run that is neither shown nor kept.
pub(super) fn stop_on_ctrl_c(interrupter: &Interrupter, folder: &Path) -> Result<(), Failure> {
    let console = Arc::new(Console::new(Verbosity::Normal));
    StopSwitch::new(interrupter.clone(), console, folder.to_owned(), false).catch_signals()
}
