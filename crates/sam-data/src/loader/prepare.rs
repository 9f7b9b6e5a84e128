//! Prepares one draw: an image with its candidate objects, as a pure function of (samples, options, draw).
//!
//! Preparation is independent of threads and of the other images in the batch. Keys are draws, not (step, position), so
//! two batches of one image hold the same as one batch of two.

use image::RgbImage;
use sam_image::{Rle, image_fingerprint};

use crate::loader::drops::{Drops, SkippedSample};
use crate::loader::failure::LoaderError;
use crate::loader::options::{Content, ErrorPolicy, Labels, LoaderOptions, Order};
use crate::random::{Purpose, RandomStream};
use crate::sample::{ObjectMask, Sample, Samples, Undecoded};
use crate::transforms::{MaskSampler, View};

/// Attempts to sample a view that shows an object before the whole image is taken.
const N_VIEW_ATTEMPTS: u64 = 8;

/// An image of a batch before the batch's caps are known.
#[derive(Debug)]
pub(crate) struct PreparedImage {
    pub(crate) name: String,
    pub(crate) sample_index: usize,
    pub(crate) draw: u64,
    pub(crate) view: View,
    pub(crate) content: Prepared,
    /// In random order.
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) ignore: Option<Rle>,
    pub(crate) drops: Drops,
}

/// What is prepared of an image.
#[derive(Debug)]
pub(crate) enum Prepared {
    /// The rendered view without padding, and the hash of the image where that is wanted, else 0.
    Pixels(RgbImage, u64),
    /// The hash of an image that is not decoded.
    Hash(u64),
    /// Nothing: a sample skipped in validation.
    Gap,
}

/// An object that may be used.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// Index in the sample's list.
    pub(crate) place: usize,
    pub(crate) object: ObjectMask,
}

/// Prepares the image of a draw, or of its replacement.
pub(crate) fn prepare(samples: &dyn Samples, options: &LoaderOptions, draw: u64) -> Result<PreparedImage, LoaderError> {
    let step = draw / options.n_images.get() as u64;
    let n_samples = samples.n_samples();
    let mut drops = Drops::default();
    let mut last_reason = String::new();
    let mut n_tried = 0;
    for sample_index in options.samples_of(draw, n_samples) {
        n_tried += 1;
        let (sample, image) = match read_checked(samples, options.content, step, sample_index) {
            Ok(sample) => sample,
            Err(error) if options.on_error == ErrorPolicy::Stop || error.is_outage() => return Err(error),
            Err(error) => {
                // The step is irrelevant to the file and depends on the batch size.
                last_reason = match error {
                    LoaderError::Sample { source, .. } => source.to_string(),
                    error => error.to_string(),
                };
                drops.skipped.push(SkippedSample { sample_index, draw, reason: last_reason.clone() });
                if options.order == Order::InOrderOnce {
                    return Ok(gap(sample_index, draw, drops));
                }
                continue;
            }
        };
        let name = sample.name.clone();
        let sample = match options.labels {
            Labels::Wanted => sample,
            Labels::Unused => Undecoded { objects: Vec::new(), ignore: None, ..sample },
        };
        let image = transform(options, [draw, sample_index as u64], sample, image.as_ref(), &mut drops);
        if image.candidates.is_empty() && options.labels == Labels::Wanted {
            drops.n_without_objects += 1;
            if options.order == Order::ShuffledEpochs {
                last_reason = format!("{name} has no usable object");
                continue;
            }
        }
        return Ok(PreparedImage { drops, ..image });
    }
    if n_tried == 0 {
        return Err(LoaderError::NoSamples);
    }
    Err(LoaderError::NothingUsable { step, n_tried, n_unreadable: drops.skipped.len(), last_reason })
}

/// The placeholder of a sample that validation could not read.
fn gap(sample_index: usize, draw: u64, drops: Drops) -> PreparedImage {
    PreparedImage {
        name: String::new(),
        sample_index,
        draw,
        view: View::whole([1, 1], 1),
        content: Prepared::Gap,
        candidates: Vec::new(),
        ignore: None,
        drops,
    }
}

/// The sample, and its image where that is decoded.
fn read_checked(
    samples: &dyn Samples,
    content: Content,
    step: u64,
    sample_index: usize,
) -> Result<(Undecoded, Option<RgbImage>), LoaderError> {
    let failed = |source| LoaderError::Sample { step, sample_index, source };
    let (sample, image) = match content {
        Content::Hash => (samples.undecoded(sample_index).map_err(failed)?, None),
        Content::Pixels | Content::PixelsAndHash => {
            let Sample { name, image, objects, ignore } = samples.sample(sample_index).map_err(failed)?;
            let size_hw = [image.height() as usize, image.width() as usize];
            let content = if content == Content::PixelsAndHash { image_fingerprint(&image) } else { 0 };
            (Undecoded { name, size_hw, objects, ignore, content }, Some(image))
        }
    };
    let image_hw = sample.size_hw;
    let masks = sample.objects.iter().map(|object| &object.mask);
    match masks.chain(&sample.ignore).find(|mask| mask.size_hw() != image_hw) {
        None => Ok((sample, image)),
        Some(mask) => {
            Err(LoaderError::MaskSize { step, sample_index, image_hw, mask_hw: mask.size_hw(), name: sample.name })
        }
    }
}

/// `keys` are the draw and the index of the sample.
fn transform(
    options: &LoaderOptions,
    keys: [u64; 2],
    sample: Undecoded,
    image: Option<&RgbImage>,
    drops: &mut Drops,
) -> PreparedImage {
    let original_hw = sample.size_hw;
    let largest_px = options.objects.image_share_max * (original_hw[0] * original_hw[1]) as f64;
    let n_all = sample.objects.len();
    let mut candidates: Vec<Candidate> = sample
        .objects
        .into_iter()
        .enumerate()
        .map(|(place, object)| Candidate { place, object })
        .filter(|candidate| candidate.object.mask.area_px() as f64 <= largest_px)
        .collect();
    drops.n_too_large += (n_all - candidates.len()) as u64;

    let (view, visible_px) = view_with_objects(options, keys, original_hw, &candidates, drops);
    let mut visible = visible_px.iter();
    candidates.retain(|_| match visible.next() {
        Some(0) | None => {
            drops.n_erased += 1;
            false
        }
        Some(&px) if px < options.objects.visible_px_min => {
            drops.n_too_small += 1;
            false
        }
        Some(_) => true,
    });
    RandomStream::new(options.seed, Purpose::Objects, &keys).shuffle(&mut candidates);

    let content = match image {
        Some(image) => {
            let mut pixels = view.render(image);
            if let Some(colour) = options.augmentation.colour {
                let mut stream = RandomStream::new(options.seed, Purpose::Colour, &keys);
                colour.apply(&mut pixels, &mut stream);
            }
            Prepared::Pixels(pixels, sample.content)
        }
        None => Prepared::Hash(sample.content),
    };
    PreparedImage {
        name: sample.name,
        sample_index: keys[1] as usize,
        draw: keys[0],
        view,
        content,
        candidates,
        ignore: sample.ignore,
        drops: Drops::default(),
    }
}

/// The first sampled view with a usable object, else the whole image; and the visible pixels of each object.
fn view_with_objects(
    options: &LoaderOptions,
    keys: [u64; 2],
    original_hw: [usize; 2],
    candidates: &[Candidate],
    drops: &mut Drops,
) -> (View, Vec<usize>) {
    let visible_px = |view: &View| -> Vec<usize> {
        let sampler = MaskSampler::new(view, options.mask_side_px);
        let masks = candidates.iter().map(|candidate| &candidate.object.mask);
        masks.map(|mask| sampler.visible_px(mask)).collect()
    };
    for attempt in 0..N_VIEW_ATTEMPTS {
        let keys = [keys[0], keys[1], attempt];
        let mut stream = RandomStream::new(options.seed, Purpose::View, &keys);
        let view = options.augmentation.draw_view(original_hw, options.side_px, &mut stream);
        let visible = visible_px(&view);
        let enough = options.objects.visible_px_min.max(1);
        if visible.iter().any(|&px| px >= enough) || candidates.is_empty() || !options.augmentation.can_hide_objects() {
            return (view, visible);
        }
        drops.n_views_redrawn += 1;
    }
    let view = View::whole(original_hw, options.side_px);
    let visible = visible_px(&view);
    (view, visible)
}
