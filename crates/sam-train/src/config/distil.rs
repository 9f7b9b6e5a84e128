//! `task = "distil"`: `[distil]`, the teacher of a training and what is learned from it. Everything else is as in a training.

use std::path::PathBuf;

use sam_learn::options::DistilOptions;
use serde::{Deserialize, Serialize};

use super::pretrain::SourceKind;
use super::reader::Reader;

/// Key of the teacher.
pub(crate) const TEACHER: &str = "distil.teacher";

/// The largest weight of the embeddings that makes sense beside the masks.
const MAX_WEIGHT: f64 = 1e6;

/// A teacher, and what is learned from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DistilPlan {
    /// Its checkpoint, or the folder of a run.
    pub(crate) teacher: PathBuf,
    /// What is learned.
    pub(crate) options: DistilOptions,
}

impl DistilPlan {
    /// For a run of `steps` on images that may have no labels.
    pub(super) fn read(reader: &Reader<'_>, steps: u64, source: SourceKind) -> Self {
        let distil = reader.top().section("distil");
        let teacher = distil.input_path_if_given("teacher");
        let what = "a checkpoint or the folder of a run, from which the student learns";
        let teacher = distil.required("teacher", what, teacher, PathBuf::new());
        let default = DistilOptions::new(steps);
        let embedding_steps = match source {
            SourceKind::Images => steps,
            SourceKind::Labelled => default.embedding_steps,
        };
        let options = DistilOptions {
            embedding_steps: distil.integer("embedding_steps", embedding_steps, 0..),
            embedding_weight: distil.float("embedding_weight", default.embedding_weight, 0.0..=MAX_WEIGHT),
            teacher_share: distil.float("teacher_share", default.teacher_share, 0.0..=1.0),
        };
        let keys = ["distil.embedding_steps", "schedule.steps"];
        let expected = format!("at most schedule.steps ({steps})");
        reader.check(options.embedding_steps <= steps, &keys, &expected, options.embedding_steps);
        let keys = ["distil.embedding_steps", "data.source"];
        let expected =
            format!("schedule.steps ({steps}) for images without labels: masks need objects that are prompted");
        let has_labels = source == SourceKind::Labelled || options.embedding_steps >= steps;
        reader.check(has_labels, &keys, &expected, options.embedding_steps);
        Self { teacher, options }
    }
}
