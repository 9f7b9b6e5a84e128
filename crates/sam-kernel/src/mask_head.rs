//! From image tokens to masks: the decoder's two upscaling steps, and the product with the weights of each mask
//! (arXiv 2304.02643, appendix A; `mask_decoder.py`, `output_upscaling` and `hyper_in @ upscaled`).
//!
//! Both steps are transposed convolutions whose stride equals their kernel, so the 4 x 4 pixels of a token depend on this
//! token alone: bands of tokens are computed from end to end, and intermediate maps are never stored. The backward pass
//! recomputes them.
//!
//! Letters: `O` objects, `G` size of the grid, `C` dimension of a token, `D` channels after the first step, `E` after the
//! second, `M` masks. A token's pixels are in the order of its 2 x 2 quarters, and each quarter's 2 x 2.

use rayon::prelude::*;

use crate::layer_norm::{LayerNorm, ParameterGrads};
use crate::linear::column_sums;
use crate::matmul::{Matrix, Threads, matmul};
use crate::vector::{gelu, gelu_slope, vectorised};

/// Tokens whose pixels exist at once, rounded to whole rows.
const TOKENS_PER_BAND: usize = 256;
/// Rows of tokens whose pixels one thread puts in place at least.
const MIN_ROWS: usize = 8;
/// Values of a gradient that one thread sums over the bands.
const VALUES_PER_CHUNK: usize = 1 << 11;
/// Pixels of a token.
const PIXELS: usize = 16;

/// Parameters of the head.
#[derive(Clone, Copy, Debug)]
pub struct MaskHead<'a> {
    /// `[C, 4 * D]`: quarters first, then channels.
    pub weight_1: &'a [f32],
    /// `[D]`.
    pub bias_1: &'a [f32],
    /// Over `D`, followed by GELU.
    pub norm: LayerNorm<'a>,
    /// `[D, 4 * E]`.
    pub weight_2: &'a [f32],
    /// `[E]`.
    pub bias_2: &'a [f32],
}

/// Gradients of the head.
#[derive(Clone, Debug)]
pub struct MaskHeadGrads {
    /// `[O, G * G, C]`.
    pub tokens: Vec<f32>,
    /// `[O, M, E]`.
    pub mask_weights: Vec<f32>,
    /// Gradients of the parameters.
    pub parameters: MaskHeadParameterGrads,
}

/// Gradients of the parameters of a [`MaskHead`], in their shapes.
#[derive(Clone, Debug)]
pub struct MaskHeadParameterGrads {
    /// `[C, 4 * D]`.
    pub weight_1: Vec<f32>,
    /// `[D]`.
    pub bias_1: Vec<f32>,
    /// `[D]`.
    pub norm_weight: Vec<f32>,
    /// `[D]`.
    pub norm_bias: Vec<f32>,
    /// `[D, 4 * E]`.
    pub weight_2: Vec<f32>,
    /// `[E]`.
    pub bias_2: Vec<f32>,
}

/// Sizes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskHeadSizes {
    /// `O`.
    pub objects: usize,
    /// Rows and columns of tokens.
    pub grid: [usize; 2],
    /// `M`.
    pub masks: usize,
}

/// Intermediate values of a band of tokens.
struct Band {
    /// After the first step, `[n * 4, D]`.
    first: Vec<f32>,
    /// After the norm and its GELU, `[n * 4, D]`.
    normal: Vec<f32>,
    /// After the second step, bias included, `[n * 16, E]`.
    second: Vec<f32>,
}

impl MaskHead<'_> {
    /// # Shapes
    /// - `tokens`: `[O, G * G, C]`, `mask_weights`: `[O, M, E]`
    /// - returns `[O, M, 4 G, 4 G]`
    #[must_use]
    pub fn forward(&self, sizes: MaskHeadSizes, tokens: &[f32], mask_weights: &[f32]) -> Vec<f32> {
        self.check(sizes, tokens, mask_weights);
        let bands: Vec<Vec<f32>> = self.map_bands(sizes, |object, rows| {
            let mut second = self.upscale(self.band(sizes, tokens, object, &rows)).second;
            vectorised(
                #[inline(always)]
                || second.iter_mut().for_each(|value| *value = gelu(*value)),
            );
            let weights = self.mask_weights(sizes, mask_weights, object);
            let pixels = Matrix::new(&second, second.len() / self.bias_2.len(), self.bias_2.len());
            matmul(pixels, weights.transposed(), Threads::One) // [n * 16, M]
        });
        let [height, width] = sizes.grid;
        let mut masks = vec![0f32; sizes.objects * sizes.masks * height * width * PIXELS];
        let (per_object, rows_per_band) = (self.bands_per_object(sizes), self.rows_per_band(sizes));
        let rows = masks.par_chunks_mut(width * PIXELS).with_min_len(MIN_ROWS).enumerate();
        rows.for_each(|(at, lines)| {
            let (row, object, mask) = (at % height, at / height / sizes.masks, at / height % sizes.masks);
            let band = &bands[object * per_object + row / rows_per_band];
            let values = width * PIXELS * sizes.masks;
            let pixels = &band[row % rows_per_band * values..][..values];
            for_each_pixel(width, |pixel, place| lines[place] = pixels[pixel * sizes.masks + mask]);
        });
        masks
    }

    /// Gradients from the inputs of [`MaskHead::forward`] and the gradient of its result.
    ///
    /// # Shapes
    /// - `d_masks`: `[O, M, 4 G, 4 G]`; the others as for [`MaskHead::forward`]
    #[must_use]
    pub fn backward(
        &self,
        sizes: MaskHeadSizes,
        tokens: &[f32],
        mask_weights: &[f32],
        d_masks: &[f32],
    ) -> MaskHeadGrads {
        self.check(sizes, tokens, mask_weights);
        let [height, width] = sizes.grid;
        assert_eq!(d_masks.len(), sizes.objects * sizes.masks * height * width * PIXELS, "masks are [O, M, 4 G, 4 G]");
        let bands: Vec<MaskHeadGrads> = self.map_bands(sizes, |object, rows| {
            let per_mask = height * width * PIXELS;
            let d_masks = &d_masks[object * sizes.masks * per_mask..][..sizes.masks * per_mask];
            let mut d_pixels = vec![0f32; rows.len() * width * PIXELS * sizes.masks];
            for (row, d_pixels) in rows.clone().zip(d_pixels.chunks_exact_mut(width * PIXELS * sizes.masks)) {
                for (mask, d_masks) in d_masks.chunks_exact(per_mask).enumerate() {
                    let lines = &d_masks[row * width * PIXELS..][..width * PIXELS];
                    for_each_pixel(width, |pixel, place| d_pixels[pixel * sizes.masks + mask] = lines[place]);
                }
            }
            let weights = self.mask_weights(sizes, mask_weights, object);
            self.band_backward(self.band(sizes, tokens, object, &rows), weights, &d_pixels)
        });
        self.gather(sizes, &bands)
    }

    fn check(&self, sizes: MaskHeadSizes, tokens: &[f32], mask_weights: &[f32]) {
        let (d, e) = (self.bias_1.len(), self.bias_2.len());
        assert_eq!(self.weight_1.len(), self.width() * 4 * d, "the first weight is [C, 4 D]");
        assert_eq!(self.norm.weight.len(), d, "the norm is over D");
        assert_eq!(self.weight_2.len(), d * 4 * e, "the second weight is [D, 4 E]");
        let n = sizes.objects * sizes.grid[0] * sizes.grid[1];
        assert_eq!(tokens.len(), n * self.width(), "tokens are [O, G * G, C]");
        assert_eq!(mask_weights.len(), sizes.objects * sizes.masks * e, "weights of masks are [O, M, E]");
    }

    fn width(&self) -> usize {
        self.weight_1.len() / (4 * self.bias_1.len())
    }

    fn rows_per_band(&self, sizes: MaskHeadSizes) -> usize {
        TOKENS_PER_BAND.div_ceil(sizes.grid[1]).min(sizes.grid[0])
    }

    fn bands_per_object(&self, sizes: MaskHeadSizes) -> usize {
        sizes.grid[0].div_ceil(self.rows_per_band(sizes))
    }

    /// In the order of objects, bands within.
    fn map_bands<T: Send>(
        &self,
        sizes: MaskHeadSizes,
        work: impl Fn(usize, std::ops::Range<usize>) -> T + Sync,
    ) -> Vec<T> {
        let (per_object, rows) = (self.bands_per_object(sizes), self.rows_per_band(sizes));
        let of_job = |job: usize| {
            let start = job % per_object * rows;
            work(job / per_object, start..(start + rows).min(sizes.grid[0]))
        };
        (0..sizes.objects * per_object).into_par_iter().map(of_job).collect()
    }

    fn band<'t>(
        &self,
        sizes: MaskHeadSizes,
        tokens: &'t [f32],
        object: usize,
        rows: &std::ops::Range<usize>,
    ) -> Matrix<'t> {
        let [height, width] = sizes.grid;
        let values = width * self.width();
        let start = (object * height + rows.start) * values;
        Matrix::new(&tokens[start..start + rows.len() * values], rows.len() * width, self.width())
    }

    fn mask_weights<'t>(&self, sizes: MaskHeadSizes, weights: &'t [f32], object: usize) -> Matrix<'t> {
        let n = sizes.masks * self.bias_2.len();
        Matrix::new(&weights[object * n..][..n], sizes.masks, self.bias_2.len())
    }

    fn upscale(&self, tokens: Matrix<'_>) -> Band {
        let (d, e) = (self.bias_1.len(), self.bias_2.len());
        let mut first = matmul(tokens, Matrix::new(self.weight_1, self.width(), 4 * d), Threads::One);
        add_bias(&mut first, self.bias_1);
        let mut normal = vec![0f32; first.len()];
        self.norm.forward_rows(&first, &mut normal);
        let quarters = Matrix::new(&normal, normal.len() / d, d);
        let mut second = matmul(quarters, Matrix::new(self.weight_2, d, 4 * e), Threads::One);
        add_bias(&mut second, self.bias_2);
        Band { first, normal, second }
    }

    fn band_backward(&self, tokens: Matrix<'_>, mask_weights: Matrix<'_>, d_pixels: &[f32]) -> MaskHeadGrads {
        let (d, e, width) = (self.bias_1.len(), self.bias_2.len(), self.width());
        let Band { first, normal, mut second } = self.upscale(tokens);
        let n_pixels = second.len() / e;
        let n_masks = d_pixels.len() / n_pixels;
        let d_pixels = Matrix::new(d_pixels, n_pixels, n_masks);
        let mut d_second = matmul(d_pixels, mask_weights, Threads::One); // [n * 16, E]
        vectorised(
            #[inline(always)]
            || {
                for (value, d) in second.iter_mut().zip(&mut d_second) {
                    *d *= gelu_slope(*value);
                    *value = gelu(*value);
                }
            },
        );
        let d_mask_weights = matmul(d_pixels.transposed(), Matrix::new(&second, n_pixels, e), Threads::One);
        let n_quarters = n_pixels / 4;
        let d_quarters = Matrix::new(&d_second, n_quarters, 4 * e);
        let weight_2 = Matrix::new(self.weight_2, d, 4 * e);
        let d_normal = matmul(d_quarters, weight_2.transposed(), Threads::One);
        let d_weight_2 = matmul(Matrix::new(&normal, n_quarters, d).transposed(), d_quarters, Threads::One);
        let mut d_first = vec![0f32; first.len()];
        let mut d_norm = ParameterGrads::zeros(d);
        self.norm.backward_rows(&first, &d_normal, &mut d_first, &mut d_norm);
        let d_tokens = Matrix::new(&d_first, n_quarters / 4, 4 * d);
        let weight_1 = Matrix::new(self.weight_1, width, 4 * d);
        MaskHeadGrads {
            tokens: matmul(d_tokens, weight_1.transposed(), Threads::One),
            mask_weights: d_mask_weights,
            parameters: MaskHeadParameterGrads {
                weight_1: matmul(tokens.transposed(), d_tokens, Threads::One),
                bias_1: column_sums(&d_first, d),
                norm_weight: d_norm.weight,
                norm_bias: d_norm.bias,
                weight_2: d_weight_2,
                bias_2: column_sums(&d_second, e),
            },
        }
    }

    fn gather(&self, sizes: MaskHeadSizes, bands: &[MaskHeadGrads]) -> MaskHeadGrads {
        let per_object = self.bands_per_object(sizes);
        let per_row = sizes.grid[1] * self.width();
        let mut tokens = vec![0f32; sizes.objects * sizes.grid[0] * per_row];
        let of_objects = tokens.par_chunks_mut(sizes.grid[0] * per_row).zip(bands.par_chunks(per_object));
        of_objects.for_each(|(tokens, bands)| {
            let of_bands = tokens.par_chunks_mut(self.rows_per_band(sizes) * per_row).zip(bands);
            of_bands.for_each(|(tokens, band)| tokens.copy_from_slice(&band.tokens));
        });
        let mut mask_weights = Vec::with_capacity(sizes.objects * sizes.masks * self.bias_2.len());
        for bands in bands.chunks(per_object) {
            mask_weights.extend(sum_of(&bands.iter().map(|band| band.mask_weights.as_slice()).collect::<Vec<_>>()));
        }
        let sum = |of: fn(&MaskHeadParameterGrads) -> &Vec<f32>| {
            sum_of(&bands.iter().map(|band| of(&band.parameters).as_slice()).collect::<Vec<_>>())
        };
        let parameters = MaskHeadParameterGrads {
            weight_1: sum(|grads| &grads.weight_1),
            bias_1: sum(|grads| &grads.bias_1),
            norm_weight: sum(|grads| &grads.norm_weight),
            norm_bias: sum(|grads| &grads.norm_bias),
            weight_2: sum(|grads| &grads.weight_2),
            bias_2: sum(|grads| &grads.bias_2),
        };
        MaskHeadGrads { tokens, mask_weights, parameters }
    }
}

/// Calls `see` for the pixels of a row of tokens, with the index of each by tokens, quarters and pixels of a quarter, and
/// its place in the four lines of the mask.
#[inline(always)]
fn for_each_pixel(width: usize, mut see: impl FnMut(usize, usize)) {
    for token in 0..width {
        for pixel in 0..PIXELS {
            let (quarter, corner) = (pixel / 4, pixel % 4);
            let (y, x) = (quarter / 2 * 2 + corner / 2, quarter % 2 * 2 + corner % 2);
            see(token * PIXELS + pixel, y * width * 4 + token * 4 + x);
        }
    }
}

fn add_bias(values: &mut [f32], bias: &[f32]) {
    vectorised(
        #[inline(always)]
        || {
            for row in values.chunks_exact_mut(bias.len()) {
                row.iter_mut().zip(bias).for_each(|(value, bias)| *value += bias);
            }
        },
    );
}

/// Elementwise sum, in order; empty if there is nothing to add.
fn sum_of(parts: &[&[f32]]) -> Vec<f32> {
    let Some((first, others)) = parts.split_first() else { return Vec::new() };
    let mut sum = first.to_vec();
    sum.par_chunks_mut(VALUES_PER_CHUNK).enumerate().for_each(|(chunk, sum)| {
        for part in others {
            let part = &part[chunk * VALUES_PER_CHUNK..];
            vectorised(
                #[inline(always)]
                || sum.iter_mut().zip(part).for_each(|(sum, value)| *sum += value),
            );
        }
    });
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer_norm::Epilogue;
    use crate::testing::{self, check, values};

    const EPS: f32 = 1e-3;

    /// One object and one pixel at a time, as in the paper.
    fn exact(sizes: MaskHeadSizes, inputs: &[Vec<f64>; 8], d: usize, e: usize) -> Vec<f64> {
        let [tokens, mask_weights, w1, b1, gamma, beta, w2, b2] = inputs;
        let [height, width] = sizes.grid;
        let c = w1.len() / (4 * d);
        let mut masks = vec![0f64; sizes.objects * sizes.masks * height * width * 16];
        for object in 0..sizes.objects {
            for y in 0..4 * height {
                for x in 0..4 * width {
                    let token = &tokens[((object * height + y / 4) * width + x / 4) * c..][..c];
                    let (quarter, corner) = (y / 2 % 2 * 2 + x / 2 % 2, y % 2 * 2 + x % 2);
                    let first: Vec<f64> = (0..d)
                        .map(|j| b1[j] + (0..c).map(|i| token[i] * w1[(i * 4 + quarter) * d + j]).sum::<f64>())
                        .collect();
                    let mean = first.iter().sum::<f64>() / d as f64;
                    let variance = first.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / d as f64;
                    let scale = 1.0 / (variance + f64::from(EPS)).sqrt();
                    let normal: Vec<f64> =
                        (0..d).map(|j| testing::gelu((first[j] - mean) * scale * gamma[j] + beta[j])).collect();
                    for mask in 0..sizes.masks {
                        let value = (0..e)
                            .map(|k| {
                                let sum: f64 = (0..d).map(|j| normal[j] * w2[(j * 4 + corner) * e + k]).sum();
                                testing::gelu(sum + b2[k]) * mask_weights[(object * sizes.masks + mask) * e + k]
                            })
                            .sum();
                        masks[((object * sizes.masks + mask) * 4 * height + y) * 4 * width + x] = value;
                    }
                }
            }
        }
        masks
    }

    #[test]
    fn masks_and_gradients_match_the_definition() {
        for (objects, grid, masks, c, d, e) in
            [(2, [2, 3], 3, 8, 4, 2), (1, [1, 1], 1, 4, 2, 1), (1, [20, 17], 2, 3, 2, 2)]
        {
            let sizes = MaskHeadSizes { objects, grid, masks };
            let n = objects * grid[0] * grid[1];
            let lengths = [n * c, objects * masks * e, c * 4 * d, d, d, d, d * 4 * e, e];
            let inputs: [Vec<f32>; 8] = std::array::from_fn(|at| values(lengths[at], at as u32 + 1));
            let wide: [Vec<f64>; 8] = std::array::from_fn(|at| inputs[at].iter().map(|&x| f64::from(x)).collect());
            let [tokens, mask_weights, w1, b1, gamma, beta, w2, b2] = &inputs;
            let norm = LayerNorm { weight: gamma, bias: beta, eps: EPS, epilogue: Epilogue::Gelu };
            let head = MaskHead { weight_1: w1, bias_1: b1, norm, weight_2: w2, bias_2: b2 };
            check("masks", &head.forward(sizes, tokens, mask_weights), &exact(sizes, &wide, d, e), 5e-6);

            let d_masks = values(n * masks * 16, 20);
            let grads = head.backward(sizes, tokens, mask_weights, &d_masks);
            let p = grads.parameters;
            let got = [
                grads.tokens,
                grads.mask_weights,
                p.weight_1,
                p.bias_1,
                p.norm_weight,
                p.norm_bias,
                p.weight_2,
                p.bias_2,
            ];
            // Finite differences at a few places of each input.
            for input in 0..8 {
                assert_eq!(got[input].len(), inputs[input].len());
                let largest = got[input].iter().fold(0f32, |largest, value| largest.max(value.abs()));
                for place in (0..lengths[input]).step_by((lengths[input] / 5).max(1)) {
                    let at = |step: f64| {
                        let mut moved = wide.clone();
                        moved[input][place] += step;
                        exact(sizes, &moved, d, e).iter().zip(&d_masks).map(|(y, &d)| y * f64::from(d)).sum::<f64>()
                    };
                    let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
                    let error = (f64::from(got[input][place]) - expected).abs();
                    assert!(error < 2e-5 * f64::from(largest), "input {input} at {place}: {error} of {largest}");
                }
            }
        }
    }
}
