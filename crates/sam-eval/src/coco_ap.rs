//! COCO's AP and AR of masks and boxes, equal to `pycocotools.cocoeval.COCOeval`.
//!
//! Source: pycocotools 2.0.11. The rules, as they are there: a truth counts unless it is a crowd (`iscrowd`; the reference
//! overwrites `ignore` with it) or outside the area range; a crowd may be matched by any number of detections, which then
//! neither count; truths and detections have the areas that their files say. Without classes ([`Categories::Agnostic`],
//! the reference's `useCats = 0`) all truths and detections of an image meet, ordered by category: proposals.
//!
//! Differs: errors, see [`crate::coco_json`]; in the agnostic case a detection without a category is taken (first), where
//! the reference wants one; no detection at all is a result of zeros.

use std::collections::BTreeMap;

use sam_image::{Rle, bbox_iou_matrix, rle_iou_matrix};
use serde::{Deserialize, Serialize};

use crate::average_precision::{
    AreaRange, DetectionView, IouKind, Matcher, Mean, PrecisionRecall, Select, TruthView, by_falling_score,
};
use crate::coco_json::{Detection, Detections, Truth, TruthObject, content};
use crate::error::EvalError;
use crate::metric::Metrics;

/// Whether classes matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Categories {
    /// A detection must have the class of its truth; means are over classes.
    PerClass,
    /// Anything matches anything.
    Agnostic,
}

/// What is evaluated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CocoConfig {
    /// What is compared.
    pub iou_kind: IouKind,
    /// Whether classes matter.
    pub categories: Categories,
    /// Limits on detections per image (and class); proposals are measured at 1000, too.
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
/// When the files do not match, or a mask is none.
pub fn evaluate_coco(
    truth: &Truth,
    detections: &Detections,
    config: &CocoConfig,
) -> Result<PrecisionRecall, EvalError> {
    let mut max_dets = config.max_dets.clone();
    max_dets.sort_unstable();
    max_dets.dedup();
    if max_dets.first().is_none_or(|&limit| limit == 0) {
        let got = format!("{:?}", config.max_dets);
        return Err(EvalError::Option { key: "max_dets", expected: "one or more limits from 1".to_owned(), got });
    }
    detections.check(truth, config.categories == Categories::PerClass)?;
    let n_categories = if config.categories == Categories::PerClass { truth.categories.len() } else { 1 };
    let mut matcher = Matcher::new(n_categories, max_dets.into_iter().map(Some).collect());
    let pairing = Pairing { truth, detections, iou_kind: config.iou_kind, have_boxes: detections.have_boxes() };
    for (image, (truths, found)) in pairing.by_image(|_| true, |_| true).into_iter().enumerate() {
        for (category, (truths, found)) in split(truth, config.categories, truths, found) {
            let views = |object: &&TruthObject| TruthView {
                area_px2: object.area_px2,
                is_ignored: object.iscrowd != 0,
                is_crowd: object.iscrowd != 0,
            };
            let truth_views: Vec<TruthView> = truths.iter().map(views).collect();
            let (detection_views, ious) =
                pairing.measure(image, &truths, &truth_views, found, matcher.limit(), |_| false)?;
            matcher.add(category, &truth_views, &detection_views, &ious);
        }
    }
    Ok(matcher.accumulate())
}

type Found<'a> = (Vec<&'a TruthObject>, Vec<&'a Detection>);

/// The truths and detections of an image that may meet, by the place of their category.
fn split<'a>(
    truth: &Truth,
    categories: Categories,
    truths: Vec<&'a TruthObject>,
    found: Vec<&'a Detection>,
) -> BTreeMap<usize, Found<'a>> {
    let mut parts: BTreeMap<usize, Found<'a>> = BTreeMap::new();
    match categories {
        Categories::PerClass => {
            for object in truths {
                parts.entry(truth.category_index[&object.category_id]).or_default().0.push(object);
            }
            for detection in found {
                if let Some(id) = detection.category_id {
                    parts.entry(truth.category_index[&id]).or_default().1.push(detection);
                }
            }
        }
        Categories::Agnostic => {
            // In the order of categories, as the reference gathers them: it decides between equals.
            let (mut truths, mut found) = (truths, found);
            truths.sort_by_key(|object| object.category_id);
            found.sort_by_key(|detection| detection.category_id);
            parts.insert(0, (truths, found));
        }
    }
    parts
}

/// Truths and detections of two files, brought together.
pub(crate) struct Pairing<'a> {
    pub(crate) truth: &'a Truth,
    pub(crate) detections: &'a Detections,
    pub(crate) iou_kind: IouKind,
    pub(crate) have_boxes: bool,
}

impl<'a> Pairing<'a> {
    /// What is in each image, in the order of the images.
    pub(crate) fn by_image(
        &self,
        truth_counts: impl Fn(&TruthObject) -> bool,
        detection_counts: impl Fn(usize) -> bool,
    ) -> Vec<Found<'a>> {
        let mut images: Vec<Found<'a>> = vec![Found::default(); self.truth.images.len()];
        for object in self.truth.objects.iter().filter(|object| truth_counts(object)) {
            images[self.truth.image_index[&object.image_id]].0.push(object);
        }
        for (_, detection) in self.detections.all.iter().enumerate().filter(|(at, _)| detection_counts(*at)) {
            images[self.truth.image_index[&detection.image_id]].1.push(detection);
        }
        images
    }

    /// The detections by falling score, within the limit, and their IoU with each truth (`[D, G]`).
    pub(crate) fn measure(
        &self,
        image: usize,
        truths: &[&TruthObject],
        truth_views: &[TruthView],
        mut found: Vec<&Detection>,
        limit: usize,
        is_ignored_unmatched: impl Fn(&Detection) -> bool,
    ) -> Result<(Vec<DetectionView>, Vec<f64>), EvalError> {
        let image = &self.truth.images[image];
        found.sort_by(|a, b| by_falling_score(a.score, b.score));
        found.truncate(limit);
        let is_crowd: Vec<bool> = truth_views.iter().map(|truth| truth.is_crowd).collect();
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
            IouKind::Masks => rle_iou_matrix(&masks, &self.truth_masks(truths, size_hw)?, &is_crowd)?,
            IouKind::Boxes => bbox_iou_matrix(&boxes, &self.truth_boxes(truths)?, &is_crowd)?,
        };
        let view = |(at, found): (usize, &&Detection)| DetectionView {
            score: found.score,
            area_px2: area_px2(at),
            is_ignored_unmatched: is_ignored_unmatched(found),
        };
        Ok((found.iter().enumerate().map(view).collect(), ious))
    }

    fn truth_masks(&self, truths: &[&TruthObject], size_hw: [usize; 2]) -> Result<Vec<Rle>, EvalError> {
        let mask = |object: &&TruthObject| {
            let what = format!("annotation {}", object.id);
            match &object.segmentation {
                Some(segmentation) => segmentation.to_rle(&self.truth.name, &what, object.image_id, size_hw),
                None => {
                    Err(content(&self.truth.name, what, "with a segmentation when masks are compared", "one without"))
                }
            }
        };
        truths.iter().map(mask).collect()
    }

    fn truth_boxes(&self, truths: &[&TruthObject]) -> Result<Vec<[f64; 4]>, EvalError> {
        let missing = |object: &TruthObject| {
            let what = format!("annotation {}", object.id);
            content(&self.truth.name, what, "with a bbox when boxes are compared", "one without")
        };
        truths.iter().map(|object| object.box_xywh_px.ok_or_else(|| missing(object))).collect()
    }
}

impl PrecisionRecall {
    /// The twelve numbers that COCO prints: AP, AP50, AP75, AP small, medium, large, AR at the first, second and third
    /// limit, AR small, medium, large at the third. `None` is the reference's -1. All but the first three AR and the AP
    /// (at 100) use the third limit.
    #[must_use]
    pub fn coco_stats(&self) -> [Option<f64>; 12] {
        let limit = |at: usize| self.max_dets.get(at).copied().flatten();
        let select = |iou_percent, area, max_dets| Select { iou_percent, area, max_dets, categories: None };
        let at = |max_dets: Option<usize>, value: &dyn Fn(Option<usize>) -> Option<f64>| {
            max_dets.and_then(|max_dets| value(Some(max_dets)))
        };
        let ap = |iou, area, max_dets| at(max_dets, &|m| self.average_precision(&select(iou, area, m)));
        let ar = |area, max_dets| at(max_dets, &|m| self.average_recall(&select(None, area, m)));
        let third = limit(2);
        [
            ap(None, AreaRange::All, Some(100)),
            ap(Some(50), AreaRange::All, third),
            ap(Some(75), AreaRange::All, third),
            ap(None, AreaRange::Small, third),
            ap(None, AreaRange::Medium, third),
            ap(None, AreaRange::Large, third),
            ar(AreaRange::All, limit(0)),
            ar(AreaRange::All, limit(1)),
            ar(AreaRange::All, third),
            ar(AreaRange::Small, third),
            ar(AreaRange::Medium, third),
            ar(AreaRange::Large, third),
        ]
    }

    /// As metrics: `{prefix}_ap`, `_ap_50`, `_ap_75`, `_ap_small` and so on at the highest limit up to 100, `_ar_{limit}`
    /// at each limit, `_ar_small` and so on at the highest. Those without a truth that counts are left out.
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
