//! The network's part: a grid of points on the image and its crops becomes candidate masks with scores.
//!
//! Masks are streamed: a batch of points is decoded, masks at or below the floors are given up (those with a low predicted
//! IoU before anything is upscaled), and every other one goes from the decoder's logits to run lengths in one pass. So the
//! memory is that of one batch at the decoder's resolution and of the run lengths. The reference keeps the logits of a batch
//! in the image's size: 2.6 GB for 64 points on 1500 x 2250.

use std::ops::ControlFlow;

use rayon::prelude::*;
use sam_image::{MaskUpscaler, ModelFrame, RgbImage, Rle, StabilityLevels, UpscaledMask, crop_rgb};
use sam_model::MASK_THRESHOLD;

use super::crops::{CropBoxes, grid_points};
use super::error::AutomaticError;
use super::options::Options;
use crate::embedding::ImageEmbedding;
use crate::predictor::{Prediction, Predictor};
use crate::prompt::Prompt;

/// The candidate masks of an image, from which [`Candidates::generate`] chooses.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidates {
    /// Size of the image.
    pub image_hw: [usize; 2],
    /// Crop by crop, point by point, in the order of the decoder's masks.
    pub candidates: Vec<Candidate>,
    /// `[x0, y0, x1, y1]` with exclusive ends; the first is the image.
    pub crops_xyxy_px: Vec<[usize; 4]>,
    /// What was asked.
    pub options: Options,
    /// What was seen on the way.
    pub seen: Seen,
}

/// What was seen while candidates were made.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Seen {
    /// Points of all grids.
    pub points: usize,
    /// Masks of all points.
    pub masks: usize,
    /// Masks given up because their predicted IoU is not above the floor.
    pub below_predicted_iou: usize,
    /// Masks given up because their stability is below the floor.
    pub below_stability: usize,
    /// The highest predicted IoU of all masks.
    pub best_predicted_iou: Option<f32>,
    /// The highest stability of masks whose predicted IoU is above the floor.
    pub best_stability: Option<f32>,
    /// Layers of crops that were left out because the image is too small for them.
    pub layers_left_out: usize,
}

/// A mask of one point.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The mask in the image's size.
    pub rle: Rle,
    /// The IoU with the object that the model predicts; unbounded.
    pub predicted_iou: f32,
    /// Pixels above the higher level of the stability score.
    pub certain_px: usize,
    /// Pixels above the lower level of the stability score.
    pub possible_px: usize,
    /// The point, in pixels of the image.
    pub point_xy_px: [f64; 2],
    /// Index of its crop.
    pub crop: usize,
}

impl Candidate {
    /// The part of the possible pixels that are certain: 0/0, which is NaN, where there are none.
    pub fn stability(&self) -> f32 {
        self.certain_px as f32 / self.possible_px as f32
    }

    /// `[x0, y0, x1, y1]` with inclusive ends; for an empty mask the corner of its crop.
    pub fn box_xyxy_px(&self, crop_xyxy_px: [usize; 4]) -> [usize; 4] {
        inclusive_box(&self.rle, crop_xyxy_px)
    }
}

/// The reference's box of a mask, with inclusive ends; the corner of the crop when it is empty.
pub(super) fn inclusive_box(rle: &Rle, crop_xyxy_px: [usize; 4]) -> [usize; 4] {
    match rle.bounds_xyxy_px() {
        Some([x0, y0, x1, y1]) => [x0, y0, x1 - 1, y1 - 1],
        None => [crop_xyxy_px[0], crop_xyxy_px[1], crop_xyxy_px[0], crop_xyxy_px[1]],
    }
}

/// How far the candidates of an image are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointsDone {
    /// Decoded points.
    pub done: usize,
    /// Points of all crops.
    pub total: usize,
}

/// A candidate with the logits that it is from.
#[derive(Clone, Copy, Debug)]
pub struct CandidateLogits<'a> {
    /// Index in [`Candidates::candidates`].
    pub index: usize,
    /// The candidate.
    pub candidate: &'a Candidate,
    /// Its logits at the decoder's resolution, row-major, in the frame of its crop.
    pub low_res_logits: &'a [f32],
    /// The sizes of its crop.
    pub frame: &'a ModelFrame,
}

/// Who watches while candidates are made.
pub struct Watch<'a> {
    /// Called after every batch of points; `Break` gives the image up.
    pub on_points: &'a mut dyn FnMut(PointsDone) -> ControlFlow<()>,
    /// Called with every candidate that is kept, in order.
    pub on_candidate: &'a mut dyn FnMut(CandidateLogits<'_>),
}

impl Candidates {
    /// Asks the network for the masks of a grid of points.
    ///
    /// `on_points` is called after every batch; `Break` gives the image up.
    ///
    /// # Errors
    ///
    /// When an option is out of its range, the image is too large for masks, or the model predicts no finite IoU.
    pub fn find(
        predictor: &Predictor,
        image: &RgbImage,
        options: &Options,
        on_points: &mut dyn FnMut(PointsDone) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Self>, AutomaticError> {
        Self::find_watched(predictor, image, options, Watch { on_points, on_candidate: &mut |_| {} })
    }

    /// As [`Candidates::find`], with the logits of every candidate at the decoder's resolution.
    ///
    /// # Errors
    ///
    /// As [`Candidates::find`].
    pub fn find_watched(
        predictor: &Predictor,
        image: &RgbImage,
        options: &Options,
        mut watch: Watch<'_>,
    ) -> Result<ControlFlow<(), Self>, AutomaticError> {
        options.check()?;
        let image_hw = [image.height() as usize, image.width() as usize];
        let crops = CropBoxes::new(image_hw, options);
        let mut found = Self::none(image_hw, &crops, options);
        let mut done = 0;
        for (index, &(crop_xyxy_px, layer)) in crops.boxes.iter().enumerate() {
            let crop = Crop { index, crop_xyxy_px, points_per_side: options.points_of_layer(layer) };
            let [x0, y0, x1, y1] = crop_xyxy_px;
            let is_image = [y1 - y0, x1 - x0] == image_hw;
            let embedding =
                if is_image { predictor.embed(image) } else { predictor.embed(&crop_rgb(image, crop_xyxy_px)) };
            if found.add_crop(predictor, &embedding, &crop, &mut done, &mut watch)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(found))
    }

    /// As [`Candidates::find`] on an image that is encoded already. Layers of crops need the image: there are none.
    ///
    /// # Errors
    ///
    /// As [`Candidates::find`].
    pub fn find_on(
        predictor: &Predictor,
        embedding: &ImageEmbedding,
        options: &Options,
        on_points: &mut dyn FnMut(PointsDone) -> ControlFlow<()>,
    ) -> Result<ControlFlow<(), Self>, AutomaticError> {
        let options = Options { crop_layers: 0, ..options.clone() };
        options.check()?;
        let image_hw = embedding.frame.original_hw;
        let crops = CropBoxes::new(image_hw, &options);
        let mut found = Self::none(image_hw, &crops, &options);
        let (crop_xyxy_px, layer) = crops.boxes[0];
        let crop = Crop { index: 0, crop_xyxy_px, points_per_side: options.points_of_layer(layer) };
        let mut watch = Watch { on_points, on_candidate: &mut |_| {} };
        let flow = found.add_crop(predictor, embedding, &crop, &mut 0, &mut watch)?;
        Ok(flow.map_continue(|()| found))
    }

    /// What there is before the first point.
    fn none(image_hw: [usize; 2], crops: &CropBoxes, options: &Options) -> Self {
        let points_of = |layer| options.points_of_layer(layer).pow(2);
        Self {
            image_hw,
            candidates: Vec::new(),
            crops_xyxy_px: crops.boxes.iter().map(|crop| crop.0).collect(),
            options: options.clone(),
            seen: Seen {
                points: crops.boxes.iter().map(|&(_, layer)| points_of(layer)).sum(),
                layers_left_out: options.crop_layers - crops.n_layers,
                ..Seen::default()
            },
        }
    }

    fn add_crop(
        &mut self,
        predictor: &Predictor,
        embedding: &ImageEmbedding,
        crop: &Crop,
        done: &mut usize,
        watch: &mut Watch<'_>,
    ) -> Result<ControlFlow<()>, AutomaticError> {
        let [x0, y0, x1, y1] = crop.crop_xyxy_px;
        let side = predictor.config().low_res_side();
        let upscaler = MaskUpscaler::new(side, &embedding.frame, self.image_hw, [x0, y0])?;
        let points = grid_points([y1 - y0, x1 - x0], crop.points_per_side);
        for points in points.chunks(self.options.points_per_batch) {
            let prompts: Vec<Prompt> = points.iter().map(|&[x, y]| click([x as f32, y as f32])).collect();
            let asked: Vec<(usize, &Prompt)> = prompts.iter().map(|prompt| (0, prompt)).collect();
            let predictions = predictor.predict_many(&[embedding], &asked, self.options.masks_per_point.into())?;
            let placed = Placed { upscaler: &upscaler, crop: crop.index, points, offset_xy_px: [x0 as f64, y0 as f64] };
            self.add_batch(&predictions, &placed, watch)?;
            *done += points.len();
            if (watch.on_points)(PointsDone { done: *done, total: self.seen.points }).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The masks of a batch of points.
    fn add_batch(
        &mut self,
        predictions: &[Prediction],
        placed: &Placed<'_>,
        watch: &mut Watch<'_>,
    ) -> Result<(), AutomaticError> {
        let floors = self.options.floors;
        let mut passing = Vec::new();
        for (point, prediction) in predictions.iter().enumerate() {
            for (mask, &score) in prediction.iou_predictions.iter().enumerate() {
                if !score.is_finite() {
                    return Err(AutomaticError::NotFinite(score));
                }
                self.seen.masks += 1;
                self.seen.best_predicted_iou = Some(self.seen.best_predicted_iou.map_or(score, |best| best.max(score)));
                match is_above(score, floors.predicted_iou) {
                    true => passing.push((point, score, prediction.mask_logits(mask))),
                    false => self.seen.below_predicted_iou += 1,
                }
            }
        }
        let levels = StabilityLevels { threshold: MASK_THRESHOLD, offset: self.options.stability_offset };
        let upscale = |(_, _, logits): &(usize, f32, Vec<f32>)| placed.upscaler.upscale(logits, levels);
        let upscaled: Vec<UpscaledMask> = passing.par_iter().map(upscale).collect();
        for ((point, predicted_iou, low_res_logits), mask) in passing.iter().zip(upscaled) {
            let UpscaledMask { rle, certain_px, possible_px } = mask;
            let [x, y] = placed.points[*point];
            let point_xy_px = [x + placed.offset_xy_px[0], y + placed.offset_xy_px[1]];
            let candidate = Candidate {
                rle,
                predicted_iou: *predicted_iou,
                certain_px,
                possible_px,
                point_xy_px,
                crop: placed.crop,
            };
            let stability = candidate.stability();
            if !stability.is_nan() {
                self.seen.best_stability = Some(self.seen.best_stability.map_or(stability, |best| best.max(stability)));
            }
            if !is_stable(stability, floors.stability) {
                self.seen.below_stability += 1;
                continue;
            }
            let index = self.candidates.len();
            let frame = placed.upscaler.frame();
            (watch.on_candidate)(CandidateLogits { index, candidate: &candidate, low_res_logits, frame });
            self.candidates.push(candidate);
        }
        Ok(())
    }
}

/// A crop and its grid.
struct Crop {
    index: usize,
    crop_xyxy_px: [usize; 4],
    points_per_side: usize,
}

/// The points of a batch and the place of their masks.
struct Placed<'a> {
    upscaler: &'a MaskUpscaler,
    crop: usize,
    /// In pixels of the crop.
    points: &'a [[f64; 2]],
    offset_xy_px: [f64; 2],
}

fn click(xy_px: [f32; 2]) -> Prompt {
    Prompt { points_xy_px: vec![(xy_px, true)], ..Prompt::default() }
}

/// The filter of predicted IoUs. The reference compares f32 scores with a threshold that is rounded to f32.
pub(super) fn is_above(score: f32, threshold: f64) -> bool {
    threshold <= 0.0 || score > threshold as f32
}

/// The filter of stabilities, which NaN passes only where there is none.
pub(super) fn is_stable(score: f32, threshold: f64) -> bool {
    threshold <= 0.0 || score >= threshold as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same compared in f64 would drop 19 of 20.
    #[test]
    fn thresholds_are_rounded_as_in_the_reference() {
        assert!(is_stable(19.0 / 20.0, 0.95) && f64::from(19.0f32 / 20.0) < 0.95);
        assert!(!is_above(0.88, 0.88) && is_above(0.880_000_1, 0.88));
        assert!(is_above(-3.0, 0.0) && is_stable(f32::NAN, 0.0) && !is_stable(f32::NAN, 0.01));
    }
}
