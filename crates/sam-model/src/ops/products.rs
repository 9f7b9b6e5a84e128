//! The precision of matrix products, a setting of the process: factors in f32, or in bf16 with sums in f32.
//!
//! As automatic mixed precision has it, weights, their optimiser's moments, softmax, norms, positions and losses stay f32; only what a
//! product multiplies is rounded. Kernels on the CPU round inside of the product (`sam-kernel`). Elsewhere the factors are cast, and
//! the result, which burn rounds to bf16, is cast back; casts have gradients, so the products of the backward pass are of bf16, too.

use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::{DType, FloatDType, Tensor, module};

static IS_BF16: AtomicBool = AtomicBool::new(false);
static ENCODES_IN_INT8: AtomicBool = AtomicBool::new(false);

/// Whether matrix products multiply bf16 from now on, in all threads of the process. To be set before anything is computed, and only
/// for devices that know bf16. A CPU without such products goes on in f32.
pub fn set_bf16_products(is_on: bool) {
    IS_BF16.store(is_on, Ordering::Relaxed);
    sam_kernel::set_bf16_products(is_on);
}

/// Whether matrix products multiply bf16.
#[must_use]
pub fn bf16_products() -> bool {
    IS_BF16.load(Ordering::Relaxed)
}

/// Whether the linear layers of SAM's image encoder multiply inputs and weights of 8 bits from now on, in all threads of the process:
/// on a CPU that can ([`sam_kernel::has_int8_products`]), for inference. The attention between them, the neck, the mask decoder and
/// every other network are as before.
pub fn set_int8_encoder(is_on: bool) {
    ENCODES_IN_INT8.store(is_on && sam_kernel::has_int8_products(), Ordering::Relaxed);
}

/// Whether the linear layers of SAM's image encoder multiply 8 bits.
#[must_use]
pub fn int8_encoder() -> bool {
    ENCODES_IN_INT8.load(Ordering::Relaxed)
}

fn rounds<const D: usize>(x: &Tensor<D>) -> bool {
    bf16_products() && x.dtype() == DType::F32
}

/// `a b` over the last two axes.
pub(crate) fn matmul<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> Tensor<D> {
    if !rounds(&a) {
        return a.matmul(b);
    }
    a.cast(FloatDType::BF16).matmul(b.cast(FloatDType::BF16)).cast(FloatDType::F32)
}

/// `x weight + bias` over the last axis.
///
/// # Shapes
/// - `x`: `[.., I]`, `weight`: `[I, O]`, `bias`: `[O]`
pub(crate) fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    if !rounds(&x) {
        return module::linear(x, weight, bias);
    }
    let y = module::linear(x.cast(FloatDType::BF16), weight.cast(FloatDType::BF16), None).cast(FloatDType::F32);
    match bias {
        // Added to what is f32 again.
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// As [`matmul`], of a backend's tensors.
pub(crate) fn matmul_of<B: Backend>(a: FloatTensor<B>, b: FloatTensor<B>) -> FloatTensor<B> {
    use burn::backend::TensorMetadata;
    if !bf16_products() || a.dtype() != DType::F32 {
        return B::float_matmul(a, b);
    }
    let rounded = |x| B::float_cast(x, FloatDType::BF16);
    B::float_cast(B::float_matmul(rounded(a), rounded(b)), FloatDType::F32)
}
