//! Counts of findings while reading, once per image however often it is read.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::filter::FilterCounts;
use crate::finding::{Finding, ProblemKind};

/// Counters shared by worker threads.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// One bit per image: whether it has been counted.
    visited: Vec<AtomicU64>,
    kinds: Mutex<BTreeMap<ProblemKind, u64>>,
    too_large: AtomicU64,
    too_small: AtomicU64,
}

impl Tally {
    pub(crate) fn new(n_images: usize) -> Self {
        Self { visited: (0..n_images.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(), ..Self::default() }
    }

    pub(crate) fn is_first_visit(&self, index: usize) -> bool {
        let bit = 1 << (index % 64);
        self.visited[index / 64].fetch_or(bit, Ordering::Relaxed) & bit == 0
    }

    pub(crate) fn add(&self, findings: &[Finding]) {
        if findings.is_empty() {
            return;
        }
        let mut kinds = self.kinds.lock().unwrap_or_else(PoisonError::into_inner);
        for finding in findings {
            *kinds.entry(finding.kind).or_default() += 1;
        }
    }

    pub(crate) fn add_filtered(&self, counts: FilterCounts) {
        self.too_large.fetch_add(counts.too_large, Ordering::Relaxed);
        self.too_small.fetch_add(counts.too_small, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> BTreeMap<ProblemKind, u64> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn filtered(&self) -> FilterCounts {
        FilterCounts {
            too_large: self.too_large.load(Ordering::Relaxed),
            too_small: self.too_small.load(Ordering::Relaxed),
        }
    }
}
