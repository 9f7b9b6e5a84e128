//! What a data set loses, in the same words and numbers in every command: one look at all images and annotations before
//! anything is computed, printed, and kept for reports.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::anyhow;
use sam_data::{DataError, Losses, OnBad, Problem, Severity, Source, Survey, is_cloud, survey};
use sam_eval::Table;
use serde::{Deserialize, Serialize};

use crate::config::files::FilesPlan;
use crate::progress::{Progress, Waiting};

/// Images that are looked at before a training: some minutes. Of larger data sets, so many are, spread evenly.
const SURVEYED_BEFORE_TRAINING: usize = 50_000;

/// Of data in the cloud, where each is a request or two: enough to see that it is what it should be.
const SURVEYED_IN_CLOUD: usize = 256;

/// How the user of a command asks for bad data to be dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DropOption {
    /// An option of the command, and a key of the configuration.
    Flag,
    /// A key of the configuration; the command has no option for it.
    Key,
}

impl DropOption {
    /// Adds the advice to the error of a data set.
    pub(crate) fn advise(self, error: DataError) -> anyhow::Error {
        let how = match self {
            Self::Flag => "--drop-bad (data.bad = \"drop\")",
            Self::Key => "data.bad = \"drop\"",
        };
        match error {
            DataError::Findings { .. } => {
                anyhow!("{error}. `sam-train data check` lists all; {how} drops and counts them")
            }
            error => error.into(),
        }
    }
}

/// Who looks at the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A training or its validation. Images that cannot be read may be skipped one by one.
    Training { skips_unreadable: bool },
    /// Everything that is selected is read anyway.
    Evaluation,
}

impl Purpose {
    fn option(self) -> DropOption {
        match self {
            Self::Training { .. } => DropOption::Key,
            Self::Evaluation => DropOption::Flag,
        }
    }
}

/// An open data set that was looked at.
pub(crate) struct SurveyedSource {
    pub(crate) source: Arc<Source>,
    pub(crate) survey: Survey,
}

impl SurveyedSource {
    /// Opens a data set to train or validate on, and looks at all of it, or at a part of a very large one.
    ///
    /// # Errors
    ///
    /// When it cannot be opened, or holds bad data that is not to be dropped.
    pub(crate) fn open(files: &FilesPlan, purpose: Purpose) -> anyhow::Result<Self> {
        let waiting = Waiting::reading(&files.path);
        let source = files.open().map_err(|error| purpose.option().advise(error))?;
        drop(waiting);
        let n = source.len();
        let n_read = n.min(if is_cloud(&files.path) { SURVEYED_IN_CLOUD } else { SURVEYED_BEFORE_TRAINING });
        let indices: Vec<usize> = (0..n_read).map(|at| at * n / n_read).collect();
        Self::look_at(source, &indices, purpose)
    }

    /// Looks at some images of a data set.
    ///
    /// # Errors
    ///
    /// When they hold bad data that is not to be dropped.
    pub(crate) fn look_at(source: Arc<Source>, indices: &[usize], purpose: Purpose) -> anyhow::Result<Self> {
        let progress: Mutex<Option<Progress>> = Mutex::new(None);
        let survey = survey(&source, indices, &|done, total| {
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.get_or_insert_with(|| Progress::new("looking at the data", total as u64)).set(done as u64);
        });
        drop(progress);
        // A server that is away loses no data: it is no reason to begin without it.
        let unreadable = indices.iter().find(|&&index| !survey.is_readable(index));
        if let Some(&index) = unreadable.filter(|_| is_cloud(source.root()))
            && let Err(error) = source.undecoded(index)
            && error.is_outage()
        {
            return Err(error.into());
        }
        let skips = purpose == Purpose::Training { skips_unreadable: true };
        match survey.refusal(&source) {
            Some(error) if source.options().bad == OnBad::Refuse && !skips => Err(purpose.option().advise(error)),
            _ => Ok(Self { source, survey }),
        }
    }

    /// Fails when none of these images has an object; `what` they are for, and the remedy.
    pub(crate) fn require_objects(&self, indices: &[usize], what: &str, remedy: &str) -> anyhow::Result<()> {
        if self.survey.may_have_objects(indices) {
            return Ok(());
        }
        let n = indices.len();
        let mut message =
            format!("{}: none of the {n} images {what} has an object; {remedy}", self.source.root().display());
        let lost = lines("lost while reading", &self.survey.losses);
        lost.iter().for_each(|line| message.push_str(&format!("\n  {line}")));
        Err(anyhow!("{message}"))
    }
}

/// What a data set loses, by the name of the set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct DataLosses {
    pub(crate) name: String,
    pub(crate) losses: Losses,
}

impl DataLosses {
    /// A line for the dashboard; `None` when nothing is lost.
    pub(crate) fn headline(&self) -> Option<String> {
        (!self.losses.is_empty()).then(|| format!("{}: {}", self.name, summary(&self.losses)))
    }

    /// For a report; `None` when nothing is lost.
    pub(crate) fn table(&self) -> Option<Table> {
        let Losses { problems, .. } = &self.losses;
        if self.losses.is_empty() {
            return None;
        }
        let row = |problem: &Problem| {
            let places = problem.examples.join("; ");
            vec![kind_of(problem), problem.count.to_string(), places, problem.fix.clone()]
        };
        let filtered = filtered(&self.losses);
        let filtered =
            filtered.into_iter().map(|(count, what)| vec![what, count.to_string(), String::new(), String::new()]);
        Some(Table {
            title: format!("Lost data of {}", self.name),
            note: summary(&self.losses),
            header: ["problem", "count", "places", "what to do"].map(str::to_owned).to_vec(),
            rows: problems.iter().map(row).chain(filtered).collect(),
        })
    }
}

/// The lines for the console, none when nothing is lost; the first begins with `name`.
pub(crate) fn lines(name: &str, losses: &Losses) -> Vec<String> {
    if losses.is_empty() {
        return Vec::new();
    }
    let mut lines = vec![format!("{name}: {}", summary(losses))];
    lines.extend(losses.problems.iter().flat_map(problem_lines));
    lines.extend(filtered(losses).into_iter().map(|(count, what)| format!("filtered {what} x{count}")));
    lines
}

/// A problem with its places and its fix.
pub(crate) fn problem_lines(problem: &Problem) -> Vec<String> {
    let severity = match problem.severity {
        Severity::Error => "ERROR",
        Severity::Warning => "warning",
    };
    let head = format!("{severity} {} x{}", kind_of(problem), problem.count);
    let examples = problem.examples.iter().map(|example| format!("    {example}"));
    std::iter::once(head).chain(examples).chain([format!("    fix: {}", problem.fix)]).collect()
}

fn kind_of(problem: &Problem) -> String {
    serde_json::json!(problem.kind).as_str().unwrap_or_default().to_owned()
}

/// What remains.
fn summary(losses: &Losses) -> String {
    let Losses { images, images_read, unreadable_images, objects, .. } = losses;
    let looked_at = match images_read == images {
        true => format!("{images} images"),
        false => format!("{images_read} of {images} images"),
    };
    format!("{looked_at}, {unreadable_images} of them unreadable; {objects} objects are used. Lost:")
}

/// Objects that the size filter drops, by the key of its limit.
fn filtered(losses: &Losses) -> Vec<(u64, String)> {
    let counts = [
        (losses.filtered.too_large, "objects above filter.max_image_share"),
        (losses.filtered.too_small, "objects below filter.min_area_model_px"),
    ];
    counts.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| (count, what.to_owned())).collect()
}
