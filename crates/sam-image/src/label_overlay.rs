//! Hundreds of masks of one image at once: each pixel has one label, so the memory is that of a label image, whatever the
//! number of masks.

use std::path::Path;

use image::error::EncodingError;
use image::{ExtendedColorType, ImageError as ImageFailure, ImageFormat, RgbImage};

use crate::error::ImageError;
use crate::mask::checked_area;
use crate::overlay::{blend, save_png};
use crate::resize::resize_rgb;
use crate::rle::Rle;

/// Which of several masks a pixel belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelImage {
    size_hw: [usize; 2],
    /// Row-major; 0 where there is no mask, else 1 + the index of the mask.
    labels: Vec<u32>,
}

impl LabelImage {
    /// Labels pixels by the smallest mask that covers them, so that parts stay visible on what they are part of; of masks of
    /// one size the first.
    ///
    /// # Errors
    ///
    /// When a mask is of another size, or the size is above that of any mask.
    pub fn of_smallest(size_hw: [usize; 2], masks: &[&Rle]) -> Result<Self, ImageError> {
        let mut image = Self { size_hw, labels: vec![0; checked_area(size_hw)?] };
        let mut order: Vec<usize> = (0..masks.len()).collect();
        order.sort_by_key(|&index| std::cmp::Reverse((masks[index].area_px(), index)));
        let [height, width] = size_hw;
        for index in order {
            let mask = masks[index];
            if mask.size_hw() != size_hw {
                return Err(ImageError::SizeMismatch { expected_hw: size_hw, got_hw: mask.size_hw() });
            }
            for at in mask.spans().flat_map(|(start, end)| start as usize..end as usize) {
                image.labels[at % height * width + at / height] = index as u32 + 1;
            }
        }
        Ok(image)
    }

    /// The labels, row-major: 0 where there is no mask, else 1 + its index.
    #[must_use]
    pub fn labels(&self) -> &[u32] {
        &self.labels
    }

    /// Draws the masks over the image, each in the colour of its index (such as [`crate::mask_colour_rgb`]) with a contour in
    /// full colour. An image with a longer side than `longest_px` is drawn in that size.
    ///
    /// # Panics
    ///
    /// When the image is of another size.
    #[must_use]
    pub fn overlay(&self, image: &RgbImage, longest_px: usize, colour_rgb: &dyn Fn(usize) -> [u8; 3]) -> RgbImage {
        let [height, width] = self.size_hw;
        assert_eq!([image.height() as usize, image.width() as usize], self.size_hw, "labels of this image");
        let scale = (longest_px as f64 / height.max(width) as f64).min(1.0);
        let to_hw = self.size_hw.map(|size| ((size as f64 * scale).round() as usize).max(1));
        let mut canvas = resize_rgb(image, to_hw);
        // The nearest pixel of each row and column.
        let nearest = |axis: usize| -> Vec<usize> {
            let (to, from) = (to_hw[axis], self.size_hw[axis]);
            (0..to).map(|at| ((2 * at + 1) * from / (2 * to)).min(from - 1)).collect()
        };
        let (rows, columns) = (nearest(0), nearest(1));
        let label = |row: usize, column: usize| self.labels[rows[row] * width + columns[column]];
        for (column, row, pixel) in canvas.enumerate_pixels_mut() {
            let (row, column) = (row as usize, column as usize);
            let here = label(row, column);
            if here == 0 {
                continue;
            }
            let colour_rgb = colour_rgb(here as usize - 1);
            let neighbours = [
                (row.saturating_sub(1), column),
                (row, column.saturating_sub(1)),
                (row + 1, column),
                (row, column + 1),
            ];
            let is_contour = neighbours.iter().any(|&(y, x)| y < to_hw[0] && x < to_hw[1] && label(y, x) != here);
            pixel.0 = if is_contour { colour_rgb } else { blend(pixel.0, colour_rgb) };
        }
        canvas
    }

    /// Writes the labels as a 16-bit grey PNG.
    ///
    /// # Errors
    ///
    /// When there are more masks than 16 bits count, or the file cannot be written.
    pub fn save_png(&self, path: &Path) -> Result<(), ImageError> {
        let mut bytes = Vec::with_capacity(self.labels.len() * 2);
        for &label in &self.labels {
            let label = u16::try_from(label).map_err(|_| ImageError::TooManyLabels { limit: u16::MAX as usize })?;
            bytes.extend(label.to_ne_bytes());
        }
        save_png(&bytes, self.size_hw, ExtendedColorType::L16, path)
    }

    /// Writes the class of each pixel as a PNG with indexed colours, as VOC has it: 0 (black) where there is no mask, else 1 +
    /// the class of the mask, in the colour of the class.
    ///
    /// # Errors
    ///
    /// When there are more classes than eight bits count, or the file cannot be written.
    ///
    /// # Panics
    ///
    /// When there is not one class per mask, or a class without a colour.
    pub fn save_class_png(&self, class_of: &[usize], colours_rgb: &[[u8; 3]], path: &Path) -> Result<(), ImageError> {
        let limit = usize::from(u8::MAX);
        if colours_rgb.len() > limit {
            return Err(ImageError::TooManyLabels { limit });
        }
        assert!(class_of.iter().all(|&class| class < colours_rgb.len()), "every class has a colour");
        let value = |&label: &u32| if label == 0 { 0 } else { class_of[label as usize - 1] as u8 + 1 };
        let values: Vec<u8> = self.labels.iter().map(value).collect();
        let palette: Vec<u8> = [[0; 3]].iter().chain(colours_rgb).flatten().copied().collect();
        let [height, width] = self.size_hw.map(|size| size as u32);
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_palette(palette);
        let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&values));
        written.map_err(|error| ImageError::Encode {
            path: path.to_path_buf(),
            source: Box::new(ImageFailure::Encoding(EncodingError::new(ImageFormat::Png.into(), error))),
        })?;
        std::fs::write(path, bytes).map_err(|source| ImageError::Io { path: path.to_path_buf(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask::Mask;
    use crate::overlay::mask_colour_rgb;

    #[test]
    fn the_smallest_mask_is_on_top() {
        let masks = [
            Rle::from_mask(&Mask::drawn(&[".##.", ".##.", "...."])),
            Rle::from_mask(&Mask::drawn(&["####", "####", "...."])),
            Rle::from_mask(&Mask::drawn(&["..#.", "....", "...."])),
        ];
        let labels = LabelImage::of_smallest([3, 4], &masks.iter().collect::<Vec<_>>()).expect("one size");
        assert_eq!(labels.labels(), [2, 1, 3, 2, 2, 1, 1, 2, 0, 0, 0, 0]);
        assert!(LabelImage::of_smallest([4, 4], &[&masks[0]]).is_err());

        let grey = RgbImage::from_pixel(4, 3, image::Rgb([9, 9, 9]));
        let drawn = labels.overlay(&grey, 100, &mask_colour_rgb);
        assert_eq!(drawn.get_pixel(2, 0).0, mask_colour_rgb(2));
        assert_eq!(drawn.get_pixel(1, 2).0, [9, 9, 9]);
        assert_eq!(labels.overlay(&grey, 2, &mask_colour_rgb).dimensions(), (2, 2));

        let folder = tempfile_folder();
        let path = folder.join("labels.png");
        labels.save_png(&path).expect("written");
        let read = image::open(&path).expect("an image").into_luma16();
        assert!(read.pixels().map(|pixel| u32::from(pixel.0[0])).eq(labels.labels().iter().copied()));
        // The first two masks are of one class.
        let path = folder.join("classes.png");
        let colours = [mask_colour_rgb(0), mask_colour_rgb(1)];
        labels.save_class_png(&[1, 1, 0], &colours, &path).expect("written");
        let read = image::open(&path).expect("an image").into_rgb8();
        assert_eq!([read.get_pixel(0, 0).0, read.get_pixel(2, 0).0], [colours[1], colours[0]]);
        assert_eq!(read.get_pixel(1, 2).0, [0; 3]);
        let too_many = labels.save_class_png(&[0, 0, 0], &[[9; 3]; 256], &path).expect_err("eight bits");
        assert!(too_many.to_string().contains("at most 255"), "{too_many}");
        std::fs::remove_dir_all(folder).expect("removed");
    }

    fn tempfile_folder() -> std::path::PathBuf {
        let folder = std::env::temp_dir().join(format!("sam-image-labels-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        folder
    }
}
