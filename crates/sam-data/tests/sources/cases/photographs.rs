//! Images of more than 8 bits, stacks, and single files.

use sam_data::Intensity;

use super::*;

#[test]
fn deep_photographs_that_would_look_black_are_an_error() {
    let folder = folder();
    let deep = image::ImageBuffer::from_fn(64, 48, |x, y| Luma([(x * 64 + y) as u16]));
    std::fs::create_dir_all(folder.path().join("images")).expect("made");
    deep.save(folder.path().join("images/a.png")).expect("saved");
    save_labels(folder.path().join("masks/a.png"), |x, _| u8::from(x > 30));
    contains_all(&error(folder.path()), &["would look black", "intensity = \"percentile\""]);
    let (count, examples) = problem(folder.path(), ProblemKind::PixelsDark);
    assert_eq!(count, 1);
    contains_all(&examples, &["a.png", "would look black"]);
    let percentile = SourceOptions { intensity: sam_data::Intensity::Percentile, ..SourceOptions::default() };
    let source = Source::open(folder.path(), &percentile).expect("opens");
    assert!(source.sample(0).expect("a sample").image.pixels().any(|pixel| pixel[0] > 200));
}

/// Whoever reads it, a single image for a prediction or an image of a set: one rule, one refusal.
#[test]
fn single_images_are_read_as_those_of_sets() {
    use tiff::encoder::{TiffEncoder, colortype};
    let folder = folder();
    save_labels(folder.path().join("masks/a.png"), |x, _| u8::from(x > 30));
    std::fs::create_dir(folder.path().join("images")).expect("made");
    let path = folder.path().join("images/a.tif");
    let write_tiff = |write_pages: &dyn Fn(&mut TiffEncoder<std::fs::File>)| {
        write_pages(&mut TiffEncoder::new(std::fs::File::create(&path).expect("a file")).expect("a TIFF"));
    };
    let deep: Vec<u16> = (0..48 * 64).collect();
    let floats: Vec<f32> = deep.iter().map(|&value| f32::from(value) / 3072.0).collect();
    let signed: Vec<i16> = deep.iter().map(|&value| value as i16 - 1000).collect();
    let refused = |parts: &[&str]| {
        let single = sam_data::read_image_file(&path, &SourceOptions::default()).expect_err("refused").to_string();
        contains_all(&single, parts);
        let of_set = open(folder.path()).sample(0).expect_err("refused").to_string();
        assert!(of_set.contains(&single), "{of_set} and {single}");
    };
    write_tiff(&|tiff| tiff.write_image::<colortype::Gray16>(64, 48, &deep).expect("written"));
    refused(&["would look black", "intensity = \"percentile\""]);
    let percentile = sam_data::read_image_file(
        &path,
        &SourceOptions { intensity: Intensity::Percentile, ..SourceOptions::default() },
    )
    .expect("a rule is given");
    let options = SourceOptions { intensity: Intensity::Percentile, ..SourceOptions::default() };
    let of_set = Source::open(folder.path(), &options).expect("opens").sample(0).expect("a sample").image;
    assert_eq!(percentile, of_set);
    write_tiff(&|tiff| tiff.write_image::<colortype::Gray32Float>(64, 48, &floats).expect("written"));
    refused(&["values from 0 to 1"]);
    write_tiff(&|tiff| tiff.write_image::<colortype::GrayI16>(64, 48, &signed).expect("written"));
    refused(&["negative values"]);
    let page: Vec<u8> = deep.iter().map(|&value| value as u8).collect();
    write_tiff(&|tiff| {
        for _ in 0..5 {
            tiff.write_image::<colortype::Gray8>(64, 48, &page).expect("written");
        }
    });
    refused(&["a stack of 5 pages", "save each slice"]);
}

#[test]
fn masks_as_prompts_hold_one_object() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    save_labels(at("mask.png"), |x, _| 255 * u8::from(x > 30));
    let mask =
        sam_data::read_mask_file(&at("mask.png"), sam_image::DEFAULT_MAX_PIXELS).expect("reads").expect("a mask");
    assert_eq!((mask.size_hw(), mask.area_px()), (SIZE_HW, 33 * 48));
    save_labels(at("ids.png"), |x, _| (x / 16) as u8);
    save_labels(at("none.png"), |_, _| 0);
    write(at("other.safetensors"), "x");
    for (name, got) in [("ids.png", "3 values beside 0"), ("none.png", "got none")] {
        let message = sam_data::read_mask_file(&at(name), sam_image::DEFAULT_MAX_PIXELS)
            .expect_err("no single object")
            .to_string();
        contains_all(&message, &[name, "must be of one object", got]);
    }
    assert!(
        sam_data::read_mask_file(&at("other.safetensors"), sam_image::DEFAULT_MAX_PIXELS).expect("reads").is_none()
    );
}
