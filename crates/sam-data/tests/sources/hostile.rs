//! Any bytes yield a sample or an error: no panic, no allocation beyond what a file can hold.

use std::path::Path;

use proptest::prelude::*;
use sam_data::{Format, LabelKind, OnBad, Source, SourceOptions, check};

use crate::fixture;

/// Opens and reads a whole data set, strictly and leniently; only panics count.
fn read_all(path: &Path, format: Option<Format>) {
    for bad in [OnBad::Refuse, OnBad::Drop] {
        for labels in [LabelKind::Instance, LabelKind::Semantic] {
            let options = SourceOptions { format, bad, labels, ..SourceOptions::default() };
            if let Ok(source) = Source::open(path, &options) {
                for index in 0..source.len() {
                    let _ = source.objects(index);
                    let _ = source.sample(index);
                }
            }
        }
    }
    let options = SourceOptions { format, ..SourceOptions::default() };
    let _ = check(path, &options, &|_, _| {});
}

/// A fixture with one file replaced.
fn spoilt(name: &str, file: &str, bytes: &[u8]) -> tempfile::TempDir {
    let folder = crate::copy_of(name);
    std::fs::write(folder.path().join(file), bytes).expect("written");
    folder
}

/// A file with some bytes changed, removed or duplicated.
fn mutated(original: &[u8], changes: &[(prop::sample::Index, u8)], end: &prop::sample::Index, cut: bool) -> Vec<u8> {
    let mut bytes = original.to_vec();
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    if cut {
        bytes.truncate(end.index(bytes.len()));
    }
    bytes
}

/// Every reader, with the file that it parses.
const TARGETS: [(&str, &str, Format); 20] = [
    ("cvat", "annotations/instances_default.json", Format::Coco),
    ("cvat", "images/default/frame_000000.jpg", Format::Coco),
    ("sa1b", "sa_000000/sa_1.json", Format::Sa1b),
    ("sa1b", "sa_000000/sa_2.json", Format::Sa1b),
    ("sa1b_tar", "sa_000000.tar", Format::Sa1b),
    ("labelme", "desk.json", Format::Labelme),
    ("ultralytics", "labels/train/a.txt", Format::YoloSeg),
    ("ultralytics", "data.yaml", Format::YoloSeg),
    ("voc", "SegmentationObject/2007_000032.png", Format::LabelImages),
    ("labels_deep", "masks/cell_1.png", Format::LabelImages),
    ("labels_deep", "masks/cell_2_masks.tif", Format::LabelImages),
    ("labels_deep", "images/cell_1.tif", Format::LabelImages),
    ("semantic", "val/masks/two.png", Format::LabelImages),
    ("bbbc038", "stage1_train/0a1b/masks/bb.png", Format::ObjectMasks),
    ("cityscapes", "gtFine/val/town/town_000000_000019_gtFine_instanceIds.png", Format::Cityscapes),
    ("via", "train/via_region_data.json", Format::Via),
    ("via", "val/via_region_data.json", Format::Via),
    ("youtube_vis", "train/instances.json", Format::YoutubeVis),
    ("cvat_xml", "annotations.xml", Format::Cvat),
    ("ade20k", "images/ADE/validation/urban/street/ADE_val_00000002_parts_1.png", Format::Ade20k),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changed_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        end in any::<prop::sample::Index>(),
        cut in any::<bool>(),
    ) {
        for (name, file, format) in TARGETS {
            let original = std::fs::read(fixture(name).join(file)).expect("a fixture");
            let folder = spoilt(name, file, &mutated(&original, &changes, &end, cut));
            read_all(folder.path(), Some(format));
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for (name, file, format) in TARGETS {
            let folder = spoilt(name, file, &bytes);
            read_all(folder.path(), Some(format));
        }
    }

    #[test]
    fn any_json_of_the_right_words_never_panics(words in prop::collection::vec(0usize..34, 1..60)) {
        const WORDS: [&str; 34] = [
            "{", "}", "[", "]", ",", ":", "\"images\"", "\"annotations\"", "\"segmentation\"", "\"counts\"", "\"size\"", "\"id\"", "\"image_id\"",
            "\"image\"", "\"shapes\"", "\"points\"", "\"height\"", "\"width\"", "\"file_name\"", "1", "-1", "1e99", "4294967296", "null", "\"\\", "\"x\"", "NaN", "40",
            "\"caption\"", "\"captions\"", "\"sentences\"", "\"sent\"", "\"raw\"", "\"description\"",
        ];
        let text: String = words.iter().map(|&word| WORDS[word]).collect();
        for (name, file, format) in [TARGETS[0], TARGETS[2], TARGETS[5]] {
            let folder = spoilt(name, file, text.as_bytes());
            read_all(folder.path(), Some(format));
        }
    }

    #[test]
    fn any_rle_string_is_a_mask_or_an_error(text in "[0-o]{0,40}") {
        let text = text.replace('\\', "\\\\");
        let json = format!(r#"[{{"segmentation": {{"size": [40, 56], "counts": "{text}"}}}}]"#);
        let folder = spoilt("sa1b", "sa_000000/sa_2.json", json.as_bytes());
        read_all(folder.path(), Some(Format::Sa1b));
    }
}

/// Peak memory of this process in kB, if the system reports it.
fn peak_kb() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[test]
fn decompression_bombs_are_errors_without_allocations() {
    // A size of 10^10 pixels in a few bytes, in every place that declares one.
    let rle = r#"[{"segmentation": {"size": [4000000000, 4000000000], "counts": "0"}}]"#;
    let runs = r#"[{"segmentation": {"size": [40, 56], "counts": [2000000000, 2000000000, 2000000000]}}]"#;
    let dict =
        r#"{"image": {"width": 100000, "height": 100000}, "annotations": [{"segmentation": [[0, 0, 9, 0, 9, 9]]}]}"#;
    for json in [rle, runs, dict] {
        read_all(spoilt("sa1b", "sa_000000/sa_2.json", json.as_bytes()).path(), Some(Format::Sa1b));
    }
    let labelme = r#"{"shapes": [{"label": "x", "points": [[0, 0], [9, 9]], "shape_type": "rectangle"}], "imagePath": "desk.jpg", "imageHeight": 22000, "imageWidth": 22000}"#;
    read_all(spoilt("labelme", "desk.json", labelme.as_bytes()).path(), Some(Format::Labelme));
    // A CVAT mask of 10^18 pixels, and entities that would become 10^9 letters.
    let huge = r#"<annotations><image name="day 1/a.jpg" subset="train" width="1000000000" height="1000000000"><mask rle="0" left="0" top="0" width="1000000000" height="1000000000"/></image></annotations>"#;
    let entities = r#"<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><annotations><image name="&b;" width="56" height="40"/></annotations>"#;
    for xml in [huge, entities] {
        read_all(spoilt("cvat_xml", "annotations.xml", xml.as_bytes()).path(), Some(Format::Cvat));
    }
    // A PNG that declares 9000 x 9000 in its header, below the limit of pixels, and holds almost no data.
    let mut png = std::fs::read(fixture("labels_deep/masks/cell_1.png")).expect("a fixture");
    png[16..24].copy_from_slice(&[0, 0, 0x23, 0x28, 0, 0, 0x23, 0x28]);
    let crc = crc32(&png[12..29]);
    png[29..33].copy_from_slice(&crc.to_be_bytes());
    let folder = spoilt("labels_deep", "masks/cell_1.png", &png);
    let options = SourceOptions { bad: OnBad::Drop, ..SourceOptions::default() };
    let source = Source::open(folder.path(), &options).expect("opens");
    let findings = source.objects(0).expect("reported").findings;
    assert!(findings[0].detail.contains("9000 x 9000 pixels in"), "{findings:?}");
    if let Some(peak_kb) = peak_kb() {
        assert!(peak_kb < 1_000_000, "peak memory is {peak_kb} kB");
    }
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 })
    })
}
