//! Round trips between formats: representable content returns bit for bit, and losses are reported.

use std::collections::BTreeMap;
use std::path::Path;

use sam_data::{ConvertTo, Format, LabelKind, Source, SourceOptions, Void, convert};

use crate::{conversion, fixture, go_on, open};

/// Id, run lengths and class of the objects of an image, and its ignore region.
type Content = (Vec<(u64, String, Option<String>)>, Option<String>);

/// Masks of each image by stem, with classes by name; ids only where asked.
fn masks(source: &Source, with_ids: bool) -> BTreeMap<String, Content> {
    (0..source.len())
        .map(|index| {
            let objects = source.objects(index).expect("objects");
            let mut masks: Vec<_> = objects
                .objects
                .iter()
                .map(|object| {
                    let class = object.class.map(|class| source.classes()[class].clone());
                    (if with_ids { object.id } else { 0 }, object.mask.to_coco_string(), class)
                })
                .collect();
            masks.sort();
            let name = source.name(index);
            let file = name.rsplit('/').next().unwrap_or(&name);
            let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem).to_owned();
            (stem, (masks, objects.ignore.map(|ignore| ignore.to_coco_string())))
        })
        .collect()
}

fn converted(source: &Source, to: ConvertTo, options: &SourceOptions) -> (tempfile::TempDir, Source, Vec<String>) {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("out");
    let report = convert(source, &out, conversion(to), &go_on).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.images, source.len() as u64);
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("listed").collect();
    assert_eq!(left.len(), 1, "nothing unfinished is left");
    let back = Source::open(&out, options).unwrap_or_else(|error| panic!("{error}"));
    (folder, back, report.notes)
}

#[test]
fn to_coco_and_back_loses_nothing() {
    for name in
        ["cvat", "coco", "roboflow", "lvis", "labelme", "ultralytics", "sa1b", "sa1b_tar", "voc", "binary", "exif"]
    {
        let source = open(&fixture(name));
        let (_folder, back, notes) = converted(&source, ConvertTo::Coco, &SourceOptions::default());
        assert_eq!(back.format(), Format::Coco);
        let (mut before, after) = (masks(&source, false), masks(&back, false));
        if source.classes().is_empty() {
            for (_, _, class) in before.values_mut().flat_map(|(masks, _)| masks) {
                *class = Some("object".to_owned());
            }
        }
        assert_eq!(before, after, "{name}: {notes:?}");
        for index in 0..back.len() {
            back.sample(index).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        let count =
            |source: &Source, split| (0..source.len()).filter(|&i| source.given_split(i) == Some(split)).count();
        assert_eq!(count(&source, "val"), count(&back, "val"), "{name}");
    }
    let source = open(&fixture("cvat"));
    let (_folder, back, notes) = converted(&source, ConvertTo::Coco, &SourceOptions::default());
    assert_eq!(masks(&source, true), masks(&back, true));
    assert!(notes.is_empty(), "{notes:?}");
    // Names that CVAT and datumaro open: of the file without a part, too, and images in `images`.
    for (name, expected) in [
        ("cvat", vec!["annotations/instances_default.json", "images/frame_000000.jpg"]),
        ("roboflow", vec!["annotations/instances_train.json", "annotations/instances_val.json", "images/val"]),
    ] {
        let (folder, ..) = converted(&open(&fixture(name)), ConvertTo::Coco, &SourceOptions::default());
        for path in expected {
            assert!(folder.path().join("out").join(path).exists(), "{name}: {path}");
        }
    }
}

#[test]
fn to_sa1b_and_back_keeps_masks_and_says_what_is_lost() {
    for name in ["cvat", "coco", "sa1b", "sa1b_tar", "binary"] {
        let source = open(&fixture(name));
        let (_folder, back, notes) = converted(&source, ConvertTo::Sa1b, &SourceOptions::default());
        assert_eq!(back.format(), Format::Sa1b, "{name}");
        let mut before = masks(&source, true);
        before.values_mut().for_each(|(_, ignore)| *ignore = None);
        assert_eq!(before, masks(&back, true), "{name}: classes are in a key of our own");
        assert_eq!(notes.iter().any(|note| note.contains("no classes")), !source.classes().is_empty(), "{notes:?}");
        assert_eq!(notes.iter().any(|note| note.contains("no ignore regions")), name == "coco", "{notes:?}");
    }
}

#[test]
fn to_label_images_and_back_keeps_ids_and_void() {
    let source = open(&fixture("voc"));
    let options = SourceOptions { labels: LabelKind::Instance, void: Void::Id(65535), ..SourceOptions::default() };
    let (_folder, back, notes) = converted(&source, ConvertTo::Labels, &options);
    let mut before = masks(&source, true);
    before.values_mut().flat_map(|(masks, _)| masks).for_each(|(_, _, class)| *class = None);
    assert_eq!(before, masks(&back, true));
    assert!(notes.iter().any(|note| note.contains("void = { id = 65535 }")), "{notes:?}");
    assert!(notes.iter().any(|note| note.contains("classes of 3 objects were lost")), "{notes:?}");
}

#[test]
fn overlaps_lost_in_label_images_are_counted() {
    let source = open(&fixture("coco"));
    let (_folder, back, notes) =
        converted(&source, ConvertTo::Labels, &SourceOptions { void: Void::Id(65535), ..SourceOptions::default() });
    assert!(notes.iter().any(|note| note.contains("objects lost pixels")), "{notes:?}");
    // No pixels are invented: the union is the same.
    let union = |source: &Source| {
        let objects = source.objects(0).expect("objects");
        let masks: Vec<_> = objects.objects.into_iter().map(|object| object.mask).chain(objects.ignore).collect();
        sam_image::Rle::union(&masks).expect("a union")
    };
    assert_eq!(union(&source), union(&back));
}

/// The captions of all objects, in the order of the images' names.
fn captions(source: &Source) -> BTreeMap<String, Vec<Vec<String>>> {
    let of_image = |index: usize| {
        let objects = source.objects(index).expect("objects").objects;
        objects.into_iter().map(|object| object.captions).collect()
    };
    let name = |index: usize| source.name(index).rsplit(['/', '.']).nth(1).unwrap_or_default().to_owned();
    (0..source.len()).map(|index| (name(index), of_image(index))).collect()
}

#[test]
fn captions_are_kept_where_the_format_has_them_and_counted_elsewhere() {
    let source = open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/synth"));
    let before = captions(&source);
    let numbers: Vec<usize> = before["scene_000000"].iter().map(Vec::len).collect();
    assert_eq!(numbers, [1, 1, 1, 3, 1], "{:?}", before["scene_000000"]);
    let n_objects: usize = before.values().map(Vec::len).sum();
    for to in [ConvertTo::Coco, ConvertTo::Labelme] {
        let (_folder, back, notes) = converted(&source, to, &SourceOptions::default());
        assert_eq!(before, captions(&back), "{to:?}");
        assert!(!notes.iter().any(|note| note.contains("captions")), "{notes:?}");
    }
    for to in [ConvertTo::Sa1b, ConvertTo::Labels, ConvertTo::Yolo, ConvertTo::Cvat, ConvertTo::LabelStudio] {
        let folder = tempfile::tempdir().expect("a folder");
        let report = convert(&source, &folder.path().join("out"), conversion(to), &go_on).expect("converted");
        let note = format!("the captions of {n_objects} objects were left out");
        assert!(report.notes.iter().any(|text| text.starts_with(&note)), "{to:?}: {:?}", report.notes);
    }
}

#[test]
fn nothing_is_overwritten_and_failures_leave_no_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = open(&fixture("cvat"));
    std::fs::write(folder.path().join("precious.txt"), "x").expect("written");
    let message =
        convert(&source, folder.path(), conversion(ConvertTo::Coco), &go_on).expect_err("rejected").to_string();
    assert!(message.contains("new or empty"), "{message}");
    let copy = crate::copy_of("cvat");
    std::fs::remove_file(copy.path().join("images/default/frame_000000.jpg")).expect("removed");
    let out = folder.path().join("below/out");
    assert!(convert(&open(copy.path()), &out, conversion(ConvertTo::Sa1b), &go_on).is_err());
    assert!(!out.exists() && !folder.path().join("below").exists());
}

#[test]
fn a_stopped_conversion_leaves_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = open(&fixture("cvat"));
    let out = folder.path().join("out");
    let stop = |_, _| std::ops::ControlFlow::Break(());
    let error = convert(&source, &out, conversion(ConvertTo::Coco), &stop).expect_err("stopped");
    assert!(matches!(error, sam_data::DataError::Stopped), "{error}");
    assert!(is_empty(folder.path()));
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

/// Every mask comes back as it was, except that holes are filled and ignore regions are gone.
#[test]
fn to_yolo_and_back_restores_masks_and_says_what_is_lost() {
    let (mut n_objects, mut n_equal) = (0, 0);
    for name in
        ["cvat", "coco", "roboflow", "lvis", "labelme", "ultralytics", "sa1b", "sa1b_tar", "voc", "binary", "exif"]
    {
        let source = open(&fixture(name));
        let (folder, back, notes) = converted(&source, ConvertTo::Yolo, &SourceOptions::default());
        assert_eq!(back.format(), Format::YoloSeg, "{name}");
        let text = notes.join("; ");
        let (before, after) = (objects(&source), objects(&back));
        assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "{name}");
        for (image, before) in &before {
            let after = &after[image];
            assert_eq!(before.len(), after.len(), "{name}, {image}: as many objects");
            for ((mask, class), (restored, restored_class)) in before.iter().zip(after) {
                assert_eq!(Some(class.as_deref().unwrap_or("object")), restored_class.as_deref(), "{name}, {image}");
                let iou = sam_image::rle_iou(mask, restored).expect("one size");
                let is_filled = restored.area_px() > mask.area_px() && text.contains("holes");
                assert!(iou == 1.0 || is_filled, "{name}, {image}: IoU {iou}; {text}");
                n_objects += 1;
                n_equal += usize::from(iou == 1.0);
            }
        }
        let has_ignores = (0..source.len()).any(|index| source.objects(index).expect("objects").ignore.is_some());
        assert_eq!(text.contains("no ignore regions"), has_ignores, "{name}: {text}");
        let has_val = (0..source.len()).any(|index| source.given_split(index) == Some("val"));
        assert_eq!(text.contains("there is no part val"), !has_val, "{name}: {text}");
        let yaml = std::fs::read_to_string(folder.path().join("out/data.yaml")).expect("written");
        assert_eq!(yaml.contains("val: images/val"), has_val, "{yaml}");
        assert!(yaml.contains("names:\n  0: \""), "{yaml}");
    }
    // The fixtures have more holes than other sets: they are there to be read.
    assert!(n_objects > 30 && n_equal * 4 >= n_objects * 3, "{n_equal} of {n_objects} masks are equal");
}

/// Mask and class by name of the objects of each image, by the image's stem.
fn objects(source: &Source) -> BTreeMap<String, Vec<(sam_image::Rle, Option<String>)>> {
    let of = |index: usize| {
        let name = source.name(index);
        let file = name.rsplit('/').next().unwrap_or(&name);
        let stem = file.rsplit_once('.').map_or(file, |(stem, _)| stem).to_owned();
        let class = |class: usize| source.classes()[class].clone();
        let objects = source.objects(index).expect("objects").objects;
        (stem, objects.into_iter().map(|object| (object.mask, object.class.map(class))).collect())
    };
    (0..source.len()).map(of).collect()
}

/// Masks, holes, parts and classes come back bit for bit; labelme has ignore regions, too.
#[test]
fn to_labelme_and_to_cvat_and_back_loses_no_mask() {
    for (to, format) in [(ConvertTo::Labelme, Format::Labelme), (ConvertTo::Cvat, Format::Cvat)] {
        for name in
            ["cvat", "coco", "roboflow", "lvis", "labelme", "ultralytics", "sa1b", "sa1b_tar", "voc", "binary", "exif"]
        {
            let source = open(&fixture(name));
            let (_folder, back, notes) = converted(&source, to, &SourceOptions::default());
            assert_eq!(back.format(), format, "{name}");
            let mut before = masks(&source, false);
            for (masks, ignore) in before.values_mut() {
                masks.iter_mut().for_each(|(_, _, class)| *class = Some(class.take().unwrap_or("object".to_owned())));
                masks.sort();
                ignore.take_if(|_| to == ConvertTo::Cvat);
            }
            assert_eq!(before, masks(&back, false), "{name}: {notes:?}");
            let objects = |at: usize| source.objects(at).expect("objects").objects;
            let has_classes = (0..source.len()).all(|at| objects(at).iter().all(|object| object.class.is_some()));
            assert_eq!(notes.iter().any(|note| note.contains("got the class")), !has_classes, "{name}: {notes:?}");
            let count =
                |source: &Source, split| (0..source.len()).filter(|&i| source.given_split(i) == Some(split)).count();
            assert_eq!(count(&source, "val"), count(&back, "val"), "{name}");
        }
    }
}
