//! The texts that data sets have of their objects: what people said about them, and the names of their classes.
//!
//! They are gathered before anything is computed, so that each is encoded once by whoever knows a CLIP, and a data set
//! without any is an error at once. CLIP reads lower case, so texts that differ in case only are one.

use std::collections::{BTreeMap, BTreeSet};

use sam_data::ObjectMask;
use sam_infer::TextVector;
use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::eval_set::EvalSet;

/// Which texts are prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TextSource {
    /// The captions of objects.
    Captions,
    /// The names of their classes, within templates such as "a photo of a {}".
    Classes,
    /// Both, each for itself.
    Both,
}

/// Where a text comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextKind {
    /// A caption.
    Caption,
    /// The name of a class.
    Class,
}

impl TextSource {
    /// The texts of an object, each with its kind, as they are looked up.
    pub(crate) fn texts_of(self, object: &ObjectMask, classes: &[String]) -> Vec<(TextKind, String)> {
        let has_captions = matches!(self, Self::Captions | Self::Both);
        let has_classes = matches!(self, Self::Classes | Self::Both);
        let captions = object.captions.iter().filter(|_| has_captions).map(|caption| (TextKind::Caption, caption));
        let class = object.class.and_then(|class| classes.get(class)).filter(|_| has_classes);
        captions
            .chain(class.map(|class| (TextKind::Class, class)))
            .map(|(kind, text)| (kind, text.to_lowercase()))
            .collect()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Captions => "captions",
            Self::Classes => "class names",
            Self::Both => "captions or class names",
        }
    }
}

/// The texts of some data sets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataTexts {
    /// All captions, in lower case.
    pub captions: BTreeSet<String>,
    /// All names of classes that an object has, in lower case.
    pub classes: BTreeSet<String>,
    /// Pairs of an image and a text of it: each is a prompt.
    pub n_queries: usize,
    /// Objects without any text.
    pub n_objects_without: usize,
}

impl DataTexts {
    /// The texts of all objects of these sets. `progress` is called with the number of images that were looked at.
    ///
    /// # Errors
    ///
    /// When a sample cannot be read, or no object of a set has a text.
    pub fn of(sets: &[EvalSet], source: TextSource, progress: &mut dyn FnMut(usize)) -> Result<Self, EvalError> {
        let mut all = Self::default();
        let mut n_images = 0;
        for set in sets {
            let n_before = all.n_queries;
            for &index in &set.indices {
                let failed = |source| EvalError::Sample { data_set: set.name.to_string(), index, source };
                let sample = set.samples.undecoded(index).map_err(failed)?;
                let mut of_image = BTreeSet::new();
                for object in &sample.objects {
                    let texts = source.texts_of(object, &set.classes);
                    all.n_objects_without += usize::from(texts.is_empty());
                    of_image.extend(texts);
                }
                all.n_queries += of_image.len();
                for (kind, text) in of_image {
                    match kind {
                        TextKind::Caption => all.captions.insert(text),
                        TextKind::Class => all.classes.insert(text),
                    };
                }
                n_images += 1;
                progress(n_images);
            }
            if all.n_queries == n_before {
                return Err(EvalError::NoTexts { data_set: set.name.to_string(), expected: source.name() });
            }
        }
        Ok(all)
    }
}

/// The vectors of texts, in lower case.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PromptVectors {
    /// Those of captions.
    pub captions: BTreeMap<String, TextVector>,
    /// Those of class names, each within all templates.
    pub classes: BTreeMap<String, TextVector>,
}

impl PromptVectors {
    pub(crate) fn get(&self, kind: TextKind, text: &str) -> Option<&TextVector> {
        match kind {
            TextKind::Caption => self.captions.get(text),
            TextKind::Class => self.classes.get(text),
        }
    }
}

/// The mean of unit vectors, of unit length again: several templates as one prompt (CLIP's "prompt ensembling", arXiv
/// 2103.00020 §3.1.4).
///
/// # Panics
///
/// When there is no vector, or they differ in length.
#[must_use]
pub fn mean_direction(vectors: &[Vec<f32>]) -> Vec<f32> {
    assert!(!vectors.is_empty(), "a mean needs at least one vector");
    let mut sum = vec![0f64; vectors[0].len()];
    for vector in vectors {
        assert_eq!(vector.len(), sum.len(), "vectors must have one length");
        sum.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value));
    }
    let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    sum.into_iter().map(|value| (value / length) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_of_directions_has_unit_length() {
        let mean = mean_direction(&[vec![1.0, 0.0], vec![0.0, 1.0]]);
        assert!(mean.iter().all(|value| (value - 0.5f32.sqrt()).abs() < 1e-6), "{mean:?}");
        assert_eq!(mean_direction(&[vec![0.6, 0.8]]), [0.6, 0.8]);
        assert!(mean_direction(&[vec![1.0, 0.0], vec![-1.0, 0.0]]).iter().all(|value| value.is_finite()));
    }
}
