//! Sentences on the keys of a configuration, for the schema. They are in `sentences.toml`, one line a key; a test holds them
//! against the keys that the reader asks for.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// What is said of a key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sentence {
    /// What it is, in whole sentences.
    pub(super) about: String,
    /// Its default in words, without a full stop; empty where the reader's is one value.
    #[serde(default)]
    pub(super) default: String,
    /// What it costs in memory or time, without a full stop; empty for nothing worth mentioning.
    #[serde(default)]
    pub(super) cost: String,
}

/// Sections with the keys of another section, and what their defaults are then.
const SHARED: [(&str, &str, &str); 4] = [
    ("data.validation_synth.", "data.synth.", "that of data.synth, if that is given"),
    ("data.validation_options.", "data.", "that of the training data"),
    ("data.sources.", "data.", "that of all sources, in [data]"),
    ("validation.also.", "data.", ""),
];

static SENTENCES: LazyLock<BTreeMap<String, Sentence>> =
    LazyLock::new(|| toml::from_str(include_str!("sentences.toml")).expect("sentences.toml is checked by a test"));

/// The sentence on a key, by its path. Sections of the same keys share them.
pub(super) fn sentence(path: &str) -> Option<Sentence> {
    if let Some(found) = SENTENCES.get(path) {
        return Some(found.clone());
    }
    SHARED.iter().find_map(|(section, other, default)| {
        let shared = format!("{other}{}", path.strip_prefix(section)?);
        Some(Sentence { default: (*default).to_owned(), ..SENTENCES.get(&shared)?.clone() })
    })
}

/// All keys that have a sentence of their own.
#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    SENTENCES.keys().map(String::as_str)
}
