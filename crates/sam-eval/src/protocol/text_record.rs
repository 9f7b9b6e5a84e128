//! The record of one text of one image. All metrics of texts derive from these records.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::data_texts::{TextKind, TextSource};
use crate::error::EvalError;
use crate::protocol::clicks::Click;
use crate::protocol::object_record::SizeBucket;
use crate::protocol::settings::MaskFeedback;

/// What decides the results of texts, beside the model and the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextSettings {
    /// Which texts are prompts.
    pub texts: TextSource,
    /// Sentences in which `{}` stands for the name of a class.
    pub templates: Vec<String>,
    /// Fingerprint of the CLIP, in hexadecimal digits.
    pub clip: String,
    /// Whether the text and its click come with the mask of the text alone.
    pub mask_feedback: MaskFeedback,
}

/// A text as the prompt of an image, and what it found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextRecord {
    /// Name of the data set.
    pub data_set: String,
    /// Name of the image within it.
    pub image: String,
    /// The text, in lower case.
    pub text: String,
    /// Where it comes from.
    pub kind: TextKind,
    /// Class of all objects that it says, if they have one in common.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Number of objects of the image that it says: the targets.
    pub n_targets: usize,
    /// The target that the mask fits best.
    pub object_id: u64,
    /// Area of that target, including ignored pixels.
    pub area_px: usize,
    /// Its size bucket.
    pub size: SizeBucket,
    /// IoU of the most confident mask with it.
    pub iou: f64,
    /// Predicted IoU of that mask.
    pub predicted_iou: f64,
    /// Highest IoU of any mask of the prompt with any target.
    pub oracle_iou: f64,
    /// Mean IoU with the same target of the masks of other texts of the image that say none of this text's targets; `None`
    /// where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_iou: Option<f64>,
    /// The object of the image that the mask fits best; `None` when it meets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_id: Option<u64>,
    /// Its class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found_class: Option<String>,
    /// Whether the mask fits a target better than every other object; `None` where all objects are targets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_selective: Option<bool>,
    /// The click in the error region of the target that came then.
    pub click: Click,
    /// IoU of the mask of text and click.
    pub click_iou: f64,
}

impl TextRecord {
    /// The order in which all sums are taken: by data set, image, kind and text.
    #[must_use]
    pub fn by_name(a: &Self, b: &Self) -> Ordering {
        (&a.data_set, &a.image, a.kind, &a.text).cmp(&(&b.data_set, &b.image, b.kind, &b.text))
    }

    /// Data set, image and text, for error messages.
    #[must_use]
    pub fn place(&self) -> String {
        format!("data set {}, image {}, text \"{}\"", self.data_set, self.image, self.text)
    }
}

/// What is not a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextCounts {
    /// Objects without a text.
    pub objects_without_text: usize,
    /// Texts of images that have no vector, such as those that are too long for CLIP.
    pub texts_without_vector: usize,
}

impl TextCounts {
    /// Adds those of other images.
    pub(crate) fn add(&mut self, other: Self) {
        self.objects_without_text += other.objects_without_text;
        self.texts_without_vector += other.texts_without_vector;
    }
}

/// All texts of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TextRun {
    /// The settings.
    pub settings: TextSettings,
    /// What is not a prompt, by data set.
    pub left_out: BTreeMap<String, TextCounts>,
    /// Sorted by data set, image, kind and text.
    pub records: Vec<TextRecord>,
}

impl TextRun {
    /// Sorts the records.
    ///
    /// # Errors
    ///
    /// When there is none, or one occurs twice.
    pub fn new(
        settings: TextSettings,
        left_out: BTreeMap<String, TextCounts>,
        mut records: Vec<TextRecord>,
    ) -> Result<Self, EvalError> {
        if records.is_empty() {
            return Err(EvalError::Nothing { metric: "miou_text".to_owned() });
        }
        records.sort_by(TextRecord::by_name);
        match records.windows(2).find(|pair| TextRecord::by_name(&pair[0], &pair[1]).is_eq()) {
            Some(pair) => Err(EvalError::Duplicate { what: pair[0].place() }),
            None => Ok(Self { settings, left_out, records }),
        }
    }
}
