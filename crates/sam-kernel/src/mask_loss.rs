//! The sums over pixels that focal loss (Lin 2017, arXiv 1708.02002), dice loss (Milletari 2016, arXiv 1606.04797) and IoU
//! of masks are computed from, in one pass over the logits, and their backward pass.
//!
//! Letters: `O` objects, `M` masks of each, `P` pixels.

use std::ops::Range;

use rayon::prelude::*;

use crate::vector::{LANES, logistic, sum_of_lanes, vectorised};

/// Number of sums per mask.
pub const SUMS: usize = 5;

/// Pixels whose sum is one f32; such sums are added in f64.
const PIXELS_PER_CHUNK: usize = 4096;

/// Logits are clamped to this magnitude: beyond it, cross entropy times a weight would overflow.
pub const LARGEST_LOGIT: f32 = 1e9;

/// Parameters of the focal loss.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskSums {
    /// Weight of the object's pixels in the focal loss; the others have one minus it. Negative: all have one.
    pub focal_alpha: f32,
    /// Exponent of the focal loss.
    pub focal_gamma: f32,
}

/// Predicted masks with their targets.
#[derive(Clone, Copy, Debug)]
pub struct MaskPixels<'a> {
    /// `[O, M, P]`.
    pub logits: &'a [f32],
    /// 1 on the object, else 0, `[O, P]`.
    pub targets: &'a [f32],
    /// 1 where a pixel is valid, else 0, `[O, P]`; `None` when all are.
    pub valid: Option<&'a [f32]>,
    /// `O`.
    pub objects: usize,
}

impl MaskSums {
    /// Sums over the valid pixels, in this order: focal loss; probability on the object; probability; thresholded mask on
    /// the object; thresholded mask.
    ///
    /// # Shapes
    /// - returns `[O, M, SUMS]`
    #[must_use]
    pub fn forward(&self, pixels: MaskPixels<'_>) -> Vec<f32> {
        let (n_masks, n_pixels) = pixels.sizes();
        // At least one, so that a mask without pixels has sums, too.
        let per_mask = n_pixels.div_ceil(PIXELS_PER_CHUNK).max(1);
        let of_chunk = |at: usize| {
            let (mask, start) = (at / per_mask, at % per_mask * PIXELS_PER_CHUNK);
            let mask = pixels.mask(mask, n_masks, n_pixels);
            self.chunk(mask.range(start..(start + PIXELS_PER_CHUNK).min(n_pixels)))
        };
        let n_chunks = pixels.objects * n_masks * per_mask;
        let chunks: Vec<[f32; SUMS]> = (0..n_chunks).into_par_iter().map(of_chunk).collect();
        let of_mask = |chunks: &[[f32; SUMS]]| {
            let mut sums = [0f64; SUMS];
            for chunk in chunks {
                sums.iter_mut().zip(chunk).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            sums.map(|sum| sum as f32)
        };
        chunks.chunks(per_mask).map(of_mask).collect::<Vec<_>>().into_flattened()
    }

    fn chunk(&self, mask: MaskPixels<'_>) -> [f32; SUMS] {
        if self.focal_gamma == 2.0 {
            self.chunk_with(mask, square)
        } else {
            self.chunk_with(
                mask,
                #[inline(always)]
                |p| p.powf(self.focal_gamma),
            )
        }
    }

    #[inline(always)]
    fn chunk_with(&self, mask: MaskPixels<'_>, modulate: impl Fn(f32) -> f32) -> [f32; SUMS] {
        vectorised(
            #[inline(always)]
            || {
                let (logits, logits_rest) = mask.logits.as_chunks::<LANES>();
                let (targets, targets_rest) = mask.targets.as_chunks::<LANES>();
                let (valid, valid_rest) = mask.valid.map_or((None, None), |valid| {
                    let (chunks, rest) = valid.as_chunks::<LANES>();
                    (Some(chunks), Some(rest))
                });
                let mut lanes = [[0f32; LANES]; SUMS];
                for (at, (x, target)) in logits.iter().zip(targets).enumerate() {
                    let valid = valid.map_or([1.0; LANES], |valid| valid[at]);
                    self.add(x, target, &valid, &mut lanes, &modulate);
                }
                // Lanes beyond the end are not valid.
                let n = logits_rest.len();
                let (mut x, mut target, mut valid) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
                x[..n].copy_from_slice(logits_rest);
                target[..n].copy_from_slice(targets_rest);
                match valid_rest {
                    Some(rest) => valid[..n].copy_from_slice(rest),
                    None => valid[..n].fill(1.0),
                }
                self.add(&x, &target, &valid, &mut lanes, &modulate);
                lanes.map(sum_of_lanes)
            },
        )
    }

    #[inline(always)]
    fn add(
        &self,
        x: &[f32; LANES],
        target: &[f32; LANES],
        valid: &[f32; LANES],
        lanes: &mut [[f32; LANES]; SUMS],
        modulate: &impl Fn(f32) -> f32,
    ) {
        let mut sums = *lanes;
        for lane in 0..LANES {
            let (x, is_object, valid) = (x[lane], target[lane] > 0.5, valid[lane]);
            let pixel = self.pixel(x, is_object, modulate);
            let on_object = if is_object { valid } else { 0.0 };
            let predicted = if x > 0.0 { 1.0 } else { 0.0 };
            sums[0][lane] += valid * pixel.focal;
            sums[1][lane] += on_object * pixel.probability;
            sums[2][lane] += valid * pixel.probability;
            sums[3][lane] += on_object * predicted;
            sums[4][lane] += valid * predicted;
        }
        *lanes = sums;
    }

    /// Gradient of the logits from those of the first three sums; the other two have none.
    ///
    /// # Shapes
    /// - `d_sums`: `[O, M, SUMS]`
    /// - returns `[O, M, P]`; exactly 0 for masks whose sums have no gradient
    #[must_use]
    pub fn backward(&self, pixels: MaskPixels<'_>, d_sums: &[f32]) -> Vec<f32> {
        let (n_masks, n_pixels) = pixels.sizes();
        assert_eq!(d_sums.len(), pixels.objects * n_masks * SUMS, "gradients are [O, M, SUMS]");
        let mut d_logits = vec![0f32; pixels.logits.len()];
        let of_masks = d_logits.par_chunks_mut(n_pixels).zip(d_sums.par_chunks(SUMS));
        of_masks.enumerate().for_each(|(mask, (d_logits, d_sums))| {
            if d_sums[..3] == [0.0; 3] {
                return;
            }
            let mask = pixels.mask(mask, n_masks, n_pixels);
            d_logits.par_chunks_mut(PIXELS_PER_CHUNK).enumerate().for_each(|(chunk, d_logits)| {
                let start = chunk * PIXELS_PER_CHUNK;
                let mask = mask.range(start..start + d_logits.len());
                if self.focal_gamma == 2.0 {
                    self.backward_with(d_logits, mask, d_sums, square);
                } else {
                    self.backward_with(
                        d_logits,
                        mask,
                        d_sums,
                        #[inline(always)]
                        |p| p.powf(self.focal_gamma),
                    );
                }
            });
        });
        d_logits
    }

    #[inline(always)]
    fn backward_with(&self, d_logits: &mut [f32], mask: MaskPixels<'_>, d_sums: &[f32], modulate: impl Fn(f32) -> f32) {
        let (d_focal, d_overlap, d_area) = (d_sums[0], d_sums[1], d_sums[2]);
        vectorised(
            #[inline(always)]
            || {
                for ((d_logit, x), target) in d_logits.iter_mut().zip(mask.logits).zip(mask.targets) {
                    let is_object = *target > 0.5;
                    let pixel = self.pixel(*x, is_object, &modulate);
                    let of_probability = if is_object { d_overlap + d_area } else { d_area };
                    *d_logit =
                        d_focal * pixel.focal_slope + of_probability * pixel.probability * pixel.one_minus_probability;
                }
                if let Some(valid) = mask.valid {
                    d_logits.iter_mut().zip(valid).for_each(|(d_logit, valid)| *d_logit *= valid);
                }
            },
        );
    }

    #[inline(always)]
    fn pixel(&self, x: f32, is_object: bool, modulate: &impl Fn(f32) -> f32) -> Pixel {
        let x = x.clamp(-LARGEST_LOGIT, LARGEST_LOGIT);
        let (probability, one_minus_probability, log) = logistic(x);
        // `wrong` is how far the logit is on the wrong side; `p` is the probability of the wrong class.
        let (wrong, p, q, sign) = if is_object {
            (-x, one_minus_probability, probability, -1.0)
        } else {
            (x, probability, one_minus_probability, 1.0)
        };
        let cross_entropy = (if wrong > 0.0 { wrong } else { 0.0 }) + log;
        let modulation = modulate(p);
        let weight = if self.focal_alpha < 0.0 {
            1.0
        } else if is_object {
            self.focal_alpha
        } else {
            1.0 - self.focal_alpha
        };
        Pixel {
            probability,
            one_minus_probability,
            focal: weight * cross_entropy * modulation,
            focal_slope: sign * weight * modulation * (p + self.focal_gamma * cross_entropy * q),
        }
    }
}

#[inline(always)]
fn square(p: f32) -> f32 {
    p * p
}

struct Pixel {
    probability: f32,
    one_minus_probability: f32,
    focal: f32,
    /// Derivative with respect to the logit.
    focal_slope: f32,
}

impl<'a> MaskPixels<'a> {
    /// Masks of an object and pixels of a mask.
    fn sizes(&self) -> (usize, usize) {
        let Self { logits, targets, valid, objects } = *self;
        assert!(objects > 0 && targets.len().is_multiple_of(objects), "targets are [O, P]");
        let pixels = targets.len() / objects;
        assert!(valid.is_none_or(|valid| valid.len() == targets.len()), "the valid mask is [O, P]");
        assert!(pixels > 0 && logits.len().is_multiple_of(objects * pixels), "logits are [O, M, P]");
        (logits.len() / (objects * pixels), pixels)
    }

    /// One of the `[O, M]` masks, by its index.
    fn mask(&self, index: usize, n_masks: usize, n_pixels: usize) -> Self {
        let of_object = |values: &'a [f32]| &values[index / n_masks * n_pixels..][..n_pixels];
        Self {
            logits: &self.logits[index * n_pixels..][..n_pixels],
            targets: of_object(self.targets),
            valid: self.valid.map(of_object),
            objects: 1,
        }
    }

    /// A range of the pixels of a single mask.
    fn range(&self, range: Range<usize>) -> Self {
        Self {
            logits: &self.logits[range.clone()],
            targets: &self.targets[range.clone()],
            valid: self.valid.map(|valid| &valid[range]),
            objects: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, values};

    fn exact(sums: MaskSums, logits: &[f64], given: MaskPixels<'_>) -> Vec<f64> {
        let (masks, pixels) = given.sizes();
        let mut result = Vec::new();
        for mask in 0..given.objects * masks {
            let mut of_mask = [0f64; SUMS];
            for pixel in 0..pixels {
                let at = mask / masks * pixels + pixel;
                let (x, t) = (logits[mask * pixels + pixel], f64::from(given.targets[at]));
                let valid = given.valid.map_or(1.0, |valid| f64::from(valid[at]));
                let p = 1.0 / (1.0 + (-x).exp());
                let right = if t > 0.5 { p } else { 1.0 - p };
                let alpha = f64::from(sums.focal_alpha);
                let weight = if alpha < 0.0 { 1.0 } else { t * alpha + (1.0 - t) * (1.0 - alpha) };
                let focal = -weight * (1.0 - right).powf(f64::from(sums.focal_gamma)) * right.ln();
                let on = f64::from(u8::from(x > 0.0));
                for (sum, value) in of_mask.iter_mut().zip([focal, p * t, p, on * t, on]) {
                    *sum += valid * value;
                }
            }
            result.extend(of_mask);
        }
        result
    }

    #[test]
    fn sums_and_gradients_match_the_definition() {
        for (objects, masks, pixels, gamma, alpha) in
            [(2, 3, 37, 2.0, 0.25), (1, 1, 1, 2.0, 0.5), (2, 1, 5000, 1.5, -1.0)]
        {
            let sums = MaskSums { focal_alpha: alpha, focal_gamma: gamma };
            let logits: Vec<f32> = values(objects * masks * pixels, 1).iter().map(|x| x * 6.0).collect();
            let bits = |seed| -> Vec<f32> {
                values(objects * pixels, seed).iter().map(|&x| f32::from(u8::from(x > 0.2))).collect()
            };
            let (targets, valid) = (bits(2), bits(3));
            let d_sums = values(objects * masks * SUMS, 4);
            for valid in [None, Some(valid.as_slice())] {
                let given = MaskPixels { logits: &logits, targets: &targets, valid, objects };
                let wide: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
                let expected = exact(sums, &wide, given);
                check("sums", &sums.forward(given), &expected, 1e-6);
                let got = sums.backward(given, &d_sums);
                for at in (0..logits.len()).step_by(logits.len() / 9 + 1) {
                    let value = |step: f64| -> f64 {
                        let mut moved = wide.clone();
                        moved[at] += step;
                        let sums = exact(sums, &moved, given);
                        let of_mask = sums.chunks(SUMS).zip(d_sums.chunks(SUMS));
                        of_mask.flat_map(|(s, d)| (0..3).map(|i| s[i] * f64::from(d[i]))).sum()
                    };
                    let slope = (value(1e-6) - value(-1e-6)) / 2e-6;
                    assert!((f64::from(got[at]) - slope).abs() < 1e-5, "{at}: {} for {slope}", got[at]);
                }
            }
        }
    }

    #[test]
    fn sums_are_finite_at_any_logit_and_nan_stays_nan() {
        fn given<'a>(logits: &'a [f32], targets: &'a [f32]) -> MaskPixels<'a> {
            MaskPixels { logits, targets, valid: None, objects: 1 }
        }
        let sums = MaskSums { focal_alpha: 0.25, focal_gamma: 2.0 };
        for mask in [[0.0], [1.0]] {
            for x in [3e38, -3e38, f32::INFINITY, f32::NEG_INFINITY, 1e4, -104.0, 0.0].map(|x| [x]) {
                assert!(sums.forward(given(&x, &mask)).iter().all(|sum| sum.is_finite()), "{x:?}");
                assert!(sums.backward(given(&x, &mask), &[1.0; SUMS])[0].is_finite(), "{x:?}");
            }
            assert!(sums.forward(given(&[f32::NAN], &mask))[0].is_nan());
        }
    }

    #[test]
    fn masks_without_a_gradient_get_zeros() {
        let sums = MaskSums { focal_alpha: 0.25, focal_gamma: 2.0 };
        let logits = [0.5, -0.5, 0.5, -0.5];
        let given = MaskPixels { logits: &logits, targets: &[1.0, 0.0], valid: None, objects: 1 };
        let mut d_sums = [0f32; 2 * SUMS];
        d_sums[SUMS..].fill(1.0);
        let got = sums.backward(given, &d_sums);
        assert_eq!(got[..2], [0.0, 0.0]);
        assert!(got[2..].iter().all(|&d| d != 0.0));
    }
}
