//! The interface between protocols and models: embed an image once, then decode prompts on it.
//!
//! It follows `SamPredictor` (`segment_anything/predictor.py`), with many objects per call. All coordinates and masks are
//! in pixels of the original image; the mask prompt of a later round is opaque ([`Segmenter::Logits`]). Resizing a mask to
//! the original size is the expensive part of an answer, so a call names the masks that it needs: [`MaskSelection`].

use sam_image::{Mask, RgbImage};
use sam_infer::TextVector;

use crate::error::SegmenterError;
use crate::protocol::clicks::Click;

/// A promptable segmenter.
pub trait Segmenter {
    /// An embedded image.
    type Embedding;
    /// A mask as a later prompt: in SAM the low-resolution logits.
    type Logits: Send;

    /// Runs the image encoder.
    ///
    /// # Errors
    ///
    /// When the image cannot be embedded.
    fn embed(&self, image: &RgbImage) -> Result<Self::Embedding, SegmenterError>;

    /// Decodes one prompt per object, in order; each comes with the index of its embedding. Returns the candidates that
    /// `selection` requests for each object.
    ///
    /// # Errors
    ///
    /// When a prompt cannot be decoded.
    fn segment(
        &self,
        embeddings: &[&Self::Embedding],
        prompts: &[(usize, Prompt<'_, Self::Logits>)],
        selection: MaskSelection,
    ) -> Result<Vec<Vec<Candidate<Self::Logits>>>, SegmenterError>;
}

/// The prompt of one object, in pixels of the original image; never empty.
#[derive(Debug)]
pub struct Prompt<'a, L> {
    /// All clicks so far, oldest first.
    pub clicks: &'a [Click],
    /// Upper left and lower right corner.
    pub box_xyxy_px: Option<[f32; 4]>,
    /// The previous mask of the same object.
    pub logits: Option<&'a L>,
    /// What it is called: a vector of the model's CLIP.
    pub text: Option<&'a TextVector>,
}

/// The masks requested from a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MaskSelection {
    /// The one mask of an unambiguous prompt (`multimask_output = False`).
    Single,
    /// Of the masks of an ambiguous prompt, the one with the highest predicted IoU, the first of equals.
    MostConfident,
    /// All masks of an ambiguous prompt (`multimask_output = True`): three in SAM.
    All,
}

/// A candidate mask of an object.
#[derive(Clone, Debug)]
pub struct Candidate<L> {
    /// The mask at the original image's size.
    pub mask: Mask,
    /// The predicted IoU; need not lie in 0..=1.
    pub predicted_iou: f32,
    /// The mask as a later prompt.
    pub logits: L,
}
