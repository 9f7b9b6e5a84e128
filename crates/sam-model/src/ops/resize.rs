//! Linear resizing along one axis as a matrix. By hand, because the product with a matrix has a gradient on every device,
//! which burn's `interpolate` does not have.

/// Weights of PyTorch's 1-D linear interpolation with `align_corners=False`.
///
/// # Shapes
/// - returns `[to, from]`, row-major
#[must_use]
pub fn linear_resize_weights(from: usize, to: usize) -> Vec<f32> {
    let mut weights = vec![0f32; to * from];
    let ratio = from as f64 / to as f64;
    for (position, row) in weights.chunks_exact_mut(from).enumerate() {
        let source = ((position as f64 + 0.5) * ratio - 0.5).max(0.0);
        let low = (source as usize).min(from - 1);
        let high = (low + 1).min(from - 1);
        let fraction = (source - low as f64) as f32;
        row[low] += 1.0 - fraction;
        row[high] += fraction;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_resize_preserves_constants_and_identity() {
        assert_eq!(linear_resize_weights(3, 3), [1., 0., 0., 0., 1., 0., 0., 0., 1.]);
        for row in linear_resize_weights(5, 9).chunks(5) {
            assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        }
    }
}
