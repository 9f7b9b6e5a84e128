//! Coordinate transforms between the original image and the model's square input.
//!
//! SAM's `ResizeLongestSide`: the longer side becomes `side_px`, the image is at the top left and the rest is
//! padding. Coordinates are scaled **per axis by new/old**, not by the nominal scale, because the shorter side is
//! rounded. Different from the reference: a very elongated image keeps one pixel where the reference would round to
//! zero and fail.

/// An image's size before and after the resize to the model's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ModelFrame {
    /// Size of the image as decoded, `[height, width]`.
    pub original_hw: [usize; 2],
    /// Size of the image inside the model's square, `[height, width]`; the longer is `side_px`.
    pub resized_hw: [usize; 2],
    /// Side length of the model's square, 1024 for the official checkpoints.
    pub side_px: usize,
}

impl ModelFrame {
    /// The frame of an image of `original_hw` for a model of `side_px`.
    ///
    /// # Panics
    ///
    /// When a size is zero, which decoded images never are.
    #[must_use]
    pub fn new(original_hw: [usize; 2], side_px: usize) -> Self {
        let [height, width] = original_hw;
        assert!(
            height > 0 && width > 0 && side_px > 0,
            "sizes must be at least 1 px, got original {height} x {width} and side {side_px}"
        );
        let scale = side_px as f64 / height.max(width) as f64;
        let resized_hw = original_hw.map(|size| ((size as f64 * scale + 0.5).floor() as usize).clamp(1, side_px));
        Self { original_hw, resized_hw, side_px }
    }

    /// A point `[x, y]` of the original image in the model's frame.
    #[must_use]
    pub fn point_to_model(&self, xy_px: [f32; 2]) -> [f32; 2] {
        scale_xy(xy_px, self.original_hw, self.resized_hw)
    }

    /// A point `[x, y]` of the model's frame in the original image.
    #[must_use]
    pub fn point_to_original(&self, xy_px: [f32; 2]) -> [f32; 2] {
        scale_xy(xy_px, self.resized_hw, self.original_hw)
    }

    /// A box `[x0, y0, x1, y1]` of the original image in the model's frame.
    #[must_use]
    pub fn box_to_model(&self, box_xyxy_px: [f32; 4]) -> [f32; 4] {
        let [x0, y0, x1, y1] = box_xyxy_px;
        let ([x0, y0], [x1, y1]) = (self.point_to_model([x0, y0]), self.point_to_model([x1, y1]));
        [x0, y0, x1, y1]
    }

    /// A box `[x0, y0, x1, y1]` of the model's frame in the original image.
    #[must_use]
    pub fn box_to_original(&self, box_xyxy_px: [f32; 4]) -> [f32; 4] {
        let [x0, y0, x1, y1] = box_xyxy_px;
        let ([x0, y0], [x1, y1]) = (self.point_to_original([x0, y0]), self.point_to_original([x1, y1]));
        [x0, y0, x1, y1]
    }
}

/// In f64 as in the reference, with a single rounding to f32 at the end.
fn scale_xy(xy_px: [f32; 2], from_hw: [usize; 2], to_hw: [usize; 2]) -> [f32; 2] {
    let scale = |value: f32, axis: usize| (f64::from(value) * (to_hw[axis] as f64 / from_hw[axis] as f64)) as f32;
    [scale(xy_px[0], 1), scale(xy_px[1], 0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_equal_the_reference() {
        // `get_preprocess_shape` of segment_anything 1.0 for the same inputs.
        for (original_hw, side_px, resized_hw) in [
            ([480, 640], 1024, [768, 1024]),
            ([1500, 2250], 1024, [683, 1024]),
            ([1, 1], 1024, [1024, 1024]),
            ([333, 500], 1024, [682, 1024]),
            ([1024, 1024], 1024, [1024, 1024]),
            ([427, 640], 1024, [683, 1024]),
            ([640, 427], 256, [256, 171]),
            ([1, 4096], 1024, [1, 1024]),
            ([9000, 2], 1024, [1024, 1]),
        ] {
            assert_eq!(ModelFrame::new(original_hw, side_px).resized_hw, resized_hw, "{original_hw:?}");
        }
    }

    #[test]
    fn axes_scale_by_their_own_ratio() {
        let frame = ModelFrame::new([333, 500], 1024);
        let [x, y] = frame.point_to_model([500.0, 333.0]);
        assert_eq!([x, y], [1024.0, 682.0]);
        assert_eq!(frame.point_to_original([x, y]), [500.0, 333.0]);
        assert_eq!(frame.box_to_model([0.0, 0.0, 500.0, 333.0]), [0.0, 0.0, 1024.0, 682.0]);
    }

    #[test]
    fn boxes_round_trip_within_a_thousandth_of_a_pixel() {
        let frame = ModelFrame::new([1371, 2047], 1024);
        for box_xyxy_px in [[0.0, 0.0, 2047.0, 1371.0], [17.25, 3.5, 1999.75, 1200.125]] {
            let back = frame.box_to_original(frame.box_to_model(box_xyxy_px));
            for (a, b) in back.iter().zip(box_xyxy_px) {
                assert!((a - b).abs() < 1e-3, "{back:?} is not {box_xyxy_px:?}");
            }
        }
    }
}
