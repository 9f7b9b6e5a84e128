//! What a data set loses when it is read, counted as `data check` counts it.
//!
//! A run that trains or evaluates looks at every image and annotation before its first step, so that nothing is lost without
//! a word, errors show at once instead of after an hour, and a set without objects is no surprise.

use serde::{Deserialize, Serialize};

use super::report::Problem;
use super::totals::Totals;
use super::{Rule, scan};
use crate::error::DataError;
use crate::filter::FilterCounts;
use crate::finding::{Finding, ProblemKind};
use crate::source::Source;

/// Images that are not used, and annotations that yield no object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Images of the data set.
    pub images: u64,
    /// Images looked at.
    pub images_read: u64,
    /// Images that cannot be read, among those.
    pub unreadable_images: u64,
    /// Objects that are left, among those.
    pub objects: u64,
    /// The problems that lose something, errors first.
    pub problems: Vec<Problem>,
    /// Objects that the size filter drops.
    pub filtered: FilterCounts,
}

impl Losses {
    /// Whether nothing is lost.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.is_empty() && self.filtered == FilterCounts::default()
    }
}

/// What is known of an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ImageState {
    /// It was not looked at.
    #[default]
    Unknown,
    Unreadable,
    /// Readable, with this number of objects.
    Objects(u32),
}

/// A data set after every image and annotation was looked at.
#[derive(Debug)]
pub struct Survey {
    /// What is lost.
    pub losses: Losses,
    states: Vec<ImageState>,
    /// Number of the findings that stop reading, and the first.
    stopping: (u64, Vec<Finding>),
}

impl Survey {
    /// Whether an image can be read, as far as is known.
    #[must_use]
    pub fn is_readable(&self, index: usize) -> bool {
        self.states[index] != ImageState::Unreadable
    }

    /// Whether any of these images has an object; also true where not all of them were looked at.
    #[must_use]
    pub fn may_have_objects(&self, indices: &[usize]) -> bool {
        indices.iter().any(|&index| !matches!(self.states[index], ImageState::Unreadable | ImageState::Objects(0)))
    }

    /// The error of a data set whose bad data is not to be dropped; `None` when it has none.
    #[must_use]
    pub fn refusal(&self, source: &Source) -> Option<DataError> {
        let (count, findings) = self.stopping.clone();
        (count > 0).then(|| DataError::Findings { path: source.root().to_path_buf(), count, findings })
    }
}

/// Reads these images of a data set and their annotations. `progress` is called from all threads with the number of images
/// and the total.
///
/// # Panics
///
/// When there is no such image.
#[must_use]
pub fn survey(source: &Source, indices: &[usize], progress: &(dyn Fn(usize, usize) + Sync)) -> Survey {
    let mut all = Totals::default();
    source.listing().iter().for_each(|finding| all.note(finding.clone()));
    let mut all = all.merged(scan(source, indices, &Rule::of(&source.options().filter), progress));
    let mut states = vec![ImageState::default(); source.len()];
    for (index, state) in all.take_states() {
        states[index] = state;
    }
    let stopping = all.take_stopping();
    let losses = all.losses(source.len(), indices.len());
    Survey { losses, states, stopping }
}

/// Whether findings of a kind lose an image or an object.
pub(super) fn is_loss(kind: ProblemKind) -> bool {
    match kind {
        ProblemKind::PolygonShort
        | ProblemKind::ImageUnpaired
        | ProblemKind::ImageListedTwice
        | ProblemKind::LabelsPerImage => true,
        // Of the whole data set: nothing is lost.
        ProblemKind::NoObjects | ProblemKind::SameImageAcrossSplits => false,
        kind => kind.drops_object(),
    }
}
