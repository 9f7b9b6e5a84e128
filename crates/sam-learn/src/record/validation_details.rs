//! What the validation of a run found in detail, for the report: all records of the baseline, the best and the last one, and
//! the best one's worst and best objects as images.

use std::path::{Path, PathBuf};

use sam_eval::{EvalError, EvalSet, Evaluation, Gallery, Results, galleries};
use sam_files::write_atomically;
use serde::{Deserialize, Serialize};

use crate::error::LearnError;

/// Folder in a run folder.
pub(crate) const FOLDER: &str = "validation";

/// Objects of each kind, worst and best.
const SHOWN: usize = 6;

/// Which validation of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// Before the first step.
    Baseline,
    Best,
    /// The newest that is neither.
    Last,
}

impl Which {
    fn file(self, folder: &Path) -> PathBuf {
        let name = match self {
            Self::Baseline => "baseline.json",
            Self::Best => "best.json",
            Self::Last => "last.json",
        };
        folder.join(FOLDER).join(name)
    }
}

/// An evaluation with its data.
pub(crate) struct Details {
    pub(crate) evaluation: Evaluation,
    pub(crate) sets: Vec<EvalSet>,
}

/// The content of a file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SavedDetails {
    /// Optimiser steps done.
    pub(super) step: u64,
    pub(super) results: Results,
    /// Worst and best objects.
    pub(super) galleries: Vec<Gallery>,
}

impl Details {
    /// Writes them into a run folder.
    pub(crate) fn write(self, folder: &Path, step: u64, which: Which) -> Result<(), LearnError> {
        let path = which.file(folder);
        let write_error = |source: std::io::Error| LearnError::Write { path: path.clone(), source };
        let report_error = |source: EvalError| LearnError::Report { source };
        let galleries = match which {
            Which::Best => galleries(&self.evaluation, &self.sets, SHOWN).map_err(report_error)?,
            Which::Baseline | Which::Last => Vec::new(),
        };
        let saved = SavedDetails { step, results: self.evaluation.results, galleries };
        let text = serde_json::to_vec(&saved).map_err(|error| write_error(error.into()))?;
        std::fs::create_dir_all(folder.join(FOLDER)).map_err(write_error)?;
        write_atomically(&path, &text).map(drop).map_err(write_error)
    }
}

impl SavedDetails {
    /// Those of the validation after a step; `None` when there are none, as in runs of earlier versions. A run that was resumed
    /// from an older save may have those of a later step, which are not its own.
    pub(super) fn read(folder: &Path, which: Which, step: u64) -> Result<Option<Self>, LearnError> {
        let path = which.file(folder);
        let read_error = |reason: String| LearnError::Read { path: path.clone(), reason };
        let bytes = match sam_files::read_regular(&path, sam_files::MAX_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(read_error(error.to_string())),
        };
        let saved: Self = serde_json::from_slice(&bytes).map_err(|error| read_error(error.to_string()))?;
        Ok((saved.step == step).then_some(saved))
    }
}
