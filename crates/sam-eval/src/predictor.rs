//! Our own predictor under a protocol.
//!
//! The decoder answers many objects of one or several images at once. What a round needs of them goes to the host once: the
//! logits of the masks that were asked for, at the decoder's size. They are the next round's prompt, and all cores bring them to
//! the size of the image (`sam_image::upscale`); on a GPU that moves a sixteenth of what full-size masks would.

use sam_image::{Mask, ModelFrame, RgbImage, upscale_mask};
use sam_infer::{ImageEmbedding, MASK_THRESHOLD, MaskOutput, Predictor};

use crate::interactive::on_all_cores;
use crate::segmenter::{Candidate, MaskSelection, Prompt, Segmenter, SegmenterError, most_confident};

/// A SAM as a [`Segmenter`].
#[derive(Clone, Debug)]
pub struct PredictorSegmenter {
    predictor: Predictor,
}

impl PredictorSegmenter {
    /// Wraps a predictor: one from a checkpoint, or `Predictor::new(&sam)` of a model in training.
    #[must_use]
    pub fn new(predictor: Predictor) -> Self {
        Self { predictor }
    }

    /// What is wrapped.
    #[must_use]
    pub fn predictor(&self) -> &Predictor {
        &self.predictor
    }
}

/// A mask on its way to the size of its image.
struct Upscaling {
    logits: Vec<f32>,
    predicted_iou: f32,
    frame: ModelFrame,
    mask: Option<Mask>,
}

impl Segmenter for PredictorSegmenter {
    type Embedding = ImageEmbedding;
    /// At the decoder's size, row-major.
    type Logits = Vec<f32>;

    fn embed(&self, image: &RgbImage) -> Result<ImageEmbedding, SegmenterError> {
        Ok(self.predictor.embed(image))
    }

    fn segment(
        &self,
        embeddings: &[&ImageEmbedding],
        prompts: &[(usize, Prompt<'_, Vec<f32>>)],
        selection: MaskSelection,
    ) -> Result<Vec<Vec<Candidate<Vec<f32>>>>, SegmenterError> {
        let asked: Vec<(usize, sam_infer::Prompt)> =
            prompts.iter().map(|(image, prompt)| (*image, in_pixels(prompt))).collect();
        let asked: Vec<(usize, &sam_infer::Prompt)> = asked.iter().map(|(image, prompt)| (*image, prompt)).collect();
        let output = match selection {
            MaskSelection::Single => MaskOutput::Single,
            MaskSelection::MostConfident | MaskSelection::All => MaskOutput::Multi,
        };
        let predictions = self.predictor.predict_many(embeddings, &asked, output)?;

        let mut counts = Vec::with_capacity(predictions.len());
        let mut masks = Vec::new();
        for prediction in &predictions {
            let wanted = match selection {
                MaskSelection::MostConfident => {
                    let best = most_confident(&prediction.iou_predictions);
                    best..best + 1
                }
                MaskSelection::Single | MaskSelection::All => 0..prediction.iou_predictions.len(),
            };
            counts.push(wanted.len());
            masks.extend(wanted.map(|index| Upscaling {
                logits: prediction.mask_logits(index),
                predicted_iou: prediction.iou_predictions[index],
                frame: prediction.frame,
                mask: None,
            }));
        }
        let side = self.predictor.config().low_res_side();
        on_all_cores(&mut masks, |upscaling| {
            upscaling.mask = Some(upscale_mask(&upscaling.logits, side, &upscaling.frame, MASK_THRESHOLD));
        });
        let mut candidates = masks.into_iter().filter_map(|Upscaling { logits, predicted_iou, mask, .. }| {
            mask.map(|mask| Candidate { mask, predicted_iou, logits })
        });
        Ok(counts.into_iter().map(|count| candidates.by_ref().take(count).collect()).collect())
    }
}

fn in_pixels(prompt: &Prompt<'_, Vec<f32>>) -> sam_infer::Prompt {
    sam_infer::Prompt {
        points_xy_px: prompt.clicks.iter().map(|click| (click.xy_px(), click.is_positive)).collect(),
        box_xyxy_px: prompt.box_xyxy_px,
        mask_logits: prompt.logits.cloned(),
    }
}
