//! The resize compared with Pillow's antialiased bilinear.

use sam_image::{RgbImage, decode_rgb, resize_longest_side};

use super::fixture;

/// 16-bit weights instead of 22-bit ones: at most one grey level, and rarely.
const TOLERANCE: u8 = 1;
/// In the worst file 7 of 192 values differ, in the others below 0.4 %.
const FRACTION_OFF_MAX: f64 = 0.04;

/// The same image as `pattern` in `fixtures/make_images.py`.
fn pattern(height: u32, width: u32) -> RgbImage {
    let mut state = height.wrapping_mul(65537).wrapping_add(width);
    let mut image = RgbImage::new(width, height);
    for row in 0..height {
        for column in 0..width {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let edge = if (row / 7 + column / 5) % 2 == 1 { 255 } else { 0 };
            image.get_pixel_mut(column, row).0 = [(row * 255 / height) as u8, edge, (state >> 24) as u8];
        }
    }
    image
}

#[test]
fn pixels_equal_pillow_within_one_level() {
    let mut n_files = 0;
    for entry in std::fs::read_dir(fixture("resize")).expect("fixture") {
        let path = entry.expect("entry").path();
        let stem = path.file_stem().expect("stem").to_string_lossy().into_owned();
        let numbers: Vec<u32> =
            stem.replace("_to_", "x").split('x').map(|number| number.parse().expect("a number")).collect();
        let [height, width, side] = numbers[..] else { panic!("name {stem}") };
        let expected = decode_rgb(&path).expect("fixture");
        let (resized, frame) = resize_longest_side(&pattern(height, width), side as usize);
        assert_eq!(resized.dimensions(), expected.dimensions(), "{stem}");
        assert_eq!(frame.resized_hw, [resized.height() as usize, resized.width() as usize]);
        let differences: Vec<u8> = resized.iter().zip(expected.iter()).map(|(a, b)| a.abs_diff(*b)).collect();
        let worst = differences.iter().max().expect("not empty");
        let n_off = differences.iter().filter(|&&difference| difference > 0).count();
        assert!(*worst <= TOLERANCE, "{stem} is off by {worst}");
        let fraction_off = n_off as f64 / differences.len() as f64;
        assert!(fraction_off <= FRACTION_OFF_MAX, "{stem}: {n_off} of {} are off by one", differences.len());
        n_files += 1;
    }
    assert_eq!(n_files, 11);
}

#[test]
fn an_image_that_fits_is_unchanged() {
    let image = pattern(40, 64);
    assert_eq!(resize_longest_side(&image, 64).0, image);
}
