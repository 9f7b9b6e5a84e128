//! COCO's compressed run lengths: the first two bytes are the size, the rest is the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sam_image::Rle;

fuzz_target!(|bytes: &[u8]| {
    let Some((&[height, width], text)) = bytes.split_first_chunk::<2>() else { return };
    let Ok(rle) = Rle::from_coco_string([usize::from(height), usize::from(width)], text) else { return };
    let mask = rle.to_mask();
    let again = Rle::from_mask(&mask);
    assert_eq!(again.area_px(), rle.area_px());
    let text = again.to_coco_string();
    assert_eq!(Rle::from_coco_string(rle.size_hw(), text.as_bytes()).expect("our own text"), again);
});
