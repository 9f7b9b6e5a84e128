//! Dense 3 x 3 convolutions over maps, padded by one, as matrix products over a row of patches at a time; for prediction.
//!
//! Letters: `B` images, `H W` map, `C` channels in, `D` channels out.

use rayon::prelude::*;

use crate::depthwise::{After, TAPS};
use crate::matmul::{Matrix, Product, Threads, Write, matmul_into};
use crate::vector::{gelu, vectorised};

/// A dense convolution.
#[derive(Clone, Copy, Debug)]
pub struct Convolution<'a> {
    /// `B`.
    pub images: usize,
    /// `[H, W]`.
    pub size_hw: [usize; 2],
    /// Order of the input's axes.
    pub order: Order,
    /// 1 or 2; the size of the result is divided by it, rounded up.
    pub stride: usize,
    /// `[D, C, 3, 3]`, as PyTorch has it.
    pub weight: &'a [f32],
    /// `[D]`.
    pub bias: &'a [f32],
    /// What follows.
    pub after: After,
}

/// Order of the axes of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `[B, H, W, C]`.
    ChannelsLast,
    /// `[B, C, H, W]`, as images come.
    ChannelsFirst,
}

/// One row of patches, `[W / stride, 9 * C]`, of an image.
struct Patches<'a> {
    x: &'a [f32],
    channels: usize,
    row: usize,
}

impl Convolution<'_> {
    /// `[H, W]` of the result.
    #[must_use]
    pub fn out_hw(&self) -> [usize; 2] {
        self.size_hw.map(|size| size.div_ceil(self.stride))
    }

    /// # Shapes
    /// - `x`: as `order` says
    /// - returns `[B, H / stride, W / stride, D]`
    #[must_use]
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let outputs = self.bias.len();
        assert!(outputs > 0 && self.weight.len().is_multiple_of(outputs * TAPS), "a weight is [D, C, 3, 3]");
        let channels = self.weight.len() / outputs / TAPS;
        let pixels = self.size_hw[0] * self.size_hw[1];
        assert_eq!(x.len(), self.images * pixels * channels, "a map has B H W C values");
        let weight = self.by_patches(channels);
        let [out_height, out_width] = self.out_hw();
        let mut out = vec![0f32; self.images * out_height * out_width * outputs];
        out.par_chunks_mut(out_width * outputs).enumerate().for_each_init(
            || vec![0f32; out_width * TAPS * channels],
            |patches, (line, out)| {
                let (image, row) = (line / out_height, line % out_height);
                let x = &x[image * pixels * channels..][..pixels * channels];
                self.gather(patches, Patches { x, channels, row: row * self.stride });
                let a = Matrix::new(patches, out_width, TAPS * channels);
                let b = Matrix::new(&weight, TAPS * channels, outputs);
                matmul_into(out, Write::Overwrite, Product::new(1.0, a, b, Threads::One));
                vectorised(
                    #[inline(always)]
                    || {
                        for row in out.chunks_exact_mut(outputs) {
                            row.iter_mut().zip(self.bias).for_each(|(value, bias)| *value += bias);
                            if self.after == After::Gelu {
                                row.iter_mut().for_each(|value| *value = gelu(*value));
                            }
                        }
                    },
                );
            },
        );
        out
    }

    /// The weight as a matrix, `[9 * C, D]`; the channels of a place follow each other in a patch.
    fn by_patches(&self, channels: usize) -> Vec<f32> {
        let outputs = self.bias.len();
        let mut matrix = vec![0f32; self.weight.len()];
        for (at, &value) in self.weight.iter().enumerate() {
            let (output, channel, tap) = (at / TAPS / channels, at / TAPS % channels, at % TAPS);
            matrix[(tap * channels + channel) * outputs + output] = value;
        }
        matrix
    }

    fn gather(&self, patches: &mut [f32], Patches { x, channels, row }: Patches<'_>) {
        let [height, width] = self.size_hw;
        for (at, patch) in patches.chunks_exact_mut(TAPS * channels).enumerate() {
            for (tap, values) in patch.chunks_exact_mut(channels).enumerate() {
                let from = (row + tap / 3).checked_sub(1).zip((at * self.stride + tap % 3).checked_sub(1));
                match from.filter(|&(row, column)| row < height && column < width) {
                    None => values.fill(0.0),
                    Some((row, column)) => match self.order {
                        Order::ChannelsLast => {
                            values.copy_from_slice(&x[(row * width + column) * channels..][..channels]);
                        }
                        Order::ChannelsFirst => {
                            for (channel, value) in values.iter_mut().enumerate() {
                                *value = x[(channel * height + row) * width + column];
                            }
                        }
                    },
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, gelu as exact_gelu, values};

    #[test]
    fn convolutions_match_the_definition_in_both_orders() {
        for (images, [height, width], channels, outputs, stride) in
            [(1, [1, 1], 1, 1, 1), (2, [5, 6], 3, 4, 2), (1, [7, 4], 8, 17, 1), (2, [4, 9], 3, 2, 2)]
        {
            let x = values(images * height * width * channels, 1);
            let (weight, bias) = (values(outputs * channels * TAPS, 2), values(outputs, 3));
            let layer = |order, after| Convolution {
                images,
                size_hw: [height, width],
                order,
                stride,
                weight: &weight,
                bias: &bias,
                after,
            };
            let last = layer(Order::ChannelsLast, After::Nothing);
            let [out_height, out_width] = last.out_hw();
            let expected: Vec<f64> = (0..images * out_height * out_width * outputs)
                .map(|at| {
                    let (output, column) = (at % outputs, at / outputs % out_width);
                    let (row, image) = (at / outputs / out_width % out_height, at / outputs / out_width / out_height);
                    let mut sum = f64::from(bias[output]);
                    for (tap, channel) in (0..TAPS).flat_map(|tap| (0..channels).map(move |channel| (tap, channel))) {
                        let (y, x_at) = (row * stride + tap / 3, column * stride + tap % 3);
                        if (1..=height).contains(&y) && (1..=width).contains(&x_at) {
                            let from = ((image * height + y - 1) * width + x_at - 1) * channels + channel;
                            let w = (output * channels + channel) * TAPS + tap;
                            sum += f64::from(x[from]) * f64::from(weight[w]);
                        }
                    }
                    sum
                })
                .collect();
            check("channels last", &last.forward(&x), &expected, 1e-6);
            let activated: Vec<f64> = expected.iter().map(|&value| exact_gelu(value)).collect();
            check("gelu", &layer(Order::ChannelsLast, After::Gelu).forward(&x), &activated, 1e-6);
            let mut planes = vec![0f32; x.len()];
            for (at, &value) in x.iter().enumerate() {
                let (pixel, channel) = (at / channels, at % channels);
                let (image, pixel) = (pixel / (height * width), pixel % (height * width));
                planes[(image * channels + channel) * height * width + pixel] = value;
            }
            let first = layer(Order::ChannelsFirst, After::Nothing).forward(&planes);
            assert_eq!(first, last.forward(&x), "the same products in the same order");
        }
    }
}
