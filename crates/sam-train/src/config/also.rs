//! `[[validation.also]]`: data that is not the run's own, validated beside it, so that forgetting is seen. It chooses no
//! checkpoint.

use std::path::PathBuf;

use sam_data::SourceOptions;
use serde::{Deserialize, Serialize};

use super::files::{FilesPlan, read_options};
use super::reader::{Reader, Section};

/// Key of the list.
pub(crate) const ALSO: &str = "validation.also";

/// Enough to see forgetting, and cheap enough for every validation.
const IMAGES: usize = 200;

/// More sets than anybody reads the scores of.
const MAX_SETS: usize = 100;

/// One of the sets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AlsoPlan {
    /// In the names of its metrics.
    pub(crate) name: String,
    /// The data set.
    pub(crate) files: FilesPlan,
    /// At most this many images, spread over the set; 0 is all.
    pub(crate) max_images: usize,
}

/// The sets, in their order.
pub(super) fn read_also(reader: &Reader<'_>) -> Vec<AlsoPlan> {
    let validation = reader.top().section("validation");
    let is_given = validation.is_given("also");
    let sections = validation.sections("also");
    let sets: Vec<AlsoPlan> = sections.iter().map(|section| read_set(section, is_given)).collect();
    if !is_given {
        validation.unused(&["also"]);
        return Vec::new();
    }
    reader.check(sets.len() <= MAX_SETS, &[ALSO], &format!("at most {MAX_SETS} data sets"), sets.len());
    for (at, set) in sets.iter().enumerate() {
        let is_alone = !sets[..at].iter().any(|other| other.name == set.name);
        let key = format!("{ALSO}[{at}]");
        let expected = "another than that of the sets before: give each a `name` of its own";
        reader.check(is_alone, &[&format!("{key}.name"), &key], expected, format!("\"{}\"", set.name));
    }
    sets
}

fn read_set(section: &Section<'_>, is_given: bool) -> AlsoPlan {
    let path = section.input_path_if_given("path");
    let path = match is_given {
        true => section.required("path", "a data set to validate on, too", path, PathBuf::new()),
        false => PathBuf::new(),
    };
    let folder = path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    let cannot_be = |name: &str| {
        let is_name = !name.is_empty() && !name.contains('/');
        (!is_name).then(|| "a name without `/`, which separates it from the metric".to_owned())
    };
    AlsoPlan {
        name: section.text_with("name", &folder, cannot_be),
        files: FilesPlan { path, options: read_options(section, &SourceOptions::default()) },
        max_images: section.integer("max_images", IMAGES, 0..),
    }
}
