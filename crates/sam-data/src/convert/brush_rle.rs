//! Label Studio's run-length encoding of brush masks.
//!
//! Source: `brush.py` of label-studio-converter (`mask2rle`, `encode_rle`), whose bytes these are. The coded values are the RGBA
//! bytes of the image in row-major order, 0 or 255, all four equal. Bits from the highest: 32 of the number of values, 5 of
//! the word size minus 1, four times 4 of a run size minus 1; then blocks of a flag (1: a run), the index of a run size, the
//! length minus 1 in as many bits, and the value. Runs are multiples of four here, so there are no blocks of single values.
//! The end is filled with 1 to 8 zero bits.

use sam_image::Rle;

use super::row_runs;

const CHANNELS: usize = 4;
const WORD_BITS: u32 = 8;
/// Bits of a run length minus 1, by index.
const RUN_BITS: [u32; 4] = [3, 4, 8, 16];
const LONGEST_RUN: usize = 1 << 16;

/// The bytes of a mask.
pub(super) fn encode(mask: &Rle) -> Vec<u8> {
    let [height, width] = mask.size_hw();
    let mut bits = Bits::default();
    // An image has at most 500 megapixels, so four times as many fit.
    bits.push((CHANNELS * height * width) as u32, 32);
    bits.push(WORD_BITS - 1, 5);
    RUN_BITS.iter().for_each(|size| bits.push(size - 1, 4));
    for (run, n_pixels) in row_runs::in_image(mask).into_iter().enumerate() {
        let value = if run % 2 == 1 { 255 } else { 0 };
        let mut left = CHANNELS * n_pixels;
        while left > 0 {
            let length = left.min(LONGEST_RUN);
            let size = RUN_BITS.iter().position(|&size| length <= 1 << size).unwrap_or(RUN_BITS.len() - 1);
            bits.push(1, 1);
            bits.push(size as u32, 2);
            bits.push((length - 1) as u32, RUN_BITS[size]);
            bits.push(value, WORD_BITS);
            left -= length;
        }
    }
    let n_fill = 8 - bits.n_bits % 8;
    bits.push(0, n_fill);
    bits.bytes
}

/// Bits from the highest of each byte.
#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    /// Bits in use of the last byte; 8 when it is full, 0 only at the start.
    n_bits: u32,
}

impl Bits {
    fn push(&mut self, value: u32, n_bits: u32) {
        for at in (0..n_bits).rev() {
            if self.n_bits.is_multiple_of(8) {
                self.bytes.push(0);
                self.n_bits = 0;
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> at & 1) as u8) << (7 - self.n_bits);
            }
            self.n_bits += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use sam_image::Mask;

    use super::*;

    /// What `mask2rle` of label-studio-converter 0.0.59 gives.
    #[test]
    fn bytes_are_those_of_the_converter() {
        let of = |size_hw: [usize; 2], is_set: &dyn Fn(usize, usize) -> bool| {
            encode(&Rle::from_mask(&Mask::from_fn(size_hw, is_set)))
        };
        assert_eq!(of([2, 2], &|row, column| row != column), [0, 0, 0, 16, 57, 27, 252, 96, 19, 255, 198, 0]);
        assert_eq!(of([2, 2], &|_, _| true), [0, 0, 0, 16, 57, 27, 253, 255, 240]);
        assert_eq!(of([2, 2], &|_, _| false), [0, 0, 0, 16, 57, 27, 253, 240, 0]);
        // Runs of 4, 8 and 16 bits; 65,536 values are one run, more are two.
        let bar = of([3, 5], &|_, column| (1..4).contains(&column));
        let corner = of([9, 16], &|row, column| row >= 4 && column < 3);
        assert_eq!(bar, [0, 0, 0, 60, 57, 27, 252, 96, 22, 255, 231, 0, 183, 255, 56, 5, 191, 248, 192, 0]);
        assert_eq!(corner[..16], [0, 0, 2, 64, 57, 27, 254, 255, 0, 183, 255, 140, 192, 45, 255, 227]);
        assert_eq!(corner[16..], [48, 11, 127, 248, 204, 2, 223, 254, 51, 0, 183, 255, 140, 192, 0]);
        assert_eq!(of([128, 128], &|_, _| false), [0, 1, 0, 0, 57, 27, 255, 255, 255, 0, 0]);
        let last_row = of([129, 128], &|row, _| row == 128);
        assert_eq!(last_row, [0, 1, 2, 0, 57, 27, 255, 255, 255, 0, 224, 63, 255, 224]);
        assert_eq!(of([130, 127], &|_, _| false), [0, 1, 1, 248, 57, 27, 255, 255, 255, 0, 224, 62, 224, 0]);
    }

    /// The reader's side, by the decoder that the browser has.
    #[test]
    fn bytes_decode_to_the_mask() {
        let mut state = 7u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for share in [2, 3, 40, 4000] {
            let size_hw = [1 + next() as usize % 300, 1 + next() as usize % 300];
            let mask = Mask::from_fn(size_hw, |_, _| next() % share == 0);
            let rle = Rle::from_mask(&mask);
            let expected: Vec<u8> = mask.pixels().iter().flat_map(|&pixel| [if pixel { 255 } else { 0 }; 4]).collect();
            assert_eq!(decode(&encode(&rle)), expected, "{size_hw:?}");
        }
    }

    fn decode(bytes: &[u8]) -> Vec<u8> {
        let mut at = 0;
        let mut read = |n_bits: usize| {
            let bit = |at: usize| usize::from(bytes[at / 8] >> (7 - at % 8) & 1);
            let value = (at..at + n_bits).fold(0, |value, at| value << 1 | bit(at));
            at += n_bits;
            value
        };
        let n_values = read(32);
        let word_bits = read(5) + 1;
        let run_bits = [(); 4].map(|()| read(4) + 1);
        let mut values = Vec::with_capacity(n_values);
        while values.len() < n_values {
            assert_eq!(read(1), 1, "a run");
            let size = run_bits[read(2)];
            let length = read(size) + 1;
            let value = read(word_bits) as u8;
            values.extend(std::iter::repeat_n(value, length));
        }
        values
    }
}
