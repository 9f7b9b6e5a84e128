//! The mask as a bitmap: one `bool` per pixel, row-major.
//!
//! This is the form for drawing, measuring and feeding a model. Masks at rest are [`crate::Rle`]s: a hundred masks of
//! one SA-1B image are 340 MB here and 300 kB there.

use crate::decode::MAX_PIXELS;
use crate::error::ImageError;

/// Height x width, refused above the size of any image.
///
/// A file may declare any size in a few bytes; this is the one place where that becomes an allocation.
pub(crate) fn checked_area(size_hw: [usize; 2]) -> Result<usize, ImageError> {
    match size_hw[0].checked_mul(size_hw[1]) {
        Some(area) if area as u64 <= MAX_PIXELS => Ok(area),
        _ => Err(ImageError::MaskTooLarge { size_hw, limit: MAX_PIXELS }),
    }
}

/// Masks of one image have one size; anything else is a mix-up of files.
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
    /// A mask from its pixels, row after row.
    ///
    /// # Errors
    ///
    /// When there are not height x width pixels, or more than [`MAX_PIXELS`].
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
    /// When the size is above [`MAX_PIXELS`]; sizes of decoded images and of checked RLEs never are.
    #[must_use]
    pub fn empty(size_hw: [usize; 2]) -> Self {
        let area = checked_area(size_hw).unwrap_or_else(|error| panic!("{error}"));
        Self { size_hw, pixels: vec![false; area] }
    }

    /// A mask from a rule over `(row, column)`.
    ///
    /// # Panics
    ///
    /// As [`Mask::empty`].
    #[must_use]
    pub fn from_fn(size_hw: [usize; 2], mut rule: impl FnMut(usize, usize) -> bool) -> Self {
        let mut mask = Self::empty(size_hw);
        let width = size_hw[1].max(1);
        for (row, pixels) in mask.pixels.chunks_exact_mut(width).enumerate() {
            for (column, pixel) in pixels.iter_mut().enumerate() {
                *pixel = rule(row, column);
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

    /// The pixels, row after row.
    #[must_use]
    pub fn pixels(&self) -> &[bool] {
        &self.pixels
    }

    /// The pixels, to be changed in place.
    pub fn pixels_mut(&mut self) -> &mut [bool] {
        &mut self.pixels
    }

    /// The pixels of one row.
    ///
    /// # Panics
    ///
    /// When the row is outside.
    #[must_use]
    pub fn row(&self, row: usize) -> &[bool] {
        &self.pixels[row * self.size_hw[1]..(row + 1) * self.size_hw[1]]
    }

    /// Whether a pixel is set; outside the image none is.
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

    /// How many pixels are set.
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

/// The first index from `from` on with this value. Long stretches without it are skipped a block at a time.
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

impl std::fmt::Debug for Mask {
    /// Small masks are drawn, large ones only described, so that a failed assertion stays readable.
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
