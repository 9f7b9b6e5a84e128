//! `[text]` of an evaluation: the texts of the data as prompts. Without the section, there are none.

use std::path::PathBuf;

use sam_eval::TextSource;
use serde::Serialize;

use super::reader::Section;
use super::text::{WORDS, cannot_frame};

/// The first of CLIP's own templates for ImageNet (arXiv 2103.00020 §3.1.4).
const TEMPLATE: &str = "a photo of a {}";

/// Texts as prompts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EvaluateTextPlan {
    /// The CLIP of the checkpoint: a Hugging Face folder or a file.
    pub(crate) clip: PathBuf,
    /// Which texts of the data are prompts.
    pub(crate) texts: TextSource,
    /// Sentences around the name of a class; the vector of a class is their mean.
    pub(crate) templates: Vec<String>,
}

impl EvaluateTextPlan {
    pub(super) fn read(top: &Section<'_>) -> Option<Self> {
        let is_given = top.is_given("text");
        if !is_given {
            top.unused(&["text"]);
        }
        let text = top.section("text");
        let clip = text.local_path_if_given("clip");
        let what = "the CLIP of the checkpoint, a Hugging Face folder or a file (--clip DIR)";
        // First: whatever asks for the key later finds its default.
        text.defaults_to("templates", &format!("[\"{TEMPLATE}\"]"));
        let templates = text.texts_if_given("templates", cannot_frame);
        let plan = Self {
            clip: if is_given { text.required("clip", what, clip, PathBuf::new()) } else { PathBuf::new() },
            texts: text.choice("texts", TextSource::Both, &WORDS),
            templates: templates.filter(|given| !given.is_empty()).unwrap_or_else(|| vec![TEMPLATE.to_owned()]),
        };
        let has_classes = plan.texts != TextSource::Captions;
        text.only_if(has_classes, "texts", &["templates"], "names of classes (texts = \"classes\" or \"both\")");
        is_given.then_some(plan)
    }
}
