//! Image files of all kinds compared with Pillow, and files that must be rejected with a helpful message.

use std::path::Path;

use sam_image::{DEFAULT_MAX_PIXELS, ImageError, decode_rgb, decode_rgb_bytes};

use super::fixture;

/// Another inverse DCT and, where chroma is subsampled, another upsampling than libjpeg's.
const JPEG_TOLERANCE: u8 = 3;

#[test]
fn pixels_equal_pillow() {
    let manifest = std::fs::read_to_string(fixture("decode/manifest.txt")).expect("fixture");
    let mut failures = Vec::new();
    for line in manifest.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [name, height, width, hex] = fields[..] else { panic!("manifest line {line}") };
        let path = fixture("decode").join(name);
        let image = decode_rgb(&path).unwrap_or_else(|e| panic!("{e}"));
        let size_hw: [usize; 2] = [height, width].map(|size| size.parse().expect("a number"));
        assert_eq!([image.height() as usize, image.width() as usize], size_hw, "{name}");
        let expected: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal"))
            .collect();
        let worst = image.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max().expect("not empty");
        let is_jpeg = name.ends_with(".jpg") && name != "named_wrongly.jpg";
        if worst > if is_jpeg { JPEG_TOLERANCE } else { 0 } {
            failures.push(format!("{name}: off by {worst}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}

/// The file must be rejected with a message that contains these words.
fn check_rejected(name: &str, bytes: &[u8], words: &[&str]) {
    let message = match decode_rgb_bytes(bytes, name, DEFAULT_MAX_PIXELS) {
        Ok(_) => panic!("{name} was accepted"),
        Err(error) => error.to_string(),
    };
    for word in words {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
}

fn read(name: &str) -> Vec<u8> {
    std::fs::read(fixture("decode").join(name)).expect("fixture")
}

#[test]
fn errors_name_a_remedy() {
    check_rejected("a.tif", &read("refused_float.tif"), &["a.tif", "float", "intensity window"]);
    check_rejected("a.tif", &read("refused_int32.tif"), &["8- or 16-bit", "intensity window"]);
    check_rejected("a.gif", &read("whole.gif")[..20], &["a.gif", "GIF"]);
    check_rejected("a.png", b"<!DOCTYPE html><html>", &["a.png", "\"<!DOCTYPE", "complete download"]);
    check_rejected("a.png", b"", &["0 bytes", "nothing"]);
    check_rejected("a.jpg", &read("rgb.png")[..60], &["PNG", "the extension says JPEG"]);
    let missing = decode_rgb(Path::new("/no/such/file.png")).expect_err("no such file");
    assert!(matches!(missing, ImageError::Io { .. }) && missing.to_string().contains("/no/such/file.png"));
}

#[test]
fn a_jpeg_truncated_anywhere_is_rejected() {
    for name in ["progressive.jpg", "subsampled.jpg", "exif6.jpg"] {
        let whole = read(name);
        for length in 3..whole.len() - 1 {
            assert!(
                decode_rgb_bytes(&whole[..length], name, DEFAULT_MAX_PIXELS).is_err(),
                "{name} truncated to {length} bytes was accepted"
            );
        }
    }
}

#[test]
fn a_jpeg_with_trailing_bytes_is_read() {
    let mut bytes = read("subsampled.jpg");
    bytes.extend_from_slice(b"appended by some camera");
    assert!(decode_rgb_bytes(&bytes, "a.jpg", DEFAULT_MAX_PIXELS).is_ok());
}

/// A PNG header with another size than the data.
#[test]
fn huge_sizes_are_rejected_before_allocation() {
    for (width, height, word) in [(0u32, 5u32, "PNG"), (60_000, 60_000, "at most 100000000 pixels")] {
        let mut bytes = read("rgb.png");
        bytes[16..20].copy_from_slice(&width.to_be_bytes());
        bytes[20..24].copy_from_slice(&height.to_be_bytes());
        let crc = crc32(&bytes[12..29]);
        bytes[29..33].copy_from_slice(&crc.to_be_bytes());
        check_rejected("bomb.png", &bytes, &["bomb.png", word]);
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

/// Every file with each of its bytes changed in turn gives an image or an error.
#[test]
fn damaged_files_never_panic() {
    for entry in std::fs::read_dir(fixture("decode")).expect("fixture") {
        let path = entry.expect("entry").path();
        let name = path.file_name().expect("name").to_string_lossy().into_owned();
        let whole = std::fs::read(&path).expect("readable");
        for at in 0..whole.len().min(700) {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x55;
            let _image_or_error = decode_rgb_bytes(&damaged, &name, DEFAULT_MAX_PIXELS);
        }
    }
}
