//! One step's images and objects in host memory, as 8-bit values.
//!
//! `B` images, `O` objects of all images, `S` side of the model's input, `M` side of the masks. Objects are flat and
//! carry the index of their image, so images may have any number of them. Images are padded with 0 on the right and
//! below; the reference pads *after* normalisation, so normalisation must set everything outside `view.resized_hw` to
//! zero.

use sam_image::Rle;

use crate::loader::drops::Drops;
use crate::loader::failure::LoaderError;
use crate::loader::options::{Content, LoaderOptions, ObjectLimits, Order};
use crate::loader::prepare::{Prepared, PreparedImage};
use crate::transforms::{MaskSampler, View};

/// The data of one step of training or validation.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Index of the step.
    pub step: u64,
    /// Side of the model's input, `S`.
    pub side_px: usize,
    /// Side of the masks, `M`.
    pub mask_side_px: usize,
    /// RGB, `[B, S, S, 3]`, padded with 0; empty with [`Content::Hash`].
    pub pixels: Vec<u8>,
    /// The images, `[B]`.
    pub images: Vec<BatchImage>,
    /// Masks of 0 and 1, `[O, M, M]`.
    pub object_masks: Vec<u8>,
    /// The objects ordered by image, `[O]`.
    pub objects: Vec<BatchObject>,
    /// 1 where pixels are ignored by losses and metrics, `[B, M, M]`; padding is not marked. `None` if no image has
    /// such pixels.
    pub ignore_masks: Option<Vec<u8>>,
    /// Counts of dropped objects and samples.
    pub drops: Drops,
}

/// One image of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchImage {
    /// Name within the data set.
    pub name: String,
    /// Index in the data set.
    pub sample_index: usize,
    /// Index of the draw within the run, which is the key of the image's random decisions.
    pub draw: u64,
    /// The visible part of the original, and the mapping back to it.
    pub view: View,
    /// [`crate::Undecoded::content`] with [`Content::Hash`], the hash of the whole image with [`Content::PixelsAndHash`],
    /// else 0.
    pub content: u64,
}

/// One object of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchObject {
    /// Index of its image in the batch.
    pub image_index: usize,
    /// Id of the object in the data set.
    pub id: u64,
    /// Class, if the data set has classes.
    pub class: Option<usize>,
    /// As [`crate::ObjectMask::captions`].
    pub captions: Vec<String>,
    /// The mask in original pixels.
    pub mask: Rle,
    /// Tight box of the visible part of the mask, in original pixels with exclusive ends; the whole window if nothing
    /// is visible.
    pub visible_box_xyxy_px: [f32; 4],
}

impl Batch {
    /// The pixels of one object's mask, `[M, M]`.
    ///
    /// # Panics
    ///
    /// When there is no such object.
    #[must_use]
    pub fn object_mask(&self, object: usize) -> &[u8] {
        let n = self.mask_side_px * self.mask_side_px;
        &self.object_masks[object * n..][..n]
    }

    /// Assembles the prepared images of a step in the order of their draws; returns the first error.
    pub(crate) fn assemble(
        options: &LoaderOptions,
        step: u64,
        prepared: Vec<Result<PreparedImage, LoaderError>>,
    ) -> Result<Self, LoaderError> {
        let mut prepared = prepared.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut drops = Drops::default();
        let n_candidates: Vec<usize> = prepared.iter().map(|p| p.candidates.len()).collect();
        let n_chosen = even_numbers(&n_candidates, options.objects);
        for (image, &n) in prepared.iter_mut().zip(&n_chosen) {
            drops.add_counts(&image.drops);
            drops.n_over_cap += (image.candidates.len() - n) as u64;
            drops.skipped.append(&mut image.drops.skipped);
            // Candidates are in random order; the chosen ones are restored to the data set's order.
            image.candidates.truncate(n);
            image.candidates.sort_unstable_by_key(|c| c.place);
        }
        // In validation, an unreadable sample leaves a gap.
        if options.order == Order::InOrderOnce {
            prepared.retain(|image| !matches!(image.content, Prepared::Gap));
        }
        Ok(Self::fill(options, step, prepared, drops))
    }

    fn fill(options: &LoaderOptions, step: u64, prepared: Vec<PreparedImage>, drops: Drops) -> Self {
        let (side_px, mask_side_px) = (options.side_px, options.mask_side_px);
        let mask_bytes = mask_side_px * mask_side_px;
        let image_bytes = match options.content {
            Content::Pixels | Content::PixelsAndHash => side_px * side_px * 3,
            Content::Hash => 0,
        };
        let n_objects: usize = prepared.iter().map(|image| image.candidates.len()).sum();
        let any_ignore = prepared.iter().any(|image| image.ignore.is_some());
        let mut batch = Self {
            step,
            side_px,
            mask_side_px,
            pixels: vec![0; prepared.len() * image_bytes],
            images: Vec::with_capacity(prepared.len()),
            object_masks: vec![0; n_objects * mask_bytes],
            objects: Vec::with_capacity(n_objects),
            ignore_masks: any_ignore.then(|| vec![0; prepared.len() * mask_bytes]),
            drops,
        };
        let mut masks = batch.object_masks.chunks_exact_mut(mask_bytes);
        for (image_index, image) in prepared.into_iter().enumerate() {
            if let Prepared::Pixels(pixels, _) = &image.content {
                let row_bytes = pixels.width() as usize * 3;
                let rows = batch.pixels[image_index * image_bytes..].chunks_exact_mut(side_px * 3);
                for (padded, row) in rows.zip(pixels.as_raw().chunks_exact(row_bytes)) {
                    padded[..row_bytes].copy_from_slice(row);
                }
            }
            let sampler = MaskSampler::new(&image.view, mask_side_px);
            if let (Some(all), Some(ignore)) = (&mut batch.ignore_masks, &image.ignore) {
                sampler.paint(ignore, &mut all[image_index * mask_bytes..][..mask_bytes]);
            }
            for (candidate, pixels) in image.candidates.into_iter().zip(masks.by_ref()) {
                sampler.paint(&candidate.object.mask, pixels);
                batch.objects.push(BatchObject {
                    image_index,
                    id: candidate.object.id,
                    class: candidate.object.class,
                    captions: candidate.object.captions,
                    visible_box_xyxy_px: image.view.visible_box_xyxy_px(&candidate.object.mask),
                    mask: candidate.object.mask,
                });
            }
            batch.images.push(BatchImage {
                name: image.name,
                sample_index: image.sample_index,
                draw: image.draw,
                view: image.view,
                content: match image.content {
                    Prepared::Hash(content) | Prepared::Pixels(_, content) => content,
                    Prepared::Gap => 0,
                },
            });
        }
        batch
    }
}

/// Number of objects per image: all up to the image's cap, then the largest numbers are lowered to one common level
/// until the batch's cap holds; the remainder goes to the first images that can use it.
fn even_numbers(n_candidates: &[usize], limits: ObjectLimits) -> Vec<usize> {
    let wanted: Vec<usize> = n_candidates.iter().map(|&n| n.min(limits.per_image_max)).collect();
    let total: usize = wanted.iter().sum();
    if total <= limits.per_batch_max {
        return wanted;
    }
    let at_level = |level: usize| wanted.iter().map(|&n| n.min(level)).sum::<usize>();
    let mut level = 0;
    while at_level(level + 1) <= limits.per_batch_max {
        level += 1;
    }
    let mut left_over = limits.per_batch_max - at_level(level);
    wanted
        .iter()
        .map(|&n| {
            let extra = usize::from(n > level && left_over > 0);
            left_over -= extra;
            n.min(level) + extra
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_distributed_evenly_up_to_the_limit() {
        let check = |n_candidates: &[usize], per_image_max, per_batch_max, expected: &[usize]| {
            let limits = ObjectLimits { per_image_max, per_batch_max, ..ObjectLimits::default() };
            assert_eq!(even_numbers(n_candidates, limits), expected);
        };
        check(&[3, 100, 100], 64, 64, &[3, 31, 30]);
        check(&[3, 2], 64, 64, &[3, 2]);
        check(&[100], 25, 64, &[25]);
        check(&[5, 5, 5, 5], 64, 3, &[1, 1, 1, 0]);
        check(&[0, 9, 0], 64, 4, &[0, 4, 0]);
        check(&[], 64, 64, &[]);
        check(&[7, 8], usize::MAX, usize::MAX, &[7, 8]);
        check(&[7, 8], 64, 0, &[0, 0]);
    }
}
