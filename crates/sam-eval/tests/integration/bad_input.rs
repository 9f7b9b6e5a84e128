//! Invalid input: every error names the place, the expectation and the value.

use sam_eval::{
    CocoConfig, Detections, EvalError, FirstClick, GroundTruth, ImageTask, IouKind, MaskFeedback, Protocol, Start,
    Target, evaluate_coco, evaluate_lvis, run_interactive,
};
use sam_image::{Mask, Rle};

use super::scripted::{Scripted, Seen, first_pixels, image, rle};

fn check(error: &EvalError, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

fn play(target: &Rle, ignore: Option<&Rle>, script: impl Fn(&Seen) -> Vec<(Mask, f32)>) -> EvalError {
    let pixels = image([10, 10]);
    let objects = [Target { id: 7, mask: target, class: None }];
    let task = ImageTask { data_set: "d", name: "a.jpg", image: &pixels, objects: &objects, ignore };
    let result = run_interactive(&Scripted::new(script), &Protocol::default(), &[task]);
    result.map(|_| ()).expect_err("bad input")
}

#[test]
fn empty_objects_and_wrong_sizes_are_rejected() {
    let fine = |_: &Seen| vec![(first_pixels([10, 10], 5), 0.5)];
    let (empty, some) = (rle(&Mask::empty([10, 10])), rle(&first_pixels([10, 10], 20)));
    check(&play(&empty, None, fine), &["image a.jpg, object 7", "got a mask that is empty"]);
    check(&play(&some, Some(&some), fine), &["image a.jpg, object 7", "wholly ignored"]);
    let other = rle(&first_pixels([10, 12], 20));
    check(&play(&other, None, fine), &["a.jpg", "mask of object 7", "10 x 10 (height x width), got 10 x 12"]);
    check(&play(&some, Some(&other), fine), &["mask of ignored pixels", "got 10 x 12"]);
}

#[test]
fn segmenters_that_violate_the_contract_are_reported() {
    let target = rle(&first_pixels([10, 10], 20));
    check(&play(&target, None, |_| Vec::new()), &["a.jpg", "at least one mask", "got none"]);
    check(&play(&target, None, |_| vec![(Mask::empty([9, 10]), 0.5)]), &["10 x 10 (height x width), got 9 x 10"]);
    check(&play(&target, None, |_| vec![(Mask::empty([10, 10]), f32::NAN)]), &["finite predicted IoU, got NaN"]);
}

#[test]
fn invalid_protocols_are_rejected() {
    let rejected = |protocol: Protocol| protocol.check().expect_err("invalid");
    let usual = Protocol::default();
    check(&rejected(Protocol { n_clicks: 0, ..usual.clone() }), &["n_clicks must be at least 1", "got 0"]);
    check(&rejected(Protocol { objects_per_call: 0, ..usual.clone() }), &["objects_per_call must be at least 1"]);
    let repeated = Protocol { n_refinements: 1, mask_feedback: MaskFeedback::Nothing, ..usual.clone() };
    check(&rejected(repeated), &["n_refinements must be 0 when mask_feedback"]);
    check(&rejected(Protocol { stop_at_iou: Some(1.01), ..usual.clone() }), &["stop_at_iou", "got 1.01"]);
    check(&rejected(Protocol { stop_at_iou: Some(f64::NAN), ..usual.clone() }), &["got NaN"]);
    let unused = Protocol { start: Start::Box, first_click: FirstClick::Random { seed: 1 }, ..usual };
    check(&rejected(unused), &["first_click must be \"centre\""]);
    let typed = serde_json::from_str::<Protocol>(r#"{"n_click": 3}"#).expect_err("a typing error").to_string();
    assert!(typed.contains("unknown field `n_click`") && typed.contains("n_clicks"), "{typed}");
}

const IMAGES: &str = r#"[{"id": 1, "height": 4, "width": 4}, {"id": 2, "height": 4, "width": 4}]"#;
const OBJECT: &str = r#"{"id": 5, "image_id": 1, "category_id": 3, "area": 4, "bbox": [0, 0, 2, 2], "segmentation": {"size": [4, 4], "counts": [0, 2, 2, 2, 10]}}"#;
const CATEGORIES: &str = r#"[{"id": 3, "name": "cat"}]"#;

fn ground_truth(images: &str, objects: &str, categories: &str) -> Result<GroundTruth, EvalError> {
    let text = format!(r#"{{"images": {images}, "annotations": [{objects}], "categories": {categories}}}"#);
    GroundTruth::from_json("val.json", &text)
}

#[test]
fn inconsistent_annotation_files_are_rejected() {
    let bad = |images: &str, objects: &str| ground_truth(images, objects, CATEGORIES).expect_err("bad");
    check(
        &bad(IMAGES, &OBJECT.replace("\"image_id\": 1", "\"image_id\": 9")),
        &["val.json: annotation 5 must be of one of the 2 image ids", "got image_id 9"],
    );
    check(
        &bad(IMAGES, &OBJECT.replace("_id\": 3", "_id\": 4")),
        &["annotation 5", "category ids", "got category_id 4"],
    );
    check(&bad(IMAGES, &format!("{OBJECT}, {OBJECT}")), &["val.json: annotation id 5 must occur once"]);
    check(&bad(&IMAGES.replace('2', "1"), OBJECT), &["image id 1 must occur once"]);
    check(&bad(IMAGES, "{}"), &["val.json: must be a COCO or LVIS annotation file", "missing field"]);
    check(&GroundTruth::from_json("val.json", "[]").expect_err("bad"), &["val.json", "line 1"]);
}

#[test]
fn detections_that_do_not_match_are_rejected() {
    let ground_truth = ground_truth(IMAGES, OBJECT, CATEGORIES).expect("fine");
    let evaluate = |detections: &str, iou_kind| {
        let detections = Detections::from_json("found.json", detections).expect("well-formed");
        evaluate_coco(&ground_truth, &detections, &CocoConfig { iou_kind, ..CocoConfig::default() }).expect_err("bad")
    };
    let masks = |detections: &str| evaluate(detections, IouKind::Masks);
    let one = r#"{"image_id": 1, "category_id": 3, "score": 0.5, "segmentation": {"size": [4, 4], "counts": "0@"}}"#;
    check(
        &masks(&format!("[{}]", one.replace("\"image_id\": 1", "\"image_id\": 8"))),
        &["found.json: detection 0 (from 0) must be of one of the 2 image ids of the annotation file, got image_id 8"],
    );
    check(&masks(&format!("[{}]", one.replace("_id\": 3", "_id\": 8"))), &["got category_id 8"]);
    check(&masks(&format!("[{}]", one.replace("\"category_id\": 3, ", ""))), &["with a category_id"]);
    check(&masks(&format!("[{}]", one.replace("[4, 4]", "[4, 5]"))), &["image 1 of found.json", "got 4 x 5"]);
    check(&masks(&format!("[{}]", one.replace("0@", "0!"))), &["found.json: image 1, a detection"]);
    check(&masks(r#"[{"image_id": 1, "category_id": 3, "score": 0.5}]"#), &["detection 0", "with a segmentation"]);
    let boxed = r#"{"image_id": 1, "category_id": 3, "score": 0.5, "bbox": [0, 0, 1, 1]}"#;
    check(&evaluate(&format!("[{boxed}, {one}]"), IouKind::Boxes), &["detection 1", "bbox of 4 numbers, as the first"]);
    let text = "[1, 2]";
    check(&Detections::from_json("found.json", text).expect_err("bad"), &["found.json: must be a COCO results file"]);
    let config = CocoConfig { max_dets: vec![0, 3], ..CocoConfig::default() };
    let none = Detections::from_json("found.json", "[]").expect("fine");
    check(
        &evaluate_coco(&ground_truth, &none, &config).expect_err("bad"),
        &["max_dets must be one or more limits from 1"],
    );
}

#[test]
fn coco_files_are_rejected_as_lvis_files() {
    let none = Detections::from_json("found.json", "[]").expect("fine");
    let evaluate = |categories: &str| {
        let ground_truth = ground_truth(IMAGES, OBJECT, categories).expect("fine");
        evaluate_lvis(&ground_truth, &none, IouKind::Masks, 300).expect_err("bad")
    };
    check(&evaluate(CATEGORIES), &["category 3: frequency must be r, c or f", "got none"]);
    let with_frequency = r#"[{"id": 3, "name": "cat", "frequency": "r"}]"#;
    check(&evaluate(with_frequency), &["image 1: neg_category_ids must be a list (an LVIS file), got none"]);
}
