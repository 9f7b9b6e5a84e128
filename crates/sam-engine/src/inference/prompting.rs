//! Prompts to masks.
//!
//! Every click after the first sees the mask of those before it, as in training and in the protocols of an evaluation (arXiv
//! 2304.02643, appendix A). A mask is thus a function of the list of prompts alone, so that undo needs no memory; masks on the way are
//! remembered for a while, so that a click costs one pass of the decoder.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError};

use rayon::prelude::*;
use sam_files::Fingerprint;
use sam_image::{MaskUpscaler, Rle, StabilityLevels};
use sam_infer::{MASK_THRESHOLD, MaskOutput, Prediction, Predictor, Prompt, TextVector, mask_as_logits};
use serde::Serialize;

use super::{Encoded, Inference, Model};
use crate::annotation::{PromptRecord, Segmentation};
use crate::error::EngineError;

/// Logits that are remembered, a quarter of a MiB each for the published models.
const REMEMBERED: usize = 64;

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
    /// Three for a single click or a text alone, which are ambiguous, otherwise one.
    AllMeanings,
    /// The one that the model is most confident of.
    MostConfident,
}

/// What is asked of an image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) prompt: &'a PromptRecord,
    /// The vector of the prompt's text.
    pub(crate) text: Option<&'a TextVector>,
    /// The mask that the clicks correct.
    pub(crate) refined: Option<&'a Rle>,
    /// Which of the three masks of the text or the first click the others correct; `None`: the most confident one.
    pub(crate) choice: Option<usize>,
    pub(crate) wanted: Wanted,
}

/// Masks for a prompt, and the model that predicted them.
#[derive(Debug)]
pub(crate) struct Predicted {
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) model: String,
}

/// Logits of masks on the way, by everything that they follow from. Newest last.
#[derive(Debug, Default)]
pub(super) struct Feedback(VecDeque<(u64, Arc<Vec<f32>>)>);

impl Feedback {
    fn find(&self, key: u64) -> Option<Arc<Vec<f32>>> {
        self.0.iter().find(|(other, _)| *other == key).map(|(_, logits)| Arc::clone(logits))
    }

    fn keep(&mut self, key: u64, logits: &Arc<Vec<f32>>) {
        self.0.push_back((key, Arc::clone(logits)));
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }
}

impl Inference {
    /// Decodes a prompt.
    pub(crate) fn predict(&self, encoded: &Encoded, asked: &Asked<'_>) -> Result<Predicted, EngineError> {
        let model = self.model();
        let chain = Chain::new(encoded, asked, &model)?;
        let n_points = asked.prompt.points.len();
        let mut before = chain.refined.clone();
        // A text alone is the first prompt, and clicks correct its mask.
        for n in usize::from(asked.text.is_none())..n_points {
            let key = chain.key(n);
            let known = self.shared.feedback.lock().unwrap_or_else(PoisonError::into_inner).find(key);
            before = Some(match known {
                Some(logits) => logits,
                None => {
                    let prediction = chain.decode(n, before)?;
                    let best = asked.choice.filter(|choice| *choice < prediction.iou_predictions.len());
                    let logits = Arc::new(prediction.mask_logits(best.unwrap_or_else(|| prediction.best())));
                    self.shared.feedback.lock().unwrap_or_else(PoisonError::into_inner).keep(key, &logits);
                    logits
                }
            });
        }
        let prediction = chain.decode(n_points, before)?;
        let candidates = candidates(&prediction, asked.wanted)?;
        Ok(Predicted { candidates, model: model.fingerprint().to_owned() })
    }
}

/// The prompts of a mask, one click after the other.
struct Chain<'a> {
    encoded: &'a Encoded,
    predictor: &'a Predictor,
    prompt: Prompt,
    refined: Option<Arc<Vec<f32>>>,
    /// Of what is the same for every click.
    hash: Fingerprint,
}

impl<'a> Chain<'a> {
    fn new(encoded: &'a Encoded, asked: &Asked<'_>, model: &'a Model) -> Result<Self, EngineError> {
        let PromptRecord { points, box_xyxy_px, strokes: _, text } = asked.prompt;
        let predictor = model.predictor();
        let frame = &encoded.embedding.frame;
        if let Some(mask) = asked.refined.filter(|mask| mask.size_hw() != frame.original_hw) {
            let (expected, got) = (frame.original_hw, mask.size_hw());
            return Err(EngineError::Invalid(format!(
                "`mask` must have the size of its image, {expected:?} (height, width), got {got:?}"
            )));
        }
        let mut hash = Fingerprint::new(0);
        hash.add_bytes(model.fingerprint().as_bytes());
        text.iter().for_each(|text| hash.add_bytes(text.as_bytes()));
        hash.add_word(encoded.embedding.image);
        hash.add_word(asked.choice.map_or(u64::MAX, |choice| choice as u64));
        box_xyxy_px.iter().flatten().for_each(|corner| hash.add_word(corner.to_bits()));
        if let Some(mask) = asked.refined {
            mask.counts().iter().for_each(|run| hash.add_word(u64::from(*run)));
        }
        let side_px = predictor.config().low_res_side();
        let refined = asked.refined.map(|mask| Arc::new(mask_as_logits(&mask.to_mask(), frame, side_px)));
        let prompt = Prompt {
            points_xy_px: points.iter().map(|&[x, y, label]| ([x as f32, y as f32], label == 1.0)).collect(),
            box_xyxy_px: box_xyxy_px.map(|corners| corners.map(|corner| corner as f32)),
            mask_logits: None,
            text: asked.text.cloned(),
        };
        Ok(Self { encoded, predictor, prompt, refined, hash })
    }

    /// Of the first `n` clicks.
    fn key(&self, n: usize) -> u64 {
        let mut hash = self.hash;
        for ([x, y], is_positive) in &self.prompt.points_xy_px[..n] {
            hash.add_word(u64::from(x.to_bits()));
            hash.add_word(u64::from(y.to_bits()));
            hash.add_word(u64::from(*is_positive));
        }
        hash.value()
    }

    /// The masks of the first `n` clicks, after that of the clicks before.
    fn decode(&self, n: usize, before: Option<Arc<Vec<f32>>>) -> Result<Prediction, EngineError> {
        let prompt = Prompt {
            points_xy_px: self.prompt.points_xy_px[..n].to_vec(),
            box_xyxy_px: self.prompt.box_xyxy_px,
            mask_logits: before.map(Arc::unwrap_or_clone),
            text: self.prompt.text.clone(),
        };
        let has_more = prompt.box_xyxy_px.is_some() || prompt.mask_logits.is_some() || prompt.text.is_some();
        let is_ambiguous = n == 1 && !has_more || prompt.is_text_alone();
        let output = if is_ambiguous { MaskOutput::Multi } else { MaskOutput::Single };
        Ok(self.predictor.predict(&self.encoded.embedding, &prompt, output)?)
    }
}

fn candidates(prediction: &Prediction, wanted: Wanted) -> Result<Vec<Candidate>, EngineError> {
    let scores = &prediction.iou_predictions;
    if let Some(bad) = scores.iter().find(|score| !score.is_finite()) {
        return Err(EngineError::Invalid(format!("the model predicts an IoU of {bad}")));
    }
    let indices = match wanted {
        Wanted::AllMeanings => 0..scores.len(),
        Wanted::MostConfident => prediction.best()..prediction.best() + 1,
    };
    let logits: Vec<(Vec<f32>, f32)> = indices.map(|index| (prediction.mask_logits(index), scores[index])).collect();
    let frame = &prediction.frame;
    let side_px = logits.first().map_or(0, |(logits, _)| logits.len().isqrt());
    let upscaler = MaskUpscaler::new(side_px, frame, frame.original_hw, [0, 0]);
    let upscaler = upscaler.map_err(|error| EngineError::Invalid(error.to_string()))?;
    let levels = StabilityLevels { threshold: MASK_THRESHOLD, offset: 0.0 };
    let candidate = |(logits, score): &(Vec<f32>, f32)| {
        let mask = upscaler.upscale(logits, levels).rle;
        Candidate { segmentation: Segmentation::of(&mask), area: mask.area_px(), predicted_iou: *score }
    };
    Ok(logits.par_iter().map(candidate).collect())
}
