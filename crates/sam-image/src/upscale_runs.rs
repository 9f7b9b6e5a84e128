//! From the decoder's logits straight to run lengths, for the thousands of candidate masks of an image.
//!
//! The values are those of [`crate::upscale_mask`], bit for bit, but neither the image-sized logits nor a bitmap exist: a
//! column of the image is computed from the logits beside it, and gives its runs and the counts of the stability score at
//! once. Interpolated values lie between the logits around them, so wherever these are all far above or below the threshold
//! no pixel is computed, which is nearly everywhere in a smooth mask.
//!
//! A crop's mask is placed in its image on the way, as run lengths need no padding of pixels.

use std::ops::Range;

use crate::error::ImageError;
use crate::frame::ModelFrame;
use crate::mask::checked_area;
use crate::rle::Rle;
use crate::upscale::{TAPS, Taps, taps};

/// Rounding of three products and their sum, relative to the largest term, with room to spare.
const ROUNDING: f32 = 1e-5;

/// Upscales masks of the decoder to an image, or to the place of a crop in its image.
#[derive(Clone, Debug)]
pub struct MaskUpscaler {
    frame: ModelFrame,
    side: usize,
    image_hw: [usize; 2],
    /// Upper left corner of the crop in the image.
    offset_xy_px: [usize; 2],
    across: Vec<Taps>,
    down: Vec<Taps>,
    groups: Vec<Group>,
    /// Rows of logits that are in use; below is padding.
    n_rows: usize,
}

/// Neighbouring rows of the image that are interpolated from the same logits.
#[derive(Clone, Debug)]
struct Group {
    first: usize,
    rows: Range<usize>,
}

/// The threshold of a mask, and the distance at which its stability is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StabilityLevels {
    /// A pixel is set above it.
    pub threshold: f32,
    /// The stability is the share of pixels above `threshold - offset` that are above `threshold + offset`.
    pub offset: f32,
}

/// An upscaled mask with the counts of its stability score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpscaledMask {
    /// The mask in the image's size.
    pub rle: Rle,
    /// Pixels above the threshold plus the offset.
    pub certain_px: usize,
    /// Pixels above the threshold minus the offset.
    pub possible_px: usize,
}

impl MaskUpscaler {
    /// For masks of `side` x `side` logits of a crop with this frame, whose upper left corner is at `offset_xy_px` of an image
    /// of `image_hw`.
    ///
    /// # Errors
    ///
    /// When the image is larger than any mask may be.
    ///
    /// # Panics
    ///
    /// When `side` is below 3 or above the model's input size, or the crop does not lie in the image.
    pub fn new(
        side: usize,
        frame: &ModelFrame,
        image_hw: [usize; 2],
        offset_xy_px: [usize; 2],
    ) -> Result<Self, ImageError> {
        checked_area(image_hw)?;
        assert!(
            (TAPS..=frame.side_px).contains(&side),
            "the decoder's side length must be 3 to {} px, got {side}",
            frame.side_px
        );
        let [height, width] = frame.original_hw;
        let [x, y] = offset_xy_px;
        assert!(
            x + width <= image_hw[1] && y + height <= image_hw[0],
            "a crop of {height} x {width} at x {x}, y {y} must lie in its image, {} x {}",
            image_hw[0],
            image_hw[1]
        );
        let [down, across] =
            [0, 1].map(|axis| taps(side, frame.side_px, frame.resized_hw[axis], frame.original_hw[axis]));
        let mut groups: Vec<Group> = Vec::new();
        for (row, taps) in down.iter().enumerate() {
            match groups.last_mut() {
                Some(group) if group.first == taps.first => group.rows.end = row + 1,
                _ => groups.push(Group { first: taps.first, rows: row..row + 1 }),
            }
        }
        let n_rows = groups.last().map_or(0, |group| group.first + TAPS);
        Ok(Self { frame: *frame, side, image_hw, offset_xy_px, across, down, groups, n_rows })
    }

    /// The sizes of the crop.
    #[must_use]
    pub fn frame(&self) -> &ModelFrame {
        &self.frame
    }

    /// Upscales one mask.
    ///
    /// # Panics
    ///
    /// When there are not `side` x `side` logits, row-major.
    #[must_use]
    pub fn upscale(&self, low_res_logits: &[f32], levels: StabilityLevels) -> UpscaledMask {
        assert_eq!(low_res_logits.len(), self.side * self.side, "a mask has {0} x {0} logits", self.side);
        let columns = LowResColumns::new(low_res_logits, self.side, self.n_rows, levels);
        let mut pass = Pass { levels, is_set: false, transitions: Vec::new(), certain_px: 0, possible_px: 0 };
        let mut mixed = vec![0.0; self.n_rows];
        let [image_height, _] = self.image_hw;
        let [x, y] = self.offset_xy_px;
        let height = self.down.len();
        for (column, taps) in self.across.iter().enumerate() {
            let at = ((x + column) * image_height + y) as u32;
            match columns.active_rows(taps.first) {
                None => pass.set_from(at, false),
                Some(active) => {
                    columns.mix(taps, &active, &mut mixed);
                    self.column(&mut pass, at, &active, &mixed);
                }
            }
            if height < image_height {
                // The next column of the crop is not the next pixel of the image.
                pass.set_from(at + height as u32, false);
            }
        }
        // Nor is the next column of the image one of the crop's.
        pass.set_from(((x + self.across.len()) * image_height) as u32, false);
        let n_pixels = self.image_hw[0] * self.image_hw[1];
        let rle = Rle::from_transitions(self.image_hw, n_pixels, &pass.transitions);
        UpscaledMask { rle, certain_px: pass.certain_px, possible_px: pass.possible_px }
    }

    /// One column of the crop, of which only these rows of logits are above the lowest level.
    fn column(&self, pass: &mut Pass, at: u32, active: &Range<usize>, mixed: &[f32]) {
        let begin = self.groups.partition_point(|group| group.first + TAPS <= active.start);
        let end = self.groups.partition_point(|group| group.first < active.end);
        let groups = &self.groups[begin..end];
        let (Some(first), Some(last)) = (groups.first(), groups.last()) else {
            pass.set_from(at, false);
            return;
        };
        if first.rows.start > 0 {
            pass.set_from(at, false);
        }
        for group in groups {
            let around = &mixed[group.first..group.first + TAPS];
            let rows = group.rows.clone();
            match pass.side_of(around) {
                Side::Below => pass.set_from(at + rows.start as u32, false),
                Side::Above => {
                    pass.set_from(at + rows.start as u32, true);
                    pass.certain_px += rows.len();
                    pass.possible_px += rows.len();
                }
                Side::Between => {
                    for (row, taps) in rows.clone().zip(&self.down[rows]) {
                        let [a, b, c] = taps.weights;
                        pass.pixel(at + row as u32, a * around[0] + b * around[1] + c * around[2]);
                    }
                }
            }
        }
        if last.rows.end < self.down.len() {
            pass.set_from(at + last.rows.end as u32, false);
        }
    }
}

/// The logits column by column, with the rows of each that may matter.
struct LowResColumns {
    /// `[column][row]`.
    logits: Vec<f32>,
    n_rows: usize,
    /// First and end of the active rows of each column.
    active: Vec<[usize; 2]>,
}

impl LowResColumns {
    fn new(low_res: &[f32], side: usize, n_rows: usize, levels: StabilityLevels) -> Self {
        let lowest = levels.threshold - levels.offset;
        let bound = lowest - ROUNDING * (1.0 + lowest.abs());
        let mut logits = vec![0.0; side * n_rows];
        let mut active = vec![NO_ROWS; side];
        for (row, values) in low_res.chunks_exact(side).take(n_rows).enumerate() {
            for (column, (&logit, active)) in values.iter().zip(&mut active).enumerate() {
                logits[column * n_rows + row] = logit;
                // NaN counts as active and is then compared pixel by pixel.
                if logit >= bound || logit.is_nan() {
                    *active = [active[0].min(row), row + 1];
                }
            }
        }
        Self { logits, n_rows, active }
    }

    /// The rows that are active in any of the columns that are interpolated.
    fn active_rows(&self, first: usize) -> Option<Range<usize>> {
        let union = self.active[first..first + TAPS].iter();
        let [start, end] = union.fold(NO_ROWS, |all, rows| [all[0].min(rows[0]), all[1].max(rows[1])]);
        (start < end).then_some(start..end)
    }

    /// Interpolates across, in the active rows and those that are interpolated with them.
    fn mix(&self, taps: &Taps, active: &Range<usize>, mixed: &mut [f32]) {
        let rows = active.start.saturating_sub(TAPS - 1)..(active.end + TAPS - 1).min(self.n_rows);
        let [x, y, z] = [0, 1, 2].map(|tap| &self.logits[(taps.first + tap) * self.n_rows..][rows.clone()]);
        let [a, b, c] = taps.weights;
        for (mixed, ((x, y), z)) in mixed[rows].iter_mut().zip(x.iter().zip(y).zip(z)) {
            *mixed = a * x + b * y + c * z;
        }
    }
}

const NO_ROWS: [usize; 2] = [usize::MAX, 0];

/// Where all values between some logits lie.
enum Side {
    Below,
    Between,
    Above,
}

/// What is collected along the columns.
struct Pass {
    levels: StabilityLevels,
    is_set: bool,
    /// Column-major positions in the image at which the value changes.
    transitions: Vec<u32>,
    certain_px: usize,
    possible_px: usize,
}

impl Pass {
    fn set_from(&mut self, at: u32, is_set: bool) {
        if self.is_set != is_set {
            self.transitions.push(at);
            self.is_set = is_set;
        }
    }

    fn pixel(&mut self, at: u32, logit: f32) {
        let StabilityLevels { threshold, offset } = self.levels;
        self.certain_px += usize::from(logit > threshold + offset);
        self.possible_px += usize::from(logit > threshold - offset);
        self.set_from(at, logit > threshold);
    }

    fn side_of(&self, around: &[f32]) -> Side {
        let StabilityLevels { threshold, offset } = self.levels;
        let (low, high) = (threshold - offset, threshold + offset);
        if around.iter().all(|&logit| logit < low - ROUNDING * (1.0 + low.abs())) {
            Side::Below
        } else if around.iter().all(|&logit| logit > high + ROUNDING * (1.0 + high.abs())) {
            Side::Above
        } else {
            Side::Between
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::{Mask, random_below};
    use crate::upscale::upscale_mask;

    const LEVELS: StabilityLevels = StabilityLevels { threshold: 0.0, offset: 1.0 };

    /// Noise, a smooth blob, or nothing.
    fn logits(side: usize, kind: usize, random: &mut impl FnMut(u32) -> u32) -> Vec<f32> {
        let centre = [random(side as u32) as f32, random(side as u32) as f32];
        let radius = 1.0 + random(side as u32) as f32 / 2.0;
        (0..side * side)
            .map(|at| {
                let (y, x) = ((at / side) as f32 - centre[0], (at % side) as f32 - centre[1]);
                match kind {
                    0 => random(1000) as f32 / 100.0 - 5.0,
                    1 => 1.5 * (radius - y.hypot(x)),
                    2 => 3.0,
                    _ => -3.0,
                }
            })
            .collect()
    }

    #[test]
    fn the_runs_are_those_of_the_upscaled_bitmap() {
        let mut random = random_below(11);
        for (original_hw, side, side_px) in [
            ([37, 50], 16, 64),
            ([64, 64], 16, 64),
            ([200, 91], 16, 64),
            ([1, 1], 8, 8),
            ([3, 400], 16, 64),
            ([40, 33], 64, 64),
        ] {
            let frame = ModelFrame::new(original_hw, side_px);
            let whole = MaskUpscaler::new(side, &frame, original_hw, [0, 0]).expect("small");
            let wider = [original_hw[0] + 9, original_hw[1] + 5];
            let placed = MaskUpscaler::new(side, &frame, wider, [2, 4]).expect("small");
            let tall = MaskUpscaler::new(side, &frame, [original_hw[0], original_hw[1] + 5], [3, 0]).expect("small");
            for round in 0..40 {
                let logits = logits(side, round % 4, &mut random);
                let at = |level| upscale_mask(&logits, side, &frame, level);
                let got = whole.upscale(&logits, LEVELS);
                let mask = at(0.0);
                assert_eq!(got.rle, Rle::from_mask(&mask), "{original_hw:?} round {round}");
                assert_eq!([got.certain_px, got.possible_px], [at(1.0).area_px(), at(-1.0).area_px()]);
                for (placed, size_hw, [x, y]) in
                    [(&placed, wider, [2, 4]), (&tall, [original_hw[0], original_hw[1] + 5], [3, 0])]
                {
                    let expected =
                        Mask::from_fn(size_hw, |row, column| row >= y && column >= x && mask.get(row - y, column - x));
                    let got_placed = placed.upscale(&logits, LEVELS);
                    assert_eq!(got_placed.rle, Rle::from_mask(&expected), "{original_hw:?} in {size_hw:?}");
                    assert_eq!(got_placed.possible_px, got.possible_px);
                }
            }
        }
    }

    #[test]
    fn undefined_logits_set_nothing() {
        let frame = ModelFrame::new([9, 9], 16);
        let upscaler = MaskUpscaler::new(4, &frame, [9, 9], [0, 0]).expect("small");
        let got = upscaler.upscale(&[f32::NAN; 16], LEVELS);
        assert!(got.rle.is_empty() && got.possible_px == 0);
    }
}
