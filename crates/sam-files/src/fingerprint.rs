//! A stable 64-bit fingerprint (FNV-1a) of keys, weights and images: it detects mix-ups and does not resist attackers.

/// Running hash; the same bytes give the same value on every machine and in every version.
#[derive(Clone, Copy, Debug)]
pub struct Fingerprint(u64);

const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;
/// Odd and without structure (2^64 over the golden ratio), so that neighbouring seeds start far apart.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Fingerprint {
    /// An empty hash; different seeds give different values for the same bytes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(OFFSET ^ seed.wrapping_mul(SPREAD))
    }

    /// Adds bytes.
    pub fn add_bytes(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.add_word(u64::from(byte));
        }
    }

    /// Adds a whole word: eight times faster than adding its bytes, with a different result.
    pub fn add_word(&mut self, word: u64) {
        self.0 = (self.0 ^ word).wrapping_mul(PRIME);
    }

    /// Adds bytes in words of eight, little-endian, and their number: for whole files, eight times faster than
    /// [`Fingerprint::add_bytes`] and with a different result.
    pub fn add_blocks(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks();
        blocks.iter().for_each(|&block| self.add_word(u64::from_le_bytes(block)));
        self.add_bytes(rest);
        self.add_word(bytes.len() as u64);
    }

    /// The hash of everything added so far.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_published_vectors() {
        let hash = |bytes: &[u8]| {
            let mut hash = Fingerprint::new(0);
            hash.add_bytes(bytes);
            hash.value()
        };
        // http://www.isthe.com/chongo/tech/comp/fnv/
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn every_byte_of_blocks_counts() {
        let hash = |bytes: &[u8]| {
            let mut hash = Fingerprint::new(0);
            hash.add_blocks(bytes);
            hash.value()
        };
        let bytes: Vec<u8> = (0..21).collect();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 0x80;
            assert_ne!(hash(&changed), hash(&bytes), "byte {at}");
        }
        // Zeros at the end are no padding.
        assert_ne!(hash(&[7, 0]), hash(&[7]));
        let mut word = Fingerprint::new(0);
        [0x0706_0504_0302_0100, 8].into_iter().for_each(|value| word.add_word(value));
        assert_eq!(hash(&bytes[..8]), word.value());
    }
}
