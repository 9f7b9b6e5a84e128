//! What a run folder says about its run.

use std::path::{Path, PathBuf};

use sam_eval::Better;
use sam_learn::options::{EMBEDDING_MSE, RECONSTRUCTION_LOSS};
use sam_learn::record::{BEST_FILE, RunHistory, RunLock, Scores, ValidationRecord};
use serde::Serialize;
use serde_json::Value;

use crate::train::{EndingRecord, PLAN_FILE, RunFolder};

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum State {
    /// A process works in its folder.
    Running,
    Finished,
    /// The metric had not improved for as long as was allowed.
    EarlyStopped,
    /// It can be resumed.
    Interrupted,
    /// It ended with an error, or without a save.
    Failed,
    /// Its plan cannot be read.
    Damaged,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::EarlyStopped => "early stopped",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Damaged => "damaged",
        }
    }
}

/// A run as its folder tells it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Run {
    pub(super) name: String,
    pub(super) folder: PathBuf,
    pub(super) task: String,
    pub(super) state: State,
    /// Why it failed, and what of its folder cannot be read.
    pub(super) notes: Vec<String>,
    pub(super) started_unix_s: Option<u64>,
    pub(super) step: u64,
    pub(super) of_steps: Option<u64>,
    pub(super) elapsed_s: f64,
    /// The metric that chooses the best checkpoint; `None` when nothing was validated.
    pub(super) metric: Option<String>,
    pub(super) better: Option<Better>,
    pub(super) baseline: Option<Scores>,
    pub(super) best: Option<Scores>,
    pub(super) last: Option<Scores>,
    /// The best checkpoint, if there is one.
    pub(super) checkpoint: Option<PathBuf>,
    #[serde(skip)]
    pub(super) plan: toml::Table,
    #[serde(skip)]
    pub(super) environment: Value,
}

/// Whether a folder is a run's.
pub(super) fn is_run(folder: &Path) -> bool {
    folder.join(PLAN_FILE).is_file()
}

impl Run {
    /// Reads a folder. Whatever is wrong with it is in the result.
    pub(super) fn read(folder: &Path) -> Self {
        let mut notes = Vec::new();
        let mut note = |what: &str, problem: String| notes.push(format!("{what}: {problem}"));
        let plan = sam_files::read_text(&folder.join(PLAN_FILE), sam_files::MAX_TEXT_BYTES)
            .map_err(|error| error.to_string())
            .and_then(|text| text.parse::<toml::Table>().map_err(|error| error.message().to_owned()));
        let is_damaged = plan.is_err();
        let plan = plan.unwrap_or_else(|problem| {
            note(PLAN_FILE, problem);
            toml::Table::new()
        });
        let history = match folder.join("metrics.jsonl").exists() {
            true => RunHistory::read(folder).unwrap_or_else(|error| {
                note("metrics.jsonl", error.to_string());
                RunHistory::default()
            }),
            false => RunHistory::default(),
        };
        if history.n_unreadable > 0 {
            note("metrics.jsonl", format!("{} unreadable lines", history.n_unreadable));
        }
        let files = RunFolder::to_read(folder);
        let ending = files.ending();
        if let Some(error) = ending.as_ref().and_then(|ending| ending.error.clone()) {
            notes.push(error);
        }
        let text = |section: &str, key: &str| Some(plan.get(section)?.as_table()?.get(key)?.as_str()?.to_owned());
        let of_steps = || u64::try_from(plan.get("schedule")?.as_table()?.get("steps")?.as_integer()?).ok();
        let folder_name =
            folder.file_name().map_or_else(|| folder.display().to_string(), |name| name.to_string_lossy().into_owned());
        let [baseline, best, last] = scores(&history);
        let checkpoint = Some(folder.join(BEST_FILE)).filter(|path| path.is_file());
        let environment = files.environment();
        let step = history.steps.last().map_or(0, |record| record.step);
        let mut run = Self {
            name: text("run", "name").unwrap_or(folder_name),
            folder: folder.to_owned(),
            task: plan.get("task").and_then(|task| task.as_str()).unwrap_or("-").to_owned(),
            state: State::Damaged,
            notes,
            started_unix_s: environment["started_unix_s"].as_u64(),
            step,
            of_steps: of_steps(),
            elapsed_s: elapsed_s(&history),
            metric: history.validations.iter().map(|record| &record.metric).find(|name| !name.is_empty()).cloned(),
            better: history.validations.iter().find(|record| !record.metric.is_empty()).map(ValidationRecord::better),
            baseline,
            best,
            last,
            checkpoint,
            plan,
            environment,
        };
        if !is_damaged {
            run.state = run.state_with(ending.as_ref(), files.has_saves());
        }
        run
    }

    fn state_with(&self, ending: Option<&EndingRecord>, has_saves: bool) -> State {
        if RunLock::is_held(&self.folder) {
            return State::Running;
        }
        let is_complete = self.of_steps.is_some_and(|of_steps| self.step >= of_steps) && has_saves;
        match ending {
            Some(ending) => match ending.state.as_str() {
                "finished" => State::Finished,
                "early_stopped" => State::EarlyStopped,
                "interrupted" => State::Interrupted,
                _ => State::Failed,
            },
            // Runs of earlier versions, and those that were killed, say nothing.
            None if is_complete => State::Finished,
            None if has_saves => State::Interrupted,
            None => State::Failed,
        }
    }

    /// Metrics of its validations.
    pub(super) fn metric_names(&self) -> impl Iterator<Item = &str> {
        self.last.iter().flat_map(|scores| scores.metrics.keys()).map(String::as_str)
    }

    /// Before training and of the best checkpoint, by the metric of the run or another one.
    pub(super) fn before_and_best(&self, metric: Option<&str>) -> [Option<f64>; 2] {
        let Some(name) = metric.or(self.metric.as_deref()) else { return [None, None] };
        [&self.baseline, &self.best].map(|scores| scores.as_ref()?.metrics.get(name).copied())
    }

    /// Direction in which a metric improves.
    pub(super) fn better(&self, metric: &str) -> Better {
        const LOWER: [&str; 4] = ["error", "noc", "fail", "cap"];
        if self.metric.as_deref() == Some(metric) {
            return self.better.unwrap_or(Better::Higher);
        }
        let name = metric.rsplit('/').next().unwrap_or(metric);
        match [RECONSTRUCTION_LOSS, EMBEDDING_MSE].contains(&name) || LOWER.iter().any(|part| name.contains(part)) {
            true => Better::Lower,
            false => Better::Higher,
        }
    }
}

/// Baseline, best, last.
fn scores(history: &RunHistory) -> [Option<Scores>; 3] {
    let validations = &history.validations;
    let baseline = validations.iter().find(|record| record.is_baseline);
    let best = validations.iter().rev().find(|record| record.is_best);
    [baseline, best, validations.last()].map(|record| record.map(|record| record.scores.clone()))
}

/// Time of all sessions. That of a step's record does not include the validation after it.
fn elapsed_s(history: &RunHistory) -> f64 {
    let last = history.steps.last();
    let step = last.map_or(0, |record| record.step);
    let after = history.validations.iter().filter(|record| last.is_none() || record.scores.step >= step);
    last.map_or(0.0, |record| record.elapsed_s) + after.map(|record| record.took_s).sum::<f64>()
}
