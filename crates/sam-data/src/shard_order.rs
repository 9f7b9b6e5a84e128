//! The order of an epoch over shards: random as far as a cache of a few shards allows.
//!
//! A uniform order would need every shard at every moment. Instead the shards are permuted, and the samples of each
//! [pool](ShardOrder::new) of consecutive shards are permuted among themselves: within a pool the order is as random as over a
//! whole data set, and a reader needs the shards of one pool, and soon those of the next. Each sample comes once per epoch.
//! Everything is a function of (seed, epoch, position), evaluated at any position, so a run can start at any step.
//!
//! Where WebDataset keeps a buffer of samples, whose content depends on the history, this keeps nothing: compare its
//! `shuffle(1000)` of a stream of shuffled shards.

use std::sync::{Arc, Mutex, PoisonError};

use crate::permutation::Permutation;
use crate::random::{Purpose, RandomStream};

/// Layouts of epochs that are kept: the one being read, and the next, which is prefetched.
const N_KEPT: usize = 3;

/// The shards of a data set, and how many of them are drawn from at a time.
#[derive(Debug)]
pub struct ShardOrder {
    /// Index of the first sample of each shard, and at the end the number of all.
    starts: Vec<u64>,
    pooled: usize,
    /// Where each shard comes in the last epochs that were asked for.
    layouts: Mutex<Vec<Arc<Layout>>>,
}

/// The shards of an epoch in their order.
#[derive(Debug)]
struct Layout {
    seed: u64,
    epoch: u64,
    shards: Vec<usize>,
    /// Position at which each of them begins if its samples came one after the other, and at the end the number of all.
    starts: Vec<u64>,
}

/// The shards that are drawn from together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pool {
    /// Counts the pools from the first epoch.
    pub(crate) number: u64,
    /// A sample of each of its shards.
    pub(crate) now: Vec<usize>,
    /// A sample of each shard of the pool after it.
    pub(crate) next: Vec<usize>,
}

impl PartialEq for ShardOrder {
    fn eq(&self, other: &Self) -> bool {
        (&self.starts, self.pooled) == (&other.starts, other.pooled)
    }
}

impl ShardOrder {
    /// Shards of these numbers of samples, one after the other, of which `pooled` at a time are drawn from. Those without
    /// samples are left out.
    ///
    /// # Panics
    ///
    /// When no shard has a sample, or `pooled` is zero.
    #[must_use]
    pub fn new(n_samples: impl IntoIterator<Item = usize>, pooled: usize) -> Self {
        let mut starts = vec![0u64];
        for n in n_samples.into_iter().filter(|&n| n > 0) {
            starts.push(starts[starts.len() - 1] + n as u64);
        }
        assert!(starts.len() > 1 && pooled > 0, "there must be a sample and a shard in a pool");
        Self { starts, pooled, layouts: Mutex::default() }
    }

    /// The shards of a subset, whose ascending indices are those of the samples that it takes; `None` if they do not ascend.
    pub(crate) fn of_subset(&self, indices: &[u32]) -> Option<Self> {
        if indices.is_empty() || !indices.is_sorted() {
            return None;
        }
        let below = |end: u64| indices.partition_point(|&index| u64::from(index) < end);
        let n_samples = self.starts.windows(2).map(|ends| below(ends[1]) - below(ends[0]));
        Some(Self::new(n_samples.collect::<Vec<_>>(), self.pooled))
    }

    /// Number of samples.
    #[must_use]
    pub fn n_samples(&self) -> u64 {
        self.starts[self.n_shards()]
    }

    fn n_shards(&self) -> usize {
        self.starts.len() - 1
    }

    fn pools_per_epoch(&self) -> u64 {
        self.n_shards().div_ceil(self.pooled) as u64
    }

    /// The sample at a position of an epoch.
    ///
    /// # Panics
    ///
    /// When the position is not below the number of samples.
    #[must_use]
    pub fn at(&self, seed: u64, epoch: u64, position: u64) -> usize {
        let layout = self.layout(seed, epoch);
        let pool = layout.shard_at(position) / self.pooled;
        let (first, end) = (pool * self.pooled, self.n_shards().min((pool + 1) * self.pooled));
        let (begins, ends) = (layout.starts[first], layout.starts[end]);
        let permutation = Permutation::keyed(ends - begins, seed, Purpose::Pool, &[epoch, pool as u64]);
        let drawn = begins + permutation.at(position - begins);
        let place = layout.shard_at(drawn);
        (self.starts[layout.shards[place]] + drawn - layout.starts[place]) as usize
    }

    /// The number of the pool of a position of an epoch, counted from the first epoch.
    pub(crate) fn pool_number(&self, seed: u64, epoch: u64, position: u64) -> u64 {
        let pool = (self.layout(seed, epoch).shard_at(position) / self.pooled) as u64;
        epoch.saturating_mul(self.pools_per_epoch()).saturating_add(pool)
    }

    /// The pool of a number, and the one after it, which may be the first of the next epoch.
    pub(crate) fn pool(&self, seed: u64, number: u64) -> Pool {
        Pool { number, now: self.samples_of(seed, number), next: self.samples_of(seed, number.saturating_add(1)) }
    }

    fn samples_of(&self, seed: u64, number: u64) -> Vec<usize> {
        let (epoch, pool) = (number / self.pools_per_epoch(), (number % self.pools_per_epoch()) as usize);
        let layout = self.layout(seed, epoch);
        let shards = layout.shards.iter().skip(pool * self.pooled).take(self.pooled);
        shards.map(|&shard| self.starts[shard] as usize).collect()
    }

    fn layout(&self, seed: u64, epoch: u64) -> Arc<Layout> {
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layout) = layouts.iter().find(|layout| (layout.seed, layout.epoch) == (seed, epoch)) {
            return Arc::clone(layout);
        }
        let mut shards: Vec<usize> = (0..self.n_shards()).collect();
        RandomStream::new(seed, Purpose::Shards, &[epoch]).shuffle(&mut shards);
        let mut starts = vec![0u64];
        for &shard in &shards {
            starts.push(starts[starts.len() - 1] + self.starts[shard + 1] - self.starts[shard]);
        }
        let layout = Arc::new(Layout { seed, epoch, shards, starts });
        layouts.insert(0, Arc::clone(&layout));
        layouts.truncate(N_KEPT);
        layout
    }
}

impl Layout {
    fn shard_at(&self, position: u64) -> usize {
        assert!(self.starts.last().is_some_and(|&n| position < n), "a position must be below the number of samples");
        self.starts.partition_point(|&start| start <= position) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: [usize; 7] = [5, 3, 0, 8, 1, 4, 9];

    fn epoch(order: &ShardOrder, seed: u64, epoch: u64) -> Vec<usize> {
        (0..order.n_samples()).map(|position| order.at(seed, epoch, position)).collect()
    }

    #[test]
    fn an_epoch_has_every_sample_once_and_few_shards_at_a_time() {
        let order = ShardOrder::new(SIZES, 2);
        for seed in 0..20 {
            let mut drawn = epoch(&order, seed, 3);
            let pools: Vec<u64> = (0..30).map(|position| order.pool_number(seed, 3, position)).collect();
            assert!(pools.is_sorted() && pools[0] == 9 && pools[29] == 11, "{pools:?}");
            for (position, &sample) in drawn.iter().enumerate() {
                let pool = order.pool(seed, pools[position]);
                let shard = |sample: usize| order.starts.partition_point(|&start| start <= sample as u64);
                assert!(pool.now.len() == 2 && pool.now.iter().any(|&first| shard(first) == shard(sample)));
                let after = order.pool(seed, pools[position] + 1);
                assert_eq!(pool.next, after.now);
            }
            drawn.sort_unstable();
            assert_eq!(drawn, Vec::from_iter(0..30));
        }
    }

    #[test]
    fn the_order_is_a_function_of_seed_epoch_and_position() {
        let (one, other) = (ShardOrder::new(SIZES, 3), ShardOrder::new(SIZES, 3));
        let first = epoch(&one, 1, 0);
        // Asked for in any order, with other epochs in between.
        for position in (0..30).rev() {
            let _ = other.at(1, position, position);
            assert_eq!(other.at(1, 0, position), first[position as usize]);
        }
        assert_ne!(first, epoch(&one, 2, 0), "another seed");
        assert_ne!(first, epoch(&one, 1, 1), "another epoch");
        assert_ne!(first, epoch(&ShardOrder::new(SIZES, 2), 1, 0), "other pools");
    }

    #[test]
    fn pools_mix_their_shards_and_any_shard_may_come_first() {
        // All in one pool: the position of a sample is uniform.
        let order = ShardOrder::new([50, 50], 2);
        let n_first_half = epoch(&order, 7, 0)[..50].iter().filter(|&&sample| sample < 50).count();
        assert!((15..=35).contains(&n_first_half), "{n_first_half}");
        let order = ShardOrder::new([1; 4], 1);
        let mut counts = [0; 4];
        (0..4000).for_each(|seed| counts[order.at(seed, 0, 0)] += 1);
        assert!(counts.iter().all(|n| (900..1100).contains(n)), "{counts:?}");
    }

    #[test]
    fn a_subset_has_the_shards_that_it_takes_of() {
        let order = ShardOrder::new([4, 4, 4], 2);
        let subset = order.of_subset(&[1, 3, 8, 9, 11]).expect("ascending");
        assert_eq!(subset, ShardOrder::new([2, 3], 2));
        assert_eq!(order.of_subset(&[3, 1]), None);
        assert_eq!(order.of_subset(&[]), None);
    }
}
