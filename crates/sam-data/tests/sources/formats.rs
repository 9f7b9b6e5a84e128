//! Every format yields the content of `expected.json`: names, sizes, ids, classes, masks bit for bit, ignore regions.

use base64::Engine;
use sam_data::{Crowd, Format, Intensity, LabelKind, Source, SourceOptions};
use sam_image::Rle;
use serde_json::Value;

use crate::{copy_of, fixture, open, replace};

fn expected() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("expected.json")).expect("expected.json")).expect("JSON")
}

/// The images and objects of a source, in the form of `expected.json`.
fn content(source: &Source) -> Value {
    let mut images = serde_json::Map::new();
    for index in 0..source.len() {
        let sample = source.sample(index).unwrap_or_else(|error| panic!("{error}"));
        let alone = source.objects(index).expect("objects");
        let size_hw = [sample.image.height() as usize, sample.image.width() as usize];
        assert_eq!((&alone.objects, &alone.ignore, alone.size_hw), (&sample.objects, &sample.ignore, size_hw));
        let undecoded = source.undecoded(index).expect("undecoded");
        assert_eq!(
            (&undecoded.objects, &undecoded.ignore, undecoded.size_hw),
            (&sample.objects, &sample.ignore, size_hw)
        );
        assert_eq!(undecoded.name, sample.name);
        let objects: Vec<Value> = sample
            .objects
            .iter()
            .map(|object| {
                assert_eq!(object.mask.size_hw(), size_hw);
                serde_json::json!({"id": object.id, "class": object.class, "counts": object.mask.to_coco_string()})
            })
            .collect();
        let ignore = sample.ignore.as_ref().map(Rle::to_coco_string);
        let before = images
            .insert(sample.name.clone(), serde_json::json!({"size_hw": size_hw, "objects": objects, "ignore": ignore}));
        assert!(before.is_none(), "two images are called {}", sample.name);
        assert_eq!(source.name(index), sample.name);
    }
    Value::Object(images)
}

fn check(name: &str, format: Format) -> Source {
    let source = open(&fixture(name));
    assert_eq!(source.format(), format, "{name}");
    assert_eq!(content(&source), expected()[name], "{name}");
    source
}

#[test]
fn the_hash_of_an_undecoded_image_is_of_its_file_and_its_conversion() {
    let folder = copy_of("coco");
    let hashes = |options: &SourceOptions| -> Vec<u64> {
        let source = Source::open(folder.path(), options).expect("a data set");
        (0..source.len()).map(|index| source.undecoded(index).expect("sound").content).collect()
    };
    let before = hashes(&SourceOptions::default());
    assert_eq!(hashes(&SourceOptions::default()), before);
    let rule = SourceOptions { intensity: Intensity::MinMax, ..SourceOptions::default() };
    assert!(hashes(&rule).iter().all(|hash| !before.contains(hash)));
    // One pixel of one image.
    let image = folder.path().join("val2017/000000000001.jpg");
    let mut changed = image::open(&image).expect("an image").to_rgb8();
    changed.get_pixel_mut(0, 0).0[0] ^= 0x80;
    changed.save(&image).expect("saved");
    let differences = hashes(&SourceOptions::default()).iter().zip(&before).filter(|(now, then)| now != then).count();
    assert_eq!(differences, 1);
}

#[test]
fn cvat_masks_marked_as_crowd_are_objects() {
    let source = check("cvat", Format::Coco);
    assert_eq!(source.classes(), ["cell", "tube"]);
    assert!(source.notes()[0].contains("3 of 4 annotations are marked iscrowd = 1"), "{:?}", source.notes());
    let ignoring = SourceOptions { crowd: Crowd::Ignore, ..SourceOptions::default() };
    let source = Source::open(&fixture("cvat"), &ignoring).expect("opens");
    let first = source.objects(0).expect("objects");
    assert!(first.objects.is_empty() && first.ignore.is_some());
}

#[test]
fn roboflow_splits_are_read() {
    let source = check("roboflow", Format::Coco);
    assert_eq!(source.classes(), ["things", "leaf"]);
    let splits: Vec<_> = (0..source.len()).map(|index| source.given_split(index)).collect();
    assert_eq!(splits, [Some("test"), Some("train"), Some("val")]);
    let valid = Source::open(
        &fixture("roboflow"),
        &SourceOptions { split: Some("val".to_owned()), ..SourceOptions::default() },
    );
    assert_eq!(valid.expect("opens").name(0), "photo-1_jpg.rf.0a1b2c1.jpg");
    let folder = open(&fixture("roboflow/train"));
    assert_eq!((folder.len(), folder.given_split(0)), (1, None));
}

#[test]
fn coco_crowds_are_ignore_regions() {
    let source = check("coco", Format::Coco);
    assert!(source.notes()[0].contains("read as ignore regions"), "{:?}", source.notes());
    for (crowd, n_objects) in [(Crowd::Instances, 3), (Crowd::Drop, 2)] {
        let source =
            Source::open(&fixture("coco"), &SourceOptions { crowd, ..SourceOptions::default() }).expect("opens");
        let val = source.objects(1).expect("objects");
        assert_eq!((val.objects.len(), val.ignore), (n_objects, None));
    }
    assert_eq!(open(&fixture("coco/annotations/instances_val2017.json")).len(), 1);
}

#[test]
fn lvis_images_are_found_by_url() {
    check("lvis", Format::Coco);
}

#[test]
fn labelme_shapes_and_groups() {
    let source = check("labelme", Format::Labelme);
    assert_eq!(source.classes(), ["book", "cup", "plate"]);
    assert_eq!(source.tally().values().sum::<u64>(), 1, "the point is counted: {:?}", source.tally());
}

#[test]
fn yolo_of_ultralytics_and_of_roboflow() {
    let source = check("ultralytics", Format::YoloSeg);
    assert_eq!(source.classes(), ["bolt", "nut"]);
    assert_eq!(source.given_split(0), Some("train"));
    let source = check("yolo_roboflow", Format::YoloSeg);
    assert_eq!(source.classes(), ["leaf"]);
    let one = SourceOptions { split: Some("test".to_owned()), ..SourceOptions::default() };
    assert_eq!(Source::open(&fixture("yolo_roboflow"), &one).expect("opens").len(), 1);
}

#[test]
fn yolo_without_a_yaml() {
    let folder = copy_of("ultralytics");
    std::fs::remove_file(folder.path().join("data.yaml")).expect("removed");
    let source = open(folder.path());
    assert_eq!((source.format(), source.len(), source.classes().len()), (Format::YoloSeg, 4, 0));
    assert_eq!(source.given_split(3), Some("val"));
}

#[test]
fn sa1b_in_folders_and_in_shards() {
    check("sa1b", Format::Sa1b);
    check("sa1b_tar", Format::Sa1b);
    let shard = open(&fixture("sa1b_tar/sa_000000.tar"));
    assert_eq!((shard.len(), shard.name(1)), (3, "sa_1.jpg".to_owned()));
    assert_eq!(open(&fixture("sa1b/sa_000000")).len(), 2);
}

#[test]
fn voc_palettes_are_read_as_indices() {
    let source = check("voc", Format::LabelImages);
    assert_eq!(source.classes()[14], "person");
    let splits: Vec<_> = (0..source.len()).map(|index| source.given_split(index)).collect();
    assert_eq!(splits, [Some("train"), Some("val")]);
    let val = SourceOptions { split: Some("val".to_owned()), ..SourceOptions::default() };
    assert_eq!(Source::open(&fixture("voc"), &val).expect("opens").name(0), "2007_000039.jpg");
}

#[test]
fn deep_ids_keep_their_value_and_deep_images_need_a_rule() {
    let path = fixture("labels_deep");
    let message = open(&path).sample(1).expect_err("floats are rejected").to_string();
    assert!(
        message.contains("values above 255 (1771 to 7894)") && message.contains("intensity = \"percentile\""),
        "{message}"
    );
    let options = SourceOptions { intensity: Intensity::Percentile, ..SourceOptions::default() };
    let source = Source::open(&path, &options).expect("opens");
    assert_eq!(content(&source), expected()["labels_deep"]);
    let grey = base64::engine::general_purpose::STANDARD
        .decode(expected()["labels_deep_pixels"]["grey"].as_str().expect("text"));
    let image = source.sample(0).expect("sample").image;
    for (pixel, grey) in image.pixels().zip(grey.expect("base64")) {
        // The two round halves differently, for values that depend on the last digit of a float.
        assert!(pixel.0.iter().all(|&x| x.abs_diff(grey) <= 1), "{pixel:?} {grey}");
    }
    for intensity in [Intensity::MinMax, Intensity::Window { level: 4000.0, width: 2000.0 }] {
        let options = SourceOptions { intensity, ..SourceOptions::default() };
        let image = Source::open(&path, &options).expect("opens").sample(1).expect("sample").image;
        assert!(image.contains(&0) && image.contains(&255));
    }
}

#[test]
fn binary_masks_beside_images_become_components() {
    let source = check("binary", Format::LabelImages);
    assert!(source.notes()[0].contains("binary"), "{:?}", source.notes());
}

#[test]
fn semantic_labels_become_components_of_classes() {
    let options = SourceOptions { labels: LabelKind::Semantic, ..SourceOptions::default() };
    let source = Source::open(&fixture("semantic"), &options).expect("opens");
    assert_eq!(content(&source), expected()["semantic"]);
    assert_eq!(source.given_split(1), Some("val"));
}

#[test]
fn exif_rotation_applies_to_annotations_of_either_orientation() {
    let source = check("exif", Format::Coco);
    assert!(source.objects(0).expect("objects").findings.is_empty());
    let found = &source.objects(1).expect("objects").findings;
    assert_eq!(found[0].kind, sam_data::ProblemKind::ExifSwapped, "{found:?}");
}

#[test]
fn an_unknown_or_ambiguous_format_is_an_error_with_the_candidates() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("notes.docx"), "x").expect("written");
    let message = Source::open(folder.path(), &SourceOptions::default()).expect_err("rejected").to_string();
    for words in ["COCO", "SA-1B", "YOLO", "Labelme", "label images", "notes.docx"] {
        assert!(message.contains(words), "{words} is missing in: {message}");
    }
    let both = copy_of("cvat");
    std::fs::create_dir_all(both.path().join("labels/default")).expect("a folder");
    std::fs::write(both.path().join("labels/default/frame_000000.txt"), "0 0 0 1 0 1 1").expect("written");
    let message = Source::open(both.path(), &SourceOptions::default()).expect_err("rejected").to_string();
    assert!(message.contains("coco (") && message.contains("yolo_seg ("), "{message}");
    let options = SourceOptions { format: Some(Format::Coco), ..SourceOptions::default() };
    assert_eq!(Source::open(both.path(), &options).expect("named").len(), 2);
}

#[test]
fn a_misnamed_image_is_suggested() {
    let folder = copy_of("cvat");
    replace(&folder.path().join("annotations/instances_default.json"), "frame_000001.JPG", "frame_000001.jpg");
    let message = open(folder.path()).sample(1).expect_err("missing").to_string();
    assert!(message.contains("did you mean") && message.contains("frame_000001.JPG"), "{message}");
}
