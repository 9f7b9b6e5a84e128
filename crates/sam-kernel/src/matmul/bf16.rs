//! Matrix products of bf16 values with f32 sums, for processors with AVX-512 BF16 (`vdpbf16ps`).
//!
//! The inputs are f32 and are rounded to bf16, to nearest even, while they are packed; every pair of products is added to a sum in
//! f32, and the result is f32. Subnormal numbers count as zero, as the instruction has it.
//!
//! The scheme is the usual one of three nested blocks (Goto and van de Geijn, "Anatomy of high-performance matrix
//! multiplication", 2008): `b` is packed once into panels of [`COLUMNS`] columns, which all threads read; a block of rows of `a`
//! is packed by the thread that computes it and stays in its L2 cache; the innermost tile is [`ROWS`] x [`COLUMNS`] sums in
//! registers. The order of the sums depends on the sizes only, not on the number of threads.
//!
//! Letters: `M` rows, `N` columns, `K` the dimension summed over.

use std::arch::x86_64::{
    __m512bh, __m512i, __mmask16, _mm512_cvtne2ps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_epi32, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps, _mm512_permutexvar_epi16,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_storeu_si512, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
};
use std::cell::Cell;

use rayon::prelude::*;

use super::{Matrix, Product, Threads, Write};

/// Rows of the tile of sums in registers: 12 x 2 vectors of sums, two of `b` and one of `a` are 27 of 32 registers.
const ROWS: usize = 12;
/// Columns of that tile.
const COLUMNS: usize = 2 * LANES;
/// Values of f32, or pairs of bf16, in a vector.
const LANES: usize = 16;
/// Pairs along `K` of a block: a panel of `b` takes 16 KiB of the L1 cache.
const PAIRS: usize = 128;
/// Columns that a block of rows passes before the next block along `K`: they stay in the L2 cache.
const BLOCK_COLUMNS: usize = 256;
/// Bytes of a packed block of `a`.
const BLOCK_BYTES: usize = 256 << 10;
/// Pairs between the starts of rows of `a` beyond their number, so that rows do not share sets of the cache.
const ROW_PADDING: usize = 16;

/// Whether this processor supports AVX-512 BF16.
pub(super) fn is_available() -> bool {
    is_x86_feature_detected!("avx512bf16")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512f")
}

thread_local! {
    /// Memory of packed values, kept from product to product: fresh pages cost more than the packing.
    static PACKED: Cell<[Vec<u32>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// Calls `function` with this thread's memory number `which`, with room for `len` values.
fn with_memory<T>(which: usize, len: usize, function: impl FnOnce(&mut [u32]) -> T) -> T {
    // Taken out, so a product that the pool starts on this thread while it waits has memory of its own.
    let mut all = PACKED.take();
    let mut memory = std::mem::take(&mut all[which]);
    PACKED.set(all);
    if memory.len() < len {
        memory.resize(len, 0);
    }
    let result = function(&mut memory[..len]);
    let mut all = PACKED.take();
    if all[which].len() < memory.len() {
        all[which] = memory;
    }
    PACKED.set(all);
    result
}

/// A pointer to the result that threads share; each writes rows and columns of its own.
#[derive(Clone, Copy)]
struct Out(*mut f32);
// SAFETY: the tasks of a product write disjoint parts of the result.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

/// Computes a product into `out`, row-major.
///
/// # Safety
/// The processor must support AVX-512 BF16 ([`is_available`]); `out` must be valid for writes of `a.rows * b.columns` elements, and
/// for reads of initialised ones when accumulating; the sizes of `a` and `b` must fit.
pub(super) unsafe fn run(out: *mut f32, write: Write, product: Product<'_>) {
    let Product { a, b, threads, .. } = product;
    let (m, n, k) = (a.rows, b.columns, a.columns);
    let pairs = k.div_ceil(2);
    let panels = n.div_ceil(COLUMNS);
    let out = Out(out);
    with_memory(0, panels * pairs * COLUMNS, |packed_b| {
        let pack = |(panel, packed): (usize, &mut [u32])| {
            // SAFETY: the caller checked that the processor supports AVX-512 BF16.
            unsafe { pack_columns(b, panel * COLUMNS, packed) }
        };
        let panel_len = pairs * COLUMNS;
        let rows_fitting = BLOCK_BYTES / (4 * (pairs + ROW_PADDING)) / ROWS * ROWS;
        let block_rows = rows_fitting.clamp(4 * ROWS, 32 * ROWS);
        match threads {
            Threads::One => packed_b.chunks_exact_mut(panel_len).enumerate().for_each(pack),
            Threads::All => packed_b.par_chunks_exact_mut(panel_len).enumerate().for_each(pack),
        }
        let packed_b = &*packed_b;
        // A grid of tasks: rows first, and columns, too, where the rows are too few for the threads.
        let (row_step, column_step) = match threads {
            Threads::One => (block_rows, panels * COLUMNS),
            Threads::All => {
                let n_tasks = 4 * rayon::current_num_threads();
                let row_step = block_rows.min(m.div_ceil(n_tasks).next_multiple_of(ROWS).max(4 * ROWS));
                let by_rows = m.div_ceil(row_step);
                let column_step = n.div_ceil(n_tasks.div_ceil(by_rows)).next_multiple_of(COLUMNS).max(BLOCK_COLUMNS);
                (row_step, column_step)
            }
        };
        let by_columns = n.div_ceil(column_step);
        let compute = |task: usize| {
            let (row, column) = (task / by_columns * row_step, task % by_columns * column_step);
            let part = Part { rows: row..(row + row_step).min(m), columns: column..(column + column_step).min(n) };
            // SAFETY: as for the packing; the part lies inside of the result.
            unsafe { compute_part(out, write, &product, &part, packed_b) }
        };
        let n_tasks = m.div_ceil(row_step) * by_columns;
        match threads {
            Threads::One => (0..n_tasks).for_each(compute),
            Threads::All => (0..n_tasks).into_par_iter().for_each(compute),
        }
    });
}

/// The part of a result that one task computes.
struct Part {
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

/// How a packed block of `a` lies in memory.
#[derive(Clone, Copy)]
struct Layout {
    /// Distance of two rows of a tile.
    row: usize,
    /// Distance of two pairs.
    pair: usize,
    /// Distance of two tiles.
    tile: usize,
}

/// # Safety
/// As for [`run`]; the part must lie inside of the result, and `packed_b` be the whole of `b`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn compute_part(out: Out, write: Write, product: &Product<'_>, part: &Part, packed_b: &[u32]) {
    let Product { scale, a, b, .. } = *product;
    let (n, pairs) = (b.columns, a.columns.div_ceil(2));
    let m = part.rows.len();
    // Values that follow each other along `K` are converted as they lie; others are packed like the columns of `b`.
    let is_along_rows = a.column_stride == 1;
    let layout = if is_along_rows {
        let row = pairs + ROW_PADDING;
        Layout { row, pair: 1, tile: ROWS * row }
    } else {
        Layout { row: 1, pair: ROWS, tile: ROWS * pairs }
    };
    let tiles = m.div_ceil(ROWS);
    with_memory(1, tiles * layout.tile, |packed_a| {
        for tile in 0..tiles {
            let first = part.rows.start + tile * ROWS;
            let rows = ROWS.min(part.rows.end - first);
            let packed = &mut packed_a[tile * layout.tile..][..layout.tile];
            // SAFETY: the rows are rows of `a`.
            unsafe {
                if is_along_rows {
                    for row in 0..rows {
                        convert_row(a, first + row, &mut packed[row * layout.row..][..pairs]);
                    }
                } else {
                    pack_rows(a, first, rows, packed);
                }
            }
        }
        for block in part.columns.clone().step_by(BLOCK_COLUMNS) {
            let block = block..(block + BLOCK_COLUMNS).min(part.columns.end);
            for pair in (0..pairs).step_by(PAIRS) {
                let n_pairs = PAIRS.min(pairs - pair);
                let adds = pair > 0 || write == Write::Accumulate;
                for column in block.clone().step_by(COLUMNS) {
                    let panel = &packed_b[(column / COLUMNS * pairs + pair) * COLUMNS..][..n_pairs * COLUMNS];
                    let width = COLUMNS.min(n - column);
                    for tile in 0..tiles {
                        let row = part.rows.start + tile * ROWS;
                        let rows = ROWS.min(part.rows.end - row);
                        let start = tile * layout.tile + pair * layout.pair;
                        let packed = &packed_a[start..];
                        // The last value that a tile reads.
                        assert!((rows - 1) * layout.row + (n_pairs - 1) * layout.pair < packed.len());
                        let tile = Tile { a: packed.as_ptr(), layout, b: panel.as_ptr(), n_pairs, scale, width, adds };
                        // SAFETY: rows and columns lie inside of the result, and the packed values were just checked.
                        unsafe { tile.compute(rows, out.0.add(row * n + column), n) }
                    }
                }
            }
        }
    });
}

/// A tile of the result along a block of `K`.
struct Tile {
    a: *const u32,
    layout: Layout,
    /// `[n_pairs, COLUMNS]`.
    b: *const u32,
    n_pairs: usize,
    scale: f32,
    /// Columns that are written.
    width: usize,
    /// Whether the previous contents are added.
    adds: bool,
}

impl Tile {
    /// # Safety
    /// The packed values must be there, and `out` be valid for `rows` rows of `width` columns at distance `stride`.
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn compute(&self, rows: usize, out: *mut f32, stride: usize) {
        // SAFETY: as above.
        unsafe {
            match (rows, self.layout.pair == 1) {
                (1, true) => self.of_rows::<1, true>(out, stride),
                (2, true) => self.of_rows::<2, true>(out, stride),
                (3, true) => self.of_rows::<3, true>(out, stride),
                (4, true) => self.of_rows::<4, true>(out, stride),
                (5, true) => self.of_rows::<5, true>(out, stride),
                (6, true) => self.of_rows::<6, true>(out, stride),
                (7, true) => self.of_rows::<7, true>(out, stride),
                (8, true) => self.of_rows::<8, true>(out, stride),
                (9, true) => self.of_rows::<9, true>(out, stride),
                (10, true) => self.of_rows::<10, true>(out, stride),
                (11, true) => self.of_rows::<11, true>(out, stride),
                (ROWS, true) => self.of_rows::<ROWS, true>(out, stride),
                (1, false) => self.of_rows::<1, false>(out, stride),
                (2, false) => self.of_rows::<2, false>(out, stride),
                (3, false) => self.of_rows::<3, false>(out, stride),
                (4, false) => self.of_rows::<4, false>(out, stride),
                (5, false) => self.of_rows::<5, false>(out, stride),
                (6, false) => self.of_rows::<6, false>(out, stride),
                (7, false) => self.of_rows::<7, false>(out, stride),
                (8, false) => self.of_rows::<8, false>(out, stride),
                (9, false) => self.of_rows::<9, false>(out, stride),
                (10, false) => self.of_rows::<10, false>(out, stride),
                (11, false) => self.of_rows::<11, false>(out, stride),
                (ROWS, false) => self.of_rows::<ROWS, false>(out, stride),
                _ => unreachable!("a tile has 1 to {ROWS} rows"),
            }
        }
    }

    /// # Safety
    /// As for [`Tile::compute`].
    #[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
    unsafe fn of_rows<const R: usize, const ALONG: bool>(&self, out: *mut f32, stride: usize) {
        let mut sums = [[_mm512_setzero_ps(); 2]; R];
        let row_step = if ALONG { self.layout.row } else { 1 };
        let pair_step = if ALONG { 1 } else { ROWS };
        let (mut a, mut b) = (self.a, self.b);
        for _ in 0..self.n_pairs {
            // SAFETY: the packed values are there, says the caller.
            unsafe {
                let left = bf16(_mm512_loadu_si512(b.cast()));
                let right = bf16(_mm512_loadu_si512(b.add(LANES).cast()));
                for (row, sums) in sums.iter_mut().enumerate() {
                    let pair = bf16(_mm512_set1_epi32(a.add(row * row_step).read().cast_signed()));
                    sums[0] = _mm512_dpbf16_ps(sums[0], pair, left);
                    sums[1] = _mm512_dpbf16_ps(sums[1], pair, right);
                }
                (a, b) = (a.add(pair_step), b.add(COLUMNS));
            }
        }
        let scale = _mm512_set1_ps(self.scale);
        let masks = masks(self.width);
        for (row, sums) in sums.into_iter().enumerate() {
            for (half, sum) in sums.into_iter().enumerate() {
                // SAFETY: lanes beyond the width are neither read nor written, and their address is only formed where some are.
                unsafe {
                    if masks[half] == 0 {
                        continue;
                    }
                    let at = out.add(row * stride + half * LANES);
                    let value = if self.adds {
                        _mm512_fmadd_ps(scale, sum, _mm512_maskz_loadu_ps(masks[half], at))
                    } else {
                        _mm512_mul_ps(scale, sum)
                    };
                    _mm512_mask_storeu_ps(at, masks[half], value);
                }
            }
        }
    }
}

/// The lanes of two vectors that the first `width` of [`COLUMNS`] columns are in.
fn masks(width: usize) -> [__mmask16; 2] {
    let first = |n: usize| if n >= LANES { __mmask16::MAX } else { (1 << n) - 1 };
    [first(width), first(width.saturating_sub(LANES))]
}

#[target_feature(enable = "avx512f")]
fn bf16(vector: __m512i) -> __m512bh {
    // SAFETY: both are 512 bits without invalid values.
    unsafe { std::mem::transmute::<__m512i, __m512bh>(vector) }
}

#[target_feature(enable = "avx512f")]
fn bits(vector: __m512bh) -> __m512i {
    // SAFETY: both are 512 bits without invalid values.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(vector) }
}

/// Packs the columns from `first` of `b` as `[pairs, COLUMNS]`; what lies beyond the matrix is zero.
///
/// # Safety
/// The processor must support AVX-512 BF16; `first` must be a column of `b`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_columns(b: Matrix<'_>, first: usize, packed: &mut [u32]) {
    let width = COLUMNS.min(b.columns - first);
    if b.column_stride == 1 {
        let masks = masks(width);
        for (pair, packed) in packed.as_chunks_mut::<COLUMNS>().0.iter_mut().enumerate() {
            for (half, mask) in masks.into_iter().enumerate() {
                // SAFETY: masked lanes are columns of `b`, and `packed` has both halves.
                unsafe {
                    let vector = interleaved(b, pair, first + half * LANES, mask, b.row_stride);
                    _mm512_storeu_si512(packed.as_mut_ptr().add(half * LANES).cast(), vector);
                }
            }
        }
    } else {
        let flipped = b.transposed();
        for half in 0..2 {
            for (group, packed) in packed.chunks_mut(LANES * COLUMNS).enumerate() {
                let mut rows = [_mm512_setzero_si512(); LANES];
                for (column, row) in rows.iter_mut().enumerate().take(width.saturating_sub(half * LANES)) {
                    // SAFETY: a column of `b`.
                    *row = bits(unsafe { pairs_of_row(flipped, first + half * LANES + column, group * LANES) });
                }
                let transposed = transpose(rows);
                for (packed, vector) in packed.as_chunks_mut::<COLUMNS>().0.iter_mut().zip(transposed) {
                    // SAFETY: `packed` has both halves.
                    unsafe { _mm512_storeu_si512(packed.as_mut_ptr().add(half * LANES).cast(), vector) }
                }
            }
        }
    }
}

/// Packs `rows` rows from `first` of `a`, whose rows follow each other in memory, as `[pairs, ROWS]`.
///
/// # Safety
/// The processor must support AVX-512 BF16; the rows must be rows of `a`.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn pack_rows(a: Matrix<'_>, first: usize, rows: usize, packed: &mut [u32]) {
    let flipped = a.transposed();
    for (pair, packed) in packed.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
        // SAFETY: masked lanes are rows of `a`; a chunk has as many values as are stored.
        unsafe {
            let vector = interleaved(flipped, pair, first, masks(rows)[0], a.column_stride);
            _mm512_mask_storeu_epi32(packed.as_mut_ptr().cast(), (1 << ROWS) - 1, vector);
        }
    }
}

/// Pairs of the rows `2 pair` and `2 pair + 1` of a matrix, of the columns from `first` in the mask.
///
/// # Safety
/// The processor must support AVX-512 BF16, and the masked columns must be in the matrix, whose columns follow each other.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
unsafe fn interleaved(matrix: Matrix<'_>, pair: usize, first: usize, mask: __mmask16, stride: usize) -> __m512i {
    if mask == 0 {
        return _mm512_setzero_si512();
    }
    // SAFETY: the caller says so; the second row is read where there is one.
    unsafe {
        let at = matrix.data.as_ptr().add(2 * pair * stride + first);
        let even = _mm512_maskz_loadu_ps(mask, at);
        let odd =
            if 2 * pair + 1 < matrix.rows { _mm512_maskz_loadu_ps(mask, at.add(stride)) } else { _mm512_setzero_ps() };
        let order = _mm512_loadu_si512(INTERLEAVE.as_ptr().cast());
        _mm512_permutexvar_epi16(order, bits(_mm512_cvtne2ps_pbh(odd, even)))
    }
}

/// The two halves of a vector of 16 bit, one value of each in turn.
const INTERLEAVE: [u16; 2 * LANES] = {
    let mut order = [0; 2 * LANES];
    let mut lane = 0;
    while lane < 2 * LANES {
        order[lane] = (lane / 2 + lane % 2 * LANES) as u16;
        lane += 1;
    }
    order
};

/// [`LANES`] pairs of a row of a matrix whose columns follow each other; zero beyond the row.
///
/// # Safety
/// The processor must support AVX-512 BF16, and the row must be in the matrix.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
#[inline]
unsafe fn pairs_of_row(matrix: Matrix<'_>, row: usize, first_pair: usize) -> __m512bh {
    let [low, high] = masks((matrix.columns - 2 * first_pair).min(2 * LANES));
    // SAFETY: masked lanes are in the row; the second half is only addressed where it has some.
    unsafe {
        let at = matrix.data.as_ptr().add(row * matrix.row_stride + 2 * first_pair);
        let first = _mm512_maskz_loadu_ps(low, at);
        let second = if high == 0 { _mm512_setzero_ps() } else { _mm512_maskz_loadu_ps(high, at.add(LANES)) };
        _mm512_cvtne2ps_pbh(second, first)
    }
}

/// Converts a row of a matrix whose columns follow each other to pairs.
///
/// # Safety
/// The processor must support AVX-512 BF16, and the row must be in the matrix; `pairs` is its length in pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn convert_row(matrix: Matrix<'_>, row: usize, pairs: &mut [u32]) {
    for (group, pairs) in pairs.chunks_mut(LANES).enumerate() {
        // SAFETY: as above; as many pairs are stored as the chunk has.
        unsafe {
            let vector = bits(pairs_of_row(matrix, row, group * LANES));
            _mm512_mask_storeu_epi32(pairs.as_mut_ptr().cast(), masks(pairs.len())[0], vector);
        }
    }
}

/// Transposes 16 x 16 values of 32 bit.
#[target_feature(enable = "avx512f")]
#[inline]
fn transpose(rows: [__m512i; LANES]) -> [__m512i; LANES] {
    let mut pairs = rows;
    for i in 0..8 {
        pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // Vector `4 i + j` holds column `4 l + j` of the rows `4 i ..` in its 128-bit lane `l`.
    let mut quads = pairs;
    for i in 0..4 {
        quads[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
        quads[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
        quads[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    }
    let mut columns = quads;
    for j in 0..4 {
        // Lanes 0 and 2, then 1 and 3, of each two vectors; then again.
        let even_01 = _mm512_shuffle_i32x4::<0b10_00_10_00>(quads[j], quads[4 + j]);
        let odd_01 = _mm512_shuffle_i32x4::<0b11_01_11_01>(quads[j], quads[4 + j]);
        let even_23 = _mm512_shuffle_i32x4::<0b10_00_10_00>(quads[8 + j], quads[12 + j]);
        let odd_23 = _mm512_shuffle_i32x4::<0b11_01_11_01>(quads[8 + j], quads[12 + j]);
        columns[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even_01, even_23);
        columns[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even_01, even_23);
        columns[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd_01, odd_23);
        columns[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd_01, odd_23);
    }
    columns
}
