//! Photographs of every format that is read.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(image) = sam_image::decode_rgb_bytes(bytes, "fuzzed", sam_image::DEFAULT_MAX_PIXELS) {
        assert!(image.width() > 0 && image.height() > 0);
    }
});
