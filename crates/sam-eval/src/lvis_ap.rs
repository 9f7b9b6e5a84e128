//! LVIS's AP and AR, equal to `lvis.LVISEval`.
//!
//! Source: lvis 0.5.3. What differs from COCO, as it is there: an image keeps its 300 best detections over all classes;
//! a detection of a class that is neither annotated in the image nor listed in `neg_category_ids` is dropped, and an
//! unmatched one of a class in `not_exhaustive_category_ids` does not count; truths and detections of area 0 are dropped;
//! `ignore` is honoured and `iscrowd` unknown; AP is also given for rare, common and frequent classes.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::average_precision::{
    AreaRange, DetectionView, IouKind, Matcher, Mean, PrecisionRecall, Select, TruthView, by_falling_score,
};
use crate::coco_ap::Pairing;
use crate::coco_json::{Detection, Detections, Truth, TruthCategory, TruthImage, TruthObject, content};
use crate::error::EvalError;
use crate::metric::Metrics;

/// The official limit on detections per image.
pub const MAX_DETS: usize = 300;

/// How many training images have a class: below 10, below 100, more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Frequency {
    /// r
    Rare,
    /// c
    Common,
    /// f
    Frequent,
}

/// What came of an evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct LvisResult {
    /// The arrays, with one limit that is none.
    pub curves: PrecisionRecall,
    /// Of each category, in the order of their ids.
    pub frequencies: Vec<Frequency>,
    /// The limit on detections per image.
    pub max_dets: usize,
}

/// Evaluates detections.
///
/// # Errors
///
/// When the files do not match, lack what only LVIS has, or a mask is none.
pub fn evaluate_lvis(
    truth: &Truth,
    detections: &Detections,
    iou_kind: IouKind,
    max_dets: usize,
) -> Result<LvisResult, EvalError> {
    detections.check(truth, true)?;
    let frequencies = frequencies(truth)?;
    let lists = class_lists(truth)?;
    let pairing = Pairing { truth, detections, iou_kind, have_boxes: detections.have_boxes() };
    let is_kept = best_of_each_image(detections, max_dets);
    let mut matcher = Matcher::new(truth.categories.len(), vec![None]);
    let has_area = |object: &TruthObject| object.area_px2 > 0.0;
    for (image, (truths, found)) in pairing.by_image(has_area, |at| is_kept[at]).into_iter().enumerate() {
        let ClassLists { absent, not_exhaustive } = &lists[image];
        let mut parts: HashMap<usize, (Vec<&TruthObject>, Vec<&Detection>)> = HashMap::new();
        for object in truths {
            parts.entry(truth.category_index[&object.category_id]).or_default().0.push(object);
        }
        for detection in found {
            let Some(id) = detection.category_id else { continue };
            let category = truth.category_index[&id];
            if absent.contains(&id) || parts.get(&category).is_some_and(|part| !part.0.is_empty()) {
                parts.entry(category).or_default().1.push(detection);
            }
        }
        for (category, (truths, found)) in parts {
            let views = |object: &&TruthObject| TruthView {
                area_px2: object.area_px2,
                is_ignored: object.ignore != 0,
                is_crowd: false,
            };
            let truth_views: Vec<TruthView> = truths.iter().map(views).collect();
            let is_ignored = not_exhaustive.contains(&truth.categories[category].id);
            let (mut detection_views, mut ious) =
                pairing.measure(image, &truths, &truth_views, found, usize::MAX, |_| is_ignored)?;
            drop_without_area(&mut detection_views, &mut ious, truths.len());
            matcher.add(category, &truth_views, &detection_views, &ious);
        }
    }
    Ok(LvisResult { curves: matcher.accumulate(), frequencies, max_dets })
}

/// The reference asks for annotations with `area > 0`, of truths and of detections.
fn drop_without_area(detections: &mut Vec<DetectionView>, ious: &mut Vec<f64>, n_truths: usize) {
    let has_area: Vec<bool> = detections.iter().map(|detection| detection.area_px2 > 0.0).collect();
    let mut at = 0;
    ious.retain(|_| {
        at += 1;
        has_area[(at - 1) / n_truths]
    });
    detections.retain(|detection| detection.area_px2 > 0.0);
}

/// For each detection whether it is among the best of its image; of equal scores the earlier ones.
fn best_of_each_image(detections: &Detections, max_dets: usize) -> Vec<bool> {
    let mut by_image: HashMap<u64, Vec<usize>> = HashMap::new();
    for (at, detection) in detections.all.iter().enumerate() {
        by_image.entry(detection.image_id).or_default().push(at);
    }
    let mut is_kept = vec![true; detections.all.len()];
    for mut found in by_image.into_values() {
        found.sort_by(|&a, &b| by_falling_score(detections.all[a].score, detections.all[b].score));
        for &at in found.iter().skip(max_dets) {
            is_kept[at] = false;
        }
    }
    is_kept
}

fn frequencies(truth: &Truth) -> Result<Vec<Frequency>, EvalError> {
    let of = |category: &TruthCategory| match category.frequency.as_deref() {
        Some("r") => Ok(Frequency::Rare),
        Some("c") => Ok(Frequency::Common),
        Some("f") => Ok(Frequency::Frequent),
        other => {
            let what = format!("category {}: frequency", category.id);
            Err(content(&truth.name, what, "r, c or f (an LVIS file)", other.unwrap_or("none")))
        }
    };
    truth.categories.iter().map(of).collect()
}

/// What LVIS knows of an image beyond its objects.
struct ClassLists {
    /// Classes that are certainly not there.
    absent: HashSet<u64>,
    /// Classes of which some objects may not be annotated.
    not_exhaustive: HashSet<u64>,
}

fn class_lists(truth: &Truth) -> Result<Vec<ClassLists>, EvalError> {
    let of = |image: &TruthImage| {
        let list = |ids: &Option<Vec<u64>>, key: &str| match ids {
            Some(ids) => Ok(ids.iter().copied().collect()),
            None => Err(content(&truth.name, format!("image {}: {key}", image.id), "a list (an LVIS file)", "none")),
        };
        Ok(ClassLists {
            absent: list(&image.neg_category_ids, "neg_category_ids")?,
            not_exhaustive: list(&image.not_exhaustive_category_ids, "not_exhaustive_category_ids")?,
        })
    };
    truth.images.iter().map(of).collect()
}

/// One number of LVIS's table.
struct Row {
    name: &'static str,
    mean: Mean,
    iou_percent: Option<u32>,
    area: AreaRange,
    frequency: Option<Frequency>,
}

/// In the order of the package; `ar` gets the limit appended.
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
    /// What LVIS prints, in the package's order: AP, AP50, AP75, APs, APm, APl, APr, APc, APf, AR@300, ARs, ARm, ARl.
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

    /// As metrics: `{prefix}_ap`, `_ap_50`, `_ap_rare`, `_ar_300`, `_ar_small` and so on. Those without a truth that
    /// counts are left out.
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
