//! One step of promptable-segmentation training (Kirillov 2023, arXiv 2304.02643, section 3 and appendix A): the encoder
//! once, then pass after pass of the decoder.
//!
//! Memory is that of one pass over few objects: each has its backward pass at once, into a detached copy of the image
//! embeddings, and the sum of these gradients goes through the encoder once at the end.
//!
//! Shapes: `B` images, `O` objects, `C` embedding dimension, `G` side of the embedding grid, `L` side of the decoder's
//! masks, `M` side of the target masks, `K` masks of a pass.

use std::ops::Range;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use sam_model::ops::linear_resize_weights;
use sam_model::{EncodedImages, ImageEncoder, MaskOutput, Sam, seed_dropout};

use super::batch::{EncoderInput, TrainingBatch};
use super::checkpointing::CheckpointedForward;
use super::losses::{NOT_ALLOWED, PassLosses, one_hot, pass_losses};
use super::shards::{ShardPools, shard_ranges, shard_seed};
use crate::device_reads::read;
use crate::optim::scaled;
use crate::options::{Activations, BoxOutput, LossOptions, LossResolution};
use crate::phases::{Phase, timed};
use crate::prompts::{ClickSimulator, PromptDraws};
use crate::target::Target;

/// Options of a step.
#[derive(Clone, Debug)]
pub struct StepOptions {
    /// Masks that the decoder predicts for a box.
    pub box_output: BoxOutput,
    /// The loss.
    pub loss: LossOptions,
    /// Nothing of the encoder learns: it runs without autodiff and without its drop path.
    pub is_encoder_frozen: bool,
    /// Activations of the encoder that are stored.
    pub activations: Activations,
    /// Objects that are decoded together, which changes memory and no result; `None`: [`Sam::objects_at_once`].
    pub objects_at_once: Option<usize>,
}

/// A step before its backward passes.
#[derive(Clone, Copy)]
pub struct SegmentationStep<'a> {
    /// On an autodiff device; frozen parameters get no gradient.
    pub sam: &'a Sam,
    /// Images and targets.
    pub batch: &'a TrainingBatch,
    /// Options of the step.
    pub options: &'a StepOptions,
    /// Random seed of drop path and dropout.
    pub dropout_seed: u64,
}

/// How an encoder that learns is run.
#[derive(Clone, Copy, Debug)]
pub(super) struct EncoderRun {
    /// Activations that are stored.
    pub(super) activations: Activations,
    /// Random seed of its dropped paths.
    pub(super) dropout_seed: u64,
}

impl EncoderRun {
    /// Images through the encoder, and a gradient of their embeddings back through it.
    ///
    /// # Arguments
    /// - `images`: normalised, `[B, 3, S, S]`, without autodiff
    /// - `of_embeddings`: from the embeddings, `[B, C, G, G]`, to the gradients of what follows, the gradient of the embeddings
    ///   where they have one, and anything else; all without autodiff
    pub(super) fn gradients<R>(
        self,
        sam: &Sam,
        images: Tensor<4>,
        of_embeddings: impl FnOnce(Tensor<4>) -> (GradientsAccumulator<Sam>, Option<Tensor<4>>, R),
    ) -> (GradientsParams, R) {
        let device = &sam.device();
        seed_dropout(self.dropout_seed);
        if self.activations == Activations::Recompute {
            let untracked = sam.image_encoder.clone().no_grad();
            let (forward, embeddings) = timed(Phase::EncoderForward, device, || {
                CheckpointedForward::run(&untracked.stages(), images, self.dropout_seed)
            });
            let (mut sums, gradient, result) = of_embeddings(embeddings);
            if let Some(gradient) = gradient {
                timed(Phase::EncoderBackward, device, || {
                    forward.backward(&sam.image_encoder.stages(), gradient, sam, &mut sums);
                });
            }
            return (sums.grads(), result);
        }
        let embeddings = timed(Phase::EncoderForward, device, || sam.encode(Tensor::from_inner(images)));
        let (mut sums, gradient, result) = of_embeddings(embeddings.clone().inner());
        if let Some(gradient) = gradient {
            // The gradient of this sum with respect to the embeddings is `gradient`.
            timed(Phase::EncoderBackward, device, || {
                let grads = (embeddings * Tensor::from_inner(gradient)).sum().backward();
                sums.accumulate(sam, GradientsParams::from_grads(grads, sam));
            });
        }
        (sums.grads(), result)
    }
}

/// Losses of a step by pass, still on the device.
#[derive(Clone, Debug)]
pub struct StepLosses {
    passes: Vec<PassTerms>,
    /// The loss of the embeddings against a teacher's, `[1]`, not weighted.
    embedding: Option<Tensor<1>>,
}

/// Sums or means of a pass over objects, `[1]` each, without autodiff.
#[derive(Clone, Debug)]
struct PassTerms {
    focal: Tensor<1>,
    dice: Tensor<1>,
    iou: Tensor<1>,
    total: Tensor<1>,
    miou: Tensor<1>,
}

/// Mean losses over objects.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossTerms {
    /// Focal loss of the chosen masks, not weighted.
    pub focal: f64,
    /// Dice loss of the chosen masks, not weighted.
    pub dice: f64,
    /// Error of the predicted IoU, not weighted.
    pub iou: f64,
    /// The weighted sum, which is minimised.
    pub total: f64,
    /// Actual IoU of the mask with the highest predicted IoU.
    pub miou: f64,
}

/// Gradients of the decoder passes of a step.
pub struct DecoderGradients {
    /// By parameter.
    pub sums: GradientsAccumulator<Sam>,
    /// Losses by pass.
    pub losses: StepLosses,
    /// Gradient of the image embeddings, `[B, C, G, G]`; `None` when the encoder is frozen.
    pub embedding: Option<Tensor<4>>,
}

impl SegmentationStep<'_> {
    /// Gradients of the mean loss over objects and passes.
    ///
    /// # Panics
    ///
    /// When the batch has no object.
    #[must_use]
    pub fn gradients(&self, simulator: ClickSimulator) -> (GradientsParams, StepLosses) {
        let sam = self.sam;
        seed_dropout(self.dropout_seed);
        let images = match &self.batch.input {
            EncoderInput::Images(images) => images.clone(),
            EncoderInput::Embeddings(embeddings) => {
                let embeddings = Tensor::from_inner(embeddings.clone());
                let DecoderGradients { mut sums, losses, .. } = self.decoder_gradients(embeddings, simulator);
                return (sums.grads(), losses);
            }
        };
        if self.options.is_encoder_frozen {
            let embed = || Tensor::from_inner(embed(&sam.image_encoder.valid(), images));
            let embeddings = timed(Phase::EncoderForward, &sam.device(), embed);
            let DecoderGradients { mut sums, losses, .. } = self.decoder_gradients(embeddings, simulator);
            return (sums.grads(), losses);
        }
        let run = EncoderRun { activations: self.options.activations, dropout_seed: self.dropout_seed };
        run.gradients(sam, images, |embeddings| {
            let learned = self.batch.embedding_target.as_ref();
            let learned = learned.map(|target| target.loss_and_gradient(embeddings.clone()));
            let DecoderGradients { sums, mut losses, embedding } =
                self.decoder_gradients(Tensor::from_inner(embeddings), simulator);
            let embedding = match learned {
                Some((loss, gradient)) => {
                    losses.embedding = Some(loss);
                    Some(embedding.map_or(gradient.clone(), |sum| sum + gradient))
                }
                None => embedding,
            };
            (sums, embedding, losses)
        })
    }

    /// As [`SegmentationStep::gradients`], with the images in shards that are computed side by side. The sum over shards
    /// has a fixed order, so equal numbers of shards give equal results.
    ///
    /// # Panics
    ///
    /// When the batch has no object.
    #[must_use]
    pub fn gradients_in_shards(&self, draws: &PromptDraws, pools: &ShardPools) -> (GradientsParams, StepLosses) {
        let Self { sam, batch, options, dropout_seed } = *self;
        let [n_images, ..] = batch.input.tensor().dims();
        let n_objects = batch.image_of_object.len();
        let shards = shard_ranges(n_images, pools.n());
        if shards.len() == 1 {
            return self.gradients(ClickSimulator::new(draws.clone(), &batch.target, sam.image_size()));
        }
        assert!(n_objects > 0, "a batch has objects: images without are not put into one");
        let objects_before = |image: usize| batch.image_of_object.partition_point(|&at| at < image);
        let device = sam.device();
        let work = shards.into_iter().zip(0..).filter_map(|(images, shard)| {
            let objects = objects_before(images.start)..objects_before(images.end);
            if objects.is_empty() {
                return None;
            }
            // Leaves of its own: backward passes over shared ones would wait for each other.
            let sam = sam.clone().fork(&device);
            // A shard counts with its objects, and the loss of embeddings is a mean over images.
            let of_images = images.len() as f64 / n_images as f64;
            let per_object = of_images * n_objects as f64 / objects.len() as f64;
            let batch = batch.shard(images, objects.clone(), per_object);
            let dropout_seed = shard_seed(dropout_seed, shard);
            let draws = PromptDraws { passes: draws.passes.clone(), objects: draws.objects[objects.clone()].to_vec() };
            Some(move || {
                let simulator = ClickSimulator::new(draws, &batch.target, sam.image_size());
                let step = SegmentationStep { sam: &sam, batch: &batch, options, dropout_seed };
                let (grads, losses) = step.gradients(simulator);
                (objects.len(), of_images, grads, losses)
            })
        });
        let mut sums = GradientsAccumulator::new();
        let mut embedding: Option<Tensor<1>> = None;
        let mut passes = vec![PassTerms::zeros(&batch.target.masks.device()); draws.passes.len()];
        for (n, of_images, grads, losses) in pools.run(work.collect()) {
            let fraction = n as f64 / n_objects as f64;
            let part = losses.embedding.map(|loss| loss.mul_scalar(of_images));
            embedding = match (embedding, part) {
                (Some(sum), Some(part)) => Some(sum + part),
                (sum, part) => sum.or(part),
            };
            sums.accumulate(sam, scaled(sam, grads, fraction));
            let weighted = losses.passes.into_iter().map(|pass| pass.map(|mean| mean.mul_scalar(fraction)));
            passes = passes.into_iter().zip(weighted).map(|(sum, pass)| sum.add(pass)).collect();
        }
        (sums.grads(), StepLosses { passes, embedding })
    }

    /// The decoder passes of a step over given image embeddings.
    ///
    /// # Shapes
    /// - `embeddings`: `[B, C, G, G]`
    ///
    /// # Panics
    ///
    /// When the batch has no object.
    #[must_use]
    pub fn decoder_gradients(&self, embeddings: Tensor<4>, mut simulator: ClickSimulator) -> DecoderGradients {
        let Self { sam, batch, options, .. } = *self;
        let StepOptions { box_output, loss, is_encoder_frozen, .. } = options;
        let target = Target {
            masks: Tensor::from_inner(batch.target.masks.clone()),
            valid: batch.target.valid.clone().map(Tensor::from_inner),
        };
        let [n_objects, _, mask_side, _] = target.masks.dims();
        let device = batch.target.masks.device();
        let passes = simulator.passes().to_vec();
        let upsampling = match loss.resolution {
            LossResolution::Low => None,
            LossResolution::Full => Some(resize_matrix(sam.config().low_res_side(), mask_side, &device)),
        };
        assert!(n_objects > 0, "a batch has objects: images without are not put into one");
        let at_once = options.objects_at_once.unwrap_or_else(|| sam.objects_at_once()).clamp(1, n_objects);
        let groups = (0..n_objects).step_by(at_once).map(|start| start..(start + at_once).min(n_objects));
        let groups: Vec<Range<usize>> = groups.collect();
        let fraction = 1.0 / (n_objects * passes.len()) as f64;

        let positions = sam.image_positions();
        let mut sums = GradientSums { parameters: GradientsAccumulator::new(), embedding: None };
        let mut pass_means = Vec::with_capacity(passes.len());
        for (pass, &kind) in passes.iter().enumerate() {
            let (output, allowed) = match pass {
                0 => first_output(&simulator, sam, *box_output, &device),
                _ => (MaskOutput::Single, None),
            };
            let prompts = timed(Phase::Prompts, &device, || simulator.prompts(kind));
            let (mut low_res, mut full_res) = (Vec::new(), Vec::new());
            let mut terms = PassTerms::zeros(&device);
            for group in &groups {
                let leaf =
                    if *is_encoder_frozen { embeddings.clone() } else { embeddings.clone().detach().require_grad() };
                let of_object = &batch.image_of_object[group.clone()];
                let prompts = prompts.part(group.clone());
                let images = EncodedImages { embeddings: leaf.clone(), positions: positions.clone() };
                let allowed = allowed.as_ref().map(|allowed| allowed.clone().slice_dim(0, group.clone()));
                let target = target.objects(group.clone());
                let forward = || {
                    let decoded = sam.decode_at(images, of_object, &prompts, output);
                    let logits = match &upsampling {
                        None => decoded.low_res_logits.clone(),
                        Some(matrix) => upsample(decoded.low_res_logits.clone(), Tensor::from_inner(matrix.clone())),
                    };
                    let predicted_ious = decoded.iou_predictions.clone();
                    let losses = pass_losses(logits.clone(), predicted_ious, allowed.as_ref(), &target, loss);
                    (decoded, logits, losses)
                };
                let (decoded, logits, losses) = timed(Phase::DecoderForward, &device, forward);

                let selected = most_confident(decoded.iou_predictions.detach().inner(), allowed.as_ref());
                if upsampling.is_some() {
                    full_res.push(select_mask(logits.detach().inner(), selected.as_ref()));
                }
                low_res.push(select_mask(decoded.low_res_logits.detach().inner(), selected.as_ref()));
                terms = terms.add(PassTerms::sums(&losses, selected.as_ref()));
                timed(Phase::DecoderBackward, &device, || {
                    sums.add(sam, &leaf, losses.total.sum().mul_scalar(fraction).backward());
                });
            }
            pass_means.push(terms.map(|sum| sum.div_scalar(n_objects as f64)));
            let low_res = Tensor::cat(low_res, 0);
            let full_res = if upsampling.is_some() { Tensor::cat(full_res, 0) } else { low_res.clone() };
            timed(Phase::Prompts, &device, || simulator.observe(low_res, full_res));
        }
        let losses = StepLosses { passes: pass_means, embedding: None };
        DecoderGradients { sums: sums.parameters, losses, embedding: sums.embedding }
    }
}

impl StepLosses {
    /// By pass, and the loss of the embeddings against a teacher's, not weighted; waits for the device.
    #[must_use]
    pub fn read(self) -> (Vec<LossTerms>, Option<f64>) {
        // All in one tensor, as each read waits for the device.
        let terms = self
            .passes
            .into_iter()
            .flat_map(|PassTerms { focal, dice, iou, total, miou }| [focal, dice, iou, total, miou]);
        let values = read(Tensor::cat(terms.chain(self.embedding).collect(), 0));
        let (passes, rest) = values.as_chunks();
        let of_pass = |&[focal, dice, iou, total, miou]: &[f64; 5]| LossTerms { focal, dice, iou, total, miou };
        (passes.iter().map(of_pass).collect(), rest.first().copied())
    }
}

impl LossTerms {
    /// Over several passes or batches.
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

impl PassTerms {
    fn zeros(device: &Device) -> Self {
        let zero = || Tensor::zeros([1], device);
        Self { focal: zero(), dice: zero(), iou: zero(), total: zero(), miou: zero() }
    }

    /// Over objects; the IoU is that of the selected masks.
    fn sums(losses: &PassLosses, selected: Option<&Tensor<2>>) -> Self {
        let ious = losses.actual_ious.clone();
        let miou = match selected {
            Some(selected) => (ious * selected.clone()).sum(),
            None => ious.sum(),
        };
        let sum = |values: &Tensor<1>| values.clone().detach().inner().sum();
        Self {
            focal: sum(&losses.focal),
            dice: sum(&losses.dice),
            iou: sum(&losses.iou),
            total: sum(&losses.total),
            miou,
        }
    }

    fn map(self, apply: impl Fn(Tensor<1>) -> Tensor<1>) -> Self {
        let Self { focal, dice, iou, total, miou } = self;
        Self { focal: apply(focal), dice: apply(dice), iou: apply(iou), total: apply(total), miou: apply(miou) }
    }

    fn add(self, other: Self) -> Self {
        Self {
            focal: self.focal + other.focal,
            dice: self.dice + other.dice,
            iou: self.iou + other.iou,
            total: self.total + other.total,
            miou: self.miou + other.miou,
        }
    }
}

/// Gradients of the passes so far.
struct GradientSums {
    parameters: GradientsAccumulator<Sam>,
    embedding: Option<Tensor<4>>,
}

impl GradientSums {
    fn add(&mut self, sam: &Sam, leaf: &Tensor<4>, grads: Gradients) {
        if let Some(grad) = leaf.grad(&grads) {
            self.embedding = Some(match self.embedding.take() {
                Some(sum) => sum + grad,
                None => grad,
            });
        }
        self.parameters.accumulate(sam, GradientsParams::from_grads(grads, sam));
    }
}

/// Embeddings by a frozen encoder. On the CPU it takes one image after the other: that is as fast, with the memory of one, and
/// an embedding does not depend on the batch by a rounding error. So it equals the one that is kept on disk.
pub(crate) fn embed(encoder: &ImageEncoder, images: Tensor<4>) -> Tensor<4> {
    let [n_images, ..] = images.dims();
    if n_images == 1 || images.device() != Device::flex() {
        return encoder.forward(images);
    }
    Tensor::cat(images.split(1, 0).into_iter().map(|image| encoder.forward(image)).collect(), 0)
}

/// The masks that the first pass predicts, and a mask of those allowed for each object, `[O, K]` (`None`: all).
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
    let allowed: Vec<f32> = simulator
        .is_box()
        .flat_map(|is_box| (0..n_masks).map(move |mask| f32::from(u8::from((mask == 0) == is_box))))
        .collect();
    let shape = [allowed.len() / n_masks, n_masks];
    (MaskOutput::All, Some(Tensor::from_data(TensorData::new(allowed, shape), device)))
}

/// 1 for the mask with the highest predicted IoU, the first of equals, `[O, K]`; `None` when there is only one.
pub(crate) fn most_confident(predicted_ious: Tensor<2>, allowed: Option<&Tensor<2>>) -> Option<Tensor<2>> {
    let [_, n_masks] = predicted_ious.dims();
    if n_masks == 1 {
        return None;
    }
    let scores = match allowed {
        Some(allowed) => predicted_ious + (allowed.clone() - 1.0).mul_scalar(NOT_ALLOWED),
        None => predicted_ious,
    };
    Some(one_hot(&scores.argmax(1), n_masks))
}

/// The selected mask of each object: `[O, K, H, W]` and `[O, K]` to `[O, 1, H, W]`.
pub(crate) fn select_mask(logits: Tensor<4>, selected: Option<&Tensor<2>>) -> Tensor<4> {
    match selected {
        Some(selected) => {
            let [objects, n_masks] = selected.dims();
            (logits * selected.clone().reshape([objects, n_masks, 1, 1])).sum_dim(1)
        }
        None => logits,
    }
}

/// The matrix of a linear resize, `[to, from]`; see [`linear_resize_weights`].
pub(crate) fn resize_matrix(from: usize, to: usize, device: &Device) -> Tensor<2> {
    Tensor::from_data(TensorData::new(linear_resize_weights(from, to), [to, from]), device)
}

/// Bilinear resize, one axis after the other: `[O, K, L, L]` to `[O, K, M, M]`.
pub(crate) fn upsample(logits: Tensor<4>, matrix: Tensor<2>) -> Tensor<4> {
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
    fn upsampling_equals_burns_bilinear_interpolation() {
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
    fn most_confident_is_the_first_of_equals_among_allowed_masks() {
        let device = Device::flex();
        let scores = Tensor::<2>::from_floats([[0.5, 0.9, 0.9], [2.0, 0.1, 0.3]], &device);
        let allowed = Tensor::<2>::from_floats([[1.0, 1.0, 1.0], [0.0, 1.0, 1.0]], &device);
        let selected = most_confident(scores, Some(&allowed)).expect("three masks");
        assert_eq!(selected.into_data().try_to_vec::<f32>().expect("f32"), [0., 1., 0., 0., 0., 1.]);
    }
}
