//! Prompts to masks.

use rayon::prelude::*;
use sam_image::{MaskUpscaler, Rle, StabilityLevels};
use sam_infer::{MASK_THRESHOLD, MaskOutput, Prompt, mask_as_logits};
use serde::Serialize;

use super::{Encoded, Inference};
use crate::annotation::{PromptRecord, Segmentation};
use crate::error::EngineError;

/// One of the masks that a prompt may mean.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Candidate {
    pub(crate) segmentation: Segmentation,
    pub(crate) area: usize,
    /// As the model predicts it.
    pub(crate) predicted_iou: f32,
}

/// How many masks a prompt is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Three for a single click, which is ambiguous, otherwise one.
    AllMeanings,
    /// The one that the model is most confident of.
    MostConfident,
}

/// Masks for a prompt, and the model that predicted them.
#[derive(Debug)]
pub(crate) struct Predicted {
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) model: String,
}

impl Inference {
    /// Decodes a prompt; `refined` is the mask that its clicks correct.
    pub(crate) fn predict(
        &self,
        encoded: &Encoded,
        prompt: &PromptRecord,
        refined: Option<&Rle>,
        wanted: Wanted,
    ) -> Result<Predicted, EngineError> {
        let model = self.model();
        let predictor = model.predictor();
        let (frame, side_px) = (&encoded.embedding.frame, predictor.config().low_res_side());
        if let Some(mask) = refined.filter(|mask| mask.size_hw() != frame.original_hw) {
            let (expected, got) = (frame.original_hw, mask.size_hw());
            return Err(EngineError::Invalid(format!(
                "`mask` must have the size of its image, {expected:?} (height, width), got {got:?}"
            )));
        }
        let prompt = Prompt {
            points_xy_px: prompt.points.iter().map(|&[x, y, label]| ([x as f32, y as f32], label == 1.0)).collect(),
            box_xyxy_px: prompt.box_xyxy_px.map(|corners| corners.map(|corner| corner as f32)),
            mask_logits: refined.map(|mask| mask_as_logits(&mask.to_mask(), frame, side_px)),
        };
        let is_ambiguous =
            prompt.points_xy_px.len() == 1 && prompt.box_xyxy_px.is_none() && prompt.mask_logits.is_none();
        let output = if is_ambiguous { MaskOutput::Multi } else { MaskOutput::Single };
        let prediction = predictor.predict(&encoded.embedding, &prompt, output)?;
        let scores = &prediction.iou_predictions;
        if let Some(bad) = scores.iter().find(|score| !score.is_finite()) {
            return Err(EngineError::Invalid(format!("the model predicts an IoU of {bad}")));
        }
        let indices = match wanted {
            Wanted::AllMeanings => 0..scores.len(),
            Wanted::MostConfident => prediction.best()..prediction.best() + 1,
        };
        let logits: Vec<(Vec<f32>, f32)> =
            indices.map(|index| (prediction.mask_logits(index), scores[index])).collect();
        let invalid = |error: sam_image::ImageError| EngineError::Invalid(error.to_string());
        let upscaler = MaskUpscaler::new(side_px, frame, frame.original_hw, [0, 0]).map_err(invalid)?;
        let levels = StabilityLevels { threshold: MASK_THRESHOLD, offset: 0.0 };
        let candidate = |(logits, score): &(Vec<f32>, f32)| {
            let mask = upscaler.upscale(logits, levels).rle;
            Candidate { segmentation: Segmentation::of(&mask), area: mask.area_px(), predicted_iou: *score }
        };
        let candidates = logits.par_iter().map(candidate).collect();
        Ok(Predicted { candidates, model: model.fingerprint().to_owned() })
    }
}
