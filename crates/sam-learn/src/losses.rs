//! What a mask costs: focal and dice loss, the error of the predicted IoU, and which of several masks is learned from.
//!
//! Sources: focal loss (Lin 2017, arXiv 1708.02002, eq. 5), dice loss (Milletari 2016, arXiv 1606.04797, with the smoothing
//! of 1 of MaskFormer and SAM 2's code), their 20 : 1 sum and "back-propagate only the minimum loss over the three masks"
//! (Kirillov 2023, arXiv 2304.02643, section 3 and appendix A).
//!
//! Different from SAM 2's code: every value is a mean over the pixels that count. Pixels that are ignored, and the padding
//! beside an image, count nowhere.
//!
//! Shapes: `O` objects, `M` masks, `H W` size of the masks.

use std::ops::Range;

use burn::tensor::{Int, Tensor};
use sam_model::ops::{MaskSums, MaskSumsInputs, mask_sums};

use crate::options::{IouLoss, IouSupervision, LossOptions};

/// Added to numerator and denominator of dice.
const DICE_SMOOTHING: f32 = 1.0;

/// Larger than any loss of a mask; keeps masks that are not offered from being chosen.
const NOT_OFFERED: f32 = 1e9;

/// What is true, and where it counts.
#[derive(Clone, Debug)]
pub struct Truth {
    /// 1 on the object and 0 elsewhere, `[O, 1, H, W]`.
    pub masks: Tensor<4>,
    /// 1 where a pixel counts and 0 elsewhere, `[O, 1, H, W]`; `None` when all do.
    pub counts: Option<Tensor<4>>,
}

impl Truth {
    /// That of some objects.
    #[must_use]
    pub fn part(&self, objects: Range<usize>) -> Self {
        let rows = |masks: &Tensor<4>| masks.clone().slice_dim(0, objects.clone());
        Self { masks: rows(&self.masks), counts: self.counts.as_ref().map(rows) }
    }
}

/// The losses of one decoder pass, per object, `[O]` each.
#[derive(Clone, Debug)]
pub struct PassLosses {
    /// Focal loss of the chosen mask, not weighted.
    pub focal: Tensor<1>,
    /// Dice loss of the chosen mask, not weighted.
    pub dice: Tensor<1>,
    /// Error of the predicted IoU, not weighted.
    pub iou: Tensor<1>,
    /// The weighted sum: what is minimised.
    pub total: Tensor<1>,
    /// Which mask was chosen, `[O, 1]`.
    pub chosen: Tensor<2, Int>,
    /// True IoU of every mask, `[O, M]`.
    pub actual_ious: Tensor<2>,
}

/// What losses and IoUs of masks are made of, `[O, M]` each.
struct Compared {
    focal: Tensor<2>,
    dice: Tensor<2>,
    /// Of the thresholded mask; no gradient goes through it.
    iou: Tensor<2>,
}

/// Focal loss, dice loss and IoU of every mask; safe at any logit.
///
/// # Shapes
/// - `logits`: `[O, M, H, W]`
fn compare(logits: Tensor<4>, truth: &Truth, options: &LossOptions) -> Compared {
    let MaskSums { focal, soft_overlap, soft_area, hard_overlap, hard_area } = mask_sums(MaskSumsInputs {
        logits,
        targets: truth.masks.clone(),
        valid: truth.counts.clone(),
        focal_alpha: options.focal_alpha,
        focal_gamma: options.focal_gamma,
    });
    let true_area = match &truth.counts {
        Some(counts) => pixel_sum(truth.masks.clone() * counts.clone()),
        None => pixel_sum(truth.masks.clone()),
    };
    let ratio = soft_overlap.mul_scalar(2.0).add_scalar(DICE_SMOOTHING)
        / (soft_area + true_area.clone()).add_scalar(DICE_SMOOTHING);
    let union = hard_area + true_area - hard_overlap.clone();
    Compared {
        focal: focal / n_counting(truth),
        dice: ratio.neg().add_scalar(1.0),
        // 0 where both are empty.
        iou: hard_overlap / union.clamp_min(1.0),
    }
}

/// All losses of one pass.
///
/// Which mask is chosen is decided without gradients; only the chosen one's losses enter the sum, so the others get exactly
/// none.
///
/// # Shapes
/// - `logits`: `[O, M, H, W]`, tracked, at the resolution of `truth`
/// - `predicted_ious`: `[O, M]`, tracked
/// - `offered`: `[O, M]`, 1 for masks that may be chosen; `None` when all may
#[must_use]
pub fn pass_losses(
    logits: Tensor<4>,
    predicted_ious: Tensor<2>,
    offered: Option<&Tensor<2>>,
    truth: &Truth,
    options: &LossOptions,
) -> PassLosses {
    let [objects, n_masks, ..] = logits.dims();
    let Compared { focal, dice, iou: actual } = compare(logits, truth, options);
    let actual_ious = actual.inner();
    let chosen = if n_masks == 1 {
        Tensor::zeros([objects, 1], &actual_ious.device())
    } else {
        let plain = |loss: &Tensor<2>, weight: f64| loss.clone().detach().inner().mul_scalar(weight);
        let mut cost = plain(&focal, options.focal_weight) + plain(&dice, options.dice_weight);
        if let Some(offered) = offered {
            cost = cost + offered.clone().neg().add_scalar(1.0).mul_scalar(NOT_OFFERED);
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
        IouSupervision::All => offered.cloned().unwrap_or_else(|| Tensor::ones([objects, n_masks], &chosen.device())),
    };
    let supervised = supervised.clone() / supervised.sum_dim(1);
    let iou = (error * Tensor::from_inner(supervised)).sum_dim(1).reshape([objects]);

    let total = focal.clone().mul_scalar(options.focal_weight)
        + dice.clone().mul_scalar(options.dice_weight)
        + iou.clone().mul_scalar(options.iou_weight);
    PassLosses { focal, dice, iou, total, chosen, actual_ious }
}

/// `[O, 1]` to `[O, n]`: 1 at the index and 0 elsewhere.
pub(crate) fn one_hot(index: &Tensor<2, Int>, n: usize) -> Tensor<2> {
    let places = Tensor::<1, Int>::arange(0..n as i64, &index.device()).reshape([1, n]);
    index.clone().expand([index.dims()[0], n]).equal(places.expand([index.dims()[0], n])).float()
}

/// `[O, M, H, W]` to `[O, M]`.
fn pixel_sum(values: Tensor<4>) -> Tensor<2> {
    let [objects, masks, height, width] = values.dims();
    values.reshape([objects, masks, height * width]).sum_dim(2).reshape([objects, masks])
}

/// `[O, 1]`: how many pixels count, at least 1.
fn n_counting(truth: &Truth) -> Tensor<2> {
    match &truth.counts {
        Some(counts) => pixel_sum(counts.clone()).clamp_min(1.0),
        None => {
            let [objects, _, height, width] = truth.masks.dims();
            Tensor::full([objects, 1], (height * width) as f32, &truth.masks.device())
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

    fn truth(device: &Device) -> Truth {
        Truth { masks: tensor(&[1.0, 0.0, 1.0, 0.0], [1, 1, 2, 2], device), counts: None }
    }

    /// At logit 0 every probability is one half: focal is `log 2 / 4` times the mean of alpha, dice `1 - 3 / 5`.
    #[test]
    fn logit_zero_has_the_values_of_the_hand() {
        let device = Device::flex();
        let logits = Tensor::<4>::zeros([1, 1, 2, 2], &device);
        let Compared { focal, dice, .. } = compare(logits, &truth(&device), &LossOptions::default());
        let (focal, dice) = (values(focal), values(dice));
        assert!((focal[0] - 0.5 * std::f32::consts::LN_2 / 4.0).abs() < 1e-6, "{focal:?}");
        assert!((dice[0] - (1.0 - 3.0 / 5.0)).abs() < 1e-6, "{dice:?}");
    }

    #[test]
    fn losses_are_finite_at_any_logit_and_so_are_their_gradients() {
        let device = Device::flex().autodiff();
        for logit in [1e4f64, -1e4, 3e38, -3e38, 88.0, -104.0] {
            let logits = Tensor::<4>::full([1, 3, 2, 2], logit, &device).require_grad();
            let ious = Tensor::<2>::zeros([1, 3], &device).require_grad();
            let losses = pass_losses(logits.clone(), ious, None, &truth(&device), &LossOptions::default());
            let grads = losses.total.clone().sum().backward();
            let grad = values(logits.grad(&grads).expect("tracked"));
            if logit.abs() < 1e30 {
                assert!(values(losses.total)[0].is_finite(), "{logit}");
            }
            assert!(grad.iter().all(|g| !g.is_nan()), "{logit}: {grad:?}");
        }
    }

    #[test]
    fn pixels_that_do_not_count_change_nothing() {
        let device = Device::flex();
        let counts = tensor(&[1.0, 1.0, 0.0, 0.0], [1, 1, 2, 2], &device);
        let counted = Truth { counts: Some(counts), ..truth(&device) };
        let first = tensor(&[0.3, -0.2, 5.0, 7.0], [1, 1, 2, 2], &device);
        let second = tensor(&[0.3, -0.2, -9.0, 0.1], [1, 1, 2, 2], &device);
        let options = LossOptions::default();
        let (first, second) = (compare(first, &counted, &options), compare(second, &counted, &options));
        assert_eq!(values(first.focal), values(second.focal));
        assert_eq!(values(first.dice), values(second.dice));
        assert_eq!(values(first.iou.clone()), values(second.iou));
        assert_eq!(values(first.iou), [1.0]);
    }

    #[test]
    fn only_the_smallest_of_three_is_learned_from() {
        let device = Device::flex().autodiff();
        let perfect = [4.0, -4.0, 4.0, -4.0];
        let all: Vec<f32> = [[0.0; 4], perfect, [-4.0, 4.0, -4.0, 4.0]].concat();
        let logits = tensor(&all, [1, 3, 2, 2], &device).require_grad();
        let ious = tensor(&[0.5, 0.5, 0.5], [1, 3], &device).require_grad();
        let losses = pass_losses(logits.clone(), ious.clone(), None, &truth(&device), &LossOptions::default());
        assert_eq!(losses.chosen.clone().into_data().convert::<i64>().try_to_vec::<i64>().expect("ints"), [1]);
        assert_eq!(values(losses.actual_ious.clone()), [0.0, 1.0, 0.0]);
        let grads = losses.total.sum().backward();
        let grad = values(logits.grad(&grads).expect("tracked"));
        assert!(grad[..4].iter().chain(&grad[8..]).all(|&g| g == 0.0), "{grad:?}");
        assert!(grad[4..8].iter().all(|&g| g != 0.0), "{grad:?}");
        assert_eq!(values(ious.grad(&grads).expect("tracked")), [0.0, -1.0, 0.0]);
    }

    #[test]
    fn a_mask_that_is_not_offered_is_not_chosen() {
        let device = Device::flex().autodiff();
        let all: Vec<f32> = [[0.0; 4], [4.0, -4.0, 4.0, -4.0]].concat();
        let offered = tensor(&[1.0, 0.0], [1, 2], &Device::flex());
        let ious = Tensor::zeros([1, 2], &device);
        let logits = tensor(&all, [1, 2, 2, 2], &device);
        let options = LossOptions { iou_supervision: IouSupervision::All, ..LossOptions::default() };
        let losses = pass_losses(logits, ious, Some(&offered), &truth(&device), &options);
        assert_eq!(losses.chosen.into_data().convert::<i64>().try_to_vec::<i64>().expect("ints"), [0]);
        // Mask 0 is empty: its IoU is 0 and so is the error; mask 1 is left out of the mean.
        assert_eq!(values(losses.iou), [0.0]);
    }
}
