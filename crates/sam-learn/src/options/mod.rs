//! Everything that decides what a run learns, as plain data.
//!
//! Sources: the SAM paper (Kirillov 2023, arXiv 2304.02643, section 3 and appendix A) and, where it is silent, the SAM 2
//! paper (Ravi 2024, arXiv 2408.00714, appendix D, table 13a) and its published training code. Numbers of the paper are the
//! defaults of the preset `sam`.

mod distil;
mod lora;
mod sections;
mod text;

use serde::{Deserialize, Serialize};

pub use distil::{DistilOptions, EMBEDDING_COSINE, EMBEDDING_MSE};
pub use lora::{KEYS, LoraOptions, MLP, PROJECTION, QUERIES, VALUES};
pub use sections::{
    LogOptions, MaeObjective, PretrainOptions, RECONSTRUCTION_LOSS, RunOptions, TrainOptions, ValidationOptions,
    mae_learning_rate,
};
pub use text::{CropOptions, TextOptions};

/// The decoder passes of one step and the prompts of each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptOptions {
    /// Probability that the first prompt of an object is a box instead of a point.
    pub box_chance: f64,
    /// Noise added to the tight box.
    pub box_noise: BoxNoise,
    /// Number of clicks after the first prompt, each in the error region of the pass before.
    pub correction_clicks: usize,
    /// Probability that such a click is sampled from the object instead of the error region, as positive.
    pub click_from_object_chance: f64,
    /// Number of passes without a new click, prompted with the mask of the pass before. One of them ends the step, the
    /// others are at random places after the first pass.
    pub mask_only_passes: usize,
    /// Masks that the decoder predicts for a box alone.
    pub box_output: BoxOutput,
    /// Texts among the first prompts; `None`: there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextOptions>,
}

/// Random shifts of the coordinates of a box.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct BoxNoise {
    /// Distribution of the shifts.
    pub distribution: NoiseDistribution,
    /// Standard deviation (Gaussian) or largest shift (uniform), as a fraction of the box's side length along that axis.
    pub side_share: f64,
    /// Largest shift of a coordinate, in pixels of the model's square input.
    pub cap_px: f64,
}

/// Distribution of the shifts of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoiseDistribution {
    /// The SAM paper.
    Gaussian,
    /// SAM 2's code.
    Uniform,
}

/// Masks that the decoder predicts for a box alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BoxOutput {
    /// Three masks, as for any single prompt (SAM).
    Three,
    /// One mask: a box is two points (SAM 2).
    One,
}

/// Prompt recipes by name; every number of them can be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptPreset {
    /// The paper's appendix A: point or box, 8 corrections, 2 mask-only passes.
    Sam,
    /// SAM 2's image training: 7 corrections, uniform box noise, no mask-only pass.
    Sam2,
    /// One pass with a jittered box, as medical fine-tunes do.
    Box,
    /// Points only: one point and 8 corrections.
    Points,
}

impl PromptOptions {
    /// Decoder passes of a step.
    #[must_use]
    pub fn passes(&self) -> usize {
        1 + self.correction_clicks + self.mask_only_passes
    }

    /// The numbers of a preset.
    #[must_use]
    pub fn preset(preset: PromptPreset) -> Self {
        let sam = Self {
            box_chance: 0.5,
            box_noise: BoxNoise { distribution: NoiseDistribution::Gaussian, side_share: 0.1, cap_px: 20.0 },
            correction_clicks: 8,
            click_from_object_chance: 0.0,
            mask_only_passes: 2,
            box_output: BoxOutput::Three,
            text: None,
        };
        match preset {
            PromptPreset::Sam => sam,
            PromptPreset::Sam2 => Self {
                box_noise: BoxNoise { distribution: NoiseDistribution::Uniform, ..sam.box_noise },
                correction_clicks: 7,
                click_from_object_chance: 0.1,
                mask_only_passes: 0,
                box_output: BoxOutput::One,
                ..sam
            },
            PromptPreset::Box => Self { box_chance: 1.0, correction_clicks: 0, mask_only_passes: 0, ..sam },
            PromptPreset::Points => Self { box_chance: 0.0, mask_only_passes: 0, ..sam },
        }
    }
}

/// Activations of the encoder that are stored for the backward pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activations {
    /// All of them: fast.
    #[default]
    Keep,
    /// Activation checkpointing: the input of each block, the rest is recomputed. Saves the memory of all blocks but one for
    /// one more forward pass.
    Recompute,
}

/// The loss: `focal_weight * focal + dice_weight * dice + iou_weight * iou`, the mean over objects and passes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LossOptions {
    /// Weight of positive pixels in the focal loss; negative ones get `1 - alpha`. Below 0: no weighting.
    pub focal_alpha: f64,
    /// Exponent of the focal loss.
    pub focal_gamma: f64,
    /// The paper has focal : dice = 20 : 1.
    pub focal_weight: f64,
    /// See [`LossOptions::focal_weight`].
    pub dice_weight: f64,
    /// Weight of the error of the predicted IoU.
    pub iou_weight: f64,
    /// Measure of that error.
    pub iou_loss: IouLoss,
    /// Masks of which the predicted IoU is supervised.
    pub iou_supervision: IouSupervision,
    /// Resolution at which masks are compared.
    pub resolution: LossResolution,
}

impl Default for LossOptions {
    /// The paper's; `alpha` and `gamma`, which it does not give, are those of SAM 2's code.
    fn default() -> Self {
        Self {
            focal_alpha: 0.25,
            focal_gamma: 2.0,
            focal_weight: 20.0,
            dice_weight: 1.0,
            iou_weight: 1.0,
            iou_loss: IouLoss::Mse,
            iou_supervision: IouSupervision::Chosen,
            resolution: LossResolution::Low,
        }
    }
}

/// Measure of the error of the predicted IoU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IouLoss {
    /// Mean squared error (SAM).
    Mse,
    /// Absolute error (SAM 2).
    L1,
}

/// Masks of which the predicted IoU is supervised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IouSupervision {
    /// Only the mask with the smallest loss.
    Chosen,
    /// All masks of the pass (SAM 2).
    All,
}

/// Resolution at which masks are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossResolution {
    /// At the decoder's own resolution: 256 at 1024.
    Low,
    /// At the model's full resolution, logits upsampled bilinearly (SAM 2's code).
    Full,
}

/// The optimiser: AdamW with layer-wise learning rate decay, clipping, accumulation and a moving average.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OptimiserOptions {
    /// Highest learning rate.
    pub lr: f64,
    /// Decoupled weight decay of all parameters except norms, biases and position embeddings.
    pub weight_decay: f64,
    /// Decay rates of the first and second moment.
    pub betas: [f64; 2],
    /// Added to the square root of the second moment.
    pub eps: f64,
    /// Block `i` of `n` learns with `lr * layer_decay^(n - i)`, patches and positions with `lr * layer_decay^(n + 1)`.
    pub layer_decay: f64,
    /// Factors on the learning rate of each part of the model.
    pub part_lr: PartFactors,
    /// Largest L2 norm of the gradient, over all parameters together.
    pub clip_norm: Option<f64>,
    /// Batches whose mean gradient makes one step (gradient accumulation).
    pub accumulation: usize,
    /// Decay of an exponential moving average of the weights, which is then validated and exported.
    pub ema_decay: Option<f64>,
    /// All that learns: parts, or patterns with `*` over official keys; empty: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learn: Vec<String>,
    /// What of it is frozen: parts, or patterns with `*` over official keys.
    pub freeze: Vec<String>,
}

/// A factor for each part of the model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct PartFactors {
    /// For `image_encoder`.
    pub image_encoder: f64,
    /// For `prompt_encoder`.
    pub prompt_encoder: f64,
    /// For `mask_decoder`.
    pub mask_decoder: f64,
}

impl Default for OptimiserOptions {
    /// The paper's values for fine sizes: AdamW (0.9, 0.999), weight decay 0.1, lr 8e-4.
    fn default() -> Self {
        Self {
            lr: 8e-4,
            weight_decay: 0.1,
            betas: [0.9, 0.999],
            eps: 1e-8,
            layer_decay: 1.0,
            part_lr: PartFactors { image_encoder: 1.0, prompt_encoder: 1.0, mask_decoder: 1.0 },
            clip_norm: Some(1.0),
            accumulation: 1,
            ema_decay: None,
            learn: Vec::new(),
            freeze: Vec::new(),
        }
    }
}

/// The learning rate schedule: a factor on [`OptimiserOptions::lr`] as a function of the step alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScheduleOptions {
    /// Number of steps of the run.
    pub steps: u64,
    /// Steps of linear warm-up from 0.
    pub warmup_steps: u64,
    /// Decay after the warm-up.
    pub decay: LrDecay,
}

/// Decay of the learning rate after the warm-up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LrDecay {
    /// No decay.
    Constant,
    /// By `factor` at each milestone: the paper has 0.1 at steps 60,000 and 86,666 of 90,000.
    MultiStep {
        /// Steps at which the rate falls, rising.
        milestones: Vec<u64>,
        /// Factor on the rate at each of them.
        factor: f64,
    },
    /// Half a cosine down to `final_share` of the rate at the last step.
    Cosine {
        /// Fraction of the rate at the last step.
        final_share: f64,
    },
    /// `sqrt(timescale / (step + timescale))`, then linearly to 0 over the last steps (SAM 2).
    ReciprocalSqrt {
        /// Time scale, in steps.
        timescale: u64,
        /// Steps of linear decay to 0 at the end.
        cooldown_steps: u64,
    },
}
