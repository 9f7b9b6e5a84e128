//! Data sets as people really had them, from public bug reports: each is read as it was meant, or the error names the cause.

mod annotations;
mod masks;
mod names;
mod photographs;

use std::path::Path;

use image::{GrayImage, Luma, Rgb, RgbImage};
use sam_data::{ProblemKind, Source, SourceOptions, check};
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
