//! Which masks of everything a text describes, as CLIP sees it. Needs no network: vectors of masks can be kept, so texts and the
//! threshold can be moved at will.
//!
//! Not part of SAM: its masks have no names. The score of a mask is the cosine of the vectors of text and mask
//! ([`crate::clip::Clip::masks`]).

use std::collections::BTreeMap;

use super::generate::{AutomaticMask, Generated};

/// What texts are of a mask.
#[derive(Clone, Debug, PartialEq)]
pub struct TextMatch {
    /// Index of the text that describes it best.
    pub text: usize,
    /// Scores of all texts, -1 to 1.
    pub scores: Vec<f32>,
}

impl TextMatch {
    /// The score of the best text.
    pub fn score(&self) -> f32 {
        self.scores[self.text]
    }
}

/// Masks that a text describes.
#[derive(Clone, Debug, PartialEq)]
pub struct Described {
    /// In the order as before.
    pub generated: Generated,
    /// Their texts, by [`AutomaticMask::candidate`].
    pub matches: BTreeMap<usize, TextMatch>,
    /// The highest score of all masks, of those that were removed as well; `None` without a mask.
    pub best_score: Option<f32>,
}

impl Generated {
    /// Keeps the masks whose score for one of the texts is `score_min` or higher.
    ///
    /// `texts` are vectors of texts, `vectors` those of the masks, all of unit length and of one CLIP; an empty mask has none, and is
    /// removed.
    ///
    /// # Panics
    ///
    /// Without a text, with another number of vectors than masks, or with vectors of different lengths.
    #[must_use]
    pub fn described_by(self, texts: &[Vec<f32>], vectors: &[Option<Vec<f32>>], score_min: f64) -> Described {
        let Self { masks, mut removed } = self;
        assert!(!texts.is_empty(), "at least a text");
        assert_eq!(masks.len(), vectors.len(), "a vector or none for every mask");
        let (mut matches, mut best_score) = (BTreeMap::new(), None::<f32>);
        let n = masks.len();
        let mut keep = |mask: &AutomaticMask, vector: &Option<Vec<f32>>| {
            let Some(vector) = vector else { return false };
            let scores: Vec<f32> = texts.iter().map(|text| cosine(text, vector)).collect();
            // The first of equal ones.
            let text = (1..scores.len()).fold(0, |best, at| if scores[at] > scores[best] { at } else { best });
            let score = scores[text];
            best_score = Some(best_score.map_or(score, |best| best.max(score)));
            let is_kept = f64::from(score) >= score_min;
            if is_kept {
                matches.insert(mask.candidate, TextMatch { text, scores });
            }
            is_kept
        };
        let masks: Vec<AutomaticMask> =
            masks.into_iter().zip(vectors).filter(|(mask, vector)| keep(mask, vector)).map(|(mask, _)| mask).collect();
        removed.texts += n - masks.len();
        Described { generated: Self { masks, removed }, matches, best_score }
    }
}

/// Of vectors of unit length.
fn cosine(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len(), "vectors of one CLIP");
    a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32
}

#[cfg(test)]
mod tests {
    use super::super::generate::Removed;
    use super::*;
    use sam_image::bbox_to_rle;

    fn mask(candidate: usize) -> AutomaticMask {
        AutomaticMask {
            rle: bbox_to_rle([9, 9], [0.0, 0.0, 3.0, 3.0]).expect("a box"),
            box_xyxy_px: [0, 0, 2, 2],
            predicted_iou: 0.9,
            stability: 0.9,
            point_xy_px: [1.0, 1.0],
            crop_xyxy_px: [0, 0, 9, 9],
            candidate,
        }
    }

    #[test]
    fn a_mask_has_its_best_text_and_those_below_the_threshold_go() {
        let generated = Generated { masks: [7, 3, 9, 4, 5].map(mask).into(), removed: Removed::default() };
        let texts = [vec![1.0, 0.0], vec![0.0, 1.0]];
        let vectors = [Some(vec![0.6, 0.8]), Some(vec![0.0, -1.0]), None, Some(vec![0.8, 0.6]), Some(vec![0.5, 0.5])];
        let described = |score_min| generated.clone().described_by(&texts, &vectors, score_min);
        let strict = described(0.75);
        let kept: Vec<_> = strict.generated.masks.iter().map(|mask| mask.candidate).collect();
        assert_eq!((kept, strict.generated.removed.texts), (vec![7, 4], 3));
        let texts_of = |all: &Described| all.matches.iter().map(|(at, found)| (*at, found.text)).collect::<Vec<_>>();
        assert_eq!((texts_of(&strict), strict.best_score), (vec![(4, 0), (7, 1)], Some(0.8)));
        assert_eq!((strict.matches[&7].scores.as_slice(), strict.matches[&4].score()), (&[0.6, 0.8][..], 0.8));
        // At the threshold itself a mask stays; of equal texts it has the first; an empty mask goes always.
        assert_eq!(texts_of(&described(f64::from(0.8_f32))), [(4, 0), (7, 1)]);
        assert_eq!(texts_of(&described(-1.0)), [(3, 0), (4, 0), (5, 0), (7, 1)]);
        let none = described(0.9);
        assert_eq!((none.generated.masks.len(), none.best_score), (0, Some(0.8)));
        assert!(none.generated.removed.describe().contains("5 that no text describes"));
    }
}
