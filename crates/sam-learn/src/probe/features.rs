//! Features of labelled images or objects.
//!
//! For the features of an image its centre crop fills the input, as in the evaluation of masked autoencoders. For those of an
//! object the whole image is padded as for the segmenter; the features are the mean of all patch tokens, each weighted by the
//! area of the mask in its patch.
//!
//! Shapes: `B` images, `O` objects, `N` patches, `C` number of features, `H W` input in pixels.

use std::num::NonZeroUsize;
use std::sync::Arc;

use burn::tensor::module::adaptive_avg_pool2d;
use burn::tensor::{Tensor, TensorData};
use sam_data::DeviceBatch;
use sam_data::loader::{
    Batch, ErrorPolicy, Labels as LoaderLabels, Loader, LoaderOptions, ObjectLimits, Order, Samples, Subset,
};
use sam_data::transforms::{Augmentation, ResizedCrop};
use sam_model::weights::host_values;

use crate::error::LearnError;
use crate::probe::encoder::{FrozenEncoder, Pooling, Tokens};
use crate::task::normalised_images;

/// Most sample points of a mask along each side of a patch.
const MAX_POINTS_PER_PATCH: usize = 8;

/// Side length of the thumbnail whose pixels are a baseline for the features of an image.
const THUMBNAIL_SIDE: usize = 16;

/// Approximate number of tokens of a batch: enough to keep a CPU busy, and one image of a large segmenter.
const TOKENS_PER_BATCH: usize = 4096;

/// Largest number of images of a batch.
const MAX_IMAGES: usize = 64;

/// Labelled samples, for training or for testing.
#[derive(Clone)]
pub struct ProbeSet {
    /// The whole data set.
    pub samples: Arc<dyn Samples>,
    /// The samples of it that are used.
    pub indices: Vec<usize>,
    /// Their classes.
    pub labels: Labels,
}

/// The classified images or objects. Classes are indices from 0 on.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// Whole images: the class by index of the sample.
    Images(Vec<Option<usize>>),
    /// The objects in them: the class by the source's class; objects without one are dropped.
    Objects(Vec<Option<usize>>),
}

/// How features are extracted.
#[derive(Clone, Copy, Debug)]
pub struct ExtractOptions {
    /// The feature of a whole image.
    pub pooling: Pooling,
    /// Images of a batch; none: as many as suit the encoder. Memory depends on it, results do not.
    pub images_per_batch: Option<NonZeroUsize>,
    /// Threads that read and resize.
    pub n_workers: usize,
    /// Policy for unreadable images.
    pub on_error: ErrorPolicy,
}

/// A row of features for each image or object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// Number of features of a row, `C`.
    pub width: usize,
    /// All rows, one after the other.
    pub values: Vec<f32>,
}

impl Features {
    /// Number of rows.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    fn push(&mut self, values: Tensor<2>) {
        self.width = values.dims()[1];
        self.values.extend(host_values(&values));
    }
}

/// Features with the class of each row.
#[derive(Clone, Copy, Debug)]
pub struct LabelledFeatures<'a> {
    /// Standardised features.
    pub features: &'a Features,
    /// The class of each row.
    pub classes: &'a [usize],
    /// The image of each row.
    pub images: &'a [usize],
}

impl LabelledFeatures<'_> {
    /// One more than the largest class.
    ///
    /// # Panics
    ///
    /// When there is not a class and an image for each row, or no row.
    pub(super) fn n_classes(&self) -> usize {
        let n_rows = self.features.n_rows();
        assert_eq!([self.classes.len(), self.images.len()], [n_rows; 2], "a class and an image for each row");
        1 + self.classes.iter().max().expect("at least one row to train on")
    }
}

/// Features of a [`ProbeSet`].
#[derive(Clone, Debug, Default)]
pub struct Extracted {
    /// Features by each encoder; the last are those of the pixels.
    pub features: Vec<Features>,
    /// The class of each row.
    pub classes: Vec<usize>,
    /// The image of each row, as an index into [`ProbeSet::indices`].
    pub images: Vec<usize>,
    /// Images and objects without features.
    pub dropped: Dropped,
}

/// Images and objects without features.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dropped {
    /// Number of images that cannot be read.
    pub n_unreadable: usize,
    /// The reasons of the first few of them, which name the file.
    pub unreadable: Vec<String>,
    /// Number of objects without a class.
    pub without_class: usize,
    /// Number of objects of which nothing is left at the size of the input, or that are entirely ignored.
    pub too_small: usize,
}

/// Extracts the features of a set by several encoders with the same input size, and those of the pixels.
///
/// # Errors
///
/// When an image cannot be read and must not be skipped, or features are NaN or infinite.
///
/// # Panics
///
/// When the encoders have different input sizes, or there is none.
pub fn extract(
    encoders: &[FrozenEncoder],
    set: &ProbeSet,
    options: &ExtractOptions,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Extracted, LearnError> {
    let first = encoders.first().expect("at least one encoder");
    let ([height, width], patch) = (first.size_hw(), first.patch_size());
    for encoder in encoders {
        let input = (encoder.size_hw(), encoder.patch_size());
        assert_eq!(input, ([height, width], patch), "encoders must have the same input size to share images");
    }
    let grid = Grid { rows: height / patch, columns: width / patch, points: patch.min(MAX_POINTS_PER_PATCH) };
    let device = first.device();
    let indices = set.indices.iter().map(|&index| index as u32).collect();
    let samples = Arc::new(Subset { samples: Arc::clone(&set.samples), indices });
    let mut extracted = Extracted { features: vec![Features::default(); encoders.len() + 1], ..Extracted::default() };
    let mut loader = Loader::new(samples, loader_options(set, options, [height, width], &grid), 0);
    while let Some(batch) = loader.next_batch() {
        let mut batch = batch?;
        let last = batch.images.iter().map(|image| image.draw as usize + 1).max();
        extracted.dropped.too_small += batch.drops.n_erased as usize;
        let wanted = Wanted::of(set, &batch, &grid, &mut extracted.dropped);
        if wanted.is_empty() {
            last.into_iter().for_each(&mut *on_progress);
            continue;
        }
        // The device needs no masks.
        (batch.objects, batch.object_masks, batch.ignore_masks) = (Vec::new(), Vec::new(), None);
        let images = normalised_images(&DeviceBatch::new(batch, &device)).narrow(2, 0, height).narrow(3, 0, width);
        let mut features_by_encoder: Vec<Tensor<2>> =
            encoders.iter().map(|encoder| wanted.pooled(encoder.tokens(images.clone()), options.pooling)).collect();
        features_by_encoder.push(wanted.pixels(images, patch, options.pooling));
        for (features, rows) in extracted.features.iter_mut().zip(features_by_encoder) {
            features.push(rows);
        }
        for (at, (image, class)) in wanted.rows().enumerate() {
            for features in &extracted.features {
                let row = features.n_rows() - wanted.len() + at;
                let values = &features.values[row * features.width..][..features.width];
                if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
                    let index = set.indices[image];
                    return Err(LearnError::FeatureNotFinite { index, value });
                }
            }
            extracted.images.push(image);
            extracted.classes.push(class);
        }
        last.into_iter().for_each(&mut *on_progress);
    }
    // From the loader and not from its batches, as a batch of unreadable images alone is never delivered.
    let report = loader.report();
    extracted.dropped.n_unreadable = report.n_skipped as usize;
    extracted.dropped.unreadable = report.drops.skipped.iter().map(|skipped| skipped.reason.clone()).collect();
    Ok(extracted)
}

fn loader_options(set: &ProbeSet, options: &ExtractOptions, size_hw: [usize; 2], grid: &Grid) -> LoaderOptions {
    let side_px = size_hw[0].max(size_hw[1]);
    let n_tokens = grid.rows * grid.columns;
    let usual =
        NonZeroUsize::new((TOKENS_PER_BATCH / n_tokens.max(1)).clamp(1, MAX_IMAGES)).unwrap_or(NonZeroUsize::MIN);
    let (labels, resized_crop) = match set.labels {
        Labels::Images(_) => (LoaderLabels::Unused, Some(ResizedCrop::middle(size_hw))),
        Labels::Objects(_) => (LoaderLabels::Wanted, None),
    };
    LoaderOptions {
        n_images: options.images_per_batch.unwrap_or(usual),
        side_px,
        mask_side_px: grid.rows.max(grid.columns) * grid.points,
        order: Order::InOrderOnce,
        objects: ObjectLimits::all(),
        labels,
        augmentation: Augmentation { resized_crop, ..Augmentation::default() },
        n_workers: options.n_workers,
        on_error: options.on_error,
        ..LoaderOptions::default()
    }
}

/// Patches of the input, and sample points of a mask along each side of a patch.
struct Grid {
    rows: usize,
    columns: usize,
    points: usize,
}

/// The rows of a batch.
enum Wanted {
    /// For each image: its index in the batch and in the set, and its class.
    Images(Vec<(usize, usize, usize)>),
    /// For each image: its index in the batch and in the set, and its objects.
    Objects(Vec<(usize, usize, Vec<WantedObject>)>),
}

struct WantedObject {
    class: usize,
    /// Fraction of the object in each patch, `[N]`; their sum is 1.
    fractions: Vec<f32>,
}

impl Wanted {
    fn of(set: &ProbeSet, batch: &Batch, grid: &Grid, dropped: &mut Dropped) -> Self {
        match &set.labels {
            Labels::Images(classes) => {
                let images = batch.images.iter().enumerate().filter_map(|(at, image)| {
                    let class = classes.get(set.indices[image.sample_index]).copied().flatten()?;
                    Some((at, image.sample_index, class))
                });
                Self::Images(images.collect())
            }
            Labels::Objects(classes) => {
                let of_image = |(at, image): (usize, &sam_data::BatchImage)| {
                    let mut objects = Vec::new();
                    for (place, object) in batch.objects.iter().enumerate().filter(|(_, o)| o.image_index == at) {
                        match object.class.and_then(|class| classes.get(class).copied().flatten()) {
                            None => dropped.without_class += 1,
                            Some(class) => match fractions(batch, place, at, grid) {
                                None => dropped.too_small += 1,
                                Some(fractions) => objects.push(WantedObject { class, fractions }),
                            },
                        }
                    }
                    (at, image.sample_index, objects)
                };
                let mut by_image: Vec<_> = batch.images.iter().enumerate().map(of_image).collect();
                by_image.retain(|(_, _, objects)| !objects.is_empty());
                Self::Objects(by_image)
            }
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Images(images) => images.len(),
            Self::Objects(by_image) => by_image.iter().map(|(_, _, objects)| objects.len()).sum(),
        }
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Index of the image in the set, and class, of each row.
    fn rows(&self) -> impl Iterator<Item = (usize, usize)> {
        let rows: Vec<(usize, usize)> = match self {
            Self::Images(images) => images.iter().map(|&(_, image, class)| (image, class)).collect(),
            Self::Objects(by_image) => by_image
                .iter()
                .flat_map(|(_, image, objects)| objects.iter().map(|object| (*image, object.class)))
                .collect(),
        };
        rows.into_iter()
    }

    /// Features of all rows, `[rows, C]`.
    fn pooled(&self, tokens: Tokens, pooling: Pooling) -> Tensor<2> {
        let [_, n_patches, width] = tokens.patches.dims();
        match self {
            Self::Images(images) => {
                let of_image = |&(at, ..): &(usize, usize, usize)| match (pooling, &tokens.class) {
                    (Pooling::ClassToken, Some(class)) => class.clone().narrow(0, at, 1),
                    _ => tokens.patches.clone().narrow(0, at, 1).mean_dim(1).reshape([1, width]),
                };
                Tensor::cat(images.iter().map(of_image).collect(), 0)
            }
            Self::Objects(by_image) => {
                let device = tokens.patches.device();
                let of_image = |(at, _, objects): &(usize, usize, Vec<WantedObject>)| {
                    let fractions: Vec<f32> =
                        objects.iter().flat_map(|object| object.fractions.iter().copied()).collect();
                    let fractions =
                        Tensor::<2>::from_data(TensorData::new(fractions, [objects.len(), n_patches]), &device);
                    fractions.matmul(tokens.patches.clone().narrow(0, *at, 1).reshape([n_patches, width]))
                };
                Tensor::cat(by_image.iter().map(of_image).collect(), 0)
            }
        }
    }

    /// Features without any network: of an image its thumbnail, of an object the mean patch under its mask.
    fn pixels(&self, images: Tensor<4>, patch: usize, pooling: Pooling) -> Tensor<2> {
        let [batch, _, height, width] = images.dims();
        let (rows, columns) = (height / patch, width / patch);
        match self {
            Self::Images(wanted) => {
                let small = adaptive_avg_pool2d(images, [height.min(THUMBNAIL_SIDE), width.min(THUMBNAIL_SIDE)]);
                let [_, channels, rows, columns] = small.dims();
                let small = small.reshape([batch, channels * rows * columns]);
                Tensor::cat(wanted.iter().map(|&(at, ..)| small.clone().narrow(0, at, 1)).collect(), 0)
            }
            Self::Objects(_) => {
                let patches = images
                    .reshape([batch, 3, rows, patch, columns, patch])
                    .permute([0, 2, 4, 3, 5, 1]) // [B, rows, columns, patch, patch, 3]
                    .reshape([batch, rows * columns, patch * patch * 3]);
                self.pooled(Tokens { patches, class: None }, pooling)
            }
        }
    }
}

/// Fraction of an object's mask in each patch, `[N]`; their sum is 1. `None` when no pixel of it is valid.
fn fractions(batch: &Batch, object: usize, image: usize, grid: &Grid) -> Option<Vec<f32>> {
    let side = batch.mask_side_px;
    let mask = batch.object_mask(object);
    let ignored = batch.ignore_masks.as_ref().map(|all| &all[image * side * side..][..side * side]);
    let mut counts = vec![0u32; grid.rows * grid.columns];
    for row in 0..grid.rows * grid.points {
        for column in 0..grid.columns * grid.points {
            let at = row * side + column;
            if mask[at] != 0 && ignored.is_none_or(|ignored| ignored[at] == 0) {
                counts[row / grid.points * grid.columns + column / grid.points] += 1;
            }
        }
    }
    let total: u32 = counts.iter().sum();
    (total > 0).then(|| counts.iter().map(|&count| count as f32 / total as f32).collect())
}
