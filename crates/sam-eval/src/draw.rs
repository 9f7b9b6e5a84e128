//! Random numbers as a pure function of a seed and of what they are for.
//!
//! SplitMix64 (Steele, Lea, Flood 2014) on a hash of the name, as in `sam_data::random`, written out because the numbers
//! are part of what a report promises: the same seed gives the same first clicks and the same intervals for ever.

/// 2^64 divided by the golden ratio, odd: the increment of SplitMix64.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub(crate) struct Draws {
    state: u64,
}

impl Draws {
    /// The stream of a seed and a name; each part of the name counts by itself.
    pub(crate) fn new(seed: u64, name: &[&[u8]]) -> Self {
        let mut state = mix(seed.wrapping_add(GOLDEN));
        for part in name {
            let hash = part.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
            });
            state = mix(state.wrapping_add(GOLDEN) ^ mix(hash.wrapping_add(part.len() as u64)));
        }
        Self { state }
    }

    /// The next 64 bits.
    pub(crate) fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// Uniform in 0..n; the bias of the multiplication is below n / 2^64.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "a choice must be among at least 1, got 0");
        ((u128::from(self.next_u64()) * n as u128) >> 64) as usize
    }
}

fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generator_is_splitmix64() {
        // First outputs for seed 1234567 in the reference implementation (https://prng.di.unimi.it/splitmix64.c).
        let mut draws = Draws { state: 1_234_567 };
        let first: Vec<u64> = (0..3).map(|_| draws.next_u64()).collect();
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn names_do_not_run_into_one_another() {
        let first = |name: &[&[u8]]| Draws::new(3, name).next_u64();
        assert_ne!(first(&[b"ab", b"c"]), first(&[b"a", b"bc"]));
        assert_ne!(first(&[b"a"]), first(&[b"a", b""]));
        assert_ne!(Draws::new(3, &[b"a"]).next_u64(), Draws::new(4, &[b"a"]).next_u64());
    }

    #[test]
    fn choices_are_uniform() {
        let mut draws = Draws::new(1, &[]);
        let mut counts = [0usize; 7];
        for _ in 0..70_000 {
            counts[draws.below(7)] += 1;
        }
        assert!(counts.iter().all(|n| (9_600..10_400).contains(n)), "{counts:?}");
    }
}
