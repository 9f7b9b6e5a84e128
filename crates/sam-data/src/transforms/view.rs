//! A view of an image: crop, resize, mirror, pad; with exact maps in both directions.
//!
//! Source of the frame: `ResizeLongestSide` of segment-anything 1.0, through [`sam_image::ModelFrame`]; a view of the
//! whole image equals that frame bit for bit. The image is mirrored inside its own area, so padding stays on the right
//! and below.
//!
//! Layout: pixels height x width x 3; masks row-major, square, one byte of 0 or 1 per pixel.

use image::RgbImage;
use sam_image::{Mask, ModelFrame, Resampling, Rle, resize_rgb_with};

/// The visible part of the original image, and its place in the model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct View {
    /// Size of the image as decoded, `[height, width]`.
    pub original_hw: [usize; 2],
    /// First visible row and column of the original.
    pub crop_origin_yx: [usize; 2],
    /// Numbers of visible rows and columns of the original.
    pub crop_hw: [usize; 2],
    /// Size of the visible part in the model's input; the rest, right and below, is padding.
    pub resized_hw: [usize; 2],
    /// Side of the model's input.
    pub side_px: usize,
    /// Whether the image is flipped horizontally.
    pub mirrored_x: bool,
    /// Whether the image is flipped vertically.
    pub mirrored_y: bool,
    /// Resampling of the pixels.
    pub resampling: Resampling,
}

/// `model = original * scale + shift` on each axis, `[x, y]`; a negative scale mirrors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// Model pixels per original pixel, negative where mirrored.
    pub scale_xy: [f64; 2],
    /// Position of the original's corner, in model pixels.
    pub shift_xy: [f64; 2],
}

impl Affine {
    /// Applies the map to a point.
    #[must_use]
    pub fn apply(&self, xy: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|axis| xy[axis] * self.scale_xy[axis] + self.shift_xy[axis])
    }

    /// Returns the inverse map.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self {
            scale_xy: self.scale_xy.map(f64::recip),
            shift_xy: [0, 1].map(|axis| -self.shift_xy[axis] / self.scale_xy[axis]),
        }
    }
}

impl View {
    /// The view of inference: the whole image, with its longer side resized to `side_px`.
    ///
    /// # Panics
    ///
    /// When a size is zero.
    #[must_use]
    pub fn whole(original_hw: [usize; 2], side_px: usize) -> Self {
        Self {
            original_hw,
            crop_origin_yx: [0, 0],
            crop_hw: original_hw,
            resized_hw: ModelFrame::new(original_hw, side_px).resized_hw,
            side_px,
            mirrored_x: false,
            mirrored_y: false,
            resampling: Resampling::Bilinear,
        }
    }

    /// Returns the map from original to model pixels.
    #[must_use]
    pub fn to_model(&self) -> Affine {
        let mirrored = [self.mirrored_x, self.mirrored_y];
        let (mut scale_xy, mut shift_xy) = ([0.0; 2], [0.0; 2]);
        for xy in 0..2 {
            let yx = 1 - xy;
            let scale = self.resized_hw[yx] as f64 / self.crop_hw[yx] as f64;
            let origin = self.crop_origin_yx[yx] as f64;
            (scale_xy[xy], shift_xy[xy]) = if mirrored[xy] {
                (-scale, self.resized_hw[yx] as f64 + origin * scale)
            } else {
                (scale, -origin * scale)
            };
        }
        Affine { scale_xy, shift_xy }
    }

    /// Returns the map from model to original pixels.
    #[must_use]
    pub fn to_original(&self) -> Affine {
        self.to_model().inverse()
    }

    /// Maps a point `[x, y]` of the original image to the model's frame.
    #[must_use]
    pub fn point_to_model(&self, xy_px: [f32; 2]) -> [f32; 2] {
        self.to_model().apply(xy_px.map(f64::from)).map(|v| v as f32)
    }

    /// Maps a point `[x, y]` of the model's frame to the original image.
    #[must_use]
    pub fn point_to_original(&self, xy_px: [f32; 2]) -> [f32; 2] {
        self.to_original().apply(xy_px.map(f64::from)).map(|v| v as f32)
    }

    /// Maps a box `[x0, y0, x1, y1]` of the original image to the model's frame; corners are reordered if mirrored, not
    /// clipped.
    #[must_use]
    pub fn box_to_model(&self, box_xyxy_px: [f32; 4]) -> [f32; 4] {
        let [x0, y0, x1, y1] = box_xyxy_px;
        ordered(self.point_to_model([x0, y0]), self.point_to_model([x1, y1]))
    }

    /// Maps a box `[x0, y0, x1, y1]` of the model's frame to the original image.
    #[must_use]
    pub fn box_to_original(&self, box_xyxy_px: [f32; 4]) -> [f32; 4] {
        let [x0, y0, x1, y1] = box_xyxy_px;
        ordered(self.point_to_original([x0, y0]), self.point_to_original([x1, y1]))
    }

    /// Returns the tight box of the visible part of a mask, in original pixels with exclusive ends; the whole window if
    /// nothing is visible.
    pub(crate) fn visible_box_xyxy_px(&self, mask: &Rle) -> [f32; 4] {
        let height = mask.size_hw()[0];
        let [top, left] = self.crop_origin_yx;
        let [bottom, right] = [top + self.crop_hw[0], left + self.crop_hw[1]];
        let mut bounds: Option<[usize; 4]> = None;
        let mut start = 0usize;
        for (at, &count) in mask.counts().iter().enumerate() {
            let end = start + count as usize;
            let is_object = at % 2 == 1 && count > 0;
            let mut position = start;
            while is_object && position < end {
                let column = position / height;
                let column_end = ((column + 1) * height).min(end);
                let (y0, y1) = ((position - column * height).max(top), (column_end - column * height).min(bottom));
                if (left..right).contains(&column) && y0 < y1 {
                    let [x_min, y_min, x_max, y_max] = bounds.unwrap_or([column, y0, column + 1, y1]);
                    bounds = Some([x_min.min(column), y_min.min(y0), x_max.max(column + 1), y_max.max(y1)]);
                }
                position = column_end;
            }
            start = end;
        }
        bounds.unwrap_or([left, top, right, bottom]).map(|edge| edge as f32)
    }

    /// Renders the view: crops, resizes as the reference does, and mirrors; without padding, so of size `resized_hw`.
    ///
    /// # Panics
    ///
    /// When the image's size is not `original_hw`.
    #[must_use]
    pub fn render(&self, image: &RgbImage) -> RgbImage {
        let size_hw = [image.height() as usize, image.width() as usize];
        assert_eq!(size_hw, self.original_hw, "a view must be used with the image it was sampled for");
        let [y, x, height, width] =
            [self.crop_origin_yx[0], self.crop_origin_yx[1], self.crop_hw[0], self.crop_hw[1]].map(|px| px as u32);
        let mut seen = if self.crop_hw == self.original_hw {
            resize_rgb_with(image, self.resized_hw, self.resampling)
        } else {
            let cropped = image::imageops::crop_imm(image, x, y, width, height).to_image();
            resize_rgb_with(&cropped, self.resized_hw, self.resampling)
        };
        if self.mirrored_x {
            image::imageops::flip_horizontal_in_place(&mut seen);
        }
        if self.mirrored_y {
            image::imageops::flip_vertical_in_place(&mut seen);
        }
        seen
    }

    /// Maps a mask over the model's input, `mask_side_px` on each side, to original pixels.
    ///
    /// Each original pixel takes the value at its centre; invisible pixels are not set. This is the inverse of
    /// [`crate::transforms::MaskSampler`]; logits use the model's own bilinear path instead.
    ///
    /// # Panics
    ///
    /// When the mask is not square.
    #[must_use]
    pub fn mask_to_original(&self, mask: &Mask) -> Mask {
        let [mask_side_px, width] = mask.size_hw();
        assert_eq!(mask_side_px, width, "a mask of the model must be square");
        let to_mask = self.to_model();
        let per_model_px = mask_side_px as f64 / self.side_px as f64;
        let source = |xy: usize| -> Vec<Option<usize>> {
            let yx = 1 - xy;
            let seen = self.crop_origin_yx[yx]..self.crop_origin_yx[yx] + self.crop_hw[yx];
            (0..self.original_hw[yx])
                .map(|px| {
                    let model = (px as f64 + 0.5) * to_mask.scale_xy[xy] + to_mask.shift_xy[xy];
                    let at = ((model * per_model_px).max(0.0) as usize).min(mask_side_px - 1);
                    seen.contains(&px).then_some(at)
                })
                .collect()
        };
        let (columns, rows) = (source(0), source(1));
        Mask::from_fn(self.original_hw, |row, column| match (rows[row], columns[column]) {
            (Some(row), Some(column)) => mask.get(row, column),
            _ => false,
        })
    }
}

fn ordered(a: [f32; 2], b: [f32; 2]) -> [f32; 4] {
    [a[0].min(b[0]), a[1].min(b[1]), a[0].max(b[0]), a[1].max(b[1])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, RandomStream};
    use crate::transforms::{Augmentation, RandomCrop, ScaleJitter};

    const WILD: Augmentation = Augmentation {
        horizontal_flip_chance: 0.5,
        vertical_flip_chance: 0.5,
        scale_jitter: Some(ScaleJitter { scale_min: 0.1, scale_max: 2.0 }),
        crop: Some(RandomCrop { side_share_min: 0.3, side_share_max: 1.0 }),
        colour: None,
        resized_crop: None,
    };

    #[test]
    fn the_whole_view_is_the_frame_of_inference() {
        let frame = ModelFrame::new([333, 500], 1024);
        let view = View::whole([333, 500], 1024);
        for xy in [[0.0, 0.0], [499.5, 12.25], [17.0, 333.0]] {
            assert_eq!(view.point_to_model(xy), frame.point_to_model(xy));
            let back = view.point_to_original(xy);
            let expected = frame.point_to_original(xy);
            assert!((0..2).all(|i| (back[i] - expected[i]).abs() < 1e-4));
        }
    }

    #[test]
    fn points_and_boxes_map_back() {
        for draw in 0..500 {
            let mut stream = RandomStream::new(2, Purpose::View, &[draw]);
            let view = WILD.draw_view([427, 640], 1024, &mut stream);
            let xy = [stream.uniform(0.0, 640.0), stream.uniform(0.0, 427.0)].map(|v| v as f32);
            let back = view.point_to_original(view.point_to_model(xy));
            assert!((0..2).all(|i| (back[i] - xy[i]).abs() < 2e-3), "{xy:?} {back:?}");
            let bounds = [xy[0], xy[1], xy[0] + 5.0, xy[1] + 9.0];
            let there = view.box_to_model(bounds);
            assert!(there[0] < there[2] && there[1] < there[3]);
            let back = view.box_to_original(there);
            assert!((0..4).all(|i| (back[i] - bounds[i]).abs() < 2e-3));
        }
    }

    #[test]
    fn corners_of_the_crop_are_corners_of_the_content() {
        for draw in 0..200 {
            let mut stream = RandomStream::new(3, Purpose::View, &[draw]);
            let view = WILD.draw_view([61, 97], 256, &mut stream);
            let [y, x] = view.crop_origin_yx.map(|px| px as f32);
            let [height, width] = view.crop_hw.map(|px| px as f32);
            let [content_height, content_width] = view.resized_hw.map(|px| px as f32);
            let content = view.box_to_model([x, y, x + width, y + height]);
            let expected = [0.0, 0.0, content_width, content_height];
            assert!((0..4).all(|i| (content[i] - expected[i]).abs() < 1e-3), "{content:?}");
        }
    }

    #[test]
    fn rendering_mirrors_inside_the_content() {
        let image = RgbImage::from_fn(6, 4, |x, y| image::Rgb([x as u8, y as u8, 0]));
        let view = View {
            original_hw: [4, 6],
            crop_origin_yx: [1, 2],
            crop_hw: [3, 4],
            resized_hw: [3, 4],
            side_px: 8,
            mirrored_x: true,
            mirrored_y: false,
            resampling: Resampling::Bilinear,
        };
        let seen = view.render(&image);
        assert_eq!(seen.dimensions(), (4, 3));
        assert_eq!(seen.get_pixel(0, 0).0, [5, 1, 0]);
        assert_eq!(seen.get_pixel(3, 2).0, [2, 3, 0]);
        // The centre of original pixel (5, 1) is the centre of model pixel (0, 0).
        assert_eq!(view.point_to_model([5.5, 1.5]), [0.5, 0.5]);
    }

    #[test]
    fn the_visible_box_is_tight_around_what_the_view_shows() {
        let mask = Rle::from_mask(&Mask::from_fn([64, 64], |y, x| (20..60).contains(&y) && (10..30).contains(&x)));
        let view = View { crop_origin_yx: [30, 0], crop_hw: [20, 25], ..View::whole([64, 64], 64) };
        assert_eq!(view.visible_box_xyxy_px(&mask), [10.0, 30.0, 25.0, 50.0]);
        let elsewhere = View { crop_origin_yx: [0, 40], crop_hw: [10, 10], ..view };
        assert_eq!(elsewhere.visible_box_xyxy_px(&mask), [40.0, 0.0, 50.0, 10.0]);
        // Columns that are set down to the last row make one run over several columns.
        let columns = Rle::from_mask(&Mask::from_fn([4, 6], |_, column| (1..4).contains(&column)));
        assert_eq!(View::whole([4, 6], 64).visible_box_xyxy_px(&columns), [1.0, 0.0, 4.0, 4.0]);
    }
}
