//! Images as CLIP takes them (`clip/clip.py::_transform`).

use burn::tensor::{Device, Tensor, TensorData};
use sam_image::{Resampling, RgbImage, crop_rgb, resize_rgb_with};
use sam_model::clip::ImageTowerConfig;

/// The middle square of an image whose shorter side is resized to `side_px`, bicubic (torchvision's `Resize` and `CenterCrop`).
/// Where the longer side leaves an odd number of pixels, `transformers` crops half a pixel further to the top left.
pub(super) fn shorter_side_centred(image: &RgbImage, side_px: usize) -> RgbImage {
    let size_hw = [image.height() as usize, image.width() as usize];
    let shorter = size_hw[0].min(size_hw[1]).max(1);
    let [height, width] = size_hw.map(|size| size * side_px / shorter);
    let resized = resize_rgb_with(image, [height, width], Resampling::Bicubic);
    let [top, left] = [height, width].map(|size| half_to_even(size - side_px));
    crop_rgb(&resized, [left, top, left + side_px, top + side_px])
}

/// Half of a number, rounded to the nearest even one from a half, as Python does.
fn half_to_even(number: usize) -> usize {
    let half = number / 2;
    half + usize::from(number % 2 == 1 && half % 2 == 1)
}

/// # Shapes
/// - returns `[B, S, S, 3]`, normalised
pub(super) fn normalised(squares: &[&RgbImage], config: &ImageTowerConfig, device: &Device) -> Tensor<4> {
    // A table per channel of what its 256 values become.
    let tables: [[f32; 256]; 3] = std::array::from_fn(|channel| {
        std::array::from_fn(|value| (value as f32 / 255.0 - config.mean[channel]) / config.std[channel])
    });
    let pixels = squares.iter().flat_map(|square| square.as_raw().chunks_exact(3));
    let values = pixels.flat_map(|pixel| [0, 1, 2].map(|channel| tables[channel][usize::from(pixel[channel])]));
    let side = config.side_px;
    Tensor::from_data(TensorData::new(values.collect::<Vec<f32>>(), [squares.len(), side, side, 3]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_are_rounded_to_even() {
        assert_eq!([0, 1, 2, 3, 4, 5, 7].map(half_to_even), [0, 0, 1, 2, 2, 2, 4]);
    }

    #[test]
    fn the_middle_of_any_shape_is_square() {
        for (width, height) in [(7, 7), (30, 20), (20, 30), (1, 50), (301, 64)] {
            let square = shorter_side_centred(&RgbImage::new(width, height), 16);
            assert_eq!(square.dimensions(), (16, 16), "{width} x {height}");
        }
    }
}
