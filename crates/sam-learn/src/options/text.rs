//! Text prompts of a training (Kirillov 2023, arXiv 2304.02643 §D.5).

use std::path::PathBuf;

use sam_eval::TextSource;
use serde::{Deserialize, Serialize};

/// Text prompts: CLIP's vectors of the masks' crops stand in for texts, so that no caption is needed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextOptions {
    /// The CLIP: a folder or file.
    pub clip: PathBuf,
    /// Probability that the first prompt of an object is a text, instead of a point or a box.
    pub chance: f64,
    /// Objects with fewer pixels in the original image get none.
    pub min_object_px: usize,
    /// How a mask becomes a vector.
    pub crops: CropOptions,
    /// Probability that the text of an object that has captions or a class is one of these, instead of a crop.
    pub words_chance: f64,
    /// What is said of an object with [`TextOptions::words_chance`].
    pub words: TextSource,
    /// Sentences around a class name, which stands for `{}`.
    pub templates: Vec<String>,
    /// Closes the gap between CLIP's images and texts: each vector is taken relative to the mean of its modality.
    pub centre: bool,
    /// Texts whose mean is that of all texts; `None`: the class names of the training data in the templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub centre_texts: Option<PathBuf>,
    /// Length of the noise that is added to a crop's vector of unit length: it spreads crops as far as texts are from them
    /// (Nukrai 2022, arXiv 2211.00575 §3.2).
    #[serde(default)]
    pub noise: f64,
}

/// How a mask becomes a vector of CLIP.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CropOptions {
    /// Vectors of a mask, each of its own random crop; training draws one of them each time.
    pub per_object: usize,
    /// Smallest and largest side of a square crop, as a multiple of the longer side of the mask's box.
    pub scale: [f64; 2],
    /// Probability that pixels outside the mask are black.
    pub zeroed_chance: f64,
}

impl TextOptions {
    /// The paper's crops and smallest objects, with a text for half of the objects.
    #[must_use]
    pub fn new(clip: PathBuf) -> Self {
        Self {
            clip,
            chance: 0.5,
            min_object_px: 100 * 100,
            crops: CropOptions { per_object: 4, scale: [1.0, 2.0], zeroed_chance: 0.5 },
            words_chance: 0.0,
            words: TextSource::Both,
            templates: vec!["a photo of a {}".to_owned()],
            centre: false,
            centre_texts: None,
            noise: 0.0,
        }
    }

    /// Everything that is said of an object with these captions and this class.
    #[must_use]
    pub fn words_of(&self, captions: &[String], class: Option<&str>) -> Vec<String> {
        let captions = captions.iter().filter(|_| self.words != TextSource::Classes).cloned();
        let classes = class.filter(|_| self.words != TextSource::Captions);
        captions.chain(classes.into_iter().flat_map(|class| self.in_templates(class))).collect()
    }

    /// A class name in every template.
    #[must_use]
    pub fn in_templates(&self, class: &str) -> Vec<String> {
        self.templates.iter().map(|template| template.replace("{}", class)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_captions_and_classes_in_templates() {
        let mut options = TextOptions::new(PathBuf::new());
        options.templates = vec!["a {}".to_owned(), "{} here".to_owned()];
        let captions = ["my ring".to_owned()];
        let words = |options: &TextOptions, class| options.words_of(&captions, class);
        assert_eq!(words(&options, Some("disc")), ["my ring", "a disc", "disc here"]);
        assert_eq!(words(&options, None), ["my ring"]);
        options.words = TextSource::Captions;
        assert_eq!(words(&options, Some("disc")), ["my ring"]);
        options.words = TextSource::Classes;
        assert_eq!(words(&options, Some("disc")), ["a disc", "disc here"]);
        assert!(words(&options, None).is_empty());
    }
}
