//! Confidence intervals of metrics and of differences between models, by the bootstrap over images.
//!
//! Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 (clusters) and 13 (percentiles).
//! Objects of one image are not independent, so whole images are resampled, with replacement, within each data set. Two
//! models are compared on the same resamples ("paired"), which removes the variation between images. The statistic is the
//! reported one: the mean over objects, then over data sets.

use sam_data::random::RandomStream;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// Settings of the bootstrap.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// Number of resamples.
    pub n_draws: usize,
    /// Confidence level of the interval.
    pub confidence: f64,
    /// Random seed.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { n_draws: 2000, confidence: 0.95, seed: 0 }
    }
}

/// With fewer images no difference is significant at the 5 % level: even if all of five improve, the sign test gives
/// p = 2 / 2^5 = 6 %. The bootstrap does not know that, as it can only repeat the images it has.
pub const FEWEST_IMAGES: usize = 6;

/// A value with its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Value on the evaluated images.
    pub value: f64,
    /// Lower bound.
    pub low: f64,
    /// Upper bound.
    pub high: f64,
    /// Images that were resampled, of the smallest data set.
    #[serde(default)]
    pub n_images: usize,
}

impl Interval {
    /// Whether a difference is more than chance: zero lies outside the interval, and there are enough images to say so.
    #[must_use]
    pub fn is_significant(&self) -> bool {
        self.excludes_zero() && !self.has_few_images()
    }

    /// Whether there are too few images to tell a difference from chance.
    #[must_use]
    pub fn has_few_images(&self) -> bool {
        self.n_images < FEWEST_IMAGES
    }

    /// Whether zero lies outside the interval, by more than rounding.
    #[must_use]
    pub fn excludes_zero(&self) -> bool {
        const ROUNDING: f64 = 1e-9;
        self.low > ROUNDING || self.high < -ROUNDING
    }
}

/// Sum of a metric over the objects of one image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ImageSum {
    pub(crate) sum: f64,
    pub(crate) n_objects: f64,
}

/// The mean over objects, then over data sets, with its confidence interval; each list holds the images of a data set.
///
/// # Errors
///
/// When a setting is invalid, or a data set has no image.
pub(crate) fn mean_interval(data_sets: &[Vec<ImageSum>], config: &Bootstrap) -> Result<Interval, EvalError> {
    if config.n_draws == 0 {
        return Err(EvalError::option("n_draws", "at least 1", 0));
    }
    if !(config.confidence > 0.0 && config.confidence < 1.0) {
        return Err(EvalError::option("confidence", "between 0 and 1", config.confidence));
    }
    if data_sets.is_empty() || data_sets.iter().any(Vec::is_empty) {
        return Err(EvalError::Nothing { metric: "a confidence interval".to_owned() });
    }
    let mut random = RandomStream::named(config.seed, &[b"bootstrap"]);
    let mut values: Vec<f64> =
        (0..config.n_draws).map(|_| mean(data_sets, |n_images, _| random.index(n_images))).collect();
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - config.confidence) / 2.0;
    let [low, high] = [tail, 1.0 - tail].map(|probability| quantile(&values, probability));
    let n_images = data_sets.iter().map(Vec::len).min().unwrap_or(0);
    Ok(Interval { value: mean(data_sets, |_, at| at), low, high, n_images })
}

/// The mean over as many images as there are, chosen by `(n_images, position)`.
fn mean(data_sets: &[Vec<ImageSum>], mut choose: impl FnMut(usize, usize) -> usize) -> f64 {
    let mut sum_of_means = 0.0;
    for images in data_sets {
        let (mut sum, mut n_objects) = (0.0, 0.0);
        for at in 0..images.len() {
            let image = images[choose(images.len(), at)];
            sum += image.sum;
            n_objects += image.n_objects;
        }
        sum_of_means += sum / n_objects;
    }
    sum_of_means / data_sets.len() as f64
}

/// `np.quantile`, with linear interpolation.
fn quantile(sorted: &[f64], probability: f64) -> f64 {
    let at = probability * (sorted.len() - 1) as f64;
    let below = sorted[at.floor() as usize];
    below + (sorted[at.ceil() as usize] - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_equal_numpy() {
        // np.quantile([1, 2, 4, 8], [0, 0.25, 0.5, 0.9, 1])
        let sorted = [1.0, 2.0, 4.0, 8.0];
        let got = [0.0, 0.25, 0.5, 0.9, 1.0].map(|probability| quantile(&sorted, probability));
        for (got, expected) in got.into_iter().zip([1.0, 1.75, 3.0, 6.8, 8.0]) {
            assert!((got - expected).abs() < 1e-12, "{got} {expected}");
        }
    }

    #[test]
    fn the_mean_of_many_has_the_textbook_interval() {
        // 400 values 0 or 1 with mean 0.3: the deviation of the mean is sqrt(0.21 / 400) = 0.0229.
        let images = (0..400).map(|at| ImageSum { sum: f64::from(u8::from(at % 10 < 3)), n_objects: 1.0 });
        let data_sets = [images.collect::<Vec<_>>()];
        let config = Bootstrap { n_draws: 4000, ..Bootstrap::default() };
        let interval = mean_interval(&data_sets, &config).expect("fine");
        assert!((interval.value - 0.3).abs() < 1e-12);
        assert!((interval.low - (0.3 - 1.96 * 0.0229)).abs() < 0.004, "{interval:?}");
        assert!((interval.high - (0.3 + 1.96 * 0.0229)).abs() < 0.004, "{interval:?}");
        assert_eq!(mean_interval(&data_sets, &config).expect("fine"), interval, "the same seed, the same resamples");
        let few = |seed| mean_interval(&data_sets, &Bootstrap { seed, n_draws: 3, ..config }).expect("fine");
        assert_ne!(few(0), few(1));
    }

    #[test]
    fn two_images_show_nothing_and_six_that_agree_do() {
        let better = |n_images: usize| {
            let images = vec![ImageSum { sum: 0.25, n_objects: 1.0 }; n_images];
            mean_interval(&[images], &Bootstrap::default()).expect("fine")
        };
        for n_images in [1, 2, FEWEST_IMAGES - 1] {
            let interval = better(n_images);
            assert!(interval.excludes_zero() && interval.has_few_images() && !interval.is_significant(), "{n_images}");
        }
        assert!(better(FEWEST_IMAGES).is_significant());
        // The smallest of several data sets counts.
        let image = ImageSum { sum: 0.25, n_objects: 1.0 };
        let several = mean_interval(&[vec![image; 100], vec![image; 2]], &Bootstrap::default()).expect("fine");
        assert!(!several.is_significant());
    }

    #[test]
    fn invalid_settings_are_rejected() {
        let image = ImageSum { sum: 0.5, n_objects: 1.0 };
        let check = |config: Bootstrap, n_images: &[usize]| {
            let data_sets: Vec<_> = n_images.iter().map(|&n| vec![image; n]).collect();
            mean_interval(&data_sets, &config).expect_err("invalid").to_string()
        };
        let fine = Bootstrap::default();
        assert!(check(Bootstrap { n_draws: 0, ..fine }, &[3]).contains("n_draws must be at least 1"));
        assert!(
            check(Bootstrap { confidence: 1.0, ..fine }, &[3]).contains("confidence must be between 0 and 1, got 1")
        );
        assert!(check(fine, &[3, 0]).contains("none"));
    }
}
