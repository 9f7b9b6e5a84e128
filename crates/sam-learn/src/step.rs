//! One step of promptable-segmentation training (Kirillov 2023, arXiv 2304.02643, section 3 and appendix A): the encoder
//! once, then pass after pass of the decoder.
//!
//! Memory is that of one pass over few objects: each goes back at once, into a detached copy of the image embeddings, and the
//! sum of these gradients goes through the encoder once at the end.
//!
//! Shapes: `B` images, `O` objects, `C` width, `G` grid side, `L` side of the decoder's masks, `M` side of the true ones,
//! `P` passes, `K` masks of a pass.

use std::ops::Range;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use sam_model::ops::linear_resize_weights;
use sam_model::{EncodedImages, MaskOutput, Sam};

use crate::losses::{PassLosses, Truth, one_hot, pass_losses};
use crate::optimiser::scaled;
use crate::options::{Activations, BoxOutput, LossOptions, LossResolution};
use crate::prompts::{ClickSimulator, PromptDraws};
use crate::recompute::Ran;
use crate::scene::Scene;
use crate::trainee::Recipe;

/// Mean losses of each pass, still on the device.
#[derive(Clone, Debug)]
pub struct StepLosses {
    /// `[P, 5]`: focal, dice, error of the predicted IoU, their weighted sum, IoU of the mask that went on.
    per_pass: Tensor<2>,
}

/// Mean losses over objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize)]
pub struct LossTerms {
    /// Focal loss of the chosen masks, not weighted.
    pub focal: f64,
    /// Dice loss of the chosen masks, not weighted.
    pub dice: f64,
    /// Error of the predicted IoU, not weighted.
    pub iou: f64,
    /// What is minimised.
    pub total: f64,
    /// True IoU of the mask with the highest predicted IoU.
    pub miou: f64,
}

impl StepLosses {
    /// By pass; waits for the device.
    #[must_use]
    pub fn read(self) -> Vec<LossTerms> {
        let values = self.per_pass.into_data().convert::<f64>().try_to_vec::<f64>().expect("converted to f64");
        let terms = |v: &[f64]| LossTerms { focal: v[0], dice: v[1], iou: v[2], total: v[3], miou: v[4] };
        values.chunks_exact(5).map(terms).collect()
    }
}

impl LossTerms {
    /// Of several passes or batches.
    #[must_use]
    pub fn mean(terms: &[Self]) -> Self {
        let n = terms.len().max(1) as f64;
        let mean = |get: fn(&Self) -> f64| terms.iter().map(get).sum::<f64>() / n;
        Self {
            focal: mean(|t| t.focal),
            dice: mean(|t| t.dice),
            iou: mean(|t| t.iou),
            total: mean(|t| t.total),
            miou: mean(|t| t.miou),
        }
    }
}

/// How a step is made.
#[derive(Clone, Debug)]
pub struct StepOptions {
    /// Which masks a box asks for.
    pub box_output: BoxOutput,
    /// What is minimised.
    pub loss: LossOptions,
    /// Whether nothing of the encoder learns: it then runs without autodiff and without its drop path.
    pub is_encoder_frozen: bool,
    /// What the encoder keeps.
    pub activations: Activations,
    /// Objects that are decoded together, which changes the use of memory and no result; `None`: [`Sam::objects_at_once`].
    pub objects_at_once: Option<usize>,
}

/// What is learned from a batch: gradients of the mean loss over its objects and passes.
///
/// # Arguments
/// - `sam`: on an autodiff device; what is frozen gets no gradient
/// - `seed`: of what a recomputing encoder draws
#[must_use]
pub fn learn(
    sam: &Sam,
    scene: &Scene,
    simulator: ClickSimulator,
    options: &StepOptions,
    seed: u64,
) -> (GradientsParams, StepLosses) {
    if options.is_encoder_frozen {
        let embeddings = Tensor::from_inner(sam.image_encoder.valid().forward(scene.images.clone()));
        let (mut sums, losses, _) = learn_decoder(sam, embeddings, scene, simulator, options);
        return (sums.grads(), losses);
    }
    if options.activations == Activations::Recompute {
        let untracked = sam.image_encoder.clone().no_grad();
        let (ran, embeddings) = Ran::forward(&untracked.stages(), scene.images.clone(), &sam.device(), seed);
        let embeddings = Tensor::from_inner(embeddings);
        let (mut sums, losses, embedding_grad) = learn_decoder(sam, embeddings, scene, simulator, options);
        if let Some(grad) = embedding_grad {
            ran.backward(&sam.image_encoder.stages(), grad, sam, &mut sums);
        }
        return (sums.grads(), losses);
    }
    let embeddings = sam.encode(Tensor::from_inner(scene.images.clone()));
    let (mut sums, losses, embedding_grad) = learn_decoder(sam, embeddings.clone().detach(), scene, simulator, options);
    if let Some(grad) = embedding_grad {
        // The gradient of this sum with respect to the embeddings is `grad`.
        let grads = (embeddings * Tensor::from_inner(grad)).sum().backward();
        sums.accumulate(sam, GradientsParams::from_grads(grads, sam));
    }
    (sums.grads(), losses)
}

/// As [`learn`], with the images in parts that are computed side by side. The sum over the parts has a fixed order, so equal
/// numbers of parts give equal results.
///
/// # Arguments
/// - `recipe`: says in how many parts
#[must_use]
pub fn learn_in_parts(
    sam: &Sam,
    scene: &Scene,
    draws: &PromptDraws,
    recipe: &Recipe,
    seed: u64,
) -> (GradientsParams, StepLosses) {
    let [n_images, ..] = scene.images.dims();
    let n_objects = scene.image_of_object.len();
    let learn_one = |sam: &Sam, scene: &Scene, draws: PromptDraws| {
        let simulator = ClickSimulator::new(draws, &scene.truth, sam.image_size());
        learn(sam, scene, simulator, &recipe.step, seed)
    };
    assert!(n_objects > 0, "a scene has objects: those without are not put together");
    let n_parts = recipe.parts.n().min(n_images);
    if n_parts == 1 {
        return learn_one(sam, scene, draws.clone());
    }
    let objects_before = |image: usize| scene.image_of_object.partition_point(|&at| at < image);
    let parts = (0..n_parts).map(|part| part * n_images / n_parts..(part + 1) * n_images / n_parts);
    let parts: Vec<_> = parts
        .map(|images| (images.clone(), objects_before(images.start)..objects_before(images.end)))
        .filter(|(_, objects)| !objects.is_empty())
        .collect();
    let device = sam.device();
    let work = parts.into_iter().map(|(images, objects)| {
        // Leaves of its own: backward passes over shared ones would wait for each other.
        let sam = sam.clone().fork(&device);
        let scene = scene.part(images, objects.clone());
        let draws = PromptDraws { passes: draws.passes.clone(), objects: draws.objects[objects.clone()].to_vec() };
        move || {
            let (grads, losses) = learn_one(&sam, &scene, draws);
            (objects.len(), grads, losses)
        }
    });
    let learned: Vec<(usize, GradientsParams, StepLosses)> = recipe.parts.run(work.collect());
    let mut accumulated = GradientsAccumulator::new();
    let mut per_pass = Tensor::zeros([draws.passes.len(), 5], &scene.images.device());
    for (n, grads, losses) in learned {
        let share = n as f64 / n_objects as f64;
        accumulated.accumulate(sam, scaled(sam, grads, share));
        per_pass = per_pass + losses.per_pass.mul_scalar(share);
    }
    (accumulated.grads(), StepLosses { per_pass })
}

/// The passes of a step over given embeddings, `[B, C, G, G]`; the gradient with respect to them comes last.
#[must_use]
pub fn learn_decoder(
    sam: &Sam,
    embeddings: Tensor<4>,
    scene: &Scene,
    mut simulator: ClickSimulator,
    options: &StepOptions,
) -> (GradientsAccumulator<Sam>, StepLosses, Option<Tensor<4>>) {
    let StepOptions { box_output, loss, is_encoder_frozen, .. } = options;
    let truth = Truth {
        masks: Tensor::from_inner(scene.truth.masks.clone()),
        counts: scene.truth.counts.clone().map(Tensor::from_inner),
    };
    let [n_objects, _, mask_side, _] = truth.masks.dims();
    let passes = simulator.passes().to_vec();
    let upsampling = match loss.resolution {
        LossResolution::Low => None,
        LossResolution::Full => Some(resize_matrix(sam.config().low_res_side(), mask_side, &scene.images.device())),
    };
    assert!(n_objects > 0, "a scene has objects: those without are not put together");
    let at_once = options.objects_at_once.unwrap_or_else(|| sam.objects_at_once()).clamp(1, n_objects);
    let parts = (0..n_objects).step_by(at_once).map(|start| start..(start + at_once).min(n_objects));
    let parts: Vec<Range<usize>> = parts.collect();
    let share = 1.0 / (n_objects * passes.len()) as f64;

    let positions = sam.image_positions();
    let mut learned = Learned { grads: GradientsAccumulator::new(), embedding: None };
    let mut per_pass = Vec::with_capacity(passes.len());
    for (number, &kind) in passes.iter().enumerate() {
        let (output, offered) = match number {
            0 => first_output(&simulator, sam, *box_output, &scene.images.device()),
            _ => (MaskOutput::Single, None),
        };
        let prompts = simulator.prompts(kind);
        let (mut low_res, mut shown) = (Vec::new(), Vec::new());
        let mut sums = Tensor::zeros([5], &scene.images.device());
        for part in &parts {
            let leaf = if *is_encoder_frozen { embeddings.clone() } else { embeddings.clone().detach().require_grad() };
            let of_object = &scene.image_of_object[part.clone()];
            let prompts = prompts.part(part.clone());
            let images = EncodedImages { embeddings: leaf.clone(), positions: positions.clone() };
            let decoded = sam.decode_at(images, of_object, &prompts, output);
            let logits = match &upsampling {
                None => decoded.low_res_logits.clone(),
                Some(matrix) => upsample(decoded.low_res_logits.clone(), Tensor::from_inner(matrix.clone())),
            };
            let offered = offered.as_ref().map(|offered| offered.clone().slice_dim(0, part.clone()));
            let truth = truth.part(part.clone());
            let predicted_ious = decoded.iou_predictions.clone();
            let losses = pass_losses(logits.clone(), predicted_ious, offered.as_ref(), &truth, loss);

            let carried = most_confident(decoded.iou_predictions.detach().inner(), offered.as_ref());
            if upsampling.is_some() {
                shown.push(pick_mask(logits.detach().inner(), carried.as_ref()));
            }
            low_res.push(pick_mask(decoded.low_res_logits.detach().inner(), carried.as_ref()));
            sums = sums + terms(&losses, carried.as_ref());
            learned.add(sam, &leaf, losses.total.sum().mul_scalar(share).backward());
        }
        per_pass.push(sums.div_scalar(n_objects as f64).reshape([1, 5]));
        let low_res = Tensor::cat(low_res, 0);
        let shown = if upsampling.is_some() { Tensor::cat(shown, 0) } else { low_res.clone() };
        simulator.observe(low_res, shown);
    }
    (learned.grads, StepLosses { per_pass: Tensor::cat(per_pass, 0) }, learned.embedding)
}

/// Gradients so far.
struct Learned {
    grads: GradientsAccumulator<Sam>,
    embedding: Option<Tensor<4>>,
}

impl Learned {
    fn add(&mut self, sam: &Sam, leaf: &Tensor<4>, grads: Gradients) {
        if let Some(grad) = leaf.grad(&grads) {
            self.embedding = Some(match self.embedding.take() {
                Some(sum) => sum + grad,
                None => grad,
            });
        }
        self.grads.accumulate(sam, GradientsParams::from_grads(grads, sam));
    }
}

/// `[5]`, sums over objects: focal, dice, error of the predicted IoU, what is minimised, IoU of the mask that goes on.
fn terms(losses: &PassLosses, carried: Option<&Tensor<2>>) -> Tensor<1> {
    let ious = losses.actual_ious.clone();
    let iou = match carried {
        Some(weights) => (ious * weights.clone()).sum(),
        None => ious.sum(),
    };
    let sum = |values: &Tensor<1>| values.clone().detach().inner().sum();
    Tensor::cat(vec![sum(&losses.focal), sum(&losses.dice), sum(&losses.iou), sum(&losses.total), iou], 0)
}

/// Which masks the first pass forms, and which of them each object is offered (`None`: all).
fn first_output(
    simulator: &ClickSimulator,
    sam: &Sam,
    box_output: BoxOutput,
    device: &Device,
) -> (MaskOutput, Option<Tensor<2>>) {
    if box_output == BoxOutput::Three || !simulator.is_box().any(|is_box| is_box) {
        return (MaskOutput::Multi, None);
    }
    if simulator.is_box().all(|is_box| is_box) {
        return (MaskOutput::Single, None);
    }
    let n_masks = sam.config().mask_decoder.num_multimask_outputs + 1;
    let offered: Vec<f32> = simulator
        .is_box()
        .flat_map(|is_box| (0..n_masks).map(move |mask| f32::from(u8::from((mask == 0) == is_box))))
        .collect();
    let shape = [offered.len() / n_masks, n_masks];
    (MaskOutput::All, Some(Tensor::from_data(TensorData::new(offered, shape), device)))
}

/// 1 for the mask with the highest predicted IoU, the first of equals, `[O, K]`; `None` when there is only one.
fn most_confident(predicted_ious: Tensor<2>, offered: Option<&Tensor<2>>) -> Option<Tensor<2>> {
    let [_, n_masks] = predicted_ious.dims();
    if n_masks == 1 {
        return None;
    }
    let scores = match offered {
        Some(offered) => predicted_ious + (offered.clone() - 1.0).mul_scalar(1e9),
        None => predicted_ious,
    };
    Some(one_hot(&scores.argmax(1), n_masks))
}

/// `[O, K, H, W]` to `[O, 1, H, W]`.
fn pick_mask(logits: Tensor<4>, weights: Option<&Tensor<2>>) -> Tensor<4> {
    match weights {
        Some(weights) => {
            let [objects, n_masks] = weights.dims();
            (logits * weights.clone().reshape([objects, n_masks, 1, 1])).sum_dim(1)
        }
        None => logits,
    }
}

/// `[to, from]`, see [`linear_resize_weights`].
fn resize_matrix(from: usize, to: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(linear_resize_weights(from, to), [to, from]), device)
}

/// Bilinear resize, one axis after the other.
fn upsample(logits: Tensor<4>, matrix: Tensor<2>) -> Tensor<4> {
    let [objects, masks, from, _] = logits.dims();
    let [to, _] = matrix.dims();
    let columns = logits.reshape([objects * masks * from, from]).matmul(matrix.clone().transpose()); // [OKL, M]
    let columns = columns.reshape([objects * masks, from, to]);
    let rows = matrix.reshape([1, to, from]).expand([objects * masks, to, from]).matmul(columns);
    rows.reshape([objects, masks, to, to])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upsampling_is_the_bilinear_one() {
        let device = Device::flex();
        let values: Vec<f32> = (0..18).map(|v| ((v * 7) % 11) as f32).collect();
        let logits = Tensor::<4>::from_data(TensorData::new(values, [2, 1, 3, 3]), &device);
        let ours = upsample(logits.clone(), resize_matrix(3, 8, &device));
        use burn::tensor::module::interpolate;
        use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
        let options =
            InterpolateOptions::new(InterpolateMode::Bilinear).with_output_size([8, 8]).with_align_corners(false);
        let reference = interpolate(logits, options);
        ours.into_data().assert_approx_eq::<f32>(&reference.into_data(), burn::tensor::Tolerance::absolute(1e-5));
    }

    #[test]
    fn most_confident_is_the_first_of_equals_among_those_offered() {
        let device = Device::flex();
        let scores = Tensor::<2>::from_floats([[0.5, 0.9, 0.9], [2.0, 0.1, 0.3]], &device);
        let offered = Tensor::<2>::from_floats([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]], &device);
        let weights = most_confident(scores, Some(&offered)).expect("three masks");
        assert_eq!(weights.into_data().try_to_vec::<f32>().expect("f32"), [0., 1., 0., 0., 0., 1.]);
    }
}
