//! Accuracy of a classifier with confidence intervals, and the comparison of two classifiers.
//!
//! Two numbers: accuracy, which common classes dominate, and balanced accuracy, the mean of the per-class accuracies.
//! Intervals come from the bootstrap over images ([`crate::metrics::bootstrap`]): objects of one image are not independent.

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::metrics::bootstrap::{Bootstrap, ImageSum, Interval, mean_interval};

/// The labelled objects of a classification task. Classes are indices from 0.
#[derive(Clone, Copy, Debug)]
pub struct LabelledObjects<'a> {
    /// The true class of each object.
    pub classes: &'a [usize],
    /// The image index of each object.
    pub images: &'a [usize],
    /// Number of classes.
    pub n_classes: usize,
}

/// The scores of one classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Fraction of correct predictions.
    pub accuracy: Interval,
    /// Mean of `by_class` over the classes that occur.
    pub balanced_accuracy: f64,
    /// Accuracy on the objects of each class; `None` for a class that does not occur.
    pub by_class: Vec<Option<f64>>,
}

impl LabelledObjects<'_> {
    /// Scores the predicted classes.
    ///
    /// # Errors
    ///
    /// When there is no object, or a bootstrap setting is invalid.
    ///
    /// # Panics
    ///
    /// When the number of predictions is not the number of objects.
    pub fn scores(&self, predictions: &[usize], config: &Bootstrap) -> Result<ClassScores, EvalError> {
        let correct = self.correct(predictions);
        let mut by_class = vec![(0usize, 0usize); self.n_classes];
        for (&class, &correct) in self.classes.iter().zip(&correct) {
            by_class[class].0 += usize::from(correct);
            by_class[class].1 += 1;
        }
        let accuracy = |&(correct, all): &(usize, usize)| (all > 0).then(|| correct as f64 / all as f64);
        let by_class: Vec<Option<f64>> = by_class.iter().map(accuracy).collect();
        let asked: Vec<f64> = by_class.iter().copied().flatten().collect();
        let gains: Vec<f64> = correct.iter().map(|&correct| f64::from(u8::from(correct))).collect();
        Ok(ClassScores {
            accuracy: self.mean(&gains, config)?,
            balanced_accuracy: asked.iter().sum::<f64>() / asked.len().max(1) as f64,
            by_class,
        })
    }

    /// The paired difference in accuracy between two classifiers.
    ///
    /// # Errors
    ///
    /// As [`LabelledObjects::scores`].
    ///
    /// # Panics
    ///
    /// As [`LabelledObjects::scores`].
    pub fn difference(
        &self,
        predictions: &[usize],
        others: &[usize],
        config: &Bootstrap,
    ) -> Result<Interval, EvalError> {
        let pairs = self.correct(predictions).into_iter().zip(self.correct(others));
        let gains: Vec<f64> = pairs.map(|(one, other)| f64::from(u8::from(one)) - f64::from(u8::from(other))).collect();
        self.mean(&gains, config)
    }

    fn correct(&self, predictions: &[usize]) -> Vec<bool> {
        assert_eq!(predictions.len(), self.classes.len(), "one prediction per object");
        predictions.iter().zip(self.classes).map(|(prediction, class)| prediction == class).collect()
    }

    /// The mean of a value per object, with whole images resampled.
    fn mean(&self, values: &[f64], config: &Bootstrap) -> Result<Interval, EvalError> {
        assert_eq!(self.images.len(), values.len(), "one image per object");
        let n_images = self.images.iter().max().map_or(0, |last| last + 1);
        let mut images = vec![ImageSum { sum: 0.0, n_objects: 0.0 }; n_images];
        for (&image, value) in self.images.iter().zip(values) {
            images[image].sum += value;
            images[image].n_objects += 1.0;
        }
        images.retain(|image| image.n_objects > 0.0);
        if images.is_empty() {
            return Err(EvalError::Nothing { metric: "accuracy".to_owned() });
        }
        mean_interval(&[images], config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTS: LabelledObjects<'_> =
        LabelledObjects { classes: &[0, 0, 0, 1, 1, 0], images: &[0, 0, 0, 3, 3, 1], n_classes: 3 };

    #[test]
    fn accuracy_is_over_objects_and_over_classes() {
        let scores = OBJECTS.scores(&[0, 0, 0, 1, 2, 1], &Bootstrap::default()).expect("fine");
        assert!((scores.accuracy.value - 4.0 / 6.0).abs() < 1e-12);
        assert_eq!(scores.by_class, [Some(0.75), Some(0.5), None]);
        assert!((scores.balanced_accuracy - 0.625).abs() < 1e-12);
        assert!(scores.accuracy.low < scores.accuracy.value && scores.accuracy.value < scores.accuracy.high);
        let none = LabelledObjects { classes: &[], images: &[], n_classes: 2 };
        assert!(none.scores(&[], &Bootstrap::default()).is_err());
    }

    #[test]
    fn differences_are_paired() {
        let one = [0, 0, 0, 1, 2, 1];
        let same = OBJECTS.difference(&one, &one, &Bootstrap::default()).expect("fine");
        assert_eq!([same.value, same.low, same.high], [0.0; 3]);
        // Each image gains one correct prediction, whichever images are resampled.
        let better = [0, 0, 0, 1, 1, 0];
        let worse = [1, 0, 0, 1, 2, 1];
        let gain = OBJECTS.difference(&better, &worse, &Bootstrap::default()).expect("fine");
        assert!((gain.value - 0.5).abs() < 1e-12 && gain.excludes_zero(), "{gain:?}");
    }

    #[test]
    fn objects_of_one_image_are_resampled_together() {
        // Ten images of ten equal predictions, half of them correct: as uncertain as ten predictions, not as a hundred.
        let classes = [0; 100];
        let images: Vec<usize> = (0..100).map(|at| at / 10).collect();
        let predictions: Vec<usize> = (0..100).map(|at| at / 10 % 2).collect();
        let objects = LabelledObjects { classes: &classes, images: &images, n_classes: 2 };
        let interval = objects.scores(&predictions, &Bootstrap::default()).expect("fine").accuracy;
        assert!((interval.high - interval.low - 0.6).abs() < 0.11, "{interval:?}");
    }
}
