//! The crop of a mask, as CLIP takes it (Kirillov 2023, arXiv 2304.02643 §D.5).
//!
//! The paper does not say how a square beyond the border is filled, what zeroed pixels are, and which patches lie in a mask. Here:
//! black, before normalisation; black as well; those that a pixel of the mask reaches into. A mask so has a patch at least.

use sam_image::{Mask, Resampling, RgbImage, Rle, resize_rgb_with};

/// Pixels of a crop that are not of the mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// As in the image.
    Kept,
    /// Black.
    Zeroed,
}

/// A mask's square crop: an image of CLIP's size, and which of its patches have a pixel of the mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaskCrop {
    image: RgbImage,
    patches: Vec<bool>,
}

/// A square of an image, which may reach beyond its border.
#[derive(Clone, Copy, Debug)]
struct Square {
    x0: isize,
    y0: isize,
    side: usize,
}

impl MaskCrop {
    /// The square around the middle of the mask's box, with `scale` times its longer side, black beyond the border, resized to
    /// `side_px` (bicubic).
    ///
    /// # Panics
    /// When the mask is empty or has another size than the image, the scale is below 1, or `side_px` is not a multiple of
    /// `patch_px`.
    #[must_use]
    pub fn new(
        image: &RgbImage,
        mask: &Rle,
        scale: f64,
        background: Background,
        side_px: usize,
        patch_px: usize,
    ) -> Self {
        let size_hw = [image.height() as usize, image.width() as usize];
        assert_eq!(mask.size_hw(), size_hw, "a mask has the size of its image");
        assert!(scale >= 1.0 && scale.is_finite(), "a crop holds its mask: the scale is at least 1, got {scale}");
        assert!(patch_px > 0 && side_px.is_multiple_of(patch_px), "{side_px} px are whole patches of {patch_px} px");
        let Some(bounds) = mask.bounds_xyxy_px() else { panic!("a mask with pixels") };
        let square = Square::around(bounds, scale);
        let mask = mask.to_mask();
        let crop = square.cut(image, |x, y| background == Background::Kept || mask.get(y, x));
        Self {
            image: resize_rgb_with(&crop, [side_px; 2], Resampling::Bicubic),
            patches: square.patches(&mask, bounds, side_px / patch_px),
        }
    }

    /// RGB, `side_px x side_px`.
    #[must_use]
    pub fn image(&self) -> &RgbImage {
        &self.image
    }

    /// Whether each patch has a pixel of the mask, row-major.
    #[must_use]
    pub fn patches(&self) -> &[bool] {
        &self.patches
    }
}

impl Square {
    fn around([x0, y0, x1, y1]: [usize; 4], scale: f64) -> Self {
        let longer = (x1 - x0).max(y1 - y0);
        let side = ((longer as f64 * scale).round() as usize).max(longer);
        // Rounded down, the square still holds the box: the middle is a whole pixel or half of one.
        let start = |start: usize, end: usize| (start as isize + end as isize - side as isize).div_euclid(2);
        Self { x0: start(x0, x1), y0: start(y0, y1), side }
    }

    /// The pixels of the square that are in the image and kept; all others are black.
    fn cut(self, image: &RgbImage, is_kept: impl Fn(usize, usize) -> bool) -> RgbImage {
        let [width, height] = [image.width() as usize, image.height() as usize];
        let [columns, rows] = [(self.x0, width), (self.y0, height)]
            .map(|(start, size)| start.max(0) as usize..((start + self.side as isize).max(0) as usize).min(size));
        let mut crop = RgbImage::new(self.side as u32, self.side as u32);
        for y in rows {
            for x in columns.clone() {
                if is_kept(x, y) {
                    let [to_x, to_y] = [x as isize - self.x0, y as isize - self.y0].map(|at| at as u32);
                    crop.put_pixel(to_x, to_y, *image.get_pixel(x as u32, y as u32));
                }
            }
        }
        crop
    }

    /// The patches of `grid x grid` that a pixel of the mask reaches into.
    fn patches(self, mask: &Mask, [x0, y0, x1, y1]: [usize; 4], grid: usize) -> Vec<bool> {
        let mut patches = vec![false; grid * grid];
        // The first and the last patch of a pixel, which is larger than a patch in a small crop.
        let reach = |at: usize, start: isize| {
            let at = (at as isize - start) as usize;
            at * grid / self.side..=((at + 1) * grid - 1) / self.side
        };
        for y in y0..y1 {
            for x in (x0..x1).filter(|&x| mask.get(y, x)) {
                for row in reach(y, self.y0) {
                    for column in reach(x, self.x0) {
                        patches[row * grid + column] = true;
                    }
                }
            }
        }
        patches
    }
}

#[cfg(test)]
mod tests {
    use sam_image::bbox_to_rle;

    use super::*;

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| [x as u8 + 1, y as u8 + 1, 7].into())
    }

    fn crop(mask: &Rle, scale: f64, background: Background) -> MaskCrop {
        MaskCrop::new(&gradient(40, 30), mask, scale, background, 8, 2)
    }

    #[test]
    fn a_crop_of_the_size_is_the_image_around_the_mask() {
        // 8 px wide and 4 high, around (14, 12).
        let mask = bbox_to_rle([30, 40], [10.0, 10.0, 8.0, 4.0]).expect("a box");
        let kept = crop(&mask, 1.0, Background::Kept);
        assert_eq!((kept.image().get_pixel(0, 0).0, kept.image().get_pixel(7, 7).0), ([11, 9, 7], [18, 16, 7]));
        let zeroed = crop(&mask, 1.0, Background::Zeroed);
        assert_eq!((zeroed.image().get_pixel(0, 1).0, zeroed.image().get_pixel(0, 2).0), ([0; 3], [11, 11, 7]));
        let rows = [false, true, true, false];
        let expected: Vec<bool> = rows.iter().flat_map(|&row| [row; 4]).collect();
        assert_eq!((kept.patches(), zeroed.patches()), (&expected[..], &expected[..]));
    }

    #[test]
    fn beyond_the_border_is_black() {
        let mask = bbox_to_rle([30, 40], [0.0, 26.0, 4.0, 4.0]).expect("a box");
        let crop = crop(&mask, 2.0, Background::Kept);
        let at = |x, y| crop.image().get_pixel(x, y).0;
        assert_eq!([at(1, 2), at(2, 1), at(2, 2), at(2, 6)], [[0; 3], [1, 26, 7], [1, 27, 7], [0; 3]]);
    }

    #[test]
    fn every_mask_has_a_patch_at_every_scale() {
        for (x, y, width, height) in [(0, 0, 1, 1), (39, 29, 1, 1), (3, 2, 33, 5), (20, 0, 1, 30), (0, 0, 40, 30)] {
            let bounds = [x, y, width, height].map(f64::from);
            let mask = bbox_to_rle([30, 40], bounds).expect("a box");
            for scale in [1.0, 1.01, 1.3, 1.5, 1.99, 2.0] {
                let crop = crop(&mask, scale, Background::Zeroed);
                let n = crop.patches().iter().filter(|patch| **patch).count();
                assert!(n > 0, "{bounds:?} at {scale}");
                if scale == 1.0 && width == height {
                    assert_eq!(n, 16, "the mask fills its crop");
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "a mask with pixels")]
    fn an_empty_mask_has_no_crop() {
        let _ = crop(&Rle::empty([30, 40]).expect("a size"), 1.0, Background::Kept);
    }
}
