//! Mask postprocessing: from the decoder's logits to pixels of the original image (`Sam.postprocess_masks`).
//!
//! The reference resizes twice, both bilinear without antialiasing: to the model's square, whose padding is then cropped,
//! and to the image's size. Both steps are separable, so together they are one weighted sum along rows and one along
//! columns. The second step reads two neighbouring pixels of the square, and each of those two neighbouring logits, so a sum
//! has at most three terms, and the square is never formed: a 1500 x 2250 mask costs a thirtieth of two resizes of whole
//! images. Differs by f32 rounding only.

use crate::frame::ModelFrame;
use crate::mask::Mask;

/// Number of neighbouring logits per output pixel and axis.
pub(crate) const TAPS: usize = 3;

/// The weights of the logits in one row or column of the original image.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taps {
    pub(crate) first: usize,
    pub(crate) weights: [f32; TAPS],
}

/// Upscales logits to pixels of the original image and thresholds them.
///
/// # Panics
///
/// When `low_res_logits` is not a square of `side` x `side`, or `side` is below 3 or above the model's input size.
#[must_use]
pub fn upscale_mask(low_res_logits: &[f32], side: usize, frame: &ModelFrame, threshold: f32) -> Mask {
    let mut mask = Mask::empty(frame.original_hw);
    for_each_pixel(low_res_logits, side, frame, mask.pixels_mut(), |logit| logit > threshold);
    mask
}

/// Upscales logits to pixels of the original image, row-major.
///
/// # Panics
///
/// As [`upscale_mask`].
#[must_use]
pub fn upscale_logits(low_res_logits: &[f32], side: usize, frame: &ModelFrame) -> Vec<f32> {
    let mut logits = vec![0.0; frame.original_hw[0] * frame.original_hw[1]];
    for_each_pixel(low_res_logits, side, frame, &mut logits, |logit| logit);
    logits
}

fn for_each_pixel<T>(low_res: &[f32], side: usize, frame: &ModelFrame, out: &mut [T], pixel: impl Fn(f32) -> T) {
    assert_eq!(low_res.len(), side * side, "a mask of the decoder has {side} x {side} logits");
    assert!(
        (TAPS..=frame.side_px).contains(&side),
        "the decoder's side length must be 3 to {} px, got {side}",
        frame.side_px
    );
    let [down, across] = [0, 1].map(|axis| taps(side, frame.side_px, frame.resized_hw[axis], frame.original_hw[axis]));
    let width = frame.original_hw[1];
    // The rows below are padding.
    let n_rows = down.iter().map(|taps| taps.first + TAPS).max().unwrap_or(0);
    let mut wide = Vec::with_capacity(n_rows * width);
    for row in low_res.chunks_exact(side).take(n_rows) {
        wide.extend(across.iter().map(|taps| {
            let [a, b, c] = taps.weights;
            a * row[taps.first] + b * row[taps.first + 1] + c * row[taps.first + 2]
        }));
    }
    for (out, taps) in out.chunks_exact_mut(width).zip(&down) {
        let [a, b, c] = taps.weights;
        let rows = &wide[taps.first * width..][..TAPS * width];
        let (first, rest) = rows.split_at(width);
        let (second, third) = rest.split_at(width);
        for (out, ((&x, &y), &z)) in out.iter_mut().zip(first.iter().zip(second).zip(third)) {
            *out = pixel(a * x + b * y + c * z);
        }
    }
}

/// Combines both resizes of one axis.
pub(crate) fn taps(side: usize, square: usize, resized: usize, original: usize) -> Vec<Taps> {
    let tap = |at: usize| {
        let outer = neighbours(at, resized, original);
        // The terms lie within three neighbours, because a pixel of the square is no wider than a logit.
        let first = neighbours(outer[0].0, side, square)[0].0.min(side - TAPS);
        let mut weights = [0.0; TAPS];
        for (in_square, outer) in outer {
            for (in_low_res, inner) in neighbours(in_square, side, square) {
                weights[in_low_res - first] += outer * inner;
            }
        }
        Taps { first, weights: weights.map(|weight: f64| weight as f32) }
    };
    (0..original).map(tap).collect()
}

/// The two samples of bilinear interpolation with their weights (`align_corners = False`).
fn neighbours(at: usize, from: usize, to: usize) -> [(usize, f64); 2] {
    let place = ((at as f64 + 0.5) * (from as f64 / to as f64) - 0.5).max(0.0);
    let below = (place.floor() as usize).min(from - 1);
    let fraction = place - below as f64;
    [(below, 1.0 - fraction), ((below + 1).min(from - 1), fraction)]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A plain bilinear resize of a whole image.
    fn resize(image: &[f64], [height, width]: [usize; 2], to_hw: [usize; 2]) -> Vec<f64> {
        let mut resized = Vec::new();
        for row in 0..to_hw[0] {
            for column in 0..to_hw[1] {
                let mut sum = 0.0;
                for (y, down) in neighbours(row, height, to_hw[0]) {
                    for (x, across) in neighbours(column, width, to_hw[1]) {
                        sum += down * across * image[y * width + x];
                    }
                }
                resized.push(sum);
            }
        }
        resized
    }

    #[test]
    fn one_weighted_sum_equals_both_resizes() {
        for (original_hw, side, side_px) in [
            ([37, 50], 16, 64),
            ([64, 64], 16, 64),
            ([200, 91], 16, 64),
            ([9, 300], 32, 64),
            ([1, 1], 8, 8),
            ([3, 900], 16, 64),
            ([640, 2], 4, 32),
            ([40, 33], 64, 64),
        ] {
            let frame = ModelFrame::new(original_hw, side_px);
            let logits: Vec<f32> = (0..side * side).map(|at| ((at * 7919) % 101) as f32 / 10.0 - 5.0).collect();
            let exact: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
            let square = resize(&exact, [side, side], [side_px, side_px]);
            let [height, width] = frame.resized_hw;
            let cut: Vec<f64> =
                square.chunks_exact(side_px).take(height).flat_map(|row| &row[..width]).copied().collect();
            let expected = resize(&cut, frame.resized_hw, original_hw);
            let got = upscale_logits(&logits, side, &frame);
            assert_eq!(got.len(), expected.len());
            let largest = got.iter().zip(&expected).map(|(&got, expected)| (f64::from(got) - expected).abs());
            assert!(largest.fold(0.0, f64::max) < 3e-6, "{original_hw:?}");
            let mask = upscale_mask(&logits, side, &frame, 0.5);
            assert!(mask.pixels().iter().zip(&got).all(|(&set, &logit)| set == (logit > 0.5)));
        }
    }
}
