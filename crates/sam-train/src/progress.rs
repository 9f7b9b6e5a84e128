//! Progress of long work on standard error: a bar with ETA on a terminal, otherwise a line at intervals.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two lines when standard error is not a terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

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
        let bar = std::io::stderr().is_terminal().then(|| {
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
        } else if self.last_line.elapsed() >= LINE_EVERY && done > 0 {
            self.last_line = Instant::now();
            let left = self.started.elapsed().as_secs_f64() * (self.total.saturating_sub(done)) as f64 / done as f64;
            let _ = writeln!(std::io::stderr(), "{} {done}/{}, ETA {left:.0} s", self.what, self.total);
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
