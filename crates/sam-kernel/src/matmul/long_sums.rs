//! Products whose result is too small to be divided among threads, while each element sums many terms: gradients of weights, sums over
//! all rows of a batch. The sums are cut into blocks, each computed by a thread of its own, and added up in their order.

use rayon::prelude::*;

use super::{Factors, Matrix, Product, Threads, Write, run_as};

/// Sums of blocks that a thread adds up at once.
const SUMS_AT_ONCE: usize = 1 << 13;

/// Into how many blocks the sums of a product are cut; 1 if they are not. It depends on the sizes only.
pub(super) fn n_blocks(a: Matrix<'_>, b: Matrix<'_>) -> usize {
    /// Elements of a result that can be divided.
    const LARGE: usize = 1 << 18;
    /// Terms of a block, at least.
    const SHORT: usize = 512;
    /// Blocks of at least [`SHORT`] terms; beyond, of eight times that.
    const FEW: usize = 16;
    let terms = a.columns;
    if a.rows * b.columns > LARGE || terms < 2 * SHORT {
        return 1;
    }
    // Powers of two are whole rounds on most machines.
    let [many, few] = [terms / SHORT, terms / (8 * SHORT)].map(|n| 1 << n.max(1).ilog2());
    many.min(FEW).max(few)
}

/// Computes a product in so many blocks.
///
/// # Safety
/// As for [`run_as`].
pub(super) unsafe fn run(out: *mut f32, write: Write, product: Product<'_>, factors: Factors, n_blocks: usize) {
    let Product { a, b, .. } = product;
    let (terms, len) = (a.columns, a.rows * b.columns);
    let threads = if n_blocks < rayon::current_num_threads() { Threads::All } else { Threads::One };
    let block_of = |block: usize| {
        let [start, end] = [block, block + 1].map(|block| block * terms / n_blocks);
        let (a, b) = (a.columns_between(start, end), b.transposed().columns_between(start, end).transposed());
        let mut sums: Vec<f32> = Vec::with_capacity(len);
        // SAFETY: the capacity is `len`; every element is written and none is read; the processor is as the caller says.
        unsafe {
            run_as(sums.as_mut_ptr(), Write::Overwrite, Product { a, b, threads, ..product }, factors);
            sums.set_len(len);
        }
        sums
    };
    let blocks: Vec<Vec<f32>> = (0..n_blocks).into_par_iter().map(block_of).collect();
    if write == Write::Overwrite {
        // SAFETY: `out` is valid for `len` elements and does not overlap a new vector.
        unsafe { out.copy_from_nonoverlapping(blocks[0].as_ptr(), len) }
    }
    // SAFETY: initialised just now, or before, as the caller says; nobody else has it.
    let out = unsafe { std::slice::from_raw_parts_mut(out, len) };
    let added = if write == Write::Overwrite { &blocks[1..] } else { &blocks[..] };
    out.par_chunks_mut(SUMS_AT_ONCE).enumerate().for_each(|(at, out)| {
        for block in added {
            let block = &block[at * SUMS_AT_ONCE..][..out.len()];
            out.iter_mut().zip(block).for_each(|(sum, value)| *sum += value);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul::{matmul, matmul_into};

    /// Sums of many terms, cut into blocks: against f64, the same to the bit with any number of threads.
    #[test]
    fn long_sums_match_the_definition_with_any_number_of_threads() {
        for ([m, n, k], n_blocks) in
            [([5, 7, 1023], 1), ([5, 7, 1024], 2), ([17, 33, 5003], 8), ([3, 1, 70_001], 16), ([600, 600, 1024], 1)]
        {
            let (x, y) = (crate::testing::values(k * m, 1), crate::testing::values(k * n, 2));
            let (a, b) = (Matrix::new(&x, k, m).transposed(), Matrix::new(&y, k, n));
            assert_eq!(super::n_blocks(a, b), n_blocks, "{m} x {n} x {k}");
            if n_blocks == 1 {
                continue;
            }
            let with = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
                let mut sum = vec![1f32; m * n];
                pool.install(|| {
                    matmul_into(&mut sum, Write::Accumulate, Product::new(2.0, a, b, Threads::All));
                    (matmul(a, b, Threads::All), sum)
                })
            };
            let (new, sum) = with(1);
            for (at, (new, sum)) in new.iter().zip(&sum).enumerate() {
                let term = |l: usize| f64::from(x[l * m + at / n]) * f64::from(y[l * n + at % n]);
                let expected: f64 = (0..k).map(term).sum();
                let bound = 1e-6 * (1.0 + (0..k).map(|l| term(l).abs()).sum::<f64>());
                assert!((f64::from(*new) - expected).abs() < bound, "{at}: {new}, not {expected}");
                assert!((f64::from(*sum) - 1.0 - 2.0 * expected).abs() < 2.0 * bound, "{at}: {sum}");
            }
            assert!(
                [2, 3, 32].into_iter().all(|threads| with(threads) == (new.clone(), sum.clone())),
                "{m} x {n} x {k}"
            );
        }
        assert_eq!(super::n_blocks(Matrix::new(&[], 0, 1 << 18), Matrix::new(&[], 1 << 18, 0)), 64);
    }
}
