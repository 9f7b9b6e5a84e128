//! The sums over pixels from which focal loss (Lin 2017, arXiv 1708.02002), dice loss (Milletari 2016, arXiv 1606.04797) and
//! IoU of masks are made, in one look at each logit, and their way back.
//!
//! Letters: `O` objects, `M` masks of each, `P` pixels.

use rayon::prelude::*;

use crate::vector::{LANES, logistic, sum_of_lanes, vectorised};

/// Sums of a mask.
pub const SUMS: usize = 5;

/// Pixels whose sum is one f32; such sums are added in f64.
const PIXELS_PER_PART: usize = 4096;

/// Beyond it a logit counts as this large: its cross entropy times a weight would be no number any more.
pub const LARGEST_LOGIT: f32 = 1e9;

/// Which sums are made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskSums {
    /// Weight of the object's pixels in the focal loss; the others have one minus it. Negative: all have one.
    pub focal_alpha: f32,
    /// Exponent of the focal loss.
    pub focal_gamma: f32,
}

/// What is true of the masks of all objects.
#[derive(Clone, Copy, Debug)]
pub struct TruePixels<'a> {
    /// 1 on the object, else 0, `[O, P]`.
    pub masks: &'a [f32],
    /// 1 where a pixel counts, else 0, `[O, P]`; `None` when all do.
    pub counts: Option<&'a [f32]>,
}

impl MaskSums {
    /// Over the pixels that count: focal losses; probability on the object; probability; pixels of the thresholded mask on
    /// the object; pixels of the thresholded mask.
    ///
    /// # Shapes
    /// - `logits`: `[O, M, P]`
    /// - returns `[O, M, SUMS]`
    #[must_use]
    pub fn forward(&self, logits: &[f32], truth: TruePixels<'_>, objects: usize) -> Vec<f32> {
        let (masks, pixels) = sizes(logits, truth, objects);
        let of_mask = |(number, logits): (usize, &[f32])| {
            let truth = truth.of_object(number / masks, pixels);
            let mut sums = [0f64; SUMS];
            for start in (0..pixels).step_by(PIXELS_PER_PART) {
                let part = start..(start + PIXELS_PER_PART).min(pixels);
                let counts = truth.counts.map(|counts| &counts[part.clone()]);
                let of_part = self.part(&logits[part.clone()], &truth.masks[part], counts);
                sums.iter_mut().zip(of_part).for_each(|(sum, value)| *sum += f64::from(value));
            }
            sums.map(|sum| sum as f32)
        };
        let sums: Vec<[f32; SUMS]> = logits.par_chunks(pixels).enumerate().map(of_mask).collect();
        sums.into_flattened()
    }

    fn part(&self, logits: &[f32], masks: &[f32], counts: Option<&[f32]>) -> [f32; SUMS] {
        if self.focal_gamma == 2.0 {
            self.part_with(logits, masks, counts, square)
        } else {
            self.part_with(
                logits,
                masks,
                counts,
                #[inline(always)]
                |p| p.powf(self.focal_gamma),
            )
        }
    }

    #[inline(always)]
    fn part_with(
        &self,
        logits: &[f32],
        masks: &[f32],
        counts: Option<&[f32]>,
        modulate: impl Fn(f32) -> f32,
    ) -> [f32; SUMS] {
        vectorised(
            #[inline(always)]
            || {
                let (logits, logits_rest) = logits.as_chunks::<LANES>();
                let (masks, masks_rest) = masks.as_chunks::<LANES>();
                let (counts, counts_rest) = counts.map_or((None, None), |counts| {
                    let (chunks, rest) = counts.as_chunks::<LANES>();
                    (Some(chunks), Some(rest))
                });
                let mut lanes = [[0f32; LANES]; SUMS];
                for (at, (x, mask)) in logits.iter().zip(masks).enumerate() {
                    let count = counts.map_or([1.0; LANES], |counts| counts[at]);
                    self.add(x, mask, &count, &mut lanes, &modulate);
                }
                // What is beyond the end counts nowhere.
                let n = logits_rest.len();
                let (mut x, mut mask, mut count) = ([0f32; LANES], [0f32; LANES], [0f32; LANES]);
                x[..n].copy_from_slice(logits_rest);
                mask[..n].copy_from_slice(masks_rest);
                match counts_rest {
                    Some(rest) => count[..n].copy_from_slice(rest),
                    None => count[..n].fill(1.0),
                }
                self.add(&x, &mask, &count, &mut lanes, &modulate);
                lanes.map(sum_of_lanes)
            },
        )
    }

    #[inline(always)]
    fn add(
        &self,
        x: &[f32; LANES],
        mask: &[f32; LANES],
        count: &[f32; LANES],
        lanes: &mut [[f32; LANES]; SUMS],
        modulate: &impl Fn(f32) -> f32,
    ) {
        let mut sums = *lanes;
        for lane in 0..LANES {
            let (x, is_object, count) = (x[lane], mask[lane] > 0.5, count[lane]);
            let pixel = self.pixel(x, is_object, modulate);
            let on_object = if is_object { count } else { 0.0 };
            let predicted = if x > 0.0 { 1.0 } else { 0.0 };
            sums[0][lane] += count * pixel.focal;
            sums[1][lane] += on_object * pixel.probability;
            sums[2][lane] += count * pixel.probability;
            sums[3][lane] += on_object * predicted;
            sums[4][lane] += count * predicted;
        }
        *lanes = sums;
    }

    /// Gradient of the logits from those of the first three sums; the other two have none.
    ///
    /// # Shapes
    /// - `d_sums`: `[O, M, SUMS]`
    /// - returns `[O, M, P]`; exactly 0 for masks whose sums have no gradient
    #[must_use]
    pub fn backward(&self, logits: &[f32], truth: TruePixels<'_>, objects: usize, d_sums: &[f32]) -> Vec<f32> {
        let (masks, pixels) = sizes(logits, truth, objects);
        assert_eq!(d_sums.len(), objects * masks * SUMS, "gradients are [O, M, SUMS]");
        let mut d_logits = vec![0f32; logits.len()];
        let of_mask = d_logits.par_chunks_mut(pixels).zip(logits.par_chunks(pixels)).zip(d_sums.par_chunks(SUMS));
        of_mask.enumerate().for_each(|(number, ((d_logits, logits), d_sums))| {
            if d_sums[..3] == [0.0; 3] {
                return;
            }
            let truth = truth.of_object(number / masks, pixels);
            if self.focal_gamma == 2.0 {
                self.backward_with(d_logits, logits, truth, d_sums, square);
            } else {
                self.backward_with(
                    d_logits,
                    logits,
                    truth,
                    d_sums,
                    #[inline(always)]
                    |p| p.powf(self.focal_gamma),
                );
            }
        });
        d_logits
    }

    #[inline(always)]
    fn backward_with(
        &self,
        d_logits: &mut [f32],
        logits: &[f32],
        truth: TruePixels<'_>,
        d_sums: &[f32],
        modulate: impl Fn(f32) -> f32,
    ) {
        let (d_focal, d_overlap, d_area) = (d_sums[0], d_sums[1], d_sums[2]);
        vectorised(
            #[inline(always)]
            || {
                for ((d_logit, x), mask) in d_logits.iter_mut().zip(logits).zip(truth.masks) {
                    let is_object = *mask > 0.5;
                    let pixel = self.pixel(*x, is_object, &modulate);
                    let of_probability = if is_object { d_overlap + d_area } else { d_area };
                    *d_logit =
                        d_focal * pixel.focal_slope + of_probability * pixel.probability * pixel.one_minus_probability;
                }
                if let Some(counts) = truth.counts {
                    d_logits.iter_mut().zip(counts).for_each(|(d_logit, count)| *d_logit *= count);
                }
            },
        );
    }

    #[inline(always)]
    fn pixel(&self, x: f32, is_object: bool, modulate: &impl Fn(f32) -> f32) -> Pixel {
        let x = x.clamp(-LARGEST_LOGIT, LARGEST_LOGIT);
        let (probability, one_minus_probability, log) = logistic(x);
        // `wrong` is how far the logit is on the wrong side, with the probability of it.
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
    /// Derivative by the logit.
    focal_slope: f32,
}

impl<'a> TruePixels<'a> {
    fn of_object(&self, object: usize, pixels: usize) -> TruePixels<'a> {
        let of = |values: &'a [f32]| &values[object * pixels..][..pixels];
        TruePixels { masks: of(self.masks), counts: self.counts.map(of) }
    }
}

/// Masks of an object and pixels of a mask.
fn sizes(logits: &[f32], truth: TruePixels<'_>, objects: usize) -> (usize, usize) {
    assert!(objects > 0 && truth.masks.len().is_multiple_of(objects), "truth is [O, P]");
    let pixels = truth.masks.len() / objects;
    assert!(truth.counts.is_none_or(|counts| counts.len() == truth.masks.len()), "counts are [O, P]");
    assert!(pixels > 0 && logits.len().is_multiple_of(objects * pixels), "logits are [O, M, P]");
    (logits.len() / (objects * pixels), pixels)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, values};

    fn exact(sums: MaskSums, logits: &[f64], truth: TruePixels<'_>, objects: usize) -> Vec<f64> {
        let pixels = truth.masks.len() / objects;
        let masks = logits.len() / truth.masks.len();
        let mut result = Vec::new();
        for mask in 0..objects * masks {
            let mut of_mask = [0f64; SUMS];
            for pixel in 0..pixels {
                let at = mask / masks * pixels + pixel;
                let (x, t) = (logits[mask * pixels + pixel], f64::from(truth.masks[at]));
                let count = truth.counts.map_or(1.0, |counts| f64::from(counts[at]));
                let p = 1.0 / (1.0 + (-x).exp());
                let right = if t > 0.5 { p } else { 1.0 - p };
                let alpha = f64::from(sums.focal_alpha);
                let weight = if alpha < 0.0 { 1.0 } else { t * alpha + (1.0 - t) * (1.0 - alpha) };
                let focal = -weight * (1.0 - right).powf(f64::from(sums.focal_gamma)) * right.ln();
                let on = f64::from(u8::from(x > 0.0));
                for (sum, value) in of_mask.iter_mut().zip([focal, p * t, p, on * t, on]) {
                    *sum += count * value;
                }
            }
            result.extend(of_mask);
        }
        result
    }

    #[test]
    fn sums_and_gradients_are_those_of_the_definition() {
        for (objects, masks, pixels, gamma, alpha) in
            [(2, 3, 37, 2.0, 0.25), (1, 1, 1, 2.0, 0.5), (2, 1, 5000, 1.5, -1.0)]
        {
            let sums = MaskSums { focal_alpha: alpha, focal_gamma: gamma };
            let logits: Vec<f32> = values(objects * masks * pixels, 1).iter().map(|x| x * 6.0).collect();
            let bits = |seed| -> Vec<f32> {
                values(objects * pixels, seed).iter().map(|&x| f32::from(u8::from(x > 0.2))).collect()
            };
            let (true_masks, counts) = (bits(2), bits(3));
            let d_sums = values(objects * masks * SUMS, 4);
            for counts in [None, Some(counts.as_slice())] {
                let truth = TruePixels { masks: &true_masks, counts };
                let wide: Vec<f64> = logits.iter().map(|&x| f64::from(x)).collect();
                let expected = exact(sums, &wide, truth, objects);
                check("sums", &sums.forward(&logits, truth, objects), &expected, 1e-6);
                let got = sums.backward(&logits, truth, objects, &d_sums);
                for at in (0..logits.len()).step_by(logits.len() / 9 + 1) {
                    let value = |step: f64| -> f64 {
                        let mut moved = wide.clone();
                        moved[at] += step;
                        let sums = exact(sums, &moved, truth, objects);
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
    fn any_logit_is_safe_and_no_number_stays_none() {
        let sums = MaskSums { focal_alpha: 0.25, focal_gamma: 2.0 };
        for mask in [[0.0], [1.0]] {
            let truth = TruePixels { masks: &mask, counts: None };
            for x in [3e38, -3e38, f32::INFINITY, f32::NEG_INFINITY, 1e4, -104.0, 0.0] {
                assert!(sums.forward(&[x], truth, 1).iter().all(|sum| sum.is_finite()), "{x}");
                assert!(sums.backward(&[x], truth, 1, &[1.0; SUMS])[0].is_finite(), "{x}");
            }
            assert!(sums.forward(&[f32::NAN], truth, 1)[0].is_nan());
        }
    }

    #[test]
    fn masks_without_a_gradient_get_none() {
        let sums = MaskSums { focal_alpha: 0.25, focal_gamma: 2.0 };
        let truth = TruePixels { masks: &[1.0, 0.0], counts: None };
        let mut d_sums = [0f32; 2 * SUMS];
        d_sums[SUMS..].fill(1.0);
        let got = sums.backward(&[0.5, -0.5, 0.5, -0.5], truth, 1, &d_sums);
        assert_eq!(got[..2], [0.0, 0.0]);
        assert!(got[2..].iter().all(|&d| d != 0.0));
    }
}
