//! What the dashboard knows, from the events of the run alone.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use sam_eval::Better;
use sam_learn::record::{RunEvent, RunStart, Scores, StepRecord, ValidationRecord, duration};

use super::curve::Curve;

/// Warnings that are kept for the screen.
const WARNINGS_KEPT: usize = 20;

/// Validations that are kept for the table.
const VALIDATIONS_KEPT: usize = 40;

/// A step that takes longer shows its own time, so that the screen visibly lives.
const LONG_STEP_S: f64 = 3.0;

/// What is known before the run begins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heading {
    /// Name of the run.
    pub(crate) name: String,
    /// Its folder.
    pub(crate) folder: String,
    /// What the data sets lose, a line for each.
    pub(crate) losses: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before the first step of the session.
    Preparing,
    Training,
    Validating {
        n_images: usize,
        of_images: usize,
    },
    Saving,
}

/// The scores by the metric that chooses the best checkpoint, and all metrics of the validations.
#[derive(Clone, Debug, Default)]
pub(super) struct Validations {
    /// `None` when nothing is validated.
    pub(super) metric: Option<String>,
    better: Option<Better>,
    pub(super) every: u64,
    pub(super) baseline: Option<Scores>,
    pub(super) best: Option<Scores>,
    pub(super) curve: Curve,
    /// The newest are last.
    pub(super) records: VecDeque<ValidationRecord>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Curves {
    pub(super) loss: Curve,
    pub(super) lr: Curve,
    /// Focal, dice, error of the predicted IoU.
    pub(super) terms: [Curve; 3],
    /// IoU on training data after the first prompt and after the last pass.
    pub(super) train_iou: [Curve; 2],
}

/// The newest are last.
#[derive(Clone, Debug, Default)]
pub(super) struct Warnings {
    pub(super) lines: VecDeque<String>,
    pub(super) n: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    No,
    /// The question is on the screen.
    Asked,
    /// The step is finished, then the run is saved.
    Requested,
}

/// The state of the dashboard.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) heading: Heading,
    pub(super) step: u64,
    pub(super) of_steps: u64,
    pub(super) phase: Phase,
    pub(super) last: Option<StepRecord>,
    pub(super) validations: Validations,
    pub(super) curves: Curves,
    pub(super) warnings: Warnings,
    pub(super) stop: Stop,
    /// Reasons of skipped samples, which name their files.
    skipped: BTreeSet<String>,
    began: Instant,
    elapsed_before_s: f64,
    /// The end of the last step, or of what came after it.
    step_began: Instant,
    eta: Option<(f64, Instant)>,
}

impl State {
    pub(super) fn new(heading: Heading, start: &RunStart, now: Instant) -> Self {
        let progress = &start.progress;
        let mut state = Self {
            heading,
            step: progress.step,
            of_steps: start.of_steps,
            phase: Phase::Preparing,
            last: None,
            validations: Validations {
                metric: start.metric.clone(),
                every: start.validation_every.max(1),
                baseline: progress.baseline.clone(),
                best: progress.best.clone(),
                ..Validations::default()
            },
            curves: Curves::default(),
            warnings: Warnings::default(),
            stop: Stop::No,
            skipped: BTreeSet::new(),
            began: now,
            elapsed_before_s: progress.elapsed_s,
            step_began: now,
            eta: start.eta_s.map(|eta_s| (eta_s, now)),
        };
        start.history.steps.iter().for_each(|record| state.curves.add(record));
        start.history.validations.iter().for_each(|record| state.validations.add(record));
        state.last = start.history.steps.last().cloned();
        state.heading.losses.clone().into_iter().for_each(|line| state.warnings.add(line));
        state
    }

    pub(super) fn on(&mut self, event: &RunEvent, now: Instant) {
        match event {
            RunEvent::Started(_) | RunEvent::Preview { .. } => {}
            RunEvent::Step(record) => {
                self.step = record.step;
                self.curves.add(record);
                self.last = Some(record.clone());
                self.eta = Some((record.eta_s, now));
                self.enter(Phase::Training, now);
            }
            &RunEvent::Validating { n_images, of_images } => {
                self.phase = Phase::Validating { n_images, of_images };
            }
            RunEvent::Validated(record) => {
                self.validations.add(record);
                self.enter(if self.step == 0 { Phase::Preparing } else { Phase::Training }, now);
            }
            RunEvent::Saving { .. } => self.phase = Phase::Saving,
            RunEvent::Saved { .. } => self.enter(Phase::Training, now),
            RunEvent::Skipped { step, reason } => {
                if self.skipped.insert(reason.clone()) {
                    self.warnings.add(format!("step {step}: skipped: {reason}"));
                }
            }
            RunEvent::Warning { message } => self.warnings.add(message.clone()),
        }
    }

    fn enter(&mut self, phase: Phase, now: Instant) {
        (self.phase, self.step_began) = (phase, now);
    }

    /// Files that could not be read.
    pub(super) fn n_skipped(&self) -> usize {
        self.skipped.len()
    }

    /// Time to the end of the whole run; `None` before the first step.
    pub(super) fn eta_s(&self, now: Instant) -> Option<f64> {
        let (eta_s, since) = self.eta?;
        Some((eta_s - now.saturating_duration_since(since).as_secs_f64()).max(0.0))
    }

    /// Time of all sessions.
    pub(super) fn elapsed_s(&self, now: Instant) -> f64 {
        self.elapsed_before_s + now.saturating_duration_since(self.began).as_secs_f64()
    }

    /// Done steps as a fraction of all.
    pub(super) fn fraction(&self) -> f64 {
        self.step as f64 / self.of_steps.max(1) as f64
    }

    pub(super) fn phase_text(&self, now: Instant) -> String {
        let step_s = now.saturating_duration_since(self.step_began).as_secs_f64();
        let so_far = if step_s >= LONG_STEP_S { format!(", {} so far", duration(step_s)) } else { String::new() };
        let phase = match self.phase {
            Phase::Preparing => format!("preparing the first step{so_far}"),
            Phase::Training => match so_far.is_empty() {
                true => "training".to_owned(),
                false => format!("training: step {}{so_far}", self.step + 1),
            },
            Phase::Validating { n_images, of_images } => {
                let what = if self.step == 0 { "validating before training" } else { "validating" };
                format!("{what}: {n_images} of {of_images} images")
            }
            Phase::Saving => "saving".to_owned(),
        };
        match self.stop {
            Stop::Requested if self.phase != Phase::Saving => {
                format!("stopping after this step, then saving ({phase})")
            }
            _ => phase,
        }
    }
}

impl Curves {
    fn add(&mut self, record: &StepRecord) {
        let step = record.step;
        self.loss.push(step, record.loss);
        self.lr.push(step, record.lr);
        let Some(terms) = &record.segmentation else { return };
        let values = [terms.focal, terms.dice, terms.iou_error];
        self.terms.iter_mut().zip(values).for_each(|(curve, value)| curve.push(step, value));
        let values = [terms.miou_first, terms.miou_last];
        self.train_iou.iter_mut().zip(values).for_each(|(curve, value)| curve.push(step, value));
    }
}

impl Validations {
    fn add(&mut self, record: &ValidationRecord) {
        self.better = Some(record.better());
        if record.is_baseline {
            self.baseline = Some(record.scores.clone());
        }
        if record.is_best {
            self.best = Some(record.scores.clone());
        }
        if let Some(value) = self.value_of(&record.scores) {
            self.curve.push(record.scores.step, value);
        }
        self.records.push_back(record.clone());
        if self.records.len() > VALIDATIONS_KEPT {
            self.records.pop_front();
        }
    }

    /// The metric that chooses the best checkpoint.
    pub(super) fn value_of(&self, scores: &Scores) -> Option<f64> {
        scores.metrics.get(self.metric.as_ref()?).copied()
    }

    /// By how much the best is above (or, where lower is better, below) the baseline: negative when training has only made
    /// it worse. The value itself is the signed difference for the screen.
    pub(super) fn change(&self) -> Option<Change> {
        let [baseline, best] = [self.baseline.as_ref()?, self.best.as_ref()?].map(|scores| self.value_of(scores));
        let difference = best? - baseline?;
        let improvement = if self.better == Some(Better::Lower) { -difference } else { difference };
        Some(Change { difference, is_improvement: improvement > 0.0 })
    }

    /// The step of the next validation.
    pub(super) fn next_step(&self, step: u64, of_steps: u64) -> u64 {
        ((step / self.every + 1) * self.every).min(of_steps)
    }
}

/// Best minus baseline.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) difference: f64,
    pub(super) is_improvement: bool,
}

impl Warnings {
    fn add(&mut self, line: String) {
        self.n += 1;
        self.lines.push_back(line);
        if self.lines.len() > WARNINGS_KEPT {
            self.lines.pop_front();
        }
    }
}
