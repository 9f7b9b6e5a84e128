//! Each failure in the list of `peers.md` §4.4: `check` reports it with a place and a fix, and reading does not ignore
//! it.

use std::path::Path;

use image::{GrayImage, Luma, RgbImage};
use sam_data::{
    CheckReport, GroupKey, LabelKind, MaskFilter, OnBad, ProblemKind, Severity, Source, SourceOptions, Split,
    SplitRule, check,
};

use crate::{copy_of, fixture, open, replace};

fn checked(path: &Path) -> CheckReport {
    check(path, &SourceOptions::default(), &|_, _| {}).unwrap_or_else(|error| panic!("{error}"))
}

/// Checks the number of findings of a kind, their examples, and that their severity decides whether reading stops.
#[track_caller]
fn finds(path: &Path, kind: ProblemKind, count: u64) -> CheckReport {
    let report = checked(path);
    let problem = report.problem(kind).unwrap_or_else(|| panic!("no {kind:?} in {:#?}", report.problems));
    assert_eq!(problem.count, count, "{problem:?}");
    assert!(!problem.examples.is_empty() && problem.examples.len() <= 5 && !problem.fix.is_empty(), "{problem:?}");
    if problem.severity == Severity::Error {
        let read = |options: &SourceOptions| -> Result<(), sam_data::DataError> {
            let source = Source::open(path, options)?;
            (0..source.len()).try_for_each(|index| source.sample(index).map(|_| ()))
        };
        let message = read(&SourceOptions::default()).expect_err("an error is not ignored").to_string();
        assert!(message.len() > 40, "{message}");
    }
    report
}

fn cvat_json(folder: &tempfile::TempDir) -> std::path::PathBuf {
    folder.path().join("annotations/instances_default.json")
}

#[test]
fn clean_sets_have_no_errors() {
    for name in ["cvat", "roboflow", "coco", "lvis", "labelme", "ultralytics", "yolo_roboflow", "sa1b", "voc", "binary"]
    {
        let report = checked(&fixture(name));
        assert!(!report.has_errors(), "{name}: {:#?}", report.problems);
        assert!(report.objects > 0 && report.sizes.iter().map(|bin| bin.objects).sum::<u64>() == report.objects);
        let text = serde_json::to_string(&report).expect("JSON");
        assert_eq!(serde_json::from_str::<CheckReport>(&text).expect("back"), report);
    }
    let report = checked(&fixture("cvat"));
    assert_eq!((report.images, report.objects, report.classes[0].objects), (2, 4, 3));
    assert_eq!(report.image_sizes_hw, Some([[40, 56]; 2]));
    assert_eq!(
        checked(&fixture("coco")).parts.into_iter().collect::<Vec<_>>(),
        [("train".to_owned(), 1), ("val".to_owned(), 1)]
    );
}

#[test]
fn images_missing_truncated_empty_or_of_another_format() {
    let folder = copy_of("cvat");
    let image = folder.path().join("images/default/frame_000000.jpg");
    let whole = std::fs::read(&image).expect("bytes");
    for bad in [&whole[..whole.len() / 2], b"", b"not an image", &b"GIF89a\x01\0\x01\0\0\0\0;"[..]] {
        std::fs::write(&image, bad).expect("written");
        let report = finds(folder.path(), ProblemKind::ImageUnreadable, 1);
        assert!((report.unreadable_images, report.unreadable_percent) == (1, 50.0));
    }
    std::fs::remove_file(&image).expect("removed");
    finds(folder.path(), ProblemKind::ImageMissing, 1);
}

#[test]
fn unpaired_files_are_never_paired_by_order() {
    let folder = copy_of("binary");
    std::fs::remove_file(folder.path().join("x.png")).expect("removed");
    finds(folder.path(), ProblemKind::LabelUnpaired, 1);
    let folder = copy_of("labels_deep");
    std::fs::remove_file(folder.path().join("masks/cell_1.png")).expect("removed");
    let report = checked(folder.path());
    assert_eq!(report.problem(ProblemKind::ImageUnpaired).expect("found").count, 1);
    let message = Source::open(folder.path(), &SourceOptions::default()).expect_err("rejected").to_string();
    assert!(message.contains("cell_1.tif") && message.contains("same stem"), "{message}");
    let dropping = SourceOptions { bad: OnBad::Drop, ..SourceOptions::default() };
    let source = Source::open(folder.path(), &dropping).expect("opens");
    assert_eq!((source.len(), source.tally()[&ProblemKind::ImageUnpaired]), (1, 1));
    let folder = copy_of("sa1b");
    std::fs::remove_file(folder.path().join("sa_000000/sa_1.json")).expect("removed");
    finds(folder.path(), ProblemKind::ImageUnpaired, 1);
}

#[test]
fn two_labels_of_one_stem() {
    let folder = copy_of("labels_deep");
    std::fs::copy(folder.path().join("masks/cell_1.png"), folder.path().join("masks/cell_1_mask.png")).expect("copied");
    // An exact stem wins over a suffixed one only if there is one file; both are reported.
    finds(folder.path(), ProblemKind::LabelsPerImage, 1);
}

#[test]
fn sizes_that_differ() {
    let folder = copy_of("cvat");
    RgbImage::new(20, 20).save(folder.path().join("images/default/frame_000000.jpg")).expect("saved");
    finds(folder.path(), ProblemKind::SizeMismatch, 1);
    let folder = copy_of("voc");
    GrayImage::new(7, 5).save(folder.path().join("SegmentationObject/2007_000032.png")).expect("saved");
    finds(folder.path(), ProblemKind::SizeMismatch, 1);
}

#[test]
fn exif_rotation_is_reported() {
    let report = checked(&fixture("exif"));
    assert_eq!(report.problem(ProblemKind::ExifSwapped).expect("found").count, 1);
    assert_eq!(report.problem(ProblemKind::ExifRotated).expect("found").count, 1);
}

#[test]
fn labels_that_are_not_ids() {
    let folder = copy_of("binary");
    let path = folder.path().join("y_mask.png");
    RgbImage::from_fn(56, 40, |x, _| image::Rgb([x as u8, 0, 9])).save(&path).expect("saved");
    finds(folder.path(), ProblemKind::LabelNotIds, 1);
    std::fs::write(&path, &std::fs::read(folder.path().join("y.png")).expect("bytes")[..60]).expect("written");
    finds(folder.path(), ProblemKind::LabelUnreadable, 1);
    let jpeg = folder.path().join("y_mask.jpg");
    std::fs::remove_file(&path).expect("removed");
    GrayImage::from_pixel(56, 40, Luma([255])).save(&jpeg).expect("saved");
    let report = finds(folder.path(), ProblemKind::LabelUnreadable, 1);
    let example = &report.problem(ProblemKind::LabelUnreadable).expect("found").examples[0];
    assert!(example.contains("got JPEG"), "{example}");
}

#[test]
fn masks_empty_tiny_huge_or_duplicated() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("images")).expect("made");
    RgbImage::from_pixel(100, 100, image::Rgb([9, 99, 200])).save(folder.path().join("images/a.png")).expect("saved");
    let polygon =
        |id: u32, points: &str| format!(r#"{{"id":{id},"image_id":1,"category_id":1,"segmentation":[[{points}]]}}"#);
    let annotations = [
        polygon(1, "0,0,100,0,100,99,0,99"),
        polygon(2, "10,10,10.2,10,10.2,10.2"),
        polygon(3, "50,50,50.9,50,50.9,51,50,51"),
        polygon(4, "20,20,60,20,60,60,20,60"),
        polygon(5, "20,20,60,20,60,60.9,20,60"),
    ];
    let json = format!(
        r#"{{"images":[{{"id":1,"file_name":"a.png","height":100,"width":100}}],"categories":[{{"id":1,"name":"x"}}],"annotations":[{}]}}"#,
        annotations.join(",")
    );
    std::fs::write(folder.path().join("a.json"), json).expect("written");
    let options = SourceOptions {
        filter: MaskFilter { min_area_model_px: 500.0, ..MaskFilter::default() },
        ..SourceOptions::default()
    };
    let report = check(folder.path(), &options, &|_, _| {}).expect("checked");
    for kind in [ProblemKind::MaskEmpty, ProblemKind::MaskTiny, ProblemKind::MaskHuge, ProblemKind::MaskTwice] {
        assert_eq!(report.problem(kind).map(|problem| problem.count), Some(1), "{kind:?} in {:#?}", report.problems);
    }
    let paper =
        SourceOptions { filter: MaskFilter { max_image_share: 0.9, ..options.filter }, ..SourceOptions::default() };
    let source = Source::open(folder.path(), &paper).expect("opens");
    for _ in 0..3 {
        assert_eq!(source.sample(0).expect("sample").objects.len(), 2);
    }
    let filtered = source.filtered();
    assert_eq!(
        (filtered.too_large, filtered.too_small, source.tally()[&ProblemKind::MaskEmpty]),
        (1, 1, 1),
        "counted once"
    );
}

#[test]
fn polygons_short_not_finite_or_outside() {
    let json = |folder: &tempfile::TempDir| folder.path().join("train/_annotations.coco.json");
    for (from, to, kind) in [
        ("[10.5, 30.25, 40.0, 33.1, 25.7, 5.2]", "[10.5, 30.25]", ProblemKind::PolygonShort),
        ("[10.5, 30.25, 40.0, 33.1, 25.7, 5.2]", "[10.5, 30.25, 40.0, 33.1]", ProblemKind::NoMask),
        ("10.5, 30.25", "NaN, 30.25", ProblemKind::PolygonNotFinite),
        ("10.5, 30.25", "Infinity, 30.25", ProblemKind::PolygonNotFinite),
        ("10.5, 30.25, ", "10.5, 30.25, 1.0, ", ProblemKind::PolygonNotFinite),
        ("10.5, 30.25", "1e300, 30.25", ProblemKind::PolygonNotFinite),
        ("10.5, 30.25", "100.5, 300.25", ProblemKind::PolygonOutside),
        ("10.5, 30.25", "\"x\", 30.25", ProblemKind::AnnotationUnreadable),
        ("[[10.5, 30.25, 40.0, 33.1, 25.7, 5.2]]", "[]", ProblemKind::NoMask),
    ] {
        let folder = copy_of("roboflow");
        replace(&json(&folder), from, to);
        finds(folder.path(), kind, 1);
    }
}

#[test]
fn boxes_instead_of_outlines() {
    let folder = tempfile::tempdir().expect("a folder");
    RgbImage::from_pixel(100, 100, image::Rgb([9, 99, 200])).save(folder.path().join("a.png")).expect("saved");
    let shape = |at: u32| {
        format!(
            r#"{{"label":"x","points":[[{at},{at}],[{},{}]],"shape_type":"rectangle","group_id":null}}"#,
            at + 9,
            at + 12
        )
    };
    let shapes: Vec<String> = [1, 20, 40, 60].map(shape).to_vec();
    let json = format!(
        r#"{{"shapes":[{}],"imagePath":"a.png","imageData":null,"imageHeight":100,"imageWidth":100}}"#,
        shapes.join(",")
    );
    std::fs::write(folder.path().join("a.json"), json).expect("written");
    finds(folder.path(), ProblemKind::PolygonIsBox, 1);
    let folder = copy_of("roboflow/train");
    replace(&folder.path().join("_annotations.coco.json"), "[[10.5, 30.25, 40.0, 33.1, 25.7, 5.2]]", "[]");
    let message = Source::open(folder.path(), &SourceOptions::default()).expect_err("boxes only").to_string();
    assert!(message.contains("boxes only"), "{message}");
}

#[test]
fn run_lengths_that_do_not_fill_the_image() {
    for (from, to) in [
        ("\"size\": [40, 56]", "\"size\": [56, 40]"),
        ("\"counts\": [", "\"counts\": [1, "),
        ("\"counts\": [", "\"counts\": [2000000000, 2000000000, "),
        ("\"counts\": [", "\"counts\": [-4, "),
    ] {
        let folder = copy_of("cvat");
        replace(&cvat_json(&folder), from, to);
        finds(folder.path(), ProblemKind::RleInvalid, 1);
        let dropping = SourceOptions { bad: OnBad::Drop, ..SourceOptions::default() };
        let source = Source::open(folder.path(), &dropping).expect("opens");
        assert_eq!(source.sample(0).expect("sample").objects.len(), 1);
        assert_eq!(source.tally()[&ProblemKind::RleInvalid], 1);
    }
    let folder = copy_of("sa1b");
    replace(&folder.path().join("sa_000000/sa_2.json"), "\"counts\": \"", "\"counts\": \"oooo0");
    finds(folder.path(), ProblemKind::RleInvalid, 1);
}

#[test]
fn a_file_of_crowds_only() {
    let folder = copy_of("cvat");
    let json = cvat_json(&folder);
    replace(&json, "\"iscrowd\": 0", "\"iscrowd\": 1");
    let report = finds(folder.path(), ProblemKind::AllCrowd, 1);
    assert_eq!((report.objects, report.has_errors()), (4, false));
}

#[test]
fn duplicate_ids_and_unknown_ids() {
    let change = |from: &str, to: &str| {
        let folder = copy_of("cvat");
        replace(&cvat_json(&folder), from, to);
        folder
    };
    finds(change("\"id\": 4, \"image_id\": 2", "\"id\": 3, \"image_id\": 2").path(), ProblemKind::AnnotationIdTwice, 1);
    finds(change("\"id\": 4, \"image_id\": 2", "\"id\": 4, \"image_id\": 17").path(), ProblemKind::AnnotationOrphan, 1);
    finds(
        change("\"image_id\": 2, \"category_id\": 2", "\"image_id\": 2, \"category_id\": 9").path(),
        ProblemKind::CategoryUnknown,
        1,
    );
    finds(change("sub folder/frame_000001.JPG", "frame_000000.jpg").path(), ProblemKind::ImageListedTwice, 1);
    let folder = copy_of("ultralytics");
    replace(&folder.path().join("labels/val/b.txt"), "0 ", "5 ");
    finds(folder.path(), ProblemKind::CategoryUnknown, 1);
}

#[test]
fn classes_absent_from_a_part_and_images_in_two() {
    let folder = copy_of("ultralytics");
    finds(folder.path(), ProblemKind::ClassAbsent, 1);
    std::fs::copy(folder.path().join("images/train/a.jpg"), folder.path().join("images/val/b.jpg")).expect("copied");
    let report = checked(folder.path());
    let problem = report.problem(ProblemKind::SameImageAcrossSplits).expect("found");
    assert_eq!((problem.count, problem.severity), (1, Severity::Error));
    std::fs::copy(folder.path().join("images/train/a.jpg"), folder.path().join("images/train/background.jpg"))
        .expect("copied");
    let report = checked(folder.path());
    assert_eq!(report.problem(ProblemKind::SameImage).map(|problem| problem.count), Some(1));
}

#[test]
fn pixels_normalised_or_deep() {
    let report = checked(&fixture("labels_deep"));
    assert_eq!(report.problem(ProblemKind::PixelsDark).map(|problem| problem.count), Some(1));
    assert_eq!(report.problem(ProblemKind::ImageUnreadable).map(|problem| problem.count), Some(1));
    let folder = copy_of("labels_deep");
    let bright = image::ImageBuffer::from_fn(56, 40, |x, y| image::Luma([(x * 1000 + y) as u16]));
    bright.save(folder.path().join("images/cell_1.tif")).expect("saved");
    assert_eq!(checked(folder.path()).problem(ProblemKind::PixelsDeep).map(|problem| problem.count), Some(1));
    let write = |values: &[f32]| {
        let file = std::fs::File::create(folder.path().join("images/cell_2.tiff")).expect("a file");
        let mut encoder = tiff::encoder::TiffEncoder::new(file).expect("an encoder");
        encoder.write_image::<tiff::encoder::colortype::Gray32Float>(56, 40, values).expect("written");
    };
    write(&(0..56 * 40).map(|at| at as f32 / 2240.0).collect::<Vec<_>>());
    finds(folder.path(), ProblemKind::PixelsNormalised, 1);
    write(&(0..56 * 40).map(|at| at as f32 / 10.0).collect::<Vec<_>>());
    assert!(!checked(folder.path()).has_errors(), "floats from 0 to 255 are accepted");
    write(&[-1.0; 56 * 40]);
    finds(folder.path(), ProblemKind::ImageUnreadable, 1);
    // NaN and infinite values have no grey level, and none may be invented.
    let mut values = vec![7f32; 56 * 40];
    (values[3], values[4]) = (f32::NAN, f32::INFINITY);
    write(&values);
    finds(folder.path(), ProblemKind::ImageUnreadable, 1);
    let options = SourceOptions { intensity: sam_data::Intensity::MinMax, ..SourceOptions::default() };
    let report = check(folder.path(), &options, &|_, _| {}).expect("checked");
    let example = &report.problem(ProblemKind::ImageUnreadable).expect("found").examples[0];
    assert!(example.contains("2 of 2240 NaN or infinite"), "{example}");
}

#[test]
fn a_stack_of_pages_is_rejected() {
    let folder = copy_of("labels_deep");
    for (path, kind) in
        [("images/cell_1.tif", ProblemKind::ImageUnreadable), ("masks/cell_2_masks.tif", ProblemKind::LabelUnreadable)]
    {
        let file = std::fs::File::create(folder.path().join(path)).expect("a file");
        let mut encoder = tiff::encoder::TiffEncoder::new(file).expect("an encoder");
        for _ in 0..3 {
            encoder.write_image::<tiff::encoder::colortype::Gray8>(56, 40, &[7; 56 * 40]).expect("written");
        }
        let options = SourceOptions { intensity: sam_data::Intensity::MinMax, ..SourceOptions::default() };
        let report = check(folder.path(), &options, &|_, _| {}).expect("checked");
        let example = &report.problem(kind).expect("found").examples[0];
        assert!(example.contains("a stack of 3 pages"), "{example}");
    }
}

#[test]
fn upper_case_extensions() {
    finds(&fixture("cvat"), ProblemKind::ExtensionCase, 1);
}

#[test]
fn class_maps_and_binary_masks_read_as_instances() {
    let folder = copy_of("binary");
    let dots = GrayImage::from_fn(56, 40, |x, y| Luma([if x % 4 == 0 && y % 4 == 0 { 255 } else { 0 }]));
    dots.save(folder.path().join("y_mask.png")).expect("saved");
    let options = SourceOptions { labels: LabelKind::Instance, ..SourceOptions::default() };
    let report = check(folder.path(), &options, &|_, _| {}).expect("checked");
    assert_eq!(report.problem(ProblemKind::InstanceScattered).map(|problem| problem.count), Some(1));
    assert_eq!(report.problem(ProblemKind::BinaryAsInstance).map(|problem| problem.count), Some(1));
}

#[test]
fn damaged_json_is_an_error_with_its_position() {
    let folder = copy_of("cvat");
    let path = cvat_json(&folder);
    let text = std::fs::read_to_string(&path).expect("text");
    std::fs::write(&path, &text[..text.len() / 2]).expect("written");
    let message = Source::open(folder.path(), &SourceOptions::default()).expect_err("truncated").to_string();
    assert!(message.contains("instances_default.json") && message.contains("at byte"), "{message}");
    let folder = copy_of("labelme");
    std::fs::write(folder.path().join("desk.json"), "{\"shapes\": [}").expect("written");
    finds(folder.path(), ProblemKind::LabelUnreadable, 1);
}

#[test]
fn a_wrong_data_yaml_is_an_error_with_its_key() {
    let folder = copy_of("ultralytics");
    let yaml = folder.path().join("data.yaml");
    replace(&yaml, "images/train #", "pictures/train #");
    let message = Source::open(folder.path(), &SourceOptions::default()).expect_err("no folder").to_string();
    assert!(message.contains("train must be a folder") && message.contains("pictures/train"), "{message}");
    std::fs::write(&yaml, "train: images/train\nval: [\nnames: {").expect("written");
    let message = Source::open(folder.path(), &SourceOptions::default()).expect_err("bad YAML").to_string();
    assert!(message.contains("data.yaml"), "{message}");
    std::fs::write(&yaml, "train: images/train\nnc: 3\nnames: [a, b]\n").expect("written");
    let message = Source::open(folder.path(), &SourceOptions::default()).expect_err("nc").to_string();
    assert!(message.contains("nc must be the number of names, 2, got 3"), "{message}");
}

#[test]
fn invalid_options_and_unknown_keys_are_errors() {
    let refused = |text: &str| serde_json::from_str::<SourceOptions>(text).is_err();
    assert!(refused(r#"{"crowds": "auto"}"#) && refused(r#"{"crowd": "maybe"}"#));
    let options: SourceOptions =
        serde_json::from_str(r#"{"format": "coco", "crowd": "instances", "void": {"id": 255}, "intensity": {"window": {"level": 40, "width": 400}}}"#)
            .expect("read");
    assert_eq!(options.void, sam_data::Void::Id(255));
    let split = SourceOptions { split: Some("test".to_owned()), ..SourceOptions::default() };
    let message = Source::open(&fixture("coco"), &split).expect_err("no such part").to_string();
    assert!(message.contains("split must be one of the parts") && message.contains("train, val"), "{message}");
}

#[test]
fn splits_are_given_or_by_hash_and_can_be_saved() {
    let source = open(&fixture("roboflow"));
    let split = Split::given(&source).expect("given");
    assert_eq!((split.train.len(), split.val.len(), split.test.len()), (1, 1, 1));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("split.json");
    split.save(&source, &path).expect("saved");
    assert_eq!(Split::load(&source, &path).expect("loaded"), split);
    assert!(Split::given(&open(&fixture("binary"))).is_err());
    let rule = SplitRule { val: 0.5, group: GroupKey::Folder, ..SplitRule::default() };
    let by_rule = Split::by_rule(&open(&fixture("sa1b")), &rule);
    assert!(by_rule.is_err(), "two images of one folder cannot be two parts");
    let message = Split::load(&open(&fixture("binary")), &path).expect_err("other names").to_string();
    assert!(message.contains("photo-"), "{message}");
}

#[test]
fn workers_share_one_source() {
    let source = open(&fixture("cvat"));
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| (source.sample(0).expect("a"), source.sample(1).expect("b")))).collect();
        for worker in workers {
            assert_eq!(worker.join().expect("no panic").1.objects.len(), 2);
        }
    });
}
