//! burn-train's terminal dashboard as an observer of a run's events.
//!
//! burn counts in epochs; here an epoch is the steps between two validations.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::train::Interrupter;
use burn::train::metric::state::{FormatOptions, NumericMetricState};
use burn::train::metric::{MetricDefinition, MetricEntry, MetricId, MetricName, NumericAttributes};
use burn::train::renderer::{MetricState, MetricsRenderer, default_renderer};

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

/// Shows metrics, their curves and the progress; closed when dropped.
pub(crate) struct Dashboard {
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
        Self { renderer, metrics: BTreeMap::new(), every_steps, open: None }
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
        Ok(())
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
