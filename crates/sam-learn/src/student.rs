//! What the loop asks of what learns. There are two: the segmenter ([`crate::trainee`]) and the masked autoencoder
//! ([`crate::pretraining`]); steps, saves, resume, logs and the end are the same for both.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::train::metric::ItemLazy;
use burn::train::{InferenceStep, TrainStep};
use sam_data::DeviceBatch;
use sam_data::loader::SkippedSample;
use sam_image::RgbImage;

use crate::error::LearnError;
use crate::events::SegmentationTerms;

/// A model with its recipe, as burn-train takes it.
pub(crate) trait Student:
    TrainStep<Input = DeviceBatch, Output = Self::Report>
    + InferenceStep<Input = Self::Pass, Output = Self::Judgement>
    + Module
    + std::fmt::Display
    + 'static
{
    /// What learns and is written.
    type Network: Module;
    /// What a training step says.
    type Report: Report;
    /// One pass over what is held out.
    type Pass: Clone + Send + Sync + 'static;
    /// What comes of it.
    type Judgement: ItemLazy + 'static;

    fn network(&self) -> &Self::Network;

    /// The same recipe with other weights.
    fn with_network(self, network: Self::Network) -> Self;

    /// Writes a checkpoint that other programs load.
    fn write(network: &Self::Network, path: &Path) -> Result<(), LearnError>;

    /// The numbers of a validation.
    fn judged(judgement: &Self::Judgement, metric: &str, step: u64) -> Result<Judged, LearnError>;

    /// Why samples could not be looked at, each naming its file; the numbers are those of the others.
    fn left_out(judgement: &Self::Judgement) -> &[String];

    /// What the model does, drawn; `None` when there is nothing to draw.
    fn picture(pass: &Self::Pass, judgement: &Self::Judgement, n_images: usize) -> Option<RgbImage>;
}

/// What a training step says.
pub(crate) trait Report: ItemLazy + Clone + Send + 'static {
    /// How much it counts among the batches of an optimiser step.
    fn weight(&self) -> usize;

    /// Names of the images.
    fn images(&self) -> &[String];

    /// Samples that could not be read and were left out.
    fn skipped(&self) -> &[SkippedSample];

    /// What is minimised.
    fn loss(&self) -> f64;

    /// The error of a loss that is no number.
    fn not_finite(&self, step: u64) -> LearnError;

    /// More about the batches of an optimiser step.
    fn terms(reports: &[Self]) -> Option<SegmentationTerms>
    where
        Self: Sized;
}

/// The numbers of a validation.
pub(crate) struct Judged {
    pub(crate) metrics: BTreeMap<String, f64>,
    /// 1 where the metric that was asked for is better when higher, else -1.
    pub(crate) sign: f64,
}

/// Over the batches of an optimiser step, each by its weight.
pub(crate) fn weighted_mean<R: Report>(reports: &[R], get: impl Fn(&R) -> f64) -> f64 {
    let n: usize = reports.iter().map(Report::weight).sum();
    reports.iter().map(|report| get(report) * report.weight() as f64).sum::<f64>() / n.max(1) as f64
}
