//! GELU by itself, where no operation of which it is a part has it inside (Hendrycks 2016, arXiv 1606.08415; the exact form with the
//! error function).

use rayon::prelude::*;

use crate::vector::{gelu, gelu_slope, vectorised};

/// Values that one thread takes at once.
const CHUNK: usize = 1 << 14;

/// GELU of each value.
#[must_use]
pub fn forward(x: &[f32]) -> Vec<f32> {
    let mut y = vec![0_f32; x.len()];
    y.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).for_each(|(y, x)| {
        vectorised(
            #[inline(always)]
            || y.iter_mut().zip(x).for_each(|(y, &x)| *y = gelu(x)),
        );
    });
    y
}

/// The gradient of the input, from the input and the gradient of the output.
#[must_use]
pub fn backward(x: &[f32], d_y: &[f32]) -> Vec<f32> {
    let mut d_x = vec![0_f32; x.len()];
    d_x.par_chunks_mut(CHUNK).zip(x.par_chunks(CHUNK)).zip(d_y.par_chunks(CHUNK)).for_each(|((d_x, x), d_y)| {
        vectorised(
            #[inline(always)]
            || d_x.iter_mut().zip(x).zip(d_y).for_each(|((d_x, &x), &d_y)| *d_x = d_y * gelu_slope(x)),
        );
    });
    d_x
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{check, gelu as exact_gelu, gelu_slope as exact_slope, values};

    #[test]
    fn both_passes_equal_the_definition() {
        // More than a chunk, and no multiple of a vector.
        let x: Vec<f32> = values(CHUNK + 37, 1).into_iter().map(|x| 4.0 * x).collect();
        let d_y = values(CHUNK + 37, 2);
        let expected: Vec<f64> = x.iter().map(|&x| exact_gelu(f64::from(x))).collect();
        check("gelu", &forward(&x), &expected, 1e-6);
        let expected: Vec<f64> = x.iter().zip(&d_y).map(|(&x, &d)| f64::from(d) * exact_slope(f64::from(x))).collect();
        check("its gradient", &backward(&x, &d_y), &expected, 1e-6);
        assert!(forward(&[]).is_empty() && backward(&[], &[]).is_empty());
    }
}
