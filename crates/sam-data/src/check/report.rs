//! The report of a check, in machine-readable form.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::finding::{ProblemKind, Severity};
use crate::source_options::Format;

/// Contents and problems of a data set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckReport {
    /// The path.
    pub path: String,
    /// The format, recognised or given.
    pub format: Format,
    /// Decisions made while opening, such as the meaning of label values.
    pub notes: Vec<String>,
    /// Images listed.
    pub images: u64,
    /// Images without objects.
    pub images_without_objects: u64,
    /// Objects in all images.
    pub objects: u64,
    /// Objects that have at least one caption.
    #[serde(default)]
    pub objects_with_captions: u64,
    /// Captions of all objects.
    #[serde(default)]
    pub captions: u64,
    /// Images with ignore regions.
    pub images_with_ignore: u64,
    /// Images in each part of the data set's own split.
    pub parts: BTreeMap<String, u64>,
    /// Objects per class.
    pub classes: Vec<ClassCount>,
    /// Histogram of object sizes at the scale where the image's longest side is `model_side_px`.
    pub sizes: Vec<SizeBin>,
    /// Longest side of the model's input.
    pub model_side_px: usize,
    /// Smallest and largest image, height and width.
    pub image_sizes_hw: Option<[[usize; 2]; 2]>,
    /// Images whose file or labels cannot be read.
    pub unreadable_images: u64,
    /// Unreadable images in percent.
    pub unreadable_percent: f64,
    /// Problems by kind, errors first.
    pub problems: Vec<Problem>,
}

/// Objects of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassCount {
    /// Name of the class.
    pub name: String,
    /// Objects in all parts.
    pub objects: u64,
    /// Objects in each part of the split.
    pub by_part: BTreeMap<String, u64>,
}

/// Number of objects in a range of sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SizeBin {
    /// Lower bound of the side in model pixels, inclusive.
    pub from_px: u32,
    /// Up to below this side; none for the last.
    pub to_px: Option<u32>,
    /// Number of objects.
    pub objects: u64,
}

/// All findings of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The kind.
    pub kind: ProblemKind,
    /// The severity.
    pub severity: Severity,
    /// Number of findings.
    pub count: u64,
    /// The first places.
    pub examples: Vec<String>,
    /// The suggested fix.
    pub fix: String,
}

impl CheckReport {
    /// Returns whether there are errors, which must be fixed before training.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// Returns the problem of this kind, if any.
    #[must_use]
    pub fn problem(&self, kind: ProblemKind) -> Option<&Problem> {
        self.problems.iter().find(|problem| problem.kind == kind)
    }
}
