//! burn-train's terminal dashboard as an observer of a run's events.
//!
//! burn counts in epochs; here an epoch is the steps between two validations.
//!
//! It puts the terminal into raw mode, in which a typed Ctrl-C would be a character like any other; the signal is turned
//! on again. However the program ends, [`restore_terminal`] leaves the terminal as it was.

use std::collections::BTreeMap;
use std::io::stdout;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::train::Interrupter;
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{MetricDefinition, MetricEntry, MetricId, MetricName, NumericAttributes};
use burn::train::renderer::{MetricState, MetricsRenderer, default_renderer};
use crossterm::cursor::Show;
use crossterm::event::DisableMouseCapture;
use crossterm::execute;
use crossterm::terminal::{LeaveAlternateScreen, disable_raw_mode, is_raw_mode_enabled};

use super::events::{Observer, RunEvent, StepRecord, ValidationRecord};
use crate::error::LearnError;
use crate::options::RECONSTRUCTION_LOSS;

const DIGITS: usize = 4;

/// The two curves of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Split {
    Training,
    Validation,
}

impl Split {
    /// As burn-train calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Training => "train",
            Self::Validation => "valid",
        }
    }
}

/// Shows metrics, their curves and the progress; closed when dropped, or when the user chooses "stop immediately" in its
/// menu.
pub(crate) struct Dashboard {
    view: Option<View>,
    interrupter: Interrupter,
}

struct View {
    renderer: Box<dyn MetricsRenderer>,
    /// Means over an epoch.
    metrics: BTreeMap<(Split, &'static str), NumericMetricState>,
    every_steps: u64,
    /// The split whose items are counted.
    open: Option<Split>,
}

impl Dashboard {
    /// Opens the dashboard of a run of so many steps, of which some may be done; it can stop the run by `interrupter`.
    pub(crate) fn new(interrupter: &Interrupter, done_steps: u64, of_steps: u64, every_steps: u64) -> Self {
        let mut renderer = default_renderer(interrupter.clone(), None);
        let epoch = done_steps / every_steps + 1;
        renderer.start(of_steps.div_ceil(every_steps) as usize, epoch as usize, None, None);
        turn_on_ctrl_c();
        let view = View { renderer, metrics: BTreeMap::new(), every_steps, open: None };
        Self { view: Some(view), interrupter: interrupter.clone() }
    }

    fn close(&mut self) {
        let view = self.view.take();
        // Burn's renderer panics when the user has chosen to stop immediately.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(view)));
    }
}

impl View {
    fn show(&mut self, event: &RunEvent) {
        match event {
            RunEvent::Step(record) => self.step(record),
            RunEvent::Validating { n_images, of_images } => {
                self.open(Split::Validation, *of_images);
                self.renderer.update_split(*n_images);
            }
            RunEvent::Validated(record) => self.validated(record),
            RunEvent::Saved { .. } | RunEvent::Skipped { .. } | RunEvent::Preview { .. } | RunEvent::Warning { .. } => {
            }
        }
    }

    fn step(&mut self, record: &StepRecord) {
        let done = (record.step - 1) % self.every_steps + 1;
        let left = record.of_steps - record.step;
        self.open(Split::Training, (done + left.min(self.every_steps - done)) as usize);
        let terms = record.segmentation.iter().flat_map(|terms| {
            [
                ("focal", terms.focal),
                ("dice", terms.dice),
                ("iou_error", terms.iou_error),
                ("miou_first", terms.miou_first),
                ("miou_last", terms.miou_last),
            ]
        });
        for (name, value) in [("loss", record.loss)].into_iter().chain(terms) {
            self.update(Split::Training, name, value);
        }
        self.renderer.update_split(done as usize);
        self.renderer.log_event_training("Iteration".to_owned());
    }

    fn validated(&mut self, record: &ValidationRecord) {
        for name in ["miou_1", "miou_1_oracle", "miou_3", "miou_box", RECONSTRUCTION_LOSS] {
            if let Some(&value) = record.scores.metrics.get(name) {
                self.update(Split::Validation, name, value);
            }
        }
        self.close();
        if !record.is_baseline {
            self.renderer.update_epoch(record.scores.step.div_ceil(self.every_steps) as usize);
        }
    }

    /// Counts the items of a split from here on.
    fn open(&mut self, split: Split, n_items: usize) {
        if self.open != Some(split) {
            self.close();
            self.open = Some(split);
            self.renderer.start_split(split.name(), n_items);
        }
    }

    /// Shows the means of the open split and forgets them.
    fn close(&mut self) {
        let Some(split) = self.open.take() else { return };
        for (&(_, name), state) in self.metrics.iter_mut().filter(|((of, _), _)| *of == split) {
            let entry = MetricEntry::new(id(name), state.compute_final(format(name)));
            show(self.renderer.as_mut(), split, MetricState::Numeric(entry, Some(state.final_value())));
            state.reset();
        }
        self.renderer.end_split();
    }

    fn update(&mut self, split: Split, name: &'static str, value: f64) {
        if !self.metrics.keys().any(|&(_, known)| known == name) {
            let higher_is_better = name.starts_with("miou");
            self.renderer.register_metric(MetricDefinition {
                metric_id: id(name),
                name: metric_name(name),
                description: None,
                attributes: NumericAttributes { unit: None, higher_is_better }.into(),
            });
        }
        let state = self.metrics.entry((split, name)).or_default();
        state.update(value, 1);
        let entry = MetricEntry::new(id(name), state.compute_update(format(name)));
        show(self.renderer.as_mut(), split, MetricState::Numeric(entry, Some(state.current_value())));
    }
}

impl Observer for Dashboard {
    fn on(&mut self, event: &RunEvent) -> Result<(), LearnError> {
        let Some(view) = &mut self.view else { return Ok(()) };
        // "Stop immediately" in burn's menu is a panic at the next call: here the run is saved all the same.
        if catch_unwind(AssertUnwindSafe(|| view.show(event))).is_err() {
            self.interrupter.stop(Some("the dashboard"));
            self.close();
        }
        Ok(())
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.close();
    }
}

/// Leaves the terminal as it was before the dashboard. Without a dashboard, nothing happens.
///
/// Dropping the dashboard does the same; this is for a process that exits before.
pub fn restore_terminal() {
    if is_raw_mode_enabled().unwrap_or(false) {
        // There is no use for an error at the end of the process.
        let _ = execute!(stdout(), DisableMouseCapture, LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// Makes a typed Ctrl-C the signal again, once the renderer's thread has put the terminal into raw mode.
fn turn_on_ctrl_c() {
    const WAIT: Duration = Duration::from_secs(2);
    let began = Instant::now();
    while !is_raw_mode_enabled().unwrap_or(false) && began.elapsed() < WAIT {
        std::thread::sleep(Duration::from_millis(5));
    }
    #[cfg(unix)]
    {
        use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, tcgetattr, tcsetattr};
        let terminal = rustix::stdio::stdin();
        // Without it only Ctrl-C is lost; `q` stops the run as well.
        let Ok(mut modes) = tcgetattr(terminal) else { return };
        modes.local_modes |= LocalModes::ISIG;
        // The other signals of the keyboard would leave the terminal in the alternate screen.
        modes.special_codes[SpecialCodeIndex::VSUSP] = 0;
        modes.special_codes[SpecialCodeIndex::VQUIT] = 0;
        let _ = tcsetattr(terminal, OptionalActions::Now, &modes);
    }
}

fn show(renderer: &mut dyn MetricsRenderer, split: Split, state: MetricState) {
    match split {
        Split::Training => renderer.update_train(state),
        Split::Validation => renderer.update_valid(state),
    }
}

fn metric_name(name: &str) -> MetricName {
    Arc::new(name.to_owned())
}

fn id(name: &str) -> MetricId {
    MetricId::new(metric_name(name))
}

fn format(name: &str) -> FormatOptions {
    FormatOptions::new(metric_name(name)).precision(DIGITS)
}
