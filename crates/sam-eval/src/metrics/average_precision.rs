//! The common part of COCO's and LVIS's evaluation: matching the detections of an image to its ground truth, and accumulating
//! the matches into precision over recall.
//!
//! Source: `evaluateImg` and `accumulate` of pycocotools 2.0.11, statement by statement, so the arrays are equal to the last
//! bit; lvis 0.5.3 has the same code with other rules around it. Array layout as in the reference: `[T, R, K, A, M]`.
//!
//! `T` IoU thresholds, `R` recall thresholds, `K` categories, `A` area ranges, `M` limits on detections per image.
//!
//! Differs: a match is recorded by index and not by the annotation's id, so that an annotation with id 0 is matched like any
//! other (the reference counts every detection of it as a false positive). A match at each IoU threshold is one bit.

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::metrics::metric::{Metric, Metrics};
use crate::metrics::numpy_mean::numpy_mean;
use crate::protocol::object_record::{LARGE_FROM_PX2, MEDIUM_FROM_PX2};

/// Number of IoU thresholds, 0.50 to 0.95.
pub const N_IOU: usize = 10;
/// Number of recall thresholds, 0.00 to 1.00.
pub const N_RECALL: usize = 101;

/// The kind of IoU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IouKind {
    /// Mask IoU.
    Masks,
    /// Box IoU.
    Boxes,
}

/// The areas of the targets that are evaluated; both limits belong to a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AreaRange {
    /// Up to 1e10 square pixels.
    All,
    /// Up to 32 x 32.
    Small,
    /// 32 x 32 to 96 x 96.
    Medium,
    /// From 96 x 96.
    Large,
}

impl AreaRange {
    /// In the order of the axis `A`.
    pub const ALL: [Self; 4] = [Self::All, Self::Small, Self::Medium, Self::Large];
    const MAX_PX2: f64 = 1e10;

    fn excludes(self, area_px2: f64) -> bool {
        let (low, high) = match self {
            Self::All => (0.0, Self::MAX_PX2),
            Self::Small => (0.0, MEDIUM_FROM_PX2),
            Self::Medium => (MEDIUM_FROM_PX2, LARGE_FROM_PX2),
            Self::Large => (LARGE_FROM_PX2, Self::MAX_PX2),
        };
        area_px2 < low || area_px2 > high
    }
}

/// A ground-truth object of one image and category.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TargetView {
    pub(crate) area_px2: f64,
    /// Neither a true positive nor a false negative.
    pub(crate) is_ignored: bool,
    /// May be matched more than once.
    pub(crate) is_crowd: bool,
}

/// A detection of one image and category.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DetectionView {
    pub(crate) score: f64,
    pub(crate) area_px2: f64,
    /// LVIS: ignored unless it is matched.
    pub(crate) is_ignored_unmatched: bool,
}

/// The match of one detection: bit `t` for IoU threshold `t`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Match {
    score: f64,
    pub(crate) is_matched: u16,
    pub(crate) is_ignored: u16,
}

/// The matches of one image, category and area range.
#[derive(Clone, Debug, Default)]
pub(crate) struct ImageMatches {
    /// By descending score.
    pub(crate) detections: Vec<Match>,
    pub(crate) n_targets: usize,
}

/// Collects matches image by image, then accumulates them.
#[derive(Debug)]
pub(crate) struct Matcher {
    iou_thresholds: Vec<f64>,
    n_categories: usize,
    /// `None` means no limit.
    max_dets: Vec<Option<usize>>,
    /// `[K, A]`, each in the order of the images.
    images: Vec<Vec<ImageMatches>>,
}

impl Matcher {
    pub(crate) fn new(n_categories: usize, max_dets: Vec<Option<usize>>) -> Self {
        let images = vec![Vec::new(); n_categories * AreaRange::ALL.len()];
        Self { iou_thresholds: iou_thresholds(), n_categories, max_dets, images }
    }

    /// The largest number of detections per image.
    pub(crate) fn limit(&self) -> usize {
        self.max_dets.iter().map(|limit| limit.unwrap_or(usize::MAX)).max().unwrap_or(0)
    }

    /// Adds one image and category. Detections are within the limit, by descending score; `ious` is `[D, G]`.
    pub(crate) fn add(&mut self, category: usize, targets: &[TargetView], detections: &[DetectionView], ious: &[f64]) {
        if targets.is_empty() && detections.is_empty() {
            return;
        }
        for (a, area) in AreaRange::ALL.into_iter().enumerate() {
            let matches = match_image(&self.iou_thresholds, area, targets, detections, ious);
            self.images[category * AreaRange::ALL.len() + a].push(matches);
        }
    }

    pub(crate) fn accumulate(self) -> PrecisionRecall {
        let [t, k, a, m] = [N_IOU, self.n_categories, AreaRange::ALL.len(), self.max_dets.len()];
        let recall_thresholds = linspace(0.0, 1.0, N_RECALL);
        let mut result = PrecisionRecall {
            precision: vec![-1.0; t * N_RECALL * k * a * m],
            scores: vec![-1.0; t * N_RECALL * k * a * m],
            recall: vec![-1.0; t * k * a * m],
            n_targets: vec![0; k * a],
            iou_thresholds: self.iou_thresholds,
            recall_thresholds,
            n_categories: k,
            max_dets: self.max_dets,
        };
        for (ka, images) in self.images.iter().enumerate() {
            let n_targets: usize = images.iter().map(|image| image.n_targets).sum();
            result.n_targets[ka] = n_targets;
            if n_targets == 0 {
                continue;
            }
            for (m, limit) in result.max_dets.clone().into_iter().enumerate() {
                let limit = limit.unwrap_or(usize::MAX);
                let within = |image: &ImageMatches| image.detections[..image.detections.len().min(limit)].to_vec();
                let mut detections: Vec<Match> = images.iter().flat_map(within).collect();
                detections.sort_by(|a, b| by_descending_score(a.score, b.score));
                result.fill([ka / a, ka % a, m], n_targets, &detections);
            }
        }
        result
    }
}

/// 0.50 to 0.95.
pub(crate) fn iou_thresholds() -> Vec<f64> {
    linspace(0.5, 0.95, N_IOU)
}

/// As `np.argsort(-scores, kind = "mergesort")`, under a stable sort. Scores are finite.
pub(crate) fn by_descending_score(a: f64, b: f64) -> std::cmp::Ordering {
    b.partial_cmp(&a).unwrap_or(std::cmp::Ordering::Equal)
}

/// The matches of one image; detections come by descending score.
pub(crate) fn match_image(
    iou_thresholds: &[f64],
    area: AreaRange,
    targets: &[TargetView],
    detections: &[DetectionView],
    ious: &[f64],
) -> ImageMatches {
    // Ignored targets come last.
    let is_ignored = |target: &TargetView| target.is_ignored || area.excludes(target.area_px2);
    let (counted, ignored): (Vec<usize>, Vec<usize>) = (0..targets.len()).partition(|&g| !is_ignored(&targets[g]));
    let n_counted = counted.len();
    let order: Vec<usize> = counted.into_iter().chain(ignored).collect();
    let mut matches: Vec<Match> =
        detections.iter().map(|d| Match { score: d.score, is_matched: 0, is_ignored: 0 }).collect();
    let mut is_taken = vec![false; targets.len()];
    for (t, &threshold) in iou_thresholds.iter().enumerate() {
        is_taken.fill(false);
        for (d, detection) in detections.iter().enumerate() {
            let mut best_iou = threshold;
            let mut best: Option<usize> = None;
            for (place, &g) in order.iter().enumerate() {
                if is_taken[g] && !targets[g].is_crowd {
                    continue;
                }
                // A match with a counted target is never replaced by an ignored one.
                if place >= n_counted && best.is_some_and(|best| best < n_counted) {
                    break;
                }
                let iou = ious[d * targets.len() + g];
                if iou < best_iou {
                    continue;
                }
                best_iou = iou;
                best = Some(place);
            }
            let is_ignored = match best {
                Some(place) => {
                    matches[d].is_matched |= 1 << t;
                    is_taken[order[place]] = true;
                    place >= n_counted
                }
                None => detection.is_ignored_unmatched || area.excludes(detection.area_px2),
            };
            matches[d].is_ignored |= u16::from(is_ignored) << t;
        }
    }
    ImageMatches { detections: matches, n_targets: n_counted }
}

/// Precision over recall, as the reference's `eval` dictionary; -1 where there is no target.
#[derive(Clone, Debug, PartialEq)]
pub struct PrecisionRecall {
    /// `[T, R, K, A, M]`: the highest precision at this recall or above.
    pub precision: Vec<f64>,
    /// `[T, R, K, A, M]`: the score at which that recall is reached.
    pub scores: Vec<f64>,
    /// `[T, K, A, M]`: the highest recall.
    pub recall: Vec<f64>,
    /// `[K, A]`: number of targets.
    pub n_targets: Vec<usize>,
    /// `T`
    pub iou_thresholds: Vec<f64>,
    /// `R`
    pub recall_thresholds: Vec<f64>,
    /// `K`
    pub n_categories: usize,
    /// `M`; `None` means no limit.
    pub max_dets: Vec<Option<usize>>,
}

impl PrecisionRecall {
    /// Fills one curve per IoU threshold. `place` is `[k, a, m]`; detections come by descending score.
    fn fill(&mut self, place: [usize; 3], n_targets: usize, detections: &[Match]) {
        let mut recalls = Vec::with_capacity(detections.len());
        let mut precisions = Vec::with_capacity(detections.len());
        for t in 0..N_IOU {
            recalls.clear();
            precisions.clear();
            let (mut true_positives, mut false_positives) = (0u64, 0u64);
            for detection in detections {
                if detection.is_ignored >> t & 1 == 0 {
                    let is_match = u64::from(detection.is_matched >> t & 1);
                    true_positives += is_match;
                    false_positives += 1 - is_match;
                }
                recalls.push(true_positives as f64 / n_targets as f64);
                // `np.spacing(1)` avoids 0 / 0.
                let n_positives = false_positives as f64 + true_positives as f64;
                precisions.push(true_positives as f64 / (n_positives + f64::EPSILON));
            }
            for at in (1..precisions.len()).rev() {
                if precisions[at] > precisions[at - 1] {
                    precisions[at - 1] = precisions[at];
                }
            }
            let recall_at = self.recall_at(t, place);
            self.recall[recall_at] = recalls.last().copied().unwrap_or(0.0);
            for r in 0..N_RECALL {
                let reached = recalls.partition_point(|&recall| recall < self.recall_thresholds[r]);
                let at = self.precision_at(t, r, place);
                self.precision[at] = precisions.get(reached).copied().unwrap_or(0.0);
                self.scores[at] = detections.get(reached).map_or(0.0, |detection| detection.score);
            }
        }
    }

    fn recall_at(&self, t: usize, [k, a, m]: [usize; 3]) -> usize {
        ((t * self.n_categories + k) * AreaRange::ALL.len() + a) * self.max_dets.len() + m
    }

    fn precision_at(&self, t: usize, r: usize, place: [usize; 3]) -> usize {
        self.recall_at(t * N_RECALL + r, place)
    }

    /// Mean precision over all recall thresholds, over one or all IoU thresholds, and over some or all categories. `None`
    /// (-1 in the reference) without targets, or when there is no such limit or threshold.
    #[must_use]
    pub fn average_precision(&self, select: &Select<'_>) -> Option<f64> {
        let (thresholds, m) = (self.thresholds(select.iou_percent)?, self.limit_index(select.max_dets)?);
        let rows = thresholds.flat_map(|t| (0..N_RECALL).map(move |r| (t, r)));
        let at = |(t, r), k| self.precision[self.precision_at(t, r, [k, select.area as usize, m])];
        self.mean(rows, select.categories, at)
    }

    /// Mean recall, as [`PrecisionRecall::average_precision`].
    #[must_use]
    pub fn average_recall(&self, select: &Select<'_>) -> Option<f64> {
        let (thresholds, m) = (self.thresholds(select.iou_percent)?, self.limit_index(select.max_dets)?);
        let at = |t, k| self.recall[self.recall_at(t, [k, select.area as usize, m])];
        self.mean(thresholds, select.categories, at)
    }

    /// Number of targets in this area range, in some or all categories.
    #[must_use]
    pub fn n_targets(&self, area: AreaRange, categories: Option<&[usize]>) -> usize {
        let count = |k: usize| self.n_targets[k * AreaRange::ALL.len() + area as usize];
        match categories {
            Some(categories) => categories.iter().map(|&k| count(k)).sum(),
            None => (0..self.n_categories).map(count).sum(),
        }
    }

    fn mean<R: Copy>(
        &self,
        rows: impl Iterator<Item = R>,
        categories: Option<&[usize]>,
        at: impl Fn(R, usize) -> f64,
    ) -> Option<f64> {
        let mut values = Vec::new();
        for row in rows {
            match categories {
                Some(categories) => values.extend(categories.iter().map(|&k| at(row, k))),
                None => values.extend((0..self.n_categories).map(|k| at(row, k))),
            }
        }
        values.retain(|&value| value > -1.0);
        numpy_mean(&values)
    }

    fn thresholds(&self, iou_percent: Option<u32>) -> Option<std::ops::Range<usize>> {
        let Some(percent) = iou_percent else { return Some(0..N_IOU) };
        let t = self.iou_thresholds.iter().position(|&t| (t * 100.0).round() as u32 == percent)?;
        Some(t..t + 1)
    }

    fn limit_index(&self, max_dets: Option<usize>) -> Option<usize> {
        self.max_dets.iter().position(|&limit| limit == max_dets)
    }

    /// Adds the selected mean as a metric, unless there is no target.
    pub(crate) fn insert(
        &self,
        metrics: &mut Metrics,
        name: &str,
        kind: Mean,
        select: &Select<'_>,
    ) -> Result<(), EvalError> {
        let value = match kind {
            Mean::Precision => self.average_precision(select),
            Mean::Recall => self.average_recall(select),
        };
        match value {
            Some(value) => {
                metrics.insert(name, Metric::fraction(value, self.n_targets(select.area, select.categories)))
            }
            None => Ok(()),
        }
    }
}

/// The averaged quantity.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mean {
    Precision,
    Recall,
}

/// A selection of the arrays.
#[derive(Clone, Copy, Debug)]
pub struct Select<'a> {
    /// One IoU threshold, such as 50; `None` for the mean over all.
    pub iou_percent: Option<u32>,
    /// Area range of the targets.
    pub area: AreaRange,
    /// Limit on detections per image, one of the evaluated ones.
    pub max_dets: Option<usize>,
    /// Indices of some categories; `None` for all.
    pub categories: Option<&'a [usize]>,
}

/// `np.linspace(start, stop, n)`, to the last bit.
fn linspace(start: f64, stop: f64, n: usize) -> Vec<f64> {
    let step = (stop - start) / (n - 1) as f64;
    let mut values: Vec<f64> = (0..n).map(|i| i as f64 * step + start).collect();
    values[n - 1] = stop;
    values
}
