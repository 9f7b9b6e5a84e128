//! Products of f32 rows with weights, both rounded to 8 bits on the way, for processors with AVX-512 VNNI (`vpdpbusd`).
//!
//! Every row and every column of weights has a scale of its own, its largest magnitude by 127 (dynamic quantisation of activations per
//! token and of weights per channel, as in Dettmers 2022, arXiv 2208.07339, without its outliers); sums are exact in 32 bits. The
//! instruction multiplies unsigned by signed bytes, so weights are stored with 128 added, which the sum of a row's bytes takes away
//! again.
//!
//! Letters: `M` rows, `N` columns, `K` the dimension summed over.

use std::arch::x86_64::{
    __m512, __m512i, __mmask16, _mm512_abs_ps, _mm512_add_epi32, _mm512_castps_si512, _mm512_castsi512_ps,
    _mm512_cvtepi32_ps, _mm512_cvtps_epi32, _mm512_dpbusd_epi32, _mm512_loadu_si512, _mm512_mask_cvtsepi32_storeu_epi8,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_max_epi32, _mm512_mul_ps, _mm512_or_si512,
    _mm512_reduce_add_epi32, _mm512_reduce_max_epi32, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_slli_epi32, _mm512_storeu_si512, _mm512_sub_epi32,
};

use rayon::prelude::*;

use super::Matrix;

/// Rows of the tile of sums in registers: 6 x 4 vectors of sums, four of weights and one of a row are 29 of 32 registers.
const ROWS: usize = 6;
/// Columns of that tile.
const COLUMNS: usize = VECTORS * LANES;
const VECTORS: usize = 4;
/// Values of f32, or groups of bytes, in a vector.
const LANES: usize = 16;
/// Bytes that follow each other along `K` in a group.
const GROUP: usize = 4;
/// The most rows that one thread quantises at once: with 3072 values each they stay in the L2 cache.
const BLOCK_ROWS: usize = 16 * ROWS;
/// Longest `K` whose sums of products of bytes fit into 32 bits, rounded down.
const MAX_K: usize = 1 << 16;
/// Added to weights, which makes them unsigned.
const OFFSET: i32 = 128;

/// Whether this processor supports AVX-512 VNNI.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512vnni")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512f")
}

/// Weights of 8 bits, packed for the product.
#[derive(Debug)]
pub(crate) struct Int8Weights {
    k: usize,
    n: usize,
    /// Panels of [`COLUMNS`] columns, `[groups, COLUMNS]` each.
    packed: Vec<u32>,
    /// Per column, zero beyond the last.
    scales: Vec<f32>,
}

impl Int8Weights {
    /// Rounds `[K, N]`, whose columns follow each other in memory. `None` where the processor cannot multiply them, or where a sum might
    /// not fit.
    pub(crate) fn new(weights: Matrix<'_>) -> Option<Self> {
        let (k, n) = (weights.rows, weights.columns);
        if !is_available() || weights.column_stride != 1 || k == 0 || n == 0 || k > MAX_K {
            return None;
        }
        let (panels, groups) = (n.div_ceil(COLUMNS), k.div_ceil(GROUP));
        let mut packed = vec![0u32; panels * groups * COLUMNS];
        let mut scales = vec![0f32; panels * COLUMNS];
        packed.par_chunks_exact_mut(groups * COLUMNS).zip(scales.par_chunks_exact_mut(COLUMNS)).enumerate().for_each(
            |(panel, (packed, scales))| {
                // SAFETY: the processor supports AVX-512 VNNI, and the panel has columns of the weights.
                unsafe { pack_columns(weights, panel * COLUMNS, packed, scales) }
            },
        );
        Some(Self { k, n, packed, scales })
    }

    /// Writes `x weights`, `[M, N]`, for `x`: `[M, K]`. A row with a NaN or an infinity has no finite result.
    ///
    /// # Panics
    /// When the sizes do not fit.
    pub(crate) fn multiply(&self, x: &[f32], out: &mut [f32]) {
        let (k, n) = (self.k, self.n);
        assert!(x.len().is_multiple_of(k), "rows have {k} values");
        let m = x.len() / k;
        assert_eq!(Some(out.len()), m.checked_mul(n), "the result has x's rows and the weights' columns");
        let n_tasks = 4 * rayon::current_num_threads();
        let step = m.div_ceil(n_tasks).next_multiple_of(ROWS).clamp(ROWS, BLOCK_ROWS);
        out.par_chunks_mut(step * n).zip(x.par_chunks(step * k)).for_each_init(Vec::new, |rows, (out, x)| {
            // SAFETY: the processor supports AVX-512 VNNI, or there would be no weights; `out` has as many rows as `x`.
            unsafe { self.multiply_rows(x, rows, out) }
        });
    }

    /// # Safety
    /// The processor must support AVX-512 VNNI; `out` must have as many rows as `x`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn multiply_rows(&self, x: &[f32], bytes: &mut Vec<i8>, out: &mut [f32]) {
        let (k, n) = (self.k, self.n);
        let groups = k.div_ceil(GROUP);
        let stride = groups * GROUP;
        let m = x.len() / k;
        bytes.resize(m * stride, 0);
        let mut rows = [Row::default(); BLOCK_ROWS];
        for ((x, bytes), row) in x.chunks_exact(k).zip(bytes.chunks_exact_mut(stride)).zip(&mut rows) {
            *row = quantise(x, bytes);
        }
        for (panel, packed) in self.packed.chunks_exact(groups * COLUMNS).enumerate() {
            let column = panel * COLUMNS;
            let scales = &self.scales[column..][..COLUMNS];
            let width = COLUMNS.min(n - column);
            for first in (0..m).step_by(ROWS) {
                let tile = Tile { bytes: &bytes[first * stride..], stride, packed, scales, width };
                let out = &mut out[first * n + column..];
                // SAFETY: as many rows follow in the bytes and in the result.
                unsafe {
                    match m - first {
                        1 => tile.compute::<1>(&rows[first..], out, n),
                        2 => tile.compute::<2>(&rows[first..], out, n),
                        3 => tile.compute::<3>(&rows[first..], out, n),
                        4 => tile.compute::<4>(&rows[first..], out, n),
                        5 => tile.compute::<5>(&rows[first..], out, n),
                        _ => tile.compute::<ROWS>(&rows[first..], out, n),
                    }
                }
            }
        }
    }
}

/// What the bytes of a row stand for.
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    scale: f32,
    /// The sum of the bytes.
    sum: i32,
}

/// Some rows of bytes, and a panel of weights.
struct Tile<'a> {
    bytes: &'a [i8],
    /// Distance of two rows of bytes.
    stride: usize,
    packed: &'a [u32],
    scales: &'a [f32],
    /// Columns that are written.
    width: usize,
}

impl Tile<'_> {
    /// # Safety
    /// The processor must support AVX-512 VNNI; there must be `R` rows of bytes, and of the result, at distance `n`, whose first starts
    /// at `out`.
    #[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
    unsafe fn compute<const R: usize>(&self, rows: &[Row], out: &mut [f32], n: usize) {
        assert!(self.bytes.len() >= R * self.stride && self.packed.len() * GROUP == self.stride * COLUMNS);
        assert!(out.len() >= (R - 1) * n + self.width && self.scales.len() == COLUMNS);
        let mut sums = [[_mm512_setzero_si512(); VECTORS]; R];
        let (mut bytes, mut packed) = (self.bytes.as_ptr(), self.packed.as_ptr());
        for _ in 0..self.stride / GROUP {
            // SAFETY: checked above; rows are whole groups.
            unsafe {
                let mut weights = [_mm512_setzero_si512(); VECTORS];
                for (vector, weights) in weights.iter_mut().enumerate() {
                    *weights = _mm512_loadu_si512(packed.add(vector * LANES).cast());
                }
                for (row, sums) in sums.iter_mut().enumerate() {
                    let group = _mm512_set1_epi32(bytes.add(row * self.stride).cast::<i32>().read_unaligned());
                    for (sum, weights) in sums.iter_mut().zip(weights) {
                        *sum = _mm512_dpbusd_epi32(*sum, weights, group);
                    }
                }
                (bytes, packed) = (bytes.add(GROUP), packed.add(COLUMNS));
            }
        }
        for (row, sums) in sums.into_iter().enumerate() {
            let Row { scale, sum } = rows[row];
            let (offset, scale) = (_mm512_set1_epi32(OFFSET.wrapping_mul(sum)), _mm512_set1_ps(scale));
            for (vector, sum) in sums.into_iter().enumerate() {
                let mask = mask(self.width, vector * LANES);
                if mask == 0 {
                    continue;
                }
                let value = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, offset));
                // SAFETY: there are as many scales as columns of a panel; only columns inside of the result are written.
                unsafe {
                    let of_columns = _mm512_maskz_loadu_ps(__mmask16::MAX, self.scales.as_ptr().add(vector * LANES));
                    let value = _mm512_mul_ps(value, _mm512_mul_ps(scale, of_columns));
                    _mm512_mask_storeu_ps(out.as_mut_ptr().add(row * n + vector * LANES), mask, value);
                }
            }
        }
    }
}

/// The lanes from `first` on that lie below `width`.
fn mask(width: usize, first: usize) -> __mmask16 {
    match width.saturating_sub(first) {
        n if n >= LANES => __mmask16::MAX,
        n => (1 << n) - 1,
    }
}

/// The scale of the bytes of values of which the largest magnitude is given, and its reciprocal; both zero where all are zero.
fn scale_of(largest: f32) -> [f32; 2] {
    if largest == 0.0 { [0.0; 2] } else { [largest / 127.0, 127.0 / largest] }
}

/// Magnitudes as integers of the same order, NaN above infinity.
#[target_feature(enable = "avx512f")]
fn magnitudes(x: __m512) -> __m512i {
    _mm512_castps_si512(_mm512_abs_ps(x))
}

/// Rounds a row to bytes, padded with zeros.
#[target_feature(enable = "avx512f,avx512bw")]
fn quantise(x: &[f32], bytes: &mut [i8]) -> Row {
    let vector_at = |at: usize| {
        let mask = mask(x.len(), at);
        // SAFETY: masked lanes are in the row.
        (mask, unsafe { _mm512_maskz_loadu_ps(mask, x.as_ptr().add(at)) })
    };
    let mut largest = _mm512_setzero_si512();
    for at in (0..x.len()).step_by(LANES) {
        largest = _mm512_max_epi32(largest, magnitudes(vector_at(at).1));
    }
    let [scale, inverse] = scale_of(f32::from_bits(_mm512_reduce_max_epi32(largest).cast_unsigned()));
    let inverse = _mm512_set1_ps(inverse);
    let mut sums = _mm512_setzero_si512();
    for at in (0..x.len()).step_by(LANES) {
        let (mask, values) = vector_at(at);
        let rounded = _mm512_cvtps_epi32(_mm512_mul_ps(values, inverse));
        sums = _mm512_add_epi32(sums, rounded);
        assert!(bytes.len() >= (at + LANES).min(x.len()));
        // SAFETY: just checked.
        unsafe { _mm512_mask_cvtsepi32_storeu_epi8(bytes.as_mut_ptr().add(at), mask, rounded) }
    }
    bytes[x.len()..].fill(0);
    Row { scale, sum: _mm512_reduce_add_epi32(sums) }
}

/// Packs the columns from `first` as `[groups, COLUMNS]`, with their scales; what lies beyond the matrix is multiplied by zeros.
///
/// # Safety
/// The processor must support AVX-512; `first` must be a column of the weights, which follow each other in memory.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn pack_columns(weights: Matrix<'_>, first: usize, packed: &mut [u32], scales: &mut [f32]) {
    let width = COLUMNS.min(weights.columns - first);
    for vector in 0..VECTORS {
        let mask = mask(width, vector * LANES);
        if mask == 0 {
            continue;
        }
        let row = |k: usize| {
            if k >= weights.rows {
                return _mm512_setzero_ps();
            }
            // SAFETY: the row is in the matrix, and masked lanes are columns of it.
            unsafe {
                let at = weights.data.as_ptr().add(k * weights.row_stride + first + vector * LANES);
                _mm512_maskz_loadu_ps(mask, at)
            }
        };
        let mut largest = _mm512_setzero_si512();
        for k in 0..weights.rows {
            largest = _mm512_max_epi32(largest, magnitudes(row(k)));
        }
        let mut of_lanes = [0f32; LANES];
        // SAFETY: as many values as lanes.
        unsafe { _mm512_mask_storeu_ps(of_lanes.as_mut_ptr(), __mmask16::MAX, _mm512_castsi512_ps(largest)) }
        let both = of_lanes.map(scale_of);
        let (of_columns, inverses) = (both.map(|[scale, _]| scale), both.map(|[_, inverse]| inverse));
        scales[vector * LANES..][..LANES].copy_from_slice(&of_columns);
        // SAFETY: as many values as lanes.
        let inverse = unsafe { _mm512_maskz_loadu_ps(__mmask16::MAX, inverses.as_ptr()) };
        for (group, packed) in packed.chunks_exact_mut(COLUMNS).enumerate() {
            let byte = |nth: usize| {
                let rounded = _mm512_cvtps_epi32(_mm512_mul_ps(row(group * GROUP + nth), inverse));
                _mm512_add_epi32(rounded, _mm512_set1_epi32(OFFSET))
            };
            let low = _mm512_or_si512(byte(0), _mm512_slli_epi32::<8>(byte(1)));
            let high = _mm512_or_si512(_mm512_slli_epi32::<16>(byte(2)), _mm512_slli_epi32::<24>(byte(3)));
            let packed = &mut packed[vector * LANES..][..LANES];
            // SAFETY: as many values as lanes.
            unsafe { _mm512_storeu_si512(packed.as_mut_ptr().cast(), _mm512_or_si512(low, high)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::values;

    /// Rounded by `scale`, to the nearest even.
    fn bytes(x: &[f32]) -> (Vec<i64>, f64) {
        let [scale, inverse] = scale_of(x.iter().fold(0f32, |largest, x| largest.max(x.abs())));
        (x.iter().map(|x| (x * inverse).round_ties_even() as i64).collect(), f64::from(scale))
    }

    /// Against sums of the rounded values, which are exact: with a rest of rows, of columns and of groups.
    #[test]
    fn products_are_those_of_the_rounded_values() {
        if !is_available() {
            eprintln!("skipped: this processor has no int8 products");
            return;
        }
        for [m, n, k] in [[1, 1, 1], [3, 5, 7], [6, 64, 4], [7, 65, 130], [100, 200, 301], [1, 130, 768], [50, 3, 2000]]
        {
            let (x, weights) = (values(m * k, 1), values(k * n, 2));
            let rows: Vec<_> = x.chunks_exact(k).map(bytes).collect();
            let columns: Vec<_> =
                (0..n).map(|j| bytes(&(0..k).map(|l| weights[l * n + j]).collect::<Vec<f32>>())).collect();
            let packed = Int8Weights::new(Matrix::new(&weights, k, n)).expect("a processor with int8 products");
            let mut out = vec![f32::NAN; m * n];
            packed.multiply(&x, &mut out);
            for (at, got) in out.iter().enumerate() {
                let ((row, row_scale), (column, column_scale)) = (&rows[at / n], &columns[at % n]);
                let sum: i64 = row.iter().zip(column).map(|(a, b)| a * b).sum();
                let expected = sum as f64 * row_scale * column_scale;
                assert!((f64::from(*got) - expected).abs() <= 3e-7 * expected.abs(), "{m} {n} {k} at {at}: {got}");
            }
        }
    }

    #[test]
    fn zeros_stay_and_what_is_not_finite_does_not_vanish() {
        if !is_available() {
            eprintln!("skipped: this processor has no int8 products");
            return;
        }
        let packed = Int8Weights::new(Matrix::new(&[1.0, 0.0, -2.0, 0.0], 2, 2)).expect("weights");
        let mut out = [5f32; 8];
        packed.multiply(&[0.0, 0.0, f32::NAN, 1.0, f32::INFINITY, 1.0, 1.0, 1.0], &mut out);
        assert_eq!(out[..2], [0.0, 0.0]);
        assert!(!out[2].is_finite() && !out[4].is_finite());
        assert!((out[6] + 1.0).abs() < 0.02 && out[7] == 0.0);
    }
}
