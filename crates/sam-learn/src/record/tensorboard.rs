//! Event files for TensorBoard: the numbers of `metrics.jsonl`, and the previews. A resumed run writes a new file;
//! TensorBoard shows the later value of a step.

use std::path::Path;

use tensorboard_rs::summary_writer::SummaryWriter;

use super::events::{Observer, RunEvent};
use crate::error::LearnError;

/// Writes event files.
pub(crate) struct TensorBoard(SummaryWriter);

impl TensorBoard {
    /// For a run folder.
    pub(crate) fn new(folder: &Path) -> Self {
        Self(SummaryWriter::new(folder.join("tensorboard")))
    }

    fn scalars<'a>(&mut self, step: u64, values: impl IntoIterator<Item = (&'a str, f64)>) {
        for (tag, value) in values {
            self.0.add_scalar(tag, value as f32, step as usize);
        }
    }
}

impl Observer for TensorBoard {
    fn on(&mut self, event: &RunEvent) -> Result<(), LearnError> {
        match event {
            RunEvent::Step(record) => {
                self.scalars(
                    record.step,
                    [
                        ("train/loss", record.loss),
                        ("train/grad_norm", record.grad_norm),
                        ("train/lr", record.lr),
                        ("speed/images_per_s", record.images_per_s),
                        ("speed/data_wait_share", record.data_wait_share),
                        ("speed/memory_mib", record.memory_mib),
                    ],
                );
                let terms = record.segmentation.iter().flat_map(|terms| {
                    [
                        ("train/focal", terms.focal),
                        ("train/dice", terms.dice),
                        ("train/iou_error", terms.iou_error),
                        ("train/miou_first", terms.miou_first),
                        ("train/miou_last", terms.miou_last),
                    ]
                });
                self.scalars(record.step, terms);
            }
            RunEvent::Validated(record) => {
                for (name, value) in &record.scores.metrics {
                    self.scalars(record.scores.step, [(format!("val/{name}").as_str(), *value)]);
                }
                self.0.flush();
            }
            RunEvent::Preview { step, image, .. } => {
                // The writer takes interleaved RGB with width before height.
                let shape = [3, image.width() as usize, image.height() as usize];
                self.0.add_image("val/previews", image.as_raw(), &shape, *step as usize);
            }
            RunEvent::Validating { .. }
            | RunEvent::Saved { .. }
            | RunEvent::Skipped { .. }
            | RunEvent::Warning { .. } => {}
        }
        Ok(())
    }
}
