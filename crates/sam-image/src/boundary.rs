//! Mask boundaries and boundary IoU.
//!
//! Source: Cheng et al., "Boundary IoU" (CVPR 2021), `mask_to_boundary` of their `boundary_iou_api`: the mask minus its
//! erosion by a 3 x 3 square, iterated once per pixel of thickness; the image border counts as unset. The thickness is
//! 2 % of the image diagonal.
//!
//! The iterated erosion equals one erosion by a larger square, which is separable: rows first, then columns, by counting,
//! at a cost that does not depend on the thickness.

use crate::error::ImageError;
use crate::iou::mask_iou;
use crate::mask::{Mask, row_runs, same_size};

/// `dilation_ratio` of the reference: the thickness as a fraction of the image diagonal.
pub const DILATION_RATIO: f64 = 0.02;

/// The boundary thickness for images of this size, at least one pixel; [`DILATION_RATIO`] is the usual ratio.
#[must_use]
pub fn boundary_thickness_px(size_hw: [usize; 2], dilation_ratio: f64) -> usize {
    let [height, width] = size_hw.map(|size| size as f64);
    // Python's `round` rounds halves to even. `as` turns a negative or NaN ratio into 0.
    ((dilation_ratio * (height * height + width * width).sqrt()).round_ties_even() as usize).max(1)
}

/// The set pixels within `thickness_px` (Chebyshev distance) of an unset pixel or of the image border.
#[must_use]
pub fn mask_boundary(mask: &Mask, thickness_px: usize) -> Mask {
    let mut boundary = mask.clone();
    let Some([x0, y0, x1, y1]) = mask.bounds_xyxy_px() else { return boundary };
    // For each column: the number of consecutive rows, up to this one, in which the width of the square is set.
    let mut n_rows = vec![0usize; x1 - x0];
    let mut has_width = vec![false; x1 - x0];
    for row in y0..y1 {
        has_width.fill(false);
        for (start, end) in row_runs(&mask.row(row)[x0..x1], true) {
            if end - start > thickness_px.saturating_mul(2) {
                has_width[start + thickness_px..end - thickness_px].fill(true);
            }
        }
        for (n, &has_width) in n_rows.iter_mut().zip(&has_width) {
            *n = if has_width { *n + 1 } else { 0 };
        }
        let Some(centre) = row.checked_sub(thickness_px) else { continue };
        let centre = centre * mask.width();
        for (pixel, &n) in boundary.pixels_mut()[centre + x0..centre + x1].iter_mut().zip(&n_rows) {
            *pixel &= n <= thickness_px.saturating_mul(2);
        }
    }
    boundary
}

/// Boundary IoU. In their AP, Cheng et al. use the minimum of it and the mask IoU.
///
/// # Errors
///
/// When the sizes differ.
pub fn boundary_iou(a: &Mask, b: &Mask, dilation_ratio: f64) -> Result<f64, ImageError> {
    same_size(a.size_hw(), b.size_hw())?;
    let thickness_px = boundary_thickness_px(a.size_hw(), dilation_ratio);
    mask_iou(&mask_boundary(a, thickness_px), &mask_boundary(b, thickness_px))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thickness_rounds_as_python_does() {
        assert_eq!(boundary_thickness_px([480, 640], DILATION_RATIO), 16);
        assert_eq!(boundary_thickness_px([3, 4], DILATION_RATIO), 1);
        // 0.5 x 5 = 2.5 and 0.7 x 5 = 3.5 are halves.
        assert_eq!(boundary_thickness_px([3, 4], 0.5), 2);
        assert_eq!(boundary_thickness_px([3, 4], 0.7), 4);
    }

    #[test]
    fn a_full_image_has_a_frame() {
        let full = Mask::from_fn([7, 9], |_, _| true);
        for thickness_px in 1..12 {
            let inside = |size: usize| size.saturating_sub(2 * thickness_px);
            let boundary = mask_boundary(&full, thickness_px);
            assert_eq!(boundary.area_px(), 63 - inside(7) * inside(9), "{thickness_px} px");
        }
        assert_eq!(mask_boundary(&full, usize::MAX), full);
    }

    #[test]
    fn equal_masks_have_one_and_empty_ones_zero() {
        let square = Mask::from_fn([20, 20], |row, column| (5..15).contains(&row) && (3..9).contains(&column));
        assert_eq!(boundary_iou(&square, &square, DILATION_RATIO).expect("one size"), 1.0);
        let empty = Mask::empty([20, 20]);
        assert_eq!(boundary_iou(&empty, &empty, DILATION_RATIO).expect("one size"), 0.0);
        assert!(boundary_iou(&empty, &Mask::empty([20, 21]), DILATION_RATIO).is_err());
    }
}
