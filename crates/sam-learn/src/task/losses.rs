//! Losses of predicted masks: focal and dice loss, the error of the predicted IoU, and which of several masks is learned
//! from.
//!
//! Sources: focal loss (Lin 2017, arXiv 1708.02002, eq. 5), dice loss (Milletari 2016, arXiv 1606.04797, with the smoothing
//! of 1 of MaskFormer and SAM 2's code), their 20 : 1 sum and "back-propagate only the minimum loss over the three masks"
//! (Kirillov 2023, arXiv 2304.02643, section 3 and appendix A).
//!
//! Different from SAM 2's code: every value is a mean over valid pixels. Ignored pixels and the padding beside an image are
//! not valid.
//!
//! Shapes: `O` objects, `M` masks, `H W` size of the masks.

use burn::tensor::{Int, Tensor};
use sam_model::ops::{MaskSums, MaskSumsInputs, mask_sums};

use crate::options::{IouLoss, IouSupervision, LossOptions};
use crate::target::Target;

/// Added to numerator and denominator of dice.
const DICE_SMOOTHING: f32 = 1.0;

/// Larger than any loss of a mask, as [`mask_sums`] clamps the logits; keeps masks that are not allowed from being chosen.
pub(super) const NOT_ALLOWED: f32 = 1e30;

/// The losses of one decoder pass, per object, `[O]` each.
#[derive(Clone, Debug)]
pub(super) struct PassLosses {
    /// Focal loss of the chosen mask, not weighted.
    pub(super) focal: Tensor<1>,
    /// Dice loss of the chosen mask, not weighted.
    pub(super) dice: Tensor<1>,
    /// Error of the predicted IoU, not weighted.
    pub(super) iou: Tensor<1>,
    /// The weighted sum, which is minimised.
    pub(super) total: Tensor<1>,
    /// Actual IoU of every mask, `[O, M]`.
    pub(super) actual_ious: Tensor<2>,
}

/// Losses and IoUs of masks, `[O, M]` each.
struct Compared {
    focal: Tensor<2>,
    dice: Tensor<2>,
    /// Of the thresholded mask, without gradient.
    iou: Tensor<2>,
}

/// Focal loss, dice loss and IoU of every mask; finite at any logit.
///
/// # Shapes
/// - `logits`: `[O, M, H, W]`
fn compare(logits: Tensor<4>, target: &Target, options: &LossOptions) -> Compared {
    let MaskSums { focal, soft_overlap, soft_area, hard_overlap, hard_area } = mask_sums(MaskSumsInputs {
        logits,
        targets: target.masks.clone(),
        valid: target.valid.clone(),
        focal_alpha: options.focal_alpha,
        focal_gamma: options.focal_gamma,
    });
    let true_area = match &target.valid {
        Some(valid) => pixel_sum(target.masks.clone() * valid.clone()),
        None => pixel_sum(target.masks.clone()),
    };
    let ratio = soft_overlap.mul_scalar(2.0).add_scalar(DICE_SMOOTHING)
        / (soft_area + true_area.clone()).add_scalar(DICE_SMOOTHING);
    let union = hard_area + true_area - hard_overlap.clone();
    Compared {
        focal: focal / n_valid(target),
        dice: ratio.neg().add_scalar(1.0),
        // 0 where both are empty.
        iou: hard_overlap / union.clamp_min(1.0),
    }
}

/// All losses of one pass.
///
/// The choice of the mask has no gradient; only the losses of the chosen mask enter the sum, so the others get a gradient
/// of exactly zero.
///
/// # Shapes
/// - `logits`: `[O, M, H, W]`, tracked, at the resolution of `target`
/// - `predicted_ious`: `[O, M]`, tracked
/// - `allowed`: `[O, M]`, 1 for masks that may be chosen; `None` when all may
pub(super) fn pass_losses(
    logits: Tensor<4>,
    predicted_ious: Tensor<2>,
    allowed: Option<&Tensor<2>>,
    target: &Target,
    options: &LossOptions,
) -> PassLosses {
    let [objects, n_masks, ..] = logits.dims();
    let Compared { focal, dice, iou: actual } = compare(logits, target, options);
    let actual_ious = actual.inner();
    let chosen = if n_masks == 1 {
        Tensor::zeros([objects, 1], &actual_ious.device())
    } else {
        let plain = |loss: &Tensor<2>, weight: f64| loss.clone().detach().inner().mul_scalar(weight);
        let mut cost = plain(&focal, options.focal_weight) + plain(&dice, options.dice_weight);
        if let Some(allowed) = allowed {
            cost = cost + allowed.clone().neg().add_scalar(1.0).mul_scalar(NOT_ALLOWED);
        }
        cost.argmin(1) // [O, 1]
    };
    let is_chosen = Tensor::from_inner(one_hot(&chosen, n_masks));
    let of_chosen = |loss: Tensor<2>| (loss * is_chosen.clone()).sum_dim(1).reshape([objects]);
    let (focal, dice) = (of_chosen(focal), of_chosen(dice));

    let error = predicted_ious - Tensor::from_inner(actual_ious.clone());
    let error = match options.iou_loss {
        IouLoss::Mse => error.clone() * error,
        IouLoss::L1 => error.abs(),
    };
    let supervised = match options.iou_supervision {
        IouSupervision::Chosen => one_hot(&chosen, n_masks),
        IouSupervision::All => allowed.cloned().unwrap_or_else(|| Tensor::ones([objects, n_masks], &chosen.device())),
    };
    let supervised = supervised.clone() / supervised.sum_dim(1);
    let iou = (error * Tensor::from_inner(supervised)).sum_dim(1).reshape([objects]);

    let total = focal.clone().mul_scalar(options.focal_weight)
        + dice.clone().mul_scalar(options.dice_weight)
        + iou.clone().mul_scalar(options.iou_weight);
    PassLosses { focal, dice, iou, total, actual_ious }
}

/// 1 at the index and 0 elsewhere: `[O, 1]` to `[O, n]`.
pub(super) fn one_hot(index: &Tensor<2, Int>, n: usize) -> Tensor<2> {
    let places = Tensor::<1, Int>::arange(0..n as i64, &index.device()).reshape([1, n]);
    index.clone().expand([index.dims()[0], n]).equal(places.expand([index.dims()[0], n])).float()
}

/// Sums over pixels: `[O, M, H, W]` to `[O, M]`.
fn pixel_sum(values: Tensor<4>) -> Tensor<2> {
    let [objects, masks, height, width] = values.dims();
    values.reshape([objects, masks, height * width]).sum_dim(2).reshape([objects, masks])
}

/// Number of valid pixels, at least 1, `[O, 1]`.
fn n_valid(target: &Target) -> Tensor<2> {
    match &target.valid {
        Some(valid) => pixel_sum(valid.clone()).clamp_min(1.0),
        None => {
            let [objects, _, height, width] = target.masks.dims();
            Tensor::full([objects, 1], (height * width) as f32, &target.masks.device())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    fn tensor<const D: usize>(values: &[f32], shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values.to_vec(), shape), device)
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec().expect("f32")
    }

    fn target(device: &Device) -> Target {
        Target { masks: tensor(&[1.0, 0.0, 1.0, 0.0], [1, 1, 2, 2], device), valid: None }
    }

    /// At logit 0 every probability is one half: focal is `log 2 / 4` times the mean of alpha, dice `1 - 3 / 5`.
    #[test]
    fn losses_at_logit_zero_equal_hand_calculation() {
        let device = Device::flex();
        let logits = Tensor::<4>::zeros([1, 1, 2, 2], &device);
        let Compared { focal, dice, .. } = compare(logits, &target(&device), &LossOptions::default());
        let (focal, dice) = (values(focal), values(dice));
        assert!((focal[0] - 0.5 * std::f32::consts::LN_2 / 4.0).abs() < 1e-6, "{focal:?}");
        assert!((dice[0] - (1.0 - 3.0 / 5.0)).abs() < 1e-6, "{dice:?}");
    }

    /// The largest logits that there are, of either sign, on and off the object.
    #[test]
    fn every_loss_term_and_its_gradient_are_finite_at_any_logit() {
        let device = Device::flex().autodiff();
        let largest = f64::from(f32::MAX);
        for logit in [88.0, -104.0, 1e4, -1e4, 3e38, -3e38, largest, -largest] {
            let logits = Tensor::<4>::full([1, 3, 2, 2], logit, &device).require_grad();
            let ious = Tensor::<2>::zeros([1, 3], &device);
            let PassLosses { focal, dice, iou, total, actual_ious } =
                pass_losses(logits.clone(), ious, None, &target(&device), &LossOptions::default());
            let terms = [focal, dice, iou, total.clone()].map(|term| values(term)[0]);
            assert!(terms.iter().all(|term| term.is_finite()), "{logit}: {terms:?}");
            assert!(values(actual_ious).iter().all(|iou| iou.is_finite()), "{logit}");
            let grad = values(logits.grad(&total.sum().backward()).expect("tracked"));
            assert!(grad.iter().all(|g| g.is_finite()), "{logit}: {grad:?}");
        }
    }

    /// A mask whose logits are as wrong as can be is allowed, one that is right is not.
    #[test]
    fn a_mask_that_is_not_allowed_is_not_chosen_whatever_the_others_cost() {
        let device = Device::flex().autodiff();
        let (wrong, right) = ([-f32::MAX, f32::MAX, -f32::MAX, f32::MAX], [4.0, -4.0, 4.0, -4.0]);
        let logits = tensor(&[wrong, right].concat(), [1, 2, 2, 2], &device);
        let allowed = tensor(&[1.0, 0.0], [1, 2], &Device::flex());
        let ious = Tensor::zeros([1, 2], &device);
        let losses = pass_losses(logits, ious, Some(&allowed), &target(&device), &LossOptions::default());
        assert!(values(losses.dice)[0] > 0.7, "the dice loss of the wrong mask");
    }

    #[test]
    fn invalid_pixels_change_nothing() {
        let device = Device::flex();
        let valid = tensor(&[1.0, 1.0, 0.0, 0.0], [1, 1, 2, 2], &device);
        let half = Target { valid: Some(valid), ..target(&device) };
        let first = tensor(&[0.3, -0.2, 5.0, 7.0], [1, 1, 2, 2], &device);
        let second = tensor(&[0.3, -0.2, -9.0, 0.1], [1, 1, 2, 2], &device);
        let options = LossOptions::default();
        let (first, second) = (compare(first, &half, &options), compare(second, &half, &options));
        assert_eq!(values(first.focal), values(second.focal));
        assert_eq!(values(first.dice), values(second.dice));
        assert_eq!(values(first.iou.clone()), values(second.iou));
        assert_eq!(values(first.iou), [1.0]);
    }

    #[test]
    fn only_the_mask_with_the_smallest_loss_gets_a_gradient() {
        let device = Device::flex().autodiff();
        let perfect = [4.0, -4.0, 4.0, -4.0];
        let all: Vec<f32> = [[0.0; 4], perfect, [-4.0, 4.0, -4.0, 4.0]].concat();
        let logits = tensor(&all, [1, 3, 2, 2], &device).require_grad();
        let ious = tensor(&[0.5, 0.5, 0.5], [1, 3], &device).require_grad();
        let losses = pass_losses(logits.clone(), ious.clone(), None, &target(&device), &LossOptions::default());
        assert_eq!(values(losses.actual_ious.clone()), [0.0, 1.0, 0.0]);
        let grads = losses.total.sum().backward();
        let grad = values(logits.grad(&grads).expect("tracked"));
        assert!(grad[..4].iter().chain(&grad[8..]).all(|&g| g == 0.0), "{grad:?}");
        assert!(grad[4..8].iter().all(|&g| g != 0.0), "{grad:?}");
        assert_eq!(values(ious.grad(&grads).expect("tracked")), [0.0, -1.0, 0.0]);
    }

    #[test]
    fn a_mask_that_is_not_allowed_is_not_chosen() {
        let device = Device::flex().autodiff();
        let all: Vec<f32> = [[0.0; 4], [4.0, -4.0, 4.0, -4.0]].concat();
        let allowed = tensor(&[1.0, 0.0], [1, 2], &Device::flex());
        let ious = Tensor::zeros([1, 2], &device);
        let logits = tensor(&all, [1, 2, 2, 2], &device);
        let options = LossOptions { iou_supervision: IouSupervision::All, ..LossOptions::default() };
        let losses = pass_losses(logits, ious, Some(&allowed), &target(&device), &options);
        assert!((values(losses.dice)[0] - 0.4).abs() < 1e-6, "the dice loss of the empty mask");
        // Mask 0 is empty: its IoU is 0 and so is the error; mask 1 is excluded from the mean.
        assert_eq!(values(losses.iou), [0.0]);
    }
}
