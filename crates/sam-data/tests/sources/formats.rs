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

#[test]
fn folders_of_one_mask_per_object() {
    let source = check("bbbc038", Format::ObjectMasks);
    assert_eq!((source.given_split(0), source.classes().len()), (Some("train"), 0));
    check("object_masks", Format::ObjectMasks);
    // An image without masks, a folder without an image, and two images in one folder.
    let folder = copy_of("object_masks");
    std::fs::rename(folder.path().join("masks/second"), folder.path().join("masks/third")).expect("renamed");
    let error = Source::open(folder.path(), &SourceOptions::default()).expect_err("unpaired").to_string();
    assert!(error.contains("masks/second does not exist") && error.contains("masks/third"), "{error}");
    let folder = copy_of("bbbc038");
    let at = folder.path().join("stage1_train/0a1b");
    std::fs::copy(at.join("images/0a1b.png"), at.join("images/other.png")).expect("copied");
    let error = Source::open(folder.path(), &SourceOptions::default()).expect_err("two images").to_string();
    assert!(error.contains("0a1b/images: 2 images in this folder"), "{error}");
    // A mask of another size, and one that is none.
    let folder = copy_of("bbbc038");
    let masks = folder.path().join("stage1_train/0a1b/masks");
    image::GrayImage::new(9, 9).save(masks.join("bb.png")).expect("written");
    std::fs::write(masks.join("cc.png"), "text").expect("written");
    let error = open(folder.path()).objects(0).expect_err("two bad masks").to_string();
    assert!(error.contains("it is 9 x 9") && error.contains("cc.png"), "{error}");
}

#[test]
fn cityscapes_ids_are_objects_classes_and_crowds() {
    let source = check("cityscapes", Format::Cityscapes);
    assert_eq!(source.classes()[13], "car");
    let val = SourceOptions { split: Some("val".to_owned()), ..SourceOptions::default() };
    assert_eq!(Source::open(&fixture("cityscapes"), &val).expect("opens").len(), 1);
    let folder = copy_of("cityscapes");
    let image = "leftImg8bit/val/town/town_000000_000019_leftImg8bit.png";
    std::fs::remove_file(folder.path().join(image)).expect("there");
    let source = open(folder.path());
    let index = (0..source.len()).find(|&index| source.given_split(index) == Some("val")).expect("an image");
    let error = source.sample(index).expect_err("no image").to_string();
    assert!(error.contains("town_000000_000019_leftImg8bit.png does not exist"), "{error}");
}

#[test]
fn via_regions_of_both_versions() {
    let source = check("via", Format::Via);
    assert_eq!(source.classes(), ["dolphin", "whale"]);
    assert!(source.notes()[0].contains("species"), "{:?}", source.notes());
    let one = open(&fixture("via/val/via_region_data.json"));
    assert_eq!((one.format(), one.len(), one.name(0).as_str()), (Format::Via, 1, "two.jpg"));
    // A project, and shapes of every kind.
    let folder = copy_of("via");
    let shapes = [
        (r#"{"name": "circle", "cx": 20, "cy": 20, "r": 8}"#, Some(201)),
        (r#"{"name": "ellipse", "cx": 20, "cy": 20, "rx": 10, "ry": 5}"#, Some(157)),
        (r#"{"name": "point", "cx": 3, "cy": 4}"#, None),
        (r#"{"name": "circle", "cx": 20, "cy": 20}"#, None),
        (r#"{"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]}"#, None),
        (r#"{"name": "polygon", "all_points_x": [1, 2], "all_points_y": [1, 2]}"#, None),
    ];
    for (shape, area_px) in shapes {
        let project = format!(
            r#"{{"_via_settings": {{}}, "_via_img_metadata": {{"one.jpg1": {{"filename": "one.jpg", "size": 1,
                "regions": [{{"shape_attributes": {shape}, "region_attributes": {{}}}}]}}}}}}"#
        );
        let path = folder.path().join("train/via_region_data.json");
        std::fs::write(&path, project).expect("written");
        let found = open(&path).objects(0);
        match area_px {
            Some(area_px) => {
                let got = found.expect("a shape").objects[0].mask.area_px();
                assert!(got.abs_diff(area_px) < 8, "{shape}: {got}");
            }
            None => assert!(found.is_err() || found.expect("dropped").objects.is_empty(), "{shape}"),
        }
    }
}

#[test]
fn frames_of_youtube_vis_are_images() {
    let source = check("youtube_vis", Format::YoutubeVis);
    assert_eq!((source.classes(), source.given_split(0)), (&["fish".to_owned(), "dog".to_owned()][..], Some("train")));
    let folder = copy_of("youtube_vis");
    let json = folder.path().join("train/instances.json");
    replace(&json, "\"video_id\": 8, \"category_id\": 4", "\"video_id\": 80, \"category_id\": 4");
    let error = Source::open(folder.path(), &SourceOptions::default()).expect_err("an orphan").to_string();
    assert!(error.contains("its video 80 is not listed"), "{error}");
}

#[test]
fn ade20k_objects_and_parts_come_from_colour_channels() {
    let source = check("ade20k", Format::Ade20k);
    assert_eq!((source.given_split(0), source.given_split(1)), (Some("train"), Some("val")));
    let folder = copy_of("ade20k");
    let segments = "images/ADE/training/urban/street/ADE_train_00000001_seg.png";
    image::GrayImage::new(56, 40).save(folder.path().join(segments)).expect("written");
    let error = open(folder.path()).objects(0).expect_err("no colours").to_string();
    assert!(error.contains("class and number of the object"), "{error}");
}

#[test]
fn cvat_xml_of_a_project() {
    let source = check("cvat_xml", Format::Cvat);
    assert_eq!(source.classes(), ["a <nut>", "bolt"]);
    assert_eq!([source.given_split(0), source.given_split(1)], [Some("train"), Some("val")]);
    assert_eq!(source.tally().values().sum::<u64>(), 1, "the box is counted: {:?}", source.tally());
    let one = SourceOptions { split: Some("val".to_owned()), ..SourceOptions::default() };
    assert_eq!(Source::open(&fixture("cvat_xml"), &one).expect("opens").len(), 1);
    assert_eq!(open(&fixture("cvat_xml/annotations.xml")).len(), 2);
}

#[test]
fn what_is_wrong_in_cvat_xml_is_said() {
    for (from, to, parts) in [
        ("rle=\"0, 200\"", "rle=\"0, 201\"", &["shape 2 (bolt)", "runs must fill 5 x 40 pixels, got more"][..]),
        ("rle=\"0, 200\"", "rle=\"0, 199\"", &["runs must fill 5 x 40 pixels, got 199"]),
        ("rle=\"0, 200\"", "rle=\"0, -200\"", &["runs must be whole numbers, got \" -200\""]),
        ("left=\"6\" top=\"32\"", "left=\"17\" top=\"32\"", &["5 x 40 at 17, 32 must lie in the image of 40 x 56"]),
        ("<mask label=\"bolt\"", "<mask label=\"nail\"", &["its label \"nail\" is not among the labels"]),
        ("points=\"30.00,20.00", "points=\"30.00;x", &["points must be x,y;x,y"]),
        ("name=\"b &amp; c.png\"", "name=\"none.png\"", &["none.png is neither in"]),
    ] {
        let folder = copy_of("cvat_xml");
        replace(&folder.path().join("annotations.xml"), from, to);
        let source = open(folder.path());
        let error = (0..source.len()).find_map(|index| source.objects(index).err()).expect("an error").to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{to}: {error}");
    }
    for (from, to, part) in [
        ("<image id=\"0\"", "<track id=\"0\"></track><image id=\"0\"", "tracks of a video"),
        ("</meta>", "</mesh>", "annotations.xml"),
        ("width=\"56\"", "width=\"wide\"", "day 1/a.jpg without a width"),
        ("&lt;nut", "&nut;", "nut"),
    ] {
        let folder = copy_of("cvat_xml");
        replace(&folder.path().join("annotations.xml"), from, to);
        let error = Source::open(folder.path(), &SourceOptions::default()).expect_err(to).to_string();
        assert!(error.contains(part) && error.contains("annotations.xml"), "{to}: {error}");
    }
    // VOC's boxes have another root.
    let folder = copy_of("cvat_xml");
    replace(&folder.path().join("annotations.xml"), "<annotations>", "<annotation>");
    let error = Source::open(folder.path(), &SourceOptions::default()).expect_err("VOC").to_string();
    assert!(error.contains("CVAT for images (an .xml of <annotations>)"), "{error}");
}
