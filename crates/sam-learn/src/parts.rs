//! Parts of a batch side by side. Small models leave most of a processor idle: their operations are too short to be worth
//! several threads. So each part has threads of its own, and never waits for those of another.

use std::sync::Arc;

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::error::LearnError;

/// Threads for each part; one part has them all.
#[derive(Clone, Debug)]
pub struct Parts {
    pools: Arc<Vec<ThreadPool>>,
}

impl Parts {
    /// Shares the processor's threads among `n` parts, at least one for each.
    ///
    /// # Errors
    ///
    /// When the system gives no more threads.
    pub fn new(n: usize) -> Result<Self, LearnError> {
        if n <= 1 {
            return Ok(Self { pools: Arc::default() });
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let n_threads = (cores / n).max(1);
        let pool = |part: usize| {
            let builder = ThreadPoolBuilder::new().num_threads(n_threads);
            builder.thread_name(move |thread| format!("part {part} thread {thread}")).build()
        };
        let pools: Result<Vec<ThreadPool>, _> = (0..n).map(pool).collect();
        let pools = pools.map_err(|error| LearnError::NoThreads { n_parts: n, reason: error.to_string() })?;
        Ok(Self { pools: Arc::new(pools) })
    }

    /// How many.
    #[must_use]
    pub fn n(&self) -> usize {
        self.pools.len().max(1)
    }

    /// Does all pieces of work side by side, in order the results; at most as many as there are parts.
    ///
    /// # Panics
    ///
    /// When one of them panics.
    pub fn run<T: Send>(&self, work: Vec<impl FnOnce() -> T + Send>) -> Vec<T> {
        assert!(work.len() <= self.n(), "{} pieces of work for {} parts", work.len(), self.n());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_order_and_each_part_has_its_threads() {
        let parts = Parts::new(3).expect("threads");
        let work: Vec<_> = (0..3).map(|part| move || (part, rayon::current_num_threads())).collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let n_threads = (cores / 3).max(1);
        assert_eq!(parts.run(work), [(0, n_threads), (1, n_threads), (2, n_threads)]);
        assert_eq!(Parts::new(1).expect("nothing to make").run(vec![|| 7]), [7]);
    }
}
