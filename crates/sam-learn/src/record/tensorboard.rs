//! Event files for TensorBoard: the numbers of `metrics.jsonl`, and the previews. A resumed run writes a new file;
//! TensorBoard shows the later value of a step.
//!
//! Events and their framing are those of `tensorboard-rs`. Its `SummaryWriter` is not used, because its thread panics when
//! the disk is full or the folder cannot be written: here that is a warning, and the run continues without event files.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use protobuf::Message;
use sam_image::RgbImage;
use tensorboard_proto::event::Event;
use tensorboard_proto::summary::Summary;
use tensorboard_rs::record_writer::RecordWriter;
use tensorboard_rs::summary::{image as image_summary, scalar};

use super::events::{DistillationTerms, Observer, RunEvent, StepRecord, ValidationRecord};
use crate::error::LearnError;

/// The format of event files that TensorBoard reads.
const FILE_VERSION: &str = "brain.Event:2";

/// Writes event files.
pub(crate) struct TensorBoard {
    folder: PathBuf,
    state: State,
}

enum State {
    /// Opened at the first event, so that an unwritable folder becomes a warning.
    Closed,
    Open {
        writer: RecordWriter<File>,
        path: PathBuf,
    },
    /// After an error, which was reported; nothing more is written.
    Failed,
}

impl TensorBoard {
    /// Event files in the run folder `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        Self { folder: folder.join("tensorboard"), state: State::Closed }
    }

    fn write(&mut self, step: u64, summary: Summary) -> Result<(), LearnError> {
        let mut event = Event::new();
        event.set_step(i64::try_from(step).unwrap_or(i64::MAX));
        event.set_summary(summary);
        self.write_event(event)
    }

    fn write_event(&mut self, mut event: Event) -> Result<(), LearnError> {
        if matches!(self.state, State::Closed) {
            self.open()?;
        }
        let State::Open { writer, path } = &mut self.state else { return Ok(()) };
        event.set_wall_time(unix_time_s());
        let written = event.write_to_bytes().map_err(io::Error::other).and_then(|bytes| writer.write(&bytes));
        if let Err(source) = written {
            let path = path.clone();
            self.state = State::Failed;
            return Err(LearnError::Write { path, source });
        }
        Ok(())
    }

    fn open(&mut self) -> Result<(), LearnError> {
        self.state = State::Failed;
        std::fs::create_dir_all(&self.folder)
            .map_err(|source| LearnError::Write { path: self.folder.clone(), source })?;
        let seconds = unix_time_s() as u64;
        let path = |session: u32| {
            self.folder.join(format!("events.out.tfevents.{seconds:010}.sam-train.{}.{session}", std::process::id()))
        };
        let path = (0..).map(path).find(|path| !path.exists()).unwrap_or_default();
        let file = File::create_new(&path).map_err(|source| LearnError::Write { path: path.clone(), source })?;
        self.state = State::Open { writer: RecordWriter::new(file), path };
        let mut version = Event::new();
        version.set_file_version(FILE_VERSION.to_owned());
        self.write_event(version)
    }

    fn step(&mut self, record: &StepRecord) -> Result<(), LearnError> {
        let mut values = vec![
            ("train/loss", record.loss),
            ("train/grad_norm", record.grad_norm),
            ("train/lr", record.lr),
            ("speed/images_per_s", record.images_per_s),
            ("speed/data_wait_share", record.data_wait_share),
            ("speed/memory_mib", record.memory_mib),
        ];
        if let Some(terms) = &record.segmentation {
            values.extend([
                ("train/focal", terms.focal),
                ("train/dice", terms.dice),
                ("train/iou_error", terms.iou_error),
                ("train/miou_first", terms.miou_first),
                ("train/miou_last", terms.miou_last),
            ]);
        }
        let DistillationTerms { embedding_mse, teacher_share } = record.distillation;
        values.extend(embedding_mse.map(|mse| ("train/embedding_mse", mse)));
        values.extend(teacher_share.map(|share| ("train/teacher_share", share)));
        values.into_iter().try_for_each(|(tag, value)| self.write(record.step, scalar(tag, value as f32)))
    }

    fn validation(&mut self, record: &ValidationRecord) -> Result<(), LearnError> {
        let scalars = record.scores.metrics.iter().map(|(name, value)| scalar(&format!("val/{name}"), *value as f32));
        scalars.into_iter().try_for_each(|summary| self.write(record.scores.step, summary))
    }

    fn preview(&mut self, image: &RgbImage, step: u64) -> Result<(), LearnError> {
        // The function takes interleaved RGB with width before height.
        let shape = [3, image.width() as usize, image.height() as usize];
        self.write(step, image_summary("val/previews", image.as_raw(), &shape))
    }
}

impl Observer for TensorBoard {
    fn on(&mut self, event: &RunEvent) -> Result<(), LearnError> {
        match event {
            RunEvent::Step(record) => self.step(record),
            RunEvent::Validated(record) => self.validation(record),
            RunEvent::Preview { step, image, .. } => self.preview(image, *step),
            RunEvent::Started(_)
            | RunEvent::Validating { .. }
            | RunEvent::Saving { .. }
            | RunEvent::Saved { .. }
            | RunEvent::Skipped { .. }
            | RunEvent::Warning { .. } => Ok(()),
        }
    }
}

fn unix_time_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preview() -> RunEvent {
        RunEvent::Preview { step: 3, path: PathBuf::new(), image: RgbImage::new(2, 3) }
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_reported_once() {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("tensorboard"), "a file in its place").expect("written");
        let mut tensorboard = TensorBoard::new(folder.path());
        tensorboard.on(&preview()).expect_err("no folder");
        tensorboard.on(&preview()).expect("nothing more is written");
    }

    #[test]
    fn two_sessions_of_a_second_write_two_files() {
        let folder = tempfile::tempdir().expect("a folder");
        for _ in 0..2 {
            TensorBoard::new(folder.path()).on(&preview()).expect("written");
        }
        let files = std::fs::read_dir(folder.path().join("tensorboard")).expect("there").flatten();
        let bytes: Vec<Vec<u8>> = files.map(|file| std::fs::read(file.path()).expect("readable")).collect();
        assert_eq!(bytes.len(), 2);
        assert!(bytes.iter().all(|bytes| bytes.windows(13).any(|window| window == FILE_VERSION.as_bytes())));
    }
}
