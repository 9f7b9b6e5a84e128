//! A hash of an image, by which what is computed from it is found again.

use image::RgbImage;
use sam_files::Fingerprint;

/// A hash of an image's size and pixels.
#[must_use]
pub fn image_fingerprint(image: &RgbImage) -> u64 {
    let mut hash = Fingerprint::new(0);
    hash.add_word(u64::from(image.width()));
    hash.add_word(u64::from(image.height()));
    hash.add_bytes(image.as_raw());
    hash.value()
}
