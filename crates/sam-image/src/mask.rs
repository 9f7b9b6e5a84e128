//! Masks as bitmaps: one `bool` per pixel, row-major.
//!
//! This form is for drawing, measuring and model input. Masks are stored as [`crate::Rle`]: a hundred masks of an SA-1B
//! image take 340 MB as bitmaps and 300 kB as RLE.

use crate::decode::MAX_PIXELS;
use crate::error::ImageError;

/// Height x width, limited to the size of the largest image.
///
/// A file may declare any size in a few bytes; every allocation of a mask goes through this check.
pub(crate) fn checked_area(size_hw: [usize; 2]) -> Result<usize, ImageError> {
    match size_hw[0].checked_mul(size_hw[1]) {
        Some(area) if area as u64 <= MAX_PIXELS => Ok(area),
        _ => Err(ImageError::MaskTooLarge { size_hw, limit: MAX_PIXELS }),
    }
}

/// Masks of one image have the same size.
pub(crate) fn same_size(expected_hw: [usize; 2], got_hw: [usize; 2]) -> Result<(), ImageError> {
    if expected_hw == got_hw {
        return Ok(());
    }
    Err(ImageError::SizeMismatch { expected_hw, got_hw })
}

/// A binary mask, row-major.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Mask {
    size_hw: [usize; 2],
    pixels: Vec<bool>,
}

impl Mask {
    /// A mask from its pixels, row-major.
    ///
    /// # Errors
    ///
    /// When the number of pixels is not height x width, or above [`MAX_PIXELS`].
    pub fn new(size_hw: [usize; 2], pixels: Vec<bool>) -> Result<Self, ImageError> {
        let expected = checked_area(size_hw)?;
        if pixels.len() != expected {
            return Err(ImageError::MaskLength { size_hw, expected, got: pixels.len() });
        }
        Ok(Self { size_hw, pixels })
    }

    /// A mask with no pixel set.
    ///
    /// # Panics
    ///
    /// When the size is above [`MAX_PIXELS`], which decoded images and valid RLEs never are.
    #[must_use]
    pub fn empty(size_hw: [usize; 2]) -> Self {
        let area = checked_area(size_hw).unwrap_or_else(|error| panic!("{error}"));
        Self { size_hw, pixels: vec![false; area] }
    }

    /// A mask from a predicate on `(row, column)`.
    ///
    /// # Panics
    ///
    /// As [`Mask::empty`].
    #[must_use]
    pub fn from_fn(size_hw: [usize; 2], mut is_set: impl FnMut(usize, usize) -> bool) -> Self {
        let mut mask = Self::empty(size_hw);
        let width = size_hw[1].max(1);
        for (row, pixels) in mask.pixels.chunks_exact_mut(width).enumerate() {
            for (column, pixel) in pixels.iter_mut().enumerate() {
                *pixel = is_set(row, column);
            }
        }
        mask
    }

    /// A mask from logits: set where `logit > threshold`, as the reference thresholds (`mask_threshold = 0`).
    ///
    /// # Errors
    ///
    /// As [`Mask::new`].
    pub fn from_logits(size_hw: [usize; 2], logits: &[f32], threshold: f32) -> Result<Self, ImageError> {
        Self::new(size_hw, logits.iter().map(|&logit| logit > threshold).collect())
    }

    /// `[height, width]`.
    #[must_use]
    pub fn size_hw(&self) -> [usize; 2] {
        self.size_hw
    }

    /// Height in pixels.
    #[must_use]
    pub fn height(&self) -> usize {
        self.size_hw[0]
    }

    /// Width in pixels.
    #[must_use]
    pub fn width(&self) -> usize {
        self.size_hw[1]
    }

    /// The pixels, row-major.
    #[must_use]
    pub fn pixels(&self) -> &[bool] {
        &self.pixels
    }

    /// The pixels, mutable.
    pub fn pixels_mut(&mut self) -> &mut [bool] {
        &mut self.pixels
    }

    /// The pixels of one row.
    ///
    /// # Panics
    ///
    /// When the row is out of range.
    #[must_use]
    pub fn row(&self, row: usize) -> &[bool] {
        &self.pixels[row * self.size_hw[1]..(row + 1) * self.size_hw[1]]
    }

    /// Whether a pixel is set; false outside the image.
    #[must_use]
    pub fn get(&self, row: usize, column: usize) -> bool {
        row < self.size_hw[0] && column < self.size_hw[1] && self.pixels[row * self.size_hw[1] + column]
    }

    /// The tight box `[x0, y0, x1, y1]` with exclusive ends, or `None` when no pixel is set.
    #[must_use]
    pub fn bounds_xyxy_px(&self) -> Option<[usize; 4]> {
        let [height, width] = self.size_hw;
        let is_used = |&row: &usize| row_runs(self.row(row), true).next().is_some();
        let first_row = (0..height).find(is_used)?;
        let last_row = (first_row..height).rev().find(is_used)?;
        let mut column_is_used = vec![false; width];
        for row in first_row..=last_row {
            for (is_used, &set) in column_is_used.iter_mut().zip(self.row(row)) {
                *is_used |= set;
            }
        }
        let x0 = next_of(&column_is_used, 0, true)?;
        let x1 = column_is_used.iter().rposition(|&is_used| is_used)? + 1;
        Some([x0, first_row, x1, last_row + 1])
    }

    /// Number of set pixels.
    #[must_use]
    pub fn area_px(&self) -> usize {
        self.pixels.iter().map(|&set| usize::from(set)).sum()
    }
}

/// The maximal ranges of a row whose pixels equal `value`, from left to right.
pub(crate) fn row_runs(row: &[bool], value: bool) -> impl Iterator<Item = (usize, usize)> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let start = next_of(row, at, value)?;
        at = next_of(row, start + 1, !value).unwrap_or(row.len());
        Some((start, at))
    })
}

/// The first index from `from` with this value. Blocks without it are skipped whole.
fn next_of(row: &[bool], from: usize, value: bool) -> Option<usize> {
    const BLOCK: usize = 32;
    let mut at = from;
    while let Some(block) = row.get(at..at + BLOCK) {
        if block != [!value; BLOCK] {
            break;
        }
        at += BLOCK;
    }
    let offset = row.get(at..)?.iter().position(|&pixel| pixel == value)?;
    Some(at + offset)
}

#[cfg(test)]
impl Mask {
    /// A mask drawn with `#` for set pixels.
    pub(crate) fn drawn(rows: &[&str]) -> Self {
        let pixels = rows.iter().flat_map(|row| row.bytes().map(|byte| byte == b'#')).collect();
        Self::new([rows.len(), rows[0].len()], pixels).expect("rows of one length")
    }
}

/// A linear congruential generator of numbers below the given bound.
#[cfg(test)]
pub(crate) fn random_below(seed: u32) -> impl FnMut(u32) -> u32 {
    let mut state = seed;
    move |n| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % n
    }
}

impl std::fmt::Debug for Mask {
    /// Draws small masks and summarises large ones, so that failed assertions stay readable.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [height, width] = self.size_hw;
        write!(f, "Mask {height}x{width}, {} set", self.area_px())?;
        if height <= 32 && width <= 64 {
            for row in 0..height {
                let line: String = self.row(row).iter().map(|&set| if set { '#' } else { '.' }).collect();
                write!(f, "\n  {line}")?;
            }
        }
        Ok(())
    }
}
