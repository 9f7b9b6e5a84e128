//! Average recall of proposals against pycocotools and lvis, `==` on every number.

use std::collections::BTreeMap;

use sam_data::{CocoId, Sample};
use sam_eval::{
    Categories, CocoConfig, Detections, GroundTruth, Proposal, ProposalRecall, ProposalTruth, Segmentation,
    evaluate_coco, proposal_targets,
};
use sam_image::{Mask, RgbImage, Rle};
use serde_json::Value;

use super::fixture;

fn mask(segmentation: &Segmentation) -> Rle {
    let Segmentation::Runs { size, counts: sam_eval::Counts::Compressed(text) } = segmentation else {
        panic!("compressed runs")
    };
    Rle::from_coco_string(*size, text.as_bytes()).expect("a mask")
}

#[test]
fn recalls_equal_pycocotools_and_lvis() {
    let mut n_cases = 0;
    for line in fixture("proposals.jsonl").lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let name = case["name"].as_str().expect("a name");
        let file = GroundTruth::from_json("truth.json", &case["truth"].to_string()).expect("truth");
        let found = Detections::from_json("detections.json", &case["detections"].to_string()).expect("detections");
        let max_dets: Vec<usize> = serde_json::from_value(case["max_dets"].clone()).expect("limits");
        let truth = ProposalTruth::new(&file).expect("one kind of file");
        assert_eq!(truth.has_frequencies(), name.starts_with("lvis"), "{name}");
        let mut proposals: BTreeMap<&CocoId, Vec<Proposal>> = BTreeMap::new();
        for detection in &found.all {
            let mask = mask(detection.segmentation.as_ref().expect("a mask"));
            proposals.entry(&detection.image_id).or_default().push(Proposal { mask, score: detection.score });
        }
        let mut recall = ProposalRecall::new(&max_dets).expect("limits");
        for image in &file.images {
            let targets = truth.of(&image.id).expect("targets");
            recall.add(&targets, proposals.remove(&image.id).unwrap_or_default()).expect("counted");
        }
        let metrics = recall.metrics("mask").expect("metrics");
        let expected = case["recalls"].as_object().expect("recalls");
        for (name_of_recall, expected) in expected {
            let got = metrics.get(&format!("mask_ar_{name_of_recall}")).map_or(-1.0, |metric| metric.value);
            assert_eq!(got, expected.as_f64().expect("a number"), "{name}: {name_of_recall}");
        }
        if !truth.has_frequencies() {
            // The other way to the same numbers.
            let config = CocoConfig { categories: Categories::Agnostic, max_dets, ..CocoConfig::default() };
            let other = evaluate_coco(&file, &found, &config).and_then(|curves| curves.coco_metrics("mask"));
            for (name_of_metric, metric) in metrics.iter() {
                let other = other.as_ref().expect("evaluated").get(name_of_metric).expect("the same metric");
                assert_eq!(metric, other, "{name}: {name_of_metric}");
            }
        }
        n_cases += 1;
    }
    assert_eq!(n_cases, 11);
}

#[test]
fn objects_of_any_data_set_are_targets_and_ignored_pixels_a_crowd() {
    let block = |left: usize| Rle::from_mask(&Mask::from_fn([40, 90], |_, column| (left..left + 30).contains(&column)));
    let object = sam_data::ObjectMask { mask: block(0), class: None, id: 1, captions: Vec::new() };
    let sample = Sample {
        name: "a".to_owned(),
        image: RgbImage::new(90, 40),
        objects: vec![object.clone(), sam_data::ObjectMask { mask: block(30), id: 2, ..object }],
        ignore: Some(block(60)),
    };
    let targets = proposal_targets(&sample);
    assert_eq!(targets.iter().map(|target| target.is_crowd).collect::<Vec<_>>(), [false, false, true]);
    let mut recall = ProposalRecall::new(&[1, 2]).expect("limits");
    // The best proposal fits the ignored pixels, the second one an object.
    let proposal = |left, score| Proposal { mask: block(left), score };
    recall.add(&targets, vec![proposal(0, 0.5), proposal(60, 0.9), proposal(30, 0.1)]).expect("counted");
    let metrics = recall.metrics("mask").expect("metrics");
    let names: Vec<&str> = metrics.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["mask_ar_1", "mask_ar_2", "mask_ar_medium"], "1200 px are a medium object");
    let value = |name: &str| metrics.get(name).expect("a metric").value;
    assert_eq!([value("mask_ar_1"), value("mask_ar_2"), value("mask_ar_medium")], [0.0, 0.5, 0.5]);
    assert_eq!(metrics.get("mask_ar_2").expect("a metric").n_objects, 2);
    assert!(ProposalRecall::new(&[]).is_err() && ProposalRecall::new(&[0]).is_err());
    let other = Proposal { mask: Rle::empty([3, 3]).expect("small"), score: 1.0 };
    assert!(recall.add(&targets, vec![other]).is_err());
}

#[test]
fn frequencies_are_those_of_all_categories_or_none() {
    let file = |second: &str| {
        let text = format!(
            r#"{{"images": [{{"id": 1, "height": 9, "width": 9}}], "annotations": [],
                "categories": [{{"id": 1, "name": "a", "frequency": "r"}}, {{"id": 2, "name": "b"{second}}}]}}"#
        );
        GroundTruth::from_json("lvis.json", &text).expect("fine")
    };
    assert!(ProposalTruth::new(&file(r#", "frequency": "f""#)).expect("whole").has_frequencies());
    for second in ["", r#", "frequency": "x""#] {
        let error = ProposalTruth::new(&file(second)).expect_err("half").to_string();
        assert!(error.contains("category 2: frequency must be r, c or f"), "{error}");
    }
    let truth = file(r#", "frequency": "f""#);
    let truth = ProposalTruth::new(&truth).expect("whole");
    let unknown: CocoId = serde_json::from_str("7").expect("an id");
    assert!(truth.of(&unknown).expect_err("no such image").to_string().contains("image 7"));
}
