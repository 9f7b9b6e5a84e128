//! AP and AR against pycocotools and lvis: whole arrays, `==` on every number.

use sam_eval::{
    AreaRange, CocoConfig, Detections, GroundTruth, IouKind, N_IOU, N_RECALL, PrecisionRecall, Select, evaluate_coco,
    evaluate_lvis,
};
use serde_json::Value;

use super::fixture;

fn floats(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|number| number.as_f64().expect("a number")).collect()
}

/// The elements of an array that the generator wrote as runs.
fn unpacked(value: &Value) -> Vec<f64> {
    let values = floats(&value["values"]);
    let runs: Vec<usize> = floats(&value["runs"]).into_iter().map(|number| number as usize).collect();
    runs.chunks_exact(2).flat_map(|run| std::iter::repeat_n(values[run[0]], run[1])).collect()
}

/// Our `[T, R, K, A, M]` (`R` = 1 for recall) in the generator's order `[K, A, M, T, R]`.
fn reordered(array: &[f64], n_recall: usize, result: &PrecisionRecall) -> Vec<f64> {
    let n_kam = array.len() / (N_IOU * n_recall);
    assert_eq!(n_kam, result.n_categories * 4 * result.max_dets.len());
    let tr = |kam: usize| (0..N_IOU * n_recall).map(move |tr| array[tr * n_kam + kam]);
    (0..n_kam).flat_map(tr).collect()
}

fn read(case: &Value) -> (GroundTruth, Detections) {
    let ground_truth = GroundTruth::from_json("truth.json", &case["truth"].to_string()).expect("truth");
    let detections = Detections::from_json("detections.json", &case["detections"].to_string()).expect("detections");
    (ground_truth, detections)
}

/// -1 is the reference's value without targets.
fn check_stats(name: &str, got: &[Option<f64>], expected: &Value) {
    let got: Vec<f64> = got.iter().map(|value| value.unwrap_or(-1.0)).collect();
    assert_eq!(got, floats(expected), "{name}: stats");
}

/// COCO's twelve summary numbers: AP, AP50, AP75, AP by size, AR at the first, second and third limit, AR by size. AP uses
/// the limit 100, and all others but the first two AR the third limit.
fn coco_stats(result: &PrecisionRecall) -> [Option<f64>; 12] {
    let limit = |at: usize| result.max_dets.get(at).copied().flatten();
    let select = |iou_percent, area, max_dets| Select { iou_percent, area, max_dets, categories: None };
    let ap = |iou, area, max_dets: Option<usize>| {
        max_dets.and_then(|_| result.average_precision(&select(iou, area, max_dets)))
    };
    let ar =
        |area, max_dets: Option<usize>| max_dets.and_then(|_| result.average_recall(&select(None, area, max_dets)));
    let [all, small, medium, large] = AreaRange::ALL;
    [
        ap(None, all, Some(100)),
        ap(Some(50), all, limit(2)),
        ap(Some(75), all, limit(2)),
        ap(None, small, limit(2)),
        ap(None, medium, limit(2)),
        ap(None, large, limit(2)),
        ar(all, limit(0)),
        ar(all, limit(1)),
        ar(all, limit(2)),
        ar(small, limit(2)),
        ar(medium, limit(2)),
        ar(large, limit(2)),
    ]
}

#[test]
fn coco_equals_pycocotools_to_the_last_bit() {
    let mut n_cases = 0;
    for line in fixture("coco.jsonl").lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let name = case["name"].as_str().expect("a name");
        let (ground_truth, detections) = read(&case);
        let config: CocoConfig = serde_json::from_value(case["config"].clone()).expect("a config");
        let result =
            evaluate_coco(&ground_truth, &detections, &config).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(result.iou_thresholds, floats(&case["iou_thresholds"]));
        assert_eq!(result.recall_thresholds, floats(&case["recall_thresholds"]));
        assert_eq!(reordered(&result.recall, 1, &result), unpacked(&case["recall"]), "{name}: recall");
        assert_eq!(reordered(&result.precision, N_RECALL, &result), unpacked(&case["precision"]), "{name}: precision");
        assert_eq!(reordered(&result.scores, N_RECALL, &result), unpacked(&case["scores"]), "{name}: scores");
        check_stats(name, &coco_stats(&result), &case["stats"]);
        n_cases += 1;
    }
    assert_eq!(n_cases, 39);
}

#[test]
fn lvis_equals_the_lvis_package_to_the_last_bit() {
    let mut n_cases = 0;
    for line in fixture("lvis.jsonl").lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let name = case["name"].as_str().expect("a name");
        let (ground_truth, detections) = read(&case);
        let iou_kind: IouKind = serde_json::from_value(case["config"]["iou_kind"].clone()).expect("a kind");
        let max_dets = case["config"]["max_dets"].as_u64().expect("a limit") as usize;
        let result = evaluate_lvis(&ground_truth, &detections, iou_kind, max_dets)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let curves = &result.curves;
        assert_eq!(reordered(&curves.recall, 1, curves), unpacked(&case["recall"]), "{name}: recall");
        assert_eq!(reordered(&curves.precision, N_RECALL, curves), unpacked(&case["precision"]), "{name}: precision");
        check_stats(name, &result.stats(), &case["stats"]);
        n_cases += 1;
    }
    assert_eq!(n_cases, 15);
}

#[test]
fn metrics_equal_the_summary_numbers() {
    let line = fixture("coco.jsonl").lines().next().map(str::to_owned).expect("a case");
    let case: Value = serde_json::from_str(&line).expect("a case");
    let (ground_truth, detections) = read(&case);
    let result = evaluate_coco(&ground_truth, &detections, &CocoConfig::default()).expect("fine");
    let metrics = result.coco_metrics("mask").expect("fine");
    let stats = floats(&case["stats"]);
    let names = ["ap", "ap_50", "ap_75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100", "ar_small"];
    for (name, expected) in names.into_iter().zip(stats) {
        let name = format!("mask_{name}");
        if expected < 0.0 {
            assert!(!metrics.contains(&name));
        } else {
            assert_eq!(metrics.get(&name).expect("computed").value, expected, "{name}");
        }
    }
    let n_targets = ground_truth.objects.iter().filter(|object| object.iscrowd == 0).count();
    assert_eq!(metrics.get("mask_ap").expect("computed").n_objects, n_targets);
}

/// The reference treats a match with annotation 0 as none, because it stores ids.
#[test]
fn an_annotation_with_id_0_is_matched_like_any_other() {
    let file = |id: u64| {
        let text = format!(
            r#"{{"images": [{{"id": 0, "height": 9, "width": 9}}], "categories": [{{"id": 0, "name": "a"}}],
                "annotations": [{{"id": {id}, "image_id": 0, "category_id": 0, "bbox": [1, 1, 4, 4], "area": 16}}]}}"#
        );
        GroundTruth::from_json("t.json", &text).expect("fine")
    };
    let found = r#"[{"image_id": 0, "category_id": 0, "bbox": [1, 1, 4, 4], "score": 0.5}]"#;
    let found = Detections::from_json("d.json", found).expect("fine");
    let config = CocoConfig { iou_kind: IouKind::Boxes, ..CocoConfig::default() };
    let of_zero = evaluate_coco(&file(0), &found, &config).expect("fine");
    assert_eq!(coco_stats(&of_zero)[8], Some(1.0));
    assert_eq!(of_zero, evaluate_coco(&file(1), &found, &config).expect("fine"));
}

#[test]
fn results_files_round_trip_without_boxes() {
    let text = r#"[{"image_id": 3, "category_id": 1, "bbox": [0, 0, 2, 2], "score": 0.123456789012345678,
                    "segmentation": {"size": [2, 2], "counts": "04"}}]"#;
    let detections = Detections::from_json("d.json", text).expect("fine");
    let written = detections.to_json().expect("fine");
    assert!(!written.contains("bbox"), "{written}");
    let again = Detections::from_json("e.json", &written).expect("fine");
    assert_eq!(again.all[0].score, 0.123_456_789_012_345_68);
    assert_eq!(again.all[0].segmentation, detections.all[0].segmentation);
}

/// As `data check` reads them: ids are compared by value, whatever their JSON type, and written as they were given.
#[test]
fn ids_of_any_json_type_match_and_are_written_as_given() {
    let truth = |image: &str, category: &str| {
        let text = format!(
            r#"{{"images": [{{"id": {image}, "height": 9.0, "width": 9}}], "categories": [{{"id": {category}, "name": "a"}}],
                "annotations": [{{"id": "a-1", "image_id": {image}, "category_id": {category}, "bbox": [1, 1, 4, 4],
                                  "area": 16, "iscrowd": false}}]}}"#
        );
        GroundTruth::from_json("t.json", &text).expect("fine")
    };
    let found = |image: &str, category: &str| {
        let text = format!(
            r#"[{{"image_id": {image}, "category_id": {category}, "bbox": [1, 1, 4, 4], "score": 0.5,
                 "segmentation": {{"size": [9, 9], "counts": [10, 4, 67]}}}}]"#
        );
        Detections::from_json("d.json", &text).expect("fine")
    };
    const LARGE: &str = "18446744073709551615";
    let config = CocoConfig { iou_kind: IouKind::Boxes, ..CocoConfig::default() };
    for (listed, used, is_noted) in [
        ("1", "1", false),
        ("1", "\"1\"", true),
        ("\"1\"", "1", true),
        ("\"frame-1\"", "\"frame-1\"", false),
        (LARGE, LARGE, false),
        ("-7", "-7", false),
    ] {
        for (truth, found) in [(truth(listed, "2"), found(used, "2")), (truth("2", listed), found("2", used))] {
            assert_eq!(found.note_of_ids(&truth).is_some(), is_noted, "{listed} and {used}");
            let result = evaluate_coco(&truth, &found, &config).unwrap_or_else(|error| panic!("{used}: {error}"));
            assert_eq!(coco_stats(&result)[8], Some(1.0), "{listed} and {used}");
            assert!(found.to_json().expect("written").contains(&format!("_id\":{used}")), "{used}");
        }
    }
    let text = r#"{"images": [{"id": 1, "height": 9, "width": 9}, {"id": "1", "height": 9, "width": 9}],
                   "categories": [], "annotations": []}"#;
    let error = GroundTruth::from_json("t.json", text).expect_err("one id").to_string();
    assert!(error.contains("image id 1 must occur once"), "{error}");
}
