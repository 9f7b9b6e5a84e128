//! A batch as a step learns it: normalised images, true masks, and where they count.
//!
//! The padding beside an image is zero after normalisation, as in `Sam.preprocess` of the reference, and counts nowhere:
//! no loss, no IoU, no click. Nothing here is tracked by autodiff.
//!
//! Shapes: `B` images, `O` objects, `S` side of the model's square, `M` side of the masks.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use sam_data::{BatchImage, DeviceBatch};
use sam_model::normalise_pixels;

use crate::losses::Truth;

/// What a step learns from.
#[derive(Clone, Debug)]
pub struct Scene {
    /// `[B, 3, S, S]`.
    pub images: Tensor<4>,
    /// `[O]`, the image of each object, rising.
    pub image_of_object: Vec<usize>,
    /// True masks, `[O, 1, M, M]`, and where they count.
    pub truth: Truth,
}

impl Scene {
    /// Normalises a batch on its device.
    #[must_use]
    pub fn new(batch: &DeviceBatch) -> Self {
        let device = batch.pixels.clone().inner().device();
        let [objects, mask_side, _] = batch.object_masks.dims();
        let image_index = batch.image_index.clone().inner();

        // [B, M, M]: in the picture and not ignored.
        let inside = content(&batch.images, mask_side, &device);
        let kept = batch.ignore_masks.clone().map(|ignored| ignored.inner().float().neg().add_scalar(1.0));
        let counts = match (inside, kept) {
            (Some(inside), Some(kept)) => Some(inside * kept),
            (inside, kept) => inside.or(kept),
        };
        let counts =
            counts.map(|counts| counts.select(0, image_index.clone()).reshape([objects, 1, mask_side, mask_side]));
        let masks = batch.object_masks.clone().inner().float().reshape([objects, 1, mask_side, mask_side]);
        let image_of_object = batch.objects.iter().map(|object| object.image_index).collect();
        Self { images: normalised_images(batch), image_of_object, truth: Truth { masks, counts } }
    }

    /// Some of the images with their objects, which are sorted by image.
    #[must_use]
    pub fn part(&self, images: Range<usize>, objects: Range<usize>) -> Self {
        let of_object = self.image_of_object[objects.clone()].iter();
        Self {
            images: self.images.clone().slice_dim(0, images.clone()),
            image_of_object: of_object.map(|image| image - images.start).collect(),
            truth: self.truth.part(objects),
        }
    }
}

/// The images of a batch as networks take them, the padding zero, `[B, 3, S, S]`; not tracked by autodiff.
pub(crate) fn normalised_images(batch: &DeviceBatch) -> Tensor<4> {
    let pixels = batch.pixels.clone().inner();
    let device = pixels.device();
    let [_, side, _, _] = pixels.dims();
    normalise_pixels(pixels.float(), content(&batch.images, side, &device))
}

/// 1 where a grid of `grid_side` cells over the square looks at the picture, `[B, grid, grid]`; `None` when it always does.
fn content(images: &[BatchImage], grid_side: usize, device: &Device) -> Option<Tensor<3>> {
    let is_full = |image: &BatchImage| image.view.resized_hw == [image.view.side_px; 2];
    if images.iter().all(is_full) {
        return None;
    }
    let mut inside = vec![0f32; images.len() * grid_side * grid_side];
    for (image, plane) in images.iter().zip(inside.chunks_exact_mut(grid_side * grid_side)) {
        let cell_px = image.view.side_px as f64 / grid_side as f64;
        // A cell belongs to the picture when its centre does, as for the masks.
        let cells = image
            .view
            .resized_hw
            .map(|side| (0..grid_side).filter(|&c| (c as f64 + 0.5) * cell_px < side as f64).count());
        for row in plane.chunks_exact_mut(grid_side).take(cells[0]) {
            row[..cells[1]].fill(1.0);
        }
    }
    Some(Tensor::from_data(TensorData::new(inside, [images.len(), grid_side, grid_side]), device))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sam_data::transforms::View;

    #[test]
    fn padding_is_found_on_every_grid() {
        let image = |hw| BatchImage { name: String::new(), sample_index: 0, draw: 0, view: View::whole(hw, 8) };
        let device = Device::flex();
        assert!(content(&[image([8, 8])], 4, &device).is_none());
        let got = content(&[image([8, 8]), image([4, 8])], 4, &device).expect("one is padded");
        let values = got.into_data().try_to_vec::<f32>().expect("f32");
        assert!(values[..16].iter().all(|&v| v == 1.0));
        assert_eq!(values[16..], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0., 0., 0., 0., 0., 0., 0., 0.]);
    }
}
