//! Random streams: each is a pure function of (seed, purpose, keys), and every crate takes its random numbers from here.
//!
//! A resumed run must draw the numbers that the uninterrupted run would have drawn, whatever the number of workers, so no
//! generator outlives one decision. The generator is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
//! generators", 2014): number `i` of a stream is `mix64(start + (i + 1) * GOLDEN)`, where `start` is a hash of the stream's
//! name. It is written by hand and not taken from `rand` because the numbers are part of what a run folder promises: `rand`
//! may change its distributions between versions, this file may not. Tests pin the first values.

/// 2^64 divided by the golden ratio, odd: the increment of SplitMix64.
pub(crate) const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// The decision that a stream is for. Streams of different purposes are independent, so a new augmentation does not change
/// which objects are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The permutation of an epoch; keys: epoch.
    Order,
    /// Flips, crop and scale; keys: draw, sample index, attempt.
    View,
    /// Brightness, contrast, saturation; keys: draw, sample index.
    Colour,
    /// The choice among an image's objects; keys: draw, sample index.
    Objects,
    /// The sample that replaces one that cannot be used; keys: draw, attempt.
    Substitute,
    /// A synthetic scene; keys: index, attempt.
    Scene,
    /// The texture of a synthetic image; keys: index, layer.
    Texture,
    /// The split of a data set; keys: hash of the group's name.
    Split,
    /// Prompts of an object; keys: draw of its image, id of the object.
    Prompt,
    /// The order of the passes of a step; keys: step.
    Passes,
    /// The seed of a step's dropout and drop path; keys: step.
    Dropout,
    /// The seed of the masking of training images; no keys.
    Masking,
    /// The seed of the masking of held-out images; no keys.
    HeldOutMasking,
    /// The order of the sets in a block of a mixture (key 0), and of the samples of a set (1 and its place).
    Mixture,
    /// The text of an object; keys: draw of its image, id of the object.
    Text,
    /// A crop of a mask for CLIP; keys: hash of the mask, number of the crop.
    Crop,
    /// Whether an object learns the teacher's mask; keys: draw of its image, id of the object.
    Teacher,
    /// The order of the shards of an epoch; keys: epoch.
    Shards,
    /// The permutation of the samples of a pool of shards; keys: epoch, pool.
    Pool,
}

impl Purpose {
    /// The words that enter the hash before the keys. They are part of the format: never renumber, only append.
    ///
    /// Four purposes share the first word with [`Purpose::Prompt`] and have a second near `u64::MAX`, which no draw reaches.
    /// This is how runs before these purposes had names seeded them, and such runs must stay reproducible.
    fn words(self) -> &'static [u64] {
        match self {
            Self::Order => &[1],
            Self::View => &[2],
            Self::Colour => &[3],
            Self::Objects => &[4],
            Self::Substitute => &[5],
            Self::Scene => &[6],
            Self::Texture => &[7],
            Self::Split => &[8],
            Self::Prompt => &[9],
            Self::Passes => &[9, u64::MAX],
            Self::Dropout => &[9, u64::MAX - 1],
            Self::Masking => &[9, u64::MAX - 2],
            Self::HeldOutMasking => &[9, u64::MAX - 3],
            Self::Mixture => &[10],
            Self::Text => &[11],
            Self::Crop => &[12],
            Self::Teacher => &[13],
            Self::Shards => &[14],
            Self::Pool => &[15],
        }
    }
}

/// A stream of random numbers.
#[derive(Debug, Clone)]
pub struct RandomStream {
    state: u64,
}

impl RandomStream {
    /// The stream of this seed, purpose and keys; equal arguments give equal streams on every machine and in every version.
    #[must_use]
    pub fn new(seed: u64, purpose: Purpose, keys: &[u64]) -> Self {
        Self::from_words(seed, purpose.words().iter().chain(keys).copied())
    }

    /// The stream of this seed and a name of several parts of bytes, such as an image's path and an object's id.
    #[must_use]
    pub fn named(seed: u64, name: &[&[u8]]) -> Self {
        // The length keeps parts from running into one another; the increment is taken off because `absorb` adds it.
        let word = |part: &&[u8]| fnv1a(part.iter().copied()).wrapping_add(part.len() as u64).wrapping_sub(GOLDEN);
        Self::from_words(seed, name.iter().map(word))
    }

    fn from_words(seed: u64, words: impl Iterator<Item = u64>) -> Self {
        Self { state: words.fold(mix64(seed.wrapping_add(GOLDEN)), absorb) }
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
    /// When `n` is zero.
    pub fn below(&mut self, n: u64) -> u64 {
        assert!(n > 0, "must choose among at least 1, got 0");
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// As [`RandomStream::below`], for indices.
    ///
    /// # Panics
    ///
    /// When `n` is zero.
    pub fn index(&mut self, n: usize) -> usize {
        self.below(n as u64) as usize
    }

    /// True with this probability; 0 is never and 1 is always.
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Approximately normal with mean 0 and deviation 1: the sum of twelve uniforms minus six, never beyond 6. Exact
    /// arithmetic on every machine, unlike the logarithm of the textbook method.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.unit()).sum::<f64>() - 6.0
    }

    /// Shuffles a list (Fisher and Yates).
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

/// FNV-1a, a hash of bytes that no library may change, as saved splits and seeds depend on it.
pub(crate) fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3))
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
    fn streams_are_pinned_and_differ_in_every_part_of_their_name() {
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
    fn purposes_of_a_step_draw_as_they_did_when_they_shared_a_word() {
        // Computed by the definition in Python, for Purpose::Prompt = 9 and the sentinel keys of earlier versions.
        for (purpose, keys, expected) in [
            (Purpose::Prompt, &[3, 5][..], 2_951_239_337_020_174_703),
            (Purpose::Passes, &[3], 8_164_696_788_037_145_243),
            (Purpose::Dropout, &[3], 17_642_318_279_917_900_394),
            (Purpose::Masking, &[], 17_607_761_374_600_202_578),
            (Purpose::HeldOutMasking, &[], 5_583_614_949_865_732_054),
        ] {
            assert_eq!(RandomStream::new(7, purpose, keys).next_u64(), expected, "{purpose:?}");
        }
    }

    #[test]
    fn names_are_pinned_and_their_parts_are_separate() {
        let first = |name: &[&[u8]]| RandomStream::named(3, name).next_u64();
        assert_eq!(first(&[b"ab", b"c"]), 13_175_968_259_100_919_055, "first clicks of an evaluation rely on it");
        assert_ne!(first(&[b"ab", b"c"]), first(&[b"a", b"bc"]));
        assert_ne!(first(&[b"a"]), first(&[b"a", b""]));
        assert_ne!(first(&[b"a"]), RandomStream::named(4, &[b"a"]).next_u64());
    }

    #[test]
    fn numbers_are_uniform() {
        let mut stream = RandomStream::new(1, Purpose::Scene, &[]);
        let mut counts = [0usize; 10];
        for _ in 0..100_000 {
            counts[stream.index(10)] += 1;
        }
        let chi_square: f64 = counts.iter().map(|&n| (n as f64 - 1e4).powi(2) / 1e4).sum();
        // 9 degrees of freedom: above 27.9 with probability 1/1000.
        assert!(chi_square < 27.9, "{counts:?}");
        let normals: Vec<f64> = (0..100_000).map(|_| stream.normal()).collect();
        let mean = normals.iter().sum::<f64>() / 1e5;
        let variance = normals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02);
        assert!(!stream.chance(0.0) && stream.chance(1.0));
    }
}
