//! Detector boxes as prompts: instance segmentation as in the SAM paper (section 7.4 and appendix D.5).
//!
//! Each box yields the most confident of three masks, which is then refined once, prompted together with the box. Scores
//! are the detector's. The returned detections have no boxes, so that COCO takes areas from the masks
//! (see [`Detections::to_json`]).

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use rayon::prelude::*;
use sam_data::CocoId;
use sam_image::{RgbImage, Rle};
use serde::{Deserialize, Serialize};

use crate::error::{EvalError, SegmenterError};
use crate::evaluate::EvalProgress;
use crate::metrics::average_precision::IouKind;
use crate::metrics::coco_ap::{CocoConfig, evaluate_coco};
use crate::metrics::coco_json::{Categories, Detection, Detections, GroundTruth, Segmentation, content};
use crate::metrics::lvis_ap::{MAX_DETS, evaluate_lvis};
use crate::metrics::metric::Metrics;
use crate::protocol::segmenter::{Candidate, MaskSelection, Prompt, Segmenter};

/// Settings of box-prompted segmentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BoxPrompts {
    /// Number of refinements with the predicted mask; 1 in the paper.
    pub n_refinements: usize,
    /// Boxes per call of the segmenter; affects memory, not results.
    pub boxes_per_call: usize,
}

impl Default for BoxPrompts {
    fn default() -> Self {
        Self { n_refinements: 1, boxes_per_call: 16 }
    }
}

/// Segments every detection. `image` returns the pixels of an image id.
///
/// # Errors
///
/// When a detection has no box or one that does not overlap its image, an image cannot be read, the segmenter fails, or
/// `progress` interrupts.
pub fn segment_boxes<S: Segmenter>(
    segmenter: &S,
    detections: &Detections,
    config: &BoxPrompts,
    image: &mut dyn FnMut(&CocoId) -> Result<RgbImage, EvalError>,
    progress: &mut dyn FnMut(EvalProgress) -> ControlFlow<()>,
) -> Result<Detections, EvalError> {
    if config.boxes_per_call == 0 {
        return Err(EvalError::option("boxes_per_call", "at least 1", 0));
    }
    let mut by_image: BTreeMap<&CocoId, Vec<usize>> = BTreeMap::new();
    for (at, detection) in detections.all.iter().enumerate() {
        by_image.entry(&detection.image_id).or_default().push(at);
    }
    let mut found: Vec<Option<Rle>> = vec![None; detections.all.len()];
    let mut at = EvalProgress { of_images: by_image.len(), ..EvalProgress::default() };
    for (image_id, places) in by_image {
        let image = image(image_id)?;
        let size_hw = [image.height() as usize, image.width() as usize];
        let boxes: Vec<[f32; 4]> =
            places.iter().map(|&place| box_of(detections, place, size_hw)).collect::<Result<_, _>>()?;
        let name = image_id.to_string();
        let failed = |source| EvalError::Segmenter { image: name.clone(), source };
        let embedding = segmenter.embed(&image).map_err(failed)?;
        for (places, boxes) in places.chunks(config.boxes_per_call).zip(boxes.chunks(config.boxes_per_call)) {
            let masks = segment_call(segmenter, &embedding, boxes, config.n_refinements).map_err(failed)?;
            if masks.len() != places.len() || masks.iter().any(|mask| mask.size_hw() != size_hw) {
                let (expected, got) = ("one mask of the image's size for each box".to_owned(), "others".to_owned());
                return Err(EvalError::Answer { image: name, expected, got });
            }
            for (&place, mask) in places.iter().zip(masks) {
                found[place] = Some(mask);
            }
            at.report(places.len(), progress)?;
        }
        at.n_images += 1;
        at.report(0, progress)?;
    }
    let with_mask = |(detection, mask): (&Detection, Option<Rle>)| Detection {
        box_xywh_px: Vec::new(),
        segmentation: mask.as_ref().map(Segmentation::from_rle),
        ..detection.clone()
    };
    let all = detections.all.iter().zip(found).map(with_mask).collect();
    Ok(Detections { name: format!("segmentations of {}", detections.name), all })
}

/// AP and AR of masks: LVIS's for a per-class evaluation on an LVIS file, COCO's otherwise. Metric names begin with `mask_`.
///
/// # Errors
///
/// When the files do not match, or a mask is invalid.
pub fn mask_metrics(
    ground_truth: &GroundTruth,
    detections: &Detections,
    categories: Categories,
    max_dets: &[usize],
) -> Result<Metrics, EvalError> {
    if ground_truth.is_lvis() && categories == Categories::PerClass {
        return evaluate_lvis(ground_truth, detections, IouKind::Masks, MAX_DETS)?.metrics("mask");
    }
    let config = CocoConfig { iou_kind: IouKind::Masks, categories, max_dets: max_dets.to_vec() };
    evaluate_coco(ground_truth, detections, &config)?.coco_metrics("mask")
}

/// The box as a prompt. It may extend beyond the image, as detectors' boxes do by a little, but must overlap it.
fn box_of(detections: &Detections, at: usize, [height, width]: [usize; 2]) -> Result<[f32; 4], EvalError> {
    let detection = &detections.all[at];
    let Some([x, y, w, h]) = detection.box_of_four() else {
        let got = format!("{} numbers", detection.box_xywh_px.len());
        let what = format!("detection {at} (from 0)");
        return Err(content(&detections.name, what, "with a bbox of 4 numbers: it is the prompt", &got));
    };
    let [wide, high] = [width as f64, height as f64];
    let is_box = w > 0.0 && h > 0.0 && [x, y, w, h].iter().all(|number| number.is_finite());
    let is_inside = x < wide && y < high && x + w > 0.0 && y + h > 0.0;
    let is_near = x >= -wide && y >= -high && x + w <= 2.0 * wide && y + h <= 2.0 * high;
    if !(is_box && is_inside && is_near) {
        return Err(EvalError::Detection {
            name: detections.name.clone(),
            at,
            image_id: detection.image_id.to_string(),
            problem: format!(
                "bbox [{x}, {y}, {w}, {h}] must have an area and overlap the image, which is {width} px wide and {height} px \
                 high"
            ),
        });
    }
    Ok([x, y, x + w, y + h].map(|edge| edge as f32))
}

/// The masks of the boxes of one call.
fn segment_call<S: Segmenter>(
    segmenter: &S,
    embedding: &S::Embedding,
    boxes: &[[f32; 4]],
    n_refinements: usize,
) -> Result<Vec<Rle>, SegmenterError> {
    let mut answers: Vec<Candidate<S::Logits>> = Vec::new();
    for round in 0..=n_refinements {
        let selection = if round == 0 { MaskSelection::MostConfident } else { MaskSelection::Single };
        let prompts: Vec<(usize, Prompt<'_, S::Logits>)> = boxes
            .iter()
            .enumerate()
            .map(|(at, &corners)| {
                let logits = answers.get(at).map(|answer| &answer.logits);
                (0, Prompt { clicks: &[], box_xyxy_px: Some(corners), logits, text: None })
            })
            .collect();
        let answered = segmenter.segment(&[embedding], &prompts, selection)?;
        answers = answered.into_iter().flat_map(|candidates| candidates.into_iter().take(1)).collect();
    }
    Ok(answers.into_par_iter().map(|answer| Rle::from_mask(&answer.mask)).collect())
}
