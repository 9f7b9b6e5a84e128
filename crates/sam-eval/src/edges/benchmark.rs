//! ODS, OIS, AP and R50 from the counts of all images.
//!
//! - **ODS**: the best F-measure with one threshold for all images, over 100 linear steps between neighbouring thresholds at
//!   which recall and precision are interpolated (not F).
//! - **OIS**: each image at its own best threshold; the counts are summed.
//! - **AP**: the sum of the precisions at recalls 0, 0.01 to 1, interpolated, 0 outside of the reached recalls, times 0.01. These are
//!   101 values, so a perfect curve has 1.01, as in the benchmark.
//! - **R50**: the recall at which precision is 0.5; where precision never falls as low, the recall at the lowest precision.
//!   Where it never rises to 0.5, the benchmark gives NaN and this gives 0.

use crate::edges::counts::{EdgeCounts, N_THRESHOLDS, ThresholdCounts};
use crate::error::EvalError;
use crate::metrics::metric::{Metric, Metrics};

/// The scores of a data set.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EdgeScores {
    /// F-measure at the best threshold for all images.
    pub ods: f64,
    /// Recall there.
    pub ods_recall: f64,
    /// Precision there.
    pub ods_precision: f64,
    /// That threshold.
    pub ods_threshold: f64,
    /// F-measure with the best threshold of each image.
    pub ois: f64,
    /// Average precision.
    pub ap: f64,
    /// Recall at precision 0.5.
    pub r50: f64,
}

/// `edge_ods`, `edge_ois`, `edge_ap`, `edge_r50`, and `edge_ods_recall`, `edge_ods_precision`, `edge_ods_threshold`.
///
/// # Errors
///
/// When there is no image, or one has other thresholds.
pub fn edge_metrics(images: &[EdgeCounts]) -> Result<Metrics, EvalError> {
    let scores = EdgeScores::of(&images.iter().collect::<Vec<_>>())?;
    let mut metrics = Metrics::default();
    for (name, value) in scores.named() {
        metrics.insert(name, Metric::fraction(value, images.len()))?;
    }
    Ok(metrics)
}

impl EdgeScores {
    /// The names of all scores, as metrics.
    pub const NAMES: [&str; 7] =
        ["edge_ods", "edge_ods_recall", "edge_ods_precision", "edge_ods_threshold", "edge_ois", "edge_ap", "edge_r50"];

    /// The scores of these images.
    ///
    /// # Errors
    ///
    /// When there is no image, or one has other thresholds.
    pub fn of(images: &[&EdgeCounts]) -> Result<Self, EvalError> {
        if images.is_empty() {
            return Err(EvalError::Nothing { metric: "edge_ods".to_owned() });
        }
        if let Some(wrong) = images.iter().find(|image| image.0.len() != N_THRESHOLDS) {
            return Err(EvalError::option("thresholds", N_THRESHOLDS.to_string(), wrong.0.len()));
        }
        let mut totals = vec![ThresholdCounts::default(); N_THRESHOLDS];
        let mut of_best = ThresholdCounts::default();
        for EdgeCounts(counts) in images {
            totals.iter_mut().zip(counts).for_each(|(total, counts)| total.add(counts));
            let best = (0..N_THRESHOLDS).reduce(|best, at| if f(&counts[at]) > f(&counts[best]) { at } else { best });
            of_best.add(&counts[best.unwrap_or(0)]);
        }
        let curve: Vec<[f64; 2]> = totals.iter().map(recall_and_precision).collect();
        let (ods, [ods_recall, ods_precision], ods_threshold) = best_between(&curve);
        Ok(Self {
            ods,
            ods_recall,
            ods_precision,
            ods_threshold,
            ois: f(&of_best),
            ap: average_precision(&curve),
            r50: recall_at_half(&curve),
        })
    }

    /// The scores by the names of [`EdgeScores::NAMES`].
    #[must_use]
    pub fn named(&self) -> [(&'static str, f64); 7] {
        let Self { ods, ods_recall, ods_precision, ods_threshold, ois, ap, r50 } = *self;
        let values = [ods, ods_recall, ods_precision, ods_threshold, ois, ap, r50];
        std::array::from_fn(|at| (Self::NAMES[at], values[at]))
    }
}

/// A fraction that is 0 of nothing.
fn share(part: f64, whole: f64) -> f64 {
    part / whole.max(f64::EPSILON)
}

fn recall_and_precision(counts: &ThresholdCounts) -> [f64; 2] {
    [share(counts.n_found as f64, counts.n_boundary as f64), share(counts.n_right as f64, counts.n_edge as f64)]
}

fn f_measure([recall, precision]: [f64; 2]) -> f64 {
    share(2.0 * precision * recall, precision + recall)
}

fn f(counts: &ThresholdCounts) -> f64 {
    f_measure(recall_and_precision(counts))
}

/// The best F-measure between neighbouring thresholds, its recall and precision, and its threshold.
fn best_between(curve: &[[f64; 2]]) -> (f64, [f64; 2], f64) {
    const STEPS: usize = 100;
    let mut best = (f_measure(curve[0]), curve[0], 0.01);
    for (at, pair) in curve.windows(2).enumerate() {
        for step in 0..STEPS {
            let share = step as f64 / (STEPS - 1) as f64;
            let mix = |axis: usize| share * pair[1][axis] + (1.0 - share) * pair[0][axis];
            let place = [mix(0), mix(1)];
            let measure = f_measure(place);
            if measure > best.0 {
                best = (measure, place, (at as f64 + 1.0 + share) / 100.0);
            }
        }
    }
    best
}

fn average_precision(curve: &[[f64; 2]]) -> f64 {
    let points = sorted_by(curve, 0);
    (0..=100).filter_map(|percent| interpolated(&points, f64::from(percent) / 100.0)).sum::<f64>() * 0.01
}

fn recall_at_half(curve: &[[f64; 2]]) -> f64 {
    let points = sorted_by(curve, 1);
    interpolated(&points, points[0].0.max(0.5)).unwrap_or(0.0)
}

/// The points as `(axis, other axis)`, ascending; of equal ones the first threshold counts.
fn sorted_by(curve: &[[f64; 2]], axis: usize) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = curve.iter().map(|point| (point[axis], point[1 - axis])).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    points.dedup_by(|later, first| later.0 == first.0);
    points
}

/// Linear interpolation; `None` outside.
fn interpolated(points: &[(f64, f64)], at: f64) -> Option<f64> {
    let above = points.partition_point(|point| point.0 < at);
    let high = points.get(above)?;
    if high.0 == at {
        return Some(high.1);
    }
    let low = points.get(above.checked_sub(1)?)?;
    Some(low.1 + (high.1 - low.1) * (at - low.0) / (high.0 - low.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_perfect_map_and_an_empty_one() {
        let image = |n_found, n_right, n_edge| {
            EdgeCounts(vec![ThresholdCounts { n_found, n_boundary: 80, n_right, n_edge }; N_THRESHOLDS])
        };
        let scores = EdgeScores::of(&[&image(80, 40, 40)]).expect("scored");
        assert_eq!((scores.ods, scores.ois, scores.ods_threshold, scores.r50), (1.0, 1.0, 0.01, 1.0));
        // One recall only: precision is known at recall 1 alone.
        assert_eq!(scores.ap, 0.01);
        let nothing = EdgeScores::of(&[&image(0, 0, 0)]).expect("scored");
        assert_eq!((nothing.ods, nothing.ois, nothing.ap, nothing.r50), (0.0, 0.0, 0.0, 0.0));
        assert!(EdgeScores::of(&[]).is_err());
        assert!(EdgeScores::of(&[&EdgeCounts(Vec::new())]).is_err());
        let metrics = edge_metrics(&[image(80, 40, 40)]).expect("scored");
        assert!(EdgeScores::NAMES.iter().all(|name| metrics.contains(name)));
    }

    #[test]
    fn the_best_of_all_images_lies_between_thresholds() {
        // Recall falls from 1 to 0 and precision rises from 0 to 1 between the first two thresholds.
        let mut counts = vec![ThresholdCounts { n_found: 0, n_boundary: 100, n_right: 1, n_edge: 1 }; N_THRESHOLDS];
        counts[0] = ThresholdCounts { n_found: 100, n_boundary: 100, n_right: 0, n_edge: 100 };
        let scores = EdgeScores::of(&[&EdgeCounts(counts)]).expect("scored");
        // The steps nearest to the middle are 49 / 99 and 50 / 99.
        let expected = 2.0 * (49.0 / 99.0) * (50.0 / 99.0);
        assert!((scores.ods - expected).abs() < 1e-12, "{}", scores.ods);
        assert!((scores.r50 - 0.5).abs() < 1e-12);
        assert_eq!(scores.ois, 0.0);
    }
}
