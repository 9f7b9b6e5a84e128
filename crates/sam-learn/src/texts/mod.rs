//! The text prompts of a training: CLIP's vectors of masks and of words, computed once and kept on disk, so that CLIP runs in
//! no step.
//!
//! A mask has a few vectors, each of a random crop: a square around its box, with the background or without (Kirillov 2023,
//! arXiv 2304.02643 §D.5). The crops are a function of the mask and not of the run, so all runs share them. They are of the
//! original image: what an augmentation does to it does not change what the object is.
//!
//! [`TextVectors::survey`] finds out what a run lacks, [`TextVectors::compute`] adds it. A vector that is missing in a step
//! after all, as that of a sample that replaces another, is computed there.

mod store;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::{ControlFlow, Range};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rayon::prelude::*;
use sam_data::loader::{ErrorPolicy, LoaderOptions, SampleError, Samples};
use sam_data::random::{Purpose, RandomStream};
use sam_data::{BatchImage, BatchObject, ObjectMask, Undecoded};
use sam_files::Fingerprint;
use sam_image::{RgbImage, Rle};
use sam_infer::clip::{Background, Clip, MaskCrop};
use sam_model::{Modality, TextPromptConfig, TextVector};

use crate::embeddings::{OnProgress, first_samples};
use crate::error::LearnError;
use crate::options::{CropOptions, TextOptions};
use store::{FORMAT, Name, Rows, VectorStore, hash_of, rounded};

/// Images that are read between two reports of the progress.
const READ_AT_ONCE: usize = 64;

/// Crops that are computed together; at 336 px each takes a third of a MB.
const CROPS_AT_ONCE: usize = 64;

/// Texts that are computed between two reports of the progress.
const TEXTS_AT_ONCE: usize = 64;

/// Images whose vectors make the mean of all: it does not depend on the length of a run.
const IMAGES_OF_MEAN: usize = 1000;

/// Words for sides that change places when an image is mirrored: horizontally, and vertically.
const SIDES: [&[&str]; 2] =
    [&["left", "right", "leftmost", "rightmost"], &["top", "bottom", "upper", "lower", "above", "below"]];

/// Vectors of the objects of a training set and of the words about them.
pub struct TextVectors {
    options: TextOptions,
    samples: Arc<dyn Samples>,
    clip: Mutex<Clip>,
    config: TextPromptConfig,
    sizes_px: [usize; 2],
    store: VectorStore,
    /// Hash of the encoded image of each sample, as far as it was read.
    contents: Mutex<HashMap<usize, u64>>,
    /// `None` for a text that has no vector.
    words: Mutex<HashMap<String, Option<Arc<[f32]>>>>,
}

impl std::fmt::Debug for TextVectors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextVectors").field("store", &self.store).finish_non_exhaustive()
    }
}

/// The vectors that a run uses.
pub struct TextNeeds<'a> {
    /// How its data is loaded.
    pub loader: &'a LoaderOptions,
    /// The draws of the steps that are left.
    pub draws: Range<u64>,
}

/// What is there of the vectors of a run, and what is missing.
#[derive(Debug, Default)]
pub struct TextSurvey {
    /// Objects that are large enough for a text.
    pub n_objects: usize,
    /// Objects that are too small.
    pub n_small: usize,
    /// Of large enough objects, those whose vectors are missing.
    pub n_missing: usize,
    /// Words that are said of objects.
    pub n_words: usize,
    /// Of these, those that name a side: left or right, top or bottom. Mirrored images make them false.
    pub n_sided_words: [usize; 2],
    missing: Vec<usize>,
    /// All samples with objects that are large enough.
    used: Vec<usize>,
    missing_words: Vec<String>,
}

/// What was computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Computed {
    /// Objects.
    pub n_objects: usize,
    /// Captions that have no vector, as they are empty or too long: they are never a prompt.
    pub n_unusable_words: usize,
}

impl TextVectors {
    /// Of a training set, in a folder of vectors, which is made when it is missing.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn open(clip: Clip, options: TextOptions, samples: Arc<dyn Samples>, root: &Path) -> Result<Self, LearnError> {
        let config = config_of(&clip);
        let store = VectorStore::open(root, signature(&clip, &options.crops), config.width)?;
        let sizes_px = [clip.side_px(), clip.patch_px()];
        let (contents, words) = Default::default();
        Ok(Self { options, samples, clip: Mutex::new(clip), config, sizes_px, store, contents, words })
    }

    /// The text prompt of a segmenter for these vectors.
    #[must_use]
    pub fn config(&self) -> &TextPromptConfig {
        &self.config
    }

    /// Where the vectors are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.store.folder()
    }

    /// Finds out which vectors are missing, without decoding an image. Returns `Break` when `progress` does.
    ///
    /// # Errors
    ///
    /// When an image cannot be read and must not be skipped.
    pub fn survey(
        &self,
        needs: &TextNeeds<'_>,
        progress: OnProgress<'_>,
    ) -> Result<ControlFlow<(), TextSurvey>, LearnError> {
        let mut samples = first_samples(needs.loader, needs.draws.clone(), self.samples.n_samples());
        if self.options.centre {
            samples.extend(self.samples_of_mean());
            samples.sort_unstable();
            samples.dedup();
        }
        let (mut found, mut words) = (TextSurvey::default(), BTreeSet::new());
        for (done, indices) in samples.chunks(READ_AT_ONCE).enumerate() {
            if progress(done * READ_AT_ONCE, samples.len()).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            let read: Vec<_> = indices.par_iter().map(|&index| (index, self.undecoded(index))).collect();
            for (index, image) in read {
                let image = match image {
                    Ok(image) => image,
                    Err(_) if needs.loader.on_error == ErrorPolicy::Skip => continue,
                    Err(source) => return Err(LearnError::PromptedImage { source }),
                };
                let large: Vec<&ObjectMask> =
                    image.objects.iter().filter(|object| self.is_large(&object.mask)).collect();
                found.n_small += image.objects.len() - large.len();
                found.n_objects += large.len();
                if large.is_empty() {
                    continue;
                }
                found.used.push(index);
                let kept = self.store.load(Name::Image(image.content)).unwrap_or_default();
                let n_missing = large.iter().filter(|object| !kept.contains_key(&key_of(&object.mask))).count();
                found.n_missing += n_missing;
                if n_missing > 0 {
                    found.missing.push(index);
                }
                if self.options.words_chance > 0.0 {
                    words.extend(large.iter().flat_map(|object| self.words_of(index, object.class, &object.captions)));
                }
            }
        }
        found.n_words = words.len();
        found.n_sided_words = SIDES.map(|sides| words.iter().filter(|text| names_a_side(text, sides)).count());
        found.missing_words =
            words.into_iter().filter(|text| self.store.load(Name::Text(hash_of(text))).is_none()).collect();
        Ok(ControlFlow::Continue(found))
    }

    /// Computes what is missing; what is computed stays when it ends early.
    ///
    /// # Errors
    ///
    /// When an image cannot be decoded, or the folder not be written.
    pub fn compute(
        &self,
        survey: &TextSurvey,
        policy: ErrorPolicy,
        progress: OnProgress<'_>,
    ) -> Result<ControlFlow<Computed, Computed>, LearnError> {
        let total = survey.n_missing + survey.missing_words.len();
        let (mut computed, mut done) = (Computed::default(), 0);
        for texts in survey.missing_words.chunks(TEXTS_AT_ONCE) {
            computed.n_unusable_words += self.compute_words(texts)?;
            done += texts.len();
            if progress(done, total).is_break() {
                return Ok(ControlFlow::Break(computed));
            }
        }
        for &index in &survey.missing {
            match self.of_sample(index) {
                Ok(n_new) => computed.n_objects += n_new,
                Err(LearnError::PromptedImage { .. }) if policy == ErrorPolicy::Skip => {}
                Err(error) => return Err(error),
            }
            if progress(done + computed.n_objects, total).is_break() {
                return Ok(ControlFlow::Break(computed));
            }
        }
        Ok(ControlFlow::Continue(computed))
    }

    /// The means of the vectors of crops and of texts, `[width]` each.
    ///
    /// # Errors
    ///
    /// When a text has no vector, or an image cannot be read.
    pub fn means(&self, survey: &TextSurvey, texts: &[String]) -> Result<[Vec<f32>; 2], LearnError> {
        let mut image_sum = Sum::new(self.config.width);
        for index in self.samples_of_mean().filter(|index| survey.used.binary_search(index).is_ok()) {
            let kept = self.store.load(Name::Image(self.content_of(index)?)).unwrap_or_default();
            kept.values().flatten().for_each(|vector| image_sum.add(vector));
        }
        let mut text_sum = Sum::new(self.config.width);
        for text in texts {
            let vector = self.word(text)?.ok_or_else(|| LearnError::NoTextVector { text: text.clone() })?;
            text_sum.add(&vector);
        }
        Ok([image_sum.mean(), text_sum.mean()])
    }

    fn samples_of_mean(&self) -> impl Iterator<Item = usize> {
        let n_samples = self.samples.n_samples();
        (0..n_samples).step_by(n_samples.div_ceil(IMAGES_OF_MEAN).max(1))
    }

    /// The class names of the training set in the templates, each once.
    #[must_use]
    pub fn class_texts(&self, survey: &TextSurvey) -> Vec<String> {
        let names: BTreeSet<&String> = survey.used.iter().flat_map(|&index| self.samples.class_names(index)).collect();
        names.into_iter().flat_map(|name| self.options.in_templates(name)).collect()
    }

    /// Draws the texts of a batch: `None` for an object whose first prompt is a point or a box.
    pub(crate) fn draw(
        &self,
        seed: u64,
        images: &[BatchImage],
        objects: &[BatchObject],
    ) -> Result<Vec<Option<TextVector>>, LearnError> {
        let mut kept: BTreeMap<usize, Rows> = BTreeMap::new();
        let mut prompts = Vec::with_capacity(objects.len());
        for object in objects {
            let image = &images[object.image_index];
            let mut stream = RandomStream::new(seed, Purpose::Text, &[image.draw, object.id]);
            let is_text = stream.chance(self.options.chance) && self.is_large(&object.mask);
            let is_word = stream.chance(self.options.words_chance);
            let [of_crops, of_words] = [stream.unit(), stream.unit()];
            let pick = |share: f64, n: usize| ((share * n as f64) as usize).min(n.saturating_sub(1));
            if !is_text {
                prompts.push(None);
                continue;
            }
            let words = match is_word {
                true => self.words_of(image.sample_index, object.class, &object.captions),
                false => Vec::new(),
            };
            let word = match words.get(pick(of_words, words.len())) {
                Some(text) => self.word(text)?,
                None => None,
            };
            if let Some(values) = word {
                prompts.push(Some(TextVector { values, modality: Modality::Text }));
                continue;
            }
            let mut rows = self.rows_of(image.sample_index, &object.mask, &mut kept)?;
            let mut row = rows.swap_remove(pick(of_crops, rows.len()));
            add_noise(&mut row, self.options.noise, &mut stream);
            prompts.push(Some(TextVector { values: Arc::from(row), modality: Modality::Image }));
        }
        Ok(prompts)
    }

    /// The vectors of an object, computed if they are missing.
    fn rows_of(&self, index: usize, mask: &Rle, kept: &mut BTreeMap<usize, Rows>) -> Result<Vec<Vec<f32>>, LearnError> {
        let key = key_of(mask);
        let load = || Ok::<_, LearnError>(self.store.load(Name::Image(self.content_of(index)?)).unwrap_or_default());
        let of_image = match kept.entry(index) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(load()?),
        };
        if !of_image.contains_key(&key) {
            self.of_sample(index)?;
            *of_image = load()?;
        }
        let changed = || LearnError::PromptedImage { source: "it changed while the training ran".into() };
        of_image.get(&key).cloned().ok_or_else(changed)
    }

    /// Computes the missing vectors of a sample; returns the number of new objects.
    fn of_sample(&self, index: usize) -> Result<usize, LearnError> {
        let sample = self.samples.sample(index).map_err(|source| LearnError::PromptedImage { source })?;
        let name = Name::Image(self.content_of(index)?);
        let mut rows = self.store.load(name).unwrap_or_default();
        let is_new = |object: &&ObjectMask| self.is_large(&object.mask) && !rows.contains_key(&key_of(&object.mask));
        let new: BTreeMap<u64, &Rle> =
            sample.objects.iter().filter(is_new).map(|object| (key_of(&object.mask), &object.mask)).collect();
        let wanted: Vec<(u64, usize)> =
            new.keys().flat_map(|&key| (0..self.options.crops.per_object).map(move |variant| (key, variant))).collect();
        for wanted in wanted.chunks(CROPS_AT_ONCE) {
            let crop = |&(key, variant): &(u64, usize)| self.crop(&sample.image, new[&key], key, variant);
            let crops: Vec<MaskCrop> = wanted.par_iter().map(crop).collect();
            let vectors = self.clip.lock().unwrap_or_else(PoisonError::into_inner).crops(&crops);
            for (&(key, _), vector) in wanted.iter().zip(vectors) {
                rows.entry(key).or_default().push(vector);
            }
        }
        self.store.save(name, &rows)?;
        Ok(new.len())
    }

    fn crop(&self, image: &RgbImage, mask: &Rle, key: u64, variant: usize) -> MaskCrop {
        let CropOptions { scale: [low, high], zeroed_chance, .. } = self.options.crops;
        let mut stream = RandomStream::new(0, Purpose::Crop, &[key, variant as u64]);
        let scale = stream.uniform(low, high);
        let background = if stream.chance(zeroed_chance) { Background::Zeroed } else { Background::Kept };
        let [side_px, patch_px] = self.sizes_px;
        MaskCrop::new(image, mask, scale, background, side_px, patch_px)
    }

    /// The vector of a text; `None` when it has none.
    fn word(&self, text: &str) -> Result<Option<Arc<[f32]>>, LearnError> {
        if let Some(known) = self.words.lock().unwrap_or_else(PoisonError::into_inner).get(text) {
            return Ok(known.clone());
        }
        let hash = hash_of(text);
        let kept = self.store.load(Name::Text(hash)).and_then(|mut rows| rows.remove(&hash)?.pop());
        if kept.is_none() {
            self.compute_words(&[text.to_owned()])?;
        }
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(words.entry(text.to_owned()).or_insert(kept.map(Arc::from)).clone())
    }

    /// Computes the vectors of texts; returns how many have none.
    fn compute_words(&self, texts: &[String]) -> Result<usize, LearnError> {
        let vectors = self.clip.lock().unwrap_or_else(PoisonError::into_inner).usable_texts(texts);
        let mut n_unusable = 0;
        for (text, vector) in texts.iter().zip(vectors) {
            let vector = vector.map(|vector| rounded(&vector));
            match &vector {
                Some(vector) => {
                    let hash = hash_of(text);
                    self.store.save(Name::Text(hash), &Rows::from([(hash, vec![vector.clone()])]))?;
                }
                None => n_unusable += 1,
            }
            let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
            words.insert(text.clone(), vector.map(Arc::from));
        }
        Ok(n_unusable)
    }

    fn words_of(&self, index: usize, class: Option<usize>, captions: &[String]) -> Vec<String> {
        let class = class.and_then(|class| self.samples.class_names(index).get(class));
        self.options.words_of(captions, class.map(String::as_str))
    }

    fn is_large(&self, mask: &Rle) -> bool {
        mask.area_px() >= self.options.min_object_px.max(1)
    }

    fn undecoded(&self, index: usize) -> Result<Undecoded, SampleError> {
        let image = self.samples.undecoded(index)?;
        self.contents.lock().unwrap_or_else(PoisonError::into_inner).insert(index, image.content);
        Ok(image)
    }

    fn content_of(&self, index: usize) -> Result<u64, LearnError> {
        if let Some(&content) = self.contents.lock().unwrap_or_else(PoisonError::into_inner).get(&index) {
            return Ok(content);
        }
        Ok(self.undecoded(index).map_err(|source| LearnError::PromptedImage { source })?.content)
    }
}

/// The text prompt of a segmenter for the vectors of a CLIP.
#[must_use]
pub fn config_of(clip: &Clip) -> TextPromptConfig {
    TextPromptConfig { width: clip.width(), clip: format!("{:016x}", clip.fingerprint()) }
}

/// A running mean.
struct Sum {
    values: Vec<f64>,
    n: usize,
}

impl Sum {
    fn new(width: usize) -> Self {
        Self { values: vec![0.0; width], n: 0 }
    }

    fn add(&mut self, vector: &[f32]) {
        self.values.iter_mut().zip(vector).for_each(|(sum, value)| *sum += f64::from(*value));
        self.n += 1;
    }

    fn mean(self) -> Vec<f32> {
        self.values.iter().map(|sum| (sum / self.n.max(1) as f64) as f32).collect()
    }
}

fn names_a_side(text: &str, sides: &[&str]) -> bool {
    text.split(|letter: char| !letter.is_alphabetic())
        .any(|word| sides.iter().any(|side| word.eq_ignore_ascii_case(side)))
}

/// Gaussian noise of this length (as the root of the mean square) in a random direction.
fn add_noise(vector: &mut [f32], length: f64, stream: &mut RandomStream) {
    let deviation = length / (vector.len() as f64).sqrt();
    if deviation > 0.0 {
        vector.iter_mut().for_each(|value| *value += (deviation * stream.normal()) as f32);
    }
}

/// The name of an object's vectors in the file of its image.
fn key_of(mask: &Rle) -> u64 {
    let mut hash = Fingerprint::new(1);
    mask.size_hw().into_iter().for_each(|size| hash.add_word(size as u64));
    mask.counts().iter().for_each(|&run| hash.add_word(u64::from(run)));
    hash.value()
}

/// Of everything that decides a vector.
fn signature(clip: &Clip, crops: &CropOptions) -> u64 {
    let mut hash = Fingerprint::new(FORMAT);
    hash.add_word(clip.fingerprint());
    hash.add_word(crops.per_object as u64);
    crops.scale.into_iter().chain([crops.zeroed_chance]).for_each(|value| hash.add_word(value.to_bits()));
    hash.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_length_and_another_direction_each_time() {
        let drawn = |length: f64, id: u64| {
            let mut vector = vec![0.0; 4096];
            add_noise(&mut vector, length, &mut RandomStream::new(1, Purpose::Text, &[id]));
            vector
        };
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let (first, second) = (drawn(0.3, 0), drawn(0.3, 1));
        assert!((dot(&first, &first).sqrt() - 0.3).abs() < 0.01, "{}", dot(&first, &first).sqrt());
        assert!(dot(&first, &second).abs() < 0.01 * 0.3, "{}", dot(&first, &second));
        assert_eq!(drawn(0.3, 0), first);
        assert_eq!(drawn(0.0, 0), vec![0.0; 4096]);
    }

    #[test]
    fn sides_are_whole_words() {
        let sides = |text: &str| SIDES.map(|sides| names_a_side(text, sides));
        assert_eq!(sides("the man on the Left, sitting"), [true, false]);
        assert_eq!(sides("top-right wheel"), [true, true]);
        assert_eq!(sides("a bright laptop, stop"), [false, false]);
    }
}
