//! The [`Segmenter`] of this project's own predictor.
//!
//! The decoder takes many objects of one or several images at once. Only the logits of the requested masks are copied to
//! the host, at the decoder's resolution: they are the next round's prompt, and the CPU upscales them to the image's size on
//! all threads (`sam_image::upscale_mask`). On a GPU that is a sixteenth of the transfer of full-size masks.

use std::sync::Arc;

use rayon::prelude::*;
use sam_image::{RgbImage, upscale_mask};
use sam_infer::cache::EmbeddingCache;
use sam_infer::{ImageEmbedding, MASK_THRESHOLD, MaskOutput, Predictor};

use crate::error::SegmenterError;
use crate::protocol::segmenter::{Candidate, MaskSelection, Prompt, Segmenter};

/// A SAM as a [`Segmenter`].
#[derive(Clone, Debug)]
pub struct PredictorSegmenter {
    predictor: Predictor,
    cache: Option<Arc<EmbeddingCache>>,
}

impl PredictorSegmenter {
    /// Wraps a predictor, from a checkpoint or from a model in training (`Predictor::new(&sam)`).
    #[must_use]
    pub fn new(predictor: Predictor) -> Self {
        Self { predictor, cache: None }
    }

    /// Takes embeddings from a cache, and adds those that are missing.
    ///
    /// # Panics
    ///
    /// When it is the cache of another encoder.
    #[must_use]
    pub fn with_cache(self, cache: Arc<EmbeddingCache>) -> Self {
        assert!(self.predictor.is_own_cache(&cache), "a cache must be that of the predictor's encoder");
        Self { cache: Some(cache), ..self }
    }

    /// The wrapped predictor.
    #[must_use]
    pub fn predictor(&self) -> &Predictor {
        &self.predictor
    }
}

impl Segmenter for PredictorSegmenter {
    type Embedding = ImageEmbedding;
    /// At the decoder's resolution, row-major.
    type Logits = Vec<f32>;

    fn embed(&self, image: &RgbImage) -> Result<ImageEmbedding, SegmenterError> {
        match &self.cache {
            Some(cache) => Ok(self.predictor.embed_with(cache, image)?),
            None => Ok(self.predictor.embed(image)),
        }
    }

    fn segment(
        &self,
        embeddings: &[&ImageEmbedding],
        prompts: &[(usize, Prompt<'_, Vec<f32>>)],
        selection: MaskSelection,
    ) -> Result<Vec<Vec<Candidate<Vec<f32>>>>, SegmenterError> {
        let owned: Vec<sam_infer::Prompt> = prompts.iter().map(|(_, prompt)| to_prompt(prompt)).collect();
        let prompts: Vec<_> = prompts.iter().zip(&owned).map(|(&(image, _), prompt)| (image, prompt)).collect();
        let output = match selection {
            MaskSelection::Single => MaskOutput::Single,
            MaskSelection::MostConfident | MaskSelection::All => MaskOutput::Multi,
        };
        let predictions = self.predictor.predict_many(embeddings, &prompts, output)?;

        let side = self.predictor.config().low_res_side();
        // One flat list of masks, so that all threads have work even when each object has only one mask.
        let mut counts = Vec::with_capacity(predictions.len());
        let mut masks = Vec::new();
        for prediction in &predictions {
            let wanted = match selection {
                MaskSelection::MostConfident => prediction.best()..prediction.best() + 1,
                MaskSelection::Single | MaskSelection::All => 0..prediction.iou_predictions.len(),
            };
            counts.push(wanted.len());
            masks.extend(wanted.map(|i| (prediction.mask_logits(i), prediction.iou_predictions[i], prediction.frame)));
        }
        let candidates: Vec<_> = masks
            .into_par_iter()
            .map(|(logits, predicted_iou, frame)| {
                let mask = upscale_mask(&logits, side, &frame, MASK_THRESHOLD);
                Candidate { mask, predicted_iou, logits }
            })
            .collect();
        let mut candidates = candidates.into_iter();
        Ok(counts.into_iter().map(|count| candidates.by_ref().take(count).collect()).collect())
    }
}

fn to_prompt(prompt: &Prompt<'_, Vec<f32>>) -> sam_infer::Prompt {
    sam_infer::Prompt {
        points_xy_px: prompt.clicks.iter().map(|click| (click.xy_px(), click.is_positive)).collect(),
        box_xyxy_px: prompt.box_xyxy_px,
        mask_logits: prompt.logits.cloned(),
        text: prompt.text.cloned(),
    }
}
