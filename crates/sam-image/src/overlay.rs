//! Overlays: translucent masks with contours, boxes and clicks, drawn over the image.
//!
//! Positive clicks are green, negative ones red, both with a white rim, as in the notebooks of segment-anything. Line
//! widths scale with the image size.

use std::path::Path;

use image::{ExtendedColorType, ImageEncoder, RgbImage, codecs::png::PngEncoder};

use crate::error::ImageError;
use crate::mask::Mask;

/// The label of a click.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PointLabel {
    /// Foreground, label 1 of the reference.
    Positive,
    /// Background, label 0 of the reference.
    Negative,
}

/// Content of an overlay, in pixels of the image.
#[derive(Debug, Clone, Copy, Default)]
pub struct Overlay<'a> {
    /// Drawn first to last, each in [`mask_colour_rgb`] of its index.
    pub masks: &'a [Mask],
    /// `[x0, y0, x1, y1]`, each in the colour of the mask with the same index.
    pub boxes_xyxy_px: &'a [[f32; 4]],
    /// `[x, y]` and the label of each click.
    pub points_xy_px: &'a [([f32; 2], PointLabel)],
}

/// Opacity of the mask colour; segment-anything's notebooks use 0.35 to 0.6.
const MASK_ALPHA: f32 = 0.45;
const POSITIVE_RGB: [u8; 3] = [0, 200, 60];
const NEGATIVE_RGB: [u8; 3] = [225, 30, 40];
const RIM_RGB: [u8; 3] = [255, 255, 255];

/// Draws masks, boxes and clicks over a copy of the image.
///
/// Content outside the image is clipped; a mask of another size is aligned at the top left.
#[must_use]
pub fn overlay(image: &RgbImage, content: &Overlay<'_>) -> RgbImage {
    let mut canvas = image.clone();
    let longer_side_px = image.width().max(image.height());
    let line_px = if longer_side_px < 512 { 1 } else { 2 };
    let radius_px = (longer_side_px as f32 / 120.0).clamp(2.5, 14.0);

    for (index, mask) in content.masks.iter().enumerate() {
        draw_mask(&mut canvas, mask, mask_colour_rgb(index), line_px);
    }
    for (index, &box_xyxy_px) in content.boxes_xyxy_px.iter().enumerate() {
        draw_box(&mut canvas, box_xyxy_px, mask_colour_rgb(index), line_px);
    }
    for &(xy_px, label) in content.points_xy_px {
        let colour_rgb = match label {
            PointLabel::Positive => POSITIVE_RGB,
            PointLabel::Negative => NEGATIVE_RGB,
        };
        draw_disc(&mut canvas, xy_px, radius_px + line_px as f32, RIM_RGB);
        draw_disc(&mut canvas, xy_px, radius_px, colour_rgb);
    }
    canvas
}

/// The colour of the mask with this index: the same in every image, and distinct from its neighbours'.
#[must_use]
pub fn mask_colour_rgb(index: usize) -> [u8; 3] {
    // Steps of the golden ratio spread the hues; the first is the blue of the reference's demo.
    const GOLDEN_RATIO_CONJUGATE: f64 = 0.618_033_988_749_895;
    const FIRST_HUE: f64 = 0.58;
    let hue = (FIRST_HUE + index as f64 * GOLDEN_RATIO_CONJUGATE).fract() * 6.0;
    let (saturation, value) = [(0.85, 1.0), (0.65, 0.95), (0.95, 0.75)][index % 3];
    // HSV to RGB.
    [5.0, 3.0, 1.0].map(|offset| {
        let k: f64 = (offset + hue) % 6.0;
        let level = value - value * saturation * k.min(4.0 - k).clamp(0.0, 1.0);
        (level * 255.0).round() as u8
    })
}

/// Writes a mask as an 8-bit grey PNG: 0 outside, 255 inside.
///
/// # Errors
///
/// When the file cannot be written, or the mask has no pixels.
pub fn save_mask_png(mask: &Mask, path: &Path) -> Result<(), ImageError> {
    let grey: Vec<u8> = mask.pixels().iter().map(|&set| if set { 255 } else { 0 }).collect();
    save_grey_png(&grey, mask.size_hw(), path)
}

/// Writes 8-bit grey values, row-major, as PNG, whatever the extension.
///
/// # Errors
///
/// When the file cannot be written, there are no pixels, or not as many as the size says.
pub fn save_grey_png(grey: &[u8], size_hw: [usize; 2], path: &Path) -> Result<(), ImageError> {
    save_png(grey, size_hw, ExtendedColorType::L8, path)
}

/// Writes an image as PNG, whatever the extension.
///
/// # Errors
///
/// When the file cannot be written, or the image has no pixels.
pub fn save_rgb_png(image: &RgbImage, path: &Path) -> Result<(), ImageError> {
    save_png(image, [image.height() as usize, image.width() as usize], ExtendedColorType::Rgb8, path)
}

pub(crate) fn save_png(
    bytes: &[u8],
    size_hw: [usize; 2],
    kind: ExtendedColorType,
    path: &Path,
) -> Result<(), ImageError> {
    let mut png = Vec::new();
    let [height, width] = size_hw.map(|size| u32::try_from(size).unwrap_or(u32::MAX));
    if height == 0 || width == 0 {
        return Err(ImageError::EmptyImage { name: path.display().to_string(), size_hw });
    }
    PngEncoder::new(&mut png)
        .write_image(bytes, width, height, kind)
        .map_err(|source| ImageError::Encode { path: path.to_path_buf(), source: Box::new(source) })?;
    std::fs::write(path, png).map_err(|source| ImageError::Io { path: path.to_path_buf(), source })
}

fn draw_mask(canvas: &mut RgbImage, mask: &Mask, colour_rgb: [u8; 3], line_px: usize) {
    let height = mask.height().min(canvas.height() as usize);
    let width = mask.width().min(canvas.width() as usize);
    for row in 0..height {
        for column in (0..width).filter(|&column| mask.get(row, column)) {
            let pixel = &mut canvas.get_pixel_mut(column as u32, row as u32).0;
            if is_contour(mask, row, column, line_px) {
                *pixel = colour_rgb;
            } else {
                *pixel = blend(*pixel, colour_rgb);
            }
        }
    }
}

/// A pixel under the colour of a mask.
pub(crate) fn blend(pixel: [u8; 3], colour_rgb: [u8; 3]) -> [u8; 3] {
    std::array::from_fn(|channel| {
        let (below, above) = (f32::from(pixel[channel]), f32::from(colour_rgb[channel]));
        (below * (1.0 - MASK_ALPHA) + above * MASK_ALPHA).round() as u8
    })
}

/// A set pixel with an unset one (or the border) within `line_px` steps up, down, left or right.
fn is_contour(mask: &Mask, row: usize, column: usize, line_px: usize) -> bool {
    (1..=line_px).any(|step| {
        !(mask.get(row + step, column)
            && mask.get(row, column + step)
            && row >= step
            && column >= step
            && mask.get(row - step, column)
            && mask.get(row, column - step))
    })
}

fn draw_box(canvas: &mut RgbImage, box_xyxy_px: [f32; 4], colour_rgb: [u8; 3], line_px: usize) {
    // `as` saturates and maps NaN to 0, so any box can be drawn.
    let [x0, y0, x1, y1] = box_xyxy_px.map(|edge| edge.round() as i64);
    let line_px = line_px as i64;
    fill_rectangle(canvas, [x0, y0, x1, y0.saturating_add(line_px)], colour_rgb);
    fill_rectangle(canvas, [x0, y1.saturating_sub(line_px), x1, y1], colour_rgb);
    fill_rectangle(canvas, [x0, y0, x0.saturating_add(line_px), y1], colour_rgb);
    fill_rectangle(canvas, [x1.saturating_sub(line_px), y0, x1, y1], colour_rgb);
}

/// Half-open `[x0, y0, x1, y1)`, clipped to the canvas.
fn fill_rectangle(canvas: &mut RgbImage, box_xyxy_px: [i64; 4], colour_rgb: [u8; 3]) {
    let (width, height) = (i64::from(canvas.width()), i64::from(canvas.height()));
    let [x0, y0, x1, y1] = box_xyxy_px;
    for y in y0.clamp(0, height)..y1.clamp(0, height) {
        for x in x0.clamp(0, width)..x1.clamp(0, width) {
            canvas.get_pixel_mut(x as u32, y as u32).0 = colour_rgb;
        }
    }
}

fn draw_disc(canvas: &mut RgbImage, xy_px: [f32; 2], radius_px: f32, colour_rgb: [u8; 3]) {
    let [x, y] = xy_px;
    let span = |centre: f32, size: u32| {
        let first = (centre - radius_px).floor().clamp(0.0, size as f32) as u32;
        let last = (centre + radius_px).ceil().clamp(-1.0, size as f32 - 1.0) as i64;
        i64::from(first)..=last
    };
    for row in span(y, canvas.height()) {
        for column in span(x, canvas.width()) {
            let (dx, dy) = (column as f32 - x, row as f32 - y);
            if dx * dx + dy * dy <= radius_px * radius_px {
                canvas.get_pixel_mut(column as u32, row as u32).0 = colour_rgb;
            }
        }
    }
}
