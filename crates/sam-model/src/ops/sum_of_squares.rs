//! The sum of a tensor's squares, for norms of gradients.

use burn::tensor::Tensor;
use sam_kernel::adamw as kernel;

use super::fused::{contiguous_f32, is_fusible};

/// A sum of squares where it was computed; a device's sums are best read together.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "each value is consumed at once")]
pub enum SumOfSquares {
    /// On the host, in f64.
    Host(f64),
    /// On a device, `[1]`.
    Device(Tensor<1>),
}

/// The sum of all squares.
///
/// # Shapes
/// - `x`: any
#[must_use]
pub fn sum_of_squares<const D: usize>(x: Tensor<D>) -> SumOfSquares {
    match is_fusible(&x) {
        true => SumOfSquares::Host(kernel::sum_of_squares(contiguous_f32(x).storage())),
        false => SumOfSquares::Device((x.clone() * x).sum()),
    }
}
