//! A batch as a training step takes it: normalised images, target masks and their valid mask.
//!
//! The padding beside an image is zero after normalisation, as in `Sam.preprocess` of the reference, and is not valid: no
//! loss, no IoU, no click. Nothing here is tracked by autodiff.
//!
//! Shapes: `B` images, `O` objects, `S` side of the model's square input, `M` side of the masks.

use std::ops::Range;

use burn::tensor::{Device, Tensor, TensorData};
use sam_data::{BatchImage, DeviceBatch};
use sam_model::normalise_pixels;

use super::embedding_loss::EmbeddingTarget;
use crate::target::Target;

/// What the encoder of a step takes, or has given before.
#[derive(Clone, Debug)]
pub enum EncoderInput {
    /// Normalised images, `[B, 3, S, S]`.
    Images(Tensor<4>),
    /// The embeddings of a frozen encoder, `[B, C, G, G]`: it does not run.
    Embeddings(Tensor<4>),
}

impl EncoderInput {
    /// Its values, whatever they are.
    pub(super) fn tensor(&self) -> &Tensor<4> {
        let (Self::Images(tensor) | Self::Embeddings(tensor)) = self;
        tensor
    }

    fn of_images(&self, images: Range<usize>) -> Self {
        let rows = |tensor: &Tensor<4>| tensor.clone().slice_dim(0, images.clone());
        match self {
            Self::Images(tensor) => Self::Images(rows(tensor)),
            Self::Embeddings(tensor) => Self::Embeddings(rows(tensor)),
        }
    }
}

/// Images and targets of a training step.
#[derive(Clone, Debug)]
pub struct TrainingBatch {
    /// The images, or their embeddings.
    pub input: EncoderInput,
    /// Index of the image of each object, rising, `[O]`.
    pub image_of_object: Vec<usize>,
    /// Target masks and their valid mask, `[O, 1, M, M]`.
    pub target: Target,
    /// Embeddings of a teacher that the encoder learns, too.
    pub embedding_target: Option<EmbeddingTarget>,
}

impl TrainingBatch {
    /// Normalises the masks of a batch on its device.
    pub(super) fn new(batch: &DeviceBatch, input: EncoderInput) -> Self {
        let device = batch.object_masks.clone().inner().device();
        let [objects, mask_side, _] = batch.object_masks.dims();
        let image_index = batch.image_index.clone().inner();

        let inside = content(&batch.images, mask_side, &device);
        let not_ignored = batch.ignore_masks.clone().map(|ignored| ignored.inner().float().neg().add_scalar(1.0));
        let valid = match (inside, not_ignored) {
            (Some(inside), Some(not_ignored)) => Some(inside * not_ignored), // [B, M, M]
            (inside, not_ignored) => inside.or(not_ignored),
        };
        let valid = valid.map(|valid| valid.select(0, image_index.clone()).reshape([objects, 1, mask_side, mask_side]));
        let masks = batch.object_masks.clone().inner().float().reshape([objects, 1, mask_side, mask_side]);
        let image_of_object = batch.objects.iter().map(|object| object.image_index).collect();
        Self { input, image_of_object, target: Target { masks, valid }, embedding_target: None }
    }

    /// Some of the images with their objects, which are sorted by image; `embedding_factor` is on the weight of the embeddings.
    pub(super) fn shard(&self, images: Range<usize>, objects: Range<usize>, embedding_factor: f64) -> Self {
        let of_object = self.image_of_object[objects.clone()].iter();
        let embedding_target = self.embedding_target.as_ref().map(|target| {
            let target = target.images(images.clone());
            EmbeddingTarget { weight: target.weight * embedding_factor, ..target }
        });
        Self {
            image_of_object: of_object.map(|image| image - images.start).collect(),
            input: self.input.of_images(images),
            target: self.target.objects(objects),
            embedding_target,
        }
    }
}

/// The images of a batch as networks take them, `[B, 3, S, S]`: the padding zero, not tracked by autodiff.
///
/// # Panics
///
/// When the batch was loaded without pixels.
pub(crate) fn normalised_images(batch: &DeviceBatch) -> Tensor<4> {
    let pixels = batch.pixels.clone().expect("a batch that was loaded with pixels").inner();
    let device = pixels.device();
    let [_, side, _, _] = pixels.dims();
    normalise_pixels(pixels.float(), content(&batch.images, side, &device))
}

/// 1 where the cells of a grid over the square are in the image, `[B, grid, grid]`; `None` when all are.
pub(crate) fn content(images: &[BatchImage], grid_side: usize, device: &Device) -> Option<Tensor<3>> {
    let is_full = |image: &BatchImage| image.view.resized_hw == [image.view.side_px; 2];
    if images.iter().all(is_full) {
        return None;
    }
    let mut inside = vec![0f32; images.len() * grid_side * grid_side];
    for (image, plane) in images.iter().zip(inside.chunks_exact_mut(grid_side * grid_side)) {
        let cell_px = image.view.side_px as f64 / grid_side as f64;
        // A cell is in the image when its centre is, as for the masks.
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
    use sam_data::BatchObject;
    use sam_data::loader::Drops;
    use sam_data::transforms::View;
    use sam_image::{Mask, Rle};

    #[test]
    fn padding_is_found_on_any_grid() {
        let image =
            |hw| BatchImage { name: String::new(), sample_index: 0, draw: 0, view: View::whole(hw, 8), content: 0 };
        let device = Device::flex();
        assert!(content(&[image([8, 8])], 4, &device).is_none());
        let got = content(&[image([8, 8]), image([4, 8])], 4, &device).expect("one is padded");
        let values = got.into_data().try_to_vec::<f32>().expect("f32");
        assert!(values[..16].iter().all(|&v| v == 1.0));
        assert_eq!(values[16..], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0., 0., 0., 0., 0., 0., 0., 0.]);
    }

    /// Two images of a square of 4 px, the second padded below; one object of the first, one of the second.
    #[test]
    fn a_batch_equals_hand_calculation() {
        let device = Device::flex();
        let image =
            |hw| BatchImage { name: String::new(), sample_index: 0, draw: 0, view: View::whole(hw, 4), content: 0 };
        let object = |image_index| BatchObject {
            image_index,
            id: 0,
            class: None,
            captions: Vec::new(),
            mask: Rle::from_mask(&Mask::from_fn([4, 4], |_, _| true)),
            visible_box_xyxy_px: [0.0, 0.0, 4.0, 4.0],
        };
        // All pixels of the first image are (124, 116, 103), all of the second (0, 255, 0) above its padding.
        let pixel = |at: usize| match at / 16 {
            0 => [124, 116, 103],
            _ if at % 16 < 8 => [0, 255, 0],
            _ => [0, 0, 0],
        };
        let pixels: Vec<i32> = (0..32).flat_map(pixel).collect();
        let masks = vec![1, 0, 0, 0, 0, 1, 1, 0];
        let ignored = vec![0, 1, 0, 0, 0, 0, 0, 0];
        let batch = DeviceBatch {
            step: 0,
            pixels: Some(Tensor::from_data(TensorData::new(pixels, [2, 4, 4, 3]), &device)),
            object_masks: Tensor::from_data(TensorData::new(masks, [2, 2, 2]), &device),
            ignore_masks: Some(Tensor::from_data(TensorData::new(ignored, [2, 2, 2]), &device)),
            image_index: Tensor::from_data(TensorData::new(vec![0, 1], [2]), &device),
            images: vec![image([4, 4]), image([2, 4])],
            objects: vec![object(0), object(1)],
            drops: Drops::default(),
        };
        let images = normalised_images(&batch);
        let TrainingBatch { image_of_object, target, .. } =
            TrainingBatch::new(&batch, EncoderInput::Images(images.clone()));
        assert_eq!(image_of_object, [0, 1]);
        let values = |tensor: Tensor<4>| tensor.into_data().try_to_vec::<f32>().expect("f32");
        assert_eq!(values(target.masks), [1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0]);
        // The first image has an ignored pixel, the lower half of the second is padding.
        assert_eq!(values(target.valid.expect("not all")), [1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0]);
        assert_eq!(images.dims(), [2, 3, 4, 4]);
        let images = values(images);
        let plane = |image: usize, channel: usize| &images[(image * 3 + channel) * 16..][..16];
        let is_near = |value: f32, expected: f32| (value - expected).abs() < 1e-6;
        // (124 - 123.675) / 58.395, (116 - 116.28) / 57.12, (103 - 103.53) / 57.375, and (255 - 116.28) / 57.12.
        for (channel, expected) in [0.005_565_5, -0.004_902, -0.009_237_5].into_iter().enumerate() {
            assert!(plane(0, channel).iter().all(|&value| is_near(value, expected)), "channel {channel}");
        }
        assert!(plane(1, 1)[..8].iter().all(|&value| is_near(value, 2.428_571_4)), "{:?}", plane(1, 1));
        assert!((0..3).all(|channel| plane(1, channel)[8..] == [0.0; 8]), "padding is zero after normalisation");
    }
}
