//! `metrics.jsonl`: a line for each step and each validation of a run.
//!
//! A resumed run repeats the steps after its last save, so their lines are removed first.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use sam_files::write_atomically;
use serde::{Deserialize, Serialize};

use super::events::{Observer, RunEvent, StepRecord, ValidationRecord};
use crate::error::LearnError;

const LOG_FILE: &str = "metrics.jsonl";

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
    /// Opens the log of a run folder; lines about steps after `done_step` are removed.
    ///
    /// # Errors
    ///
    /// When it cannot be read or written.
    pub(crate) fn open(folder: &Path, done_step: u64) -> Result<Self, LearnError> {
        let path = folder.join(LOG_FILE);
        let write_error = |source| LearnError::Write { path: path.clone(), source };
        if path.exists() {
            let kept = lines_up_to(&path, done_step)?;
            write_atomically(&path, &kept).map_err(write_error)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(write_error)?;
        Ok(Self { path, file })
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
            RunEvent::Validating { .. }
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
        for line in BufReader::new(File::open(&path).map_err(read_error)?).split(b'\n') {
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

/// Without a line that a crash cut short.
fn lines_up_to(path: &Path, done_step: u64) -> Result<Vec<u8>, LearnError> {
    let read_error = |source: std::io::Error| LearnError::Read { path: path.to_owned(), reason: source.to_string() };
    let mut kept = Vec::new();
    for line in BufReader::new(File::open(path).map_err(read_error)?).lines() {
        let line = line.map_err(read_error)?;
        let record: Option<serde_json::Value> = serde_json::from_str(&line).ok();
        let step = record.and_then(|record| record.get("step").and_then(serde_json::Value::as_u64));
        if step.is_some_and(|step| step <= done_step) {
            kept.extend_from_slice(line.as_bytes());
            kept.push(b'\n');
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Scores, SegmentationTerms};

    #[test]
    fn lines_after_the_save_and_partial_lines_are_removed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"event\":\"step\",\"step\":1}\n{\"event\":\"step\",\"step\":2}\n{\"event\":\"st")
            .expect("written");
        drop(MetricsLog::open(folder.path(), 1).expect("opens"));
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "{\"event\":\"step\",\"step\":1}\n");
    }

    #[test]
    fn written_records_are_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let step = |step: u64, segmentation| StepRecord {
            step,
            of_steps: 9,
            lr: 1e-4,
            loss: 0.1 + 0.2,
            segmentation,
            grad_norm: 2.0,
            n_images: 3,
            images_per_s: 4.0,
            data_wait_share: 0.0,
            memory_mib: 5.0,
            elapsed_s: 6.0,
            eta_s: 7.0,
        };
        let terms =
            SegmentationTerms { focal: 0.1, dice: 0.2, iou_error: 0.3, miou_first: 0.4, miou_last: 0.5, n_objects: 6 };
        let steps = vec![step(1, None), step(2, Some(terms))];
        let scores = Scores { step: 2, metrics: std::iter::once(("a/b".to_owned(), 0.25)).collect() };
        let validation =
            ValidationRecord { scores, metric: "a/b".to_owned(), is_best: true, is_baseline: false, took_s: 1.5 };
        let mut log = MetricsLog::open(folder.path(), 0).expect("opens");
        let events = steps.iter().cloned().map(RunEvent::Step).chain([RunEvent::Validated(validation.clone())]);
        events.for_each(|event| log.on(&event).expect("written"));
        log.file.write_all(b"{\"event\":\"step\",\"st").expect("written");
        drop(log);
        let history = RunHistory::read(folder.path()).expect("reads");
        assert_eq!(history, RunHistory { steps, validations: vec![validation], n_unreadable: 1 });
    }
}
