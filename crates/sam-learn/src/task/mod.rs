//! The tasks: promptable segmentation and, before it, masked autoencoding. The training loop is the same for both.

mod batch;
mod checkpointing;
mod embedding_loss;
mod held_out;
mod losses;
mod mae;
mod segmentation;
mod shards;
mod step;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use sam_data::DeviceBatch;
use sam_data::loader::SkippedSample;
use sam_eval::Better;
use sam_image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::error::LearnError;
use crate::ranks::Ranks;
use crate::record::{Details, DistillationTerms, SegmentationTerms};

pub use batch::{EncoderInput, TrainingBatch};
pub use embedding_loss::EmbeddingTarget;
pub use held_out::HeldOut;
pub use segmentation::Validation;
pub use shards::ShardPools;
pub use step::{DecoderGradients, LossTerms, SegmentationStep, StepLosses, StepOptions};

pub(crate) use batch::{content, normalised_images};
pub(crate) use held_out::HeldOutInput;
pub(crate) use mae::{MaeRecipe, MaeTask};
pub(crate) use segmentation::{AdapterRecord, Embeddings, SegmentationRecipe, SegmentationTask, Texts};
pub(crate) use step::{embed, most_confident, resize_matrix, select_mask, upsample};

/// A network with its objective. The optimiser steps it and saves hold it, so it is a module; the name of its network's
/// field is part of the keys in these saves.
pub(crate) trait Task: Module {
    /// The network that learns and is exported.
    type Network: Module;
    /// Validation data.
    type ValidationInput;

    fn network(&self) -> &Self::Network;

    /// The same task with other weights.
    fn with_network(self, network: Self::Network) -> Self;

    /// Gradients of the mean loss over a batch.
    fn gradients(&self, batch: DeviceBatch) -> Result<(GradientsParams, BatchReport), LearnError>;

    /// The task whose statistics follow the batches since the last call, where the network has some that do.
    fn following_batches(self) -> Self {
        self
    }

    /// Whether it has.
    fn has_running_statistics(&self) -> bool {
        false
    }

    /// Validation scores of the network, which has no autodiff graph.
    fn validate(
        &self,
        input: &Self::ValidationInput,
        request: ValidationRequest<'_>,
    ) -> Result<ValidationOutput, LearnError>;

    /// At most `n` of the validation images, spread over all; their number, and that of all.
    fn some_images(input: &Self::ValidationInput, n: usize) -> (Self::ValidationInput, usize, usize);

    /// Writes the adapters of a network alone, for a task that has some.
    fn write_adapters(&self, _network: &Self::Network, _folder: &Path) -> Result<(), LearnError> {
        Ok(())
    }

    /// Writes a checkpoint that other programs load, with adapters merged.
    fn write(network: &Self::Network, path: &Path) -> Result<(), LearnError>;
}

/// Report of a training batch after its backward pass.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BatchReport {
    /// Number of objects, or of images where there are none, that the means are over.
    pub(crate) weight: usize,
    /// Names of the images.
    pub(crate) images: Vec<String>,
    /// Samples that could not be read and were skipped.
    pub(crate) skipped: Vec<SkippedSample>,
    /// The mean loss.
    pub(crate) loss: f64,
    /// Its terms, where masks are learned.
    pub(crate) segmentation: Option<SegmentationTerms>,
    /// Its terms, where a teacher is learned from.
    pub(crate) distillation: DistillationTerms,
}

impl BatchReport {
    /// The terms of the loss by name, where it has several.
    pub(crate) fn loss_terms(&self) -> Vec<(&'static str, f64)> {
        let terms = self.segmentation.iter();
        let of_masks = terms.flat_map(|terms| [("focal", terms.focal), ("dice", terms.dice), ("IoU", terms.iou_error)]);
        let of_embeddings = self.distillation.embedding_mse.map(|mse| ("embedding", mse));
        of_masks.chain(of_embeddings).collect()
    }
}

/// Parameters of a validation that the loop gives.
pub(crate) struct ValidationRequest<'a> {
    /// Optimiser steps done.
    pub(crate) step: u64,
    /// The metric that chooses the best checkpoint.
    pub(crate) metric: &'a str,
    /// Images in the preview.
    pub(crate) n_previews: usize,
    /// Receives the number of images done and of all images; `Break` ends the validation with an error.
    pub(crate) on_progress: &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>,
    /// Those among which the images are divided; all get the same result.
    pub(crate) ranks: &'a dyn Ranks,
}

/// Result of a validation.
pub(crate) struct ValidationOutput {
    pub(crate) metrics: BTreeMap<String, f64>,
    /// Direction in which the requested metric improves.
    pub(crate) better: Better,
    /// Reasons why samples were skipped, each with its file; the metrics are those of the others.
    pub(crate) skipped: Vec<String>,
    /// Image of the model's predictions; `None` when there is nothing to draw.
    pub(crate) preview: Option<RgbImage>,
    /// All records, for the report; `None` where there are no objects.
    pub(crate) details: Option<Details>,
}

/// The mean over the batches of an optimiser step, each with its weight.
pub(crate) fn weighted_mean(reports: &[BatchReport], get: impl Fn(&BatchReport) -> f64) -> f64 {
    let n: usize = reports.iter().map(|report| report.weight).sum();
    reports.iter().map(|report| get(report) * report.weight as f64).sum::<f64>() / n.max(1) as f64
}
