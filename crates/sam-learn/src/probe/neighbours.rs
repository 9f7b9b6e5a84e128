//! Nearest-neighbour classification (Wu 2018, arXiv 1805.01978, section 3.4): the k training rows with the largest cosine
//! similarity vote for their classes, each with the weight `exp(cosine / temperature)`.
//!
//! Shapes: `Q` test rows, `R` training rows, `C` number of features.

use burn::tensor::{Device, Tensor, TensorData};
use sam_model::weights::host_values;

use super::features::{Features, LabelledFeatures};

/// As in the paper.
const TEMPERATURE: f64 = 0.07;

/// Similarities computed at once, a bound on memory.
const COSINES_AT_ONCE: usize = 1 << 22;

/// Options of the vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbours {
    /// Number of neighbours.
    pub k: usize,
}

impl Neighbours {
    /// 20 as in the literature, but at most the mean number of rows of a class: with few rows, far neighbours would outvote
    /// near ones.
    #[must_use]
    pub fn usual(n_rows: usize, n_classes: usize) -> Self {
        const OF_THE_LITERATURE: usize = 20;
        Self { k: OF_THE_LITERATURE.min(n_rows.div_ceil(n_classes.max(1))).max(1) }
    }
}

/// The class of each test row; of equal votes the first class wins, of equal similarities the first row.
///
/// # Panics
///
/// When there are fewer training rows than neighbours, or not a class for each.
#[must_use]
pub fn classify_by_neighbours(
    Neighbours { k }: Neighbours,
    train: LabelledFeatures<'_>,
    test: &Features,
    device: &Device,
) -> Vec<usize> {
    let n_classes = train.n_classes();
    let (n_train, n_test, width) = (train.features.n_rows(), test.n_rows(), test.width);
    assert!(k > 0 && k <= n_train, "{k} neighbours of {n_train} rows");
    let rows = |features: &Features| {
        let data = TensorData::new(unit_length(features), [features.n_rows(), width]);
        Tensor::<2>::from_data(data, device)
    };
    let (train_columns, test_rows) = (rows(train.features).transpose(), rows(test));
    let at_once = (COSINES_AT_ONCE / n_train).max(1);
    let mut predicted = Vec::with_capacity(n_test);
    for first in (0..n_test).step_by(at_once) {
        let queries = test_rows.clone().narrow(0, first, at_once.min(n_test - first)); // [Q, C]
        let cosines = host_values(&queries.matmul(train_columns.clone())); // [Q, R]
        predicted.extend(cosines.chunks_exact(n_train).map(|cosines| vote(cosines, k, train.classes, n_classes)));
    }
    predicted
}

fn unit_length(features: &Features) -> Vec<f32> {
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
    // In order, so that the rounding of sums does not depend on the selection algorithm.
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
    fn near_neighbours_outvote_more_far_ones() {
        // One row of class 1 in the same direction, two of class 0 at 60 degrees: cosines 1, 0.5, 0.5.
        let rows = features(&[[0.5, 0.75f32.sqrt()], [0.5, -0.75f32.sqrt()], [3.0, 0.0]]);
        let train = LabelledFeatures { features: &rows, classes: &[0, 0, 1], images: &[0, 1, 2] };
        let classify =
            |k, test: [f32; 2]| classify_by_neighbours(Neighbours { k }, train, &features(&[test]), &Device::flex());
        assert_eq!(classify(3, [2.0, 0.0]), [1], "exp((0.5 - 1) / 0.07) is a thousandth");
        assert_eq!(classify(1, [0.0, -1.0]), [0]);
        // Opposite to class 1: the others are nearer at -0.5, and there are two of them.
        assert_eq!(classify(3, [-1.0, 0.0]), [0]);
        // A row of zeros has a cosine of 0 with all: two votes against one.
        assert_eq!(classify(3, [0.0, 0.0]), [0]);
    }

    #[test]
    fn the_usual_number_is_smaller_for_small_sets() {
        let k = |n_rows, n_classes| Neighbours::usual(n_rows, n_classes).k;
        assert_eq!([k(10_000, 10), k(159, 6), k(60, 6), k(5, 2), k(1, 3)], [20, 20, 10, 3, 1]);
    }
}
