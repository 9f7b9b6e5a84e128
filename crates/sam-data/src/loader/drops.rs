//! Counts of objects and samples that are not in a batch.

use serde::{Deserialize, Serialize};

/// Objects and samples dropped from a batch; sums over batches are those of the run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Drops {
    /// Objects of which nothing is visible (cropped away, or thinner than the mask's grid).
    pub n_erased: u64,
    /// Objects with fewer visible pixels than `visible_px_min`.
    pub n_too_small: u64,
    /// Objects above `image_share_max`.
    pub n_too_large: u64,
    /// Objects not sampled because of the limits.
    pub n_over_cap: u64,
    /// Views sampled again because they showed no object.
    pub n_views_redrawn: u64,
    /// Samples without any usable object: replaced in `Order::ShuffledEpochs`, kept in `Order::InOrderOnce`.
    pub n_without_objects: u64,
    /// Unreadable samples, with the reason.
    pub skipped: Vec<SkippedSample>,
}

/// An unreadable sample.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedSample {
    /// Index in the data set.
    pub sample_index: usize,
    /// The draw that needed it.
    pub draw: u64,
    /// The source's error, which names the file.
    pub reason: String,
}

impl Drops {
    pub(crate) fn add_counts(&mut self, other: &Self) {
        self.n_erased += other.n_erased;
        self.n_too_small += other.n_too_small;
        self.n_too_large += other.n_too_large;
        self.n_over_cap += other.n_over_cap;
        self.n_views_redrawn += other.n_views_redrawn;
        self.n_without_objects += other.n_without_objects;
    }
}
