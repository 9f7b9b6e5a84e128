//! GELU with the error function, as PyTorch's `nn.GELU()`.
//!
//! burn's own is that on every device, but its gradient on CubeCL devices is that of the approximation with tanh
//! (cubecl's `gelu_backward`), which is off by up to 1e-3; there the error function itself has the gradient. On the CPU its passes are
//! scalar, and a kernel takes their place where there are gradients.

use std::f64::consts::FRAC_1_SQRT_2;

use burn::tensor::{Device, Tensor, activation};
use sam_kernel::gelu as kernel;

use super::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};

/// # Shapes
/// - `x`: any
/// - returns the same shape
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let device = x.device();
    if !device.is_autodiff() {
        return activation::gelu(x);
    }
    if is_fusible(&x) {
        return fused(GeluOp { shape: x.dims().to_vec() }, [x.into_dispatch()]);
    }
    // f64 on the CPU.
    if device.inner() == Device::flex() { activation::gelu(x) } else { by_error_function(x) }
}

fn by_error_function<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let cumulated = (x.clone() * FRAC_1_SQRT_2).erf() + 1.0;
    x * cumulated * 0.5
}

#[derive(Debug)]
struct GeluOp {
    shape: Vec<usize>,
}

impl SliceOperation<1> for GeluOp {
    fn forward(&self, [x]: [&[f32]; 1]) -> SliceOutput {
        SliceOutput::new(kernel::forward(x), self.shape.clone())
    }

    fn backward(&self, pass: BackwardInputs<'_, 1>) -> [Vec<f32>; 1] {
        [kernel::backward(pass.inputs[0], pass.d_output)]
    }
}

#[cfg(all(test, feature = "autodiff"))]
mod tests {
    use burn::tensor::{DType, Tolerance};

    use super::*;

    /// Of the values and of their gradient, on f64, which takes burn's form.
    #[test]
    fn all_forms_are_equal() {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_floats([-6.0, -2.0, -0.7, 0.0, 0.1, 1.5, 4.0], &device);
        let of = |x: &Tensor<1>, form: fn(Tensor<1>) -> Tensor<1>| {
            let x = x.clone().require_grad();
            let y = form(x.clone());
            let grad = x.grad(&y.clone().powi_scalar(2).sum().backward()).expect("tracked");
            [y.inner(), grad].map(|tensor| tensor.cast(DType::F32).into_data())
        };
        let expected = of(&x.clone().cast(DType::F64), gelu);
        for form in [gelu, by_error_function] {
            for (got, expected) in of(&x, form).iter().zip(&expected) {
                got.assert_approx_eq::<f32>(expected, Tolerance::absolute(2e-6));
            }
        }
    }
}
