//! Depthwise 3 x 3 convolutions over channels-last maps, padded by one, and their backward pass.
//!
//! Letters: `B` images, `H W` map, `C` channels.

use rayon::prelude::*;

use crate::linear::column_sums;
use crate::vector::{gelu, vectorised};

/// Places of a kernel.
pub(crate) const TAPS: usize = 9;

/// Sizes of a depthwise convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depthwise {
    /// `B`.
    pub images: usize,
    /// `[H, W]`.
    pub size_hw: [usize; 2],
    /// `C`.
    pub channels: usize,
    /// 1 or 2; the size of the result is divided by it, rounded up.
    pub stride: usize,
}

/// What follows a convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// Exact GELU.
    Gelu,
}

/// Which inputs of a depthwise convolution need a gradient; the bias always has one.
#[derive(Clone, Copy, Debug)]
pub struct DepthwiseNeeds {
    /// Whether the map needs one.
    pub x: bool,
    /// Whether the weight needs one.
    pub weight: bool,
}

/// Gradients of a depthwise convolution; those that are not needed are empty.
#[derive(Clone, Debug)]
pub struct DepthwiseGrads {
    /// `[B, H, W, C]`.
    pub x: Vec<f32>,
    /// `[C, 3, 3]`.
    pub weight: Vec<f32>,
    /// `[C]`.
    pub bias: Vec<f32>,
}

/// A weight by places of the kernel, `[9, C]`.
pub(crate) fn by_taps(weight: &[f32], channels: usize) -> Vec<f32> {
    assert_eq!(weight.len(), TAPS * channels, "a depthwise weight is [C, 3, 3]");
    (0..TAPS * channels).map(|at| weight[at % channels * TAPS + at / channels]).collect()
}

/// Sums of products of nine pixels and the weights of their places, plus a bias, of every channel.
#[inline(always)]
pub(crate) fn pixel(out: &mut [f32], bias: &[f32], x: [&[f32]; TAPS], taps: &[f32], map: impl Fn(f32) -> f32) {
    let n = out.len();
    let x = x.map(|pixel| &pixel[..n]);
    let mut at = 0;
    let weights: [&[f32]; TAPS] = std::array::from_fn(|_| {
        at += n;
        &taps[at - n..at]
    });
    let bias = &bias[..n];
    for channel in 0..n {
        let mut sum = bias[channel];
        for tap in 0..TAPS {
            sum = x[tap][channel].mul_add(weights[tap][channel], sum);
        }
        out[channel] = map(sum);
    }
}

impl Depthwise {
    /// `[H, W]` of the result.
    #[must_use]
    pub fn out_hw(&self) -> [usize; 2] {
        self.size_hw.map(|size| size.div_ceil(self.stride))
    }

    /// # Shapes
    /// - `x`: `[B, H, W, C]`, `weight`: `[C, 3, 3]`, `bias`: `[C]`
    /// - returns `[B, H / stride, W / stride, C]`
    #[must_use]
    pub fn forward(&self, x: &[f32], weight: &[f32], bias: &[f32], after: After) -> Vec<f32> {
        let [height, width] = self.size_hw;
        let c = self.channels;
        assert_eq!(x.len(), self.images * height * width * c, "a map is [B, H, W, C]");
        assert_eq!(bias.len(), c, "a bias is [C]");
        let taps = by_taps(weight, c);
        let zeros = vec![0f32; c];
        let [out_height, out_width] = self.out_hw();
        let mut out = vec![0f32; self.images * out_height * out_width * c];
        out.par_chunks_mut(out_width * c).enumerate().for_each(|(line, out)| {
            let (image, row) = (line / out_height, line % out_height);
            vectorised(
                #[inline(always)]
                || {
                    for (column, out) in out.chunks_exact_mut(c).enumerate() {
                        let around = self.around([row * self.stride, column * self.stride]);
                        let x = around.map(|place| {
                            place.map_or(&zeros[..], |[row, column]| {
                                &x[((image * height + row) * width + column) * c..][..c]
                            })
                        });
                        match after {
                            After::Nothing => pixel(out, bias, x, &taps, |value| value),
                            After::Gelu => pixel(out, bias, x, &taps, gelu),
                        }
                    }
                },
            );
        });
        out
    }

    /// The nine places around a pixel of the input, those outside of it absent.
    #[inline(always)]
    fn around(&self, [row, column]: [usize; 2]) -> [Option<[usize; 2]>; TAPS] {
        let [height, width] = self.size_hw;
        std::array::from_fn(|tap| {
            let (row, column) = ((row + tap / 3).checked_sub(1)?, (column + tap % 3).checked_sub(1)?);
            (row < height && column < width).then_some([row, column])
        })
    }

    /// The nine places of the output that a pixel of the input is part of, by their tap, those outside of it absent.
    #[inline(always)]
    fn parts(&self, [row, column]: [usize; 2]) -> [Option<[usize; 2]>; TAPS] {
        let out_hw = self.out_hw();
        let along = |at: usize, tap: usize, size: usize| {
            let from = (at + 1).checked_sub(tap)?;
            let out = from / self.stride;
            (from.is_multiple_of(self.stride) && out < size).then_some(out)
        };
        std::array::from_fn(|tap| Some([along(row, tap / 3, out_hw[0])?, along(column, tap % 3, out_hw[1])?]))
    }

    /// Gradients from the inputs and the gradient of the output, without anything after.
    ///
    /// # Shapes
    /// - `x`: `[B, H, W, C]`, `weight`: `[C, 3, 3]`, `d_out`: `[B, H / stride, W / stride, C]`
    #[must_use]
    pub fn backward(&self, x: &[f32], weight: &[f32], d_out: &[f32], needs: DepthwiseNeeds) -> DepthwiseGrads {
        DepthwiseGrads {
            x: if needs.x { self.backward_x(weight, d_out) } else { Vec::new() },
            weight: if needs.weight { self.backward_weight(x, d_out) } else { Vec::new() },
            bias: column_sums(d_out, self.channels),
        }
    }

    fn backward_x(&self, weight: &[f32], d_out: &[f32]) -> Vec<f32> {
        let ([height, width], [out_height, out_width], c) = (self.size_hw, self.out_hw(), self.channels);
        let taps = by_taps(weight, c);
        let zeros = vec![0f32; c];
        let mut d_x = vec![0f32; self.images * height * width * c];
        d_x.par_chunks_mut(width * c).enumerate().for_each(|(line, d_x)| {
            let (image, row) = (line / height, line % height);
            vectorised(
                #[inline(always)]
                || {
                    for (column, d_x) in d_x.chunks_exact_mut(c).enumerate() {
                        let grads = self.parts([row, column]).map(|place| {
                            place.map_or(&zeros[..], |[row, column]| {
                                &d_out[((image * out_height + row) * out_width + column) * c..][..c]
                            })
                        });
                        pixel(d_x, &zeros, grads, &taps, |value| value);
                    }
                },
            );
        });
        d_x
    }

    /// A sum for each row of the output, then over the rows in order.
    fn backward_weight(&self, x: &[f32], d_out: &[f32]) -> Vec<f32> {
        let ([height, width], [out_height, out_width], c) = (self.size_hw, self.out_hw(), self.channels);
        let of_line = |(line, d_out): (usize, &[f32])| {
            let (image, row) = (line / out_height, line % out_height);
            let mut sums = vec![0f32; TAPS * c];
            vectorised(
                #[inline(always)]
                || {
                    for (column, d_out) in d_out.chunks_exact(c).enumerate() {
                        let around = self.around([row * self.stride, column * self.stride]);
                        for (sums, place) in sums.chunks_exact_mut(c).zip(around) {
                            let Some([row, column]) = place else { continue };
                            let x = &x[((image * height + row) * width + column) * c..][..c];
                            for ((sum, x), d) in sums.iter_mut().zip(x).zip(d_out) {
                                *sum = x.mul_add(*d, *sum);
                            }
                        }
                    }
                },
            );
            sums
        };
        let lines: Vec<Vec<f32>> = d_out.par_chunks(out_width * c).enumerate().map(of_line).collect();
        let mut weight = vec![0f32; TAPS * c];
        for line in &lines {
            for (at, value) in line.iter().enumerate() {
                weight[at % c * TAPS + at / c] += value;
            }
        }
        weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, gelu as exact_gelu, values};

    /// The definition in f64: `(out, d_x, d_weight)` for a gradient of the output.
    fn definition(sizes: Depthwise, x: &[f32], weight: &[f32], bias: &[f32], d_out: &[f32]) -> [Vec<f64>; 3] {
        let ([height, width], [out_height, out_width], c) = (sizes.size_hw, sizes.out_hw(), sizes.channels);
        let mut out = vec![0f64; d_out.len()];
        let (mut d_x, mut d_weight) = (vec![0f64; x.len()], vec![0f64; weight.len()]);
        for at in 0..out.len() {
            let (channel, column) = (at % c, at / c % out_width);
            let (row, image) = (at / c / out_width % out_height, at / c / out_width / out_height);
            out[at] = f64::from(bias[channel]);
            for (dy, dx) in (0..3).flat_map(|dy| (0..3).map(move |dx| (dy, dx))) {
                let (y, x_at) = (row * sizes.stride + dy, column * sizes.stride + dx);
                if (1..=height).contains(&y) && (1..=width).contains(&x_at) {
                    let from = ((image * height + y - 1) * width + x_at - 1) * c + channel;
                    let w = channel * TAPS + dy * 3 + dx;
                    out[at] += f64::from(x[from]) * f64::from(weight[w]);
                    d_x[from] += f64::from(d_out[at]) * f64::from(weight[w]);
                    d_weight[w] += f64::from(d_out[at]) * f64::from(x[from]);
                }
            }
        }
        [out, d_x, d_weight]
    }

    #[test]
    fn convolutions_and_their_gradients_match_the_definition() {
        for (images, size_hw, channels, stride) in
            [(1, [1, 1], 1, 1), (2, [5, 7], 3, 1), (2, [6, 4], 17, 2), (1, [7, 5], 8, 2), (1, [9, 9], 40, 1)]
        {
            let sizes = Depthwise { images, size_hw, channels, stride };
            let n_out = images * sizes.out_hw().iter().product::<usize>() * channels;
            let x = values(images * size_hw[0] * size_hw[1] * channels, 1);
            let (weight, bias, d_out) = (values(TAPS * channels, 2), values(channels, 3), values(n_out, 4));
            let [out, d_x, d_weight] = definition(sizes, &x, &weight, &bias, &d_out);
            check("out", &sizes.forward(&x, &weight, &bias, After::Nothing), &out, 1e-6);
            let activated: Vec<f64> = out.iter().map(|&value| exact_gelu(value)).collect();
            check("gelu", &sizes.forward(&x, &weight, &bias, After::Gelu), &activated, 1e-6);
            let grads = sizes.backward(&x, &weight, &d_out, DepthwiseNeeds { x: true, weight: true });
            check("x", &grads.x, &d_x, 1e-6);
            check("weight", &grads.weight, &d_weight, 2e-6);
            let d_bias: Vec<f64> =
                (0..channels).map(|c| d_out.iter().skip(c).step_by(channels).map(|&d| f64::from(d)).sum()).collect();
            check("bias", &grads.bias, &d_bias, 1e-6);
            let few = sizes.backward(&x, &weight, &d_out, DepthwiseNeeds { x: false, weight: false });
            assert!(few.x.is_empty() && few.weight.is_empty() && few.bias == grads.bias);
        }
    }
}
