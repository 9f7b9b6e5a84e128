//! The nearest neighbours (Wu 2018, arXiv 1805.01978, section 3.4): the k rows of greatest cosine vote for their classes, each
//! with the weight `exp(cosine / temperature)`.
//!
//! Shapes: `Q` rows that are judged, `R` rows that are learned from, `C` width of the features.

use burn::tensor::{Device, Tensor, TensorData};
use sam_model::weights::host_values;

use crate::probe::features::Features;

/// As in the paper, and in everything since.
const TEMPERATURE: f64 = 0.07;

/// Cosines at once; more would only take memory.
const COSINES_AT_ONCE: usize = 1 << 22;

/// How it is voted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbours {
    /// How many vote.
    pub k: usize,
}

impl Neighbours {
    /// 20 as in the literature, but no more than a class has rows on average: of few rows the far ones would outvote the near.
    #[must_use]
    pub fn usual(n_rows: usize, n_classes: usize) -> Self {
        const OF_THE_LITERATURE: usize = 20;
        Self { k: OF_THE_LITERATURE.min(n_rows.div_ceil(n_classes.max(1))).max(1) }
    }
}

/// The class of each row of `judged`; of equal votes the first class wins, of equal cosines the first row.
///
/// # Panics
///
/// When there are fewer rows to learn from than neighbours, or not a class for each.
#[must_use]
pub fn classify_by_neighbours(
    Neighbours { k }: Neighbours,
    learned: &Features,
    classes: &[usize],
    judged: &Features,
    device: &Device,
) -> Vec<usize> {
    let (n_learned, n_judged, width) = (learned.n_rows(), judged.n_rows(), learned.width);
    assert!(k > 0 && k <= n_learned, "{k} neighbours of {n_learned} rows");
    assert_eq!(classes.len(), n_learned, "a class for each row");
    let n_classes = classes.iter().max().map_or(0, |last| last + 1);
    let rows = |features: &Features| {
        let data = TensorData::new(of_length_one(features), [features.n_rows(), width]);
        Tensor::<2>::from_data(data, device)
    };
    let (learned, judged) = (rows(learned).transpose(), rows(judged));
    let at_once = (COSINES_AT_ONCE / n_learned).max(1);
    let mut answers = Vec::with_capacity(n_judged);
    for first in (0..n_judged).step_by(at_once) {
        let part = judged.clone().narrow(0, first, at_once.min(n_judged - first)); // [Q, C]
        let cosines = host_values(&part.matmul(learned.clone())); // [Q, R]
        answers.extend(cosines.chunks_exact(n_learned).map(|cosines| vote(cosines, k, classes, n_classes)));
    }
    answers
}

fn of_length_one(features: &Features) -> Vec<f32> {
    let scaled = |row: &[f32]| -> Vec<f32> {
        let length = row.iter().map(|&value| f64::from(value).powi(2)).sum::<f64>().sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        row.iter().map(|&value| (f64::from(value) * scale) as f32).collect()
    };
    features.values.chunks_exact(features.width.max(1)).flat_map(scaled).collect()
}

fn vote(cosines: &[f32], k: usize, classes: &[usize], n_classes: usize) -> usize {
    let mut order: Vec<usize> = (0..cosines.len()).collect();
    let by_cosine = |a: &usize, b: &usize| cosines[*b].total_cmp(&cosines[*a]).then(a.cmp(b));
    order.select_nth_unstable_by(k - 1, by_cosine);
    order.truncate(k);
    // In order, so that sums are rounded the same whatever the selection did.
    order.sort_unstable_by(by_cosine);
    let nearest = f64::from(cosines[order[0]]);
    let mut votes = vec![0f64; n_classes];
    for at in order {
        votes[classes[at]] += ((f64::from(cosines[at]) - nearest) / TEMPERATURE).exp();
    }
    (1..n_classes).fold(0, |best, class| if votes[class] > votes[best] { class } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(values: &[[f32; 2]]) -> Features {
        Features { width: 2, values: values.concat() }
    }

    #[test]
    fn near_ones_outvote_more_far_ones() {
        // One row of class 1 in the same direction, two of class 0 at 60 degrees: cosines 1, 0.5, 0.5.
        let learned = features(&[[0.5, 0.75f32.sqrt()], [0.5, -0.75f32.sqrt()], [3.0, 0.0]]);
        let classify = |k, judged: [f32; 2]| {
            classify_by_neighbours(Neighbours { k }, &learned, &[0, 0, 1], &features(&[judged]), &Device::flex())
        };
        assert_eq!(classify(3, [2.0, 0.0]), [1], "exp((0.5 - 1) / 0.07) is a thousandth");
        assert_eq!(classify(1, [0.0, -1.0]), [0]);
        // Opposite to class 1: the others are nearer at -0.5, and there are two of them.
        assert_eq!(classify(3, [-1.0, 0.0]), [0]);
        // A row of zeros has a cosine of 0 with all: two votes against one.
        assert_eq!(classify(3, [0.0, 0.0]), [0]);
    }

    #[test]
    fn the_usual_number_suits_small_sets() {
        let k = |n_rows, n_classes| Neighbours::usual(n_rows, n_classes).k;
        assert_eq!([k(10_000, 10), k(159, 6), k(60, 6), k(5, 2), k(1, 3)], [20, 20, 10, 3, 1]);
    }
}
