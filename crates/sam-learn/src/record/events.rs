//! The events of a run and their observers. The loop has no other output but its files.

use std::path::PathBuf;
use std::sync::Arc;

use sam_eval::Better;
use sam_image::RgbImage;
use serde::{Deserialize, Serialize};

use super::run_log::RunHistory;
use super::saved_state::{Progress, Scores};
use crate::error::LearnError;
use crate::options::RECONSTRUCTION_LOSS;

/// An event of a run.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// The loop begins, or goes on after a save. The first event of a session.
    Started(RunStart),
    /// An optimiser step was made.
    Step(StepRecord),
    /// A validation is under way.
    Validating {
        /// Images done.
        n_images: usize,
        /// All images.
        of_images: usize,
    },
    /// A validation is complete.
    Validated(ValidationRecord),
    /// A save is being written.
    Saving {
        /// Optimiser steps done.
        step: u64,
    },
    /// The run can be resumed from here.
    Saved {
        /// Optimiser steps done.
        step: u64,
        /// Folder of the save.
        path: PathBuf,
    },
    /// A sample that could not be read was skipped.
    Skipped {
        /// Optimiser steps done.
        step: u64,
        /// The source's message, which names the file.
        reason: String,
    },
    /// A preview of the model's predictions was written.
    Preview {
        /// Optimiser steps done.
        step: u64,
        /// Its file.
        path: PathBuf,
        /// Its content.
        image: RgbImage,
    },
    /// An observer failed; the run continues.
    Warning {
        /// The observer's message.
        message: String,
    },
}

/// What a session begins with.
#[derive(Clone, Debug)]
pub struct RunStart {
    /// Steps and scores of earlier sessions.
    pub progress: Progress,
    /// All steps of the run.
    pub of_steps: u64,
    /// Steps between validations.
    pub validation_every: u64,
    /// The metric that chooses the best checkpoint; `None` when nothing is validated.
    pub metric: Option<String>,
    /// Expected time to the last step, from the pace of earlier sessions.
    pub eta_s: Option<f64>,
    /// The records of earlier sessions, empty for a new run.
    pub history: Arc<RunHistory>,
}

/// Receives the events of a run.
pub trait Observer: Send {
    /// Receives an event.
    ///
    /// # Errors
    ///
    /// The run ends with the error of an essential observer; that of another becomes a [`RunEvent::Warning`].
    fn on(&mut self, event: &RunEvent) -> Result<(), LearnError>;

    /// True when the run must not continue without this observer.
    fn is_essential(&self) -> bool {
        false
    }
}

/// Any function of events is an observer that never fails.
impl<F: FnMut(&RunEvent) + Send> Observer for F {
    fn on(&mut self, event: &RunEvent) -> Result<(), LearnError> {
        self(event);
        Ok(())
    }
}

/// All observers of a run.
pub(crate) struct Observers(pub(crate) Vec<Box<dyn Observer>>);

impl Observers {
    /// Sends an event to all of them.
    pub(crate) fn notify(&mut self, event: &RunEvent) -> Result<(), LearnError> {
        let mut warnings = Vec::new();
        for observer in &mut self.0 {
            match observer.on(event) {
                Err(error) if observer.is_essential() => return Err(error),
                Err(error) => warnings.push(RunEvent::Warning { message: error.to_string() }),
                Ok(()) => {}
            }
        }
        for warning in &warnings {
            for observer in &mut self.0 {
                // A warning about a warning would never end.
                let _ = observer.on(warning);
            }
        }
        Ok(())
    }
}

/// A line of `metrics.jsonl` about a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Optimiser steps done.
    pub step: u64,
    /// All steps of the run.
    pub of_steps: u64,
    /// Highest learning rate of any parameter group in this step.
    pub lr: f64,
    /// The mean loss over passes and objects.
    pub loss: f64,
    /// Its terms, where masks are learned.
    #[serde(flatten)]
    pub segmentation: Option<SegmentationTerms>,
    /// Its terms, where a teacher is learned from.
    #[serde(flatten)]
    pub distillation: DistillationTerms,
    /// L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Images of this step.
    pub n_images: usize,
    /// Speed, smoothed.
    pub images_per_s: f64,
    /// Fraction of the time in which the step waited for data, smoothed.
    pub data_wait_share: f64,
    /// Memory of the process; on a device that reports it, what the device has given to the process.
    pub memory_mib: f64,
    /// Time spent training and validating.
    pub elapsed_s: f64,
    /// Expected time to the last step.
    pub eta_s: f64,
}

/// Loss terms and IoUs of a step that learns masks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentationTerms {
    /// Focal loss, not weighted.
    pub focal: f64,
    /// Dice loss, not weighted.
    pub dice: f64,
    /// Error of the predicted IoU, not weighted.
    pub iou_error: f64,
    /// IoU after the first prompt, on training data.
    pub miou_first: f64,
    /// IoU after the last pass.
    pub miou_last: f64,
    /// Objects of this step.
    pub n_objects: usize,
}

/// Loss terms of a step that learns from a teacher; of any other step there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DistillationTerms {
    /// Mean squared error of the embeddings, not weighted; `None` where no embeddings are learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_mse: Option<f64>,
    /// Fraction of the objects that learn the teacher's mask; `None` in a step without masks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_share: Option<f64>,
}

/// A line of `metrics.jsonl` about a validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// The metrics.
    #[serde(flatten)]
    pub scores: Scores,
    /// The metric that chooses the best checkpoint.
    pub metric: String,
    /// The best so far; the baseline never is.
    pub is_best: bool,
    /// The validation before the first step.
    pub is_baseline: bool,
    /// Direction in which the metric improves; `None` in logs of versions that did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub better: Option<Better>,
    /// How long it took.
    pub took_s: f64,
}

impl ValidationRecord {
    /// The value of the metric that chooses the best checkpoint.
    #[must_use]
    pub fn score(&self) -> Option<f64> {
        self.scores.metrics.get(&self.metric).copied()
    }

    /// Direction in which the metric improves.
    #[must_use]
    pub fn better(&self) -> Better {
        let by_name = if self.metric == RECONSTRUCTION_LOSS { Better::Lower } else { Better::Higher };
        self.better.unwrap_or(by_name)
    }

    /// By how much its metric is better than that of an earlier validation, positive in either direction of improvement;
    /// `None` when one of them lacks the metric.
    #[must_use]
    pub fn improvement_on(&self, earlier: &Scores) -> Option<f64> {
        let change = self.score()? - earlier.metrics.get(&self.metric)?;
        Some(match self.better() {
            Better::Higher => change,
            Better::Lower => -change,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    struct Failing {
        is_essential: bool,
    }

    impl Observer for Failing {
        fn on(&mut self, _event: &RunEvent) -> Result<(), LearnError> {
            Err(LearnError::Internal { what: "the disk is full" })
        }

        fn is_essential(&self) -> bool {
            self.is_essential
        }
    }

    fn collecting(sender: Sender<String>) -> Box<dyn Observer> {
        Box::new(move |event: &RunEvent| {
            let text = match event {
                RunEvent::Warning { message } => message.clone(),
                _ => "event".to_owned(),
            };
            sender.send(text).expect("the receiver lives");
        })
    }

    #[test]
    fn a_failing_observer_becomes_a_warning_unless_it_is_essential() {
        let (sender, events) = channel();
        let event = RunEvent::Validating { n_images: 1, of_images: 2 };
        let mut observers = Observers(vec![Box::new(Failing { is_essential: false }), collecting(sender.clone())]);
        observers.notify(&event).expect("the run continues");
        drop((observers, sender.clone()));
        assert_eq!(events.try_iter().collect::<Vec<_>>(), ["event", "internal error: the disk is full"]);
        let mut observers = Observers(vec![Box::new(Failing { is_essential: true }), collecting(sender)]);
        observers.notify(&event).expect_err("the run ends");
    }
}
