//! `probe.json`: all numbers of a probe, for programs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow};
use sam_eval::{ClassScores, Interval};
use sam_files::write_atomically;
use serde::Serialize;

use super::data::ClassCount;

/// Version of the file; increase it with every change of meaning.
const FORMAT: u32 = 1;

/// Name of the file.
pub(crate) const RESULTS: &str = "probe.json";

/// All results of a probe.
#[derive(Debug, Serialize)]
pub(crate) struct ProbeResults {
    format: u32,
    /// The origin of the results; without times, so that equal probes write equal files.
    pub(crate) about: BTreeMap<String, String>,
    /// In the order of lists by class.
    pub(crate) classes: Vec<ClassCount>,
    /// What was excluded, a sentence each.
    pub(crate) left_out: Vec<String>,
    /// Neighbours that vote.
    pub(crate) neighbours: usize,
    /// Checkpoints first, then random weights, then pixels.
    pub(crate) rows: Vec<Row>,
    /// Scores of always predicting the most frequent class of the training samples.
    pub(crate) most_frequent_class: ClassScores,
}

/// The scores of one kind of features.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// Name in the table.
    pub(crate) name: String,
    /// Kind of the features.
    pub(crate) kind: RowKind,
    /// The network, except for pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) encoder: Option<String>,
    /// Number of features.
    pub(crate) width: usize,
    pub(crate) neighbours: Scores,
    pub(crate) linear: Scores,
    /// L2 penalty of the linear layer.
    pub(crate) penalty: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RowKind {
    /// An encoder with the weights of a checkpoint.
    Checkpoint,
    /// The same encoder with random weights.
    RandomWeights,
    /// No network.
    Pixels,
}

/// The scores of one classifier.
#[derive(Debug, Serialize)]
pub(crate) struct Scores {
    #[serde(flatten)]
    pub(crate) scores: ClassScores,
    /// Accuracy minus that of the same encoder with random weights.
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
