//! Which files belong together, and files of other kinds.

use super::*;

/// A GIF with black as its first colour and white as its second.
fn save_gif(path: impl AsRef<Path>, level: impl Fn(u32, u32) -> u8) {
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, 64, 48, &[0, 0, 0, 255, 255, 255]).expect("a header");
    let indices: Vec<u8> = (0..48 * 64).map(|at| u8::from(level(at % 64, at / 64) > 0)).collect();
    let frame = gif::Frame { width: 64, height: 48, buffer: indices.into(), ..gif::Frame::default() };
    encoder.write_frame(&frame).expect("written");
    drop(encoder);
    write(path, bytes);
}

#[test]
fn images_of_one_base_name_are_not_confused() {
    let images = || vec![image(1, "cam1/frame.png"), image(2, "cam2/frame.png")];
    let annotations = || vec![annotation(1, 1, outline()), annotation(2, 2, outline())];
    let stray = folder();
    for (name, level) in [("images/cam1/frame.png", 1), ("images/cam2/frame.png", 2), ("annotations/frame.png", 99)] {
        save(stray.path().join(name), level);
    }
    write(stray.path().join("annotations/instances_default.json"), coco(images(), annotations()));
    let source = open(stray.path());
    let level = |index: usize| source.sample(index).expect("sample").image.get_pixel(0, 0)[2];
    assert_eq!([level(0), level(1)], [1, 2]);

    let flat = folder();
    save(flat.path().join("images/frame.png"), 2);
    write(flat.path().join("annotations/instances_default.json"), coco(images(), annotations()));
    contains_all(&error(flat.path()), &["cam1/frame.png", "cam2/frame.png", "which is also that of"]);

    let parts = folder();
    save(parts.path().join("images/frame.png"), 2);
    for part in ["train", "val"] {
        let json = coco(vec![image(1, "frame.png")], vec![annotation(1, 1, outline())]);
        write(parts.path().join(format!("annotations/instances_{part}.json")), json);
    }
    contains_all(&error(parts.path()), &["val/frame.png", "train/frame.png"]);
}

#[test]
fn addresses_and_unicode_forms_of_names_are_found() {
    for (listed, file) in [
        ("..\\..\\media\\upload\\4\\cb06-a_b.png", "cb06-a_b.png"),
        ("/data/local-files/?d=project/set 1/photo.png", "photo.png"),
        ("/data/local-files/?d=photo.png", "photo.png"),
        ("images/cb06-my%20photo%201.png", "cb06-my photo 1.png"),
        ("caf\u{e9}.png", "cafe\u{301}.png"),
    ] {
        let folder = folder();
        save(folder.path().join("images").join(file), 1);
        let json = coco(vec![image(1, listed)], vec![annotation(1, 1, outline())]);
        write(folder.path().join("result.json"), json);
        assert_eq!(open(folder.path()).sample(0).expect(listed).objects.len(), 1);
    }
    let folder = folder();
    save(folder.path().join("images/cafe\u{301}.png"), 1);
    save_labels(folder.path().join("masks/caf\u{e9}.png"), |x, _| u8::from(x > 30));
    assert_eq!(open(folder.path()).len(), 1);
}

#[test]
fn a_renamed_labelme_pair_suggests_its_image() {
    let shape = r#"{"label": "x", "points": [[8, 6], [28, 6], [28, 30]], "shape_type": "polygon"}"#;
    let json = |image: &str| format!(r#"{{"imagePath": "{image}", "imageData": null, "shapes": [{shape}]}}"#);
    let stale = folder();
    save(stale.path().join("train_0.png"), 1);
    write(stale.path().join("train_0.json"), json("IMG_0.png"));
    contains_all(&error(stale.path()), &["imagePath IMG_0.png does not exist", "did you mean", "train_0.png"]);
    let other = folder();
    for (at, next) in [(0, 1), (1, 0)] {
        save(other.path().join(format!("{at}.png")), at);
        write(other.path().join(format!("{at}.json")), json(&format!("{next}.png")));
    }
    let (count, examples) = problem(other.path(), ProblemKind::ImageNameDiffers);
    assert_eq!(count, 2);
    contains_all(&examples, &["imagePath is 1.png, but 0.png has the name of the JSON"]);
}

#[test]
fn files_of_another_kind_are_named_for_what_they_are() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0d71\nsize 375042383\n";
    for (bytes, name) in [
        (pointer.as_bytes(), "a Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>403 Forbidden</body></html>", "an HTML page"),
        (b"\0\0\0\x18ftypheic0000", "a HEIC"),
        (b"", "an empty file"),
    ] {
        let images = folder();
        write(images.path().join("a.jpg"), bytes);
        write(images.path().join("a.json"), coco(vec![image(1, "a.jpg")], vec![annotation(1, 1, outline())]));
        contains_all(&error(images.path()), &["a.jpg", name]);
        contains_all(&problem(images.path(), ProblemKind::ImageUnreadable).1, &[name]);
    }
    let json = folder();
    save(json.path().join("a.png"), 1);
    write(json.path().join("a.json"), pointer);
    let options = SourceOptions { format: Some(sam_data::Format::Coco), ..SourceOptions::default() };
    let message = Source::open(&json.path().join("a.json"), &options).expect_err("no JSON").to_string();
    contains_all(&message, &["a.json", "a Git LFS pointer", "git lfs pull"]);
}

#[test]
fn suffixes_of_known_sets_pair_and_gif_is_read() {
    let mask = |x: u32, _: u32| 255 * u8::from(x > 30);
    for (images, labels) in [
        ("images/ISIC_1.png", "masks/ISIC_1_segmentation.png"),
        ("ISIC_1.png", "ISIC_1_Segmentation.png"),
        ("images/f1.png", "labels/f1_L.png"),
    ] {
        let folder = folder();
        save(folder.path().join(images), 1);
        save_labels(folder.path().join(labels), mask);
        let source = open(folder.path());
        assert_eq!((source.len(), areas(&source, 0).len()), (1, 1), "{labels}");
    }
    for (images, labels) in [("images/c1.png", "masks/c1_mask.gif"), ("images/21.png", "mask/21.gif")] {
        let folder = folder();
        save(folder.path().join(images), 1);
        save_gif(folder.path().join(labels), mask);
        let source = open(folder.path());
        assert_eq!((source.len(), areas(&source, 0)), (1, vec![33 * 48]), "{labels}");
    }
}

/// What macOS, Windows and notebooks leave among images and labels.
#[test]
fn files_that_nobody_made_are_no_images() {
    let folder = folder();
    for at in 0..2u8 {
        save(folder.path().join(format!("images/a{at}.png")), at);
        save_labels(folder.path().join(format!("masks/a{at}.png")), |x, _| u8::from(x > 30));
    }
    for below in ["images", "masks"] {
        let at = |name: &str| folder.path().join(below).join(name);
        write(at("._a0.png"), b"\0\x05\x16\x07Mac OS X");
        write(at(".DS_Store"), b"\0\0\0\x01Bud1");
        write(at("Thumbs.db"), b"\xd0\xcf\x11\xe0");
        write(at("desktop.ini"), "[ViewState]\n");
        save(at(".ipynb_checkpoints/a0-checkpoint.png"), 9);
        write(folder.path().join("__MACOSX").join(below).join("._a0.png"), b"\0\x05\x16\x07");
    }
    write(folder.path().join("README.txt"), "hello\n");
    std::fs::create_dir(folder.path().join("unused")).expect("made");
    let report = check(folder.path(), &SourceOptions::default(), &|_, _| {}).expect("opens");
    assert_eq!((report.images, report.objects, report.problems), (2, 2, Vec::new()));
}

/// One file for each mask of an image, told apart by a number.
#[test]
fn several_masks_of_an_image_are_its_objects() {
    for labels in [["a_mask0", "a_mask1"], ["a_mask_1", "a_mask_2"], ["a_Mask-001", "a_Mask-002"]] {
        for below in ["masks", ""] {
            let folder = folder();
            let images = if below.is_empty() { "" } else { "images" };
            save(folder.path().join(images).join("a.png"), 1);
            save(folder.path().join(images).join("b.png"), 2);
            for (at, label) in labels.iter().enumerate() {
                let from = 10 + 30 * at as u32;
                let path = folder.path().join(below).join(format!("{label}.png"));
                // In two parts, which are one object.
                save_labels(path, |x, y| 255 * u8::from((from..from + 10).contains(&x) && y != 20));
            }
            save_labels(folder.path().join(below).join("b_mask.png"), |x, _| 255 * u8::from(x > 30));
            let source = open(folder.path());
            assert_eq!(
                (source.len(), areas(&source, 0), areas(&source, 1).len()),
                (2, vec![470, 470], 1),
                "{labels:?}"
            );
        }
    }
    // A mask beside numbered ones may be their union, or one more.
    let folder = folder();
    save(folder.path().join("images/a.png"), 1);
    for label in ["a_mask.png", "a_mask1.png", "a_mask2.png"] {
        save_labels(folder.path().join("masks").join(label), |x, _| 255 * u8::from(x > 30));
    }
    contains_all(&error(folder.path()), &["are both its labels"]);
}
