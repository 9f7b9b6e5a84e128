//! `[prompts.text]`: text prompts of a training. The keys are the fields of [`TextOptions`], those of its crops among them;
//! the defaults are the paper's (Kirillov 2023, arXiv 2304.02643 §D.5), with a text for half of the objects.

use std::path::PathBuf;

use sam_eval::TextSource;
use sam_learn::options::{CropOptions, TextOptions};

use super::reader::{Reader, Section};

/// Stands for the class name in a template.
const PLACE: &str = "{}";

/// What can be said of an object.
pub(super) const WORDS: [(&str, TextSource); 3] =
    [("captions", TextSource::Captions), ("classes", TextSource::Classes), ("both", TextSource::Both)];

/// `None` without the section.
pub(super) fn read_text(reader: &Reader<'_>, prompts: &Section<'_>) -> Option<TextOptions> {
    let is_given = prompts.is_given("text");
    let text = prompts.section("text");
    let clip = text.input_path_if_given("clip");
    let default = TextOptions::new(PathBuf::new());
    let clip = match is_given {
        true => text.required("clip", "a CLIP: its Hugging Face folder, or its file", clip, PathBuf::new()),
        false => PathBuf::new(),
    };
    // First: whatever asks for a key later finds its default.
    text.defaults_to("crop_scale", &format!("{:?}", default.crops.scale));
    text.defaults_to("templates", &format!("{:?}", default.templates));
    let scale = text.float_range_if_given("crop_scale", 1.0..=10.0);
    let templates = text.texts_if_given("templates", cannot_frame);
    let options = TextOptions {
        clip,
        chance: text.float("chance", default.chance, 0.0..=1.0),
        min_object_px: text.integer("min_object_px", default.min_object_px, 1..),
        crops: CropOptions {
            per_object: text.integer("crops_per_object", default.crops.per_object, 1..),
            scale: scale.unwrap_or(default.crops.scale),
            zeroed_chance: text.float("zeroed_chance", default.crops.zeroed_chance, 0.0..=1.0),
        },
        words_chance: text.float("words_chance", default.words_chance, 0.0..=1.0),
        words: text.choice("words", default.words, &WORDS),
        templates: templates.unwrap_or_else(|| default.templates.clone()),
        centre: text.flag("centre", default.centre),
        centre_texts: text.input_path_if_given("centre_texts"),
        noise: text.float("noise", default.noise, 0.0..=2.0),
    };
    if !is_given {
        prompts.unused(&["text"]);
        return None;
    }
    let keys = ["prompts.text.templates"];
    reader.check(!options.templates.is_empty(), &keys, "a list of at least one template", "none");
    text.only_if(options.words_chance > 0.0, "words_chance", &["words"], "words_chance above 0");
    text.only_if(options.centre, "centre", &["centre_texts"], "centre = true");
    Some(options)
}

/// Whether a class name has a place in a template.
pub(super) fn cannot_frame(template: &str) -> Option<String> {
    (!template.contains(PLACE)).then(|| format!("a list of texts with {PLACE} in the place of the class name"))
}
