//! What a check found, in a form that programs read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::finding::{ProblemKind, Severity};
use crate::source_options::Format;

/// What a data set is and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// What was looked at.
    pub path: String,
    /// The format that was found or named.
    pub format: Format,
    /// What was decided about it.
    pub notes: Vec<String>,
    /// How many images are listed.
    pub images: u64,
    /// How many of them have no object.
    pub images_without_objects: u64,
    /// How many objects there are.
    pub objects: u64,
    /// How many images have pixels that do not count.
    pub images_with_ignore: u64,
    /// Images of each part that the data set comes with.
    pub parts: BTreeMap<String, u64>,
    /// Objects of each class.
    pub classes: Vec<ClassCount>,
    /// How large objects are where the image's longest side is `model_side_px`.
    pub sizes: Vec<SizeBin>,
    /// Longest side of images in the model.
    pub model_side_px: usize,
    /// Smallest and largest image, height and width.
    pub image_sizes_hw: Option<[[usize; 2]; 2]>,
    /// Images of which the file or the labels cannot be read.
    pub unreadable_images: u64,
    /// The same as a percentage.
    pub unreadable_percent: f64,
    /// Each kind of problem, errors first.
    pub problems: Vec<Problem>,
}

/// Objects of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    /// The class.
    pub name: String,
    /// Objects in all.
    pub objects: u64,
    /// Objects in each part of the split.
    pub by_part: BTreeMap<String, u64>,
}

/// Objects of one range of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeBin {
    /// From this side on, in pixels of the model.
    pub from_px: u32,
    /// Up to below this side; none for the last.
    pub to_px: Option<u32>,
    /// How many objects.
    pub objects: u64,
}

/// All findings of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// What kind.
    pub kind: ProblemKind,
    /// How bad.
    pub severity: Severity,
    /// How many.
    pub count: u64,
    /// The first of them.
    pub examples: Vec<String>,
    /// What to do.
    pub fix: String,
}

impl CheckReport {
    /// Whether anything must be mended before training.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// The problem of this kind, if there is one.
    #[must_use]
    pub fn problem(&self, kind: ProblemKind) -> Option<&Problem> {
        self.problems.iter().find(|problem| problem.kind == kind)
    }
}
