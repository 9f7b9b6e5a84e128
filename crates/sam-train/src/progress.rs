//! Progress of long work on standard error: a bar with ETA on a terminal, otherwise a line at intervals.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::errors;

/// Work of unknown length that takes longer is mentioned.
const FIRST_LINE_AFTER: Duration = Duration::from_secs(3);

/// Time between two lines when standard error is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress is shown wherever work takes long, and `--quiet` is for all of it.
static IS_SILENT: AtomicBool = AtomicBool::new(false);

/// Shows no progress from here on.
pub(crate) fn silence() {
    IS_SILENT.store(true, Ordering::Relaxed);
}

fn is_silent() -> bool {
    IS_SILENT.load(Ordering::Relaxed)
}

/// The progress of one piece of work.
pub(crate) struct Progress {
    what: &'static str,
    total: u64,
    started: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(what: &'static str, total: u64) -> Self {
        let bar = (std::io::stderr().is_terminal() && !is_silent()).then(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len}  {per_sec}  ETA {eta}");
            let bar = ProgressBar::new(total).with_message(what);
            style.map_or(bar.clone(), |style| bar.clone().with_style(style))
        });
        Self { what, total, started: Instant::now(), last_line: Instant::now(), bar }
    }

    /// Sets the number of finished items.
    pub(crate) fn set(&mut self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        } else if self.last_line.elapsed() >= LINE_EVERY && done > 0 && !is_silent() {
            self.last_line = Instant::now();
            let left = self.started.elapsed().as_secs_f64() * (self.total.saturating_sub(done)) as f64 / done as f64;
            let _ = writeln!(errors(), "{} {done}/{}, ETA {left:.0} s", self.what, self.total);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Says what the program is doing while work of unknown length takes long.
pub(crate) struct Waiting {
    done: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Waiting {
    /// For reading a data set.
    pub(crate) fn reading(path: &Path) -> Self {
        Self::new(format!("reading {}", path.display()))
    }

    pub(crate) fn new(what: String) -> Self {
        let (done, is_done) = std::sync::mpsc::channel();
        let started = Instant::now();
        let thread = std::thread::spawn(move || {
            let mut next = FIRST_LINE_AFTER;
            while is_done.recv_timeout(next) == Err(RecvTimeoutError::Timeout) && !is_silent() {
                let _ = writeln!(errors(), "{what}: {:.0} s so far", started.elapsed().as_secs_f64());
                next = LINE_EVERY;
            }
        });
        Self { done: Some(done), thread: Some(thread) }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.done.take());
        if let Some(thread) = self.thread.take() {
            // It has ended; a line must not be printed after what comes next.
            let _ = thread.join();
        }
    }
}
