//! `metrics.jsonl` and TensorBoard events of a run.
//!
//! A resumed run repeats the steps after its last save, so their lines are taken out first. TensorBoard gets a new file per
//! session and shows the later value of a step.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use sam_image::RgbImage;
use sam_model::weights::write_atomically;
use serde::Serialize;
use tensorboard_rs::summary_writer::SummaryWriter;

use crate::error::LearnError;
use crate::events::{StepRecord, ValidationRecord};

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
        let path = folder.join("metrics.jsonl");
        let write_error = |source| LearnError::Write { path: path.clone(), source };
        if path.exists() {
            let kept = lines_up_to(&path, done_step)?;
            write_atomically(&path, write_error, |temporary| std::fs::write(temporary, &kept).map_err(write_error))?;
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
        self.line("step", record)?;
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
        self.line("validation", record)?;
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

    #[test]
    fn lines_of_steps_to_come_and_half_lines_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"event\":\"step\",\"step\":1}\n{\"event\":\"step\",\"step\":2}\n{\"event\":\"st")
            .expect("written");
        drop(RunLog::open(folder.path(), 1, false).expect("opens"));
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "{\"event\":\"step\",\"step\":1}\n");
    }
}
