//! Why a step has no batch.

use crate::loader::options::SampleError;

/// Why a step has no batch. The step is named by [`LoaderError::step`] and in the message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoaderError {
    /// A source with nothing in it.
    #[error("a data set must have at least 1 sample, got 0")]
    NoSamples,

    /// The source could not give a sample.
    #[error("step {step}, sample {sample_index}: {source}")]
    Sample {
        /// The step that needed it.
        step: u64,
        /// Index in the data set.
        sample_index: usize,
        /// The source's reason.
        source: SampleError,
    },

    /// A mask or an ignore mask that is not of its image's size: the source is at fault.
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

    /// Reading or transforming a sample panicked; the run must not hang on it.
    #[error("step {step}, draw {draw}: the loader panicked: {message}")]
    Panicked {
        /// The step.
        step: u64,
        /// The draw.
        draw: u64,
        /// What the panic said.
        message: String,
    },

    /// Many samples in a row were unreadable or had no objects.
    #[error(
        "step {step}: {n_tried} samples in a row could not be used ({n_unreadable} unreadable, the others without usable objects); \
         last reason: {last_reason}; run `sam-train data check` on the data set"
    )]
    NothingUsable {
        /// The step.
        step: u64,
        /// How many were tried.
        n_tried: u64,
        /// How many of them could not be read.
        n_unreadable: usize,
        /// Why the last one was refused.
        last_reason: String,
    },
}

impl LoaderError {
    /// The step that has no batch; step 0 for a data set without samples.
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
