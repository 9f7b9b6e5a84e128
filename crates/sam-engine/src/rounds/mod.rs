//! Rounds: the masks so far become a better model, which takes the place of the one in use if it is one.
//!
//! ```text
//! rounds/lock                  held by the process that works on a round
//! rounds/0001/collected.json   what the round began with; written last, once data/ is complete
//!             data/train, data/validation   the masks as they were, two SA-1B folders
//!             config.toml, run/             the training
//!             evaluate.toml, eval/          the model in use and the new one on the validation masks
//!             model.safetensors             the new one, if it is better
//!             decision.json                 the end of the round
//! ```
//!
//! Every phase ends with a file that is replaced atomically, so a round whose process was killed can be resumed. Which masks
//! belong to which round follows from the journal.

mod collect;
mod decide;
mod statistics;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use sam_files::{MAX_TEXT_BYTES, open_regular, read_regular, write_atomically};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use self::collect::collect;
pub use self::decide::{Decision, Gain, Verdict, decide};
pub use self::statistics::{MaskCounts, Statistics, mask_counts};
use crate::error::EngineError;
use crate::project::lock;

const COLLECTED: &str = "collected.json";
const DECISION: &str = "decision.json";
const PROGRESS: &str = "progress.json";

/// What a round began with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Collected {
    /// Seconds since 1970.
    pub started_unix_s: u64,
    /// The checkpoint in use when the round began.
    pub checkpoint: PathBuf,
    /// What people call it.
    pub model_name: String,
    /// Masks to learn from, and those that measure models.
    pub masks: MaskCounts,
    /// How the new masks were made.
    pub statistics: Statistics,
    /// Length of the journal: what comes later is of the next round.
    pub journal_bytes: u64,
}

/// What a round is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The masks are copied.
    Collect,
    /// The model learns.
    Train,
    /// Both models are measured.
    Evaluate,
    /// The new one is taken or not.
    Decide,
}

/// Written when a phase begins.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// The phase.
    pub phase: Phase,
    /// When it began, seconds since 1970.
    pub since_unix_s: f64,
}

/// The rounds of a project.
#[derive(Clone, Debug)]
pub struct Rounds {
    folder: PathBuf,
}

/// The folder of a round.
#[derive(Clone, Debug)]
pub struct Round {
    /// From 1.
    pub number: u32,
    path: PathBuf,
}

impl Rounds {
    /// The rounds of the project in this folder.
    #[must_use]
    pub fn of(project: &Path) -> Self {
        Self { folder: project.join("rounds") }
    }

    /// Keeps other processes from working on a round, until it is dropped.
    ///
    /// # Errors
    ///
    /// When another process does.
    pub fn lock(&self) -> Result<File, EngineError> {
        std::fs::create_dir_all(&self.folder).map_err(EngineError::io(&self.folder))?;
        lock(&self.folder.join("lock"))
    }

    /// Whether a process works on a round.
    #[must_use]
    pub fn is_running(&self) -> bool {
        let file = open_regular(&self.folder.join("lock"));
        file.is_ok_and(|file| file.try_lock_shared().is_err())
    }

    /// All rounds, the first one first.
    #[must_use]
    pub fn all(&self) -> Vec<Round> {
        let entries = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u32>().ok();
        let mut numbers: Vec<u32> = entries.filter_map(number).collect();
        numbers.sort_unstable();
        numbers.into_iter().map(|number| self.round(number)).collect()
    }

    /// The round that was begun and has no decision, or a new one.
    #[must_use]
    pub fn current(&self) -> Round {
        match self.all().pop() {
            Some(last) if last.decision().is_ok_and(|decision| decision.is_none()) => last,
            Some(last) => self.round(last.number + 1),
            None => self.round(1),
        }
    }

    fn round(&self, number: u32) -> Round {
        Round { number, path: self.folder.join(format!("{number:04}")) }
    }

    /// The journal's length at the last round that was collected, at most up to one.
    pub(crate) fn journal_bytes(&self) -> u64 {
        self.all().iter().rev().find_map(|round| round.collected().ok()?).map_or(0, |collected| collected.journal_bytes)
    }
}

impl Round {
    /// Its folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The masks to learn from.
    #[must_use]
    pub fn train_data(&self) -> PathBuf {
        self.path.join("data/train")
    }

    /// The masks that measure models.
    #[must_use]
    pub fn validation_data(&self) -> PathBuf {
        self.path.join("data/validation")
    }

    /// What it began with; `None` before its data is complete.
    ///
    /// # Errors
    ///
    /// When the file is damaged.
    pub fn collected(&self) -> Result<Option<Collected>, EngineError> {
        read_json(&self.path.join(COLLECTED))
    }

    /// How it ended; `None` until then.
    ///
    /// # Errors
    ///
    /// When the file is damaged.
    pub fn decision(&self) -> Result<Option<Decision>, EngineError> {
        read_json(&self.path.join(DECISION))
    }

    /// Ends the round.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn write_decision(&self, decision: &Decision) -> Result<(), EngineError> {
        write_json(&self.path.join(DECISION), decision)
    }

    /// What it is at.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        read_json(&self.path.join(PROGRESS)).ok()?
    }

    /// Notes that a phase begins.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn begin(&self, phase: Phase) -> Result<(), EngineError> {
        std::fs::create_dir_all(&self.path).map_err(EngineError::io(&self.path))?;
        write_json(&self.path.join(PROGRESS), &Progress { phase, since_unix_s: now_unix_s() })
    }
}

/// Seconds since 1970.
pub(crate) fn now_unix_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, EngineError> {
    match read_regular(path, MAX_TEXT_BYTES) {
        Ok(bytes) => {
            let damaged = |source| EngineError::Json { path: path.to_owned(), source };
            serde_json::from_slice(&bytes).map(Some).map_err(damaged)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(EngineError::Io { path: path.to_owned(), source }),
    }
}

pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), EngineError> {
    let text =
        serde_json::to_vec_pretty(value).map_err(|source| EngineError::Json { path: path.to_owned(), source })?;
    write_atomically(path, text).map(drop).map_err(EngineError::io(path))
}
