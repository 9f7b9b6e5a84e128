//! `[data]`: training data, validation data, and how they become batches.
//!
//! A step is the same on every machine: `images_per_step` and `objects_per_step` count the whole step, and
//! `optimiser.accumulation` is the number of batches into which it is split to fit into memory.

use std::num::NonZeroUsize;

use sam_data::loader::{ErrorPolicy, Labels, LoaderOptions, ObjectLimits};
use sam_data::synth::SynthScenes;
use sam_data::transforms::{Augmentation, ColourJitter, RandomCrop, ScaleJitter};
use sam_data::{OnBad, SourceOptions, is_cloud};
use serde::{Deserialize, Serialize};

use super::data_source::{DataSource, Validation};
use super::document::Node;
use super::files::{read_cloud_cache_dir, read_max_pixels};
use super::limits::largest;
use super::pretrain::SourceKind;
use super::ranges::{POSITIVE, SHARE_ABOVE_0, WORKERS, integer_of};
use super::reader::{Expected, Reader, Section};
use super::shape::Shape;

/// The data of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataPlan {
    /// Training data.
    pub(crate) train: DataSource,
    /// Whether it is opened as a labelled data set.
    #[serde(default, skip_serializing_if = "SourceKind::is_labelled")]
    pub(crate) source: SourceKind,
    /// Validation data.
    pub(crate) validation: Validation,
    /// Images of a batch: those of a step, divided by the accumulation.
    pub(crate) images_per_batch: NonZeroUsize,
    /// Largest number of objects of a batch: that of a step, divided by the accumulation.
    pub(crate) objects_per_batch: usize,
    /// Whether a step that finds no memory is made again with half the objects.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) halves_objects: bool,
    /// Largest number of objects of an image.
    pub(crate) objects_per_image: usize,
    /// Smallest area of an object after the augmentation, in pixels of its mask in the loss.
    pub(crate) min_object_px: usize,
    /// Objects that cover a larger fraction of their image are excluded.
    pub(crate) max_image_share: f64,
    /// Threads that read and transform.
    pub(crate) workers: usize,
    /// Batches that are prepared ahead.
    pub(crate) prefetch: usize,
    /// How unreadable images are handled.
    pub(crate) on_unreadable: ErrorPolicy,
    /// Augmentation of each image.
    pub(crate) augmentation: AugmentationPlan,
}

/// Augmentation, as it is typed; all off by default, as in the paper's training on SA-1B.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AugmentationPlan {
    /// Probability.
    pub(crate) horizontal_flip: f64,
    /// Probability.
    pub(crate) vertical_flip: f64,
    /// Smallest and largest scale.
    pub(crate) scale_jitter: Option<[f64; 2]>,
    /// Smallest and largest fraction of each side.
    pub(crate) crop: Option<[f64; 2]>,
    /// Strength, 0 for none; see [`ColourJitter`].
    pub(crate) brightness: f64,
    /// As `brightness`.
    pub(crate) contrast: f64,
    /// As `brightness`.
    pub(crate) saturation: f64,
}

impl DataPlan {
    /// The synthetic scenes for training, and those for validation.
    pub(crate) fn synthetic(&self) -> [Option<SynthScenes>; 2] {
        let train = match self.train {
            DataSource::Synth(scenes) => Some(scenes),
            DataSource::Files(_) | DataSource::Several(_) => None,
        };
        let validation = match self.validation {
            Validation::Synth(scenes) => Some(scenes),
            _ => None,
        };
        [train, validation]
    }

    /// `may_lack_labels`: the task can do with images alone.
    pub(super) fn read(reader: &Reader<'_>, accumulation: usize, may_lack_labels: bool) -> Self {
        let data = reader.top().section("data");
        let train = DataSource::read(reader, &data);
        let source = match may_lack_labels {
            true => data.choice("source", SourceKind::Labelled, &SourceKind::ALL),
            false => SourceKind::Labelled,
        };
        let validation = Validation::read(reader, &data, &train);
        let validation = match (source, validation) {
            (SourceKind::Images, Validation::Auto) if !data.is_given("split") => Validation::Nothing,
            (_, validation) => validation,
        };
        let is_split = !matches!(validation, Validation::Nothing | Validation::Files(_) | Validation::Synth(_));
        let keys = ["data.split", "data.source"];
        let expected = "omitted for images without labels: validate on a labelled data set (data.validation)";
        reader.check(source == SourceKind::Labelled || !is_split, &keys, expected, "a split");
        let is_one = source == SourceKind::Labelled || matches!(train, DataSource::Files(_));
        reader.check(
            is_one,
            &["data.source", "data.train"],
            "\"labelled\", or data.train a folder of images",
            "\"images\"",
        );
        let images_per_step = data.integer("images_per_step", accumulation, 1..);
        let objects = OBJECTS.max(images_per_step).next_multiple_of(accumulation);
        let objects_per_step = read_objects_per_step(&data, objects);
        let halves_objects = objects_per_step.is_none();
        let objects_per_step = objects_per_step.unwrap_or(objects);
        let limits = ObjectLimits::default();
        let on_unreadable = read_on_unreadable(&data, &train);
        let mut plan = Self {
            train,
            source,
            validation,
            images_per_batch: NonZeroUsize::new(images_per_step / accumulation).unwrap_or(NonZeroUsize::MIN),
            objects_per_batch: objects_per_step / accumulation,
            halves_objects,
            objects_per_image: data.integer("objects_per_image", limits.per_image_max, 1..),
            min_object_px: data.integer("min_object_px", limits.visible_px_min, 1..),
            max_image_share: data.float("max_image_share", limits.image_share_max, SHARE_ABOVE_0),
            workers: 2,
            prefetch: 2,
            on_unreadable,
            augmentation: AugmentationPlan::read(&data.section("augmentation")),
        };
        change_loading(&mut plan.workers, &mut plan.prefetch, &data);
        let [images, objects, parts] = ["data.images_per_step", "data.objects_per_step", "optimiser.accumulation"];
        let multiple = format!("a multiple of {parts} ({accumulation}), which splits a step into batches");
        let is_multiple = |n: usize| n.is_multiple_of(accumulation);
        reader.check(is_multiple(images_per_step), &[images, parts], &multiple, images_per_step);
        reader.check(is_multiple(objects_per_step), &[objects, parts], &multiple, objects_per_step);
        let expected = format!("at least {images} ({images_per_step}): every image has an object");
        let suffices = objects_per_step >= images_per_step;
        reader.check(suffices, &[objects, images], &expected, objects_per_step);
        plan
    }

    /// Images that cannot be read are bad data, like objects that cannot be used.
    fn on_error(&self) -> ErrorPolicy {
        match &self.train {
            DataSource::Files(files) if files.options.bad == OnBad::Drop => ErrorPolicy::Skip,
            DataSource::Several(sources) if sources.iter().any(|source| source.files.options.bad == OnBad::Drop) => {
                ErrorPolicy::Skip
            }
            DataSource::Files(_) | DataSource::Several(_) | DataSource::Synth(_) => self.on_unreadable,
        }
    }

    /// How training data is loaded for a model of this input size, with masks of `mask_side_px` in the loss.
    pub(crate) fn loader_options(&self, seed: u64, side_px: usize, mask_side_px: usize) -> LoaderOptions {
        LoaderOptions {
            seed,
            n_images: self.images_per_batch,
            side_px,
            mask_side_px,
            objects: ObjectLimits {
                per_image_max: self.objects_per_image,
                per_batch_max: self.objects_per_batch,
                visible_px_min: self.min_object_px,
                image_share_max: self.max_image_share,
            },
            labels: if self.source == SourceKind::Images { Labels::Unused } else { Labels::Wanted },
            augmentation: self.augmentation.augmentation(),
            n_workers: self.workers,
            n_prefetch_batches: self.prefetch,
            on_error: self.on_error(),
            ..LoaderOptions::default()
        }
    }
}

/// A number, or `None` for as many as the memory holds.
fn read_objects_per_step(data: &Section<'_>, default: usize) -> Option<usize> {
    let words = "a whole number of at least 1, or \"auto\"";
    let shapes = vec![Shape::integer("objects_per_step", &(1_usize..)), Shape::of_words(&["auto"])];
    let largest = usize::try_from(largest("objects_per_step")).unwrap_or(usize::MAX);
    let read = |node: &Node| match node.text() {
        Some("auto") => Some(None),
        _ => integer_of(node, &(1..=largest)).map(Some),
    };
    data.read("objects_per_step", Expected { default: &default.to_string(), words, shapes }, read)
        .unwrap_or(Some(default))
}

/// Reads the keys of `[data]` that can change on resume.
pub(super) fn change_loading(workers: &mut usize, prefetch: &mut usize, data: &Section<'_>) {
    *workers = data.integer("workers", *workers, WORKERS);
    *prefetch = data.integer("prefetch", *prefetch, 1..=*WORKERS.end());
}

/// Sets the limit of pixels and the folder of shards from the cloud for every data set of a run; no result depends on them.
pub(super) fn change_reading(mut options: Vec<&mut SourceOptions>, data: &Section<'_>) {
    if let Some(dir) = read_cloud_cache_dir(data) {
        options.iter_mut().for_each(|options| options.cloud_cache_dir = Some(dir.clone()));
    }
    let default = options.first().map_or(SourceOptions::default().max_pixels, |options| options.max_pixels);
    let max_pixels = read_max_pixels(data, default);
    if data.is_given("max_pixels") {
        options.into_iter().for_each(|options| options.max_pixels = max_pixels);
    }
}

/// Of many shards in the cloud, one may vanish in a run of weeks: its images are skipped by default.
pub(super) fn read_on_unreadable(data: &Section<'_>, train: &DataSource) -> ErrorPolicy {
    let is_in_cloud = train.paths().into_iter().any(is_cloud);
    let default = if is_in_cloud { ErrorPolicy::Skip } else { ErrorPolicy::Stop };
    data.choice("on_unreadable", default, &[("stop", ErrorPolicy::Stop), ("skip", ErrorPolicy::Skip)])
}

/// Masks per GPU in the paper (appendix A).
const OBJECTS: usize = 64;

impl AugmentationPlan {
    fn read(section: &Section<'_>) -> Self {
        Self {
            horizontal_flip: section.float("horizontal_flip", 0.0, 0.0..=1.0),
            vertical_flip: section.float("vertical_flip", 0.0, 0.0..=1.0),
            scale_jitter: section.float_range_if_given("scale_jitter", POSITIVE),
            crop: section.float_range_if_given("crop", SHARE_ABOVE_0),
            brightness: section.float("brightness", 0.0, 0.0..=1.0),
            contrast: section.float("contrast", 0.0, 0.0..=1.0),
            saturation: section.float("saturation", 0.0, 0.0..=1.0),
        }
    }

    /// The keys that make an image another one than it is or its mirror image.
    pub(crate) fn beyond_flips(&self) -> Vec<&'static str> {
        let strengths = [
            ("data.augmentation.brightness", self.brightness),
            ("data.augmentation.contrast", self.contrast),
            ("data.augmentation.saturation", self.saturation),
        ];
        let windows = [
            ("data.augmentation.scale_jitter", self.scale_jitter.is_some()),
            ("data.augmentation.crop", self.crop.is_some()),
        ];
        let strong = strengths.into_iter().map(|(key, strength)| (key, strength > 0.0));
        windows.into_iter().chain(strong).filter_map(|(key, is_on)| is_on.then_some(key)).collect()
    }

    fn augmentation(&self) -> Augmentation {
        let colour = ColourJitter { brightness: self.brightness, contrast: self.contrast, saturation: self.saturation };
        let changes_colours = [self.brightness, self.contrast, self.saturation].iter().any(|&strength| strength > 0.0);
        Augmentation {
            horizontal_flip_chance: self.horizontal_flip,
            vertical_flip_chance: self.vertical_flip,
            scale_jitter: self.scale_jitter.map(|[scale_min, scale_max]| ScaleJitter { scale_min, scale_max }),
            crop: self.crop.map(|[side_share_min, side_share_max]| RandomCrop { side_share_min, side_share_max }),
            colour: changes_colours.then_some(colour),
            resized_crop: None,
        }
    }
}
