//! `metrics.jsonl`: a line for each step and each validation of a run.
//!
//! A save remembers length and checksum of the log. A resumed run repeats the steps after its save, so their lines are
//! removed first: the log holds every step and every validation once, however often the run was stopped.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use sam_files::write_atomically;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::checksum::Checksum;
use super::events::{Observer, RunEvent, StepRecord, ValidationRecord};
use super::saved_state::{Progress, SavedState};
use crate::error::LearnError;

pub(crate) const LOG_FILE: &str = "metrics.jsonl";

const STEP: &str = "step";
const VALIDATION: &str = "validation";

/// A line of JSON with its kind.
#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    event: &'static str,
    #[serde(flatten)]
    record: &'a T,
}

/// Writes `metrics.jsonl`. A run does not continue without it.
pub(crate) struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the log of a run folder as it was at a save: later lines are removed, because their steps are repeated. Without
    /// a save the run begins again, and its log with it.
    ///
    /// Returns warnings if the log differs from its state at the save; it then has the lines that are still readable, and the
    /// validations recorded in the save.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written.
    pub(crate) fn open(folder: &Path, saved: Option<&SavedState>) -> Result<(Self, Vec<String>), LearnError> {
        let path = folder.join(LOG_FILE);
        let write_error = |source| LearnError::Write { path: path.clone(), source };
        let mut warnings = Vec::new();
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(write_error)?;
        match saved {
            None => file.set_len(0).map_err(write_error)?,
            Some(saved) if Checksum::of_beginning(&path, saved.log.bytes).is_ok_and(|found| found == saved.log) => {
                file.set_len(saved.log.bytes).map_err(write_error)?;
            }
            Some(saved) => {
                let (lines, n_dropped) = restored_lines(&path, &saved.progress)?;
                write_atomically(&path, &lines).map_err(write_error)?;
                warnings.push(format!(
                    "{} is damaged: {n_dropped} lines are unreadable and steps may be missing; the validations recorded in \
                     the save are restored",
                    path.display()
                ));
            }
        }
        let file = OpenOptions::new().append(true).open(&path).map_err(write_error)?;
        Ok((Self { path, file }, warnings))
    }

    fn line<T: Serialize>(&mut self, event: &'static str, record: &T) -> Result<(), LearnError> {
        let write_error = |source| LearnError::Write { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(&Line { event, record }).map_err(|error| write_error(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(write_error)
    }
}

impl Observer for MetricsLog {
    fn on(&mut self, event: &RunEvent) -> Result<(), LearnError> {
        match event {
            RunEvent::Step(record) => self.line(STEP, record),
            RunEvent::Validated(record) => self.line(VALIDATION, record),
            RunEvent::Started(_)
            | RunEvent::Validating { .. }
            | RunEvent::Saving { .. }
            | RunEvent::Saved { .. }
            | RunEvent::Skipped { .. }
            | RunEvent::Preview { .. }
            | RunEvent::Warning { .. } => Ok(()),
        }
    }

    fn is_essential(&self) -> bool {
        true
    }
}

/// The records of a run so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunHistory {
    /// Steps, in order.
    pub steps: Vec<StepRecord>,
    /// Validations, in order.
    pub validations: Vec<ValidationRecord>,
    /// Lines that are neither, such as one that a crash cut short.
    pub n_unreadable: usize,
}

impl RunHistory {
    /// Reads the log of a run folder.
    ///
    /// # Errors
    ///
    /// When there is none, or it cannot be read.
    pub fn read(folder: &Path) -> Result<Self, LearnError> {
        let path = folder.join(LOG_FILE);
        let read_error = |source: std::io::Error| LearnError::Read { path: path.clone(), reason: source.to_string() };
        let mut history = Self::default();
        for line in BufReader::new(sam_files::open_regular(&path).map_err(read_error)?).split(b'\n') {
            match RecordedLine::of(&line.map_err(read_error)?) {
                Some(RecordedLine::Step(record)) => history.steps.push(record),
                Some(RecordedLine::Validation(record)) => history.validations.push(record),
                None => history.n_unreadable += 1,
            }
        }
        Ok(history)
    }
}

enum RecordedLine {
    Step(StepRecord),
    Validation(ValidationRecord),
}

impl RecordedLine {
    fn of(line: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Kind {
            event: String,
        }
        // Parsed twice, because the kind need not stand at the beginning of the line.
        match serde_json::from_slice::<Kind>(line).ok()?.event.as_str() {
            STEP => serde_json::from_slice(line).ok().map(Self::Step),
            VALIDATION => serde_json::from_slice(line).ok().map(Self::Validation),
            _ => None,
        }
    }
}

/// The readable lines of a damaged log up to a save, each step and each validation once and in order, with the validations
/// recorded in the save; and the number of unreadable lines.
fn restored_lines(path: &Path, progress: &Progress) -> Result<(Vec<u8>, usize), LearnError> {
    let bytes = sam_files::read_regular(path, sam_files::MAX_FILE_BYTES)
        .map_err(|source| LearnError::Read { path: path.to_owned(), reason: source.to_string() })?;
    let mut lines: BTreeMap<(u64, bool), Vec<u8>> = BTreeMap::new();
    let mut n_dropped = 0;
    for line in bytes.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let key = match RecordedLine::of(line) {
            Some(RecordedLine::Step(record)) => (record.step, false),
            Some(RecordedLine::Validation(record)) => (record.scores.step, true),
            None => {
                n_dropped += 1;
                continue;
            }
        };
        if key.0 <= progress.step {
            lines.entry(key).or_insert_with(|| line.to_vec());
        }
    }
    for scores in [&progress.baseline, &progress.best, &progress.last].into_iter().flatten() {
        let record = json!({
            "event": VALIDATION,
            "step": scores.step,
            "metrics": scores.metrics,
            "metric": "",
            "is_best": progress.best.as_ref() == Some(scores),
            "is_baseline": scores.step == 0,
            "took_s": 0.0,
        });
        lines.entry((scores.step, true)).or_insert_with(|| record.to_string().into_bytes());
    }
    Ok((lines.into_values().flat_map(|line| [line, b"\n".to_vec()].concat()).collect(), n_dropped))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Scores, SegmentationTerms};

    fn saved(step: u64, log: &Path, bytes: u64) -> SavedState {
        let log = Checksum::of_beginning(log, bytes).expect("readable");
        let scores = Scores { step: 0, metrics: std::iter::once(("a".to_owned(), 0.5)).collect() };
        SavedState::for_test(Progress { step, baseline: Some(scores), ..Progress::default() }, log)
    }

    #[test]
    fn lines_after_the_save_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(LOG_FILE);
        let before = "{\"event\":\"step\",\"step\":1}\n";
        std::fs::write(&path, format!("{before}{{\"event\":\"step\",\"step\":2}}\n{{\"event\":\"st")).expect("written");
        let state = saved(1, &path, before.len() as u64);
        let (_, warnings) = MetricsLog::open(folder.path(), Some(&state)).expect("opens");
        assert_eq!((warnings, std::fs::read_to_string(&path).expect("there").as_str()), (Vec::new(), before));
        MetricsLog::open(folder.path(), None).expect("opens");
        assert_eq!(std::fs::read(&path).expect("there"), b"");
    }

    #[test]
    fn a_damaged_log_keeps_readable_lines_and_recorded_validations() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join(LOG_FILE);
        let (mut log, _) = MetricsLog::open(folder.path(), None).expect("opens");
        [1, 2, 2, 3].into_iter().for_each(|at| log.on(&RunEvent::Step(step(at, None))).expect("written"));
        let bytes = std::fs::metadata(&path).expect("there").len();
        let state = saved(2, &path, bytes);
        log.file.write_all(b"more").expect("written");
        let mut damaged = std::fs::read(&path).expect("there");
        damaged[0] = 0xFF;
        std::fs::write(&path, damaged).expect("written");
        let (_, warnings) = MetricsLog::open(folder.path(), Some(&state)).expect("opens");
        assert!(warnings.len() == 1 && warnings[0].contains(LOG_FILE), "{warnings:?}");
        let history = RunHistory::read(folder.path()).expect("reads");
        assert_eq!(history.steps, [step(2, None)]);
        assert_eq!(history.validations.len(), 1, "the baseline");
        assert_eq!(history.n_unreadable, 0);
    }

    fn step(step: u64, segmentation: Option<SegmentationTerms>) -> StepRecord {
        StepRecord {
            step,
            of_steps: 9,
            lr: 1e-4,
            loss: 0.1 + 0.2,
            segmentation,
            distillation: Default::default(),
            grad_norm: 2.0,
            n_images: 3,
            images_per_s: 4.0,
            data_wait_share: 0.0,
            memory_mib: 5.0,
            elapsed_s: 6.0,
            eta_s: 7.0,
        }
    }

    #[test]
    fn written_records_are_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let terms =
            SegmentationTerms { focal: 0.1, dice: 0.2, iou_error: 0.3, miou_first: 0.4, miou_last: 0.5, n_objects: 6 };
        let steps = vec![step(1, None), step(2, Some(terms))];
        let scores = Scores { step: 2, metrics: std::iter::once(("a/b".to_owned(), 0.25)).collect() };
        let validation = ValidationRecord {
            scores,
            metric: "a/b".to_owned(),
            is_best: true,
            is_baseline: false,
            better: Some(sam_eval::Better::Higher),
            took_s: 1.5,
        };
        let (mut log, _) = MetricsLog::open(folder.path(), None).expect("opens");
        let events = steps.iter().cloned().map(RunEvent::Step).chain([RunEvent::Validated(validation.clone())]);
        events.for_each(|event| log.on(&event).expect("written"));
        log.file.write_all(b"{\"event\":\"step\",\"st").expect("written");
        drop(log);
        let history = RunHistory::read(folder.path()).expect("reads");
        assert_eq!(history, RunHistory { steps, validations: vec![validation], n_unreadable: 1 });
    }
}
