//! Automatic masks equal those of `SamAutomaticMaskGenerator`: the same masks in the same order, the same scores.

use std::ops::ControlFlow;

use sam_image::{Rle, decode_rgb, rle_intersection_px};
use sam_infer::Predictor;
use sam_infer::automatic::{AutomaticMask, Candidates, Floors, Options, Thresholds};
use serde::Deserialize;

use crate::fixture::{cpu, path};

/// Scores of the official package in f64, rounded to f32; the network's f32 sums cost as much again.
const SCORES: f64 = 1e-5;

#[derive(Deserialize)]
struct Case {
    name: String,
    image: String,
    options: OfficialOptions,
    masks: Vec<Record>,
}

#[derive(Deserialize)]
struct OfficialOptions {
    points_per_side: usize,
    points_per_batch: usize,
    pred_iou_thresh: f64,
    stability_score_thresh: f64,
    stability_score_offset: f32,
    box_nms_thresh: f64,
    crop_n_layers: usize,
    crop_nms_thresh: f64,
    crop_overlap_ratio: f64,
    crop_n_points_downscale_factor: usize,
    min_mask_region_area: usize,
}

#[derive(Deserialize)]
struct Record {
    segmentation: Segmentation,
    area: usize,
    bbox: [f64; 4],
    predicted_iou: f64,
    point_coords: [[f64; 2]; 1],
    /// Undefined for a mask that is empty at the lower level, too.
    stability_score: Option<f64>,
    crop_box: [f64; 4],
    /// Pixels within 1e-5 of the threshold, and of the levels of the stability score.
    undecided: [usize; 3],
}

#[derive(Deserialize)]
struct Segmentation {
    size: [usize; 2],
    counts: String,
}

impl OfficialOptions {
    fn thresholds(&self) -> Thresholds {
        Thresholds {
            predicted_iou: self.pred_iou_thresh,
            stability: self.stability_score_thresh,
            box_nms: self.box_nms_thresh,
            crop_nms: self.crop_nms_thresh,
            min_region_area: self.min_mask_region_area,
            ..Thresholds::default()
        }
    }

    fn options(&self, floors: Floors) -> Options {
        Options {
            points_per_side: self.points_per_side,
            points_per_batch: self.points_per_batch,
            crop_layers: self.crop_n_layers,
            crop_overlap: self.crop_overlap_ratio,
            point_grid_downscale: self.crop_n_points_downscale_factor,
            stability_offset: self.stability_score_offset,
            floors,
            ..Options::default()
        }
    }
}

fn cases() -> Vec<Case> {
    let text = std::fs::read_to_string(path("automatic/cases.json")).expect("a committed fixture");
    serde_json::from_str(&text).expect("cases")
}

fn candidates(predictor: &Predictor, case: &Case, floors: Floors) -> Candidates {
    let image = decode_rgb(&path(&format!("automatic/{}.png", case.image))).expect("a committed picture");
    let go_on = &mut |_| ControlFlow::Continue(());
    match Candidates::find(predictor, &image, &case.options.options(floors), go_on).expect("valid options") {
        ControlFlow::Continue(candidates) => candidates,
        ControlFlow::Break(()) => unreachable!("nobody stops it"),
    }
}

fn check(case: &str, index: usize, got: &AutomaticMask, expected: &Record) {
    let place = format!("{case}, mask {index}");
    let mask =
        Rle::from_coco_string(expected.segmentation.size, expected.segmentation.counts.as_bytes()).expect("valid");
    assert_eq!(mask.area_px(), expected.area);
    let [n_mask, n_high, n_low] = expected.undecided;
    let overlap = rle_intersection_px(&mask, &got.rle).expect("one size");
    let different = mask.area_px() + got.rle.area_px() - 2 * overlap;
    assert!(different <= n_mask, "{place}: {different} pixels differ, {n_mask} are undecided");
    if n_mask == 0 {
        assert_eq!(got.box_xywh_px().map(|edge| edge as f64), expected.bbox, "{place}");
    }
    assert_eq!(got.crop_xywh_px().map(|edge| edge as f64), expected.crop_box, "{place}");
    let [[x, y]] = expected.point_coords;
    assert!((got.point_xy_px[0] - x).abs() < 1e-9 && (got.point_xy_px[1] - y).abs() < 1e-9, "{place}");
    let difference = (f64::from(got.predicted_iou) - expected.predicted_iou).abs();
    assert!(difference <= SCORES, "{place}: predicted IoU {} is not {}", got.predicted_iou, expected.predicted_iou);
    match expected.stability_score {
        None => assert!(got.stability.is_nan(), "{place}: stability {} is defined", got.stability),
        Some(stability) if n_high + n_low == 0 => {
            let difference = (f64::from(got.stability) - stability).abs();
            assert!(difference <= SCORES, "{place}: stability {} is not {stability}", got.stability);
        }
        Some(_) => {}
    }
}

#[test]
fn masks_equal_the_official_generator() {
    let (predictor, _) = Predictor::from_checkpoint(&path("automatic/weights.safetensors"), &cpu()).expect("a fixture");
    let (mut n_masks, mut n_exact, mut n_cropped) = (0, 0, 0);
    for case in cases() {
        let thresholds = case.options.thresholds();
        let found = candidates(&predictor, &case, thresholds.floors());
        let generated = found.generate(&thresholds).expect("valid thresholds");
        assert_eq!(generated.masks.len(), case.masks.len(), "{}: {}", case.name, generated.removed.describe());
        for (index, (got, expected)) in generated.masks.iter().zip(&case.masks).enumerate() {
            check(&case.name, index, got, expected);
            n_exact += usize::from(expected.undecided == [0; 3]);
            n_cropped += usize::from(got.crop_xyxy_px != found.crops_xyxy_px[0]);
        }
        n_masks += case.masks.len();
        // Candidates kept with open thresholds give the same masks.
        let open = candidates(&predictor, &case, Floors { predicted_iou: 0.0, stability: 0.0 });
        let again = open.generate(&thresholds).expect("valid thresholds");
        assert_eq!(again.removed, generated.removed, "{}", case.name);
        assert!(again.masks.iter().map(|mask| &mask.rle).eq(generated.masks.iter().map(|mask| &mask.rle)));
    }
    assert!(n_masks > 60 && n_cropped > 20, "{n_masks} masks, {n_cropped} of crops");
    assert!(n_exact * 10 > n_masks * 9, "{n_exact} of {n_masks} masks are compared to the pixel");
}
