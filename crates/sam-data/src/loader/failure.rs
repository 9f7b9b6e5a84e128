//! Errors of the loader.

use crate::error::DataError;
use crate::sample::SampleError;

/// The error of a step without a batch. [`LoaderError::step`] and the message name the step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// A source without samples.
    #[error("a data set must have at least 1 sample, got 0")]
    NoSamples,

    /// The source could not read a sample.
    #[error("step {step}, sample {sample_index}: {source}")]
    Sample {
        /// The step that needed it.
        step: u64,
        /// Index in the data set.
        sample_index: usize,
        /// The source's error.
        source: SampleError,
    },

    /// A mask or ignore mask whose size differs from its image's, which is a fault of the source.
    #[error(
        "step {step}, sample {sample_index} ({name}): masks must have the image's size {} x {}, got {} x {} (height x width)",
        image_hw[0], image_hw[1], mask_hw[0], mask_hw[1]
    )]
    MaskSize {
        /// The step that needed it.
        step: u64,
        /// Index in the data set.
        sample_index: usize,
        /// Name of the sample.
        name: String,
        /// Size of the image.
        image_hw: [usize; 2],
        /// Size of the mask.
        mask_hw: [usize; 2],
    },

    /// Reading or transforming a sample panicked; the run must not hang.
    #[error("step {step}, draw {draw}: the loader panicked: {message}")]
    Panicked {
        /// The step.
        step: u64,
        /// The draw.
        draw: u64,
        /// The panic message.
        message: String,
    },

    /// Many samples in a row were unreadable or had no objects.
    #[error(
        "step {step}: {n_tried} consecutive samples could not be used ({n_unreadable} unreadable, the others without usable objects); \
         last reason: {last_reason}; run `data check` on the data set"
    )]
    NothingUsable {
        /// The step.
        step: u64,
        /// Number of samples tried.
        n_tried: u64,
        /// Number of unreadable ones among them.
        n_unreadable: usize,
        /// Reason of the last failure.
        last_reason: String,
    },
}

impl LoaderError {
    /// Whether the sample could not be looked at, so that skipping it would lose good data: [`DataError::is_outage`].
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Sample { source, .. } => source.downcast_ref::<DataError>().is_some_and(DataError::is_outage),
            _ => false,
        }
    }

    /// Returns the step without a batch; 0 for a data set without samples.
    #[must_use]
    pub fn step(&self) -> u64 {
        match self {
            Self::NoSamples => 0,
            Self::Sample { step, .. }
            | Self::MaskSize { step, .. }
            | Self::Panicked { step, .. }
            | Self::NothingUsable { step, .. } => *step,
        }
    }
}
