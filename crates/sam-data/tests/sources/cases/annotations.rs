//! Annotation files: ids, outlines, encodings, classes.

use base64::Engine;
use sam_data::{OnBad, Severity};
use sam_image::{Rle, polygon_to_rle};

use super::*;

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
fn captions_are_read_under_every_name_and_other_values_are_findings() {
    let with = |key: &str, value: serde_json::Value| {
        let mut annotation = annotation(1, 1, outline());
        // Before the segmentation in the file, and after it.
        annotation.as_object_mut().expect("an object").insert(key.to_owned(), value);
        annotation
    };
    let check = |annotation: serde_json::Value, captions: &[&str], finding: Option<&str>| {
        let folder = folder();
        save(folder.path().join("a.png"), 1);
        write(folder.path().join("a.json"), coco(vec![image(1, "a.png")], vec![annotation]));
        let objects = open(folder.path()).objects(0).expect("objects");
        assert_eq!(objects.objects[0].captions, captions, "the object is kept");
        match finding {
            None => assert!(objects.findings.is_empty(), "{:?}", objects.findings),
            Some(detail) => {
                let (count, text) = problem(folder.path(), ProblemKind::CaptionInvalid);
                assert_eq!(count, 1);
                contains_all(&text, &["annotation 1", detail]);
            }
        }
    };
    check(with("caption", json!("a red ring")), &["a red ring"], None);
    check(with("zz", json!("a red ring")), &[], None);
    check(with("captions", json!(["a red ring", "a ring"])), &["a red ring", "a ring"], None);
    let sentences =
        json!([{"raw": "Left Man!", "sent": "left man", "sent_id": 4}, {"sent": "the man", "tokens": ["the"]}]);
    check(with("sentences", sentences), &["left man", "the man"], None);
    let mut both = with("sent", json!("left man"));
    both.as_object_mut().expect("an object").insert("raw".to_owned(), json!("Left Man!"));
    check(both, &["left man"], None);
    check(
        with("caption", json!(17)),
        &[],
        Some("caption must be a text, a list of texts or RefCOCO's sentences, got 17"),
    );
    check(with("captions", json!(["a ring", {"en": "ring"}])), &["a ring"], Some("got an object"));
    check(with("sentences", json!([[["deep"]]])), &[], Some("got a list in it"));
    let long = json!("x".repeat(1 << 20));
    check(with("caption", long), &[], Some("caption must be at most 1048576 bytes long, got 1048578"));
}

#[test]
fn lines_of_a_description_are_captions_of_the_whole_group() {
    let shape = |description: serde_json::Value, group: serde_json::Value| {
        json!({"label": "cat", "points": [[10.0, 10.0], [30.0, 10.0], [30.0, 30.0]], "group_id": group,
            "description": description, "shape_type": "polygon"})
    };
    let folder = folder();
    save(folder.path().join("a.png"), 1);
    let shapes = vec![
        shape(json!("a cat\nThe left cat"), json!(1)),
        shape(json!("A cat\nits tail"), json!(1)),
        shape(json!(""), json!(null)),
        shape(json!(3), json!(null)),
    ];
    let file = json!({"imagePath": "a.png", "imageData": null, "imageHeight": SIZE_HW[0], "imageWidth": SIZE_HW[1],
        "shapes": shapes});
    write(folder.path().join("a.json"), file.to_string());
    let objects = open(folder.path()).objects(0).expect("objects");
    let captions: Vec<&[String]> = objects.objects.iter().map(|object| object.captions.as_slice()).collect();
    assert_eq!(captions, [&["a cat", "The left cat", "its tail"][..], &[], &[]]);
    let (count, text) = problem(folder.path(), ProblemKind::CaptionInvalid);
    assert_eq!(count, 1);
    contains_all(&text, &["shape 4", "description must be a text, got 3"]);
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
        for (folder, format) in
            folders.iter().zip([sam_data::Format::Coco, sam_data::Format::Labelme, sam_data::Format::YoloSeg])
        {
            // Of a file in another encoding, the content cannot tell the format.
            let options = SourceOptions { format: (!is_read).then_some(format), ..SourceOptions::default() };
            let source = Source::open(folder.path(), &options);
            if is_read {
                let source = source.unwrap_or_else(|error| panic!("{error}"));
                assert_eq!((source.format(), source.classes()), (format, &["café".to_owned()][..]));
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

/// Two files were joined: one number is left over.
#[test]
fn an_odd_number_of_coordinates_loses_that_object_only() {
    let folder = folder();
    save(folder.path().join("a.png"), 1);
    let odd = json!([[17452, 10, 10, 40, 10, 40, 30]]);
    let annotations = vec![annotation(1, 1, odd), annotation(2, 1, outline())];
    write(folder.path().join("a.json"), coco(vec![image(1, "a.png")], annotations));
    contains_all(&error(folder.path()), &["annotation 1", "7"]);
    assert_eq!(problem(folder.path(), ProblemKind::PolygonNotFinite).0, 1);
    let drop = SourceOptions { bad: OnBad::Drop, ..SourceOptions::default() };
    let source = Source::open(folder.path(), &drop).expect("opens");
    let ids: Vec<u64> = source.objects(0).expect("objects").objects.iter().map(|object| object.id).collect();
    assert_eq!(ids, [2]);
}
