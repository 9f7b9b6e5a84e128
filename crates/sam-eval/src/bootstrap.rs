//! How sure one can be of a number, and of the difference of two: the bootstrap over images.
//!
//! Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8 (clusters) and 13 (percentiles).
//! Objects of one image are not independent, so whole images are drawn, with replacement, within each data set; two models
//! are compared on the same draws ("paired"), which takes out what is hard or easy about the images themselves. The
//! statistic is the one that is reported: the mean over objects, then over data sets.

use sam_data::random::RandomStream;
use serde::{Deserialize, Serialize};

use crate::click_metrics::ClickMetrics;
use crate::error::EvalError;
use crate::object_record::ObjectRecord;

/// How the drawing is done.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bootstrap {
    /// How often all images are drawn anew.
    pub n_draws: usize,
    /// Share of the draws that lie within the interval.
    pub confidence: f64,
    /// Another seed, other draws.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { n_draws: 2000, confidence: 0.95, seed: 0 }
    }
}

/// A number with what it might have been on other images of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// On the images at hand.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Interval {
    /// Whether zero lies outside, by more than rounding: a difference is then beyond chance, at the chosen confidence.
    #[must_use]
    pub fn excludes_zero(&self) -> bool {
        const ROUNDING: f64 = 1e-9;
        self.low > ROUNDING || self.high < -ROUNDING
    }
}

/// A metric's values on two models, object by object; or on one, twice.
#[derive(Clone, Debug)]
pub struct Pairing {
    data_sets: Vec<Vec<ImageSums>>,
}

/// Sums over the objects of one image.
#[derive(Clone, Copy, Debug, Default)]
struct ImageSums {
    first: f64,
    second: f64,
    n_objects: f64,
}

impl Pairing {
    /// Brings two lists of records together, which must be sorted by name and of the same objects, as those of
    /// [`crate::Results`] are.
    ///
    /// # Errors
    ///
    /// When the records are not of the same objects, or there is none, or a record lacks the metric.
    pub fn new(
        metrics: &ClickMetrics,
        name: &str,
        first: &[ObjectRecord],
        second: &[ObjectRecord],
    ) -> Result<Self, EvalError> {
        let measure = metrics.measure(name).ok_or_else(|| EvalError::UnknownMetric {
            name: name.to_owned(),
            hint: crate::metric::nearest(name, metrics.measures().iter().map(|(name, _)| name.as_str())),
        })?;
        if first.len() != second.len() {
            let difference = format!("{} and {} objects", first.len(), second.len());
            return Err(EvalError::Unpaired { difference });
        }
        if first.is_empty() {
            return Err(EvalError::Nothing { metric: name.to_owned() });
        }
        let mut data_sets: Vec<Vec<ImageSums>> = Vec::new();
        let mut last: Option<&ObjectRecord> = None;
        for (a, b) in first.iter().zip(second) {
            if ObjectRecord::by_name(a, b).is_ne() {
                let difference = format!("{} on one side and {} on the other", a.place(), b.place());
                return Err(EvalError::Unpaired { difference });
            }
            if last.is_none_or(|last| last.data_set != a.data_set) {
                data_sets.push(Vec::new());
            }
            let is_new = last.is_none_or(|last| (&last.data_set, &last.image) != (&a.data_set, &a.image));
            let values = [metrics.value(name, measure, a)?, metrics.value(name, measure, b)?];
            if let Some(images) = data_sets.last_mut() {
                if is_new {
                    images.push(ImageSums::default());
                }
                if let Some(image) = images.last_mut() {
                    image.first += values[0];
                    image.second += values[1];
                    image.n_objects += 1.0;
                }
            }
            last = Some(a);
        }
        Ok(Self { data_sets })
    }

    /// The interval of the first model's number.
    ///
    /// # Errors
    ///
    /// When a setting makes no sense.
    pub fn interval(&self, config: &Bootstrap) -> Result<Interval, EvalError> {
        self.bootstrap(config, |image| image.first)
    }

    /// The interval of the second model's number less the first's.
    ///
    /// # Errors
    ///
    /// When a setting makes no sense.
    pub fn difference(&self, config: &Bootstrap) -> Result<Interval, EvalError> {
        self.bootstrap(config, |image| image.second - image.first)
    }

    fn bootstrap(&self, config: &Bootstrap, value: impl Fn(&ImageSums) -> f64) -> Result<Interval, EvalError> {
        let sizes: Vec<usize> = self.data_sets.iter().map(Vec::len).collect();
        bootstrap(&sizes, config, |drawn| {
            let mut sum_of_means = 0.0;
            for (images, drawn) in self.data_sets.iter().zip(drawn) {
                let (mut sum, mut n_objects) = (0.0, 0.0);
                for &at in drawn {
                    sum += value(&images[at]);
                    n_objects += images[at].n_objects;
                }
                sum_of_means += sum / n_objects;
            }
            sum_of_means / self.data_sets.len() as f64
        })
    }
}

/// The interval of any statistic of images: it is given the places of the images drawn, for each data set as many as there
/// are. For AP, evaluate the images drawn.
///
/// # Errors
///
/// When a setting makes no sense, or a data set has no image.
pub fn bootstrap(
    n_images: &[usize],
    config: &Bootstrap,
    mut statistic: impl FnMut(&[Vec<usize>]) -> f64,
) -> Result<Interval, EvalError> {
    let refuse = |key, expected: &str, got: String| Err(EvalError::Option { key, expected: expected.to_owned(), got });
    if config.n_draws == 0 {
        return refuse("n_draws", "at least 1", "0".to_owned());
    }
    if !(config.confidence > 0.0 && config.confidence < 1.0) {
        return refuse("confidence", "between 0 and 1", config.confidence.to_string());
    }
    if n_images.is_empty() || n_images.contains(&0) {
        return Err(EvalError::Nothing { metric: "a confidence interval".to_owned() });
    }
    let mut places: Vec<Vec<usize>> = n_images.iter().map(|&n| (0..n).collect()).collect();
    let value = statistic(&places);
    let mut draws = RandomStream::named(config.seed, &[b"bootstrap"]);
    let mut values = Vec::with_capacity(config.n_draws);
    for _ in 0..config.n_draws {
        for (places, &n) in places.iter_mut().zip(n_images) {
            places.iter_mut().for_each(|place| *place = draws.index(n));
        }
        values.push(statistic(&places));
    }
    values.sort_by(f64::total_cmp);
    let tail = (1.0 - config.confidence) / 2.0;
    Ok(Interval { value, low: quantile(&values, tail), high: quantile(&values, 1.0 - tail) })
}

/// As `np.quantile`: linear between neighbours.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let below = sorted[at.floor() as usize];
    below + (sorted[at.ceil() as usize] - below) * at.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_numpys() {
        // np.quantile([1, 2, 4, 8], [0, 0.25, 0.5, 0.9, 1])
        let sorted = [1.0, 2.0, 4.0, 8.0];
        let got = [0.0, 0.25, 0.5, 0.9, 1.0].map(|share| quantile(&sorted, share));
        for (got, expected) in got.into_iter().zip([1.0, 1.75, 3.0, 6.8, 8.0]) {
            assert!((got - expected).abs() < 1e-12, "{got} {expected}");
        }
    }

    #[test]
    fn the_mean_of_many_has_the_textbook_interval() {
        // 400 values 0 or 1 with mean 0.3: the deviation of the mean is sqrt(0.21 / 400) = 0.0229.
        let values: Vec<f64> = (0..400).map(|at| f64::from(u8::from(at % 10 < 3))).collect();
        let mean = |drawn: &[Vec<usize>]| drawn[0].iter().map(|&at| values[at]).sum::<f64>() / 400.0;
        let config = Bootstrap { n_draws: 4000, ..Bootstrap::default() };
        let interval = bootstrap(&[400], &config, mean).expect("fine");
        assert!((interval.value - 0.3).abs() < 1e-12);
        assert!((interval.low - (0.3 - 1.96 * 0.0229)).abs() < 0.004, "{interval:?}");
        assert!((interval.high - (0.3 + 1.96 * 0.0229)).abs() < 0.004, "{interval:?}");
        assert_eq!(bootstrap(&[400], &config, mean).expect("fine"), interval, "the same seed, the same draws");
        let few = |seed| bootstrap(&[400], &Bootstrap { seed, n_draws: 3, ..config }, mean).expect("fine");
        assert_ne!(few(0), few(1));
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |config: Bootstrap, n: &[usize]| bootstrap(n, &config, |_| 0.0).expect_err("nonsense").to_string();
        let fine = Bootstrap::default();
        assert!(check(Bootstrap { n_draws: 0, ..fine }, &[3]).contains("n_draws must be at least 1"));
        assert!(
            check(Bootstrap { confidence: 1.0, ..fine }, &[3]).contains("confidence must be between 0 and 1, got 1")
        );
        assert!(check(fine, &[3, 0]).contains("none"));
    }
}
