//! Layer normalisation of rows (Ba 2016, arXiv 1607.06450), optionally followed by GELU, and its backward pass.
//!
//! Letters: `R` rows, `C` channels.

use rayon::prelude::*;

use crate::vector::{gelu, gelu_slope, sum, sum_of_squares_around, vectorised};

/// Rows that one thread takes at once; partial sums of gradients are over as many.
const ROWS_PER_CHUNK: usize = 256;

/// The function applied to the normalised values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epilogue {
    /// The identity.
    None,
    /// Exact GELU.
    Gelu,
}

/// The parameters of a normalisation.
#[derive(Clone, Copy, Debug)]
pub struct LayerNorm<'a> {
    /// `[C]`.
    pub weight: &'a [f32],
    /// `[C]`.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
    /// Applied to the result.
    pub epilogue: Epilogue,
}

/// Gradients of a normalisation.
#[derive(Clone, Debug)]
pub struct LayerNormGrads {
    /// `[R, C]`.
    pub x: Vec<f32>,
    /// `[C]`.
    pub weight: Vec<f32>,
    /// `[C]`.
    pub bias: Vec<f32>,
}

/// Gradients of the two parameters of a normalisation, `[C]` each.
pub(crate) struct ParameterGrads {
    pub(crate) weight: Vec<f32>,
    pub(crate) bias: Vec<f32>,
}

impl ParameterGrads {
    pub(crate) fn zeros(channels: usize) -> Self {
        Self { weight: vec![0f32; channels], bias: vec![0f32; channels] }
    }
}

impl LayerNorm<'_> {
    /// # Shapes
    /// - `x`: `[R, C]`
    /// - returns `[R, C]`
    #[must_use]
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let channels = self.channels(x);
        let mut y = vec![0f32; x.len()];
        let chunks = y.par_chunks_mut(ROWS_PER_CHUNK * channels).zip(x.par_chunks(ROWS_PER_CHUNK * channels));
        chunks.for_each(|(y, x)| self.forward_rows(x, y));
        y
    }

    /// As [`LayerNorm::forward`], on the calling thread.
    pub(crate) fn forward_rows(&self, x: &[f32], y: &mut [f32]) {
        match self.epilogue {
            Epilogue::None => self.forward_with(x, y, |value| value),
            Epilogue::Gelu => self.forward_with(x, y, gelu),
        }
    }

    #[inline(always)]
    fn forward_with(&self, x: &[f32], y: &mut [f32], epilogue: impl Fn(f32) -> f32) {
        let channels = self.weight.len();
        vectorised(
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(channels).zip(y.chunks_exact_mut(channels)) {
                    let (mean, scale) = self.statistics(x);
                    for (((y, x), weight), bias) in y.iter_mut().zip(x).zip(self.weight).zip(self.bias) {
                        *y = epilogue(((x - mean) * scale).mul_add(*weight, *bias));
                    }
                }
            },
        );
    }

    /// Gradients from the input and the gradient of the output.
    ///
    /// # Shapes
    /// - `x`, `d_y`: `[R, C]`
    #[must_use]
    pub fn backward(&self, x: &[f32], d_y: &[f32]) -> LayerNormGrads {
        let channels = self.channels(x);
        assert_eq!(x.len(), d_y.len(), "the gradient has the shape of the input");
        let mut d_x = vec![0f32; x.len()];
        let size = ROWS_PER_CHUNK * channels;
        let chunks = d_x.par_chunks_mut(size).zip(x.par_chunks(size)).zip(d_y.par_chunks(size));
        let chunks: Vec<ParameterGrads> = chunks
            .map(|((d_x, x), d_y)| {
                let mut sums = ParameterGrads::zeros(channels);
                self.backward_rows(x, d_y, d_x, &mut sums);
                sums
            })
            .collect();
        Self::gathered(d_x, channels, chunks.iter())
    }

    /// The gradients of the parameters are the sums over chunks, in order.
    fn gathered<'c>(x: Vec<f32>, channels: usize, chunks: impl Iterator<Item = &'c ParameterGrads>) -> LayerNormGrads {
        let mut sums = ParameterGrads::zeros(channels);
        for chunk in chunks {
            add(&mut sums.weight, &chunk.weight);
            add(&mut sums.bias, &chunk.bias);
        }
        LayerNormGrads { x, weight: sums.weight, bias: sums.bias }
    }

    /// As [`LayerNorm::backward`], on the calling thread; gradients of the parameters are added to `sums`.
    pub(crate) fn backward_rows(&self, x: &[f32], d_y: &[f32], d_x: &mut [f32], sums: &mut ParameterGrads) {
        match self.epilogue {
            Epilogue::None => self.backward_with::<false>(x, d_y, d_x, sums),
            Epilogue::Gelu => self.backward_with::<true>(x, d_y, d_x, sums),
        }
    }

    fn backward_with<const GELU: bool>(&self, x: &[f32], d_y: &[f32], d_x: &mut [f32], sums: &mut ParameterGrads) {
        let ParameterGrads { weight: d_weight, bias: d_bias } = sums;
        let channels = self.weight.len();
        let n = channels as f32;
        let mut normal = vec![0f32; channels];
        let mut d_normal = vec![0f32; channels];
        vectorised(
            #[inline(always)]
            || {
                let rows = x.chunks_exact(channels).zip(d_y.chunks_exact(channels)).zip(d_x.chunks_exact_mut(channels));
                for ((x, d_y), d_x) in rows {
                    let (mean, scale) = self.statistics(x);
                    // Slices of one length that the compiler knows to be equal.
                    let (weight, bias) = (&self.weight[..channels], &self.bias[..channels]);
                    let (d_weight, d_bias) = (&mut d_weight[..channels], &mut d_bias[..channels]);
                    let (normal, d_normal) = (&mut normal[..channels], &mut d_normal[..channels]);
                    let (x, d_y, d_x) = (&x[..channels], &d_y[..channels], &mut d_x[..channels]);
                    for channel in 0..channels {
                        let value = (x[channel] - mean) * scale;
                        let mut d = d_y[channel];
                        if GELU {
                            d *= gelu_slope(value.mul_add(weight[channel], bias[channel]));
                        }
                        d_weight[channel] = d.mul_add(value, d_weight[channel]);
                        d_bias[channel] += d;
                        normal[channel] = value;
                        d_normal[channel] = d * weight[channel];
                        d_x[channel] = value * d_normal[channel];
                    }
                    let (mean_d, mean_of_product) = (sum(d_normal) / n, sum(d_x) / n);
                    for channel in 0..channels {
                        d_x[channel] = scale * (d_normal[channel] - mean_d - normal[channel] * mean_of_product);
                    }
                }
            },
        );
    }

    /// The norm of the sum of each object's rows and those of its image: the end of a residual branch.
    ///
    /// # Shapes
    /// - `x`: `[O, P, C]`, `other`: `[B, P, C]`, `image_index`: `[O]`
    /// - returns `[O, P, C]`
    #[must_use]
    pub fn forward_sum(&self, x: &[f32], other: &[f32], image_index: &[usize]) -> Vec<f32> {
        let size = ROWS_PER_CHUNK * self.channels(x);
        let mut y = vec![0f32; x.len()];
        let per_object = x.len() / image_index.len();
        let objects = y.par_chunks_mut(per_object).zip(x.par_chunks(per_object)).zip(image_index);
        objects.for_each(|((y, x), image)| {
            let other = &other[image * per_object..][..per_object];
            let chunks = y.par_chunks_mut(size).zip(x.par_chunks(size)).zip(other.par_chunks(size));
            chunks.for_each(|((y, x), other)| {
                let mut sum = x.to_vec();
                add(&mut sum, other);
                self.forward_rows(&sum, y);
            });
        });
        y
    }

    /// Gradients of the sum's rows, `[O, P, C]`, and of the parameters. The gradient of an image's rows is the sum over its
    /// objects, [`crate::linear::sums_by_image`].
    ///
    /// # Shapes
    /// - as for [`LayerNorm::forward_sum`]; `d_y`: `[O, P, C]`
    #[must_use]
    pub fn backward_sum(&self, x: &[f32], other: &[f32], image_index: &[usize], d_y: &[f32]) -> LayerNormGrads {
        let (channels, per_object) = (self.channels(x), x.len() / image_index.len());
        assert_eq!(x.len(), d_y.len(), "the gradient has the shape of the input");
        let size = ROWS_PER_CHUNK * channels;
        let mut d_x = vec![0f32; x.len()];
        let objects = d_x.par_chunks_mut(per_object).zip(x.par_chunks(per_object)).zip(d_y.par_chunks(per_object));
        let of_objects = objects.zip(image_index).map(|(((d_x, x), d_y), image)| {
            let other = &other[image * per_object..][..per_object];
            let chunks = d_x.par_chunks_mut(size).zip(x.par_chunks(size)).zip(d_y.par_chunks(size));
            let of_chunks = chunks.zip(other.par_chunks(size)).map(|(((d_x, x), d_y), other)| {
                let mut sum = x.to_vec();
                add(&mut sum, other);
                let mut sums = ParameterGrads::zeros(channels);
                self.backward_rows(&sum, d_y, d_x, &mut sums);
                sums
            });
            of_chunks.collect()
        });
        let of_objects: Vec<Vec<ParameterGrads>> = of_objects.collect();
        Self::gathered(d_x, channels, of_objects.iter().flatten())
    }

    /// Mean and reciprocal standard deviation.
    #[inline(always)]
    fn statistics(&self, x: &[f32]) -> (f32, f32) {
        let n = x.len() as f32;
        let mean = sum(x) / n;
        (mean, 1.0 / (sum_of_squares_around(x, mean) / n + self.eps).sqrt())
    }

    fn channels(&self, x: &[f32]) -> usize {
        let channels = self.weight.len();
        assert_eq!(self.bias.len(), channels, "a bias for each channel");
        assert!(channels > 0 && x.len().is_multiple_of(channels), "rows have {channels} channels");
        channels
    }
}

fn add(values: &mut [f32], others: &[f32]) {
    vectorised(
        #[inline(always)]
        || values.iter_mut().zip(others).for_each(|(value, other)| *value += other),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, values};

    #[test]
    fn the_norm_of_a_sum_equals_the_sum_then_the_norm() {
        let (image_index, rows, channels) = ([1, 0, 1], 300, 6);
        let (x, other) = (values(3 * rows * channels, 1), values(2 * rows * channels, 2));
        let (weight, bias, d_y) = (values(channels, 3), values(channels, 4), values(x.len(), 5));
        let norm = LayerNorm { weight: &weight, bias: &bias, eps: 1e-3, epilogue: Epilogue::None };
        let size = rows * channels;
        let sum: Vec<f32> =
            x.iter().enumerate().map(|(at, x)| x + other[image_index[at / size] * size + at % size]).collect();
        assert_eq!(norm.forward_sum(&x, &other, &image_index), norm.forward(&sum));
        let (got, expected) = (norm.backward_sum(&x, &other, &image_index, &d_y), norm.backward(&sum, &d_y));
        assert!(got.x == expected.x, "row by row the same");
        // Partial sums are over rows of one object.
        let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<f64>>();
        check("weight", &got.weight, &wide(&expected.weight), 1e-6);
        check("bias", &got.bias, &wide(&expected.bias), 1e-6);
    }

    #[test]
    fn norms_and_their_gradients_match_the_definition() {
        for (rows, channels, epilogue) in [
            (3, 4, Epilogue::None),
            (1, 1, Epilogue::None),
            (600, 37, Epilogue::Gelu),
            (5, 768, Epilogue::None),
            (300, 16, Epilogue::Gelu),
        ] {
            let (x, d_y) = (values(rows * channels, 1), values(rows * channels, 2));
            let (weight, bias) = (values(channels, 3), values(channels, 4));
            let norm = LayerNorm { weight: &weight, bias: &bias, eps: 1e-3, epilogue };
            let exact = |x: &[f64], weight: &[f64], bias: &[f64]| -> Vec<f64> {
                let row = |x: &[f64]| {
                    let mean = x.iter().sum::<f64>() / channels as f64;
                    let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / channels as f64;
                    let value = |c: usize| (x[c] - mean) / (variance + 1e-3).sqrt() * weight[c] + bias[c];
                    (0..channels).map(value).collect::<Vec<f64>>()
                };
                x.chunks(channels).flat_map(row).collect()
            };
            let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<f64>>();
            let (x_64, weight_64, bias_64) = (wide(&x), wide(&weight), wide(&bias));
            let plain = exact(&x_64, &weight_64, &bias_64);
            let expected: Vec<f64> = match epilogue {
                Epilogue::None => plain.clone(),
                Epilogue::Gelu => plain.iter().map(|&x| crate::testing::gelu(x)).collect(),
            };
            check("y", &norm.forward(&x), &expected, 2e-6);

            let grads = norm.backward(&x, &d_y);
            let d_plain: Vec<f64> = match epilogue {
                Epilogue::None => wide(&d_y),
                Epilogue::Gelu => {
                    plain.iter().zip(&d_y).map(|(&x, &d)| f64::from(d) * crate::testing::gelu_slope(x)).collect()
                }
            };
            // The norm is linear in its parameters; the gradient of the input is checked by finite differences.
            let zeros = vec![0.0; channels];
            let normal = exact(&x_64, &vec![1.0; channels], &zeros);
            let by_channel = |value: &dyn Fn(usize) -> f64| -> Vec<f64> {
                (0..channels).map(|c| (0..rows).map(|r| value(r * channels + c)).sum()).collect()
            };
            check("weight", &grads.weight, &by_channel(&|at| d_plain[at] * normal[at]), 1e-5);
            check("bias", &grads.bias, &by_channel(&|at| d_plain[at]), 1e-5);
            let step = 1e-5;
            let first_row = &x_64[..channels];
            let expected: Vec<f64> = (0..channels)
                .map(|c| {
                    let at = |step: f64| {
                        let mut x = first_row.to_vec();
                        x[c] += step;
                        let y = exact(&x, &weight_64, &bias_64);
                        y.iter().zip(&d_plain).map(|(y, d)| y * d).sum::<f64>()
                    };
                    (at(step) - at(-step)) / (2.0 * step)
                })
                .collect();
            check("x", &grads.x[..channels], &expected, 2e-5);
        }
    }
}
