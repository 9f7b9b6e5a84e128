//! The teacher of a distillation: its embeddings and its masks for the batches of a student.
//!
//! The embeddings come from a cache on disk where images are at most mirrored, else the teacher runs in each step. Masks are those
//! that the teacher gives for the box of an object and one correcting click.
//!
//! Shapes: `B` images, `O` objects, `C` embedding dimension, `G` side of the embedding grid, `L` side of the decoder's masks,
//! `M` side of the target masks.

mod agreement;

use std::ops::Range;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use sam_data::random::{Purpose, RandomStream};
use sam_data::{BatchImage, DeviceBatch};
use sam_model::{EncodedImages, MaskOutput, Sam, SamConfigError};

use crate::device_reads::read;
use crate::embeddings::FrozenEmbeddings;
use crate::error::LearnError;
use crate::options::{DistilOptions, PromptOptions, PromptPreset};
use crate::prompts::{ClickSimulator, PromptDraws};
use crate::target::Target;
use crate::task::{
    EmbeddingTarget, Embeddings, TrainingBatch, content, embed, most_confident, resize_matrix, select_mask, upsample,
};

pub(crate) use agreement::EmbeddingScores;
pub use agreement::TeacherMasks;

/// A teacher's mask with a smaller IoU with the object is of something else.
const LEAST_IOU: f64 = 0.5;

/// A teacher, and what a student learns from it.
#[derive(Clone, Debug)]
pub struct Distillation {
    /// The teacher.
    pub teacher: Sam,
    /// What is learned.
    pub options: DistilOptions,
    /// Its embeddings in a cache of its own; `None`: it runs in each step. The augmentation must then only mirror.
    pub embeddings: Option<Arc<FrozenEmbeddings>>,
}

impl Distillation {
    /// Checks that a student can learn the teacher's embeddings.
    ///
    /// # Errors
    ///
    /// When they have different shapes.
    pub fn check(&self, student: &Sam) -> Result<(), LearnError> {
        let [own, teachers] = [student, &self.teacher].map(|sam| {
            let encoder = &sam.config().image_encoder;
            [encoder.image_size(), encoder.grid_size(), encoder.out_chans()]
        });
        let names = ["image_size", "the side of the embedding grid", "out_chans"];
        let differs = |(name, (own, teachers)): (&str, (usize, usize))| {
            (own != teachers).then(|| format!("{name} must be {teachers}, as the teacher's, got {own}"))
        };
        let problems: Vec<String> = names.into_iter().zip(own.into_iter().zip(teachers)).filter_map(differs).collect();
        if problems.is_empty() { Ok(()) } else { Err(LearnError::OtherTeacher { source: SamConfigError { problems } }) }
    }
}

/// The teacher of a running task.
#[derive(Clone, Debug)]
pub(crate) struct Teacher {
    /// Without autodiff.
    pub(crate) sam: Sam,
    pub(crate) embeddings: Embeddings,
    pub(crate) options: DistilOptions,
    pub(crate) without_masks: WithoutMasks,
    /// Random seed.
    pub(crate) seed: u64,
}

/// The steps that learn embeddings alone.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WithoutMasks {
    /// The first ones.
    First(u64),
    /// As many, spread evenly: so that a few steps show what all will take.
    Spread(f64),
}

/// What a batch learns from its teacher.
pub(crate) struct Taught {
    /// The target masks, some of them the teacher's.
    pub(crate) target: Target,
    /// The fraction of the objects that have the teacher's.
    pub(crate) teacher_share: f64,
}

impl Teacher {
    /// The teacher's embeddings of a batch.
    ///
    /// # Arguments
    /// - `images`: normalised, `[B, 3, S, S]`, without autodiff
    pub(crate) fn embeddings(
        &self,
        batch: &DeviceBatch,
        images: &Tensor<4>,
        weight: f64,
    ) -> Result<EmbeddingTarget, LearnError> {
        let values = match &self.embeddings {
            Embeddings::Kept(kept) => kept.of_batch(&self.sam, &batch.images)?,
            Embeddings::StandIn(one) => Tensor::clone(one).repeat_dim(0, batch.images.len()),
            Embeddings::EachStep => embed(&self.sam.image_encoder, images.clone()),
        };
        let [.., grid, _] = values.dims();
        let valid = valid_cells(&batch.images, grid, &values);
        Ok(EmbeddingTarget { values, valid, weight })
    }

    /// Whether a step learns embeddings alone.
    pub(crate) fn is_without_masks(&self, step: u64) -> bool {
        match self.without_masks {
            WithoutMasks::First(n) => step < n,
            WithoutMasks::Spread(share) => ((step + 1) as f64 * share).floor() > (step as f64 * share).floor(),
        }
    }

    /// The targets of a batch: for each object the teacher's mask, or its own.
    pub(crate) fn masks(&self, batch: &DeviceBatch, training: &TrainingBatch, embeddings: &Tensor<4>) -> Taught {
        let truth = &training.target;
        let [objects, ..] = truth.masks.dims();
        let share = self.options.teacher_share;
        let is_drawn = batch.objects.iter().map(|object| {
            let draw = batch.images[object.image_index].draw;
            RandomStream::new(self.seed, Purpose::Teacher, &[draw, object.id]).chance(share)
        });
        let is_drawn: Vec<f32> = is_drawn.map(|is_drawn| f32::from(u8::from(is_drawn))).collect();
        if !is_drawn.contains(&1.0) {
            return Taught { target: truth.clone(), teacher_share: 0.0 };
        }
        let draws = PromptDraws::new(&prompts(), self.seed, batch.step, &batch.images, &batch.objects);
        let masks = self.predict(training, embeddings, draws).greater_elem(0.0).float();
        let is_good = ious(&masks, truth).greater_equal_elem(LEAST_IOU).float(); // [O, 1, 1, 1]
        let is_drawn = Tensor::from_data(TensorData::new(is_drawn, [objects, 1, 1, 1]), &masks.device());
        let is_taught = is_good * is_drawn;
        let teacher_share = read(is_taught.clone().mean())[0];
        let masks = masks * is_taught.clone() + truth.masks.clone() * (is_taught.neg() + 1.0);
        Taught { target: Target { masks, valid: truth.valid.clone() }, teacher_share }
    }

    /// Logits of the teacher's masks after all prompts, `[O, 1, M, M]`.
    fn predict(&self, training: &TrainingBatch, embeddings: &Tensor<4>, draws: PromptDraws) -> Tensor<4> {
        let sam = &self.sam;
        let [n_objects, _, mask_side, _] = training.target.masks.dims();
        let kinds = draws.passes.clone();
        let mut simulator = ClickSimulator::new(draws, &training.target, sam.image_size());
        let low_res_side = sam.config().low_res_side();
        let matrix = (mask_side != low_res_side)
            .then(|| resize_matrix(low_res_side, mask_side, &training.target.masks.device()));
        let images = EncodedImages { embeddings: embeddings.clone(), positions: sam.image_positions() };
        let at_once = sam.objects_at_once().clamp(1, n_objects.max(1));
        let groups: Vec<Range<usize>> =
            (0..n_objects).step_by(at_once).map(|start| start..(start + at_once).min(n_objects)).collect();
        let mut logits = training.target.masks.clone();
        for (pass, kind) in kinds.into_iter().enumerate() {
            let prompts = simulator.prompts(kind);
            let output = if pass == 0 { MaskOutput::Multi } else { MaskOutput::Single };
            let of_group = |group: &Range<usize>| {
                let of_object = &training.image_of_object[group.clone()];
                let decoded = sam.decode_at(images.clone(), of_object, &prompts.part(group.clone()), output);
                let selected = most_confident(decoded.iou_predictions, None);
                select_mask(decoded.low_res_logits, selected.as_ref())
            };
            let low_res = Tensor::cat(groups.iter().map(of_group).collect(), 0);
            logits = match &matrix {
                Some(matrix) => upsample(low_res.clone(), matrix.clone()),
                None => low_res.clone(),
            };
            simulator.observe(low_res, logits.clone());
        }
        logits
    }
}

/// A box without noise, and one click.
fn prompts() -> PromptOptions {
    let mut options = PromptOptions { correction_clicks: 1, ..PromptOptions::preset(PromptPreset::Box) };
    options.box_noise.side_share = 0.0;
    options
}

/// The IoU of masks with their targets over valid pixels, `[O, 1, 1, 1]`.
fn ious(masks: &Tensor<4>, target: &Target) -> Tensor<4> {
    let valid = |masks: Tensor<4>| match &target.valid {
        Some(valid) => masks * valid.clone(),
        None => masks,
    };
    let area = |masks: Tensor<4>| valid(masks).sum_dim(2).sum_dim(3);
    let overlap = area(masks.clone() * target.masks.clone());
    let union = area(masks.clone()) + area(target.masks.clone()) - overlap.clone();
    overlap / union.clamp_min(1.0)
}

/// 1 where a cell shows its image, `[B, 1, G, G]`; `None` when all do.
fn valid_cells(images: &[BatchImage], grid: usize, like: &Tensor<4>) -> Option<Tensor<4>> {
    let valid = content(images, grid, &like.device())?;
    Some(valid.reshape([images.len(), 1, grid, grid]))
}

/// The teacher in evaluation mode, without autodiff.
pub(crate) fn without_gradients(teacher: &Sam) -> Sam {
    teacher.valid().materialize()
}
