//! Options of a loader: contents of batches, order of samples, and threads.

use std::num::NonZeroUsize;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::mixture::{Drawn, Share, drawn};
use crate::permutation::Permutation;
use crate::random::{Purpose, RandomStream};
use crate::shard_order::{Pool, ShardOrder};
use crate::transforms::Augmentation;

/// Contents of batches and how they are loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct LoaderOptions {
    /// Random seed for order, augmentation and sampling of objects.
    pub seed: u64,
    /// Images per batch.
    pub n_images: NonZeroUsize,
    /// Side of the model's input, 1024 for the official checkpoints.
    pub side_px: usize,
    /// Side of the object masks over that input: 256 for a loss at the decoder's own resolution.
    pub mask_side_px: usize,
    /// Order of the samples.
    pub order: Order,
    /// Which batches it serves.
    pub turns: Turns,
    /// The sets that the samples are joined from, by which [`Order::ShuffledEpochs`] draws them; empty: a single set.
    pub shares: Vec<Share>,
    /// [`crate::loader::Samples::shard_order`] of a single set, by which [`Order::ShuffledEpochs`] draws then.
    pub shards: Option<Arc<ShardOrder>>,
    /// Limits on the objects of an image.
    pub objects: ObjectLimits,
    /// Whether objects are used.
    pub labels: Labels,
    /// Augmentation of each image.
    pub augmentation: Augmentation,
    /// What a batch holds of its images.
    pub content: Content,
    /// Worker threads; 0 does the work inside [`crate::loader::Loader::next_batch`].
    pub n_workers: usize,
    /// Batches begun or finished ahead of the consumer; at least 1 is used.
    pub n_prefetch_batches: usize,
    /// Handling of unreadable samples.
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
            turns: Turns::ALL,
            shares: Vec::new(),
            shards: None,
            objects: ObjectLimits::default(),
            labels: Labels::Wanted,
            augmentation: Augmentation::default(),
            content: Content::Pixels,
            n_workers: 2,
            n_prefetch_batches: 2,
            on_error: ErrorPolicy::Stop,
        }
    }
}

impl LoaderOptions {
    /// The sample of a draw, and those that are tried one after the other in its place where it cannot be used; none after
    /// the end.
    pub fn samples_of(&self, draw: u64, n_samples: usize) -> impl Iterator<Item = usize> {
        let seed = self.seed;
        let (first, start, n_among) = match self.order {
            Order::ShuffledEpochs if !self.shares.is_empty() => {
                let Drawn { start, n_samples, index, .. } = drawn(&self.shares, draw, seed);
                (Some(index), start, n_samples)
            }
            Order::ShuffledEpochs if let Some(shards) = &self.shards => {
                let n = shards.n_samples();
                (Some(shards.at(seed, draw / n, draw % n)), 0, n_samples)
            }
            _ => (self.order.index_of(draw, n_samples, seed), 0, n_samples),
        };
        // Of the same set: the weights hold.
        let substitute =
            move |attempt| start + RandomStream::new(seed, Purpose::Substitute, &[draw, attempt]).index(n_among);
        first.into_iter().flat_map(move |first| std::iter::once(first).chain((1..N_TRIED).map(substitute)))
    }

    /// The pool of shards that a draw is of; `None` without shards.
    pub(super) fn pool_of(&self, draw: u64) -> Option<DrawnPool<'_>> {
        if self.order != Order::ShuffledEpochs {
            return None;
        }
        let (shards, set, seed, start, nth) = match self.shares.is_empty() {
            true => (self.shards.as_deref()?, 0, self.seed, 0, draw),
            false => {
                let Drawn { set, seed, nth, start, .. } = drawn(&self.shares, draw, self.seed);
                (self.shares[set].shards.as_deref()?, set, seed, start, nth)
            }
        };
        let n = shards.n_samples();
        Some(DrawnPool { set, number: shards.pool_number(seed, nth / n, nth % n), shards, seed, start })
    }

    /// Whether the sample of a draw is mirrored, in x and in y: for an augmentation that does nothing else.
    #[must_use]
    pub fn mirroring_of(&self, draw: u64, sample_index: usize) -> [bool; 2] {
        let mut stream = RandomStream::new(self.seed, Purpose::View, &[draw, sample_index as u64, 0]);
        let view = self.augmentation.draw_view([1, 1], self.side_px, &mut stream);
        [view.mirrored_x, view.mirrored_y]
    }
}

/// The pool of shards of a draw.
pub(super) struct DrawnPool<'a> {
    /// The place of its set among the sets.
    pub(super) set: usize,
    /// Counts the pools of the set.
    pub(super) number: u64,
    shards: &'a ShardOrder,
    seed: u64,
    /// Index of the set's first sample.
    start: usize,
}

impl DrawnPool<'_> {
    /// A sample of each of its shards, and one of each of those of the next pool.
    pub(super) fn samples(&self) -> [Vec<usize>; 2] {
        let Pool { now, next, .. } = self.shards.pool(self.seed, self.number);
        [now, next].map(|samples| samples.into_iter().map(|index| self.start + index).collect())
    }
}

/// Samples that are tried before the data set is considered broken.
pub(super) const N_TRIED: u64 = 32;

/// What a batch holds of its images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Their pixels.
    Pixels,
    /// Their pixels, and [`sam_image::image_fingerprint`] of the images that they are rendered from.
    PixelsAndHash,
    /// Only a hash of what they are decoded from: nothing is decoded. For an augmentation that only mirrors.
    Hash,
}

/// The batches that a loader serves, where several ranks share those of each optimiser step: the same place in each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turns {
    /// Batches of an optimiser step.
    per_step: u64,
    /// The first of them that it serves.
    first: u64,
    /// How many it serves.
    n: u64,
}

impl Turns {
    /// All batches.
    pub const ALL: Self = Self { per_step: 1, first: 0, n: 1 };

    /// Those of one rank of several, of equal numbers.
    ///
    /// # Panics
    ///
    /// When the batches of a step cannot be divided among the ranks, or there is no such rank.
    #[must_use]
    pub fn of_rank(rank: usize, n_ranks: usize, batches_per_step: usize) -> Self {
        assert!(rank < n_ranks && batches_per_step.is_multiple_of(n_ranks), "{rank}, {n_ranks}, {batches_per_step}");
        let n = (batches_per_step / n_ranks) as u64;
        Self { per_step: batches_per_step as u64, first: rank as u64 * n, n }
    }

    /// How many of an optimiser step's batches it serves.
    #[must_use]
    pub fn per_step(self) -> usize {
        self.n as usize
    }

    /// The index in the run of the nth batch that it serves.
    pub(crate) fn batch(self, nth: u64) -> u64 {
        (nth / self.n).saturating_mul(self.per_step).saturating_add(self.first + nth % self.n)
    }

    /// Which of its batches is the first at or after a batch of the run, which begins an optimiser step.
    pub(crate) fn nth(self, batch: u64) -> u64 {
        debug_assert!(batch.is_multiple_of(self.per_step), "{batch} does not begin a step of {}", self.per_step);
        batch / self.per_step * self.n
    }
}

/// The order of samples. A *draw* counts samples from the start of the run: draw = step x images per batch + position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Endless: every sample once per epoch, in a different order each epoch. Batches may cross the borders of epochs,
    /// so all are full.
    ShuffledEpochs,
    /// Every sample once, by index; the last batch may be smaller. For validation.
    InOrderOnce,
}

impl Order {
    /// Returns the sample of a draw, or `None` after the end.
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

/// Limits on the objects of an image. The choice among those that qualify is random, not by size or order.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectLimits {
    /// Maximum number of objects per image.
    pub per_image_max: usize,
    /// Maximum number of objects per batch, distributed evenly: an image gives more only if others have fewer. The
    /// paper takes up to 64 masks per GPU (appendix A).
    pub per_batch_max: usize,
    /// Minimum visible area after the transforms, in pixels of the mask (of `mask_side_px`).
    pub visible_px_min: usize,
    /// Maximum fraction of the original image that a mask may cover; the paper drops masks above 0.9 (appendix A).
    pub image_share_max: f64,
}

impl Default for ObjectLimits {
    /// The paper's values.
    fn default() -> Self {
        Self { per_image_max: 64, per_batch_max: 64, visible_px_min: 1, image_share_max: 0.9 }
    }
}

impl ObjectLimits {
    /// No limits: every visible object, for validation.
    #[must_use]
    pub fn all() -> Self {
        Self { per_image_max: usize::MAX, per_batch_max: usize::MAX, visible_px_min: 1, image_share_max: 1.0 }
    }
}

/// Whether objects are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Labels {
    /// Objects are required; an image without objects is replaced.
    Wanted,
    /// Images only; objects are ignored.
    Unused,
}

/// Handling of unreadable samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorPolicy {
    /// The step fails, and the loader ends there.
    Stop,
    /// It is counted and named in the batch's [`crate::loader::Drops`]; in [`Order::ShuffledEpochs`] another sample
    /// replaces it, chosen by (seed, draw).
    Skip,
}
