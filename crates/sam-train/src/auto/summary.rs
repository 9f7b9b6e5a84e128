//! What `auto` says at its end: to people, and as JSON to programs.

use std::io::Write;
use std::path::PathBuf;

use sam_infer::automatic::Removed;
use serde::{Deserialize, Serialize};

use crate::output::{errors, output};

/// Names of images that are listed in full; more are counted.
const LISTED: usize = 20;

/// The end of a run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Summary {
    pub(crate) out: PathBuf,
    /// Images that were given.
    pub(crate) images: usize,
    /// Images with masks on disk, of this run or an earlier one.
    pub(crate) finished: usize,
    /// Of these, finished by an earlier run.
    pub(crate) finished_before: usize,
    /// Of these, made from stored candidates without the network.
    pub(crate) from_candidates: usize,
    /// Of these, made from stored masks without the network.
    pub(crate) from_masks: usize,
    pub(crate) masks: usize,
    /// Masks that the filters removed.
    pub(crate) removed: Removed,
    /// Masks by the text that describes them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) texts: Vec<TextCount>,
    /// Images without any mask, with the reason.
    pub(crate) without_masks: Vec<Note>,
    /// Images that could not be read.
    pub(crate) unreadable: Vec<Note>,
    /// Images that are too small for all layers of crops.
    pub(crate) fewer_crops: Vec<Note>,
    pub(crate) seconds: f64,
}

/// The masks that a text describes.
#[derive(Debug, Serialize)]
pub(crate) struct TextCount {
    pub(crate) text: String,
    pub(crate) masks: usize,
}

/// Something about an image.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Note {
    pub(crate) name: String,
    pub(crate) reason: String,
}

impl Note {
    pub(crate) fn new(name: &str, reason: impl std::fmt::Display) -> Self {
        Self { name: name.to_owned(), reason: reason.to_string() }
    }
}

impl Summary {
    /// Prints notes to standard error and the summary to standard output.
    pub(crate) fn print(&self, as_json: bool) -> anyhow::Result<()> {
        let groups = [("fewer crops", &self.fewer_crops), ("no mask", &self.without_masks)];
        for (what, notes) in groups {
            for Note { name, reason } in notes.iter().take(LISTED) {
                writeln!(errors(), "{what}: {name}: {reason}")?;
            }
            if notes.len() > LISTED {
                writeln!(errors(), "{what}: {} more images", notes.len() - LISTED)?;
            }
        }
        let mut out = output();
        if as_json {
            writeln!(out, "{}", serde_json::to_string_pretty(self)?)?;
            return Ok(());
        }
        let Self { images, finished, finished_before, from_candidates, from_masks, masks, texts, seconds, .. } = self;
        let mut parts = Vec::new();
        if *finished_before > 0 {
            parts.push(format!("{finished_before} of them before"));
        }
        if *from_candidates > 0 {
            parts.push(format!("{from_candidates} from stored candidates"));
        }
        if *from_masks > 0 {
            parts.push(format!("{from_masks} from stored masks"));
        }
        let parts = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
        writeln!(out, "{finished} of {images} images{parts}, {masks} masks, in {seconds:.0} s")?;
        for TextCount { text, masks } in texts {
            writeln!(out, "{masks:>7} of {text:?}")?;
        }
        let removed = self.removed.describe();
        if !removed.is_empty() {
            writeln!(out, "removed: {removed}")?;
        }
        let overlays = self.out.join(super::folder::OVERLAYS);
        if overlays.is_dir() {
            writeln!(out, "look at {}", overlays.display())?;
        }
        Ok(())
    }
}
