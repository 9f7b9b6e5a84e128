//! Embeddings of a frozen encoder, computed once and kept on disk: a step then neither decodes nor encodes an image.
//!
//! [`EmbeddingNeeds`] lists what a run will use, which follows from its seed: the images that its draws take, each as it is
//! mirrored there, and those of the validation. [`FrozenEmbeddings::survey`] finds out what is missing, and
//! [`FrozenEmbeddings::compute`] adds it. In a step, the hash of an image's file leads to its embedding; one that is missing
//! or damaged after all is computed there.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use rayon::prelude::*;
use sam_data::loader::{ErrorPolicy, Labels, LoaderOptions, SampleError, Samples};
use sam_data::transforms::View;
use sam_data::{BatchImage, Sample, Undecoded};
use sam_eval::EvalSet;
use sam_image::RgbImage;
use sam_infer::cache::{EmbeddingCache, EntryKey, ImageIndex, Protected};
use sam_infer::image_fingerprint;
use sam_model::Sam;

use crate::error::LearnError;

/// Images that are read between two reports of the progress.
const READ_AT_ONCE: usize = 64;

/// Receives the number done and that of all; `Break` ends the work.
pub type OnProgress<'a> = &'a mut dyn FnMut(usize, usize) -> ControlFlow<()>;

/// The embeddings that a run uses.
pub struct EmbeddingNeeds<'a> {
    /// Training data.
    pub samples: &'a Arc<dyn Samples>,
    /// How it is loaded: with an augmentation that only mirrors.
    pub loader: &'a LoaderOptions,
    /// The draws of the steps that are left.
    pub draws: Range<u64>,
    /// Validation data.
    pub held_out: Vec<EvalSet>,
}

/// How many embeddings a run uses, as far as is known without reading anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Embeddings of training images.
    pub n_training: usize,
    /// Images that the draws take.
    pub n_draws: u64,
    /// Embeddings of validation images.
    pub n_held_out: usize,
}

impl EmbeddingNeeds<'_> {
    /// Counts the embeddings, of training images up to `at_most`.
    #[must_use]
    pub fn usage(&self, at_most: usize) -> Usage {
        let n_samples = self.samples.n_samples();
        // Many draws of few images add nothing after the first epochs.
        let at_most = at_most.min(n_samples.saturating_mul(self.n_mirrorings()));
        let mut seen: HashSet<(usize, [bool; 2])> = HashSet::new();
        for draw in self.draws.clone() {
            if let Some(index) = self.loader.samples_of(draw, n_samples).next() {
                seen.insert((index, self.loader.mirroring_of(draw, index)));
            }
            if seen.len() >= at_most {
                break;
            }
        }
        Usage {
            n_training: seen.len(),
            n_draws: self.draws.end.saturating_sub(self.draws.start),
            n_held_out: self.held_out.iter().map(|set| set.indices.len()).sum(),
        }
    }

    /// Embeddings of an image, at most.
    fn n_mirrorings(&self) -> usize {
        let augmentation = &self.loader.augmentation;
        let chances = [augmentation.horizontal_flip_chance, augmentation.vertical_flip_chance];
        1 << chances.iter().filter(|chance| **chance > 0.0 && **chance < 1.0).count()
    }
}

/// The samples that draws take at first.
pub(crate) fn first_samples(loader: &LoaderOptions, draws: Range<u64>, n_samples: usize) -> Vec<usize> {
    let mut firsts = BTreeSet::new();
    for draw in draws {
        firsts.extend(loader.samples_of(draw, n_samples).next());
        if firsts.len() == n_samples {
            break;
        }
    }
    firsts.into_iter().collect()
}

/// The embeddings of a run, in a cache of its encoder.
pub struct FrozenEmbeddings {
    cache: Arc<EmbeddingCache>,
    images: ImageIndex,
    samples: Arc<dyn Samples>,
}

impl std::fmt::Debug for FrozenEmbeddings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrozenEmbeddings").field("cache", &self.cache).finish_non_exhaustive()
    }
}

/// What is there of the embeddings of a run, and what is missing.
pub struct EmbeddingSurvey {
    /// Embeddings that are there.
    pub n_present: usize,
    /// Embeddings to compute.
    pub n_missing: usize,
    /// Those that are there; they must not be removed.
    pub present: Protected,
    missing: Vec<MissingImage>,
}

/// An image of which embeddings are missing.
struct MissingImage {
    samples: Arc<dyn Samples>,
    index: usize,
    content: u64,
    mirrored: Vec<[bool; 2]>,
}

impl EmbeddingSurvey {
    /// Leaves the part of the missing embeddings that rank `rank` of `n` computes, by the images' content: whatever others have computed
    /// meanwhile, the parts of all ranks are all.
    #[must_use]
    pub fn part(mut self, rank: usize, n: usize) -> Self {
        self.missing.retain(|image| image.content % n as u64 == rank as u64);
        self.n_missing = self.missing.iter().map(|image| image.mirrored.len()).sum();
        self
    }
}

impl FrozenEmbeddings {
    /// For the training data of a run.
    ///
    /// # Errors
    ///
    /// When the cache cannot be written.
    pub fn open(cache: EmbeddingCache, samples: Arc<dyn Samples>) -> Result<Self, LearnError> {
        let images = ImageIndex::open(cache.root())?;
        Ok(Self { cache: Arc::new(cache), images, samples })
    }

    /// The cache.
    #[must_use]
    pub fn cache(&self) -> &Arc<EmbeddingCache> {
        &self.cache
    }

    /// Finds out which embeddings are missing, without decoding an image. Returns `Break` when `progress` does.
    ///
    /// # Errors
    ///
    /// When a training image cannot be read and must not be skipped.
    pub fn survey(
        &self,
        needs: &EmbeddingNeeds<'_>,
        progress: OnProgress<'_>,
    ) -> Result<ControlFlow<(), EmbeddingSurvey>, LearnError> {
        let mut found = EmbeddingSurvey { n_present: 0, n_missing: 0, present: Protected::new(), missing: Vec::new() };
        let firsts = first_samples(needs.loader, needs.draws.clone(), needs.samples.n_samples());
        let total = firsts.len() + needs.held_out.iter().map(|set| set.indices.len()).sum::<usize>();
        let mut done = 0;
        let mut read = |samples: &Arc<dyn Samples>, indices: &[usize], labels: Labels| {
            let mut all = Vec::with_capacity(indices.len());
            for indices in indices.chunks(READ_AT_ONCE) {
                all.par_extend(
                    indices
                        .par_iter()
                        .map(|&index| (index, samples.undecoded(index).map(|image| content_of(image, labels)))),
                );
                done += indices.len();
                if progress(done, total).is_break() {
                    return None;
                }
            }
            Some(all)
        };
        let Some(contents) = read(needs.samples, &firsts, needs.loader.labels) else {
            return Ok(ControlFlow::Break(()));
        };
        for (index, DrawnImage { content, mirrored }) in training_images(needs, contents)? {
            self.add(&mut found, needs.samples, (index, content), mirrored.into_iter());
        }
        for set in &needs.held_out {
            let Some(contents) = read(&set.samples, &set.indices, Labels::Wanted) else {
                return Ok(ControlFlow::Break(()));
            };
            for (index, content) in contents {
                // The validation says what is wrong with an image that cannot be read, and skips one without objects.
                if let Ok(Some(content)) = content {
                    self.add(&mut found, &set.samples, (index, content), std::iter::once([false; 2]));
                }
            }
        }
        Ok(ControlFlow::Continue(found))
    }

    fn add(
        &self,
        found: &mut EmbeddingSurvey,
        samples: &Arc<dyn Samples>,
        (index, content): (usize, u64),
        mirrored: impl Iterator<Item = [bool; 2]>,
    ) {
        let pixels = self.images.pixels_of(content);
        let mut missing = Vec::new();
        for mirrored in mirrored {
            match pixels.map(|image| EntryKey { image, mirrored }).filter(|&key| self.cache.has(key)) {
                Some(key) => found.n_present += usize::from(found.present.insert(key)),
                None => missing.push(mirrored),
            }
        }
        if !missing.is_empty() {
            found.n_missing += missing.len();
            found.missing.push(MissingImage { samples: Arc::clone(samples), index, content, mirrored: missing });
        }
    }

    /// Computes what is missing. Returns the number of embeddings that are there then; what is computed stays when it ends
    /// early.
    ///
    /// # Errors
    ///
    /// When an image cannot be decoded, or the cache not be written.
    pub fn compute(
        &self,
        sam: &Sam,
        survey: &EmbeddingSurvey,
        policy: ErrorPolicy,
        progress: OnProgress<'_>,
    ) -> Result<ControlFlow<usize, usize>, LearnError> {
        let sam = sam.valid();
        let mut done = 0;
        for missing in &survey.missing {
            let sample = match missing.samples.sample(missing.index) {
                Ok(sample) => sample,
                Err(_) if policy == ErrorPolicy::Skip => {
                    done += missing.mirrored.len();
                    continue;
                }
                Err(source) => return Err(LearnError::EmbeddedImage { source }),
            };
            let image = image_fingerprint(&sample.image);
            self.images.insert(missing.content, image)?;
            for &mirrored in &missing.mirrored {
                let key = EntryKey { image, mirrored };
                if !self.cache.has(key) {
                    self.cache.store(key, &encode(&sam, &sample.image, mirrored))?;
                }
                done += 1;
                if progress(done, survey.n_missing).is_break() {
                    return Ok(ControlFlow::Break(survey.n_present + done));
                }
            }
        }
        Ok(ControlFlow::Continue(survey.n_present + done))
    }

    /// The embeddings of a batch, `[B, C, G, G]`.
    pub(crate) fn of_batch(&self, sam: &Sam, images: &[BatchImage]) -> Result<Tensor<4>, LearnError> {
        let device = sam.device().inner();
        let of_image = |image: &BatchImage| {
            let key = EntryKey { image: image.content, mirrored: [image.view.mirrored_x, image.view.mirrored_y] };
            match self.cache.load(key, &device) {
                Some(embedding) => Ok(embedding),
                None => self.again(sam, image.sample_index, key),
            }
        };
        let embeddings = images.iter().map(of_image).collect::<Result<Vec<_>, LearnError>>()?;
        Ok(Tensor::cat(embeddings, 0))
    }

    /// The embedding of a whole image that is not mirrored, by [`image_fingerprint`]; `None` when it is missing.
    pub(crate) fn of_whole_image(&self, image: u64, device: &Device) -> Option<Tensor<4>> {
        self.cache.load(EntryKey::plain(image), device)
    }

    /// Computes an embedding that is missing in a step.
    fn again(&self, sam: &Sam, sample_index: usize, key: EntryKey) -> Result<Tensor<4>, LearnError> {
        let sample = self.samples.sample(sample_index).map_err(|source| LearnError::EmbeddedImage { source })?;
        // Of the image as it is now, should it have changed since its hash was taken.
        let key = EntryKey { image: image_fingerprint(&sample.image), ..key };
        Ok(self.cache.store(key, &encode(&sam.valid(), &sample.image, key.mirrored))?)
    }
}

/// An image that draws take.
struct DrawnImage {
    content: u64,
    /// As it is mirrored in any of them.
    mirrored: BTreeSet<[bool; 2]>,
}

/// The images that the draws take, each with its content and its mirrorings: as the loader chooses them, up to objects
/// that are too small or too large.
fn training_images(
    needs: &EmbeddingNeeds<'_>,
    contents: Vec<(usize, Result<Option<u64>, SampleError>)>,
) -> Result<BTreeMap<usize, DrawnImage>, LearnError> {
    let usable = |content: Result<Option<u64>, SampleError>| match content {
        Err(source) if needs.loader.on_error == ErrorPolicy::Stop => Err(LearnError::EmbeddedImage { source }),
        Err(_) => Ok(None),
        Ok(content) => Ok(content),
    };
    let mut known: HashMap<usize, Option<u64>> = HashMap::new();
    for (index, content) in contents {
        known.insert(index, usable(content)?);
    }
    let n_samples = needs.samples.n_samples();
    // When every image was looked at, there are no more than these.
    let n_usable = known.values().flatten().count();
    let at_most = if known.len() == n_samples { n_usable * needs.n_mirrorings() } else { usize::MAX };
    let mut n_found = 0;
    let mut images: BTreeMap<usize, DrawnImage> = BTreeMap::new();
    for draw in needs.draws.clone() {
        for index in needs.loader.samples_of(draw, n_samples) {
            let content = match known.get(&index) {
                Some(&content) => content,
                None => {
                    let image = needs.samples.undecoded(index);
                    let content = usable(image.map(|image| content_of(image, needs.loader.labels)))?;
                    *known.entry(index).or_insert(content)
                }
            };
            if let Some(content) = content {
                let image = images.entry(index).or_insert(DrawnImage { content, mirrored: BTreeSet::new() });
                n_found += usize::from(image.mirrored.insert(needs.loader.mirroring_of(draw, index)));
                break;
            }
        }
        if n_found == at_most {
            break;
        }
    }
    Ok(images)
}

/// Hash of an image; `None` without the objects that are wanted.
fn content_of(image: Undecoded, labels: Labels) -> Option<u64> {
    (labels == Labels::Unused || !image.objects.is_empty()).then_some(image.content)
}

/// The embedding of a whole image, `[1, C, G, G]`: as a step encodes it.
fn encode(sam: &Sam, image: &RgbImage, [mirrored_x, mirrored_y]: [bool; 2]) -> Tensor<4> {
    let side = sam.image_size();
    let whole = View::whole([image.height() as usize, image.width() as usize], side);
    let view = View { mirrored_x, mirrored_y, ..whole };
    let pixels = view.render(image);
    sam.encode(Sam::preprocess(pixels.as_raw(), view.resized_hw, side, &sam.device()))
}

/// The training data of a run with cached embeddings: the content of an undecoded image is the hash of its pixels, which
/// names its embeddings.
pub(crate) struct FingerprintedSamples(pub(crate) Arc<FrozenEmbeddings>);

impl Samples for FingerprintedSamples {
    fn n_samples(&self) -> usize {
        self.0.samples.n_samples()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        self.0.samples.sample(index)
    }

    fn announce(&self, now: &[usize], next: &[usize]) {
        self.0.samples.announce(now, next);
    }

    /// An image that was never decoded is decoded here: it may be damaged.
    fn undecoded(&self, index: usize) -> Result<Undecoded, SampleError> {
        let FrozenEmbeddings { images, samples, .. } = &*self.0;
        let image = samples.undecoded(index)?;
        let content = match images.pixels_of(image.content) {
            Some(pixels) => pixels,
            None => {
                let pixels = image_fingerprint(&samples.sample(index)?.image);
                // A full disk costs time in the next step, and no image.
                let _ = images.insert(image.content, pixels);
                pixels
            }
        };
        Ok(Undecoded { content, ..image })
    }
}
