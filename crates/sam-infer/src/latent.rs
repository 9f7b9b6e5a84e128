//! Masks in the latent space of a segmenter (Kirillov 2023, arXiv 2304.02643 §D.6): one vector per mask, whose neighbours
//! show what the encoder knows of objects beyond their outlines.
//!
//! As the paper has it: the image embedding of a crop around the mask and that of the mirrored crop, each averaged over the
//! mask, and both averaged. The paper does not say how large the crop is and what a cell of the embedding counts as; here: the
//! square of 1.5 times the longer side of the box, and every cell that a pixel of the mask reaches into.

use burn::tensor::Tensor;
use sam_image::{RgbImage, Rle};
use sam_model::weights::host_values;

use crate::clip::{Background, MaskCrop};
use crate::predictor::Predictor;

/// Side of a crop, as a multiple of the longer side of the mask's box: the middle of what CLIP's crops have.
const CROP_SCALE: f64 = 1.5;

impl Predictor {
    /// The vector of a mask, of unit length and of the embedding's number of channels.
    ///
    /// # Panics
    ///
    /// When the mask is empty or has another size than the image.
    pub fn mask_latent(&self, image: &RgbImage, mask: &Rle) -> Vec<f32> {
        let encoder = &self.config().image_encoder;
        let (side_px, patch_px) = (encoder.image_size(), encoder.patch_size());
        let crop = MaskCrop::new(image, mask, CROP_SCALE, Background::Kept, side_px, patch_px);
        let grid = side_px / patch_px;
        let (plain, mirrored) = (crop.image(), mirrored(crop.image()));
        let embeddings = self.embed_many(&[plain, &mirrored]);
        let is_in_mask = |row: usize, column: usize| crop.patches()[row * grid + column];
        let of_plain = mean_over(&embeddings[0].tensor, is_in_mask);
        let of_mirrored = mean_over(&embeddings[1].tensor, |row, column| is_in_mask(row, grid - 1 - column));
        let sum: Vec<f64> = of_plain.iter().zip(&of_mirrored).map(|(a, b)| a + b).collect();
        let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        sum.into_iter().map(|value| (value / length) as f32).collect()
    }
}

fn mirrored(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    RgbImage::from_fn(width, height, |x, y| *image.get_pixel(width - 1 - x, y))
}

/// The mean of each channel over some cells of an embedding.
///
/// # Shapes
/// - `embedding`: `[1, C, G, G]`
/// - returns `[C]`
fn mean_over(embedding: &Tensor<4>, is_used: impl Fn(usize, usize) -> bool) -> Vec<f64> {
    let [_, _, rows, columns] = embedding.dims();
    let used: Vec<usize> = (0..rows)
        .flat_map(|row| (0..columns).map(move |column| (row, column)))
        .filter(|&(row, column)| is_used(row, column))
        .map(|(row, column)| row * columns + column)
        .collect();
    assert!(!used.is_empty(), "a mask reaches into a cell at least");
    let mean = |channel: &[f32]| used.iter().map(|&at| f64::from(channel[at])).sum::<f64>() / used.len() as f64;
    host_values(embedding).chunks_exact(rows * columns).map(mean).collect()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn a_mean_is_over_the_cells_of_the_mask() {
        let embedding =
            Tensor::<4>::from_data([[[[1.0, 2.0], [3.0, 4.0]], [[10.0, 20.0], [30.0, 40.0]]]], &Device::flex());
        assert_eq!(mean_over(&embedding, |row, _| row == 1), [3.5, 35.0]);
        assert_eq!(mean_over(&embedding, |row, column| row == column), [2.5, 25.0]);
    }

    #[test]
    fn a_mirrored_image_is_itself_mirrored_again() {
        let image = RgbImage::from_raw(3, 2, (0..18).collect()).expect("six pixels");
        assert_eq!(mirrored(&image).get_pixel(0, 1).0, [15, 16, 17]);
        assert_eq!(mirrored(&mirrored(&image)), image);
    }
}
