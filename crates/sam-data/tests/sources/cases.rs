//! Data sets as people really had them, from public bug reports: each is read as it was meant, or the error names the cause.

use std::path::Path;

use base64::Engine;
use image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};
use sam_data::{LabelKind, OnBad, ProblemKind, Severity, Source, SourceOptions, check};
use sam_image::{Rle, polygon_to_rle};
use serde_json::{Value, json};

use crate::open;

/// Height and width of all images here.
const SIZE_HW: [usize; 2] = [48, 64];

/// A triangle as COCO polygons.
const OUTLINE: &str = "[[10, 10, 40, 10, 40, 30]]";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    let path = path.as_ref();
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    std::fs::write(path, bytes).expect("written");
}

/// An image that differs from those of other levels.
fn save(path: impl AsRef<Path>, level: u8) {
    let path = path.as_ref();
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    RgbImage::from_fn(64, 48, |x, y| Rgb([x as u8, y as u8, level])).save(path).expect("saved");
}

fn save_labels(path: impl AsRef<Path>, id: impl Fn(u32, u32) -> u8) {
    let path = path.as_ref();
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    GrayImage::from_fn(64, 48, |x, y| Luma([id(x, y)])).save(path).expect("saved");
}

fn image(id: impl Into<Value>, name: &str) -> Value {
    json!({"id": id.into(), "file_name": name, "height": 48, "width": 64})
}

fn annotation(id: u64, image_id: impl Into<Value>, segmentation: Value) -> Value {
    json!({"id": id, "image_id": image_id.into(), "category_id": 1, "segmentation": segmentation, "iscrowd": 0})
}

fn outline() -> Value {
    serde_json::from_str(OUTLINE).expect("JSON")
}

fn coco(images: Vec<Value>, annotations: Vec<Value>) -> String {
    json!({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "café"}]}).to_string()
}

/// Why a data set cannot be opened, or its first sample not be read.
fn error(path: &Path) -> String {
    match Source::open(path, &SourceOptions::default()) {
        Err(error) => error.to_string(),
        Ok(source) => source.sample(0).expect_err("an error").to_string(),
    }
}

fn contains_all(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is missing in: {text}");
    }
}

/// The problem of this kind in a check, with its examples as one text.
fn problem(path: &Path, kind: ProblemKind) -> (u64, String) {
    let report = check(path, &SourceOptions::default(), &|_, _| {}).expect("opens");
    let problem = report.problem(kind).unwrap_or_else(|| panic!("no {kind:?} in {:?}", report.problems));
    (problem.count, problem.examples.join("\n"))
}

fn areas(source: &Source, index: usize) -> Vec<usize> {
    source.objects(index).expect("objects").objects.iter().map(|object| object.mask.area_px()).collect()
}

#[test]
fn ids_of_any_json_type_match() {
    let cases: [(Value, Value, bool); 5] = [
        (json!("1"), json!("1"), false),
        (json!("1"), json!(1), true),
        (json!(1), json!("1"), true),
        (json!(u64::MAX), json!(u64::MAX), false),
        (json!("frame-1"), json!("frame-1"), false),
    ];
    for (listed, used, is_noted) in cases {
        let folder = folder();
        save(folder.path().join("a.png"), 1);
        write(
            folder.path().join("a.json"),
            coco(vec![image(listed.clone(), "a.png")], vec![annotation(1, used.clone(), outline())]),
        );
        let source = open(folder.path());
        assert_eq!(areas(&source, 0).len(), 1, "{listed} and {used}");
        let n_notes = source.notes().iter().filter(|note| note.contains("image ids are text in one place")).count();
        assert_eq!(n_notes, usize::from(is_noted), "{listed} and {used}: {:?}", source.notes());
    }
}

#[test]
fn boxes_in_segmentations_are_named_and_counted() {
    let folder = folder();
    save(folder.path().join("a.png"), 1);
    let boxes = json!([[10.0, 10.0, 20.0, 20.0]]);
    let annotations = vec![annotation(1, 1, outline()), annotation(2, 1, boxes.clone())];
    write(folder.path().join("a.json"), coco(vec![image(1, "a.png")], annotations));
    let source = open(folder.path());
    assert_eq!(areas(&source, 0).len(), 1);
    assert_eq!(source.tally()[&ProblemKind::NoMask], 1);
    contains_all(&problem(folder.path(), ProblemKind::NoMask).1, &["four numbers are a box", "annotation 2"]);
    write(folder.path().join("a.json"), coco(vec![image(1, "a.png")], vec![annotation(1, 1, boxes)]));
    assert_eq!(problem(folder.path(), ProblemKind::NoObjects).0, 1);
    assert_eq!(ProblemKind::NoObjects.severity(), Severity::Error);
}

#[test]
fn run_lengths_inside_other_text_are_read() {
    // A run of 44 has a backslash, which Python doubles.
    let rle = Rle::new(SIZE_HW, &[44, 30, 2998]).expect("runs that fill the image");
    let counts = rle.to_coco_string();
    assert!(counts.contains('\\'), "{counts}");
    let wrapped =
        [format!("b'{}'", counts.replace('\\', "\\\\")), base64::engine::general_purpose::STANDARD.encode(&counts)];
    for counts in wrapped {
        let folder = folder();
        save(folder.path().join("a.png"), 1);
        let segmentation = json!({"size": SIZE_HW, "counts": counts});
        write(folder.path().join("a.json"), coco(vec![image(1, "a.png")], vec![annotation(1, 1, segmentation)]));
        let objects = open(folder.path()).objects(0).expect("objects");
        assert_eq!(objects.objects[0].mask, rle);
        assert_eq!(objects.findings.iter().map(|f| f.kind).collect::<Vec<_>>(), [ProblemKind::RleWrapped]);
    }
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

/// A text as UTF-16 with a byte order mark.
fn utf16(text: &str) -> Vec<u8> {
    [0xFEFF].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
}

/// A text as Latin-1.
fn latin1(text: &str) -> Vec<u8> {
    text.chars().map(|c| u8::try_from(u32::from(c)).expect("Latin-1")).collect()
}

#[test]
fn byte_order_marks_and_utf16_are_read_and_code_pages_named() {
    let json = coco(vec![image(1, "a.png")], vec![annotation(1, 1, outline())]).replace("},", "},\r\n");
    let shape =
        r#"{"label": "café", "points": [[10, 10], [40, 10], [40, 30]], "shape_type": "polygon", "flags": null}"#;
    let labelme = format!(r#"{{"imagePath": "a.png", "imageData": null, "shapes": [{shape}]}}"#);
    let yaml = "path: .\r\ntrain: images/train\r\nval: images/train\r\nnames:\r\n  0: café\r\n";
    let row = "0 0.1 0.1 0.9 0.1 0.9 0.9\r\n";
    type Encode = fn(&str) -> Vec<u8>;
    let bom: Encode = |text| format!("\u{feff}{text}").into_bytes();
    for (encode, is_read) in [(bom, true), (utf16 as Encode, true), (latin1 as Encode, false)] {
        let folders = [folder(), folder(), folder()];
        save(folders[0].path().join("a.png"), 1);
        write(folders[0].path().join("annotations.json"), encode(&json));
        save(folders[1].path().join("a.png"), 1);
        write(folders[1].path().join("a.json"), encode(&labelme));
        save(folders[2].path().join("images/train/a.png"), 1);
        write(folders[2].path().join("labels/train/a.txt"), encode(row));
        write(folders[2].path().join("data.yaml"), encode(yaml));
        // Only content tells a Labelme file, and content of UTF-16 is not looked into.
        let formats = [sam_data::Format::Coco, sam_data::Format::Labelme, sam_data::Format::YoloSeg];
        for (folder, format) in folders.iter().zip(formats) {
            let options = SourceOptions { format: Some(format), ..SourceOptions::default() };
            let source = Source::open(
                &folder.path().join(if format == sam_data::Format::Coco { "annotations.json" } else { "" }),
                &options,
            );
            if is_read {
                let source = source.unwrap_or_else(|error| panic!("{error}"));
                assert_eq!(source.classes(), ["café"]);
                assert_eq!(areas(&source, 0).len(), 1, "{format:?}");
            } else {
                contains_all(
                    &source.expect_err("Latin-1").to_string(),
                    &["byte 0xe9 in line", "save the file as UTF-8"],
                );
            }
        }
    }
}

/// A folder with one Labelme file of these shapes.
fn labelme(shapes: &str) -> tempfile::TempDir {
    let folder = folder();
    save(folder.path().join("a.png"), 1);
    write(
        folder.path().join("a.json"),
        format!(
            r#"{{"imagePath": "a.png", "imageData": null, "imageHeight": 48, "imageWidth": 64, "shapes": [{shapes}]}}"#
        ),
    );
    folder
}

#[test]
fn shapes_of_x_anylabeling_are_read() {
    let shape = |kind: &str, points: &str, group: &str| {
        format!(
            r#"{{"label": "bolt", "points": {points}, "shape_type": "{kind}", "group_id": {group}, "flags": null}}"#
        )
    };
    let quad = "[[8, 6], [28, 6], [28, 30], [8, 30]]";
    let one = |kind: &str, points: &str| {
        let folder = labelme(&shape(kind, points, "null"));
        areas(&open(folder.path()), 0)
    };
    assert_eq!(one("rectangle", quad), [480]);
    assert_eq!(one("rectangle", "[[28, 30], [8, 6]]"), [480]);
    assert_eq!(one("rotation", quad), [480]);
    let groups = [shape("polygon", quad, "\"3\""), shape("polygon", "[[35, 8], [55, 8], [50, 40]]", "\"3\"")];
    let folder = labelme(&groups.join(", "));
    assert_eq!(areas(&open(folder.path()), 0).len(), 1);
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

/// A YOLO set of one image with this label file and these names of classes.
fn yolo(label: &str, names: &str) -> tempfile::TempDir {
    let folder = folder();
    save(folder.path().join("images/train/a.png"), 1);
    write(folder.path().join("labels/train/a.txt"), label);
    write(
        folder.path().join("data.yaml"),
        format!("path: .\ntrain: images/train\nval: images/train\nnames: {names}\n"),
    );
    folder
}

#[test]
fn extra_columns_of_yolo_are_named() {
    for (row, guess) in [
        ("0 1952 0.1 0.1 0.9 0.1 0.9 0.9", "an extra second column with the object's number?"),
        ("0 1 0.1 0.1 0.9 0.1 0.9 0.9", "an extra second column with the object's number?"),
        ("0 0.1 0.1 0.9 0.1 0.9 0.9 0.913", "an extra last column with the confidence?"),
    ] {
        contains_all(&error(yolo(row, "[cell]").path()), &[guess, "line 1"]);
    }
    let mixed = yolo("0 0.1 0.1 0.9 0.1 0.9 0.9\n0 0.75 0.5 0.3 0.5\n", "[cell]");
    let source = open(mixed.path());
    assert_eq!(areas(&source, 0).len(), 1);
    assert_eq!(source.tally()[&ProblemKind::NoMask], 1);
}

#[test]
fn yolo_labels_elsewhere_are_missed() {
    let listed = |labels: &str, n_labels: usize| {
        let folder = folder();
        for at in 0..4 {
            save(folder.path().join(format!("images/train/f{at}.png")), at);
        }
        for at in 0..n_labels {
            write(folder.path().join(format!("{labels}/f{at}.txt")), "0 0.1 0.1 0.9 0.1 0.9 0.9");
        }
        let lines: Vec<String> = (0..4).map(|at| format!("./images/train/f{at}.png\n")).collect();
        write(folder.path().join("train.txt"), lines.concat());
        write(folder.path().join("data.yaml"), "path: .\ntrain: train.txt\nval: train.txt\nnames: [cell]\n");
        folder
    };
    for elsewhere in ["images/train", "labels/seg/train", "annotations/train"] {
        let message = error(listed(elsewhere, 4).path());
        contains_all(&message, &["none of the 4 images listed for train has its label file", "labels/train/f0.txt"]);
    }
    let half = listed("labels/train", 2);
    let notes = open(half.path()).notes().join("\n");
    contains_all(&notes, &["train: 2 of 4 listed images have no label file", "f2.txt"]);
}

/// A disc with a soft edge of this many pixels.
fn soft_disc(x: u32, y: u32, centre_x: f64, edge_px: f64) -> f64 {
    let distance = (f64::from(x) - centre_x).hypot(f64::from(y) - 24.0);
    ((14.0 - distance) / edge_px).clamp(0.0, 1.0)
}

#[test]
fn smoothed_masks_are_recognised_at_every_depth() {
    let soft = |x: u32, y: u32| soft_disc(x, y, 20.0, 3.0);
    let make = |save_mask: &dyn Fn(&Path)| {
        let folder = folder();
        save(folder.path().join("images/a.png"), 1);
        std::fs::create_dir_all(folder.path().join("masks")).expect("made");
        save_mask(&folder.path().join("masks/a.png"));
        folder
    };
    let smooth = make(&|path| save_labels(path, |x, y| (soft(x, y) * 255.0) as u8));
    let deep = make(&|path| {
        image::ImageBuffer::from_fn(64, 48, |x, y| Luma([(soft(x, y) * 65535.0) as u16])).save(path).expect("saved");
    });
    let ids = make(&|path| {
        save_labels(path, |x, y| (soft(x, y) * 40.0 + soft_disc(x, y, 45.0, 3.0) * 80.0) as u8);
    });
    let strokes = make(&|path| {
        let stray = |x: u32| [12, 130, 77, 200][x as usize - 5];
        save_labels(
            path,
            |x, y| if y == 2 && (5..9).contains(&x) { stray(x) } else { u8::from(soft(x, y) > 0.5) * 255 },
        );
    });
    for folder in [&smooth, &deep, &ids, &strokes] {
        contains_all(&error(folder.path()), &["as resizing with smoothing leaves", "labels = \"binary\""]);
        assert_eq!(problem(folder.path(), ProblemKind::LabelSmoothed).0, 1);
    }
    let binary = SourceOptions { labels: LabelKind::Binary, ..SourceOptions::default() };
    let source = Source::open(smooth.path(), &binary).expect("opens");
    let half = (0..48 * 64).filter(|at| (soft(at % 64, at / 64) * 255.0) as u8 >= 128).count();
    assert_eq!(areas(&source, 0), [half]);
    // Specks and thin objects apart are no smoothing.
    let specks = make(&|path| save_labels(path, |x, y| if x % 9 == 0 && y == 20 { (x / 9) as u8 } else { 0 }));
    assert_eq!(areas(&open(specks.path()), 0).len(), 7);
}

#[test]
fn colours_and_alpha_of_masks_are_named() {
    let make = |save_mask: &dyn Fn(&Path)| {
        let folder = folder();
        save(folder.path().join("images/a.png"), 1);
        std::fs::create_dir_all(folder.path().join("masks")).expect("made");
        save_mask(&folder.path().join("masks/a.png"));
        folder
    };
    let colours = make(&|path| {
        let colour = |x: u32| if x > 30 { Rgb([220, 20, 60]) } else { Rgb([0, 0, 0]) };
        RgbImage::from_fn(64, 48, |x, _| colour(x)).save(path).expect("saved");
    });
    contains_all(&error(colours.path()), &["colours, such as [220, 20, 60]"]);
    let alpha = make(&|path| {
        RgbaImage::from_fn(64, 48, |x, _| Rgba([255, 255, 255, if x > 30 { 255 } else { 0 }]))
            .save(path)
            .expect("saved");
    });
    contains_all(&error(alpha.path()), &["the shapes in the alpha channel"]);
}

/// A palette PNG of two objects.
fn save_palette(path: &Path, colours: &[[u8; 3]]) {
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    let mut encoder = png::Encoder::new(std::fs::File::create(path).expect("a file"), 64, 48);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(colours.concat());
    let ids: Vec<u8> = (0..48 * 64).map(|at| if at % 64 < 20 { 1 } else { 2 * u8::from(at % 64 > 40) }).collect();
    encoder.write_header().expect("written").write_image_data(&ids).expect("written");
}

#[test]
fn classes_of_cvat_are_those_of_its_labelmap() {
    let make = |labelmap: Option<&str>| {
        let folder = folder();
        save(folder.path().join("JPEGImages/a.png"), 1);
        for masks in ["SegmentationClass", "SegmentationObject"] {
            let colours = [[0, 0, 0], [48, 112, 32], [176, 112, 32]];
            save_palette(&folder.path().join(masks).join("a.png"), &colours);
        }
        write(folder.path().join("ImageSets/Segmentation/default.txt"), "a\n");
        if let Some(labelmap) = labelmap {
            write(folder.path().join("labelmap.txt"), labelmap);
        }
        folder
    };
    let class_names = |folder: tempfile::TempDir| {
        let source = open(folder.path());
        let objects = source.objects(0).expect("objects").objects;
        objects.iter().map(|object| source.classes()[object.class.expect("a class")].clone()).collect::<Vec<_>>()
    };
    let head = "# label:color_rgb:parts:actions\nbackground:0,0,0::\n";
    let in_order = format!("{head}Bolt:48,112,32::\nNut:176,112,32::\n");
    let by_colour = format!("{head}Nut:176,112,32::\nBolt:48,112,32::\n");
    assert_eq!(class_names(make(Some(&in_order))), ["Bolt", "Nut"]);
    assert_eq!(class_names(make(Some(&by_colour))), ["Bolt", "Nut"]);
    // Without VOC's palette, VOC's names would be invented.
    assert_eq!(class_names(make(None)), ["id 1", "id 2"]);
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
fn a_set_without_objects_is_an_error() {
    let none = folder();
    for at in 0..2 {
        save(none.path().join(format!("images/{at}.png")), at);
        save_labels(none.path().join(format!("masks/{at}.png")), |_, _| 0);
    }
    let (count, examples) = problem(none.path(), ProblemKind::NoObjects);
    assert_eq!(count, 1);
    contains_all(&examples, &["none of its 2 images has an object"]);
}

#[test]
fn yaml_scalars_are_class_names_as_written() {
    let label = "0 0.1 0.1 0.9 0.1 0.9 0.9\n1 0.1 0.1 0.5 0.1 0.5 0.5\n";
    for (names, expected) in [
        ("[0, 1, 2]", &["0", "1", "2"][..]),
        ("[02146, 21008]", &["02146", "21008"]),
        ("{0: 02146, 1: 21008}", &["02146", "21008"]),
        ("[no, on, yes]", &["no", "on", "yes"]),
        ("[1.0, 2.5]", &["1.0", "2.5"]),
        ("{\"0\": cat, \"1\": dog}", &["cat", "dog"]),
        ("[cat, null]", &["cat", "null"]),
        ("\n- cat\n- dog", &["cat", "dog"]),
    ] {
        let folder = yolo(label, names);
        let source = open(folder.path());
        assert_eq!(source.classes(), expected, "{names}");
        assert_eq!(areas(&source, 0).len(), 2);
    }
}

#[test]
fn outlines_that_leave_the_image_are_clipped_and_not_moved() {
    for shares in [
        [0.5, 0.1, 1.5, 0.9, 0.5, 0.9, 0.5, 0.5],
        [-0.0011, 0.1, 1.0004, 0.1, 1.0004, 0.9, -0.0011, 0.9],
        [0.2, 0.2, 1.857, 0.2, 1.87, 0.8, 0.2, 0.8],
        [0.2, -0.6, 0.7, -0.3, 0.9, 1.4, 0.1, 1.2],
    ] {
        let row: Vec<String> = shares.iter().map(f64::to_string).collect();
        let folder = yolo(&format!("0 {}", row.join(" ")), "[x]");
        let outline: Vec<f64> = shares.iter().enumerate().map(|(at, share)| share * [64.0, 48.0][at % 2]).collect();
        let full = polygon_to_rle(SIZE_HW, &outline).expect("an outline");
        assert_eq!(open(folder.path()).objects(0).expect("objects").objects[0].mask, full);
        // By definition: the raster of the outline on a canvas that holds all of it, but for the reference's rounding of
        // negative coordinates toward zero.
        let moved: Vec<f64> = outline.iter().map(|xy| xy + 100.0).collect();
        let canvas = polygon_to_rle([300, 300], &moved).expect("an outline").to_mask();
        let mask = full.to_mask();
        let differs = |at: &usize| mask.get(at / 64, at % 64) != canvas.get(at / 64 + 100, at % 64 + 100);
        assert!((0..48 * 64).filter(differs).count() <= 2, "{shares:?}");
    }
}

#[test]
fn suffixes_of_known_sets_pair_and_gif_is_named() {
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
    let carvana = folder();
    save(carvana.path().join("images/c1.png"), 1);
    write(carvana.path().join("masks/c1_mask.gif"), "GIF89a");
    contains_all(&error(carvana.path()), &["GIF is not read", "PNG"]);
}

#[test]
fn deep_photographs_that_would_look_black_are_an_error() {
    let folder = folder();
    let deep = image::ImageBuffer::from_fn(64, 48, |x, y| Luma([(x * 64 + y) as u16]));
    std::fs::create_dir_all(folder.path().join("images")).expect("made");
    deep.save(folder.path().join("images/a.png")).expect("saved");
    save_labels(folder.path().join("masks/a.png"), |x, _| u8::from(x > 30));
    contains_all(&error(folder.path()), &["would look black", "intensity = \"percentile\""]);
    assert_eq!(problem(folder.path(), ProblemKind::PixelsDark).0, 1);
    let percentile = SourceOptions { intensity: sam_data::Intensity::Percentile, ..SourceOptions::default() };
    let source = Source::open(folder.path(), &percentile).expect("opens");
    assert!(source.sample(0).expect("a sample").image.pixels().any(|pixel| pixel[0] > 200));
}

#[test]
fn what_is_dropped_is_counted_as_the_check_counts_it() {
    let folder = yolo("0 0.1 0.1 0.9 0.1 0.9 0.9\n0 0.75 0.5 0.3 0.5\n0 0.1 0.1 x\n", "[cell]");
    let drop = SourceOptions { bad: OnBad::Drop, ..SourceOptions::default() };
    let source = Source::open(folder.path(), &drop).expect("opens");
    for _ in 0..2 {
        assert_eq!(source.sample(0).expect("a sample").objects.len(), 1);
    }
    let report = check(folder.path(), &drop, &|_, _| {}).expect("checked");
    for (kind, count) in source.tally() {
        // Each kind, and not each finding, is compared: the set is listed for training and for validation.
        assert!(report.problem(kind).is_some_and(|problem| problem.count >= count), "{kind:?}");
    }
}
