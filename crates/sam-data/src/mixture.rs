//! Several data sets as one: all of their samples, drawn by the weights of the sets.
//!
//! Draws come in blocks of [`BLOCK`], of which each set has its share, shuffled. Within a set the order is that of
//! [`crate::loader::Order::ShuffledEpochs`]: every sample once before any comes again; that of a set in shards is the order of its
//! shards. So the source of a draw is a function
//! of the seed and the draw alone, in constant time, and the weights hold in every block and not only on average.

use std::sync::Arc;

use crate::permutation::Permutation;
use crate::random::{Purpose, RandomStream};
use crate::sample::{Sample, SampleError, Samples, Undecoded};
use crate::shard_order::ShardOrder;

/// Draws of a block: shares are multiples of a thousandth.
const BLOCK: u64 = 1000;

/// A set of a mixture.
#[derive(Debug, Clone, PartialEq)]
pub struct Share {
    /// Number of its samples, at least one.
    pub n_samples: usize,
    /// Its draws relative to those of the others; above 0.
    pub weight: f64,
    /// Its [`Samples::shard_order`].
    pub shards: Option<Arc<ShardOrder>>,
}

/// The samples of several sets, one set after the other.
#[derive(Clone)]
pub struct Joined {
    sets: Vec<Arc<dyn Samples>>,
}

impl Joined {
    /// Joins sets in this order.
    #[must_use]
    pub fn new(sets: Vec<Arc<dyn Samples>>) -> Self {
        Self { sets }
    }

    fn find(&self, mut index: usize) -> (&Arc<dyn Samples>, usize) {
        for set in &self.sets {
            if index < set.n_samples() {
                return (set, index);
            }
            index -= set.n_samples();
        }
        panic!("there are {} samples, none with the index {}", self.n_samples(), index + self.n_samples());
    }
}

impl Samples for Joined {
    fn n_samples(&self) -> usize {
        self.sets.iter().map(|set| set.n_samples()).sum()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        let (set, index) = self.find(index);
        set.sample(index)
    }

    fn undecoded(&self, index: usize) -> Result<Undecoded, SampleError> {
        let (set, index) = self.find(index);
        set.undecoded(index)
    }

    fn announce(&self, now: &[usize], next: &[usize]) {
        // Only the sets that are named: what was announced of the others holds. Nothing at all is for all of them.
        let is_end = now.is_empty() && next.is_empty();
        let mut start = 0;
        for set in &self.sets {
            let within = start..start + set.n_samples();
            let of = |samples: &[usize]| -> Vec<usize> {
                samples.iter().filter(|index| within.contains(index)).map(|index| index - start).collect()
            };
            let [now, next] = [now, next].map(of);
            if is_end || !now.is_empty() || !next.is_empty() {
                set.announce(&now, &next);
            }
            start = within.end;
        }
    }

    fn class_names(&self, index: usize) -> &[String] {
        let (set, index) = self.find(index);
        set.class_names(index)
    }
}

/// The set of a draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Drawn {
    /// Its place among the sets.
    pub(crate) set: usize,
    /// The seed of its order, in which this sample is the nth.
    pub(crate) seed: u64,
    /// Counted from the first epoch.
    pub(crate) nth: u64,
    /// Index of the set's first sample among those of all sets.
    pub(crate) start: usize,
    /// Number of its samples.
    pub(crate) n_samples: usize,
    /// Index of the sample among those of all sets.
    pub(crate) index: usize,
}

/// The sample of a draw.
///
/// # Panics
///
/// When there is no set, or one without samples or weight.
pub(crate) fn drawn(shares: &[Share], draw: u64, seed: u64) -> Drawn {
    let seed_of = |key: u64| RandomStream::new(seed, Purpose::Mixture, &[key]).next_u64();
    let block = draw / BLOCK;
    let places = Permutation::new(BLOCK, seed_of(0), block);
    let place = places.at(draw % BLOCK);
    let (mut start, mut first) = (0, 0);
    for (set, (share, quota)) in shares.iter().zip(quotas(shares)).enumerate() {
        let own = first..first + quota;
        if own.contains(&place) {
            let n = share.n_samples as u64;
            // Shards are read in their order, so the draws of a block take the samples as they come, and not shuffled again.
            let within = match share.shards {
                Some(_) => (0..draw % BLOCK).filter(|&earlier| own.contains(&places.at(earlier))).count() as u64,
                None => place - first,
            };
            let nth = block * quota + within;
            let seed = seed_of(1 + set as u64);
            let index = match &share.shards {
                Some(shards) => shards.at(seed, nth / n, nth % n),
                None => Permutation::new(n, seed, nth / n).at(nth % n) as usize,
            };
            return Drawn { set, seed, nth, start, n_samples: share.n_samples, index: start + index };
        }
        first += quota;
        start += share.n_samples;
    }
    panic!("the shares of a block are its draws, got {shares:?}");
}

/// Draws of each set in a block: in proportion to the weights, the remainder to the largest fractions (Hamilton's method),
/// and at least one.
fn quotas(shares: &[Share]) -> Vec<u64> {
    assert!(shares.len() as u64 <= BLOCK, "at most {BLOCK} sets can share a block, got {}", shares.len());
    let total: f64 = shares.iter().map(|share| share.weight).sum();
    let exact: Vec<f64> = shares.iter().map(|share| share.weight / total * BLOCK as f64).collect();
    let mut quotas: Vec<u64> = exact.iter().map(|exact| (exact.floor() as u64).max(1)).collect();
    let by_fraction = |&a: &usize, &b: &usize| (exact[b] - quotas[b] as f64).total_cmp(&(exact[a] - quotas[a] as f64));
    let mut order: Vec<usize> = (0..shares.len()).collect();
    order.sort_by(by_fraction);
    let sum: u64 = quotas.iter().sum();
    let missing = BLOCK.saturating_sub(sum) as usize;
    order.iter().cycle().take(missing).for_each(|&set| quotas[set] += 1);
    // Minima of one may have taken too many: from the largest.
    for _ in 0..sum.saturating_sub(BLOCK) {
        if let Some(largest) = quotas.iter_mut().max() {
            *largest -= 1;
        }
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(of: &[(usize, f64)]) -> Vec<Share> {
        of.iter().map(|&(n_samples, weight)| Share { n_samples, weight, shards: None }).collect()
    }

    #[test]
    fn quotas_fill_a_block_in_proportion() {
        for (weights, expected) in [
            (vec![1.0], vec![1000]),
            (vec![1.0, 1.0, 1.0], vec![334, 333, 333]),
            (vec![3.0, 1.0], vec![750, 250]),
            (vec![1e-9, 1.0], vec![1, 999]),
            (vec![0.5, 0.3, 0.2], vec![500, 300, 200]),
            (vec![1e-9, 1e-9, 1.0], vec![1, 1, 998]),
        ] {
            let shares: Vec<Share> =
                weights.iter().map(|&weight| Share { n_samples: 1, weight, shards: None }).collect();
            assert_eq!(quotas(&shares), expected, "{weights:?}");
        }
    }

    #[test]
    fn a_set_in_shards_comes_in_the_order_of_its_shards() {
        let order = Arc::new(ShardOrder::new([30, 50, 20], 1));
        let mut shares = shares(&[(70, 1.0), (100, 1.0)]);
        shares[1].shards = Some(Arc::clone(&order));
        let draws = (0..3000).map(|draw| drawn(&shares, draw, 5)).filter(|drawn| drawn.set == 1);
        let draws: Vec<Drawn> = draws.collect();
        assert_eq!(draws.len(), 1500);
        for (nth, drawn) in (0u64..).zip(draws) {
            assert_eq!((drawn.nth, drawn.index), (nth, 70 + order.at(drawn.seed, nth / 100, nth % 100)));
        }
    }

    #[test]
    fn every_block_has_the_shares_and_every_set_its_epochs() {
        let shares = shares(&[(7, 3.0), (250, 1.0), (3, 1.0)]);
        let draws: Vec<Drawn> = (0..5000).map(|draw| drawn(&shares, draw, 11)).collect();
        for block in draws.chunks(1000) {
            let n_of = |start: usize| block.iter().filter(|drawn| drawn.start == start).count();
            assert_eq!([n_of(0), n_of(7), n_of(257)], [600, 200, 200]);
        }
        // No sample of a set comes again before all have come, also across blocks: 1000 draws of 250 are four epochs.
        let mut counts = std::collections::BTreeMap::new();
        for drawn in &draws {
            assert!((drawn.start..drawn.start + drawn.n_samples).contains(&drawn.index));
            *counts.entry(drawn.index).or_insert(0usize) += 1;
        }
        assert_eq!(counts.len(), 260);
        assert!((7..257).all(|index| counts[&index] == 4), "four epochs");
        assert!((0..7).all(|index| (428..=429).contains(&counts[&index])), "3000 draws of 7");
        // Shuffled: neighbours are of any set, and other seeds give other orders.
        let switches = draws.windows(2).filter(|pair| pair[0].start != pair[1].start).count();
        assert!((2600..3000).contains(&switches), "{switches}");
        let other: Vec<Drawn> = (0..5000).map(|draw| drawn(&shares, draw, 12)).collect();
        assert_ne!(draws, other);
        assert_eq!(drawn(&shares, 1 << 50, 11), drawn(&shares, 1 << 50, 11));
    }
}
