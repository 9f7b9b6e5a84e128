//! The segmenter as burn-train takes it: what a training step is, and what a validation is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn::data::dataset::DatasetError;
use burn::module::Module;
use burn::tensor::{Device, ExecutionError};
use burn::train::metric::{Adaptor, ItemLazy};
use burn::train::{InferenceStep, TrainOutput, TrainStep};
use sam_data::DeviceBatch;
use sam_data::loader::SkippedSample;
use sam_data::random::{Purpose, RandomStream};
use sam_eval::{EvalProgress, EvalProtocol, EvalSet, Evaluation, PredictorSegmenter, evaluate, read_images};
use sam_image::RgbImage;
use sam_infer::Predictor;
use sam_model::Sam;
use sam_model::weights::{Dtype, ExportFormat, ExportOptions, ImageSizePolicy, export};

use crate::error::LearnError;
use crate::events::SegmentationTerms;
use crate::options::PromptOptions;
use crate::parts::Parts;
use crate::previews;
use crate::prompts::PromptDraws;
use crate::scene::Scene;
use crate::step::{LossTerms, StepOptions, learn_in_parts};
use crate::student::{Judged, Report, Student, weighted_mean};

/// What a step needs beside the weights.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// Of prompts and dropout.
    pub seed: u64,
    /// Who prompts.
    pub prompts: PromptOptions,
    /// How a step is made.
    pub step: StepOptions,
    /// Batches of one optimiser step: they share which passes get no click.
    pub accumulation: u64,
    /// In which a batch is computed side by side.
    pub parts: Parts,
}

/// A segmenter with its recipe.
#[derive(Module, Debug)]
pub struct Trainee {
    /// What learns.
    pub sam: Sam,
    #[module(skip)]
    recipe: Recipe,
}

impl Trainee {
    /// Of a segmenter on an autodiff device.
    #[must_use]
    pub fn new(sam: Sam, recipe: Recipe) -> Self {
        Self { sam, recipe }
    }
}

/// What a training step says.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// Mean losses by pass.
    pub passes: Vec<LossTerms>,
    /// Names of the images.
    pub images: Vec<String>,
    /// How many objects were learned from.
    pub n_objects: usize,
    /// Samples that could not be read and were left out.
    pub skipped: Vec<SkippedSample>,
}

impl StepReport {
    /// Over all passes.
    #[must_use]
    pub fn mean(&self) -> LossTerms {
        LossTerms::mean(&self.passes)
    }
}

impl TrainStep for Trainee {
    type Input = DeviceBatch;
    type Output = StepReport;

    fn step(&self, batch: DeviceBatch) -> TrainOutput<StepReport> {
        let Recipe { seed, prompts, accumulation, .. } = &self.recipe;
        let scene = Scene::new(&batch);
        let step = batch.step / accumulation;
        let draws = PromptDraws::new(prompts, *seed, step, &batch.images, &batch.objects);
        let dropout_seed = RandomStream::new(*seed, Purpose::Dropout, &[batch.step]).next_u64();
        scene.images.device().seed(dropout_seed);
        let (grads, losses) = learn_in_parts(&self.sam, &scene, &draws, &self.recipe, dropout_seed);
        let item = StepReport {
            passes: losses.read(),
            images: batch.images.into_iter().map(|image| image.name).collect(),
            n_objects: batch.objects.len(),
            skipped: batch.drops.skipped,
        };
        TrainOutput { grads, item }
    }
}

/// Asked now and then during a validation whether to go on.
pub type OnProgress = Arc<dyn Fn(EvalProgress) -> ControlFlow<()> + Send + Sync>;

/// One pass over the validation set: the input of a validation step.
#[derive(Clone)]
pub struct ValidationPass {
    /// What is looked at.
    pub sets: Vec<EvalSet>,
    /// How.
    pub protocols: Vec<EvalProtocol>,
    /// Threads that read images ahead.
    pub n_threads: usize,
    /// Hears how far it is.
    pub on_progress: OnProgress,
}

/// Gives the pass as burn-train's data: one item, or none without validation.
#[derive(Clone)]
pub(crate) struct ValidationSource<P>(pub(crate) Option<P>);

impl<P: Clone + Send + Sync + 'static> DataLoader<P> for ValidationSource<P> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<P> + 'a> {
        Box::new(OnePass { pass: self.0.clone(), total: self.num_items() })
    }

    fn num_items(&self) -> usize {
        usize::from(self.0.is_some())
    }

    /// Images are read by the host whatever the device.
    fn to_device(&self, _device: &Device) -> Arc<dyn DataLoader<P>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<P>> {
        Arc::new(Self(self.0.clone().filter(|_| start == 0 && end > 0)))
    }
}

struct OnePass<P> {
    pass: Option<P>,
    total: usize,
}

impl<P> Iterator for OnePass<P> {
    type Item = Result<P, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.pass.take().map(Ok)
    }
}

impl<P> DataLoaderIterator<P> for OnePass<P> {
    fn progress(&self) -> Progress {
        Progress::new(self.total - usize::from(self.pass.is_some()), self.total, Some("validations".into()))
    }
}

/// What a validation says.
pub struct ValidationReport {
    /// The numbers, or why there are none.
    pub evaluation: Result<Evaluation, sam_eval::EvalError>,
}

impl ValidationReport {
    /// A number by its name.
    #[must_use]
    pub fn value(&self, metric: &str) -> Option<f64> {
        let evaluation = self.evaluation.as_ref().ok()?;
        evaluation.results.metric(metric).ok().map(|metric| metric.value)
    }
}

impl InferenceStep for Trainee {
    type Input = ValidationPass;
    type Output = ValidationReport;

    fn step(&self, pass: ValidationPass) -> ValidationReport {
        let segmenter = PredictorSegmenter::new(Predictor::new(&self.sam));
        let images = read_images(&pass.sets, pass.n_threads);
        let n_images = images.n_images();
        let mut progress = |at| (pass.on_progress)(at);
        let evaluation = evaluate(&segmenter, images, n_images, &pass.protocols, &mut progress);
        ValidationReport { evaluation }
    }
}

/// Means as the terminal view shows them.
#[derive(Clone, Debug, Default)]
pub struct Shown(pub Vec<(&'static str, f64)>);

impl ItemLazy for StepReport {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<Shown> for StepReport {
    fn adapt(&self) -> Shown {
        let mean = self.mean();
        Shown(vec![
            ("loss", mean.total),
            ("focal", mean.focal),
            ("dice", mean.dice),
            ("iou_error", mean.iou),
            ("train_miou", mean.miou),
        ])
    }
}

impl ItemLazy for ValidationReport {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<Shown> for ValidationReport {
    fn adapt(&self) -> Shown {
        let shown = |name| self.value(name).map(|value| (name, value));
        Shown(["miou_1", "miou_1_oracle", "miou_3", "miou_box"].into_iter().filter_map(shown).collect())
    }
}

impl Report for StepReport {
    fn weight(&self) -> usize {
        self.n_objects
    }

    fn images(&self) -> &[String] {
        &self.images
    }

    fn skipped(&self) -> &[SkippedSample] {
        &self.skipped
    }

    fn loss(&self) -> f64 {
        self.mean().total
    }

    fn not_finite(&self, step: u64) -> LearnError {
        let LossTerms { focal, dice, iou, total, .. } = self.mean();
        LearnError::NotFinite { step, loss: total, focal, dice, iou, samples: self.images.clone() }
    }

    fn terms(reports: &[Self]) -> Option<SegmentationTerms> {
        let mean = |get: fn(&LossTerms) -> f64| weighted_mean(reports, |report| get(&report.mean()));
        Some(SegmentationTerms {
            focal: mean(|terms| terms.focal),
            dice: mean(|terms| terms.dice),
            iou_error: mean(|terms| terms.iou),
            miou_first: weighted_mean(reports, |report| report.passes.first().map_or(0.0, |terms| terms.miou)),
            miou_last: weighted_mean(reports, |report| report.passes.last().map_or(0.0, |terms| terms.miou)),
            n_objects: reports.iter().map(Report::weight).sum(),
        })
    }
}

impl Student for Trainee {
    type Network = Sam;
    type Report = StepReport;
    type Pass = ValidationPass;
    type Judgement = ValidationReport;

    fn network(&self) -> &Sam {
        &self.sam
    }

    fn with_network(self, sam: Sam) -> Self {
        Self { sam, ..self }
    }

    fn write(sam: &Sam, path: &Path) -> Result<(), LearnError> {
        let options =
            ExportOptions { format: ExportFormat::Safetensors, dtype: Dtype::F32, image_size: ImageSizePolicy::Keep };
        export(sam, options, path)?;
        Ok(())
    }

    fn judged(report: &ValidationReport, metric: &str, step: u64) -> Result<Judged, LearnError> {
        let evaluation = report
            .evaluation
            .as_ref()
            .map_err(|error| LearnError::Validation { step, source: error.to_string().into() })?;
        let metrics: BTreeMap<String, f64> =
            evaluation.results.flat().into_iter().map(|(name, metric)| (name, metric.value)).collect();
        let better = evaluation.results.metric(metric).map_err(|_| LearnError::NoSuchMetric {
            metric: metric.to_owned(),
            computed: metrics.keys().cloned().collect(),
        })?;
        let sign = match better.better {
            sam_eval::Better::Higher => 1.0,
            sam_eval::Better::Lower => -1.0,
        };
        Ok(Judged { metrics, sign })
    }

    /// None: a validation that cannot read a sample is an error.
    fn left_out(_report: &ValidationReport) -> &[String] {
        &[]
    }

    fn picture(pass: &ValidationPass, report: &ValidationReport, n_images: usize) -> Option<RgbImage> {
        previews::draw(pass, report.evaluation.as_ref().ok()?, n_images)
    }
}
