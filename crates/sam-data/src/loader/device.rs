//! Batches on the device. Pixels and masks are transferred as bytes and normalised on the device.
//!
//! Shapes: `B` images, `O` objects, `S` side of the model's input, `M` side of the masks.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

use crate::loader::Drops;
use crate::loader::batch::{Batch, BatchImage, BatchObject};

/// One step's images and objects on the device.
#[derive(Clone, Debug)]
pub struct DeviceBatch {
    /// Index of the step.
    pub step: u64,
    /// RGB from 0 to 255, `[B, S, S, 3]`, padded with 0 on the right and below; `None` where images are not decoded.
    pub pixels: Option<Tensor<4, Int>>,
    /// Masks of 0 and 1, `[O, M, M]`.
    pub object_masks: Tensor<3, Int>,
    /// 1 where pixels are ignored by losses and metrics, `[B, M, M]`.
    pub ignore_masks: Option<Tensor<3, Int>>,
    /// Index of each object's image, `[O]`.
    pub image_index: Tensor<1, Int>,
    /// Names, and the mapping to original pixels, `[B]`.
    pub images: Vec<BatchImage>,
    /// Ids, classes and the masks in original pixels, `[O]`.
    pub objects: Vec<BatchObject>,
    /// Counts of dropped objects and samples.
    pub drops: Drops,
}

impl DeviceBatch {
    /// Uploads a batch.
    ///
    /// # Shapes
    ///
    /// - pixels: `[B, S, S, 3]`
    /// - object masks: `[O, M, M]`, ignore masks: `[B, M, M]`
    /// - image index: `[O]`
    pub fn new(batch: Batch, device: &Device) -> Self {
        let (images, objects) = (batch.images.len(), batch.objects.len());
        let (side, mask_side) = (batch.side_px, batch.mask_side_px);
        let image_index: Vec<i32> = batch.objects.iter().map(|object| object.image_index as i32).collect();
        Self {
            step: batch.step,
            pixels: (!batch.pixels.is_empty()).then(|| bytes(batch.pixels, [images, side, side, 3], device)),
            object_masks: bytes(batch.object_masks, [objects, mask_side, mask_side], device),
            ignore_masks: batch.ignore_masks.map(|masks| bytes(masks, [images, mask_side, mask_side], device)),
            image_index: Tensor::from_data(TensorData::new(image_index, [objects]), device),
            images: batch.images,
            objects: batch.objects,
            drops: batch.drops,
        }
    }
}

/// Uploads bytes as u8 if the device supports it; some GPUs' shaders do not.
fn bytes<const D: usize>(values: Vec<u8>, shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    let data = TensorData::new(values, shape);
    match device.supports_dtype(DType::U8) {
        true => Tensor::from_data(data, (device, DType::U8)),
        false => Tensor::from_data(data.convert::<i32>(), device),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::{Loader, LoaderOptions};
    use crate::synth::{SynthOptions, SynthScenes};
    use std::num::NonZeroUsize;
    use std::sync::Arc;

    #[test]
    fn uploaded_bytes_are_unchanged() {
        let scene_options = SynthOptions { side_px_min: 32, side_px_max: 40, ..SynthOptions::default() };
        let scenes = Arc::new(SynthScenes { seed: 3, first_index: 0, n_scenes: 7, options: scene_options });
        let n_images = NonZeroUsize::new(2).expect("two");
        let options = LoaderOptions { n_images, side_px: 32, mask_side_px: 16, ..LoaderOptions::default() };
        let mut host = Loader::new(scenes, options, 0);
        let host = host.next_batch().expect("endless").expect("sound");
        let device = DeviceBatch::new(host.clone(), &Device::flex());
        let pixels = device.pixels.expect("decoded");
        let [images, side, _, channels] = pixels.dims();
        assert_eq!([images, side, channels], [2, 32, 3]);
        let pixels = pixels.into_data().convert::<u8>().try_to_vec::<u8>().expect("bytes");
        assert_eq!(pixels, host.pixels);
        let masks = device.object_masks.into_data().convert::<u8>().try_to_vec::<u8>().expect("bytes");
        assert_eq!(masks, host.object_masks);
        let index = device.image_index.into_data().convert::<i64>().try_to_vec::<i64>().expect("integers");
        assert!(index.iter().zip(&host.objects).all(|(&index, object)| index == object.image_index as i64));
    }
}
