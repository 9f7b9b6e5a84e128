//! Colour jitter: brightness, contrast and saturation by random factors.
//!
//! Factors and blends are those of torchvision's `ColorJitter`: `1 +- strength`, towards black, towards the mean grey,
//! towards the pixel's grey. Differs from torchvision: the order is fixed (brightness, contrast, saturation) and
//! intermediate values are not rounded, so the three are one pass over the pixels.

use image::RgbImage;

use crate::random::RandomStream;

/// ITU-R 601 luma, as Pillow's `convert("L")`.
const LUMA: [f32; 3] = [0.299, 0.587, 0.114];

/// Strengths of the colour changes; 0 turns one off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ColourJitter {
    /// The factor is uniform in `1 - brightness` to `1 + brightness`, at least 0.
    pub brightness: f64,
    /// As `brightness`, for the distance from the mean grey.
    pub contrast: f64,
    /// As `brightness`, for the distance from the pixel's own grey.
    pub saturation: f64,
}

impl Default for ColourJitter {
    /// The strengths of SAM 2's training (`ColorJitter(0.1, 0.03, 0.03)`, `sam2.1_hiera_b+_MOSE_finetune.yaml`).
    fn default() -> Self {
        Self { brightness: 0.1, contrast: 0.03, saturation: 0.03 }
    }
}

impl ColourJitter {
    /// Changes the colours of an image in place.
    pub fn apply(&self, image: &mut RgbImage, stream: &mut RandomStream) {
        let [brightness, contrast, saturation] = [self.brightness, self.contrast, self.saturation]
            .map(|strength| stream.uniform((1.0 - strength).max(0.0), 1.0 + strength) as f32);
        change_colours(image, brightness, contrast, saturation);
    }
}

fn change_colours(image: &mut RgbImage, brightness: f32, contrast: f32, saturation: f32) {
    let mean_grey = mean_grey(image) * brightness;
    let gain = brightness * contrast;
    let offset = mean_grey * (1.0 - contrast);
    for pixel in image.as_flat_samples_mut().samples.chunks_exact_mut(3) {
        let rgb = [pixel[0], pixel[1], pixel[2]].map(|value| f32::from(value) * gain + offset);
        let grey = (rgb[0] * LUMA[0] + rgb[1] * LUMA[1] + rgb[2] * LUMA[2]) * (1.0 - saturation);
        for (value, new) in pixel.iter_mut().zip(rgb) {
            // The cast saturates at 0 and 255.
            *value = (new * saturation + grey + 0.5) as u8;
        }
    }
}

fn mean_grey(image: &RgbImage) -> f32 {
    let mut sums = [0u64; 3];
    for pixel in image.as_raw().chunks_exact(3) {
        for (sum, &value) in sums.iter_mut().zip(pixel) {
            *sum += u64::from(value);
        }
    }
    let n_pixels = f64::from(image.width()) * f64::from(image.height());
    sums.iter().zip(LUMA).map(|(&sum, luma)| (sum as f64 / n_pixels.max(1.0)) as f32 * luma).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn gradient() -> RgbImage {
        RgbImage::from_fn(16, 16, |x, y| image::Rgb([(x * 15) as u8, (y * 15) as u8, 100]))
    }

    #[test]
    fn factors_of_one_change_nothing() {
        let mut image = gradient();
        change_colours(&mut image, 1.0, 1.0, 1.0);
        assert_eq!(image, gradient());
        let off = ColourJitter { brightness: 0.0, contrast: 0.0, saturation: 0.0 };
        off.apply(&mut image, &mut RandomStream::new(0, Purpose::Colour, &[]));
        assert_eq!(image, gradient());
    }

    #[test]
    fn each_factor_has_its_effect() {
        let mut dark = gradient();
        change_colours(&mut dark, 0.5, 1.0, 1.0);
        assert_eq!(dark.get_pixel(4, 6).0, [30, 45, 50]);
        let mut flat = gradient();
        change_colours(&mut flat, 1.0, 0.0, 1.0);
        let grey = mean_grey(&gradient()).round() as u8;
        assert!(flat.pixels().all(|pixel| pixel.0 == [grey; 3]));
        let mut grey = gradient();
        change_colours(&mut grey, 1.0, 1.0, 0.0);
        assert!(grey.pixels().all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]));
        let mut bright = gradient();
        change_colours(&mut bright, 9.0, 1.0, 1.0);
        assert_eq!(bright.get_pixel(15, 0).0, [255, 0, 255]);
    }
}
