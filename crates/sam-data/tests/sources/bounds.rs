//! What is read is limited before it is read: pixels that a header declares, bytes of a file, regular files only.

use std::path::Path;

use image::{GrayImage, ImageFormat, Luma, RgbImage};
use sam_data::loader::Samples;
use sam_data::{Format, ImageTree, ProblemKind, Source, SourceOptions, check};

use crate::{copy_of, fixture};

/// Image files of a few hundred bytes, each with a header that declares 22,000 x 22,000 pixels or nearly as many.
fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    const SIDE: u16 = 22_000;
    let encoded = |format: ImageFormat| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        RgbImage::new(8, 8).write_to(&mut bytes, format).expect("encoded");
        bytes.into_inner()
    };
    let mut jpeg = encoded(ImageFormat::Jpeg);
    let frame = jpeg.windows(2).position(|marker| marker == [0xFF, 0xC0]).expect("a start of frame");
    jpeg[frame + 5..frame + 9].copy_from_slice(&[SIDE.to_be_bytes(), SIDE.to_be_bytes()].concat());
    let mut png = encoded(ImageFormat::Png);
    png[16..24].copy_from_slice(&[u32::from(SIDE).to_be_bytes(), u32::from(SIDE).to_be_bytes()].concat());
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let mut bmp = encoded(ImageFormat::Bmp);
    bmp[18..26].copy_from_slice(&[u32::from(SIDE).to_le_bytes(), u32::from(SIDE).to_le_bytes()].concat());
    let mut tiff = encoded(ImageFormat::Tiff);
    let directory = u32::from_le_bytes([tiff[4], tiff[5], tiff[6], tiff[7]]) as usize;
    for at in (0..tiff.len()).filter(|at| *at > directory && (at - directory) % 12 == 2) {
        // Tag, type, count, value.
        if matches!(tiff.get(at..at + 2), Some(&[0 | 1, 1])) {
            tiff[at + 8..at + 10].copy_from_slice(&SIDE.to_le_bytes());
        }
    }
    // The header of a lossless image: 14 bits of width - 1, 14 of height - 1.
    let side = 16_000u32 - 1;
    let header = (side | side << 14).to_le_bytes();
    let webp = [&b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f"[..], &header, &[0; 5]].concat();
    vec![("a.jpg", jpeg), ("b.png", png), ("c.bmp", bmp), ("d.tif", tiff), ("e.webp", webp)]
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}

#[test]
fn images_that_declare_more_pixels_than_the_limit_are_rejected_by_their_header() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, bytes) in bombs() {
        assert!(bytes.len() < 2000, "{name}: {} bytes", bytes.len());
        std::fs::write(folder.path().join(name), bytes).expect("written");
    }
    let tree = ImageTree::open(folder.path(), &SourceOptions::default()).expect("opens");
    assert_eq!(tree.len(), 5);
    for index in 0..tree.len() {
        let error = tree.sample(index).expect_err("too large").to_string();
        let name = tree.name(index);
        let size = if name == "e.webp" { "16000 x 16000" } else { "22000 x 22000" };
        for word in [name, "at most 100000000 pixels (max_pixels)", size, "raise max_pixels"] {
            assert!(error.contains(word), "{name}: {word:?} is missing in: {error}");
        }
    }
}

/// A data set of label images of which the second image, and its labels, are larger than the others.
fn two_sizes() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, side) in [("a", 8), ("b", 9)] {
        for (of, is_label) in [("images", false), ("masks", true)] {
            std::fs::create_dir_all(folder.path().join(of)).expect("made");
            let pixels =
                GrayImage::from_fn(side, side, |x, _| Luma([if is_label { u8::from(x < 4) } else { x as u8 }]));
            pixels.save(folder.path().join(of).join(format!("{name}.png"))).expect("written");
        }
    }
    folder
}

#[test]
fn the_limit_of_pixels_is_an_option_of_images_and_labels() {
    let folder = two_sizes();
    let options = |max_pixels| SourceOptions { max_pixels, ..SourceOptions::default() };
    let report = check(folder.path(), &options(81), &|_, _| {}).expect("checks");
    assert!(!report.has_errors(), "{:#?}", report.problems);
    let report = check(folder.path(), &options(80), &|_, _| {}).expect("checks");
    let problem = report.problem(ProblemKind::ImageUnreadable).expect("reported");
    assert_eq!(problem.count, 1);
    assert!(problem.examples[0].contains("b.png: must have at most 80 pixels"), "{problem:?}");
    let source = Source::open(folder.path(), &options(80)).expect("opens");
    assert!(source.sample(0).is_ok());
    for error in [source.sample(1).map(drop), source.objects(1).map(drop)] {
        let error = error.expect_err("too large").to_string();
        assert!(error.contains("at most 80 pixels (max_pixels), got 9 x 9 (height x width), which are 81"), "{error}");
    }
    // Labels that are larger than their image.
    std::fs::copy(folder.path().join("images/a.png"), folder.path().join("images/b.png")).expect("copied");
    let report = check(folder.path(), &options(80), &|_, _| {}).expect("checks");
    let problem = report.problem(ProblemKind::LabelUnreadable).expect("reported");
    assert!(problem.examples[0].contains("masks/b.png") && problem.examples[0].contains("at most 80"), "{problem:?}");
}

#[test]
fn annotations_and_images_have_a_largest_size() {
    for (set, file, format) in [
        ("labelme", "desk.json", Format::Labelme),
        ("ultralytics", "labels/train/a.txt", Format::YoloSeg),
        ("ultralytics", "data.yaml", Format::YoloSeg),
        ("cvat_xml", "annotations.xml", Format::Cvat),
        ("sa1b", "sa_000000/sa_1.json", Format::Sa1b),
        ("voc", "SegmentationObject/2007_000032.png", Format::LabelImages),
        ("cvat", "images/default/frame_000000.jpg", Format::Coco),
    ] {
        let folder = copy_of(set);
        let path = folder.path().join(file);
        // The content, and then a hole that would be read as 2 GiB of zeros.
        let hole = std::fs::OpenOptions::new().write(true).open(&path).and_then(|file| file.set_len(2 << 30));
        hole.expect("sparse");
        let options = SourceOptions { format: Some(format), ..SourceOptions::default() };
        let read = Source::open(folder.path(), &options)
            .and_then(|source| (0..source.len()).try_for_each(|index| source.sample(index).map(drop)));
        let error = read.expect_err("too large").to_string();
        assert!(error.contains("2048 MiB") && error.contains("at most"), "{file}: {error}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn pipes_and_devices_are_rejected() {
    let mkfifo = |path: &Path| {
        std::fs::remove_file(path).expect("there");
        assert!(std::process::Command::new("mkfifo").arg(path).status().expect("mkfifo runs").success());
    };
    for (set, file) in [
        ("cvat", "annotations/instances_default.json"),
        ("cvat", "images/default/frame_000000.jpg"),
        ("sa1b", "sa_000000/sa_1.json"),
        ("labelme", "desk.json"),
        ("ultralytics", "labels/train/a.txt"),
        ("ultralytics", "data.yaml"),
        ("cvat_xml", "annotations.xml"),
        ("voc", "SegmentationObject/2007_000032.png"),
        ("voc", "ImageSets/Segmentation/train.txt"),
    ] {
        let folder = copy_of(set);
        mkfifo(&folder.path().join(file));
        // It ends, whether the file is missed or rejected.
        let _ = check(folder.path(), &SourceOptions::default(), &|_, _| {});
        let at = folder.path().join(file);
        assert!(Source::open(&at, &SourceOptions::default()).is_err());
        for format in Format::ALL {
            let options = SourceOptions { format: Some(format), ..SourceOptions::default() };
            for path in [&at, Path::new("/dev/zero")] {
                assert!(Source::open(path, &options).is_err(), "{format:?} {}", path.display());
            }
        }
    }
    let source = Source::open(&fixture("cvat"), &SourceOptions::default()).expect("opens");
    for path in ["/dev/zero", "/dev/full"] {
        let error = sam_data::Split::load(&source, Path::new(path)).expect_err("a device").to_string();
        assert!(error.contains("must be a regular file, got a device"), "{error}");
    }
}

/// A data set whose images lie inside, beside it, and at an absolute path, and whose last image is a link out of it.
#[cfg(unix)]
fn reaching_out(folder: &Path) -> std::path::PathBuf {
    let set = folder.join("set");
    for at in [set.join("images"), set.join("annotations"), folder.join("private")] {
        std::fs::create_dir_all(at).expect("made");
    }
    let pixels = |value: u8| GrayImage::from_pixel(8, 8, Luma([20 * value]));
    pixels(1).save(set.join("images/in.png")).expect("written");
    for (value, name) in [(2, "a.png"), (3, "b.png"), (4, "c.png")] {
        pixels(value).save(folder.join("private").join(name)).expect("written");
    }
    std::os::unix::fs::symlink(folder.join("private/c.png"), set.join("images/linked.png")).expect("linked");
    let absolute = folder.join("private/b.png").display().to_string();
    let names = ["in.png", "../../private/a.png", &absolute, "linked.png"];
    let images: Vec<String> = (1..)
        .zip(names)
        .map(|(id, name)| format!(r#"{{"id": {id}, "file_name": "{name}", "height": 8, "width": 8}}"#))
        .collect();
    let annotations: Vec<String> = (1..=4)
        .map(|id| {
            format!(r#"{{"id": {id}, "image_id": {id}, "category_id": 1, "segmentation": [[1, 1, 6, 1, 6, 6]], "iscrowd": 0}}"#)
        })
        .collect();
    let (images, annotations) = (images.join(", "), annotations.join(", "));
    let json = format!(
        r#"{{"images": [{images}], "annotations": [{annotations}], "categories": [{{"id": 1, "name": "x"}}]}}"#
    );
    std::fs::write(set.join("annotations/instances.json"), json).expect("written");
    set
}

#[cfg(unix)]
#[test]
fn images_outside_the_data_set_are_counted_and_not_copied_unless_told() {
    use sam_data::{Conversion, ConvertTo, OutsideImages, convert};
    let folder = tempfile::tempdir().expect("a folder");
    let set = reaching_out(folder.path());
    for path in [set.clone(), set.join("annotations/instances.json")] {
        let report = check(&path, &SourceOptions::default(), &|_, _| {}).expect("checks");
        assert!(!report.has_errors(), "{:#?}", report.problems);
        let problem = report.problem(ProblemKind::ImageOutside).expect("counted");
        assert_eq!((problem.count, problem.examples.len()), (3, 3), "{problem:?}");
        for part in ["a.png", "b.png", "c.png", "outside the data set"] {
            assert!(problem.examples.iter().any(|example| example.contains(part)), "{part}: {problem:?}");
        }
        let source = Source::open(&path, &SourceOptions::default()).expect("opens");
        let out = folder.path().join("out");
        let to = |outside| Conversion { to: ConvertTo::Coco, outside };
        let error = convert(&source, &out, to(OutsideImages::Refuse), &crate::go_on).expect_err("refused").to_string();
        assert!(error.contains("3 outside") && error.contains("--copy-outside") && !out.exists(), "{error}");
        let report = convert(&source, &out, to(OutsideImages::Copy), &crate::go_on).expect("told");
        assert_eq!(report.images, 4);
        std::fs::remove_dir_all(out).expect("removed");
    }
    // A folder of images that the user names is no surprise.
    let own = SourceOptions { images: Some(folder.path().join("private")), ..SourceOptions::default() };
    let report = check(&set, &own, &|_, _| {}).expect("checks");
    assert!(report.problem(ProblemKind::ImageOutside).is_none(), "{:#?}", report.problems);
}
