//! Random numbers as a pure function of what they are for: (seed, purpose, keys) names a stream, and a stream is a list.
//!
//! A resumed run must draw what the uninterrupted run would have drawn, whatever the number of workers, so nothing here
//! has a state that outlives one decision. The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable
//! pseudorandom number generators", 2014): number `i` of a stream is `mix64(start + (i + 1) * GOLDEN)`, where `start` is a
//! hash of the name. It is written out here, and not taken from `rand`, because the numbers are part of what a run folder
//! promises: `rand` may change its distributions between versions, this file may not. A test pins the first values.

/// 2^64 divided by the golden ratio, odd: the increment of SplitMix64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a stream decides. Streams of different purposes are independent, so that a new augmentation does not change
/// which objects are chosen. The numbers are part of the format: never renumber, only append.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Purpose {
    /// The permutation of an epoch; keys: epoch.
    Order = 1,
    /// Flips, crop and scale; keys: draw, sample index, attempt.
    View = 2,
    /// Brightness, contrast, saturation; keys: draw, sample index.
    Colour = 3,
    /// Which objects of an image are used; keys: draw, sample index.
    Objects = 4,
    /// Which sample stands in for one that cannot be used; keys: draw, attempt.
    Substitute = 5,
    /// A synthetic scene; keys: index.
    Scene = 6,
    /// The texture of a synthetic scene; keys: index, layer.
    Texture = 7,
    /// The split of a data set; keys: hash of the group's name.
    Split = 8,
    /// Prompts of an object; keys: step, object.
    Prompt = 9,
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct RandomStream {
    state: u64,
}

impl RandomStream {
    /// The stream of this seed, purpose and keys; equal arguments give equal streams, on every machine and version.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, keys: &[u64]) -> Self {
        let named = absorb(mix64(seed.wrapping_add(GOLDEN)), purpose as u64);
        Self { state: keys.iter().fold(named, |hash, &key| absorb(hash, key)) }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix64(self.state)
    }

    /// Uniform in [0, 1), on a grid of 2^-53.
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// Uniform in 0..n. The bias of the multiplication is below n / 2^64.
    ///
    /// # Panics
    ///
    /// When `n` is zero: there is nothing to choose.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "a choice must be among at least 1, got 0");
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// As [`RandomStream::below`], for indices.
    pub fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// True with this probability; 0 is never and 1 is always.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// About normal with mean 0 and deviation 1: the sum of twelve uniforms less six. Exact arithmetic on every machine,
    /// which the logarithm of the textbook method is not; never beyond 6.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// Brings a list into random order (Fisher and Yates).
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.index(last + 1));
        }
    }
}

/// A bijection of 64 bits in which every input bit moves every output bit (the finaliser of SplitMix64).
pub(crate) fn mix64(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

fn absorb(hash: u64, key: u64) -> u64 {
    mix64(hash.wrapping_add(GOLDEN) ^ mix64(key.wrapping_add(GOLDEN)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // First outputs for seed 1234567 in the reference implementation (https://prng.di.unimi.it/splitmix64.c).
        let mut stream = RandomStream { state: 1_234_567 };
        let first: Vec<u64> = (0..3).map(|_| stream.next_u64()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn streams_are_pinned_and_differ_by_every_part_of_their_name() {
        let first = |seed, purpose, keys: &[u64]| RandomStream::new(seed, purpose, keys).next_u64();
        let base = first(7, Purpose::View, &[3, 5]);
        assert_eq!(base, 3_585_885_296_436_970_943, "a run folder relies on it");
        for other in [
            first(8, Purpose::View, &[3, 5]),
            first(7, Purpose::Colour, &[3, 5]),
            first(7, Purpose::View, &[4, 5]),
            first(7, Purpose::View, &[5, 3]),
            first(7, Purpose::View, &[3, 5, 0]),
            first(7, Purpose::View, &[3]),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn numbers_are_uniform() {
        let mut stream = RandomStream::new(1, Purpose::Scene, &[]);
        let mut counts = [0usize; 10];
        for _ in 0..100_000 {
            counts[stream.index(10)] += 1;
        }
        let chi_square: f64 = counts.iter().map(|&n| (n as f64 - 1e4).powi(2) / 1e4).sum();
        // 9 degrees of freedom: above 27.9 once in a thousand.
        assert!(chi_square < 27.9, "{counts:?}");
        let normals: Vec<f64> = (0..100_000).map(|_| stream.normal()).collect();
        let mean = normals.iter().sum::<f64>() / 1e5;
        let variance = normals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02);
        assert!(!stream.chance(0.0) && stream.chance(1.0));
    }
}
