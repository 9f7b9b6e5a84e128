//! numpy's mean, to the last bit.
//!
//! Source: `pairwise_sum` in numpy's `loops_utils.h.src`: up to 128 values in eight running sums, longer arrays by
//! halves. With another summation order, AP and AR differ from the reference packages in the last digits.

/// `np.mean` of a contiguous array of doubles; `None` when empty.
pub(crate) fn numpy_mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| pairwise_sum(values) / values.len() as f64)
}

fn pairwise_sum(values: &[f64]) -> f64 {
    const BLOCK: usize = 128;
    const LANES: usize = 8;
    let n = values.len();
    if n < LANES {
        return values.iter().fold(0.0, |sum, value| sum + value);
    }
    if n <= BLOCK {
        let mut lanes = [0.0; LANES];
        lanes.copy_from_slice(&values[..LANES]);
        let mut chunks = values[LANES..].chunks_exact(LANES);
        for chunk in &mut chunks {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane += value;
            }
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
        return chunks.remainder().iter().fold(sum, |sum, value| sum + value);
    }
    let half = n / 2 - (n / 2) % LANES;
    pairwise_sum(&values[..half]) + pairwise_sum(&values[half..])
}
