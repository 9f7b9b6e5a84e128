//! Promptable segmentation: gradients of a training step, and validation with simulated prompts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use sam_data::DeviceBatch;
use sam_data::random::{Purpose, RandomStream};
use sam_eval::{
    Better, DataTexts, EvalError, EvalProgress, EvalProtocol, EvalProtocols, EvalSet, EvaluationPart,
    PredictorSegmenter, TextProtocol, read_images,
};
use sam_infer::Predictor;
use sam_model::lora::{PeftFolder, write_peft};
use sam_model::weights::{Dtype, ExportFormat, ExportOptions, ImageSizePolicy, TextExport, export};
use sam_model::{Sam, TextVector};

use super::batch::{EncoderInput, TrainingBatch, normalised_images};
use super::embedding_loss::embedding_gradients;
use super::shards::ShardPools;
use super::step::{EncoderRun, LossTerms, SegmentationStep, StepOptions};
use super::{BatchReport, Task, ValidationOutput, ValidationRequest, weighted_mean};
use crate::device_reads::read;
use crate::embeddings::FrozenEmbeddings;
use crate::error::LearnError;
use crate::options::{EMBEDDING_COSINE, EMBEDDING_MSE, PromptOptions};
use crate::prompts::PromptDraws;
use crate::ranks::{Ranks, gather_parts};
use crate::record::{Details, DistillationTerms, SegmentationTerms, also_name, draw_preview};
use crate::teacher::{EmbeddingScores, Taught, Teacher};
use crate::texts::TextVectors;

/// Everything that a step needs beside the weights.
#[derive(Clone, Debug)]
pub(crate) struct SegmentationRecipe {
    /// Whether statistics of batch norms follow the batches.
    pub(crate) has_running_statistics: bool,
    /// Random seed of prompts and dropout.
    pub(crate) seed: u64,
    /// The simulated annotator.
    pub(crate) prompts: PromptOptions,
    /// Options of a step.
    pub(crate) step: StepOptions,
    /// Batches of one optimiser step: they share which passes get no click.
    pub(crate) accumulation: u64,
    /// Shards of a batch that are computed side by side.
    pub(crate) pools: ShardPools,
    /// What an adapter folder says; `None` without adapters.
    pub(crate) adapters: Option<AdapterRecord>,
    /// Of the images.
    pub(crate) embeddings: Embeddings,
    /// Of the objects.
    pub(crate) texts: Texts,
    /// In a distillation.
    pub(crate) teacher: Option<Teacher>,
}

/// The texts that objects have as their first prompts.
#[derive(Clone, Debug)]
pub(crate) enum Texts {
    /// None.
    Nowhere,
    /// Those of the objects.
    Kept(Arc<TextVectors>),
    /// The same for every object: what a step takes does not depend on the values.
    StandIn(TextVector),
}

/// What the decoder learns on.
#[derive(Clone, Debug)]
pub(crate) enum Embeddings {
    /// The encoder runs in each step.
    EachStep,
    /// Those of a frozen encoder, kept.
    Kept(Arc<FrozenEmbeddings>),
    /// The same for every image, `[1, C, G, G]`: what a step takes does not depend on the values.
    StandIn(Box<Tensor<4>>),
}

/// What an adapter folder says beside the tensors.
#[derive(Clone, Debug)]
pub(crate) struct AdapterRecord {
    /// The base checkpoint.
    pub(crate) base: String,
    /// Dropout in training.
    pub(crate) dropout: f64,
    /// Official keys of what was trained whole.
    pub(crate) whole: BTreeSet<String>,
}

/// A segmenter that learns from simulated prompts.
#[derive(Module, Debug)]
pub(crate) struct SegmentationTask {
    sam: Sam,
    #[module(skip)]
    recipe: SegmentationRecipe,
}

impl SegmentationTask {
    /// For a segmenter on an autodiff device.
    pub(crate) fn new(sam: Sam, recipe: SegmentationRecipe) -> Self {
        Self { sam, recipe }
    }
}

/// Validation data of a segmenter, and its protocols.
#[derive(Clone)]
pub struct Validation {
    /// The images, with their objects.
    pub sets: Vec<EvalSet>,
    /// Data beside it, each with scores of its own, which choose no checkpoint.
    pub also: Vec<EvalSet>,
    /// Prompts and metrics.
    pub protocols: Vec<EvalProtocol>,
    /// Texts of the run's own sets as prompts, too.
    pub text: Option<TextProtocol>,
    /// Threads that read images ahead.
    pub n_threads: usize,
}

impl Validation {
    /// The first image of every set, for a run that only shows that everything works.
    #[must_use]
    pub fn shortened(self) -> Self {
        self.at_most(1)
    }

    fn at_most(self, n: usize) -> Self {
        let few = |sets: Vec<EvalSet>| sets.into_iter().map(|set| set.at_most(n)).collect();
        let sets = match &self.text {
            Some(text) => self.sets.into_iter().map(|set| few_with_texts(set, n, text)).collect(),
            None => few(self.sets),
        };
        Self { sets, also: few(self.also), ..self }
    }

    /// The number of images.
    fn n_images(&self) -> usize {
        self.sets.iter().chain(&self.also).map(|set| set.indices.len()).sum()
    }
}

/// The images of a set that a rank validates on: every nth.
fn of_rank(set: &EvalSet, ranks: &dyn Ranks) -> EvalSet {
    let indices = set.indices.iter().copied().skip(ranks.rank()).step_by(ranks.n()).collect();
    EvalSet { indices, ..set.clone() }
}

/// A part of a set; where texts are prompts, one that has any.
fn few_with_texts(set: EvalSet, n: usize, text: &TextProtocol) -> EvalSet {
    let has_texts = |set: &EvalSet| DataTexts::of(std::slice::from_ref(set), text.settings.texts, &mut |_| ()).is_ok();
    let few = set.clone().at_most(n);
    if has_texts(&few) {
        return few;
    }
    let one = |&index: &usize| EvalSet { indices: vec![index], ..set.clone() };
    set.indices.iter().map(one).find(has_texts).unwrap_or(few)
}

impl Task for SegmentationTask {
    type Network = Sam;
    type ValidationInput = Validation;

    fn network(&self) -> &Sam {
        &self.sam
    }

    fn with_network(self, sam: Sam) -> Self {
        Self { sam, ..self }
    }

    fn gradients(&self, batch: DeviceBatch) -> Result<(GradientsParams, BatchReport), LearnError> {
        let SegmentationRecipe { seed, prompts, step, accumulation, pools, embeddings, texts, teacher, .. } =
            &self.recipe;
        let optimiser_step = batch.step / accumulation;
        if let Some(teacher) = teacher.as_ref().filter(|teacher| teacher.is_without_masks(optimiser_step)) {
            return self.gradients_of_embeddings(batch, teacher);
        }
        let input = match embeddings {
            Embeddings::Kept(kept) => EncoderInput::Embeddings(kept.of_batch(&self.sam, &batch.images)?),
            Embeddings::StandIn(one) => EncoderInput::Embeddings(Tensor::clone(one).repeat_dim(0, batch.images.len())),
            Embeddings::EachStep => EncoderInput::Images(normalised_images(&batch)),
        };
        let mut training_batch = TrainingBatch::new(&batch, input);
        let teacher_share = match teacher {
            Some(teacher) => Some(teach(&mut training_batch, &batch, teacher)?),
            None => None,
        };
        let mut draws = PromptDraws::new(prompts, *seed, optimiser_step, &batch.images, &batch.objects);
        match texts {
            Texts::Nowhere => {}
            Texts::Kept(texts) => draws.set_texts(texts.draw(*seed, &batch.images, &batch.objects)?),
            Texts::StandIn(text) => draws.set_texts(std::iter::repeat(Some(text.clone()))),
        }
        let dropout_seed = RandomStream::new(*seed, Purpose::Dropout, &[batch.step]).next_u64();
        let step = SegmentationStep { sam: &self.sam, batch: &training_batch, options: step, dropout_seed };
        let (grads, losses) = step.gradients_in_shards(&draws, pools);
        let (passes, embedding_mse) = losses.read();
        let mean = LossTerms::mean(&passes);
        let embedding_weight = teacher.as_ref().map_or(0.0, |teacher| teacher.options.embedding_weight);
        let report = BatchReport {
            weight: batch.objects.len(),
            images: batch.images.into_iter().map(|image| image.name).collect(),
            skipped: batch.drops.skipped,
            loss: mean.total + embedding_weight * embedding_mse.unwrap_or_default(),
            distillation: DistillationTerms { embedding_mse, teacher_share },
            segmentation: Some(SegmentationTerms {
                focal: mean.focal,
                dice: mean.dice,
                iou_error: mean.iou,
                miou_first: passes.first().map_or(0.0, |pass| pass.miou),
                miou_last: passes.last().map_or(0.0, |pass| pass.miou),
                n_objects: batch.objects.len(),
            }),
        };
        Ok((grads, report))
    }

    fn following_batches(self) -> Self {
        Self { sam: self.sam.following_batches(), ..self }
    }

    fn has_running_statistics(&self) -> bool {
        self.recipe.has_running_statistics
    }

    fn validate(&self, input: &Validation, request: ValidationRequest<'_>) -> Result<ValidationOutput, LearnError> {
        let ValidationRequest { step, metric, n_previews, on_progress, ranks } = request;
        let mut segmenter = PredictorSegmenter::new(Predictor::new(&self.sam));
        if let Embeddings::Kept(kept) = &self.recipe.embeddings {
            segmenter = segmenter.with_cache(Arc::clone(kept.cache()));
        }
        // This rank's part of them.
        let own = |sets: &[EvalSet]| -> Vec<EvalSet> { sets.iter().map(|set| of_rank(set, ranks)).collect() };
        let n_of = |sets: &[EvalSet]| sets.iter().map(|set| set.indices.len()).sum::<usize>();
        let (own_sets, own_also) = (own(&input.sets), own(&input.also));
        let n_compared = self.recipe.teacher.as_ref().map_or(0, |_| n_of(&own_sets));
        let of_images = n_of(&own_sets) + n_of(&own_also) + n_compared;
        let mut n_before = 0;
        let mut evaluated = |sets: &[EvalSet], text: Option<&TextProtocol>| {
            let images = read_images(sets, input.n_threads);
            let n_images = images.n_images();
            let mut progress = |at: EvalProgress| -> ControlFlow<()> { on_progress(n_before + at.n_images, of_images) };
            let protocols = EvalProtocols { objects: &input.protocols, text };
            let part = EvaluationPart::of(&segmenter, images, n_images, protocols, &mut progress);
            n_before += n_images;
            let failed = |error: EvalError| LearnError::Validation { step, source: error.to_string().into() };
            let part = match part {
                Err(EvalError::Interrupted { .. }) => Ok(None),
                part => part.map(Some).map_err(failed),
            };
            let whole = gather_parts(ranks, part)?.into_iter().reduce(EvaluationPart::and).unwrap_or_default();
            whole.finish(protocols).map_err(failed)
        };
        let evaluation = evaluated(&own_sets, input.text.as_ref())?;
        let mut metrics: BTreeMap<String, f64> =
            evaluation.results.flat().into_iter().map(|(name, metric)| (name, metric.value)).collect();
        let better = match evaluation.results.metric(metric) {
            Ok(metric) => metric.better,
            Err(_) if self.recipe.teacher.is_some() && metric == EMBEDDING_MSE => Better::Lower,
            Err(_) if self.recipe.teacher.is_some() && metric == EMBEDDING_COSINE => Better::Higher,
            Err(_) => {
                let computed = metrics.into_keys().collect();
                return Err(LearnError::NoSuchMetric { metric: metric.to_owned(), computed });
            }
        };
        for set in &own_also {
            let results = evaluated(std::slice::from_ref(set), None)?.results;
            metrics.extend(results.metrics.iter().map(|(name, metric)| (also_name(&set.name, name), metric.value)));
        }
        if let Some(teacher) = &self.recipe.teacher {
            let mut on_image = |n: usize| on_progress(of_images - n_compared + n, of_images);
            let EmbeddingScores { mse, cosine } = teacher.compare(&self.sam, &own_sets, ranks, &mut on_image)?;
            metrics.extend([(EMBEDDING_MSE.to_owned(), mse), (EMBEDDING_COSINE.to_owned(), cosine)]);
        }
        let preview = input.sets.first().and_then(|set| draw_preview(set, &evaluation, n_previews));
        let details = Details { evaluation, sets: input.sets.clone() };
        // Nothing is skipped: a validation that cannot read a sample is an error.
        Ok(ValidationOutput { metrics, better, skipped: Vec::new(), preview, details: Some(details) })
    }

    fn some_images(input: &Validation, n: usize) -> (Validation, usize, usize) {
        let some = input.clone().at_most(n);
        let (n_some, n_all) = (some.n_images(), input.n_images());
        (some, n_some, n_all)
    }

    fn write_adapters(&self, sam: &Sam, folder: &Path) -> Result<(), LearnError> {
        if let Some(AdapterRecord { base, dropout, whole }) = &self.recipe.adapters {
            write_peft(sam, &PeftFolder { base, dropout: *dropout, whole }, folder)?;
        }
        Ok(())
    }

    fn write(sam: &Sam, path: &Path) -> Result<(), LearnError> {
        let options = ExportOptions {
            format: ExportFormat::Safetensors,
            dtype: Dtype::F32,
            image_size: ImageSizePolicy::Keep,
            text: TextExport::Beside,
        };
        export(sam, options, path)?;
        Ok(())
    }
}

impl SegmentationTask {
    /// Gradients of a step that learns the teacher's embeddings alone.
    fn gradients_of_embeddings(
        &self,
        batch: DeviceBatch,
        teacher: &Teacher,
    ) -> Result<(GradientsParams, BatchReport), LearnError> {
        let SegmentationRecipe { seed, step, pools, .. } = &self.recipe;
        let images = normalised_images(&batch);
        let target = teacher.embeddings(&batch, &images, 1.0)?;
        let dropout_seed = RandomStream::new(*seed, Purpose::Dropout, &[batch.step]).next_u64();
        let run = EncoderRun { activations: step.activations, dropout_seed };
        let (grads, loss) = embedding_gradients(&self.sam, &images, &target, run, pools);
        let embedding_mse = read(loss)[0];
        let report = BatchReport {
            weight: batch.images.len(),
            images: batch.images.into_iter().map(|image| image.name).collect(),
            skipped: batch.drops.skipped,
            loss: embedding_mse,
            segmentation: None,
            distillation: DistillationTerms { embedding_mse: Some(embedding_mse), teacher_share: None },
        };
        Ok((grads, report))
    }
}

/// Gives a batch the teacher's embeddings and masks; returns the fraction of the objects that have its masks.
fn teach(training: &mut TrainingBatch, batch: &DeviceBatch, teacher: &Teacher) -> Result<f64, LearnError> {
    let images = match &training.input {
        EncoderInput::Images(images) => images.clone(),
        EncoderInput::Embeddings(_) => normalised_images(batch),
    };
    let target = teacher.embeddings(batch, &images, teacher.options.embedding_weight)?;
    let Taught { target: masks, teacher_share } = teacher.masks(batch, training, &target.values);
    training.target = masks;
    training.embedding_target = Some(target);
    Ok(teacher_share)
}

impl DistillationTerms {
    /// The terms of an optimiser step, from those of its batches.
    pub(crate) fn of_batches(reports: &[BatchReport]) -> Self {
        let first = reports.first().map(|report| report.distillation).unwrap_or_default();
        let mean = |get: fn(&Self) -> Option<f64>| {
            get(&first)?;
            Some(weighted_mean(reports, |report| get(&report.distillation).unwrap_or_default()))
        };
        Self { embedding_mse: mean(|terms| terms.embedding_mse), teacher_share: mean(|terms| terms.teacher_share) }
    }
}

impl SegmentationTerms {
    /// The terms of an optimiser step, from those of its batches; `None` where no masks are learned.
    pub(crate) fn of_batches(reports: &[BatchReport]) -> Option<Self> {
        let mean =
            |get: fn(&Self) -> f64| weighted_mean(reports, |report| report.segmentation.as_ref().map_or(0.0, get));
        reports.first()?.segmentation.as_ref()?;
        Some(Self {
            focal: mean(|terms| terms.focal),
            dice: mean(|terms| terms.dice),
            iou_error: mean(|terms| terms.iou_error),
            miou_first: mean(|terms| terms.miou_first),
            miou_last: mean(|terms| terms.miou_last),
            n_objects: reports.iter().map(|report| report.weight).sum(),
        })
    }
}
