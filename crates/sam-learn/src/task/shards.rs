//! Shards of a batch, computed side by side. Small models leave most of a CPU idle: their operations are too short to be
//! worth several threads. So each shard has threads of its own, and never waits for those of another.

use std::ops::Range;
use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::LearnError;

/// Thread pools for the shards of a batch; a single shard has all threads.
#[derive(Clone, Debug)]
pub struct ShardPools {
    pools: Arc<Vec<ThreadPool>>,
}

impl ShardPools {
    /// Divides the threads that the program may use among `n` shards, at least one for each.
    ///
    /// # Errors
    ///
    /// When the threads cannot be started.
    pub fn new(n: usize) -> Result<Self, LearnError> {
        if n <= 1 {
            return Ok(Self { pools: Arc::default() });
        }
        let n_threads = (rayon::current_num_threads() / n).max(1);
        let pool = |shard: usize| {
            let builder = ThreadPoolBuilder::new().num_threads(n_threads);
            builder.thread_name(move |thread| format!("shard {shard} thread {thread}")).build()
        };
        let pools: Result<Vec<ThreadPool>, _> = (0..n).map(pool).collect();
        let pools = pools.map_err(|error| LearnError::NoThreads { n_shards: n, reason: error.to_string() })?;
        Ok(Self { pools: Arc::new(pools) })
    }

    /// Number of shards.
    #[must_use]
    pub fn n(&self) -> usize {
        self.pools.len().max(1)
    }

    /// Runs the work of all shards side by side and returns the results in order; at most [`ShardPools::n`] of them.
    ///
    /// # Panics
    ///
    /// When one of them panics.
    pub(crate) fn run<T: Send>(&self, work: Vec<impl FnOnce() -> T + Send>) -> Vec<T> {
        assert!(work.len() <= self.n(), "{} pieces of work for {} shards", work.len(), self.n());
        if self.pools.is_empty() {
            return work.into_iter().map(|work| work()).collect();
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> = work
                .into_iter()
                .zip(self.pools.iter())
                .map(|(work, pool)| scope.spawn(|| pool.install(work)))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    }
}

/// The seed of a shard's random draws; the first, or only one, has the step's. Far from those next to it, which are the stages' of an
/// encoder.
pub(super) fn shard_seed(step_seed: u64, shard: u64) -> u64 {
    step_seed.wrapping_add(shard << 32)
}

/// The images of each shard: at most `n_shards` ranges that differ by one image at most.
pub(super) fn shard_ranges(n_images: usize, n_shards: usize) -> Vec<Range<usize>> {
    let n = n_shards.min(n_images);
    (0..n).map(|shard| shard * n_images / n..(shard + 1) * n_images / n).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_in_order_and_the_shards_divide_the_threads() {
        // As with `run.threads = 7`: the threads of the program and not those of the machine are divided.
        let program = ThreadPoolBuilder::new().num_threads(7).build().expect("threads");
        let shards = program.install(|| ShardPools::new(3)).expect("threads");
        let work: Vec<_> = (0..3).map(|shard| move || (shard, rayon::current_num_threads())).collect();
        assert_eq!(shards.run(work), [(0, 2), (1, 2), (2, 2)]);
        let many = program.install(|| ShardPools::new(9)).expect("threads");
        assert_eq!(many.run(vec![rayon::current_num_threads]), [1]);
        assert_eq!(ShardPools::new(1).expect("nothing to start").run(vec![|| 7]), [7]);
    }

    #[test]
    fn shards_cover_the_batch_once() {
        assert_eq!(shard_ranges(5, 2), [0..2, 2..5]);
        assert_eq!(shard_ranges(2, 3), [0..1, 1..2]);
    }
}
