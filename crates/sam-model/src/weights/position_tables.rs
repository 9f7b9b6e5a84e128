//! Resizing position tables to another image size.
//!
//! Absolute positions are resized bicubically, as an image; relative tables linearly. Both as PyTorch's
//! `interpolate(align_corners=False)`, which is customary for MAE and SAM (arXiv 2111.06377; segment-anything pull request
//! 419). Tables of windowed blocks are unchanged, as windows do not grow with the image.

use crate::ops::linear_resize_weights;

/// PyTorch's bicubic coefficient.
const CUBIC_A: f64 = -0.75;

/// A table that was resized.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResizedTable {
    /// Official key.
    pub key: String,
    /// Shape before.
    pub from: Vec<usize>,
    /// Shape after.
    pub to: Vec<usize>,
}

/// Resizes absolute positions.
///
/// # Shapes
/// - `table`: `[from_hw[0], from_hw[1], channels]`, row-major
/// - returns `[to_hw[0], to_hw[1], channels]`
pub fn resize_absolute(table: &[f32], from_hw: [usize; 2], to_hw: [usize; 2], channels: usize) -> Vec<f32> {
    let ([from_rows, from_columns], [to_rows, to_columns]) = (from_hw, to_hw);
    assert_eq!(
        table.len(),
        from_rows * from_columns * channels,
        "a table of {from_rows} x {from_columns} positions with {channels} channels"
    );
    if from_hw == to_hw {
        return table.to_vec();
    }
    let taps = |from: usize, to: usize| -> Vec<[(usize, f64); 4]> {
        (0..to).map(|position| cubic_taps(position, from, to)).collect()
    };
    let (row_taps, column_taps) = (taps(from_rows, to_rows), taps(from_columns, to_columns));
    let mut resized = vec![0f32; to_rows * to_columns * channels];
    for (cell, out) in resized.chunks_exact_mut(channels).enumerate() {
        let mut sums = vec![0f64; channels];
        for (y, weight_y) in row_taps[cell / to_columns] {
            for (x, weight_x) in column_taps[cell % to_columns] {
                let source = &table[(y * from_columns + x) * channels..][..channels];
                for (sum, &value) in sums.iter_mut().zip(source) {
                    *sum += weight_y * weight_x * f64::from(value);
                }
            }
        }
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = sum as f32;
        }
    }
    resized
}

/// Resizes a relative table.
///
/// # Shapes
/// - `table`: `[from, channels]`, row-major
/// - returns `[to, channels]`
pub fn resize_relative(table: &[f32], from: usize, to: usize, channels: usize) -> Vec<f32> {
    assert_eq!(table.len(), from * channels, "a table of {from} positions with {channels} channels");
    if from == to {
        return table.to_vec();
    }
    let weights = linear_resize_weights(from, to);
    let mut resized = vec![0f32; to * channels];
    for (row, out) in weights.chunks_exact(from).zip(resized.chunks_exact_mut(channels)) {
        for (source, &weight) in row.iter().enumerate().filter(|(_, weight)| **weight != 0.0) {
            for (out, &value) in out.iter_mut().zip(&table[source * channels..][..channels]) {
                *out += weight * value;
            }
        }
    }
    resized
}

/// The four source positions of a target position, clamped to the table, with their weights.
fn cubic_taps(position: usize, from: usize, to: usize) -> [(usize, f64); 4] {
    let source = (position as f64 + 0.5) * from as f64 / to as f64 - 0.5;
    let floor = source.floor();
    let fraction = source - floor;
    let near = |t: f64| ((CUBIC_A + 2.0) * t - (CUBIC_A + 3.0)) * t * t + 1.0;
    let far = |t: f64| ((CUBIC_A * t - 5.0 * CUBIC_A) * t + 8.0 * CUBIC_A) * t - 4.0 * CUBIC_A;
    let weights = [far(fraction + 1.0), near(fraction), near(1.0 - fraction), far(2.0 - fraction)];
    std::array::from_fn(|tap| {
        let index = (floor as i64 + tap as i64 - 1).clamp(0, from as i64 - 1);
        (index as usize, weights[tap])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_table_remains_constant() {
        for value in resize_absolute(&[0.7; 5 * 4 * 2], [5, 4], [9, 9], 2) {
            assert!((value - 0.7).abs() < 1e-6);
        }
        for value in resize_relative(&[0.7; 7 * 2], 7, 15, 2) {
            assert!((value - 0.7).abs() < 1e-6);
        }
    }

    #[test]
    fn resizing_to_the_same_size_is_the_identity() {
        let table: Vec<f32> = (0..18).map(|value| value as f32).collect();
        assert_eq!(resize_absolute(&table, [3, 3], [3, 3], 2), table);
        assert_eq!(resize_relative(&table, 9, 9, 2), table);
    }
}
