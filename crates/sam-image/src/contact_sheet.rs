//! Pictures side by side: a row per subject, a column per view of it.

use image::RgbImage;

use crate::resize::resize_longest_side;

/// Space between the cells.
const GAP_PX: u32 = 4;

/// Puts pictures on a white sheet, each resized so that its longer side fills its cell.
#[must_use]
pub fn contact_sheet(rows: &[Vec<RgbImage>], cell_px: u32) -> RgbImage {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(1) as u32;
    let side = |cells: u32| cells * (cell_px + GAP_PX) + GAP_PX;
    let mut sheet = RgbImage::from_pixel(side(columns), side(rows.len() as u32), image::Rgb([255; 3]));
    for (row, cells) in rows.iter().enumerate() {
        for (column, picture) in cells.iter().enumerate() {
            let (picture, _) = resize_longest_side(picture, cell_px as usize);
            paste(&mut sheet, &picture, side(column as u32), side(row as u32));
        }
    }
    sheet
}

/// Copies a picture onto a canvas; what lies outside is left out.
pub fn paste(canvas: &mut RgbImage, picture: &RgbImage, left_px: u32, top_px: u32) {
    for (x, y, pixel) in picture.enumerate_pixels() {
        if left_px + x < canvas.width() && top_px + y < canvas.height() {
            canvas.put_pixel(left_px + x, top_px + y, *pixel);
        }
    }
}
