//! What can go wrong while learning.

use std::path::PathBuf;

use sam_model::weights::WeightsError;

/// Why a run cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// A pattern of `freeze` is a slip.
    #[error(
        "optimiser.freeze: \"{pattern}\" matches no parameter; expected a part such as \"image_encoder\", or official keys \
         with * such as \"image_encoder.blocks.*\"; this model has keys such as {example}"
    )]
    FreezesNothing {
        /// As typed.
        pattern: String,
        /// A key that exists.
        example: String,
    },
    /// Everything is frozen.
    #[error(
        "optimiser.freeze names every parameter, so nothing would learn; leave out a part, such as \"mask_decoder\""
    )]
    NothingLearns,
    /// Draws of several threads come in any order.
    #[error(
        "run.parallel = {n_parts}: a batch can be computed in parts only without drop path and dropout, or no run could be \
         repeated; set run.parallel = 1, or model.drop_path and model.decoder_dropout to 0"
    )]
    PartsWithDropout {
        /// As typed.
        n_parts: usize,
    },
    /// Threads for the parts of a batch.
    #[error("run.parallel = {n_parts}: the system gives no threads for as many parts: {reason}")]
    NoThreads {
        /// What was asked for.
        n_parts: usize,
        /// What the system said.
        reason: String,
    },
    /// The loss is not a number.
    #[error(
        "step {step}: the loss is {loss} (focal {focal}, dice {dice}, IoU {iou}) on {}; the run stops before the weights \
         are touched. Lower optimiser.lr, set optimiser.clip_norm, or look at these samples",
        samples.join(", ")
    )]
    NotFinite {
        /// Optimiser step, from 1.
        step: u64,
        /// The weighted sum.
        loss: f64,
        /// Its terms.
        focal: f64,
        /// Its terms.
        dice: f64,
        /// Its terms.
        iou: f64,
        /// Names of the batch's images.
        samples: Vec<String>,
    },
    /// The loss of a pre-training is not a number.
    #[error(
        "step {step}: the loss is {loss} on {}; the run stops before the weights are touched. Lower optimiser.lr, set \
         optimiser.clip_norm, or look at these images",
        samples.join(", ")
    )]
    ReconstructionNotFinite {
        /// Optimiser step, from 1.
        step: u64,
        /// The loss.
        loss: f64,
        /// Names of the batch's images.
        samples: Vec<String>,
    },
    /// A gradient is not a number, though the loss is.
    #[error(
        "step {step}: the loss is finite but the gradient's norm is {norm}, on {}; the run stops before the weights are \
         touched. Lower optimiser.lr or look at these samples",
        samples.join(", ")
    )]
    GradientNotFinite {
        /// Optimiser step, from 1.
        step: u64,
        /// The norm over all parameters.
        norm: f64,
        /// Names of the batch's images.
        samples: Vec<String>,
    },
    /// The data ended or could not be read.
    #[error("step {step}: {reason}")]
    Data {
        /// Optimiser step, from 1.
        step: u64,
        /// The loader's message, which names the file.
        reason: String,
    },
    /// Images whose features are wanted cannot be had.
    #[error(transparent)]
    Samples(#[from] sam_data::loader::LoaderError),
    /// An encoder gives nonsense.
    #[error("sample {index}: the features hold {value}; the training that wrote the checkpoint has diverged")]
    FeatureNotFinite {
        /// Of the data set.
        index: usize,
        /// What came.
        value: f32,
    },
    /// Validation failed.
    #[error("validation after step {step}: {source}")]
    Validation {
        /// Optimiser steps done.
        step: u64,
        /// The evaluation's message.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of the run folder could not be written.
    #[error("{}: could not be written: {source}; what was saved before is untouched", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file of the run folder could not be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The report of a run could not be made.
    #[error("the report of the run: {source}")]
    Report {
        /// Why.
        source: sam_eval::EvalError,
    },
    /// A metric that no validation gives.
    #[error("validation.metric: \"{metric}\" is not computed; computed are {}", computed.join(", "))]
    NoSuchMetric {
        /// As typed.
        metric: String,
        /// What there is.
        computed: Vec<String>,
    },
    /// A defect of this program or of burn's.
    #[error("internal error: {what}")]
    Internal {
        /// What must not happen.
        what: &'static str,
    },
    /// A checkpoint could not be written or read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}
