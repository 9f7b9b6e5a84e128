//! Scripted segmenters, for results that can be computed by hand.

use std::cell::RefCell;

use sam_eval::{Candidate, Click, MaskSelection, Prompt, Segmenter, SegmenterError};
use sam_image::{Mask, RgbImage, Rle};

/// The prompt as seen by the script.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) clicks: Vec<Click>,
    pub(crate) box_xyxy_px: Option<[f32; 4]>,
    /// Index of the candidate that was passed back, if any.
    pub(crate) logits: Option<usize>,
    /// The first value of the text's vector.
    pub(crate) text: Option<f32>,
    pub(crate) selection: MaskSelection,
    pub(crate) size_hw: [usize; 2],
}

/// Answers each prompt with masks and predicted IoUs; the selection is applied afterwards.
pub(crate) struct Scripted<F> {
    script: F,
    pub(crate) seen: RefCell<Vec<Seen>>,
    pub(crate) calls: RefCell<Vec<usize>>,
}

impl<F: Fn(&Seen) -> Vec<(Mask, f32)>> Scripted<F> {
    pub(crate) fn new(script: F) -> Self {
        Self { script, seen: RefCell::default(), calls: RefCell::default() }
    }
}

impl<F: Fn(&Seen) -> Vec<(Mask, f32)>> Segmenter for Scripted<F> {
    type Embedding = [usize; 2];
    /// Index of the candidate.
    type Logits = usize;

    fn embed(&self, image: &RgbImage) -> Result<[usize; 2], SegmenterError> {
        Ok([image.height() as usize, image.width() as usize])
    }

    fn segment(
        &self,
        embeddings: &[&[usize; 2]],
        prompts: &[(usize, Prompt<'_, usize>)],
        selection: MaskSelection,
    ) -> Result<Vec<Vec<Candidate<usize>>>, SegmenterError> {
        self.calls.borrow_mut().push(prompts.len());
        let answer = |(image, prompt): &(usize, Prompt<'_, usize>)| {
            let seen = Seen {
                clicks: prompt.clicks.to_vec(),
                box_xyxy_px: prompt.box_xyxy_px,
                logits: prompt.logits.copied(),
                text: prompt.text.map(|text| text.values[0]),
                selection,
                size_hw: *embeddings[*image],
            };
            let answers = (self.script)(&seen);
            self.seen.borrow_mut().push(seen);
            let numbered = answers.into_iter().enumerate();
            let mut candidates: Vec<Candidate<usize>> =
                numbered.map(|(logits, (mask, predicted_iou))| Candidate { mask, predicted_iou, logits }).collect();
            if selection != MaskSelection::All && candidates.len() > 1 {
                let qualities: Vec<f32> = candidates.iter().map(|candidate| candidate.predicted_iou).collect();
                candidates = vec![candidates.swap_remove(sam_infer::most_confident(&qualities))];
            }
            candidates
        };
        Ok(prompts.iter().map(answer).collect())
    }
}

/// A mask with the first `n` pixels of a row-major image set.
pub(crate) fn first_pixels(size_hw: [usize; 2], n: usize) -> Mask {
    Mask::from_fn(size_hw, |row, column| row * size_hw[1] + column < n)
}

pub(crate) fn rle(mask: &Mask) -> Rle {
    Rle::from_mask(mask)
}

pub(crate) fn image(size_hw: [usize; 2]) -> RgbImage {
    RgbImage::new(size_hw[1] as u32, size_hw[0] as u32)
}
