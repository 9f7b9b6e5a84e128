//! The first phase: the masks as they are now become two data sets that do not change while the model learns.

use std::path::Path;

use sam_files::write_folder_atomically;

use super::{Collected, MaskCounts, Round, Statistics, now_unix_s, write_json};
use crate::error::EngineError;
use crate::images::stem;
use crate::project::Project;
use crate::store::{make_folder_of, make_link};

/// Copies the human masks of a project into a round, unless it has them already.
///
/// # Errors
///
/// When there are too few masks, a file is damaged, or the disk fails.
pub fn collect(project: &Project, round: &Round) -> Result<Collected, EngineError> {
    if let Some(collected) = round.collected()? {
        return Ok(collected);
    }
    // The journal first: a mask that is made meanwhile counts for the next round.
    let (statistics, journal_bytes) = Statistics::since_last_round(project.folder())?;
    let data = round.path().join("data");
    if data.exists() {
        // Of a process that was killed before the last file of this phase.
        std::fs::remove_dir_all(&data).map_err(EngineError::io(&data))?;
    }
    let mut masks = MaskCounts::default();
    sam_files::sweep_unfinished(round.path());
    std::fs::create_dir_all(round.path()).map_err(EngineError::io(round.path()))?;
    write_folder_atomically(
        &data,
        |source| EngineError::Io { path: data.clone(), source },
        |folder| copy(project, folder, &mut masks),
    )?;
    if let Some(missing) = masks.missing(project) {
        std::fs::remove_dir_all(round.path()).map_err(EngineError::io(round.path()))?;
        return Err(EngineError::TooFew(missing));
    }
    let (checkpoint, model_name) = project.checkpoint()?;
    let started_unix_s = now_unix_s() as u64;
    let collected = Collected { started_unix_s, checkpoint, model_name, masks, statistics, journal_bytes };
    write_json(&round.path().join(super::COLLECTED), &collected)?;
    Ok(collected)
}

fn copy(project: &Project, to: &Path, masks: &mut MaskCounts) -> Result<(), EngineError> {
    for index in 0..project.images().len() {
        let Some(mut file) = project.annotations(index)? else { continue };
        let is_validation = project.is_validation(index);
        masks.add(&file, is_validation);
        file.annotations.retain(|mask| mask.source.is_human());
        if file.annotations.is_empty() {
            continue;
        }
        // Only the store answers operations.
        file.image.recent.clear();
        let folder = to.join(if is_validation { "validation" } else { "train" });
        let name = project.images().name(index);
        let annotations = folder.join("annotations").join(format!("{}.json", stem(name)));
        make_folder_of(&annotations)?;
        file.write_unsynced(&annotations)?;
        let link = folder.join("images").join(name);
        make_folder_of(&link)?;
        make_link(&project.images().path(index)?, &link).map_err(EngineError::io(&link))?;
    }
    Ok(())
}
