//! Products of many rows with a small table, both in the nearest cache: where a general product would spend its time on packing.
//!
//! Rows are columns of a larger matrix, used where they are. Sums of 32-bit floats, in the same order on any number of threads.

use pulp::Simd;

use crate::vector::LANES;

/// Rows that are multiplied by a table at once, in registers.
const BLOCK: usize = 4;
/// Tokens whose sums over rows are formed at once, in registers.
const TOKENS: usize = 8;

/// Some columns of a row-major matrix.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rows<'a> {
    values: &'a [f32],
    first: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    /// The columns from `first` on of a matrix with `stride` columns.
    pub(crate) fn new(values: &'a [f32], first: usize, stride: usize) -> Self {
        Self { values, first, stride }
    }

    #[inline(always)]
    fn get(self, row: usize, len: usize) -> &'a [f32] {
        &self.values[row * self.stride + self.first..][..len]
    }
}

/// Where products go: some columns of a row-major matrix.
#[derive(Debug)]
pub(crate) struct RowsMut<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) first: usize,
    pub(crate) stride: usize,
    /// Whether they are added to what is there.
    pub(crate) adds: bool,
}

impl<'a> RowsMut<'a> {
    /// A whole matrix with `stride` columns, replaced.
    pub(crate) fn whole(values: &'a mut [f32], stride: usize) -> Self {
        Self { values, first: 0, stride, adds: false }
    }
}

/// A few tokens of one head, as what rows are multiplied by.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    /// `[C, L]`, lanes without a token zero: a row of channels times it is a value per token.
    pub(crate) columns: Vec<f32>,
    /// `[tokens, C]`: a row of values per token times it is a row of channels.
    pub(crate) lines: Vec<f32>,
}

impl Table {
    /// Those of each head of `values`, `[tokens, A * C]`, times `scale`. `C` is a multiple of [`LANES`].
    pub(crate) fn of_heads(values: &[f32], heads: usize, channels: usize, scale: f32) -> Vec<Self> {
        let width = heads * channels;
        let lanes = (values.len() / width).next_multiple_of(LANES);
        let of_head = |head: usize| {
            let mut columns = vec![0f32; channels * lanes];
            let mut lines = Vec::with_capacity(values.len() / heads);
            for (token, row) in values.chunks_exact(width).enumerate() {
                for (c, value) in row[head * channels..][..channels].iter().enumerate() {
                    lines.push(scale * value);
                    columns[c * lanes + token] = scale * value;
                }
            }
            Self { columns, lines }
        };
        (0..heads).map(of_head).collect()
    }
}

/// The products of `n` rows with a table of `width` columns, a multiple of [`LANES`], added to `start` (or to nothing).
#[inline(always)]
pub(crate) fn multiply<S: Simd>(
    simd: S,
    n: usize,
    rows: Rows<'_>,
    (table, width): (&[f32], usize),
    start: Option<&[f32]>,
    out: &mut RowsMut<'_>,
) {
    let (registers, _) = S::as_simd_f32s(table);
    let per_line = width / S::F32_LANES;
    for panel in 0..per_line {
        let start = match start {
            Some(start) => S::as_simd_f32s(start).0[panel],
            None => simd.splat_f32s(0.0),
        };
        let panel = Panel { registers, per_line, at: panel, len: table.len() / width, start };
        let whole = n - n % BLOCK;
        for row in (0..whole).step_by(BLOCK) {
            panel.multiply::<S, BLOCK>(simd, rows, row, out);
        }
        for row in whole..n {
            panel.multiply::<S, 1>(simd, rows, row, out);
        }
    }
}

/// A register's width of columns of a table.
struct Panel<'a, R> {
    registers: &'a [R],
    per_line: usize,
    at: usize,
    /// Lines of the table.
    len: usize,
    start: R,
}

impl<R: Copy> Panel<'_, R> {
    #[inline(always)]
    fn multiply<S: Simd<f32s = R>, const N: usize>(
        &self,
        simd: S,
        rows: Rows<'_>,
        first: usize,
        out: &mut RowsMut<'_>,
    ) {
        let mut factors: [&[f32]; N] = [&[]; N];
        for (row, factors) in factors.iter_mut().enumerate() {
            *factors = rows.get(first + row, self.len);
        }
        let mut sums = [self.start; N];
        #[expect(clippy::needless_range_loop, reason = "one line of the table for all rows")]
        for at in 0..self.len {
            let line = self.registers[at * self.per_line + self.at];
            for row in 0..N {
                sums[row] = simd.mul_add_f32s(simd.splat_f32s(factors[row][at]), line, sums[row]);
            }
        }
        for (row, sum) in sums.into_iter().enumerate() {
            let at = (first + row) * out.stride + out.first + self.at * S::F32_LANES;
            let to = &mut S::as_mut_simd_f32s(&mut out.values[at..][..S::F32_LANES]).0[0];
            *to = if out.adds { simd.add_f32s(*to, sum) } else { sum };
        }
    }
}

/// Adds to `sums`, `[tokens rounded up to 8, C]`, for each token the sum of `n` rows of `C` channels times the row's value for it in
/// `factors`, `[n, L]`.
#[inline(always)]
pub(crate) fn add_over_rows<S: Simd>(
    simd: S,
    n: usize,
    (factors, lanes): (&[f32], usize),
    (rows, channels): (Rows<'_>, usize),
    sums: &mut [f32],
) {
    for (block, sums) in sums.chunks_exact_mut(TOKENS * channels).enumerate() {
        for panel in (0..channels).step_by(S::F32_LANES) {
            let mut inner = [simd.splat_f32s(0.0); TOKENS];
            for row in 0..n {
                let factors = &factors[row * lanes + block * TOKENS..][..TOKENS];
                let values = S::as_simd_f32s(&rows.get(row, channels)[panel..][..S::F32_LANES]).0[0];
                for token in 0..TOKENS {
                    inner[token] = simd.mul_add_f32s(simd.splat_f32s(factors[token]), values, inner[token]);
                }
            }
            for (token, inner) in inner.into_iter().enumerate() {
                let to = &mut S::as_mut_simd_f32s(&mut sums[token * channels + panel..][..S::F32_LANES]).0[0];
                *to = simd.add_f32s(*to, inner);
            }
        }
    }
}

/// The length of [`add_over_rows`]'s sums for a head.
pub(crate) fn sums_len(n_tokens: usize, channels: usize) -> usize {
    n_tokens.next_multiple_of(TOKENS) * channels
}
