//! What a protocol asks of a model: embed an image once, then answer prompts on it.
//!
//! The shape follows `SamPredictor` (`segment_anything/predictor.py`), with many objects in one call. All coordinates and
//! masks are in pixels of the original image; what a later round takes as mask prompt stays the model's own business
//! ([`Segmenter::Logits`]). A mask at original size is the costly part of an answer (two resizes per mask), so a call says
//! which of the three masks it wants to see: [`MaskSelection`].

use sam_image::{Mask, RgbImage};

use crate::clicks::Click;

/// Why a model could not answer; carried into [`crate::EvalError::Segmenter`].
pub type SegmenterError = Box<dyn std::error::Error + Send + Sync>;

/// A promptable segmenter.
pub trait Segmenter {
    /// What is kept of an image.
    type Embedding;
    /// What is kept of a mask, to be handed back as prompt: in SAM the low-resolution logits.
    type Logits: Send;

    /// Runs the image encoder.
    ///
    /// # Errors
    ///
    /// When the image cannot be embedded.
    fn embed(&self, image: &RgbImage) -> Result<Self::Embedding, SegmenterError>;

    /// Answers one prompt per object, in order; each names its embedding by its place in `embeddings`. For every object
    /// as many candidates as `selection` says.
    ///
    /// # Errors
    ///
    /// When a prompt cannot be answered.
    fn segment(
        &self,
        embeddings: &[&Self::Embedding],
        prompts: &[(usize, Prompt<'_, Self::Logits>)],
        selection: MaskSelection,
    ) -> Result<Vec<Vec<Candidate<Self::Logits>>>, SegmenterError>;
}

/// What points at one object, in pixels of the original image. Never empty.
#[derive(Debug)]
pub struct Prompt<'a, L> {
    /// All clicks so far, the oldest first.
    pub clicks: &'a [Click],
    /// Upper left and lower right corner.
    pub box_xyxy_px: Option<[f32; 4]>,
    /// An earlier answer about the same object.
    pub logits: Option<&'a L>,
}

/// Which of a model's masks an answer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaskSelection {
    /// The one mask of an unambiguous prompt (`multimask_output = False`).
    Single,
    /// Of the masks of an ambiguous prompt, the one with the highest predicted IoU, the first of equals.
    MostConfident,
    /// All masks of an ambiguous prompt (`multimask_output = True`): three in SAM.
    All,
}

/// A possible answer about an object.
#[derive(Clone, Debug)]
pub struct Candidate<L> {
    /// At the size of the original image: where the logits are above the model's threshold.
    pub mask: Mask,
    /// The model's own estimate of the mask's IoU; need not lie in 0..=1.
    pub predicted_iou: f32,
    /// To be handed back.
    pub logits: L,
}

/// The place of the highest predicted IoU, the first of equals, as `np.argmax`.
///
/// # Panics
///
/// When there is none.
#[must_use]
pub fn most_confident(predicted_ious: &[f32]) -> usize {
    assert!(!predicted_ious.is_empty(), "there must be at least one mask to choose from");
    let mut best = 0;
    for (at, &predicted_iou) in predicted_ious.iter().enumerate() {
        if predicted_iou > predicted_ious[best] {
            best = at;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::most_confident;

    #[test]
    fn the_first_of_equals_is_chosen() {
        assert_eq!(most_confident(&[0.2, 0.9, 0.9]), 1);
        assert_eq!(most_confident(&[-0.0, 0.0]), 0);
        assert_eq!(most_confident(&[f32::NEG_INFINITY]), 0);
    }
}
