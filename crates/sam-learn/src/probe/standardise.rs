//! Standardises features to mean 0 and standard deviation 1 of the training rows: MAE's batch norm without parameters before
//! its linear layer (`main_linprobe.py`), over all rows at once. Cosine similarities need it as well: in raw features a few
//! large channels, which all images share, dominate.
//!
//! Different from the reference: no epsilon, which would favour features of large magnitude; a constant channel is zero.

use super::features::Features;

/// A channel whose standard deviation is below this fraction of its mean is constant but for rounding.
const ROUNDING: f64 = 1e-6;

/// Standardises both by the means and standard deviations of `train`.
///
/// # Panics
///
/// When the two have different numbers of features, or `train` has no row.
#[must_use]
pub fn standardised(train: &Features, other: &Features) -> [Features; 2] {
    assert_eq!(train.width, other.width, "features of one encoder have the same width");
    let (width, n_rows) = (train.width, train.n_rows());
    assert!(n_rows > 0, "there must be a training row");
    let mut mean = vec![0f64; width];
    for row in train.values.chunks_exact(width) {
        mean.iter_mut().zip(row).for_each(|(sum, &value)| *sum += f64::from(value));
    }
    mean.iter_mut().for_each(|sum| *sum /= n_rows as f64);
    let mut scale = vec![0f64; width];
    for row in train.values.chunks_exact(width) {
        for ((sum, &mean), &value) in scale.iter_mut().zip(&mean).zip(row) {
            *sum += (f64::from(value) - mean).powi(2);
        }
    }
    for (scale, mean) in scale.iter_mut().zip(&mean) {
        let deviation = (*scale / n_rows as f64).sqrt();
        *scale = if deviation > ROUNDING * mean.abs() { 1.0 / deviation } else { 0.0 };
    }
    [train, other].map(|features| {
        let at = |(place, &value): (usize, &f32)| {
            let channel = place % width;
            ((f64::from(value) - mean[channel]) * scale[channel]) as f32
        };
        Features { width, values: features.values.iter().enumerate().map(at).collect() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_have_mean_0_and_deviation_1_over_training_rows() {
        // Channels: 1 and 3; a constant; and 10 times the first.
        let train = Features { width: 3, values: vec![1.0, 7.3, 10.0, 3.0, 7.3, 30.0] };
        let other = Features { width: 3, values: vec![5.0, 7.4, 0.0] };
        let [train, other] = standardised(&train, &other);
        assert_eq!(train.values, [-1.0, 0.0, -1.0, 1.0, 0.0, 1.0]);
        assert_eq!(other.values, [3.0, 0.0, -2.0]);
    }
}
