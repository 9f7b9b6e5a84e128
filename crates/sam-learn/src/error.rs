//! Errors of learning. They name no configuration keys: the program adds those that a user can change.

use std::path::PathBuf;

use sam_infer::cache::CacheError;
use sam_infer::clip::ClipError;
use sam_model::SamConfigError;
use sam_model::weights::WeightsError;

use crate::ranks::RankError;

/// An error that prevents a run from starting or continuing.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// A pattern of frozen parameters matches none.
    #[error(
        "the pattern \"{pattern}\" of frozen parameters matches no parameter that learns; expected a part such as \
         \"image_encoder\", or official keys with * such as \"image_encoder.blocks.*\"; the nearest key is {example}"
    )]
    FreezesNothing {
        /// The pattern.
        pattern: String,
        /// The nearest key of the model.
        example: String,
    },
    /// A pattern of what learns matches nothing.
    #[error(
        "the pattern \"{pattern}\" of what learns matches no parameter{}; expected a part such as \"mask_decoder\", or \
         official keys with * such as \"*.bias\"; the nearest key is {example}",
        if *has_adapters { " (beside adapters, the image encoder and the adapted layers are frozen)" } else { "" }
    )]
    LearnsNothing {
        /// The pattern.
        pattern: String,
        /// The nearest key of the model.
        example: String,
        /// The model has low-rank adapters.
        has_adapters: bool,
    },
    /// Every parameter is frozen.
    #[error("every parameter is frozen, so nothing would learn; leave one part, such as \"mask_decoder\", free")]
    NothingLearns,
    /// A target of adapters names no linear layer.
    #[error(
        "the target \"{target}\" of adapters names no linear layer; expected \"q\", \"k\", \"v\" (of a plain ViT), \
         \"proj\" or \"mlp\" of the encoder's blocks, or official keys with * such as \"mask_decoder.transformer.*.q_proj\"; the nearest layer is {example}"
    )]
    AdaptsNothing {
        /// The target.
        target: String,
        /// The nearest layer of the model.
        example: String,
    },
    /// Two targets of adapters name one layer.
    #[error(
        "{layer} would be adapted twice: as a whole and in its queries, keys or values; \"{target}\" is the second target \
         that names it"
    )]
    AdaptedTwice {
        /// The second target.
        target: String,
        /// The layer.
        layer: String,
    },
    /// The rank of an adapter is not low.
    #[error("adapters of rank {rank} are larger than {layer}; it takes at most {largest}")]
    RankTooLarge {
        /// The rank.
        rank: usize,
        /// The layer.
        layer: String,
        /// Its smaller side.
        largest: usize,
    },
    /// Dropout of adapters that are not in the image encoder.
    #[error(
        "dropout of adapters works in the image encoder only, and {layer} is adapted, too; use no dropout, or only targets in \
         the encoder"
    )]
    DropoutOutsideEncoder {
        /// The layer.
        layer: String,
    },
    /// A training continues adapters of other layers.
    #[error(
        "{}: it has {has} of {layer}, unlike this training; use the targets that it was trained with, or train its merged \
         weights without adapters",
        path.display()
    )]
    OtherAdapters {
        /// The adapter folder.
        path: PathBuf,
        /// The layer.
        layer: String,
        /// What the folder has of it.
        has: String,
    },
    /// A teacher whose embeddings have another shape.
    #[error("a student cannot learn from this teacher: {}", source.problems.join("; "))]
    OtherTeacher {
        /// What differs.
        source: SamConfigError,
    },
    /// Embeddings are to be learned by an encoder that does not learn.
    #[error("nothing of the image encoder learns, so it cannot learn the teacher's embeddings")]
    TaughtEncoderIsFrozen,
    /// Shards would have statistics of their own.
    #[error(
        "a batch cannot be computed in {n_shards} shards side by side with running statistics of batch norms: each shard would be \
         normalised by its own images"
    )]
    ShardsWithRunningStatistics {
        /// The requested number of shards.
        n_shards: usize,
    },
    /// Ranks would have statistics of their own.
    #[error("{n_ranks} ranks cannot train running statistics of batch norms: each would have those of its own images")]
    RanksWithRunningStatistics {
        /// Number of ranks.
        n_ranks: usize,
    },
    /// The batches of a step cannot be divided among the ranks.
    #[error(
        "the {accumulation} batches of a step cannot be divided among {n_ranks} ranks: each takes as many; expected a multiple of \
         {n_ranks}"
    )]
    BatchesOfRanks {
        /// Batches of a step.
        accumulation: usize,
        /// Number of ranks.
        n_ranks: usize,
    },
    /// Ranks would not compute the same run.
    #[error("{difference}")]
    RanksDiffer {
        /// What differs, with the values of two ranks.
        difference: String,
    },
    /// Another rank failed.
    #[error("rank {rank}: {reason}")]
    OtherRank {
        /// Index of the rank.
        rank: usize,
        /// Its message.
        reason: String,
    },
    /// Ranks do not work together any more.
    #[error(transparent)]
    Ranks(#[from] RankError),
    /// The run was asked to stop during a validation.
    #[error("the run was asked to stop during a validation")]
    ValidationStopped,
    /// Running statistics that nothing would move.
    #[error("running statistics of batch norms need batch norms that learn, and here none does")]
    NoRunningStatistics,
    /// The threads of the shards of a batch cannot be started.
    #[error("cannot start threads for {n_shards} shards: {reason}")]
    NoThreads {
        /// The requested number of shards.
        n_shards: usize,
        /// The system's message.
        reason: String,
    },
    /// The loss is NaN or infinite.
    #[error(
        "step {step}: the loss is {loss}{} on {}; the run stops before the weights are changed. Lower the learning rate, clip \
         gradients, or check these samples",
        terms_text(terms),
        samples.join(", ")
    )]
    NotFinite {
        /// Optimiser step, from 1.
        step: u64,
        /// The weighted sum.
        loss: f64,
        /// Its terms by name, not weighted.
        terms: Vec<(&'static str, f64)>,
        /// Names of the batch's images.
        samples: Vec<String>,
    },
    /// The gradient is NaN or infinite, though the loss is finite.
    #[error(
        "step {step}: the loss is finite but the gradient norm is {norm}, on {}; the run stops before the weights are \
         changed. Lower the learning rate, or check these samples",
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
    /// The device has no memory left.
    #[error("step {step}: the device has no memory left ({reason}); nothing of this step is kept")]
    OutOfMemory {
        /// Optimiser step, from 1.
        step: u64,
        /// The device's message.
        reason: String,
    },
    /// Training data cannot be read.
    #[error("step {step}: {reason}")]
    Data {
        /// Optimiser step, from 1.
        step: u64,
        /// The loader's message, which names the file.
        reason: String,
    },
    /// An image whose embedding is to be kept cannot be read.
    #[error("an image cannot be embedded: {source}")]
    EmbeddedImage {
        /// The source's error, which names the file.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An image of which masks prompt as texts cannot be read.
    #[error("the texts of an image cannot be made: {source}")]
    PromptedImage {
        /// The source's error, which names the file.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A text has no vector.
    #[error("\"{text}\" has no vector: it is empty, or longer than CLIP reads")]
    NoTextVector {
        /// The text.
        text: String,
    },
    /// CLIP fails.
    #[error(transparent)]
    Clip(#[from] ClipError),
    /// Embeddings cannot be kept on disk.
    #[error(transparent)]
    Cache(#[from] CacheError),
    /// Images of a probe cannot be read.
    #[error(transparent)]
    Samples(#[from] sam_data::loader::LoaderError),
    /// Features of an encoder are NaN or infinite.
    #[error("sample {index}: the features contain {value}; the training run of this checkpoint has diverged")]
    FeatureNotFinite {
        /// Index in the data set.
        index: usize,
        /// The value.
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
    /// A file of the run folder cannot be written.
    #[error("{}: cannot be written: {source}; earlier saves are untouched", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A file of the run folder cannot be read.
    #[error("{}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// Another process works in the run folder.
    #[error("{} is in use by another process ({holder}); wait for it to end, or use another folder", folder.display())]
    InUse {
        /// The run folder.
        folder: PathBuf,
        /// The process, as recorded in the lock.
        holder: String,
    },
    /// No save of a run is intact.
    #[error(
        "{}: every save is damaged:\n  {}\nStart a new run from one of the checkpoints of this one, or from a copy of a save",
        folder.display(),
        reasons.join("\n  ")
    )]
    AllSavesDamaged {
        /// The folder of the saves.
        folder: PathBuf,
        /// Each with its file and the reason.
        reasons: Vec<String>,
    },
    /// The report of a run cannot be made.
    #[error("the report of the run: {source}")]
    Report {
        /// The reason.
        source: sam_eval::EvalError,
    },
    /// No validation computes the metric.
    #[error("the metric \"{metric}\" is not computed; computed are {}", computed.join(", "))]
    NoSuchMetric {
        /// The requested metric.
        metric: String,
        /// All computed metrics.
        computed: Vec<String>,
    },
    /// A defect of this program or of burn.
    #[error("internal error: {what}")]
    Internal {
        /// The violated assumption.
        what: &'static str,
    },
    /// A checkpoint cannot be written or read.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

fn terms_text(terms: &[(&'static str, f64)]) -> String {
    let terms: Vec<String> = terms.iter().map(|(name, value)| format!("{name} {value}")).collect();
    if terms.is_empty() { String::new() } else { format!(" ({})", terms.join(", ")) }
}
