//! Matrix products, and the only unsafe code of the project: the crate `gemm` takes raw pointers.
//!
//! Every place that a product reads or writes is checked against its slice before, so no argument of a safe function can
//! lead outside.

#![expect(unsafe_code, reason = "gemm takes raw pointers; sizes and strides are checked here")]

use gemm::{Parallelism, gemm};

/// A matrix of f32 that is read: element `(i, j)` is at `i * row_stride + j * column_stride`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows one after the other.
    ///
    /// # Panics
    /// When `data` does not have `rows * columns` elements.
    #[must_use]
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        assert_eq!(Some(data.len()), rows.checked_mul(columns), "a {rows} x {columns} matrix has as many elements");
        Self { data, rows, columns, row_stride: columns, column_stride: 1 }
    }

    /// Rows that are `row_stride` elements apart.
    ///
    /// # Panics
    /// When the last element lies outside of `data`.
    #[must_use]
    pub fn strided(data: &'a [f32], rows: usize, columns: usize, row_stride: usize) -> Self {
        assert!(is_inside(data.len(), rows, columns, row_stride), "{rows} rows {row_stride} apart leave the slice");
        Self { data, rows, columns, row_stride, column_stride: 1 }
    }

    /// Rows as columns; nothing moves.
    #[must_use]
    pub fn transposed(self) -> Self {
        let Self { data, rows, columns, row_stride, column_stride } = self;
        Self { data, rows: columns, columns: rows, row_stride: column_stride, column_stride: row_stride }
    }
}

fn is_inside(len: usize, rows: usize, columns: usize, row_stride: usize) -> bool {
    rows == 0
        || columns == 0
        || (rows - 1).checked_mul(row_stride).and_then(|last| last.checked_add(columns)).is_some_and(|end| end <= len)
}

/// What becomes of what the result held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It is overwritten.
    Lost,
    /// The product is added to it.
    Kept,
}

/// Who computes a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Threads {
    /// The calling thread.
    One,
    /// The pool, where the product is worth it.
    All,
}

/// `out = scale * a b`, or added to what it was; `out` has its rows one after the other.
///
/// # Panics
/// When the sizes do not fit.
pub fn multiply(out: &mut [f32], before: Before, scale: f32, a: Matrix<'_>, b: Matrix<'_>, threads: Threads) {
    assert_eq!(a.columns, b.rows, "a has as many columns as b rows");
    assert_eq!(Some(out.len()), a.rows.checked_mul(b.columns), "the result has a's rows and b's columns");
    if out.is_empty() {
        return;
    }
    // SAFETY: `out` holds a.rows * b.columns initialised elements, checked above.
    unsafe { run(out.as_mut_ptr(), before, scale, a, b, threads) }
}

/// `a b` as a new matrix, rows one after the other.
///
/// # Panics
/// When the sizes do not fit.
#[must_use]
pub fn product(a: Matrix<'_>, b: Matrix<'_>, threads: Threads) -> Vec<f32> {
    assert_eq!(a.columns, b.rows, "a has as many columns as b rows");
    let len = a.rows.checked_mul(b.columns).expect("a result that memory can hold");
    if a.columns == 0 {
        return vec![0.0; len];
    }
    let mut out: Vec<f32> = Vec::with_capacity(len);
    if len > 0 {
        // SAFETY: the capacity is `len`; with `Before::Lost` gemm writes every element and reads none of them.
        unsafe {
            run(out.as_mut_ptr(), Before::Lost, 1.0, a, b, threads);
            out.set_len(len);
        }
    }
    out
}

/// # Safety
/// `out` must be valid for writes of `a.rows * b.columns` elements, for reads too where `before` is kept.
unsafe fn run(out: *mut f32, before: Before, scale: f32, a: Matrix<'_>, b: Matrix<'_>, threads: Threads) {
    let parallelism = match threads {
        Threads::One => Parallelism::None,
        Threads::All => Parallelism::Rayon(0),
    };
    // SAFETY: constructors of `Matrix` checked that every element lies in its slice. A stride that does not fit an isize
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
            before == Before::Kept,
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

    /// Small whole numbers: exact in any order.
    #[test]
    fn products_are_those_of_the_definition() {
        for [m, n, k] in [[1, 1, 1], [3, 5, 7], [17, 33, 65], [1, 40, 3], [64, 1, 9], [4, 4, 0]] {
            let (a, b) = (values(m * k, 1), values(k * n, 2));
            let at = |i: usize, j: usize| (0..k).map(|l| a[i * k + l] * b[l * n + j]).sum::<f32>();
            let expected: Vec<f32> = (0..m * n).map(|place| at(place / n, place % n)).collect();
            for threads in [Threads::One, Threads::All] {
                assert_eq!(product(Matrix::new(&a, m, k), Matrix::new(&b, k, n), threads), expected);
                let mut sum = vec![1.0; m * n];
                multiply(&mut sum, Before::Kept, 2.0, Matrix::new(&a, m, k), Matrix::new(&b, k, n), threads);
                assert!(sum.iter().zip(&expected).all(|(sum, product)| *sum == 1.0 + 2.0 * product));
            }
            // (b^T a^T)^T
            let flipped = product(Matrix::new(&b, k, n).transposed(), Matrix::new(&a, m, k).transposed(), Threads::One);
            assert!((0..m * n).all(|place| flipped[place % n * m + place / n] == expected[place]));
        }
    }

    #[test]
    fn strided_rows_skip_what_lies_between() {
        let data = values(3 * 10 + 4, 3);
        let rows: Vec<f32> = [0, 10, 20, 30].iter().flat_map(|&at| data[at..at + 4].to_vec()).collect();
        let identity: Vec<f32> = (0..16).map(|i| f32::from(u8::from(i % 5 == 0))).collect();
        let identity = Matrix::new(&identity, 4, 4);
        assert_eq!(product(Matrix::strided(&data, 4, 4, 10), identity, Threads::One), rows);
    }

    #[test]
    #[should_panic(expected = "leave the slice")]
    fn a_matrix_never_leaves_its_slice() {
        let _ = Matrix::strided(&[0.0; 33], 4, 4, 10);
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
        let _ = product(long, long.transposed(), Threads::One);
    }

    #[test]
    #[should_panic(expected = "as many columns")]
    fn sizes_must_fit() {
        let _ = product(Matrix::new(&[0.0; 6], 2, 3), Matrix::new(&[0.0; 6], 2, 3), Threads::One);
    }
}
