//! How often a classifier is right, how sure one can be of that, and whether it is better than another.
//!
//! Two numbers: the share of right answers, which common classes decide, and the mean over classes of their own shares
//! ("balanced"), in which each class counts the same. Intervals are those of the bootstrap over images ([`crate::bootstrap`]):
//! objects of one image are not independent.

use serde::{Deserialize, Serialize};

use crate::bootstrap::{Bootstrap, Interval, bootstrap};
use crate::error::EvalError;

/// What was to be answered; the answers come beside it. Classes are numbers from 0 on.
#[derive(Clone, Copy, Debug)]
pub struct Questions<'a> {
    /// The right answers.
    pub classes: &'a [usize],
    /// The image of each, as a number from 0 on.
    pub images: &'a [usize],
    /// How many classes there are.
    pub n_classes: usize,
}

/// Of one classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    /// Share of right answers.
    pub accuracy: Interval,
    /// Mean over the classes that were asked for of the shares in `by_class`.
    pub balanced_accuracy: f64,
    /// Share of right answers where this class was right; `None` where it was not asked for.
    pub by_class: Vec<Option<f64>>,
}

impl Questions<'_> {
    /// How often the answers are right.
    ///
    /// # Errors
    ///
    /// When there is no question, or a setting of the bootstrap makes no sense.
    ///
    /// # Panics
    ///
    /// When there is not an answer for each question.
    pub fn scores(&self, answers: &[usize], config: &Bootstrap) -> Result<ClassScores, EvalError> {
        let right = self.right(answers);
        let mut by_class = vec![(0usize, 0usize); self.n_classes];
        for (&class, &right) in self.classes.iter().zip(&right) {
            by_class[class].0 += usize::from(right);
            by_class[class].1 += 1;
        }
        let share = |&(right, all): &(usize, usize)| (all > 0).then(|| right as f64 / all as f64);
        let by_class: Vec<Option<f64>> = by_class.iter().map(share).collect();
        let asked: Vec<f64> = by_class.iter().copied().flatten().collect();
        let gains: Vec<f64> = right.iter().map(|&right| f64::from(u8::from(right))).collect();
        Ok(ClassScores {
            accuracy: self.mean(&gains, config)?,
            balanced_accuracy: asked.iter().sum::<f64>() / asked.len().max(1) as f64,
            by_class,
        })
    }

    /// By how much the accuracy of some answers is above that of others to the same questions, drawn in pairs.
    ///
    /// # Errors
    ///
    /// As [`Questions::scores`].
    ///
    /// # Panics
    ///
    /// As [`Questions::scores`].
    pub fn difference(&self, answers: &[usize], others: &[usize], config: &Bootstrap) -> Result<Interval, EvalError> {
        let pairs = self.right(answers).into_iter().zip(self.right(others));
        let gains: Vec<f64> = pairs.map(|(one, other)| f64::from(u8::from(one)) - f64::from(u8::from(other))).collect();
        self.mean(&gains, config)
    }

    fn right(&self, answers: &[usize]) -> Vec<bool> {
        assert_eq!(answers.len(), self.classes.len(), "an answer for each question");
        answers.iter().zip(self.classes).map(|(answer, class)| answer == class).collect()
    }

    /// Of a value per question, with whole images drawn.
    fn mean(&self, values: &[f64], config: &Bootstrap) -> Result<Interval, EvalError> {
        assert_eq!(self.images.len(), values.len(), "an image for each question");
        let n_images = self.images.iter().max().map_or(0, |last| last + 1);
        let mut of_images = vec![(0.0, 0.0); n_images];
        for (&image, value) in self.images.iter().zip(values) {
            of_images[image].0 += value;
            of_images[image].1 += 1.0;
        }
        of_images.retain(|&(_, n)| n > 0.0);
        if of_images.is_empty() {
            return Err(EvalError::Nothing { metric: "accuracy".to_owned() });
        }
        bootstrap(&[of_images.len()], config, |drawn| {
            let (mut sum, mut n) = (0.0, 0.0);
            for &image in &drawn[0] {
                sum += of_images[image].0;
                n += of_images[image].1;
            }
            sum / n
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTIONS: Questions<'_> =
        Questions { classes: &[0, 0, 0, 1, 1, 0], images: &[0, 0, 0, 3, 3, 1], n_classes: 3 };

    #[test]
    fn shares_are_over_questions_and_over_classes() {
        let scores = QUESTIONS.scores(&[0, 0, 0, 1, 2, 1], &Bootstrap::default()).expect("fine");
        assert!((scores.accuracy.value - 4.0 / 6.0).abs() < 1e-12);
        assert_eq!(scores.by_class, [Some(0.75), Some(0.5), None]);
        assert!((scores.balanced_accuracy - 0.625).abs() < 1e-12);
        assert!(scores.accuracy.low < scores.accuracy.value && scores.accuracy.value < scores.accuracy.high);
        let none = Questions { classes: &[], images: &[], n_classes: 2 };
        assert!(none.scores(&[], &Bootstrap::default()).is_err());
    }

    #[test]
    fn differences_are_paired() {
        let one = [0, 0, 0, 1, 2, 1];
        let same = QUESTIONS.difference(&one, &one, &Bootstrap::default()).expect("fine");
        assert_eq!([same.value, same.low, same.high], [0.0; 3]);
        // Of each image one answer more is right: nothing about the draw of images can undo that.
        let better = [0, 0, 0, 1, 1, 0];
        let worse = [1, 0, 0, 1, 2, 1];
        let gain = QUESTIONS.difference(&better, &worse, &Bootstrap::default()).expect("fine");
        assert!((gain.value - 0.5).abs() < 1e-12 && gain.excludes_zero(), "{gain:?}");
    }

    #[test]
    fn objects_of_one_image_are_drawn_together() {
        // Ten images of ten equal answers, half of the images right: as uncertain as ten answers, not as a hundred.
        let classes = [0; 100];
        let images: Vec<usize> = (0..100).map(|at| at / 10).collect();
        let answers: Vec<usize> = (0..100).map(|at| at / 10 % 2).collect();
        let questions = Questions { classes: &classes, images: &images, n_classes: 2 };
        let interval = questions.scores(&answers, &Bootstrap::default()).expect("fine").accuracy;
        assert!((interval.high - interval.low - 0.6).abs() < 0.11, "{interval:?}");
    }
}
