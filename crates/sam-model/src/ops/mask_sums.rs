//! Sums over the valid pixels of masks, from which focal loss (Lin 2017, arXiv 1708.02002), dice loss (Milletari 2016, arXiv
//! 1606.04797) and IoU are computed.
//!
//! Shapes: `O` objects, `M` masks of each, `H W` size of the masks.

use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;
use sam_kernel::mask_loss::{self as kernel, LARGEST_LOGIT, MaskPixels, SUMS};

use super::fused::{BackwardInputs, SliceOperation, SliceOutput, fused, is_fusible};

/// Inputs of [`mask_sums`].
#[derive(Clone, Debug)]
pub struct MaskSumsInputs {
    /// `[O, M, H, W]`.
    pub logits: Tensor<4>,
    /// 1 on the object and 0 elsewhere, `[O, 1, H, W]`.
    pub targets: Tensor<4>,
    /// 1 where a pixel is valid and 0 elsewhere, `[O, 1, H, W]`; `None` when all are.
    pub valid: Option<Tensor<4>>,
    /// Weight of the object's pixels in the focal loss; the others have one minus it. Negative: all have one.
    pub focal_alpha: f64,
    /// Exponent of the focal loss.
    pub focal_gamma: f64,
}

/// Sums over the valid pixels of each mask, `[O, M]` each.
#[derive(Clone, Debug)]
pub struct MaskSums {
    /// Focal loss.
    pub focal: Tensor<2>,
    /// Predicted probability on the object.
    pub soft_overlap: Tensor<2>,
    /// Predicted probability.
    pub soft_area: Tensor<2>,
    /// Pixels of the thresholded mask on the object; without gradient.
    pub hard_overlap: Tensor<2>,
    /// Pixels of the thresholded mask; without gradient.
    pub hard_area: Tensor<2>,
}

/// Sums of every mask; logits are clamped to a magnitude that no sum overflows at.
///
/// # Shapes
/// - returns `[O, M]` each
#[must_use]
pub fn mask_sums(inputs: MaskSumsInputs) -> MaskSums {
    if !is_fusible(&inputs.logits) {
        return plain_mask_sums(&inputs);
    }
    let MaskSumsInputs { logits, targets, valid, focal_alpha, focal_gamma } = inputs;
    let [objects, masks, ..] = logits.dims();
    let kernel = kernel::MaskSums { focal_alpha: focal_alpha as f32, focal_gamma: focal_gamma as f32 };
    let operation = MaskSumsOp { kernel, objects, masks };
    let (logits, targets) = (logits.into_dispatch(), targets.into_dispatch());
    let sums: Tensor<3> = match valid {
        Some(valid) => fused(operation, [logits, targets, valid.into_dispatch()]),
        None => fused(operation, [logits, targets]),
    };
    let sum = |index: usize| sums.clone().slice_dim(2, index..index + 1).reshape([objects, masks]);
    MaskSums {
        focal: sum(0),
        soft_overlap: sum(1),
        soft_area: sum(2),
        hard_overlap: sum(3).detach(),
        hard_area: sum(4).detach(),
    }
}

fn plain_mask_sums(inputs: &MaskSumsInputs) -> MaskSums {
    let MaskSumsInputs { logits, targets, valid, focal_alpha, focal_gamma } = inputs;
    // With z = x where the pixel is background and -x where it is object, softplus(z) is the cross entropy and
    // sigmoid(z) the probability of being wrong.
    let sign = targets.clone().mul_scalar(-2.0).add_scalar(1.0); // [O, 1, H, W]
    let wrong = (logits.clone() * sign).clamp(-LARGEST_LOGIT, LARGEST_LOGIT);
    let cross_entropy = softplus(wrong.clone());
    let probability = sigmoid(wrong);
    let modulation =
        if *focal_gamma == 2.0 { probability.clone() * probability } else { probability.powf_scalar(*focal_gamma) };
    let mut focal = cross_entropy * modulation;
    if *focal_alpha >= 0.0 {
        let slope = 2.0 * focal_alpha - 1.0;
        focal = focal * targets.clone().mul_scalar(slope).add_scalar(1.0 - focal_alpha);
    }
    let masked = |values: Tensor<4>| match valid {
        Some(valid) => values * valid.clone(),
        None => values,
    };
    let (probability, predicted) = (masked(sigmoid(logits.clone())), masked(logits.clone().greater_elem(0.0).float()));
    MaskSums {
        focal: pixel_sum(masked(focal)),
        soft_overlap: pixel_sum(probability.clone() * targets.clone()),
        soft_area: pixel_sum(probability),
        hard_overlap: pixel_sum(predicted.clone() * targets.clone()).detach(),
        hard_area: pixel_sum(predicted).detach(),
    }
}

/// `log(1 + exp(x))` without overflow.
fn softplus(x: Tensor<4>) -> Tensor<4> {
    x.clone().clamp_min(0.0) + x.abs().neg().exp().log1p()
}

/// `[O, M, H, W]` to `[O, M]`.
fn pixel_sum(values: Tensor<4>) -> Tensor<2> {
    let [objects, masks, height, width] = values.dims();
    values.reshape([objects, masks, height * width]).sum_dim(2).reshape([objects, masks])
}

#[derive(Debug)]
struct MaskSumsOp {
    kernel: kernel::MaskSums,
    objects: usize,
    masks: usize,
}

impl MaskSumsOp {
    fn run(&self, logits: &[f32], targets: &[f32], valid: Option<&[f32]>) -> SliceOutput {
        let values = self.kernel.forward(MaskPixels { logits, targets, valid, objects: self.objects });
        SliceOutput::new(values, [self.objects, self.masks, SUMS])
    }
}

/// All pixels are valid.
impl SliceOperation<2> for MaskSumsOp {
    fn forward(&self, [logits, targets]: [&[f32]; 2]) -> SliceOutput {
        self.run(logits, targets, None)
    }

    /// Targets have no gradient.
    fn backward(&self, pass: BackwardInputs<'_, 2>) -> [Vec<f32>; 2] {
        let [logits, targets] = pass.inputs;
        let pixels = MaskPixels { logits, targets, valid: None, objects: self.objects };
        [self.kernel.backward(pixels, pass.d_output), Vec::new()]
    }
}

/// With a mask of valid pixels.
impl SliceOperation<3> for MaskSumsOp {
    fn forward(&self, [logits, targets, valid]: [&[f32]; 3]) -> SliceOutput {
        self.run(logits, targets, Some(valid))
    }

    /// Targets and the valid mask have no gradient.
    fn backward(&self, pass: BackwardInputs<'_, 3>) -> [Vec<f32>; 3] {
        let [logits, targets, valid] = pass.inputs;
        let pixels = MaskPixels { logits, targets, valid: Some(valid), objects: self.objects };
        [self.kernel.backward(pixels, pass.d_output), Vec::new(), Vec::new()]
    }
}

#[cfg(all(test, feature = "autodiff"))]
mod tests {
    use burn::tensor::{Device, TensorData, Tolerance};

    use super::*;

    #[test]
    fn fused_sums_equal_the_plain_form() {
        let device = Device::flex().autodiff();
        let numbers = |n: usize, seed: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * seed).sin() * 5.0).collect() };
        let bits = |n, seed| -> Vec<f32> { numbers(n, seed).iter().map(|&x| f32::from(u8::from(x > 1.0))).collect() };
        let tensor = |values, shape| Tensor::<4>::from_data(TensorData::new(values, shape), &device);
        for (focal_alpha, focal_gamma) in [(0.25, 2.0), (-1.0, 1.5)] {
            for valid in [None, Some(tensor(bits(40, 0.7), [2, 1, 4, 5]))] {
                let results = [mask_sums, |inputs| plain_mask_sums(&inputs)].map(|sums_of: fn(_) -> MaskSums| {
                    let logits = tensor(numbers(120, 0.9), [2, 3, 4, 5]).require_grad();
                    let targets = tensor(bits(40, 0.3), [2, 1, 4, 5]);
                    let (valid, logits_in) = (valid.clone(), logits.clone());
                    let sums = sums_of(MaskSumsInputs { logits: logits_in, targets, valid, focal_alpha, focal_gamma });
                    let MaskSums { focal, soft_overlap, soft_area, hard_overlap, hard_area } = sums;
                    let sums = Tensor::cat(vec![focal, soft_overlap, soft_area, hard_overlap, hard_area], 1);
                    let weights = Tensor::<1>::from_floats(numbers(30, 0.4).as_slice(), &device).reshape([2, 15]);
                    let grads = (sums.clone() * weights).sum().backward();
                    (sums.inner().into_data(), logits.grad(&grads).expect("tracked").into_data())
                });
                let [(sums, grad), (plain, plain_grad)] = results;
                sums.assert_approx_eq::<f32>(&plain, Tolerance::rel_abs(1e-5, 1e-5));
                grad.assert_approx_eq::<f32>(&plain_grad, Tolerance::rel_abs(1e-5, 1e-5));
            }
        }
    }
}
