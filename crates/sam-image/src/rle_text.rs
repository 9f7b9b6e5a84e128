//! COCO's compressed RLE: the `counts` string of annotation files.
//!
//! Source: `rleToString` and `rleFrString` of `maskApi.c`. From the third run on, the difference to the run two before
//! is written; each number is cut into groups of five bits, lowest first, with bit 0x20 as continuation flag; a group
//! becomes the character of code 48 + group. The sign is bit 0x10 of the last group.
//!
//! Different from the reference: input is validated. Any bytes give an `Rle` or an error, with memory bounded by the
//! string's; the reference reads past the end of a truncated string.

use crate::decode::MAX_PIXELS;
use crate::error::ImageError;
use crate::rle::{Rle, RunWriter};

const FIRST_CHARACTER: u8 = 48;
const GROUP_BITS: u32 = 5;
const GROUP_MASK: i64 = 0x1F;
const MORE: u8 = 0x20;
const SIGN: u8 = 0x10;
/// Seven groups hold 35 bits, more than any difference of two runs needs.
const MAX_GROUPS: u32 = 7;

impl Rle {
    /// Reads a compressed `counts` string.
    ///
    /// # Errors
    ///
    /// When a character is outside the alphabet, the string is truncated, a run is negative or too long, the runs do not
    /// sum to height x width, or the size is above [`MAX_PIXELS`].
    pub fn from_coco_string(size_hw: [usize; 2], text: &[u8]) -> Result<Self, ImageError> {
        let mut runs = RunWriter::new(size_hw, text.len() / 2 + 1)?;
        // The last two runs as written: differences refer to these, not to canonical runs.
        let mut previous = [0i64; 2];
        let mut index = 0;
        let mut at = 0;
        while at < text.len() {
            let mut run = read_number(text, &mut at, index)?;
            if index > 2 {
                run += previous[index % 2];
            }
            previous[index % 2] = run;
            let count = u64::try_from(run).ok().filter(|&count| count <= MAX_PIXELS);
            let count = count.ok_or(ImageError::RleRun { index, limit: MAX_PIXELS, got: run })?;
            runs.push(count)?;
            index += 1;
        }
        runs.finish()
    }

    /// Writes the compressed `counts` string: ASCII without `"`, but possibly with `\`, which JSON writers escape.
    #[must_use]
    pub fn to_coco_string(&self) -> String {
        let counts = self.counts();
        let mut text = String::with_capacity(counts.len() * 2);
        for (index, &count) in counts.iter().enumerate() {
            let mut number = i64::from(count);
            if index > 2 {
                number -= i64::from(counts[index - 2]);
            }
            loop {
                let mut group = (number & GROUP_MASK) as u8;
                number >>= GROUP_BITS;
                let is_done = number == if group & SIGN != 0 { -1 } else { 0 };
                if !is_done {
                    group |= MORE;
                }
                text.push(char::from(group + FIRST_CHARACTER));
                if is_done {
                    break;
                }
            }
        }
        text
    }
}

fn read_number(text: &[u8], at: &mut usize, index: usize) -> Result<i64, ImageError> {
    let mut number = 0i64;
    let mut n_groups = 0;
    loop {
        let Some(&byte) = text.get(*at) else {
            return Err(ImageError::RleTruncated { n_bytes: text.len() });
        };
        let group = byte.wrapping_sub(FIRST_CHARACTER);
        if group > 0x3F {
            return Err(ImageError::RleByte { at: *at, byte });
        }
        *at += 1;
        if n_groups == MAX_GROUPS {
            return Err(ImageError::RleRun { index, limit: MAX_PIXELS, got: number });
        }
        number |= (i64::from(group) & GROUP_MASK) << (GROUP_BITS * n_groups);
        n_groups += 1;
        if group & MORE == 0 {
            if group & SIGN != 0 {
                number |= -1 << (GROUP_BITS * n_groups);
            }
            return Ok(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Size, counts, string, area and box of the golden vectors, made by running `maskApi.c`.
    #[test]
    fn golden_vectors() {
        for (size_hw, counts, text, area_px, bbox_xywh_px) in [
            ([3, 4], &[4, 2, 1, 2, 3][..], "42102", 4, [1, 1, 2, 2]),
            ([2, 2], &[0, 4], "04", 4, [0, 0, 2, 2]),
            ([2, 2], &[4], "4", 0, [0, 0, 0, 0]),
            ([6, 6], &[7, 3, 3, 3, 3, 3, 14], "733000;", 9, [1, 1, 3, 3]),
            ([6, 6], &[0, 5, 1, 4, 2, 3, 3, 2, 4, 1, 11], "051O1O1O1O7", 15, [0, 0, 5, 5]),
            ([6, 6], &[0, 36], "0T1", 36, [0, 0, 6, 6]),
        ] {
            let rle = Rle::new(size_hw, counts).expect("valid");
            assert_eq!(rle.to_coco_string(), text);
            assert_eq!(Rle::from_coco_string(size_hw, text.as_bytes()).expect("valid"), rle);
            assert_eq!(rle.area_px(), area_px);
            assert_eq!(rle.bbox_xywh_px(), bbox_xywh_px);
            assert_eq!(Rle::from_mask(&rle.to_mask()), rle);
        }
    }

    /// Invalid strings and their messages.
    #[test]
    fn bad_strings_are_errors() {
        for (text, words) in [
            (&b"42 02"[..], "got byte 32 at position 2"),
            (b"42102\xFF", "got byte 255 at position 5"),
            (b"4210", "must sum to height x width = 3 x 4 = 12, got 9"),
            (b"", "got 0"),
            (b"42103", "got 13"),
            (b"T", "truncated"),
            (b"O", "run 0 must be between 0 and 500000000, got -1"),
            (b"ooooooo0", "run 0 must be between 0 and"),
            (b"oooooo\x3f", "must be between 0 and"),
        ] {
            let message = Rle::from_coco_string([3, 4], text).expect_err("invalid").to_string();
            assert!(message.contains(words), "{words:?} is missing in: {message}");
        }
        let message = Rle::from_coco_string([1 << 40, 1 << 40], b"0").expect_err("invalid").to_string();
        assert!(message.contains("at most 500000000"), "{message}");
    }

    /// Empty runs in the middle are legal in files.
    #[test]
    fn empty_runs_are_joined() {
        let canonical = Rle::new([3, 4], &[4, 2, 6]).expect("valid");
        for counts in [&[4, 1, 0, 1, 6][..], &[0, 0, 4, 2, 6, 0], &[4, 2, 3, 0, 3], &[4, 2, 6, 0, 0]] {
            assert_eq!(Rle::new([3, 4], counts).expect("valid"), canonical, "{counts:?}");
        }
        assert_eq!(Rle::new([0, 7], &[]).expect("valid").counts(), [0]);
        assert_eq!(Rle::new([0, 7], &[]).expect("valid").bbox_xywh_px(), [0; 4]);
    }
}
