//! How fast a device multiplies matrices: what any network on it is limited by.

use std::time::Instant;

use anyhow::Result;
use burn::tensor::{Device, Distribution, FloatDType, Tensor};

/// Side of the matrices: their products take longer than any overhead, and fit into any device.
const SIDE: usize = 2048;

/// Products that are timed, after one that is not.
const PRODUCTS: usize = 5;

/// Floating-point operations per second of matrix products of f32 or bf16, the best of some: a multiplication and its addition are two.
///
/// # Errors
///
/// When the device fails.
pub(super) fn matmul_flops(device: &Device, dtype: FloatDType) -> Result<f64> {
    let random = || Tensor::<2>::random([SIDE, SIDE], Distribution::Uniform(-1.0, 1.0), device).cast(dtype);
    let (a, b) = (random(), random());
    let mut best_s = f64::INFINITY;
    for at in 0..=PRODUCTS {
        device.sync()?;
        let began = Instant::now();
        let product = a.clone().matmul(b.clone());
        device.sync()?;
        drop(product);
        if at > 0 {
            best_s = best_s.min(began.elapsed().as_secs_f64());
        }
    }
    Ok(2.0 * (SIDE as f64).powi(3) / best_s)
}
