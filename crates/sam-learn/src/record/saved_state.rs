//! Everything that a run needs to be resumed as if it had never stopped: weights, moments, moving average, step, best so far.
//!
//! One folder per save, `checkpoints/step-00000500` (`step-00000500.1` when the same step is saved again, with its
//! validation), written beside its final name, synced and renamed. The save before is kept, older ones are removed: so a
//! crash or a full disk leaves the last complete save, and a damaged one is found by its checksums and the one before is
//! used. No random state is saved: every draw is a function of the seed and the step.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::OptimizerRecord;
use burn::store::{ModuleRecord, RecordError};
use sam_files::write_folder_atomically;
use serde::{Deserialize, Serialize};

use super::checksum::Checksum;
use crate::error::LearnError;

const MODEL: &str = "model.bpk";
const OPTIMISER: &str = "optimiser.bpk";
const AVERAGE: &str = "average.bpk";
const PROGRESS: &str = "progress.json";
const CHECKSUMS: &str = "checksums.json";
const PREFIX: &str = "step-";
/// The newest, and the one that is resumed if the newest is damaged.
const SAVES_KEPT: usize = 2;

/// The progress of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// Optimiser steps done.
    pub step: u64,
    /// The step after which the last validation was made; `None` before the first.
    pub validated_step: Option<u64>,
    /// Metrics before the first step.
    pub baseline: Option<Scores>,
    /// Metrics of the best validation.
    pub best: Option<Scores>,
    /// Metrics of the last validation.
    pub last: Option<Scores>,
    /// Validations since the best one.
    pub without_improvement: usize,
    /// Time spent training and validating.
    pub elapsed_s: f64,
}

/// The metrics of one validation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    /// Optimiser steps done.
    pub step: u64,
    /// Values by name.
    pub metrics: BTreeMap<String, f64>,
}

/// A complete save.
#[derive(Clone, Debug)]
pub struct SavedState {
    folder: PathBuf,
    /// The progress of the run.
    pub progress: Progress,
    /// `metrics.jsonl` as it was at the save.
    pub(crate) log: Checksum,
}

/// The saves of a run that matter for a resume.
#[derive(Clone, Debug, Default)]
pub struct Saves {
    /// The newest save without damage; `None` before the first save.
    pub intact: Option<SavedState>,
    /// Newer, damaged saves: messages with the file and the reason.
    pub damaged: Vec<String>,
}

/// Checksums of the files of a save, and of the log at that time.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Checksums {
    files: BTreeMap<String, Checksum>,
    log: Checksum,
}

impl SavedState {
    /// The newest intact save of a run. Nothing is changed.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read, or when there are saves and all are damaged.
    pub fn newest(checkpoints: &Path) -> Result<Saves, LearnError> {
        let mut saves = Saves::default();
        for folder in saves_in(checkpoints)?.into_iter().rev() {
            match Self::open(&folder) {
                Ok(state) => {
                    saves.intact = Some(state);
                    return Ok(saves);
                }
                Err(error) => saves.damaged.push(error.to_string()),
            }
        }
        match saves.damaged.is_empty() {
            true => Ok(saves),
            false => Err(LearnError::AllSavesDamaged { folder: checkpoints.to_owned(), reasons: saves.damaged }),
        }
    }

    /// Opens a save and compares its files with their checksums.
    fn open(folder: &Path) -> Result<Self, LearnError> {
        let Checksums { files, log } = read_json(&folder.join(CHECKSUMS))?;
        for (name, expected) in &files {
            let path = folder.join(name);
            let found = Checksum::of(&path).map_err(|error| read_error(&path, error))?;
            if found != *expected {
                return Err(read_error(&path, "it is damaged: its contents are not those that were written"));
            }
        }
        for name in [MODEL, OPTIMISER, PROGRESS] {
            if !files.contains_key(name) {
                return Err(read_error(&folder.join(CHECKSUMS), format!("it does not list {name}")));
            }
        }
        Ok(Self { folder: folder.to_owned(), progress: read_json(&folder.join(PROGRESS))?, log })
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    #[cfg(test)]
    pub(crate) fn for_test(progress: Progress, log: Checksum) -> Self {
        Self { folder: PathBuf::new(), progress, log }
    }

    /// Weights with the parameter ids of the optimiser's state, on the device of `model`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is of another model.
    pub(crate) fn load_model<M: Module>(&self, model: M) -> Result<M, LearnError> {
        load_module(model, &self.folder.join(MODEL))
    }

    /// The moving average of the weights.
    ///
    /// # Errors
    ///
    /// When there is none, or the file cannot be read or is of another model.
    pub(crate) fn load_average<M: Module>(&self, model: M) -> Result<M, LearnError> {
        load_module(model, &self.folder.join(AVERAGE))
    }

    /// Moments of the optimiser.
    ///
    /// # Errors
    ///
    /// When the file cannot be read.
    pub(crate) fn load_optimiser(&self) -> Result<OptimizerRecord, LearnError> {
        let path = self.folder.join(OPTIMISER);
        OptimizerRecord::load(&path).map_err(|error| read_error(&path, error))
    }

    /// Writes a save; the one before is kept, older ones are removed.
    ///
    /// # Arguments
    /// - `log`: `metrics.jsonl`, whose length and checksum are recorded
    ///
    /// # Errors
    ///
    /// When the disk is full or cannot be written; earlier saves are then untouched.
    pub(crate) fn save<M: Module>(
        checkpoints: &Path,
        model: ModuleRecord,
        average: Option<&M>,
        optimiser: OptimizerRecord,
        progress: &Progress,
        log: &Path,
    ) -> Result<PathBuf, LearnError> {
        fs::create_dir_all(checkpoints).map_err(|source| write_error(checkpoints, source))?;
        let name = |repeat: u64| match repeat {
            0 => format!("{PREFIX}{:08}", progress.step),
            _ => format!("{PREFIX}{:08}.{repeat}", progress.step),
        };
        let repeat = (0..).find(|&repeat| !checkpoints.join(name(repeat)).exists()).unwrap_or_default();
        let folder = checkpoints.join(name(repeat));
        let log = Checksum::of(log).map_err(|error| read_error(log, error))?;
        write_folder_atomically(
            &folder,
            |source| write_error(&folder, source),
            |temporary| {
                let failed = |error: RecordError| write_error(&folder, io::Error::other(error.to_string()));
                model.save(temporary.join(MODEL)).map_err(failed)?;
                optimiser.save(temporary.join(OPTIMISER)).map_err(failed)?;
                if let Some(average) = average {
                    average.clone().into_record().save(temporary.join(AVERAGE)).map_err(failed)?;
                }
                let in_folder = |source| write_error(&folder, source);
                write_json(&temporary.join(PROGRESS), progress).map_err(in_folder)?;
                let files = checksums_of(temporary).map_err(in_folder)?;
                write_json(&temporary.join(CHECKSUMS), &Checksums { files, log }).map_err(in_folder)?;
                sync_files(temporary).map_err(in_folder)
            },
        )?;
        let saves = saves_in(checkpoints)?;
        for old in saves.iter().rev().skip(SAVES_KEPT) {
            // A save that cannot be removed only takes space.
            let _ = fs::remove_dir_all(old);
        }
        Ok(folder)
    }
}

/// Folders of complete saves, the newest last.
fn saves_in(checkpoints: &Path) -> Result<Vec<PathBuf>, LearnError> {
    let entries = match fs::read_dir(checkpoints) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read_error(checkpoints, error)),
    };
    let mut saves = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| read_error(checkpoints, error))?;
        if let Some(order) = save_order(&entry.file_name().to_string_lossy()) {
            saves.push((order, entry.path()));
        }
    }
    saves.sort();
    Ok(saves.into_iter().map(|(_, folder)| folder).collect())
}

/// Step and repetition of a save, from the name of its folder.
fn save_order(name: &str) -> Option<(u64, u64)> {
    let (step, repeat) = name.strip_prefix(PREFIX).map(|order| order.split_once('.').unwrap_or((order, "0")))?;
    Some((step.parse().ok()?, repeat.parse().ok()?))
}

fn load_module<M: Module>(module: M, path: &Path) -> Result<M, LearnError> {
    let record = ModuleRecord::load(path).map_err(|error| read_error(path, error))?;
    module.try_load_record(record).map_err(|error| read_error(path, error))
}

fn checksums_of(folder: &Path) -> io::Result<BTreeMap<String, Checksum>> {
    fs::read_dir(folder)?
        .map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().to_string_lossy().into_owned(), Checksum::of(&entry.path())?))
        })
        .collect()
}

fn sync_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        sam_files::open_regular(&entry?.path())?.sync_all()?;
    }
    Ok(())
}

fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    fs::write(path, serde_json::to_string_pretty(value)?)
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, LearnError> {
    let bytes = sam_files::read_regular(path, sam_files::MAX_FILE_BYTES).map_err(|error| read_error(path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| read_error(path, error))
}

fn read_error(path: &Path, error: impl std::fmt::Display) -> LearnError {
    LearnError::Read { path: path.to_owned(), reason: error.to_string() }
}

fn write_error(path: &Path, source: io::Error) -> LearnError {
    LearnError::Write { path: path.to_owned(), source }
}
