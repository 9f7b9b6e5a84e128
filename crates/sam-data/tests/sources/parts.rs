//! Parts whose labels are gone: an error in every layout that has folders of parts, however well the other parts can be read.

use std::path::{Path, PathBuf};

use sam_data::{ConvertTo, ProblemKind, Source, SourceOptions, check, convert};

use crate::{conversion, copy_of, fixture, go_on, open, replace};

/// Roboflow's three parts in another format.
fn converted(to: ConvertTo) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("set");
    convert(&open(&fixture("roboflow")), &out, conversion(to), &go_on).expect("converted");
    (folder, out)
}

fn part(name: &str) -> SourceOptions {
    SourceOptions { split: Some(name.to_owned()), ..SourceOptions::default() }
}

/// The part is an error for whoever reads all, and none for whoever reads another part.
#[track_caller]
fn lacks_labels(set: &Path, name: &str, words: &str) {
    let report = check(set, &SourceOptions::default(), &|_, _| {}).expect("readable");
    let problem = report.problem(ProblemKind::ImageUnpaired).unwrap_or_else(|| panic!("nothing found: {report:#?}"));
    let examples = format!("{:?}", problem.examples);
    assert!(problem.count == 1 && examples.contains(words), "{words:?} is missing in: {examples}");
    Source::open(set, &SourceOptions::default()).expect_err("an error is not ignored");
    let other = if name == "val" { "train" } else { "val" };
    Source::open(set, &part(other)).expect("the other part is complete");
}

fn notes(set: &Path) -> String {
    let report = check(set, &SourceOptions::default(), &|_, _| {}).expect("readable");
    assert!(!report.has_errors(), "{report:#?}");
    report.notes.join("; ")
}

#[test]
fn label_images() {
    for name in ["train", "val"] {
        let (_folder, set) = converted(ConvertTo::Labels);
        std::fs::remove_dir_all(set.join(name).join("masks")).expect("removed");
        lacks_labels(&set, name, &format!("the part {name} has images but no folder of label images"));
    }
    // An empty folder is no better. A test part is often published without labels.
    let (_folder, set) = converted(ConvertTo::Labels);
    std::fs::remove_dir_all(set.join("train/masks")).expect("removed");
    std::fs::create_dir(set.join("train/masks")).expect("made");
    lacks_labels(&set, "train", "unlike test, val");
    let (_folder, set) = converted(ConvertTo::Labels);
    std::fs::remove_dir_all(set.join("test/masks")).expect("removed");
    assert!(notes(&set).contains("the part test has images and no labels, and is not read"), "{}", notes(&set));
}

#[test]
fn yolo() {
    let (_folder, set) = converted(ConvertTo::Yolo);
    std::fs::remove_dir_all(set.join("labels/train")).expect("removed");
    lacks_labels(&set, "train", "which does not exist");
    std::fs::create_dir(set.join("labels/train")).expect("made");
    lacks_labels(&set, "train", "images of the part train has a label file");
    // Without a data.yaml, in Roboflow's order of the folders.
    let (folder, set) = converted(ConvertTo::Yolo);
    let other = folder.path().join("other");
    for name in ["train", "val"] {
        for kind in ["images", "labels"].into_iter().filter(|kind| name == "val" || *kind == "images") {
            std::fs::create_dir_all(other.join(name)).expect("made");
            std::fs::rename(set.join(kind).join(name), other.join(name).join(kind)).expect("moved");
        }
    }
    lacks_labels(&other, "train", "the part train has images but no folder labels beside them");
}

#[test]
fn a_part_of_a_yaml_that_is_not_there_stops_only_who_reads_it() {
    let folder = copy_of("ultralytics");
    replace(&folder.path().join("data.yaml"), "test: # optional", "test: ../test/images");
    let text = notes(folder.path());
    assert!(text.contains("the part test is not there") && text.contains("../test/images"), "{text}");
    let n_images = open(folder.path()).len();
    assert_eq!(n_images, open(&fixture("ultralytics")).len());
    Source::open(folder.path(), &part("val")).expect("it is there");
    let error = Source::open(folder.path(), &part("test")).expect_err("it is not there").to_string();
    assert!(error.contains("test must be a folder of images or a list file"), "{error}");
    // With no part at all there is nothing to read.
    std::fs::remove_dir_all(folder.path().join("images")).expect("removed");
    let error = Source::open(folder.path(), &SourceOptions::default()).expect_err("nothing is there").to_string();
    assert!(error.contains("train must be a folder of images"), "{error}");
}

#[test]
fn roboflow() {
    for name in ["train", "valid"] {
        let folder = copy_of("roboflow");
        std::fs::remove_file(folder.path().join(name).join("_annotations.coco.json")).expect("removed");
        let part = if name == "valid" { "val" } else { name };
        lacks_labels(folder.path(), part, &format!("the part {part} has images but no _annotations.coco.json"));
    }
}
