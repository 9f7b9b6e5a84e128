//! From candidates to the masks of an image: thresholds, duplicates, small regions. Needs no network, so thresholds can be
//! moved at will.
//!
//! Order (`SamAutomaticMaskGenerator`): for each crop predicted IoU, stability, masks at inner edges of the crop, duplicates
//! by predicted IoU; then duplicates across crops, where the smaller crop wins; then small holes and islands, and duplicates
//! once more, where unchanged masks win. Masks come in the order of the last of these. Masks of almost the whole image, which
//! the paper removes and the published code does not, are removed before the first search for duplicates.

use rayon::prelude::*;
use sam_image::{Rle, clean_small_regions};

use super::candidates::{Candidate, Candidates, inclusive_box, is_above, is_stable};
use super::crops::touches_inner_edge;
use super::error::AutomaticError;
use super::options::{SmallMasks, Thresholds};
use super::suppression::suppress;

/// A mask of an image, as a record of SA-1B has it.
#[derive(Clone, Debug, PartialEq)]
pub struct AutomaticMask {
    /// The mask in the image's size.
    pub rle: Rle,
    /// `[x0, y0, x1, y1]` with inclusive ends.
    pub box_xyxy_px: [usize; 4],
    /// The IoU with the object that the model predicts; unbounded.
    pub predicted_iou: f32,
    /// The stability score; NaN for an empty mask whose logits are low everywhere, where no threshold removes it.
    pub stability: f32,
    /// The point that the mask is of, in pixels of the image.
    pub point_xy_px: [f64; 2],
    /// `[x0, y0, x1, y1]` with exclusive ends.
    pub crop_xyxy_px: [usize; 4],
    /// Index of its candidate.
    pub candidate: usize,
}

impl AutomaticMask {
    /// `[x, y, width, height]` as in SA-1B, one less in width and height than COCO's.
    pub fn box_xywh_px(&self) -> [usize; 4] {
        let [x0, y0, x1, y1] = self.box_xyxy_px;
        [x0, y0, x1 - x0, y1 - y0]
    }

    /// `[x, y, width, height]` of its crop.
    pub fn crop_xywh_px(&self) -> [usize; 4] {
        let [x0, y0, x1, y1] = self.crop_xyxy_px;
        [x0, y0, x1 - x0, y1 - y0]
    }
}

/// Masks that were removed, by the filter that did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Removed {
    /// Predicted IoU not above the threshold.
    pub predicted_iou: usize,
    /// Stability below the threshold.
    pub stability: usize,
    /// Almost the whole image.
    pub whole_image: usize,
    /// At the edge of a crop inside of the image.
    pub crop_edge: usize,
    /// Duplicates within a crop.
    pub duplicates: usize,
    /// Duplicates in different crops.
    pub crop_duplicates: usize,
    /// Nothing but a small island.
    pub small: usize,
    /// Duplicates once small regions are gone.
    pub cleaned_duplicates: usize,
    /// Without a pixel of their own ([`Generated::without_overlap`]).
    pub covered: usize,
    /// Described by no text ([`Generated::described_by`]).
    #[serde(default)]
    pub texts: usize,
}

/// The masks of an image.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// In the order of the reference.
    pub masks: Vec<AutomaticMask>,
    /// What the filters removed.
    pub removed: Removed,
}

impl Candidates {
    /// Chooses the masks of the image.
    ///
    /// # Errors
    ///
    /// When a threshold is not a number, or below the floor with which candidates were kept.
    pub fn generate(&self, thresholds: &Thresholds) -> Result<Generated, AutomaticError> {
        thresholds.check()?;
        self.require_floors(thresholds)?;
        let mut removed = Removed {
            predicted_iou: self.seen.below_predicted_iou,
            stability: self.seen.below_stability,
            ..Removed::default()
        };
        let mut masks = Vec::new();
        let mut start = 0;
        for crop in 0..self.crops_xyxy_px.len() {
            let of_crop = self.candidates[start..].iter().take_while(|candidate| candidate.crop == crop).count();
            masks.extend(self.masks_of_crop(start..start + of_crop, crop, thresholds, &mut removed));
            start += of_crop;
        }
        if self.crops_xyxy_px.len() > 1 {
            let scores: Vec<f32> = masks.iter().map(|mask: &AutomaticMask| zoom(mask.crop_xyxy_px)).collect();
            masks = deduplicated(masks, &scores, thresholds.crop_nms, &mut removed.crop_duplicates);
        }
        if thresholds.min_region_area > 0 {
            masks = cleaned(masks, thresholds, &mut removed);
        }
        Ok(Generated { masks, removed })
    }

    /// Whether these thresholds need no candidate that was given up.
    pub fn suffice_for(&self, thresholds: &Thresholds) -> bool {
        self.require_floors(thresholds).is_ok()
    }

    fn require_floors(&self, thresholds: &Thresholds) -> Result<(), AutomaticError> {
        let floors = self.options.floors;
        let pairs = [
            ("predicted IoU", floors.predicted_iou, thresholds.predicted_iou),
            ("stability", floors.stability, thresholds.stability),
        ];
        match pairs.into_iter().find(|&(_, floor, got)| floor > 0.0 && got < floor) {
            Some((what, floor, got)) => Err(AutomaticError::BelowFloor { what, floor, got }),
            None => Ok(()),
        }
    }

    fn masks_of_crop(
        &self,
        candidates: std::ops::Range<usize>,
        crop: usize,
        thresholds: &Thresholds,
        removed: &mut Removed,
    ) -> Vec<AutomaticMask> {
        let crop_xyxy_px = self.crops_xyxy_px[crop];
        let [height, width] = self.image_hw;
        let largest_px = thresholds.max_image_share.map(|share| share * (height * width) as f64);
        let mut masks = Vec::new();
        for index in candidates {
            let candidate = &self.candidates[index];
            let mask = || mask_of(candidate, index, crop_xyxy_px);
            if !is_above(candidate.predicted_iou, thresholds.predicted_iou) {
                removed.predicted_iou += 1;
            } else if !is_stable(candidate.stability(), thresholds.stability) {
                removed.stability += 1;
            } else if largest_px.is_some_and(|largest_px| candidate.rle.area_px() as f64 >= largest_px) {
                removed.whole_image += 1;
            } else if touches_inner_edge(candidate.box_xyxy_px(crop_xyxy_px), crop_xyxy_px, self.image_hw) {
                removed.crop_edge += 1;
            } else {
                masks.push(mask());
            }
        }
        let scores: Vec<f32> = masks.iter().map(|mask| mask.predicted_iou).collect();
        deduplicated(masks, &scores, thresholds.box_nms, &mut removed.duplicates)
    }
}

fn mask_of(candidate: &Candidate, index: usize, crop_xyxy_px: [usize; 4]) -> AutomaticMask {
    AutomaticMask {
        rle: candidate.rle.clone(),
        box_xyxy_px: candidate.box_xyxy_px(crop_xyxy_px),
        predicted_iou: candidate.predicted_iou,
        stability: candidate.stability(),
        point_xy_px: candidate.point_xy_px,
        crop_xyxy_px,
        candidate: index,
    }
}

/// Smaller crops show more.
fn zoom(crop_xyxy_px: [usize; 4]) -> f32 {
    let [x0, y0, x1, y1] = crop_xyxy_px;
    1.0 / ((x1 - x0) * (y1 - y0)) as f32
}

fn deduplicated(masks: Vec<AutomaticMask>, scores: &[f32], iou_max: f64, n_removed: &mut usize) -> Vec<AutomaticMask> {
    let boxes: Vec<[usize; 4]> = masks.iter().map(|mask| mask.box_xyxy_px).collect();
    let kept = suppress(&boxes, scores, iou_max);
    *n_removed += masks.len() - kept.len();
    let mut masks: Vec<Option<AutomaticMask>> = masks.into_iter().map(Some).collect();
    kept.into_iter().filter_map(|index| masks[index].take()).collect()
}

/// Fills small holes and removes small islands.
fn cleaned(masks: Vec<AutomaticMask>, thresholds: &Thresholds, removed: &mut Removed) -> Vec<AutomaticMask> {
    let limit = thresholds.min_region_area;
    let clean = |mask: AutomaticMask| {
        let cleaned = clean_small_regions(&mask.rle, limit);
        if !cleaned.is_changed {
            return (mask, 1.0);
        }
        // The box is taken anew, in the frame of the image; masks that needed no repair are preferred.
        let box_xyxy_px = inclusive_box(&cleaned.rle, [0; 4]);
        (AutomaticMask { rle: cleaned.rle, box_xyxy_px, ..mask }, 0.0)
    };
    let cleaned: Vec<(AutomaticMask, f32)> = masks.into_par_iter().map(clean).collect();
    let n = cleaned.len();
    let is_kept =
        |(mask, _): &(AutomaticMask, f32)| thresholds.small_masks == SmallMasks::Keep || mask.rle.area_px() >= limit;
    let (masks, scores): (Vec<AutomaticMask>, Vec<f32>) = cleaned.into_iter().filter(is_kept).unzip();
    removed.small += n - masks.len();
    let iou_max = thresholds.box_nms.max(thresholds.crop_nms);
    deduplicated(masks, &scores, iou_max, &mut removed.cleaned_duplicates)
}
