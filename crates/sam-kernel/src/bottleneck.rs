//! An inverted bottleneck over a channels-last map in one pass: 1 x 1 to more channels, GELU, depthwise 3 x 3, GELU, 1 x 1, and
//! possibly the input added and GELU again. For prediction: TinyViT's hidden maps would take most of its time, as the largest
//! has 64 MiB.
//!
//! Hidden values exist for three rows of a narrow strip at a time, which stay in a core's cache.
//!
//! Letters: `B` images, `H W` map, `I` channels in, `K` hidden, `O` out.

use rayon::prelude::*;

use crate::depthwise::{TAPS, by_taps, pixel};
use crate::linear::Linear;
use crate::matmul::{Matrix, Product, Threads, Write, matmul_into};
use crate::vector::{gelu, vectorised};

/// Rows of the output that one thread takes at once; its strips compute two rows of hidden values more.
const ROWS_PER_CHUNK: usize = 32;
/// Hidden values of a row of a strip (64 KiB): three rows of them, and the row that comes out, stay in a core's L2 cache.
const VALUES_PER_ROW: usize = 16 * 1024;

/// An inverted bottleneck.
#[derive(Clone, Copy, Debug)]
pub struct Bottleneck<'a> {
    /// `B`.
    pub images: usize,
    /// `[H, W]`.
    pub size_hw: [usize; 2],
    /// 1 or 2; the size of the result is divided by it, rounded up.
    pub stride: usize,
    /// `[I] -> [K]`.
    pub first: Linear<'a>,
    /// `[K, 3, 3]`.
    pub depthwise: &'a [f32],
    /// `[K]`, of the depthwise convolution.
    pub depthwise_bias: &'a [f32],
    /// `[K] -> [O]`.
    pub last: Linear<'a>,
    /// Whether the input is added and GELU follows; the stride is then 1, and `O` is `I`.
    pub is_residual: bool,
}

/// A strip of columns of the output.
#[derive(Clone, Copy)]
struct Strip {
    /// Columns of the output.
    out: [usize; 2],
    /// Columns of the input that these need.
    from: [usize; 2],
}

/// Memory of a strip.
struct Buffers {
    /// Rows of hidden values, the one of row `y` at `y % 3`.
    hidden: [Vec<f32>; 3],
    /// The row after the depthwise convolution.
    convolved: Vec<f32>,
}

impl Bottleneck<'_> {
    /// `[H, W]` of the result.
    #[must_use]
    pub fn out_hw(&self) -> [usize; 2] {
        self.size_hw.map(|size| size.div_ceil(self.stride))
    }

    /// # Shapes
    /// - `x`: `[B, H, W, I]`
    /// - returns `[B, H / stride, W / stride, O]`
    #[must_use]
    pub fn forward(&self, x: &[f32]) -> Vec<f32> {
        let ([height, width], [out_height, out_width]) = (self.size_hw, self.out_hw());
        let (inputs, hidden, outputs) = (self.first.inputs(), self.first.bias.len(), self.last.bias.len());
        assert_eq!(x.len(), self.images * height * width * inputs, "a map is [B, H, W, I]");
        assert_eq!((self.last.inputs(), self.depthwise_bias.len()), (hidden, hidden), "hidden channels are K");
        let keeps_shape = self.stride == 1 && inputs == outputs;
        assert!(!self.is_residual || keeps_shape, "what is added has the shape of what it is added to");
        let taps = by_taps(self.depthwise, hidden);
        let mut out = vec![0f32; self.images * out_height * out_width * outputs];
        // Chunks are of one image, so their rows have neighbours in it.
        let mut chunks: Vec<(usize, usize, &mut [f32])> = Vec::new();
        for (image, out) in out.chunks_exact_mut(out_height * out_width * outputs).enumerate() {
            let rows = out.chunks_mut(ROWS_PER_CHUNK * out_width * outputs).enumerate();
            chunks.extend(rows.map(|(chunk, out)| (image, chunk * ROWS_PER_CHUNK, out)));
        }
        chunks.into_par_iter().for_each(|(image, first_row, out)| {
            let x = &x[image * height * width * inputs..][..height * width * inputs];
            for strip in self.strips(hidden) {
                self.run_strip(x, strip, &taps, first_row, out);
            }
        });
        out
    }

    fn strips(&self, hidden: usize) -> Vec<Strip> {
        let (width, [_, out_width]) = (self.size_hw[1], self.out_hw());
        let columns = (VALUES_PER_ROW / hidden / self.stride).max(8);
        let strip = |start: usize| {
            let end = (start + columns).min(out_width);
            let from = [(start * self.stride).saturating_sub(1), ((end - 1) * self.stride + 2).min(width)];
            Strip { out: [start, end], from }
        };
        (0..out_width).step_by(columns).map(strip).collect()
    }

    /// Computes the columns of a strip in some rows of one image.
    fn run_strip(&self, x: &[f32], strip: Strip, taps: &[f32], first_row: usize, out: &mut [f32]) {
        let ([height, width], [_, out_width]) = (self.size_hw, self.out_hw());
        let (inputs, outputs, channels) = (self.first.inputs(), self.last.bias.len(), self.first.bias.len());
        let n_from = strip.from[1] - strip.from[0];
        let n_out = strip.out[1] - strip.out[0];
        let row = || vec![0f32; n_from * channels];
        let mut buffers = Buffers { hidden: [row(), row(), row()], convolved: vec![0f32; n_out * channels] };
        let mut next = (first_row * self.stride).saturating_sub(1);
        for (at, out) in out.chunks_exact_mut(out_width * outputs).enumerate() {
            let centre = (first_row + at) * self.stride;
            while next < (centre + 2).min(height) {
                let x = &x[(next * width + strip.from[0]) * inputs..][..n_from * inputs];
                let hidden = &mut buffers.hidden[next % 3];
                product(hidden, Matrix::new(x, n_from, inputs), self.first.matrix());
                finish_rows(hidden, self.first.bias, None, true);
                next += 1;
            }
            self.convolve(&mut buffers, strip, centre, taps);
            let out = &mut out[strip.out[0] * outputs..strip.out[1] * outputs];
            product(out, Matrix::new(&buffers.convolved, n_out, channels), self.last.matrix());
            let residual = self.is_residual.then(|| &x[(centre * width + strip.out[0]) * inputs..][..n_out * inputs]);
            finish_rows(out, self.last.bias, residual, self.is_residual);
        }
    }

    /// The row of the depthwise convolution around row `centre` of the input, with its activation.
    fn convolve(&self, buffers: &mut Buffers, strip: Strip, centre: usize, taps: &[f32]) {
        let [height, width] = self.size_hw;
        let channels = self.first.bias.len();
        let Buffers { hidden, convolved } = buffers;
        let zeros = vec![0f32; channels];
        let rows: [Option<&Vec<f32>>; 3] = std::array::from_fn(|tap| {
            let row = (centre + tap).checked_sub(1)?;
            (row < height).then(|| &hidden[row % 3])
        });
        vectorised(
            #[inline(always)]
            || {
                for (at, out) in convolved.chunks_exact_mut(channels).enumerate() {
                    let column = (strip.out[0] + at) * self.stride;
                    let x: [&[f32]; TAPS] = std::array::from_fn(|tap| {
                        let from = (column + tap % 3).checked_sub(1).filter(|&column| column < width);
                        match (rows[tap / 3], from) {
                            (Some(row), Some(column)) => &row[(column - strip.from[0]) * channels..][..channels],
                            _ => &zeros[..],
                        }
                    });
                    pixel(out, self.depthwise_bias, x, taps, gelu);
                }
            },
        );
    }
}

fn product(out: &mut [f32], a: Matrix<'_>, b: Matrix<'_>) {
    matmul_into(out, Write::Overwrite, Product::new(1.0, a, b, Threads::One));
}

/// Adds a bias to each row, and values of the same shape if there are any, then GELU if asked for.
fn finish_rows(rows: &mut [f32], bias: &[f32], added: Option<&[f32]>, is_activated: bool) {
    vectorised(
        #[inline(always)]
        || {
            for (at, row) in rows.chunks_exact_mut(bias.len()).enumerate() {
                for (value, bias) in row.iter_mut().zip(bias) {
                    *value += bias;
                }
                if let Some(added) = added {
                    let added = &added[at * row.len()..][..row.len()];
                    row.iter_mut().zip(added).for_each(|(value, added)| *value += added);
                }
                if is_activated {
                    row.iter_mut().for_each(|value| *value = gelu(*value));
                }
            }
        },
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::depthwise::{After, Depthwise};
    use crate::testing::{check, values};

    /// Equal to its parts one after the other, over several strips and chunks.
    #[test]
    fn one_pass_equals_its_parts() {
        for (images, size_hw, [inputs, hidden, outputs], stride, is_residual) in [
            (1, [1, 1], [1, 2, 3], 1, false),
            (2, [5, 7], [3, 8, 3], 1, true),
            (1, [70, 20], [4, 1024, 4], 1, true),
            (2, [34, 50], [4, 512, 6], 2, false),
            (1, [67, 9], [8, 16, 5], 1, false),
        ] {
            let x = values(images * size_hw[0] * size_hw[1] * inputs, 1);
            let (w1, b1) = (values(inputs * hidden, 2), values(hidden, 3));
            let (w2, b2) = (values(TAPS * hidden, 4), values(hidden, 5));
            let (w3, b3) = (values(hidden * outputs, 6), values(outputs, 7));
            let first = Linear { weight: &w1, bias: &b1 };
            let last = Linear { weight: &w3, bias: &b3 };
            let mut expected = first.forward(&x);
            expected.iter_mut().for_each(|value| *value = gelu(*value));
            let sizes = Depthwise { images, size_hw, channels: hidden, stride };
            let mut expected = last.forward(&sizes.forward(&expected, &w2, &b2, After::Gelu));
            if is_residual {
                expected.iter_mut().zip(&x).for_each(|(value, x)| *value = gelu(*value + x));
            }
            let (depthwise, depthwise_bias) = (&w2[..], &b2[..]);
            let block = Bottleneck { images, size_hw, stride, first, depthwise, depthwise_bias, last, is_residual };
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            check("out", &block.forward(&x), &expected, 2e-6);
        }
    }
}
