//! `probe.json`: all numbers of a probe, for programs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow};
use sam_eval::{ClassScores, Interval};
use sam_files::write_atomically;
use serde::Serialize;

use super::data::ClassCount;

/// Of the file; a later program that changes its meaning counts up.
const FORMAT: u32 = 1;

/// In the folder of results.
pub(crate) const RESULTS: &str = "probe.json";

/// Everything that came of a probe.
#[derive(Debug, Serialize)]
pub(crate) struct ProbeResults {
    format: u32,
    /// Where and by what it was computed; no times, so that equal probes leave equal files.
    pub(crate) about: BTreeMap<String, String>,
    /// In the order in which lists by class have them.
    pub(crate) classes: Vec<ClassCount>,
    /// What was left out, a sentence each.
    pub(crate) left_out: Vec<String>,
    /// Neighbours that vote.
    pub(crate) neighbours: usize,
    /// Features, best known first: checkpoints, random weights, pixels.
    pub(crate) rows: Vec<Row>,
    /// What is right when the most frequent class of what is learned from is always said.
    pub(crate) most_frequent_class: ClassScores,
}

/// Some features.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// In the table.
    pub(crate) name: String,
    /// What they are.
    pub(crate) kind: RowKind,
    /// The network, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) encoder: Option<String>,
    /// How many features there are.
    pub(crate) width: usize,
    pub(crate) neighbours: Scores,
    pub(crate) linear: Scores,
    /// How small the weights of the linear layer are held.
    pub(crate) penalty: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RowKind {
    /// Of an encoder with the weights of a checkpoint.
    Checkpoint,
    /// Of the same with random weights.
    RandomWeights,
    /// Of no network.
    Pixels,
}

/// Of one classifier.
#[derive(Debug, Serialize)]
pub(crate) struct Scores {
    #[serde(flatten)]
    pub(crate) scores: ClassScores,
    /// By how much its accuracy is above that of the same encoder with random weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) less_random: Option<Interval>,
}

impl ProbeResults {
    pub(crate) fn new(classes: Vec<ClassCount>, neighbours: usize, most_frequent_class: ClassScores) -> Self {
        Self {
            format: FORMAT,
            about: BTreeMap::new(),
            classes,
            left_out: Vec::new(),
            neighbours,
            rows: Vec::new(),
            most_frequent_class,
        }
    }

    pub(crate) fn write(&self, out: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
        let path = out.join(RESULTS);
        let text = serde_json::to_string_pretty(self)? + "\n";
        write_atomically(&path, &text).map_err(|error| anyhow!("{}: {error}", path.display()))?;
        Ok(())
    }
}
