//! What a run says while it goes; how it is shown or written is the listener's business.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::saved_state::Scores;

/// Something happened.
#[derive(Clone, Debug)]
pub enum RunEvent {
    /// An optimiser step was made.
    Step(StepRecord),
    /// A validation is under way.
    Validating {
        /// Images that are through.
        n_images: usize,
        /// All images.
        of_images: usize,
    },
    /// A validation was made.
    Validated(ValidationRecord),
    /// The run can go on from here.
    Saved {
        /// Optimiser steps done.
        step: u64,
        /// Folder of the save.
        path: PathBuf,
    },
    /// Samples that could not be read were left out.
    Skipped {
        /// Optimiser steps done.
        step: u64,
        /// The source's message, which names the file.
        reason: String,
    },
    /// A picture of what the model does.
    Preview {
        /// Optimiser steps done.
        step: u64,
        /// The picture.
        path: PathBuf,
    },
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Optimiser steps done.
    pub step: u64,
    /// All steps of the run.
    pub of_steps: u64,
    /// Highest learning rate of any group in this step.
    pub lr: f64,
    /// What is minimised, the mean over passes and objects.
    pub loss: f64,
    /// What the loss is made of, where masks are learned.
    #[serde(flatten)]
    pub segmentation: Option<SegmentationTerms>,
    /// L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Images of this step.
    pub n_images: usize,
    /// Speed, smoothed.
    pub images_per_s: f64,
    /// Share of the time in which the step waited for data, smoothed.
    pub data_wait_share: f64,
    /// Memory of the process.
    pub memory_mib: f64,
    /// Time spent training and validating.
    pub elapsed_s: f64,
    /// Expected time to the last step.
    pub eta_s: f64,
}

/// Of a step that learns masks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SegmentationTerms {
    /// Focal loss, not weighted.
    pub focal: f64,
    /// Dice loss, not weighted.
    pub dice: f64,
    /// Error of the predicted IoU, not weighted.
    pub iou_error: f64,
    /// IoU after the first prompt, on what is trained on.
    pub miou_first: f64,
    /// IoU after the last pass.
    pub miou_last: f64,
    /// Objects of this step.
    pub n_objects: usize,
}

/// One line of `metrics.jsonl`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValidationRecord {
    /// The numbers.
    #[serde(flatten)]
    pub scores: Scores,
    /// The metric that chooses the best checkpoint.
    pub metric: String,
    /// Whether this is the best so far; the baseline never is.
    pub is_best: bool,
    /// Whether this is the row before the first step.
    pub is_baseline: bool,
    /// How long it took.
    pub took_s: f64,
}
