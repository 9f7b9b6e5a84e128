//! Matrix products, and the only unsafe code of the project: the crate `gemm` takes raw pointers, as do the kernels for bf16 and int8.
//!
//! Sizes are checked against the slices before every call, so no argument of a safe function can lead outside of them.
//!
//! The factors are f32, or f32 rounded to bf16 in the registers of the processor; sums and results are always f32. Which of the two is
//! a setting of the process ([`set_bf16_products`]), as in PyTorch's `set_float32_matmul_precision`: it holds for all products but
//! those of [`Precision::F32`].

#![expect(unsafe_code, reason = "gemm takes raw pointers; sizes and strides are checked here")]

#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(target_arch = "x86_64")]
mod int8;
mod long_sums;

#[cfg(target_arch = "x86_64")]
pub(crate) use int8::Int8Weights;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use gemm::{Parallelism, gemm};

static BF16_PRODUCTS: AtomicBool = AtomicBool::new(false);

/// Whether factors of matrix products are rounded to bf16 from now on, in all threads of the process. To be set before anything is
/// computed: a forward and a backward pass should agree. Without effect where [`has_bf16_products`] says no.
pub fn set_bf16_products(is_on: bool) {
    BF16_PRODUCTS.store(is_on && has_bf16_products(), Ordering::Relaxed);
}

/// Whether factors of matrix products are rounded to bf16.
#[must_use]
pub fn bf16_products() -> bool {
    BF16_PRODUCTS.load(Ordering::Relaxed)
}

/// Whether this processor multiplies pairs of bf16 (AVX-512 BF16: Intel since Cooper Lake, AMD since Zen 4).
#[must_use]
pub fn has_bf16_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return bf16::is_available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether this processor multiplies groups of bytes (AVX-512 VNNI: Intel since Ice Lake, AMD since Zen 4).
#[must_use]
pub fn has_int8_products() -> bool {
    #[cfg(target_arch = "x86_64")]
    return int8::is_available();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Weights of 8 bits, which this processor cannot multiply.
#[cfg(not(target_arch = "x86_64"))]
#[derive(Debug)]
pub(crate) enum Int8Weights {}

#[cfg(not(target_arch = "x86_64"))]
impl Int8Weights {
    pub(crate) fn new(_: Matrix<'_>) -> Option<Self> {
        None
    }

    pub(crate) fn multiply(&self, _: &[f32], _: &mut [f32]) {
        match *self {}
    }
}

/// Seconds that a product of f32 takes for each that one of bf16 takes, by products of a common size in this thread; below 1 on
/// processors that have the instruction for the sake of completeness. `None` where there is none. Measured once, in some milliseconds.
#[must_use]
pub fn bf16_speedup() -> Option<f64> {
    static SPEEDUP: OnceLock<Option<f64>> = OnceLock::new();
    *SPEEDUP.get_or_init(|| has_bf16_products().then(measure_speedup))
}

fn measure_speedup() -> f64 {
    const SIDE: usize = 256;
    const REPETITIONS: usize = 7;
    let (a, b) = (vec![0.5f32; SIDE * SIDE], vec![0.25f32; SIDE * SIDE]);
    let mut out = vec![0f32; SIDE * SIDE];
    let mut fastest = [Duration::MAX; 2];
    for _ in 0..REPETITIONS {
        for (factors, fastest) in [Factors::F32, Factors::Bf16].into_iter().zip(&mut fastest) {
            let (a, b) = (Matrix::new(&a, SIDE, SIDE), Matrix::new(&b, SIDE, SIDE));
            let product = Product { scale: 1.0, a, b, threads: Threads::One, precision: Precision::AsSet };
            let start = Instant::now();
            // SAFETY: `out` holds all elements.
            unsafe { run_as(out.as_mut_ptr(), Write::Overwrite, product, factors) }
            *fastest = start.elapsed().min(*fastest);
        }
    }
    let [f32, bf16] = fastest.map(|time| time.as_secs_f64().max(1e-9));
    f32 / bf16
}

/// A view of a matrix of f32: element `(i, j)` is at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix.
    ///
    /// # Panics
    /// When `data` does not have `rows * columns` elements.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(columns), "a {rows} x {columns} matrix has as many elements");
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// The columns from `start` to `end`.
    fn columns_between(self, start: usize, end: usize) -> Self {
        assert!(start < end && end <= self.columns, "columns of the matrix");
        Self { data: &self.data[start * self.column_stride..], columns: end - start, ..self }
    }

    /// The transpose, as another view of the same data.
    pub(crate) fn transposed(self) -> Self {
        let Self { data, rows, columns, row_stride, column_stride } = self;
        Self { data, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }
}

/// Treatment of the output's previous contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// Replaces them.
    Overwrite,
    /// Is added to them.
    Accumulate,
}

/// The threads that compute a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// The calling thread.
    One,
    /// The thread pool, where the product is large enough.
    All,
}

/// The numbers that a product multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// What is set for the process.
    AsSet,
    /// Always f32, where a rounded factor would shift everything that follows: positions.
    F32,
}

/// The numbers that are multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Factors {
    F32,
    Bf16,
}

/// The product `scale * a b`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product<'a> {
    pub(crate) scale: f32,
    pub(crate) a: Matrix<'a>,
    pub(crate) b: Matrix<'a>,
    pub(crate) threads: Threads,
    pub(crate) precision: Precision,
}

impl<'a> Product<'a> {
    /// The product of the precision that is set.
    pub(crate) fn new(scale: f32, a: Matrix<'a>, b: Matrix<'a>, threads: Threads) -> Self {
        Self { scale, a, b, threads, precision: Precision::AsSet }
    }
}

/// Computes a product into `out`, row-major.
///
/// # Panics
/// When the sizes do not fit.
pub(crate) fn matmul_into(out: &mut [f32], write: Write, product: Product<'_>) {
    let Product { a, b, .. } = product;
    assert_eq!(a.columns, b.rows, "a has as many columns as b rows");
    assert_eq!(Some(out.len()), a.rows.checked_mul(b.columns), "the result has a's rows and b's columns");
    if out.is_empty() {
        return;
    }
    // SAFETY: `out` holds a.rows * b.columns initialised elements, checked above.
    unsafe { run(out.as_mut_ptr(), write, product) }
}

/// `a b` as a new row-major matrix.
///
/// # Panics
/// When the sizes do not fit.
pub(crate) fn matmul(a: Matrix<'_>, b: Matrix<'_>, threads: Threads) -> Vec<f32> {
    new_product(Product::new(1.0, a, b, threads))
}

/// As [`matmul`], in this thread, of f32 whatever is set.
pub(crate) fn matmul_f32(a: Matrix<'_>, b: Matrix<'_>) -> Vec<f32> {
    new_product(Product { scale: 1.0, a, b, threads: Threads::One, precision: Precision::F32 })
}

fn new_product(product: Product<'_>) -> Vec<f32> {
    let Product { a, b, .. } = product;
    assert_eq!(a.columns, b.rows, "a has as many columns as b rows");
    let len = a.rows.checked_mul(b.columns).expect("a result that memory can hold");
    if a.columns == 0 {
        return vec![0.0; len];
    }
    let mut out: Vec<f32> = Vec::with_capacity(len);
    if len > 0 {
        // SAFETY: the capacity is `len`; with `Write::Overwrite` every element is written and none is read.
        unsafe {
            run(out.as_mut_ptr(), Write::Overwrite, product);
            out.set_len(len);
        }
    }
    out
}

/// # Safety
/// `out` must be valid for writes of `a.rows * b.columns` elements, and for reads too when accumulating.
unsafe fn run(out: *mut f32, write: Write, product: Product<'_>) {
    let is_bf16 = product.precision == Precision::AsSet && bf16_products();
    let factors = if is_bf16 { Factors::Bf16 } else { Factors::F32 };
    let n_blocks = if product.threads == Threads::All { long_sums::n_blocks(product.a, product.b) } else { 1 };
    // SAFETY: says the caller.
    unsafe {
        match n_blocks {
            1 => run_as(out, write, product, factors),
            _ => long_sums::run(out, write, product, factors, n_blocks),
        }
    }
}

/// # Safety
/// As for [`run`]; bf16 only where [`has_bf16_products`] says yes.
unsafe fn run_as(out: *mut f32, write: Write, product: Product<'_>, factors: Factors) {
    let Product { scale, a, b, threads, .. } = product;
    #[cfg(target_arch = "x86_64")]
    if factors == Factors::Bf16 && a.columns > 0 {
        // SAFETY: says the caller; the sizes were checked.
        return unsafe { bf16::run(out, write, product) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = factors;
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: the constructor of `Matrix` checked that every element lies in its slice. A stride that does not fit an isize
    // wraps, but then there is one row (or column) at most, or the last would lie outside, so it is only ever multiplied by
    // zero. The result does not overlap the inputs: it is borrowed exclusively, or new.
    unsafe {
        gemm(
            a.rows,
            b.columns,
            a.columns,
            out,
            1,
            b.columns as isize,
            write == Write::Accumulate,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            1.0f32,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 37 + seed * 11) % 23) as f32 - 11.0).collect()
    }

    /// Small integers, whose sums are exact in any order.
    #[test]
    fn products_match_the_definition() {
        for [m, n, k] in [[1, 1, 1], [3, 5, 7], [17, 33, 65], [1, 40, 3], [64, 1, 9], [4, 4, 0]] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let at = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f32>();
            let expected: Vec<f32> = (0..m * n).map(|place| at(place / n, place % n)).collect();
            for threads in [Threads::One, Threads::All] {
                assert_eq!(matmul(Matrix::new(&a, m, k), Matrix::new(&b, k, n), threads), expected);
                let mut sum = vec![1.0; m * n];
                let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
                matmul_into(&mut sum, Write::Accumulate, Product::new(2.0, a, b, threads));
                assert!(sum.iter().zip(&expected).all(|(sum, product)| *sum == 1.0 + 2.0 * product));
            }
            // (b^T a^T)^T
            let flipped = matmul(Matrix::new(&b, k, n).transposed(), Matrix::new(&a, m, k).transposed(), Threads::One);
            assert!((0..m * n).all(|place| flipped[place % n * m + place / n] == expected[place]));
        }
    }

    /// `x` as bf16, to nearest even.
    fn rounded(x: f32) -> f64 {
        let bits = x.to_bits();
        f64::from(f32::from_bits((bits + (0x7fff + (bits >> 16 & 1))) & 0xffff_0000))
    }

    /// Against f64 of the rounded factors: the sums are as exact as those of f32. Of all layouts, with rows, columns and pairs at
    /// the edges of tiles, panels and blocks.
    #[test]
    fn products_of_bf16_match_the_definition() {
        if !has_bf16_products() {
            eprintln!("skipped: this processor has no bf16 products");
            return;
        }
        let random = |n: usize, seed: usize| crate::testing::values(n, seed as u32);
        for [m, n, k] in
            [[1, 1, 1], [3, 5, 7], [17, 33, 65], [1, 40, 3], [64, 1, 9], [13, 64, 300], [200, 300, 511], [25, 513, 64]]
        {
            let (a, b) = (random(m * k, 1), random(k * n, 2));
            let flip = |x: &[f32], rows: usize, columns: usize| -> Vec<f32> {
                (0..x.len()).map(|at| x[at % rows * columns + at / rows]).collect()
            };
            let (a_t, b_t) = (flip(&a, m, k), flip(&b, k, n));
            let terms = |at: usize| (0..k).map(move |l| (at / n * k + l, l * n + at % n));
            let expected: Vec<f64> =
                (0..m * n).map(|at| terms(at).map(|(i, j)| rounded(a[i]) * rounded(b[j])).sum()).collect();
            let sizes: Vec<f64> =
                (0..m * n).map(|at| terms(at).map(|(i, j)| f64::from((a[i] * b[j]).abs())).sum()).collect();
            for threads in [Threads::One, Threads::All] {
                for a in [Matrix::new(&a, m, k), Matrix::new(&a_t, k, m).transposed()] {
                    for b in [Matrix::new(&b, k, n), Matrix::new(&b_t, n, k).transposed()] {
                        let product = Product::new(2.0, a, b, threads);
                        let (mut new, mut sum) = (vec![f32::NAN; m * n], vec![1f32; m * n]);
                        // SAFETY: both hold all elements, and the processor supports AVX-512 BF16.
                        unsafe {
                            run_as(new.as_mut_ptr(), Write::Overwrite, product, Factors::Bf16);
                            run_as(sum.as_mut_ptr(), Write::Accumulate, product, Factors::Bf16);
                        }
                        for (at, expected) in expected.iter().enumerate() {
                            let bound = 1e-6 * (sizes[at] + 1.0);
                            let (new, sum) = (f64::from(new[at]) / 2.0, (f64::from(sum[at]) - 1.0) / 2.0);
                            assert!((new - expected).abs() <= bound, "{m} x {n} x {k} at {at}: {new}, not {expected}");
                            assert!((sum - expected).abs() <= bound, "{m} x {n} x {k} at {at}: {sum}, not {expected}");
                        }
                    }
                }
            }
        }
    }

    /// A NaN or an infinity must reach the loss, which then stops the run.
    #[test]
    fn bf16_keeps_what_is_not_finite() {
        if !has_bf16_products() {
            eprintln!("skipped: this processor has no bf16 products");
            return;
        }
        for (bad, is_right) in [
            (f32::NAN, f32::is_nan as fn(f32) -> bool),
            (f32::from_bits(0x7fff_ffff), f32::is_nan),
            (f32::MAX, f32::is_infinite),
        ] {
            let a = [bad, 1.0, 1.0];
            let mut out = [0f32; 1];
            let (a, b) = (Matrix::new(&a, 1, 3), Matrix::new(&[1.0, 1.0, 1.0], 3, 1));
            // SAFETY: one element, and the processor supports AVX-512 BF16.
            unsafe { run_as(out.as_mut_ptr(), Write::Overwrite, Product::new(1.0, a, b, Threads::One), Factors::Bf16) }
            assert!(is_right(out[0]), "{bad} became {}", out[0]);
        }
    }

    #[test]
    #[should_panic(expected = "as many elements")]
    fn a_number_of_elements_never_wraps() {
        let _ = Matrix::new(&[], 1 << (usize::BITS / 2), 1 << (usize::BITS / 2));
    }

    #[test]
    #[should_panic(expected = "memory can hold")]
    fn the_size_of_a_result_never_wraps() {
        let long = Matrix::new(&[], 1 << (usize::BITS / 2), 0);
        let _ = matmul(long, long.transposed(), Threads::One);
    }

    #[test]
    #[should_panic(expected = "as many columns")]
    fn sizes_must_fit() {
        let _ = matmul(Matrix::new(&[0.0; 6], 2, 3), Matrix::new(&[0.0; 6], 2, 3), Threads::One);
    }
}
