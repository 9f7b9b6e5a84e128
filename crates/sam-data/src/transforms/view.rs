//! One look at an image: crop, resize, mirror, pad; with the exact way there and back.
//!
//! Source of the frame: `ResizeLongestSide` of segment-anything 1.0, by way of [`sam_image::ModelFrame`]; a view of the
//! whole image is that frame to the last bit. The image is mirrored inside its own area, so padding stays right and below.
//!
//! Layout: pixels height x width x 3; masks row-major, square, one byte of 0 or 1 per pixel.

use image::RgbImage;
use sam_image::{Mask, ModelFrame, Resampling, resize_rgb_with};

/// Which part of the original image is seen, and where it lies in the model's square.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct View {
    /// Size of the image as decoded, `[height, width]`.
    pub original_hw: [usize; 2],
    /// First row and column of the original that is seen.
    pub crop_origin_yx: [usize; 2],
    /// How many rows and columns of the original are seen.
    pub crop_hw: [usize; 2],
    /// Size of what is seen inside the model's square; the rest, right and below, is padding.
    pub resized_hw: [usize; 2],
    /// Side of the model's square.
    pub side_px: usize,
    /// Whether left and right are exchanged.
    pub mirrored_x: bool,
    /// Whether top and bottom are exchanged.
    pub mirrored_y: bool,
    /// How pixels are resized.
    pub resampling: Resampling,
}

/// `model = original * scale + shift` on each axis, `[x, y]`; a negative scale mirrors.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// Model pixels per original pixel, negative where mirrored.
    pub scale_xy: [f64; 2],
    /// Where the original's corner lies, in model pixels.
    pub shift_xy: [f64; 2],
}

impl Affine {
    /// The map applied to a point.
    #[must_use]
    pub fn apply(&self, xy: [f64; 2]) -> [f64; 2] {
        [0, 1].map(|axis| xy[axis] * self.scale_xy[axis] + self.shift_xy[axis])
    }

    /// The map of the opposite direction.
    #[must_use]
    pub fn inverse(&self) -> Self {
        Self {
            scale_xy: self.scale_xy.map(f64::recip),
            shift_xy: [0, 1].map(|axis| -self.shift_xy[axis] / self.scale_xy[axis]),
        }
    }
}

impl View {
    /// The view of inference: everything, upright, longer side to `side_px`.
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

    /// The map from original to model pixels.
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

    /// The map from model to original pixels.
    #[must_use]
    pub fn to_original(&self) -> Affine {
        self.to_model().inverse()
    }

    /// A point `[x, y]` of the original image in the model's frame.
    #[must_use]
    pub fn point_to_model(&self, xy_px: [f32; 2]) -> [f32; 2] {
        self.to_model().apply(xy_px.map(f64::from)).map(|v| v as f32)
    }

    /// A point `[x, y]` of the model's frame in the original image.
    #[must_use]
    pub fn point_to_original(&self, xy_px: [f32; 2]) -> [f32; 2] {
        self.to_original().apply(xy_px.map(f64::from)).map(|v| v as f32)
    }

    /// A box `[x0, y0, x1, y1]` of the original image in the model's frame; ordered again where mirrored, not clipped.
    #[must_use]
    pub fn box_to_model(&self, box_xyxy_px: [f32; 4]) -> [f32; 4] {
        let [x0, y0, x1, y1] = box_xyxy_px;
        ordered(self.point_to_model([x0, y0]), self.point_to_model([x1, y1]))
    }

    /// A box `[x0, y0, x1, y1]` of the model's frame in the original image.
    #[must_use]
    pub fn box_to_original(&self, box_xyxy_px: [f32; 4]) -> [f32; 4] {
        let [x0, y0, x1, y1] = box_xyxy_px;
        ordered(self.point_to_original([x0, y0]), self.point_to_original([x1, y1]))
    }

    /// The image as seen: cropped, resized as the reference does, mirrored; without padding, so of size `resized_hw`.
    ///
    /// # Panics
    ///
    /// When the image is not of `original_hw`.
    #[must_use]
    pub fn render(&self, image: &RgbImage) -> RgbImage {
        let size_hw = [image.height() as usize, image.width() as usize];
        assert_eq!(size_hw, self.original_hw, "a view must be of the image that it was drawn for");
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

    /// A mask over the model's square, `mask_side_px` on each side, in original pixels.
    ///
    /// Each original pixel takes the value at its centre; what the view does not see is not set. This is the inverse of
    /// [`crate::transforms::MaskSampler`]; logits go through the model's own bilinear path instead.
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
    fn points_and_boxes_go_there_and_back() {
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
}
