//! Samples masks through a view, from run lengths directly to the pixels that the loss compares.
//!
//! The rule: pixel `(i, j)` of a mask of side `m` takes the original pixel under its centre, the model point `((j +
//! 0.5) side / m, (i + 0.5) side / m)`. This is the half-pixel grid of the model's logits (segment-anything 1.0 keeps
//! it at every resolution by `F.interpolate(.., align_corners=False)`), so mask and logits of one resolution are
//! aligned, and a prediction upscaled to the original is compared at the same places. A centre on the border of two
//! original pixels takes the one with the higher index, as Pillow's `NEAREST` does.
//!
//! Rows and columns of the view are independent, so nothing is decoded: each run of the RLE covers a range of rows in a
//! range of columns, found in two small tables. The cost of a mask is its runs and its own pixels, not the original's.

use sam_image::Rle;

use crate::transforms::View;

/// Samples masks of one view at one resolution.
#[derive(Debug, Clone)]
pub struct MaskSampler {
    mask_side_px: usize,
    original_hw: [usize; 2],
    rows: AxisMap,
    columns: AxisMap,
}

/// Maps a range of original pixels to the range of mask pixels that sample it, along one axis.
#[derive(Debug, Clone)]
struct AxisMap {
    /// `n_below[p]`: number of mask pixels that sample an original pixel before `p`.
    n_below: Vec<u32>,
    mirrored: bool,
}

impl AxisMap {
    fn new(view: &View, yx: usize, mask_side_px: usize) -> Self {
        let mirrored = [view.mirrored_y, view.mirrored_x][yx];
        let xy = 1 - yx;
        let to_original = view.to_original();
        let first = view.crop_origin_yx[yx];
        let last = first + view.crop_hw[yx] - 1;
        let model_per_px = view.side_px as f64 / mask_side_px as f64;
        let mut n_below = vec![0u32; view.original_hw[yx] + 1];
        for px in 0..mask_side_px {
            let centre = (px as f64 + 0.5) * model_per_px;
            if centre >= view.resized_hw[yx] as f64 {
                break;
            }
            let original = centre * to_original.scale_xy[xy] + to_original.shift_xy[xy];
            // The slack counts a centre that misses a border only by rounding as on it.
            let original = ((original + 1e-9).max(0.0) as usize).clamp(first, last);
            n_below[original + 1] += 1;
        }
        for at in 1..n_below.len() {
            n_below[at] += n_below[at - 1];
        }
        Self { n_below, mirrored }
    }

    fn n_seen(&self) -> usize {
        self.n_below[self.n_below.len() - 1] as usize
    }

    /// The mask pixels that sample originals `start..end`.
    fn range(&self, start: usize, end: usize) -> std::ops::Range<usize> {
        let (low, high) = (self.n_below[start] as usize, self.n_below[end] as usize);
        if self.mirrored { self.n_seen() - high..self.n_seen() - low } else { low..high }
    }
}

impl MaskSampler {
    /// Creates a sampler for masks of `mask_side_px` x `mask_side_px` over the model's whole input.
    ///
    /// # Panics
    ///
    /// When `mask_side_px` is zero.
    #[must_use]
    pub fn new(view: &View, mask_side_px: usize) -> Self {
        assert!(mask_side_px > 0, "a mask must have at least 1 px, got 0");
        Self {
            mask_side_px,
            original_hw: view.original_hw,
            rows: AxisMap::new(view, 0, mask_side_px),
            columns: AxisMap::new(view, 1, mask_side_px),
        }
    }

    /// Returns the side of the masks.
    #[must_use]
    pub fn mask_side_px(&self) -> usize {
        self.mask_side_px
    }

    /// Returns the number of pixels that [`MaskSampler::paint`] would set: zero if the object is not visible.
    ///
    /// # Panics
    ///
    /// When the mask's size is not the image's.
    #[must_use]
    pub fn visible_px(&self, mask: &Rle) -> usize {
        let mut sum = 0;
        self.for_each_block(mask, |rows, columns| sum += rows.len() * columns.len());
        sum
    }

    /// Writes the mask as 0 and 1, row by row; padding is 0.
    ///
    /// # Panics
    ///
    /// When the mask's size is not the image's, or `pixels` is not of `mask_side_px` squared.
    pub fn paint(&self, mask: &Rle, pixels: &mut [u8]) {
        let side = self.mask_side_px;
        assert_eq!(pixels.len(), side * side, "a mask of {side} px must have side x side pixels");
        pixels.fill(0);
        // One toggle where a block starts and one below its end; then every row is XORed with the one above.
        let (mut first_row, mut end_row) = (side, 0);
        let (mut first_column, mut end_column) = (side, 0);
        let mut toggle = |row: usize, columns: std::ops::Range<usize>| {
            for pixel in &mut pixels[row * side..][columns] {
                *pixel ^= 1;
            }
        };
        self.for_each_block(mask, |rows, columns| {
            if rows.is_empty() || columns.is_empty() {
                return;
            }
            toggle(rows.start, columns.clone());
            if rows.end < side {
                toggle(rows.end, columns.clone());
            }
            (first_row, end_row) = (first_row.min(rows.start), end_row.max(rows.end));
            first_column = first_column.min(columns.start);
            end_column = end_column.max(columns.end);
        });
        if first_column >= end_column {
            return;
        }
        // The row at `end_row` holds only toggles that switch off, so it is included.
        for row in first_row + 1..(end_row + 1).min(side) {
            let (above, below) = pixels.split_at_mut(row * side);
            let above = &above[(row - 1) * side..][first_column..end_column];
            for (pixel, &above) in below[first_column..end_column].iter_mut().zip(above) {
                *pixel ^= above;
            }
        }
    }

    /// Visits the rows and columns that each run of the mask sets; a range may be empty.
    fn for_each_block(&self, mask: &Rle, mut visit: impl FnMut(std::ops::Range<usize>, std::ops::Range<usize>)) {
        assert_eq!(mask.size_hw(), self.original_hw, "a mask must have its image's size");
        let height = self.original_hw[0];
        let mut at = 0usize;
        for pair in mask.counts().chunks_exact(2) {
            let (mut start, end) = (at + pair[0] as usize, at + (pair[0] + pair[1]) as usize);
            at = end;
            // Split into the rest of the first column, whole columns, and the start of the last.
            while start < end {
                let column = start / height;
                let (top, end_column) = (start % height, end / height);
                if top == 0 && end_column > column {
                    visit(self.rows.range(0, height), self.columns.range(column, end_column));
                    start = end_column * height;
                } else {
                    let bottom = (end - column * height).min(height);
                    visit(self.rows.range(top, bottom), self.columns.range(column, column + 1));
                    start = column * height + bottom;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, RandomStream};
    use crate::transforms::{Augmentation, RandomCrop, ScaleJitter};
    use sam_image::Mask;

    fn speckled(size_hw: [usize; 2], stream: &mut RandomStream) -> Mask {
        let mut centres = [(); 3].map(|()| {
            [stream.uniform(0.0, size_hw[0] as f64), stream.uniform(0.0, size_hw[1] as f64), stream.uniform(0.0, 12.0)]
        });
        centres[2][2] *= 10.0;
        let dust = stream.chance(0.3);
        Mask::from_fn(size_hw, |row, column| {
            centres
                .iter()
                .any(|[y, x, radius]| (row as f64 - y).powi(2) + (column as f64 - x).powi(2) < radius * radius)
                ^ (dust && stream.chance(0.2))
        })
    }

    /// The module's rule, evaluated literally for each pixel.
    fn by_geometry(view: &View, mask: &Mask, side: usize) -> Vec<u8> {
        let to_original = view.to_original();
        let mut pixels = vec![0; side * side];
        for (at, pixel) in pixels.iter_mut().enumerate() {
            let centre = [at % side, at / side].map(|px| (px as f64 + 0.5) * view.side_px as f64 / side as f64);
            if centre[0] >= view.resized_hw[1] as f64 || centre[1] >= view.resized_hw[0] as f64 {
                continue;
            }
            let [x, y] = to_original.apply(centre).map(|v| (v + 1e-9).floor() as usize);
            *pixel = u8::from(mask.get(y, x));
        }
        pixels
    }

    #[test]
    fn masks_follow_the_geometry() {
        let augmentation = Augmentation {
            horizontal_flip_chance: 0.5,
            vertical_flip_chance: 0.5,
            scale_jitter: Some(ScaleJitter::default()),
            crop: Some(RandomCrop::default()),
            colour: None,
            resized_crop: None,
        };
        let mut n_set = 0;
        for draw in 0..600 {
            let mut stream = RandomStream::new(9, Purpose::View, &[draw]);
            let original_hw = [[40, 60], [64, 64], [7, 90], [101, 33]][draw as usize % 4];
            let side_px = [64, 128][draw as usize / 4 % 2];
            let mask_side_px = [16, 64, 100][draw as usize % 3];
            let view = augmentation.draw_view(original_hw, side_px, &mut stream);
            let mask = speckled(original_hw, &mut stream);
            let rle = Rle::from_mask(&mask);
            let sampler = MaskSampler::new(&view, mask_side_px);
            let mut painted = vec![7; mask_side_px * mask_side_px];
            sampler.paint(&rle, &mut painted);
            assert_eq!(painted, by_geometry(&view, &mask, mask_side_px), "{view:?}");
            let area: usize = painted.iter().map(|&pixel| usize::from(pixel)).sum();
            assert_eq!(sampler.visible_px(&rle), area);
            n_set += area;
        }
        assert!(n_set > 50_000, "the masks must not be trivial, got {n_set}");
    }

    #[test]
    fn unscaled_and_full_masks() {
        let mask = speckled([32, 32], &mut RandomStream::new(1, Purpose::View, &[]));
        let sampler = MaskSampler::new(&View::whole([32, 32], 32), 32);
        let mut painted = vec![0; 32 * 32];
        sampler.paint(&Rle::from_mask(&mask), &mut painted);
        let expected: Vec<u8> = mask.pixels().iter().map(|&set| u8::from(set)).collect();
        assert_eq!(painted, expected);
        let full = Mask::from_fn([16, 32], |_, _| true);
        let sampler = MaskSampler::new(&View::whole([16, 32], 64), 16);
        assert_eq!(sampler.visible_px(&Rle::from_mask(&full)), 16 * 8);
        let nothing = Rle::from_mask(&Mask::empty([16, 32]));
        assert_eq!(sampler.visible_px(&nothing), 0);
    }

    #[test]
    fn a_mirrored_image_shows_mirrored_masks() {
        // The red channel of the image is the mask: both must be transformed alike, mirrored or not, at full
        // resolution.
        for (mirrored_x, mirrored_y) in [(true, false), (false, true), (true, true)] {
            let mask = speckled([48, 64], &mut RandomStream::new(6, Purpose::View, &[]));
            let image =
                image::RgbImage::from_fn(64, 48, |x, y| image::Rgb([u8::from(mask.get(y as usize, x as usize)), 0, 0]));
            let view = View { mirrored_x, mirrored_y, ..View::whole([48, 64], 64) };
            let seen = view.render(&image);
            let mut painted = vec![0; 64 * 64];
            MaskSampler::new(&view, 64).paint(&Rle::from_mask(&mask), &mut painted);
            for (x, y, pixel) in seen.enumerate_pixels() {
                assert_eq!(painted[y as usize * 64 + x as usize], pixel[0]);
            }
        }
    }

    #[test]
    fn masks_map_back_where_nothing_was_lost() {
        for draw in 0..50 {
            let mut stream = RandomStream::new(8, Purpose::View, &[draw]);
            let flips =
                Augmentation { horizontal_flip_chance: 0.5, vertical_flip_chance: 0.5, ..Augmentation::default() };
            // Enlarged, so that each original pixel is sampled at least once.
            let view = flips.draw_view([37, 50], 128, &mut stream);
            let mask = speckled([37, 50], &mut stream);
            let mut painted = vec![0; 128 * 128];
            MaskSampler::new(&view, 128).paint(&Rle::from_mask(&mask), &mut painted);
            let there = Mask::from_fn([128, 128], |row, column| painted[row * 128 + column] == 1);
            assert_eq!(view.mask_to_original(&there), mask);
        }
    }
}
