//! Overlays: positions and colours, and content outside the image.

use std::path::Path;

use sam_image::{
    Mask, Overlay, PointLabel, RgbImage, decode_rgb, mask_colour_rgb, overlay, save_mask_png, save_rgb_png,
};

fn grey(width: u32, height: u32) -> RgbImage {
    RgbImage::from_pixel(width, height, [100, 100, 100].into())
}

#[test]
fn masks_are_tinted_and_contoured() {
    let image = grey(60, 40);
    let square = Mask::from_fn([40, 60], |row, column| (10..30).contains(&row) && (10..30).contains(&column));
    let drawn = overlay(&image, &Overlay { masks: std::slice::from_ref(&square), ..Overlay::default() });
    let colour_rgb = mask_colour_rgb(0);
    assert_eq!(drawn.get_pixel(10, 20).0, colour_rgb, "the contour is opaque");
    let tinted = colour_rgb.map(|colour| (100.0_f32 * 0.55 + f32::from(colour) * 0.45).round() as u8);
    assert_eq!(drawn.get_pixel(20, 20).0, tinted, "the inside is translucent");
    assert_eq!(drawn.get_pixel(5, 5).0, [100, 100, 100], "the outside is untouched");
}

#[test]
fn points_and_boxes_are_drawn() {
    let what = Overlay {
        boxes_xyxy_px: &[[5.0, 5.0, 50.0, 30.0]],
        points_xy_px: &[([20.0, 20.0], PointLabel::Positive), ([40.0, 20.0], PointLabel::Negative)],
        ..Overlay::default()
    };
    let drawn = overlay(&grey(60, 40), &what);
    assert_eq!(drawn.get_pixel(5, 17).0, mask_colour_rgb(0));
    let [[r0, g0, _], [r1, g1, _]] = [drawn.get_pixel(20, 20).0, drawn.get_pixel(40, 20).0];
    assert!(g0 > r0 && r1 > g1, "positive is green and negative is red");
    assert_eq!(drawn.get_pixel(23, 20).0, [255, 255, 255], "the rim is white");
}

#[test]
fn colours_are_stable_and_apart() {
    assert_eq!(mask_colour_rgb(3), mask_colour_rgb(3));
    for a in 0..12 {
        for b in 0..a {
            let [a_rgb, b_rgb] = [mask_colour_rgb(a), mask_colour_rgb(b)];
            let distance: u32 = (0..3).map(|c| u32::from(a_rgb[c].abs_diff(b_rgb[c]))).sum();
            assert!(distance > 60, "colours {a} and {b} are alike: {a_rgb:?} {b_rgb:?}");
        }
    }
}

#[test]
fn invalid_coordinates_are_clipped() {
    let large = Mask::from_fn([90, 90], |row, column| (row + column) % 3 == 0);
    let what = Overlay {
        masks: &[large, Mask::empty([0, 0])],
        boxes_xyxy_px: &[[f32::NAN, f32::INFINITY, -1e30, 1e30], [9.0, 9.0, 1.0, 1.0], [-5.0, -5.0, 500.0, 500.0]],
        points_xy_px: &[
            ([f32::NAN, 1.0], PointLabel::Positive),
            ([-1e30, 1e30], PointLabel::Negative),
            ([59.5, -2.0], PointLabel::Negative),
        ],
    };
    assert_eq!(overlay(&grey(60, 40), &what).dimensions(), (60, 40));
}

#[test]
fn saved_masks_are_0_and_255() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mask.png");
    let mask = Mask::from_fn([5, 7], |row, column| row * column % 2 == 1);
    save_mask_png(&mask, &path).expect("writable");
    let read = decode_rgb(&path).expect("our own file");
    for row in 0..5 {
        for column in 0..7 {
            let expected = if mask.get(row, column) { 255 } else { 0 };
            assert_eq!(read.get_pixel(column as u32, row as u32).0, [expected; 3]);
        }
    }
    save_rgb_png(&read, &path).expect("writable");
    assert_eq!(decode_rgb(&path).expect("our own file"), read);
    let message = save_mask_png(&Mask::empty([0, 7]), &path).expect_err("nothing to write").to_string();
    assert!(message.contains("at least 1 px, got 0 x 7"), "{message}");
    assert!(save_mask_png(&mask, Path::new("/no/such/folder/mask.png")).is_err());
}
