//! The order of an epoch without a list: a keyed permutation of `0..n`, evaluated at any position in constant time and
//! space.
//!
//! Eleven million images need neither an index vector nor iteration up to step 90,000. A balanced Feistel network
//! permutes the next power of four at or above `n`; results outside `0..n` are permuted again until they fall inside
//! ("cycle walking": Black and Rogaway, "Ciphers with arbitrary finite domains", 2002), at most four times on average.

use crate::random::{Purpose, RandomStream, mix64};

/// Rounds for well-mixed small sets; four would do for a cipher on large ones (Luby and Rackoff).
const N_ROUNDS: usize = 8;

/// A permutation of `0..n`.
#[derive(Debug, Clone)]
pub(crate) struct Permutation {
    n: u64,
    half_bits: u32,
    round_keys: [u64; N_ROUNDS],
}

impl Permutation {
    /// The permutation of one epoch.
    ///
    /// # Panics
    ///
    /// When `n` is zero or above 2^62.
    pub(crate) fn new(n: u64, seed: u64, epoch: u64) -> Self {
        Self::keyed(n, seed, Purpose::Order, &[epoch])
    }

    /// The permutation of a purpose and its keys.
    ///
    /// # Panics
    ///
    /// As [`Permutation::new`].
    pub(crate) fn keyed(n: u64, seed: u64, purpose: Purpose, keys: &[u64]) -> Self {
        assert!(n > 0 && n <= 1 << 62, "a permutation must be of 1 to 2^62 elements, got {n}");
        let n_bits = 64 - (n - 1).leading_zeros();
        let mut keys = RandomStream::new(seed, purpose, keys);
        Self { n, half_bits: n_bits.div_ceil(2), round_keys: std::array::from_fn(|_| keys.next_u64()) }
    }

    /// The element at this position.
    ///
    /// # Panics
    ///
    /// When the position is not below `n`.
    pub(crate) fn at(&self, position: u64) -> u64 {
        assert!(position < self.n, "a position must be below {}, got {position}", self.n);
        let mut element = self.encrypt(position);
        while element >= self.n {
            element = self.encrypt(element);
        }
        element
    }

    fn encrypt(&self, element: u64) -> u64 {
        let half_mask = (1u64 << self.half_bits) - 1;
        let (mut left, mut right) = (element >> self.half_bits, element & half_mask);
        for key in self.round_keys {
            (left, right) = (right, left ^ (mix64(right ^ key) & half_mask));
        }
        left << self.half_bits | right
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_element_comes_once() {
        for n in (1..=130).chain([1000, 4096, 4097, 65_537]) {
            let permutation = Permutation::new(n, 11, 3);
            let mut seen = vec![false; n as usize];
            for position in 0..n {
                let element = permutation.at(position) as usize;
                assert!(!std::mem::replace(&mut seen[element], true), "n = {n}");
            }
        }
    }

    #[test]
    fn any_position_of_sa_1b_can_be_evaluated() {
        let n = 11_185_362;
        let permutation = Permutation::new(n, 0, 7);
        let mut elements: Vec<u64> = (n - 1000..n).map(|at| permutation.at(at)).collect();
        assert!(elements.iter().all(|&element| element < n));
        elements.sort_unstable();
        elements.dedup();
        assert_eq!(elements.len(), 1000);
    }

    #[test]
    fn all_orders_of_four_are_about_equally_likely() {
        let mut counts = std::collections::HashMap::new();
        for seed in 0..24_000 {
            let permutation = Permutation::new(4, seed, 0);
            *counts.entry([0, 1, 2, 3].map(|at| permutation.at(at))).or_insert(0u32) += 1;
        }
        assert_eq!(counts.len(), 24);
        assert!(counts.values().all(|n| (700..1300).contains(n)), "{counts:?}");
    }

    #[test]
    fn elements_are_uniform_and_neighbours_separate() {
        let n = 10u64;
        let mut counts = vec![0usize; (n * n) as usize];
        let mut n_neighbours = 0;
        for epoch in 0..10_000 {
            let permutation = Permutation::new(n, 5, epoch);
            let order: Vec<u64> = (0..n).map(|at| permutation.at(at)).collect();
            for (at, &element) in order.iter().enumerate() {
                counts[at * n as usize + element as usize] += 1;
            }
            n_neighbours += order.windows(2).filter(|w| w[1] == w[0] + 1).count();
        }
        assert!(counts.iter().all(|n| (850..1150).contains(n)), "{counts:?}");
        // Nine places, each with probability 1/10.
        assert!((8_500..9_500).contains(&n_neighbours), "{n_neighbours}");
    }
}
