//! Features of labelled images or objects.
//!
//! An image is looked at as its middle, which fills the input, as the reference of masked autoencoders evaluates. An object is
//! looked at within its whole image, padded as the segmenter takes it; its features are the mean of the tokens of all patches,
//! each by how much of its area the mask covers.
//!
//! Shapes: `B` images, `O` objects, `N` patches, `C` width of the features, `P` values of a patch, `H W` input in pixels.

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
use crate::scene::normalised_images;

/// A mask is sampled at up to so many places along each side of a patch.
const MAX_PLACES_PER_PATCH: usize = 8;

/// Side of the small picture that stands for an image in pixels.
const PICTURE_SIDE: usize = 16;

/// Tokens of a batch, about: enough to keep a processor busy, and one image of a large segmenter.
const TOKENS_PER_BATCH: usize = 4096;

/// Images of a batch, whatever their size.
const MAX_IMAGES: usize = 64;

/// Samples with their classes: what is learned from, or what is judged.
#[derive(Clone)]
pub struct ProbePart {
    /// The whole set.
    pub samples: Arc<dyn Samples>,
    /// Which samples belong to the part.
    pub indices: Vec<usize>,
    /// Their classes.
    pub labels: Labels,
}

/// What is classified. Classes are numbers from 0 on.
#[derive(Clone, Debug, PartialEq)]
pub enum Labels {
    /// Whole images: the class by index of the sample.
    OfImages(Vec<Option<usize>>),
    /// The objects in them: the class by the source's class; objects of no class, or of one with none here, are left out.
    OfObjects(Vec<Option<usize>>),
}

/// How features are taken.
#[derive(Clone, Copy, Debug)]
pub struct ExtractOptions {
    /// What stands for a whole image.
    pub pooling: Pooling,
    /// Images of a batch; none: as many as suit the encoder. No number depends on it, memory does.
    pub images_per_batch: Option<NonZeroUsize>,
    /// Threads that read and resize.
    pub n_workers: usize,
    /// What happens when an image cannot be read.
    pub on_error: ErrorPolicy,
}

/// A row for each thing that is classified.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Features {
    /// `C`.
    pub width: usize,
    /// Row after row.
    pub values: Vec<f32>,
}

impl Features {
    /// How many rows there are.
    #[must_use]
    pub fn n_rows(&self) -> usize {
        self.values.len().checked_div(self.width).unwrap_or(0)
    }

    fn push(&mut self, values: Tensor<2>) {
        self.width = values.dims()[1];
        self.values.extend(host_values(&values));
    }
}

/// Features of a part.
#[derive(Clone, Debug, Default)]
pub struct Extracted {
    /// Of each encoder; the last are those of the pixels.
    pub features: Vec<Features>,
    /// The class of each row.
    pub classes: Vec<usize>,
    /// The image of each row, as a place in the part.
    pub images: Vec<usize>,
    /// What there are no features of.
    pub left_out: LeftOut,
}

/// What there are no features of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeftOut {
    /// How many images cannot be read.
    pub n_unreadable: usize,
    /// The reasons of the first few of them, which name the file.
    pub unreadable: Vec<String>,
    /// Objects of no class that counts.
    pub without_class: usize,
    /// Objects of which nothing is left at the size of the input, or that are wholly ignored.
    pub too_small: usize,
}

/// Takes the features of a part under several encoders with one input, and those of the pixels behind them.
///
/// # Errors
///
/// When an image cannot be read and must not be left out, or an encoder gives what is no number.
///
/// # Panics
///
/// When the encoders have different inputs, or there is none.
pub fn extract(
    encoders: &[FrozenEncoder],
    part: &ProbePart,
    options: &ExtractOptions,
    on_progress: &mut dyn FnMut(usize),
) -> Result<Extracted, LearnError> {
    let first = encoders.first().expect("at least one encoder");
    let ([height, width], patch) = (first.size_hw(), first.patch_size());
    for encoder in encoders {
        let input = (encoder.size_hw(), encoder.patch_size());
        assert_eq!(input, ([height, width], patch), "encoders must have one input to share images");
    }
    let grid = Grid { rows: height / patch, columns: width / patch, places: patch.min(MAX_PLACES_PER_PATCH) };
    let device = first.device();
    let indices = part.indices.iter().map(|&index| index as u32).collect();
    let samples = Arc::new(Subset { samples: Arc::clone(&part.samples), indices });
    let mut extracted = Extracted { features: vec![Features::default(); encoders.len() + 1], ..Extracted::default() };
    let mut loader = Loader::new(samples, loader_options(part, options, [height, width], &grid), 0);
    while let Some(batch) = loader.next_batch() {
        let mut batch = batch?;
        let last = batch.images.iter().map(|image| image.draw as usize + 1).max();
        extracted.left_out.too_small += batch.drops.n_erased as usize;
        let wanted = Wanted::of(part, &batch, &grid, &mut extracted.left_out);
        if wanted.is_empty() {
            last.into_iter().for_each(&mut *on_progress);
            continue;
        }
        // The masks have done their work on the host.
        (batch.objects, batch.object_masks, batch.ignore_masks) = (Vec::new(), Vec::new(), None);
        let images = normalised_images(&DeviceBatch::new(batch, &device)).narrow(2, 0, height).narrow(3, 0, width);
        let mut looks: Vec<Tensor<2>> =
            encoders.iter().map(|encoder| wanted.pooled(encoder.tokens(images.clone()), options.pooling)).collect();
        looks.push(wanted.pixels(images, patch, options.pooling));
        for (features, look) in extracted.features.iter_mut().zip(looks) {
            features.push(look);
        }
        for (at, (image, class)) in wanted.rows().enumerate() {
            for features in &extracted.features {
                let row = features.n_rows() - wanted.len() + at;
                let values = &features.values[row * features.width..][..features.width];
                if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
                    let index = part.indices[image];
                    return Err(LearnError::FeatureNotFinite { index, value });
                }
            }
            extracted.images.push(image);
            extracted.classes.push(class);
        }
        last.into_iter().for_each(&mut *on_progress);
    }
    // Of the loader and not of its batches: one of nothing but unreadable images is never delivered.
    let report = loader.report();
    extracted.left_out.n_unreadable = report.n_skipped as usize;
    extracted.left_out.unreadable = report.drops.skipped.iter().map(|skipped| skipped.reason.clone()).collect();
    Ok(extracted)
}

fn loader_options(part: &ProbePart, options: &ExtractOptions, size_hw: [usize; 2], grid: &Grid) -> LoaderOptions {
    let side_px = size_hw[0].max(size_hw[1]);
    let n_tokens = grid.rows * grid.columns;
    let usual =
        NonZeroUsize::new((TOKENS_PER_BATCH / n_tokens.max(1)).clamp(1, MAX_IMAGES)).unwrap_or(NonZeroUsize::MIN);
    let (labels, resized_crop) = match part.labels {
        Labels::OfImages(_) => (LoaderLabels::Unused, Some(ResizedCrop::middle(size_hw))),
        Labels::OfObjects(_) => (LoaderLabels::Wanted, None),
    };
    LoaderOptions {
        n_images: options.images_per_batch.unwrap_or(usual),
        side_px,
        mask_side_px: grid.rows.max(grid.columns) * grid.places,
        order: Order::InOrderOnce,
        objects: ObjectLimits::all(),
        labels,
        augmentation: Augmentation { resized_crop, ..Augmentation::default() },
        n_workers: options.n_workers,
        on_error: options.on_error,
        ..LoaderOptions::default()
    }
}

/// Patches of the input, and places of a mask along each side of one.
struct Grid {
    rows: usize,
    columns: usize,
    places: usize,
}

/// Which rows a batch gives.
enum Wanted {
    /// One for each image: its place in the batch and in the part, its class.
    Images(Vec<(usize, usize, usize)>),
    /// By image: objects with their shares of the patches, which are one together.
    Objects(Vec<(usize, usize, Vec<WantedObject>)>),
}

struct WantedObject {
    class: usize,
    /// `[N]`.
    shares: Vec<f32>,
}

impl Wanted {
    fn of(part: &ProbePart, batch: &Batch, grid: &Grid, left_out: &mut LeftOut) -> Self {
        match &part.labels {
            Labels::OfImages(classes) => {
                let images = batch.images.iter().enumerate().filter_map(|(at, image)| {
                    let class = classes.get(part.indices[image.sample_index]).copied().flatten()?;
                    Some((at, image.sample_index, class))
                });
                Self::Images(images.collect())
            }
            Labels::OfObjects(classes) => {
                let of_image = |(at, image): (usize, &sam_data::BatchImage)| {
                    let mut objects = Vec::new();
                    for (place, object) in batch.objects.iter().enumerate().filter(|(_, o)| o.image_index == at) {
                        match object.class.and_then(|class| classes.get(class).copied().flatten()) {
                            None => left_out.without_class += 1,
                            Some(class) => match shares(batch, place, at, grid) {
                                None => left_out.too_small += 1,
                                Some(shares) => objects.push(WantedObject { class, shares }),
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

    /// Place of the image in the part, and class.
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

    /// `[rows, C]`.
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
                    let shares: Vec<f32> = objects.iter().flat_map(|object| object.shares.iter().copied()).collect();
                    let shares = Tensor::<2>::from_data(TensorData::new(shares, [objects.len(), n_patches]), &device);
                    shares.matmul(tokens.patches.clone().narrow(0, *at, 1).reshape([n_patches, width]))
                };
                Tensor::cat(by_image.iter().map(of_image).collect(), 0)
            }
        }
    }

    /// What can be had without any network: of an image the small picture, of an object the mean patch under its mask.
    fn pixels(&self, images: Tensor<4>, patch: usize, pooling: Pooling) -> Tensor<2> {
        let [batch, _, height, width] = images.dims();
        let (rows, columns) = (height / patch, width / patch);
        match self {
            Self::Images(wanted) => {
                let small = adaptive_avg_pool2d(images, [height.min(PICTURE_SIDE), width.min(PICTURE_SIDE)]);
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

/// How much of an object's mask lies in each patch, `[N]`, one together; `None` when no pixel of it counts.
fn shares(batch: &Batch, object: usize, image: usize, grid: &Grid) -> Option<Vec<f32>> {
    let side = batch.mask_side_px;
    let mask = batch.object_mask(object);
    let ignored = batch.ignore_masks.as_ref().map(|all| &all[image * side * side..][..side * side]);
    let mut counts = vec![0u32; grid.rows * grid.columns];
    for row in 0..grid.rows * grid.places {
        for column in 0..grid.columns * grid.places {
            let at = row * side + column;
            if mask[at] != 0 && ignored.is_none_or(|ignored| ignored[at] == 0) {
                counts[row / grid.places * grid.columns + column / grid.places] += 1;
            }
        }
    }
    let total: u32 = counts.iter().sum();
    (total > 0).then(|| counts.iter().map(|&count| count as f32 / total as f32).collect())
}
