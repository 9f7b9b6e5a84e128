//! Loads samples into batches: any number of threads, batches strictly in step order, each a pure function of (seed,
//! step).
//!
//! Threads take single draws, not whole batches, so a large batch has no longer latency than a small one, and memory is
//! bounded by the prefetch alone. They pause when `n_prefetch_batches` batches are begun or finished ahead of the
//! consumer. Any step can be the first: starting there costs nothing.
//!
//! Differs from PyTorch's `DataLoader`: workers have no seeds of their own, so their number changes nothing; and an
//! error surfaces at its step, after all earlier batches were delivered.
//!
//! The threads are the loader's own and not rayon's: workers block on the prefetch window and are joined on drop, and jobs
//! that block would starve the pool that the networks and the other commands share.

pub(crate) mod batch;
pub(crate) mod device;
mod drops;
mod failure;
mod options;
mod prepare;
mod queue;

pub use crate::sample::{SampleError, Samples, Subset};
pub use batch::Batch;
pub use drops::{Drops, SkippedSample};
pub use failure::LoaderError;
pub use options::{Content, ErrorPolicy, Labels, LoaderOptions, ObjectLimits, Order, Turns};

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use queue::Queue;

/// Number of skipped samples listed in the report; all are counted.
const N_SKIPPED_EXAMPLES: usize = 20;

/// A stream of batches. Dropping it stops and joins its threads.
pub struct Loader {
    queue: Arc<Queue>,
    workers: Vec<JoinHandle<()>>,
    /// Of those that this loader serves.
    nth_batch: u64,
    is_done: bool,
    report: LoaderReport,
}

/// Statistics of a loader.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoaderReport {
    /// Batches delivered.
    pub n_batches: u64,
    /// Images in the delivered batches.
    pub n_images: u64,
    /// Objects in the delivered batches.
    pub n_objects: u64,
    /// Total time the consumer has waited for batches.
    pub waited: Duration,
    /// Time it waited for the last batch.
    pub waited_last: Duration,
    /// Sums over the delivered batches; `skipped` holds the first few.
    pub drops: Drops,
    /// Number of skipped samples, listed or not.
    pub n_skipped: u64,
}

impl Loader {
    /// Creates a loader whose first batch is that of `first_step`, the first of its own from there. Its threads start immediately.
    ///
    /// # Panics
    ///
    /// When a thread cannot be started, or a side in the options is zero.
    #[must_use]
    pub fn new(samples: Arc<dyn Samples>, options: LoaderOptions, first_step: u64) -> Self {
        assert!(
            options.side_px > 0 && options.mask_side_px > 0,
            "sides must be at least 1 px, got {} and {}",
            options.side_px,
            options.mask_side_px
        );
        let (n_workers, nth_batch) = (options.n_workers, options.turns.nth(first_step));
        let queue = Arc::new(Queue::new(samples, options, first_step));
        let workers = (0..n_workers)
            .map(|worker| {
                let queue = Arc::clone(&queue);
                std::thread::Builder::new()
                    .name(format!("sam-data-{worker}"))
                    .spawn(move || queue.work())
                    .expect("a thread can be started")
            })
            .collect();
        Self { queue, workers, nth_batch, is_done: false, report: LoaderReport::default() }
    }

    /// Returns the next step's batch, or `None` after the end of [`Order::InOrderOnce`] and after an error.
    ///
    /// # Errors
    ///
    /// When the step's samples cannot be used and the policy does not allow skipping them.
    pub fn next_batch(&mut self) -> Option<Result<Batch, LoaderError>> {
        let asked = Instant::now();
        let result = self.next_with_images();
        self.report.waited_last = asked.elapsed();
        self.report.waited += self.report.waited_last;
        match &result {
            Some(Ok(batch)) => {
                self.report.n_batches += 1;
                self.report.n_images += batch.images.len() as u64;
                self.report.n_objects += batch.objects.len() as u64;
            }
            Some(Err(_)) | None => self.finish(),
        }
        result
    }

    /// Counts and waiting time so far.
    #[must_use]
    pub fn report(&self) -> &LoaderReport {
        &self.report
    }

    /// Skips batches without images, which occur only in validation; their drops are counted.
    fn next_with_images(&mut self) -> Option<Result<Batch, LoaderError>> {
        while !self.is_done {
            let result = self.queue.take(self.nth_batch)?;
            self.nth_batch += 1;
            if let Ok(batch) = &result {
                self.report.drops.add_counts(&batch.drops);
                self.report.n_skipped += batch.drops.skipped.len() as u64;
                let known = &mut self.report.drops.skipped;
                let room = N_SKIPPED_EXAMPLES - known.len();
                known.extend(batch.drops.skipped.iter().take(room).cloned());
                if batch.images.is_empty() {
                    continue;
                }
            }
            return Some(result);
        }
        None
    }

    fn finish(&mut self) {
        self.is_done = true;
        self.queue.stop();
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, LoaderError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_batch()
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.queue.stop();
        for worker in self.workers.drain(..) {
            // A worker catches panics of its work; any other has already been printed.
            drop(worker.join());
        }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("n_workers", &self.workers.len())
            .field("nth_batch", &self.nth_batch)
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
