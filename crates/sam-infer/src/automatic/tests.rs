//! Automatic masks of a tiny network with random weights, and of made-up candidates.

use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use sam_image::{Mask, RgbImage, Rle};

use super::*;
use crate::Predictor;

fn tiny() -> Predictor {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny_sam.safetensors");
    Predictor::from_checkpoint(&fixture, &Device::flex()).expect("a fixture").0
}

/// A red disc on slopes.
fn photo(width: u32, height: u32) -> RgbImage {
    let pixel = |at: u32| {
        let (x, y) = (at % width, at / width);
        let is_disc = x.abs_diff(20).pow(2) + y.abs_diff(14).pow(2) < 80;
        if is_disc { [220, 60, 40] } else { [(3 * x % 256) as u8, 90, (5 * y % 256) as u8] }
    };
    RgbImage::from_raw(width, height, (0..width * height).flat_map(pixel).collect()).expect("its size")
}

/// Everything is kept, whatever its scores.
fn open_thresholds() -> Thresholds {
    Thresholds { predicted_iou: 0.0, stability: 0.0, ..Thresholds::default() }
}

fn options(points_per_side: usize, crop_layers: usize) -> Options {
    let floors = open_thresholds().floors();
    // Logits of the tiny network are small.
    Options { points_per_side, crop_layers, floors, stability_offset: 0.1, ..Options::default() }
}

fn find(image: &RgbImage, options: &Options) -> Candidates {
    match Candidates::find(&tiny(), image, options, &mut |_| ControlFlow::Continue(())).expect("valid") {
        ControlFlow::Continue(candidates) => candidates,
        ControlFlow::Break(()) => unreachable!("nobody stops it"),
    }
}

#[test]
fn an_encoded_image_has_the_candidates_of_the_image() {
    let (image, predictor) = (photo(90, 70), tiny());
    let found =
        Candidates::find_on(&predictor, &predictor.embed(&image), &options(5, 1), &mut |_| ControlFlow::Continue(()));
    assert_eq!(found.expect("valid"), ControlFlow::Continue(find(&image, &options(5, 0))));
}

#[test]
fn floors_are_thresholds_that_cannot_be_undone() {
    let image = photo(90, 70);
    let all = find(&image, &options(5, 1));
    assert_eq!((all.seen.points, all.seen.masks, all.candidates.len()), (125, 375, 375));
    let mut scores: Vec<f32> = all.candidates.iter().map(|candidate| candidate.predicted_iou).collect();
    scores.sort_by(f32::total_cmp);
    let upper_quarter = f64::from(scores[scores.len() * 3 / 4]);
    assert!(upper_quarter > 0.0);
    let thresholds = Thresholds { predicted_iou: upper_quarter, stability: 0.3, ..Thresholds::default() };
    let fewer = find(&image, &Options { floors: thresholds.floors(), points_per_batch: 7, ..options(5, 1) });
    assert!(fewer.candidates.len() < all.candidates.len());
    let (expected, got) = (all.generate(&thresholds).expect("valid"), fewer.generate(&thresholds).expect("valid"));
    assert_eq!(got.removed, expected.removed);
    assert_eq!(got.masks.len(), expected.masks.len());
    assert!(!got.masks.is_empty());
    for (got, expected) in got.masks.iter().zip(&expected.masks) {
        assert_eq!((&got.rle, got.point_xy_px), (&expected.rle, expected.point_xy_px));
    }
    let message = fewer.generate(&open_thresholds()).expect_err("below the floor").to_string();
    assert!(message.contains("predicted IoU") && message.contains("need the network again"), "{message}");
}

#[test]
fn candidates_survive_storage() {
    let candidates = find(&photo(33, 41), &options(3, 1));
    let text = serde_json::to_string(&candidates).expect("written");
    let read: Candidates = serde_json::from_str(&text).expect("read");
    assert_eq!(read, candidates);
    let damage = |from: &str, to: &str| {
        let damaged = text.replacen(from, to, 1);
        assert_ne!(damaged, text, "{from}");
        serde_json::from_str::<Candidates>(&damaged).expect_err("damaged").to_string()
    };
    assert!(damage("\"image_hw\":[41,33]", "\"image_hw\":[41,34]").contains("must sum to height x width"));
    assert!(damage("\"image_hw\":[41,33]", "\"image_hw\":[9,9]").contains("does not lie in the image"));
    assert!(damage("\"crop\":0}", "\"crop\":77}").contains("damaged"));
    assert!(damage("\"points_per_side\":3", "\"points_per_side\":0").contains("points per side"));
}

/// The same numbers by hand, from bitmaps: the stability of a mask is measured in the size of its crop.
#[test]
fn scores_and_masks_are_those_of_the_predictor() {
    let image = photo(50, 37);
    let predictor = tiny();
    let mut seen = Vec::new();
    let watch = Watch {
        on_points: &mut |_| ControlFlow::Continue(()),
        on_candidate: &mut |logits| seen.push((logits.index, logits.low_res_logits.to_vec(), *logits.frame)),
    };
    let options = options(3, 1);
    let found = Candidates::find_watched(&predictor, &image, &options, watch).expect("valid");
    let ControlFlow::Continue(candidates) = found else { unreachable!("nobody stops it") };
    assert_eq!(seen.len(), candidates.candidates.len());
    let side = predictor.config().low_res_side();
    for ((index, logits, frame), candidate) in seen.iter().zip(&candidates.candidates) {
        let at = |level| sam_image::upscale_mask(logits, side, frame, level);
        let [x0, y0, x1, y1] = candidates.crops_xyxy_px[candidate.crop];
        assert_eq!(frame.original_hw, [y1 - y0, x1 - x0], "candidate {index}");
        let mask = at(0.0);
        let in_image =
            Mask::from_fn([37, 50], |row, column| row >= y0 && column >= x0 && mask.get(row - y0, column - x0));
        assert_eq!(candidate.rle, Rle::from_mask(&in_image));
        assert_eq!(candidate.stability(), at(0.1).area_px() as f32 / at(-0.1).area_px() as f32);
    }
}

#[test]
fn an_image_of_one_pixel_and_a_stop() {
    let one = find(&photo(1, 1), &options(2, 2));
    assert_eq!((one.crops_xyxy_px.len(), one.seen.layers_left_out), (1, 2));
    let masks = one.generate(&open_thresholds()).expect("valid").masks;
    assert!(masks.iter().all(|mask| mask.box_xyxy_px == [0; 4] && mask.rle.size_hw() == [1, 1]));
    let mut calls = 0;
    let stopped = Candidates::find(&tiny(), &photo(20, 20), &options(9, 0), &mut |points| {
        calls += 1;
        assert_eq!(points, PointsDone { done: 64, total: 81 });
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Ok(ControlFlow::Break(()))) && calls == 1);
}

/// Candidates with these masks, all of the image.
fn made_up(masks: &[Mask], predicted_ious: &[f32]) -> Candidates {
    let [height, width] = masks[0].size_hw();
    let candidate = |(mask, &predicted_iou): (&Mask, &f32)| Candidate {
        rle: Rle::from_mask(mask),
        predicted_iou,
        certain_px: 19,
        possible_px: 20,
        point_xy_px: [1.0, 1.0],
        crop: 0,
    };
    Candidates {
        image_hw: [height, width],
        candidates: masks.iter().zip(predicted_ious).map(candidate).collect(),
        crops_xyxy_px: vec![[0, 0, width, height]],
        options: options(2, 0),
        seen: Seen { points: masks.len(), masks: masks.len(), ..Seen::default() },
    }
}

fn rectangle([y0, x0, y1, x1]: [usize; 4]) -> Mask {
    Mask::from_fn([40, 60], |row, column| (y0..y1).contains(&row) && (x0..x1).contains(&column))
}

#[test]
fn every_filter_counts_what_it_removes() {
    let mut speckled = rectangle([0, 0, 20, 20]);
    speckled.pixels_mut()[39 * 60 + 59] = true;
    let masks = [
        rectangle([0, 0, 40, 60]),
        rectangle([2, 2, 20, 20]),
        rectangle([2, 2, 20, 21]),
        rectangle([30, 30, 33, 33]),
        speckled,
        rectangle([0, 0, 20, 20]),
        rectangle([5, 40, 9, 50]),
    ];
    let candidates = made_up(&masks, &[0.95, 0.95, 0.96, 0.9, 0.99, 0.94, 0.88]);
    let default = candidates.generate(&Thresholds::default()).expect("valid");
    // The whole image and the speckled mask have nearly the same box; the plain rectangle is a duplicate of the third.
    assert_eq!(default.masks.iter().map(|mask| mask.candidate).collect::<Vec<_>>(), [4, 2, 3]);
    let removed = Removed { predicted_iou: 1, duplicates: 3, ..Removed::default() };
    assert_eq!(default.removed, removed);

    let strict = Thresholds { min_region_area: 10, ..Preset::Sa1b.thresholds() };
    let sa1b = candidates.generate(&strict).expect("valid");
    // Unchanged masks come first; without its speckle the first is a duplicate of the third.
    assert_eq!(sa1b.masks.iter().map(|mask| mask.candidate).collect::<Vec<_>>(), [2]);
    let removed = Removed {
        predicted_iou: 1,
        whole_image: 1,
        duplicates: 2,
        small: 1,
        cleaned_duplicates: 1,
        ..Removed::default()
    };
    assert_eq!(sa1b.removed, removed);
    assert_eq!(sa1b.masks[0].box_xywh_px(), [2, 2, 18, 17]);

    let none = candidates.generate(&Thresholds { predicted_iou: 2.0, ..Thresholds::default() }).expect("valid");
    assert!(none.masks.is_empty());
    let unstable = candidates.generate(&Thresholds { stability: 0.951, ..Thresholds::default() }).expect("valid");
    assert_eq!((unstable.masks.len(), unstable.removed.stability), (0, 6));
}

#[test]
fn options_outside_their_range_are_refused() {
    let refused = |options: Options| options.check().expect_err("invalid").to_string();
    let default = Options::default;
    assert!(refused(Options { points_per_side: 0, ..default() }).contains("1 to 256, got 0"));
    assert!(refused(Options { crop_layers: 9, ..default() }).contains("crop layers"));
    assert!(refused(Options { crop_overlap: f64::NAN, ..default() }).contains("overlap"));
    assert!(refused(Options { stability_offset: -1.0, ..default() }).contains("stability offset"));
    assert!(refused(Options { crop_layers: 3, point_grid_downscale: 4, ..default() }).contains("leave every layer"));
    let thresholds = Thresholds { stability: f64::NAN, ..Thresholds::default() };
    assert!(thresholds.check().expect_err("invalid").to_string().contains("stability"));
    for preset in [Preset::Default, Preset::Sa1b, Preset::Fast] {
        preset.options().check().expect("valid");
        preset.thresholds().check().expect("valid");
    }
    let sa1b = Preset::Sa1b.options();
    let points = |layer: usize, crops: usize| crops * sa1b.points_of_layer(layer).pow(2);
    assert_eq!(points(0, 1) + points(1, 4) + points(2, 16), 3072);
}

#[test]
fn without_overlap_each_pixel_has_one_mask() {
    let masks =
        [rectangle([0, 0, 20, 20]), rectangle([0, 0, 40, 60]), rectangle([0, 0, 10, 20]), rectangle([10, 0, 20, 20])];
    let candidates = made_up(&masks, &[0.9, 0.95, 0.92, 0.93]);
    let generated = candidates.generate(&Thresholds { box_nms: 1.0, ..Thresholds::default() }).expect("valid");
    assert_eq!(generated.masks.len(), 4);
    let apart = generated.without_overlap().expect("one size");
    // The first is two halves that have their own masks.
    assert_eq!(apart.masks.iter().map(|mask| mask.candidate).collect::<Vec<_>>(), [1, 3, 2]);
    assert_eq!(apart.removed.covered, 1);
    let sum: usize = apart.masks.iter().map(|mask| mask.rle.area_px()).sum();
    assert_eq!((sum, apart.masks[0].rle.area_px()), (2400, 2000));
    let rles: Vec<Rle> = apart.masks.into_iter().map(|mask| mask.rle).collect();
    assert_eq!(Rle::union(&rles).expect("one size").area_px(), 2400);
}
