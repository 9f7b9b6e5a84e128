//! Pixels to the values that the networks take (`sam.py::preprocess`).
//!
//! Shapes: `B` images, `S` image size.

use burn::tensor::{Device, Tensor, TensorData};

/// Mean of the training images per RGB channel, 0 to 255 (`build_sam.py`).
pub const PIXEL_MEAN: [f32; 3] = [123.675, 116.28, 103.53];

/// Standard deviation of the training images per RGB channel (`build_sam.py`).
pub const PIXEL_STD: [f32; 3] = [58.395, 57.12, 57.375];

/// Normalises padded images; the padding is zero *after* normalisation.
///
/// # Shapes
/// - `pixels`: `[B, S, S, 3]`, 0 to 255
/// - `content`: `[B, S, S]`, 1 on the image and 0 on its padding; `None` without padding
/// - returns `[B, 3, S, S]`
#[must_use]
pub fn normalise_pixels(pixels: Tensor<4>, content: Option<Tensor<3>>) -> Tensor<4> {
    let device = pixels.device();
    let channels = |values: [f32; 3]| Tensor::<1>::from_floats(values, &device).reshape([1, 1, 1, 3]);
    let normal = (pixels - channels(PIXEL_MEAN)) / channels(PIXEL_STD);
    let normal = match content {
        Some(content) => normal * content.unsqueeze_dim::<4>(3),
        None => normal,
    };
    normal.permute([0, 3, 1, 2])
}

/// Pads an image at the right and bottom and normalises it.
///
/// # Shapes
/// - `rgb`: `height * width * 3` bytes, row-major, neither dimension above `S`
/// - returns `[1, 3, S, S]`
pub(crate) fn preprocess(rgb: &[u8], [height, width]: [usize; 2], image_size: usize, device: &Device) -> Tensor<4> {
    assert_eq!(rgb.len(), height * width * 3, "an RGB image of {height}x{width} has three bytes per pixel");
    assert!(
        height <= image_size && width <= image_size,
        "an image of {height}x{width} must be resized to fit {image_size} px before"
    );
    let row_values = image_size * 3;
    let mut pixels = vec![0f32; image_size * row_values];
    for (padded, row) in pixels.chunks_exact_mut(row_values).zip(rgb.chunks_exact(width * 3)) {
        padded.iter_mut().zip(row).for_each(|(value, &byte)| *value = f32::from(byte));
    }
    let content = ([height, width] != [image_size; 2]).then(|| {
        let mut content = vec![0f32; image_size * image_size];
        content.chunks_exact_mut(image_size).take(height).for_each(|row| row[..width].fill(1.0));
        Tensor::from_data(TensorData::new(content, [1, image_size, image_size]), device)
    });
    let pixels = Tensor::from_data(TensorData::new(pixels, [1, image_size, image_size, 3]), device);
    normalise_pixels(pixels, content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pixel_value_is_normalised_exactly() {
        let rgb: Vec<u8> = (0..=255).flat_map(|value| [value; 3]).collect();
        let input = preprocess(&rgb, [16, 16], 16, &Device::flex()).into_data().try_to_vec::<f32>().expect("f32");
        for (index, value) in input.iter().enumerate() {
            let (channel, pixel) = (index / 256, (index % 256) as f32);
            assert_eq!(*value, (pixel - PIXEL_MEAN[channel]) / PIXEL_STD[channel]);
        }
    }

    #[test]
    fn padding_is_zero_after_normalisation() {
        let input = preprocess(&[255, 0, 0, 0, 0, 255], [1, 2], 4, &Device::flex());
        let values = input.into_data().try_to_vec::<f32>().expect("f32");
        assert_eq!(values[0], (255.0 - PIXEL_MEAN[0]) / PIXEL_STD[0]);
        assert_eq!(values[1], (0.0 - PIXEL_MEAN[0]) / PIXEL_STD[0]);
        assert_eq!(values[32 + 1], (255.0 - PIXEL_MEAN[2]) / PIXEL_STD[2]);
        assert!(values[2..16].iter().all(|&value| value == 0.0));
    }
}
