//! LVIS's AP and AR, equal to `lvis.LVISEval`.
//!
//! Source: lvis 0.5.3. Differences from COCO, as in the reference: each image keeps its 300 best detections over all
//! classes; a detection of a class that is neither annotated in the image nor listed in `neg_category_ids` is dropped, and
//! an unmatched one of a class in `not_exhaustive_category_ids` is ignored; annotations and detections of area 0 are
//! dropped; `ignore` is used and `iscrowd` is not; AP is also computed for rare, common and frequent classes.

use std::collections::{HashMap, HashSet};

use sam_data::CocoId;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::metrics::average_precision::{
    AreaRange, DetectionView, IouKind, Matcher, Mean, PrecisionRecall, Select, TargetView, by_descending_score,
};
use crate::metrics::coco_ap::Pairing;
use crate::metrics::coco_json::{
    Categories, CocoAnnotation, CocoCategory, CocoImage, Detection, Detections, GroundTruth, content,
};
use crate::metrics::metric::Metrics;

/// The official limit on detections per image.
pub(crate) const MAX_DETS: usize = 300;

/// Class frequency by number of training images: below 10, below 100, 100 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Frequency {
    /// `r`
    Rare,
    /// `c`
    Common,
    /// `f`
    Frequent,
}

/// The result of an LVIS evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct LvisResult {
    /// The arrays; their axis `M` has no limit.
    pub curves: PrecisionRecall,
    /// Frequency of each category, by id.
    pub frequencies: Vec<Frequency>,
    /// The limit on detections per image.
    pub max_dets: usize,
}

/// Evaluates detections.
///
/// # Errors
///
/// When the files do not match, LVIS-specific fields are missing, or a mask is invalid.
pub fn evaluate_lvis(
    ground_truth: &GroundTruth,
    detections: &Detections,
    iou_kind: IouKind,
    max_dets: usize,
) -> Result<LvisResult, EvalError> {
    detections.check_against(ground_truth, Categories::PerClass)?;
    let frequencies = frequencies(ground_truth)?;
    let lists = class_lists(ground_truth)?;
    let pairing = Pairing { ground_truth, detections, iou_kind, have_boxes: detections.have_boxes() };
    let is_kept = best_of_each_image(detections, max_dets);
    let mut matcher = Matcher::new(ground_truth.categories.len(), vec![None]);
    let has_area = |object: &CocoAnnotation| object.area_px2 > 0.0;
    for (image, (targets, found)) in pairing.by_image(has_area, |at| is_kept[at]).into_iter().enumerate() {
        let ClassLists { absent, not_exhaustive } = &lists[image];
        let mut parts: HashMap<usize, (Vec<&CocoAnnotation>, Vec<&Detection>)> = HashMap::new();
        for object in targets {
            parts.entry(ground_truth.category_index[&object.category_id]).or_default().0.push(object);
        }
        for detection in found {
            let Some(id) = &detection.category_id else { continue };
            let category = ground_truth.category_index[id];
            if absent.contains(id) || parts.get(&category).is_some_and(|part| !part.0.is_empty()) {
                parts.entry(category).or_default().1.push(detection);
            }
        }
        for (category, (targets, found)) in parts {
            let views = |object: &&CocoAnnotation| TargetView {
                area_px2: object.area_px2,
                is_ignored: object.ignore != 0,
                is_crowd: false,
            };
            let target_views: Vec<TargetView> = targets.iter().map(views).collect();
            let is_ignored = not_exhaustive.contains(&ground_truth.categories[category].id);
            let (mut detection_views, mut ious) =
                pairing.measure(image, &targets, &target_views, found, usize::MAX, |_| is_ignored)?;
            drop_without_area(&mut detection_views, &mut ious, targets.len());
            matcher.add(category, &target_views, &detection_views, &ious);
        }
    }
    Ok(LvisResult { curves: matcher.accumulate(), frequencies, max_dets })
}

/// The reference requires `area > 0` of annotations and of detections.
fn drop_without_area(detections: &mut Vec<DetectionView>, ious: &mut Vec<f64>, n_targets: usize) {
    let has_area: Vec<bool> = detections.iter().map(|detection| detection.area_px2 > 0.0).collect();
    let mut at = 0;
    ious.retain(|_| {
        at += 1;
        has_area[(at - 1) / n_targets]
    });
    detections.retain(|detection| detection.area_px2 > 0.0);
}

/// Whether each detection is among the best of its image; ties are decided by the order of the file.
fn best_of_each_image(detections: &Detections, max_dets: usize) -> Vec<bool> {
    let mut by_image: HashMap<&CocoId, Vec<usize>> = HashMap::new();
    for (at, detection) in detections.all.iter().enumerate() {
        by_image.entry(&detection.image_id).or_default().push(at);
    }
    let mut is_kept = vec![true; detections.all.len()];
    for mut found in by_image.into_values() {
        found.sort_by(|&a, &b| by_descending_score(detections.all[a].score, detections.all[b].score));
        for &at in found.iter().skip(max_dets) {
            is_kept[at] = false;
        }
    }
    is_kept
}

/// The frequency of each category.
pub(crate) fn frequencies(ground_truth: &GroundTruth) -> Result<Vec<Frequency>, EvalError> {
    let of = |category: &CocoCategory| match category.frequency.as_deref() {
        Some("r") => Ok(Frequency::Rare),
        Some("c") => Ok(Frequency::Common),
        Some("f") => Ok(Frequency::Frequent),
        other => {
            let what = format!("category {}: frequency", category.id);
            Err(content(&ground_truth.name, what, "r, c or f (an LVIS file)", other.unwrap_or("none")))
        }
    };
    ground_truth.categories.iter().map(of).collect()
}

/// The per-image class lists of LVIS.
struct ClassLists {
    /// Classes verified to be absent.
    absent: HashSet<CocoId>,
    /// Classes that are not exhaustively annotated.
    not_exhaustive: HashSet<CocoId>,
}

fn class_lists(ground_truth: &GroundTruth) -> Result<Vec<ClassLists>, EvalError> {
    let of = |image: &CocoImage| {
        let list = |ids: &Option<Vec<CocoId>>, key: &str| match ids {
            Some(ids) => Ok(ids.iter().cloned().collect()),
            None => {
                Err(content(&ground_truth.name, format!("image {}: {key}", image.id), "a list (an LVIS file)", "none"))
            }
        };
        Ok(ClassLists {
            absent: list(&image.neg_category_ids, "neg_category_ids")?,
            not_exhaustive: list(&image.not_exhaustive_category_ids, "not_exhaustive_category_ids")?,
        })
    };
    ground_truth.images.iter().map(of).collect()
}

/// One row of LVIS's table.
struct Row {
    name: &'static str,
    mean: Mean,
    iou_percent: Option<u32>,
    area: AreaRange,
    frequency: Option<Frequency>,
}

/// In the order of the package; the limit is appended to `ar`.
const ROWS: [Row; 13] = {
    const fn row(name: &'static str, mean: Mean) -> Row {
        Row { name, mean, iou_percent: None, area: AreaRange::All, frequency: None }
    }
    use Mean::{Precision, Recall};
    [
        row("ap", Precision),
        Row { iou_percent: Some(50), ..row("ap_50", Precision) },
        Row { iou_percent: Some(75), ..row("ap_75", Precision) },
        Row { area: AreaRange::Small, ..row("ap_small", Precision) },
        Row { area: AreaRange::Medium, ..row("ap_medium", Precision) },
        Row { area: AreaRange::Large, ..row("ap_large", Precision) },
        Row { frequency: Some(Frequency::Rare), ..row("ap_rare", Precision) },
        Row { frequency: Some(Frequency::Common), ..row("ap_common", Precision) },
        Row { frequency: Some(Frequency::Frequent), ..row("ap_frequent", Precision) },
        row("ar", Recall),
        Row { area: AreaRange::Small, ..row("ar_small", Recall) },
        Row { area: AreaRange::Medium, ..row("ar_medium", Recall) },
        Row { area: AreaRange::Large, ..row("ar_large", Recall) },
    ]
};

impl LvisResult {
    /// LVIS's summary numbers, in the package's order: AP, AP50, AP75, APs, APm, APl, APr, APc, APf, AR@300, ARs, ARm, ARl.
    /// `None` is the reference's -1.
    #[must_use]
    pub fn stats(&self) -> [Option<f64>; 13] {
        std::array::from_fn(|at| {
            let places = self.places(&ROWS[at]);
            let select = select(&ROWS[at], places.as_deref());
            match ROWS[at].mean {
                Mean::Precision => self.curves.average_precision(&select),
                Mean::Recall => self.curves.average_recall(&select),
            }
        })
    }

    /// The metrics `{prefix}_ap`, `_ap_50`, `_ap_rare`, `_ar_300`, `_ar_small` and so on. Metrics without targets are
    /// omitted.
    ///
    /// # Errors
    ///
    /// Never in practice; names are all different.
    pub fn metrics(&self, prefix: &str) -> Result<Metrics, EvalError> {
        let mut metrics = Metrics::default();
        for row in &ROWS {
            let places = self.places(row);
            let limit = if row.name == "ar" { format!("_{}", self.max_dets) } else { String::new() };
            let name = format!("{prefix}_{}{limit}", row.name);
            self.curves.insert(&mut metrics, &name, row.mean, &select(row, places.as_deref()))?;
        }
        Ok(metrics)
    }

    /// The categories of a row's frequency.
    fn places(&self, row: &Row) -> Option<Vec<usize>> {
        let frequency = row.frequency?;
        Some((0..self.frequencies.len()).filter(|&k| self.frequencies[k] == frequency).collect())
    }
}

fn select<'a>(row: &Row, categories: Option<&'a [usize]>) -> Select<'a> {
    Select { iou_percent: row.iou_percent, area: row.area, max_dets: None, categories }
}
