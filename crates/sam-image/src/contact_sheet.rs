//! Contact sheets: images in a grid, with one row per subject and one column per view.

use image::RgbImage;

use crate::resize::resize_longest_side;

/// Gap between the cells.
const GAP_PX: u32 = 4;

/// Arranges images on a white sheet, each resized so that its longer side fills its cell.
#[must_use]
pub fn contact_sheet(rows: &[Vec<RgbImage>], cell_px: u32) -> RgbImage {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(1) as u32;
    let extent = |cells: u32| cells * (cell_px + GAP_PX) + GAP_PX;
    let mut sheet = RgbImage::from_pixel(extent(columns), extent(rows.len() as u32), image::Rgb([255; 3]));
    for (row, cells) in rows.iter().enumerate() {
        for (column, image) in cells.iter().enumerate() {
            let (image, _) = resize_longest_side(image, cell_px as usize);
            paste(&mut sheet, &image, extent(column as u32), extent(row as u32));
        }
    }
    sheet
}

/// Copies an image onto a canvas; pixels outside the canvas are clipped.
pub fn paste(canvas: &mut RgbImage, image: &RgbImage, left_px: u32, top_px: u32) {
    for (x, y, pixel) in image.enumerate_pixels() {
        if left_px + x < canvas.width() && top_px + y < canvas.height() {
            canvas.put_pixel(left_px + x, top_px + y, *pixel);
        }
    }
}
