//! What a loader delivers and how, and the two things it reads from: samples by index, and an order of draws.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::permutation::Permutation;
use crate::sample::Sample;
use crate::source::Source;
use crate::transforms::Augmentation;

/// Why a source could not give a sample; it names the file itself.
pub type SampleError = Box<dyn std::error::Error + Send + Sync>;

/// Anything that gives samples by index, from many threads at once: a data set on disk, or scenes made on the fly.
pub trait Samples: Send + Sync {
    /// How many samples there are.
    fn n_samples(&self) -> usize;

    /// The sample at this index; equal indices give equal samples.
    ///
    /// # Errors
    ///
    /// When the sample cannot be read or makes no sense.
    fn sample(&self, index: usize) -> Result<Sample, SampleError>;
}

impl Samples for Source {
    fn n_samples(&self) -> usize {
        self.len()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        Ok(Source::sample(self, index)?)
    }
}

/// Some of the samples of another set, such as one split. Batches then name samples by their place in `indices`.
///
/// Four bytes per sample: 44 MB for all of SA-1B, and nothing of the samples themselves.
#[derive(Clone)]
pub struct Subset {
    /// The whole set.
    pub samples: Arc<dyn Samples>,
    /// Which samples belong to the subset, in its order.
    pub indices: Vec<u32>,
}

impl Samples for Subset {
    fn n_samples(&self) -> usize {
        self.indices.len()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        self.samples.sample(self.indices[index] as usize)
    }
}

/// Everything that decides what batches hold, and how they are made.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderOptions {
    /// Of order, augmentation and choice of objects.
    pub seed: u64,
    /// Images in a batch.
    pub n_images: NonZeroUsize,
    /// Side of the model's square, 1024 for the official checkpoints.
    pub side_px: usize,
    /// Side of the object masks over that square: 256 for a loss at the decoder's own resolution.
    pub mask_side_px: usize,
    /// Which samples come when.
    pub order: Order,
    /// Which objects of an image are used.
    pub objects: ObjectLimits,
    /// Whether objects are what it is about.
    pub labels: Labels,
    /// Random changes of each image.
    pub augmentation: Augmentation,
    /// Threads that read and transform; 0 does the work inside [`crate::loader::Loader::next_batch`].
    pub n_workers: usize,
    /// How many batches may be finished or begun ahead of the consumer; at least 1 is used.
    pub n_prefetch_batches: usize,
    /// What happens when a sample cannot be read.
    pub on_error: ErrorPolicy,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        Self {
            seed: 0,
            n_images: NonZeroUsize::MIN,
            side_px: 1024,
            mask_side_px: 256,
            order: Order::ShuffledEpochs,
            objects: ObjectLimits::default(),
            labels: Labels::Wanted,
            augmentation: Augmentation::default(),
            n_workers: 2,
            n_prefetch_batches: 2,
            on_error: ErrorPolicy::Stop,
        }
    }
}

/// Which samples come when. A *draw* counts samples from the start of the run: draw = step x images per batch + place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Without end: every sample once per epoch, in an order that differs from epoch to epoch. Batches go across the
    /// borders of epochs, so all are full.
    ShuffledEpochs,
    /// Every sample once, by index; the last batch may be smaller. For validation.
    InOrderOnce,
}

impl Order {
    /// The sample of a draw, or `None` behind the end.
    #[must_use]
    pub fn index_of(self, draw: u64, n_samples: usize, seed: u64) -> Option<usize> {
        let n = n_samples as u64;
        match self {
            _ if n == 0 => None,
            Self::ShuffledEpochs => Some(Permutation::new(n, seed, draw / n).at(draw % n) as usize),
            Self::InOrderOnce => (draw < n).then_some(draw as usize),
        }
    }
}

/// Which objects of an image are used. The choice among those that qualify is random, not by size or order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectLimits {
    /// At most this many of one image.
    pub per_image_max: usize,
    /// At most this many in a batch, shared evenly: an image gives more only where others have fewer. The paper takes up
    /// to 64 masks per GPU (appendix A).
    pub per_batch_max: usize,
    /// Smallest area after the transforms, in pixels of the mask (of `mask_side_px`).
    pub visible_px_min: usize,
    /// Largest share of the original image that a mask may cover; the paper drops masks above 0.9 (appendix A).
    pub image_share_max: f64,
}

impl Default for ObjectLimits {
    /// The paper's values.
    fn default() -> Self {
        Self { per_image_max: 64, per_batch_max: 64, visible_px_min: 1, image_share_max: 0.9 }
    }
}

impl ObjectLimits {
    /// Every object that the view shows; for validation.
    #[must_use]
    pub fn all() -> Self {
        Self { per_image_max: usize::MAX, per_batch_max: usize::MAX, visible_px_min: 1, image_share_max: 1.0 }
    }
}

/// Whether objects are what it is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// An image without objects gives way to another.
    Wanted,
    /// Images alone; their objects, where there are any, are left aside.
    Unused,
}

/// What happens when a sample cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorPolicy {
    /// The step that needed it is an error, and the loader ends there.
    Stop,
    /// It is counted and named in the batch's [`crate::loader::Drops`]; in [`Order::ShuffledEpochs`] another sample
    /// stands in, chosen by (seed, draw).
    Skip,
}
