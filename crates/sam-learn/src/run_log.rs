//! `metrics.jsonl` and TensorBoard events of a run.
//!
//! A resumed run repeats the steps after its last save, so their lines are taken out first. TensorBoard gets a new file per
//! session and shows the later value of a step.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use sam_files::write_atomically;
use sam_image::RgbImage;
use serde::{Deserialize, Serialize};
use tensorboard_rs::summary_writer::SummaryWriter;

use crate::error::LearnError;
use crate::events::{StepRecord, ValidationRecord};

/// Of a run folder: a line of JSON for each step and each validation.
pub(crate) const LOG_FILE: &str = "metrics.jsonl";

const STEP: &str = "step";
const VALIDATION: &str = "validation";

/// A line says what it is.
#[derive(Serialize)]
struct Line<'a, T: Serialize> {
    event: &'static str,
    #[serde(flatten)]
    record: &'a T,
}

/// Writes what happens.
pub(crate) struct RunLog {
    path: PathBuf,
    file: File,
    tensorboard: Option<SummaryWriter>,
}

impl RunLog {
    /// Opens the files of a run folder; lines about steps after `done_step` go.
    ///
    /// # Errors
    ///
    /// When they cannot be read or written.
    pub(crate) fn open(folder: &Path, done_step: u64, with_tensorboard: bool) -> Result<Self, LearnError> {
        let path = folder.join(LOG_FILE);
        let write_error = |source| LearnError::Write { path: path.clone(), source };
        if path.exists() {
            let kept = lines_up_to(&path, done_step)?;
            write_atomically(&path, &kept).map_err(write_error)?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(write_error)?;
        let tensorboard = with_tensorboard.then(|| SummaryWriter::new(folder.join("tensorboard")));
        Ok(Self { path, file, tensorboard })
    }

    /// A step.
    ///
    /// # Errors
    ///
    /// When the disk is full or refuses.
    pub(crate) fn step(&mut self, record: &StepRecord) -> Result<(), LearnError> {
        self.line(STEP, record)?;
        let step = record.step as usize;
        self.scalars(
            step,
            &[
                ("train/loss", record.loss),
                ("train/grad_norm", record.grad_norm),
                ("train/lr", record.lr),
                ("speed/images_per_s", record.images_per_s),
                ("speed/data_wait_share", record.data_wait_share),
                ("speed/memory_mib", record.memory_mib),
            ],
        );
        if let Some(terms) = &record.segmentation {
            self.scalars(
                step,
                &[
                    ("train/focal", terms.focal),
                    ("train/dice", terms.dice),
                    ("train/iou_error", terms.iou_error),
                    ("train/miou_first", terms.miou_first),
                    ("train/miou_last", terms.miou_last),
                ],
            );
        }
        Ok(())
    }

    /// A validation.
    ///
    /// # Errors
    ///
    /// When the disk is full or refuses.
    pub(crate) fn validation(&mut self, record: &ValidationRecord) -> Result<(), LearnError> {
        self.line(VALIDATION, record)?;
        let names: Vec<String> = record.scores.metrics.keys().map(|name| format!("val/{name}")).collect();
        let values: Vec<(&str, f64)> =
            names.iter().map(String::as_str).zip(record.scores.metrics.values().copied()).collect();
        self.scalars(record.scores.step as usize, &values);
        if let Some(tensorboard) = &mut self.tensorboard {
            tensorboard.flush();
        }
        Ok(())
    }

    /// A picture, for TensorBoard.
    pub(crate) fn picture(&mut self, picture: &RgbImage, step: u64) {
        if let Some(tensorboard) = &mut self.tensorboard {
            // The writer takes interleaved RGB with width before height.
            let shape = [3, picture.width() as usize, picture.height() as usize];
            tensorboard.add_image("val/previews", picture.as_raw(), &shape, step as usize);
        }
    }

    fn line<T: Serialize>(&mut self, event: &'static str, record: &T) -> Result<(), LearnError> {
        let write_error = |source| LearnError::Write { path: self.path.clone(), source };
        let mut line = serde_json::to_vec(&Line { event, record }).map_err(|error| write_error(error.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(write_error)
    }

    fn scalars(&mut self, step: usize, values: &[(&str, f64)]) {
        if let Some(tensorboard) = &mut self.tensorboard {
            for &(tag, value) in values {
                tensorboard.add_scalar(tag, value as f32, step);
            }
        }
    }
}

/// What a run has said so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunHistory {
    /// In order.
    pub steps: Vec<StepRecord>,
    /// In order.
    pub validations: Vec<ValidationRecord>,
    /// Lines that are none of these, such as one that a crash cut short.
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
        // Twice, because what a line is need not stand at its beginning.
        match serde_json::from_slice::<Kind>(line).ok()?.event.as_str() {
            STEP => serde_json::from_slice(line).ok().map(Self::Step),
            VALIDATION => serde_json::from_slice(line).ok().map(Self::Validation),
            _ => None,
        }
    }
}

/// A line that a crash cut short goes, too.
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
    use crate::events::SegmentationTerms;
    use crate::saved_state::Scores;

    #[test]
    fn lines_of_steps_to_come_and_half_lines_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"event\":\"step\",\"step\":1}\n{\"event\":\"step\",\"step\":2}\n{\"event\":\"st")
            .expect("written");
        drop(RunLog::open(folder.path(), 1, false).expect("opens"));
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "{\"event\":\"step\",\"step\":1}\n");
    }

    #[test]
    fn what_was_written_is_read_again() {
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
        let mut log = RunLog::open(folder.path(), 0, false).expect("opens");
        steps.iter().try_for_each(|record| log.step(record)).expect("written");
        log.validation(&validation).expect("written");
        log.file.write_all(b"{\"event\":\"step\",\"st").expect("written");
        drop(log);
        let history = RunHistory::read(folder.path()).expect("reads");
        assert_eq!(history, RunHistory { steps, validations: vec![validation], n_unreadable: 1 });
    }
}
