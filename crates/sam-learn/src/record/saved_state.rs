//! Everything that a run needs to be resumed as if it had never stopped: weights, moments, moving average, step, best so far.
//!
//! One folder per save, `checkpoints/step-00000500` (`step-00000500.1` when the same step is saved again, with its
//! validation), written beside its final name, synced and renamed; the one before is removed only then. So a crash or a full
//! disk leaves the last complete save. No random state is saved: every draw is a function of the seed and the step.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::optim::OptimizerRecord;
use burn::store::{ModuleRecord, RecordError};
use sam_files::{UNFINISHED_PREFIX, write_folder_atomically};
use serde::{Deserialize, Serialize};

use crate::error::LearnError;

const MODEL: &str = "model.bpk";
const OPTIMISER: &str = "optimiser.bpk";
const AVERAGE: &str = "average.bpk";
const PROGRESS: &str = "progress.json";
const PREFIX: &str = "step-";

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
}

impl SavedState {
    /// The newest complete save of a run, or `None` when there is none yet. Saves that a crash interrupted are removed.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read or the newest save is damaged.
    pub fn newest(checkpoints: &Path) -> Result<Option<Self>, LearnError> {
        let mut newest: Option<((u64, u64), PathBuf)> = None;
        let entries = match fs::read_dir(checkpoints) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read_error(checkpoints, error)),
        };
        for entry in entries {
            let entry = entry.map_err(|error| read_error(checkpoints, error))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(UNFINISHED_PREFIX) {
                // It is never read, so it does no harm where it cannot be removed.
                let _ = fs::remove_dir_all(entry.path());
            } else if let Some(order) = save_order(&name)
                && newest.as_ref().is_none_or(|(best, _)| order > *best)
            {
                newest = Some((order, entry.path()));
            }
        }
        let Some((_, folder)) = newest else { return Ok(None) };
        let path = folder.join(PROGRESS);
        let text = fs::read_to_string(&path).map_err(|error| read_error(&path, error))?;
        let progress = serde_json::from_str(&text).map_err(|error| read_error(&path, error))?;
        Ok(Some(Self { folder, progress }))
    }

    /// Weights with the parameter ids of the optimiser's state, on the device of `model`.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is of another model.
    pub(crate) fn load_model<M: Module>(&self, model: M) -> Result<M, LearnError> {
        load_module(model, &self.folder.join(MODEL))
    }

    /// The moving average of the weights, where there is one.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or is of another model.
    pub(crate) fn load_average<M: Module>(&self, model: M) -> Result<Option<M>, LearnError> {
        let path = self.folder.join(AVERAGE);
        if path.exists() { load_module(model, &path).map(Some) } else { Ok(None) }
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

    /// Writes a save and removes the ones before.
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
    ) -> Result<PathBuf, LearnError> {
        fs::create_dir_all(checkpoints).map_err(|source| write_error(checkpoints, source))?;
        let name = |repeat: u64| match repeat {
            0 => format!("{PREFIX}{:08}", progress.step),
            _ => format!("{PREFIX}{:08}.{repeat}", progress.step),
        };
        let repeat = (0..).find(|&repeat| !checkpoints.join(name(repeat)).exists()).unwrap_or_default();
        let folder = checkpoints.join(name(repeat));
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
                let text =
                    serde_json::to_string_pretty(progress).map_err(|error| write_error(&folder, error.into()))?;
                fs::write(temporary.join(PROGRESS), text).map_err(|source| write_error(&folder, source))?;
                sync_files(temporary).map_err(|source| write_error(&folder, source))
            },
        )?;
        for entry in fs::read_dir(checkpoints).map_err(|source| write_error(checkpoints, source))?.flatten() {
            if save_order(&entry.file_name().to_string_lossy()).is_some() && entry.path() != folder {
                // A save that cannot be removed only takes space.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(folder)
    }
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

fn sync_files(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        File::open(entry?.path())?.sync_all()?;
    }
    Ok(())
}

fn read_error(path: &Path, error: impl std::fmt::Display) -> LearnError {
    LearnError::Read { path: path.to_owned(), reason: error.to_string() }
}

fn write_error(path: &Path, source: io::Error) -> LearnError {
    LearnError::Write { path: path.to_owned(), source }
}
