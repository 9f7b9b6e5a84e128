//! From samples to batches: any number of threads, batches strictly in step order, each a pure function of (seed, step).
//!
//! Threads take single draws and not whole batches, so that a large batch is ready as soon as a small one would be, and
//! memory is bounded by the prefetch alone. They stop taking draws when `n_prefetch_batches` batches are begun or
//! finished ahead of the consumer. Any step can be the first: nothing is walked or listed to get there.
//!
//! Different from PyTorch's `DataLoader`: no worker has a seed of its own, so the number of workers changes nothing; and
//! an error surfaces at the step that it belongs to, after all earlier batches were delivered.

mod batch;
mod failure;
mod options;
mod prepare;
mod queue;

pub use batch::{Batch, BatchImage, BatchObject, Drops, SkippedSample};
pub use failure::LoaderError;
pub use options::{ErrorPolicy, Labels, LoaderOptions, ObjectLimits, Order, SampleError, Samples, Subset};

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use queue::Queue;

/// How many skipped samples the report keeps by name; the count goes on.
const N_SKIPPED_EXAMPLES: usize = 20;

/// A stream of batches. Dropping it stops and joins its threads.
pub struct Loader {
    queue: Arc<Queue>,
    workers: Vec<JoinHandle<()>>,
    next_step: u64,
    is_done: bool,
    report: LoaderReport,
}

/// What a loader has done so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoaderReport {
    /// Batches delivered.
    pub n_batches: u64,
    /// Images in them.
    pub n_images: u64,
    /// Objects in them.
    pub n_objects: u64,
    /// How long the consumer has waited for batches in all.
    pub waited: Duration,
    /// How long it waited for the last one.
    pub waited_last: Duration,
    /// Sums over the delivered batches; `skipped` keeps the first few.
    pub drops: Drops,
    /// How many samples were skipped, named or not.
    pub n_skipped: u64,
}

impl Loader {
    /// A loader whose first batch is that of `first_step`. Its threads start at once.
    ///
    /// # Panics
    ///
    /// When the system refuses to start a thread, or a side in the options is zero.
    #[must_use]
    pub fn new(samples: Arc<dyn Samples>, options: LoaderOptions, first_step: u64) -> Self {
        assert!(
            options.side_px > 0 && options.mask_side_px > 0,
            "sides must be at least 1 px, got {} and {}",
            options.side_px,
            options.mask_side_px
        );
        let n_workers = options.n_workers;
        let queue = Arc::new(Queue::new(samples, options, first_step));
        let workers = (0..n_workers)
            .map(|worker| {
                let queue = Arc::clone(&queue);
                std::thread::Builder::new()
                    .name(format!("sam-data-{worker}"))
                    .spawn(move || queue.work())
                    .expect("the system must let a thread start")
            })
            .collect();
        Self { queue, workers, next_step: first_step, is_done: false, report: LoaderReport::default() }
    }

    /// The next step's batch, or `None` behind the end of [`Order::InOrderOnce`] and after an error.
    ///
    /// # Errors
    ///
    /// When the step's samples cannot be used and the policy does not allow to go on without them.
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

    /// The step whose batch comes next.
    #[must_use]
    pub fn next_step(&self) -> u64 {
        self.next_step
    }

    /// Counts and waiting time so far.
    #[must_use]
    pub fn report(&self) -> &LoaderReport {
        &self.report
    }

    /// Goes over batches whose every sample was skipped, which only validation can have; their drops are counted.
    fn next_with_images(&mut self) -> Option<Result<Batch, LoaderError>> {
        while !self.is_done {
            let result = self.queue.take(self.next_step)?;
            self.next_step += 1;
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
            // A worker catches panics of the work; one of its own has already been printed.
            drop(worker.join());
        }
    }
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loader")
            .field("n_workers", &self.workers.len())
            .field("next_step", &self.next_step)
            .field("report", &self.report)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
