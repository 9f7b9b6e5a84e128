//! COCO's AP and AR of masks and boxes, equal to `pycocotools.cocoeval.COCOeval`.
//!
//! Source: pycocotools 2.0.11, with its rules: an annotation is a target unless it is a crowd (`iscrowd`; the reference
//! overwrites `ignore` with it) or outside the area range; a crowd may be matched by any number of detections, which are then
//! ignored; areas are those given in the files. Without classes ([`Categories::Agnostic`], the reference's `useCats = 0`) all
//! annotations and detections of an image are matched together, ordered by category: proposal evaluation.
//!
//! Differs: invalid files are errors, see [`crate::metrics::coco_json`]; in the agnostic case a detection without a category
//! is accepted (and comes first), where the reference requires one; an empty list of detections gives zeros.

use std::collections::BTreeMap;

use sam_image::{Rle, bbox_iou_matrix, rle_iou_matrix};
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::metrics::average_precision::{
    AreaRange, DetectionView, IouKind, Matcher, Mean, PrecisionRecall, Select, TargetView, by_descending_score,
};
use crate::metrics::coco_json::{Categories, CocoAnnotation, Detection, Detections, GroundTruth, content};
use crate::metrics::metric::Metrics;

/// Settings of a COCO evaluation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CocoConfig {
    /// Mask or box IoU.
    pub iou_kind: IouKind,
    /// Per class or class-agnostic.
    pub categories: Categories,
    /// Limits on detections per image (and class); proposals are also evaluated at 1000.
    pub max_dets: Vec<usize>,
}

impl Default for CocoConfig {
    fn default() -> Self {
        Self { iou_kind: IouKind::Masks, categories: Categories::PerClass, max_dets: vec![1, 10, 100] }
    }
}

/// Evaluates detections.
///
/// # Errors
///
/// When the files do not match, or a mask is invalid.
pub fn evaluate_coco(
    ground_truth: &GroundTruth,
    detections: &Detections,
    config: &CocoConfig,
) -> Result<PrecisionRecall, EvalError> {
    let mut max_dets = config.max_dets.clone();
    max_dets.sort_unstable();
    max_dets.dedup();
    if max_dets.first().is_none_or(|&limit| limit == 0) {
        return Err(EvalError::option("max_dets", "one or more limits from 1", format!("{:?}", config.max_dets)));
    }
    detections.check_against(ground_truth, config.categories)?;
    let n_categories = if config.categories == Categories::PerClass { ground_truth.categories.len() } else { 1 };
    let mut matcher = Matcher::new(n_categories, max_dets.into_iter().map(Some).collect());
    let pairing = Pairing { ground_truth, detections, iou_kind: config.iou_kind, have_boxes: detections.have_boxes() };
    for (image, (targets, found)) in pairing.by_image(|_| true, |_| true).into_iter().enumerate() {
        for (category, (targets, found)) in split(ground_truth, config.categories, targets, found) {
            let views = |object: &&CocoAnnotation| TargetView {
                area_px2: object.area_px2,
                is_ignored: object.iscrowd != 0,
                is_crowd: object.iscrowd != 0,
            };
            let target_views: Vec<TargetView> = targets.iter().map(views).collect();
            let (detection_views, ious) =
                pairing.measure(image, &targets, &target_views, found, matcher.limit(), |_| false)?;
            matcher.add(category, &target_views, &detection_views, &ious);
        }
    }
    Ok(matcher.accumulate())
}

type Found<'a> = (Vec<&'a CocoAnnotation>, Vec<&'a Detection>);

/// The targets and detections of an image by category index.
fn split<'a>(
    ground_truth: &GroundTruth,
    categories: Categories,
    targets: Vec<&'a CocoAnnotation>,
    found: Vec<&'a Detection>,
) -> BTreeMap<usize, Found<'a>> {
    let mut parts: BTreeMap<usize, Found<'a>> = BTreeMap::new();
    match categories {
        Categories::PerClass => {
            for object in targets {
                parts.entry(ground_truth.category_index[&object.category_id]).or_default().0.push(object);
            }
            for detection in found {
                if let Some(id) = &detection.category_id {
                    parts.entry(ground_truth.category_index[id]).or_default().1.push(detection);
                }
            }
        }
        Categories::Agnostic => {
            // By category, as in the reference: the order decides ties.
            let (mut targets, mut found) = (targets, found);
            targets.sort_by(|a, b| a.category_id.cmp(&b.category_id));
            found.sort_by(|a, b| a.category_id.cmp(&b.category_id));
            parts.insert(0, (targets, found));
        }
    }
    parts
}

/// The ground truth and the detections to be matched.
pub(crate) struct Pairing<'a> {
    pub(crate) ground_truth: &'a GroundTruth,
    pub(crate) detections: &'a Detections,
    pub(crate) iou_kind: IouKind,
    pub(crate) have_boxes: bool,
}

impl<'a> Pairing<'a> {
    /// Targets and detections of each image, in the order of the images.
    pub(crate) fn by_image(
        &self,
        target_counts: impl Fn(&CocoAnnotation) -> bool,
        detection_counts: impl Fn(usize) -> bool,
    ) -> Vec<Found<'a>> {
        let mut images: Vec<Found<'a>> = vec![Found::default(); self.ground_truth.images.len()];
        for object in self.ground_truth.objects.iter().filter(|object| target_counts(object)) {
            images[self.ground_truth.image_index[&object.image_id]].0.push(object);
        }
        for (_, detection) in self.detections.all.iter().enumerate().filter(|(at, _)| detection_counts(*at)) {
            images[self.ground_truth.image_index[&detection.image_id]].1.push(detection);
        }
        images
    }

    /// The detections within the limit, by descending score, and their IoU with each target (`[D, G]`).
    pub(crate) fn measure(
        &self,
        image: usize,
        targets: &[&CocoAnnotation],
        target_views: &[TargetView],
        mut found: Vec<&Detection>,
        limit: usize,
        is_ignored_unmatched: impl Fn(&Detection) -> bool,
    ) -> Result<(Vec<DetectionView>, Vec<f64>), EvalError> {
        let image = &self.ground_truth.images[image];
        found.sort_by(|a, b| by_descending_score(a.score, b.score));
        found.truncate(limit);
        let is_crowd: Vec<bool> = target_views.iter().map(|target| target.is_crowd).collect();
        let size_hw = [image.height, image.width];
        let needs_masks = self.iou_kind == IouKind::Masks || !self.have_boxes;
        let masks: Vec<Rle> = if needs_masks {
            found.iter().map(|found| found.mask(&self.detections.name, size_hw)).collect::<Result<_, _>>()?
        } else {
            Vec::new()
        };
        let boxes: Vec<[f64; 4]> = found
            .iter()
            .enumerate()
            .map(|(at, found)| match found.box_of_four() {
                Some(box_xywh_px) if self.have_boxes => box_xywh_px,
                _ => masks[at].bbox_xywh_px().map(|edge| edge as f64),
            })
            .collect();
        let area_px2 = |at: usize| match self.have_boxes {
            true => boxes[at][2] * boxes[at][3],
            false => masks[at].area_px() as f64,
        };
        let ious = match self.iou_kind {
            IouKind::Masks => rle_iou_matrix(&masks, &self.target_masks(targets, size_hw)?, &is_crowd)?,
            IouKind::Boxes => bbox_iou_matrix(&boxes, &self.target_boxes(targets)?, &is_crowd)?,
        };
        let view = |(at, found): (usize, &&Detection)| DetectionView {
            score: found.score,
            area_px2: area_px2(at),
            is_ignored_unmatched: is_ignored_unmatched(found),
        };
        Ok((found.iter().enumerate().map(view).collect(), ious))
    }

    fn target_masks(&self, targets: &[&CocoAnnotation], size_hw: [usize; 2]) -> Result<Vec<Rle>, EvalError> {
        let mask = |object: &&CocoAnnotation| {
            let what = format!("annotation {}", object.id);
            match &object.segmentation {
                Some(segmentation) => segmentation.to_rle(&self.ground_truth.name, &what, &object.image_id, size_hw),
                None => Err(content(
                    &self.ground_truth.name,
                    what,
                    "with a segmentation when masks are compared",
                    "one without",
                )),
            }
        };
        targets.iter().map(mask).collect()
    }

    fn target_boxes(&self, targets: &[&CocoAnnotation]) -> Result<Vec<[f64; 4]>, EvalError> {
        let missing = |object: &CocoAnnotation| {
            let what = format!("annotation {}", object.id);
            content(&self.ground_truth.name, what, "with a bbox when boxes are compared", "one without")
        };
        targets.iter().map(|object| object.box_xywh_px.ok_or_else(|| missing(object))).collect()
    }
}

impl PrecisionRecall {
    /// The metrics `{prefix}_ap`, `_ap_50`, `_ap_75`, `_ap_small` and so on at the highest limit up to 100, `_ar_{limit}` at
    /// each limit, `_ar_small` and so on at the highest. Metrics without targets are omitted.
    ///
    /// # Errors
    ///
    /// Never in practice; names are all different.
    pub fn coco_metrics(&self, prefix: &str) -> Result<Metrics, EvalError> {
        const AP_LIMIT: usize = 100;
        let limits: Vec<usize> = self.max_dets.iter().copied().flatten().collect();
        let highest = limits.last().copied();
        let ap_limit = limits.iter().copied().rfind(|&limit| limit <= AP_LIMIT).or(highest);
        let select = |iou_percent, area, max_dets| Select { iou_percent, area, max_dets, categories: None };
        let mut metrics = Metrics::default();
        let mut add = |name: String, mean, select: Select<'_>| {
            self.insert(&mut metrics, &format!("{prefix}_{name}"), mean, &select)
        };
        add("ap".to_owned(), Mean::Precision, select(None, AreaRange::All, ap_limit))?;
        for percent in [50, 75] {
            add(format!("ap_{percent}"), Mean::Precision, select(Some(percent), AreaRange::All, ap_limit))?;
        }
        for (area, name) in [(AreaRange::Small, "small"), (AreaRange::Medium, "medium"), (AreaRange::Large, "large")] {
            add(format!("ap_{name}"), Mean::Precision, select(None, area, ap_limit))?;
            add(format!("ar_{name}"), Mean::Recall, select(None, area, highest))?;
        }
        for limit in limits {
            add(format!("ar_{limit}"), Mean::Recall, select(None, AreaRange::All, Some(limit)))?;
        }
        Ok(metrics)
    }
}
