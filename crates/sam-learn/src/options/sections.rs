//! The sections of a run that are not about its objective: where it happens, how it is validated, what it logs. A
//! configuration holds them as they stand here, so their field names are its keys.

use std::path::PathBuf;

use sam_eval::TextSource;
use sam_infer::Precision;
use sam_model::MaeTarget;
use serde::{Deserialize, Serialize};

use super::{Activations, LoraOptions, LossOptions, OptimiserOptions, PromptOptions, ScheduleOptions};

/// The only metric of a pre-training run, which chooses the best checkpoint.
pub const RECONSTRUCTION_LOSS: &str = "reconstruction_loss";

/// Images of a batch for which the published `blr` is the learning rate (`main_pretrain.py`).
const IMAGES_OF_BASE_LR: f64 = 256.0;

/// The learning rate of a pre-training from the published base rate: `lr = blr * images / 256`.
#[must_use]
pub fn mae_learning_rate(base_lr: f64, images_per_step: usize) -> f64 {
    base_lr * images_per_step as f64 / IMAGES_OF_BASE_LR
}

/// All sections of a training run, beside its data and model.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainOptions {
    /// The run folder, the device, the random seed.
    pub run: RunOptions,
    /// The simulated annotator.
    pub prompts: PromptOptions,
    /// The loss.
    pub loss: LossOptions,
    /// Low-rank adapters; `None`: the weights themselves learn.
    pub lora: Option<LoraOptions>,
    /// The optimiser.
    pub optimiser: OptimiserOptions,
    /// Number of steps, and learning rate schedule.
    pub schedule: ScheduleOptions,
    /// Validation during the run.
    pub validation: ValidationOptions,
    /// Console lines, previews, TensorBoard.
    pub log: LogOptions,
}

/// All sections of a pre-training run, beside its data and model.
#[derive(Clone, Debug, PartialEq)]
pub struct PretrainOptions {
    /// The run folder, the device, the random seed.
    pub run: RunOptions,
    /// The reconstruction objective.
    pub mae: MaeObjective,
    /// The optimiser.
    pub optimiser: OptimiserOptions,
    /// Number of steps, and learning rate schedule.
    pub schedule: ScheduleOptions,
    /// Validation during the run.
    pub validation: ValidationOptions,
    /// Console lines, previews, TensorBoard.
    pub log: LogOptions,
}

/// The run folder, the device, the random seed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunOptions {
    /// The run folder, as an absolute path.
    pub dir: PathBuf,
    /// Name of the run in reports.
    pub name: String,
    /// Random seed of prompts, masking, dropout and the order of the data.
    pub seed: u64,
    /// Device name, such as `cpu` or `cuda:0`.
    pub device: String,
    /// Several devices of this machine that train together, of which `device` is the first; empty: one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<String>,
    /// Compute threads; 0: one per core.
    pub threads: usize,
    /// Shards of a batch that are computed side by side.
    pub parallel: usize,
    /// Activations of the encoder that are stored for the backward pass.
    #[serde(default)]
    pub activations: Activations,
    /// What matrix products multiply.
    #[serde(default)]
    pub precision: Precision,
}

/// Validation during a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationOptions {
    /// Steps between validations; checkpoints are saved with them.
    pub every_steps: u64,
    /// The metric that chooses the best checkpoint.
    #[serde(default = "reconstruction_loss")]
    pub metric: String,
    /// The k of mIoU@k, rising; empty for none.
    #[serde(default)]
    pub clicks: Vec<usize>,
    /// Evaluate box prompts, too.
    #[serde(rename = "box", default)]
    pub boxes: bool,
    /// Texts of the validation data that are prompts, too; `None`: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<TextSource>,
    /// Largest number of validation images; 0: all.
    pub max_images: usize,
    /// Validations without improvement after which the run stops; 0: never.
    pub patience: usize,
    /// Validate before the first step.
    #[serde(default = "yes")]
    pub baseline: bool,
}

/// Console lines, previews, TensorBoard.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogOptions {
    /// Steps between two lines on the console.
    pub every_steps: u64,
    /// Images in the preview of each validation.
    pub previews: usize,
    /// Write event files for TensorBoard.
    pub tensorboard: bool,
}

/// The objective of a masked autoencoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaeObjective {
    /// Fraction of the patches that is removed.
    pub mask_ratio: f64,
    /// Target of the reconstruction.
    pub target: MaeTarget,
}

/// Plans of pre-training runs that were saved before these keys existed have neither.
fn reconstruction_loss() -> String {
    RECONSTRUCTION_LOSS.to_owned()
}

fn yes() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_scales_with_the_batch() {
        // 64 GPUs of 64 images at 1.5e-4 (PRETRAIN.md).
        assert!((mae_learning_rate(1.5e-4, 4096) - 2.4e-3).abs() < 1e-12);
    }
}
