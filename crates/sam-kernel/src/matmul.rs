//! Matrix products, and the only unsafe code of the project: the crate `gemm` takes raw pointers.
//!
//! Sizes are checked against the slices before every call, so no argument of a safe function can lead outside of them.

#![expect(unsafe_code, reason = "gemm takes raw pointers; sizes and strides are checked here")]

use gemm::{Parallelism, gemm};

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

/// The product `scale * a b`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Product<'a> {
    pub(crate) scale: f32,
    pub(crate) a: Matrix<'a>,
    pub(crate) b: Matrix<'a>,
    pub(crate) threads: Threads,
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
    assert_eq!(a.columns, b.rows, "a has as many columns as b rows");
    let len = a.rows.checked_mul(b.columns).expect("a result that memory can hold");
    if a.columns == 0 {
        return vec![0.0; len];
    }
    let mut out: Vec<f32> = Vec::with_capacity(len);
    if len > 0 {
        // SAFETY: the capacity is `len`; with `Write::Overwrite` gemm writes every element and reads none of them.
        unsafe {
            run(out.as_mut_ptr(), Write::Overwrite, Product { scale: 1.0, a, b, threads });
            out.set_len(len);
        }
    }
    out
}

/// # Safety
/// `out` must be valid for writes of `a.rows * b.columns` elements, and for reads too when accumulating.
unsafe fn run(out: *mut f32, write: Write, Product { scale, a, b, threads }: Product<'_>) {
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
                matmul_into(&mut sum, Write::Accumulate, Product { scale: 2.0, a, b, threads });
                assert!(sum.iter().zip(&expected).all(|(sum, product)| *sum == 1.0 + 2.0 * product));
            }
            // (b^T a^T)^T
            let flipped = matmul(Matrix::new(&b, k, n).transposed(), Matrix::new(&a, m, k).transposed(), Threads::One);
            assert!((0..m * n).all(|place| flipped[place % n * m + place / n] == expected[place]));
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
