//! `best.safetensors` and `last.safetensors` of a run, with checksums in `checksums.json` beside them.
//!
//! The checksum of a new file is written before the file replaces the old one, and the old one's is kept: whatever a crash
//! interrupts, an undamaged file has one of the two.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sam_files::{remove_if_there, write_atomically, write_atomically_with};
use sam_model::weights::text_prompt_beside;

use super::checksum::Checksum;
use crate::error::LearnError;

const CHECKSUMS_FILE: &str = "checksums.json";

/// Checksums per file: of the old and of the new contents.
const REMEMBERED: usize = 2;

/// A problem of a checkpoint, as a message that names it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum CheckpointProblem {
    /// The file is missing, damaged or unreadable.
    Lost(String),
    /// Its checksum is not recorded.
    Unchecked(String),
}

/// Writes and checks the checkpoints of a run folder.
pub(crate) struct CheckpointFiles {
    folder: PathBuf,
    /// By name of the file, the newest last.
    known: BTreeMap<String, Vec<Checksum>>,
}

impl CheckpointFiles {
    /// Opens the checkpoints of a run folder with their recorded checksums.
    pub(crate) fn open(folder: &Path) -> Self {
        let text = sam_files::read_regular(&folder.join(CHECKSUMS_FILE), sam_files::MAX_TEXT_BYTES).unwrap_or_default();
        // Without this file nothing can be checked, which `problem` reports.
        let known = serde_json::from_slice(&text).unwrap_or_default();
        Self { folder: folder.to_owned(), known }
    }

    /// The problem of a checkpoint that the run has written; `None` if its contents are those that were written.
    pub(crate) fn problem(&self, name: &str) -> Option<CheckpointProblem> {
        let path = self.folder.join(name);
        let shown = path.display();
        if !path.exists() {
            return Some(CheckpointProblem::Lost(format!("{shown} is missing")));
        }
        let Some(known) = self.known.get(name) else {
            let reason = format!("{CHECKSUMS_FILE} is missing, damaged or does not list it");
            return Some(CheckpointProblem::Unchecked(format!("{shown} cannot be checked: {reason}")));
        };
        let lost = match Checksum::of(&path) {
            Ok(found) if known.contains(&found) => return None,
            Ok(_) => format!("{shown} is damaged: its contents are not those that were written"),
            Err(error) => format!("{shown} cannot be read: {error}"),
        };
        Some(CheckpointProblem::Lost(lost))
    }

    /// Replaces a checkpoint by what `write` puts into a temporary file, and its text prompt by the one beside that.
    pub(crate) fn write(
        &mut self,
        name: &str,
        write: impl FnOnce(&Path) -> Result<(), LearnError>,
    ) -> Result<PathBuf, LearnError> {
        let path = self.folder.join(name);
        let io = |source| LearnError::Write { path: path.clone(), source };
        write_atomically_with(&path, io, |temporary| {
            write(temporary)?;
            self.remember(name, Checksum::of(temporary).map_err(io)?)?;
            let [new, old] = [text_prompt_beside(temporary), text_prompt_beside(&path)];
            let moved = if new.is_file() { std::fs::rename(&new, &old) } else { remove_if_there(&old) };
            moved.map_err(|source| LearnError::Write { path: old.clone(), source })
        })?;
        Ok(path)
    }

    fn remember(&mut self, name: &str, checksum: Checksum) -> Result<(), LearnError> {
        let known = self.known.entry(name.to_owned()).or_default();
        known.push(checksum);
        known.drain(..known.len().saturating_sub(REMEMBERED));
        let path = self.folder.join(CHECKSUMS_FILE);
        let write_error = |source| LearnError::Write { path: path.clone(), source };
        let text = serde_json::to_string_pretty(&self.known).map_err(|error| write_error(error.into()))?;
        write_atomically(&path, text).map_err(write_error).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_detected_and_an_interrupted_write_is_not_damage() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = CheckpointFiles::open(folder.path());
        let write = |files: &mut CheckpointFiles, text: &'static str| {
            files.write("best", |path| std::fs::write(path, text).map_err(|e| panic!("{e}"))).expect("written")
        };
        assert!(matches!(files.problem("best"), Some(CheckpointProblem::Lost(_))));
        let path = write(&mut files, "first");
        assert_eq!(CheckpointFiles::open(folder.path()).problem("best"), None);
        write(&mut files, "second");
        assert_eq!(CheckpointFiles::open(folder.path()).problem("best"), None);
        // As after a crash before the rename: the checksum of the second is there, the first is still in place.
        std::fs::write(&path, "first").expect("written");
        assert_eq!(CheckpointFiles::open(folder.path()).problem("best"), None);
        std::fs::write(&path, "firsu").expect("written");
        assert!(matches!(CheckpointFiles::open(folder.path()).problem("best"), Some(CheckpointProblem::Lost(_))));
        std::fs::remove_file(folder.path().join(CHECKSUMS_FILE)).expect("removed");
        assert!(matches!(CheckpointFiles::open(folder.path()).problem("best"), Some(CheckpointProblem::Unchecked(_))));
    }

    #[test]
    fn a_text_prompt_moves_with_its_checkpoint() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = CheckpointFiles::open(folder.path());
        let mut write = |text: Option<&'static str>| {
            let written = files.write("best.safetensors", |path| {
                std::fs::write(path, "weights").expect("written");
                text.into_iter().for_each(|text| std::fs::write(text_prompt_beside(path), text).expect("written"));
                Ok(())
            });
            std::fs::read_to_string(text_prompt_beside(&written.expect("written"))).ok()
        };
        assert_eq!(write(Some("first")).as_deref(), Some("first"));
        assert_eq!(write(Some("second")).as_deref(), Some("second"));
        assert_eq!(write(None), None, "that of the model before is gone");
    }

    #[test]
    fn a_failed_write_leaves_the_old_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = CheckpointFiles::open(folder.path());
        let failed = files.write("best", |_| Err(LearnError::Internal { what: "no disk" }));
        assert!(failed.is_err() && !folder.path().join("best").exists());
    }
}
