//! Automatic masks of a photograph of 1500 x 2250 with 32 x 32 points (or fewer), in the parts that `pytorch_automatic.py` measures of the
//! official generator.

use std::ops::ControlFlow;
use std::time::Instant;

use burn::tensor::Device;
use rayon::prelude::*;
use sam_image::{MaskUpscaler, ModelFrame, RgbImage, StabilityLevels};
use sam_infer::Predictor;
use sam_infer::automatic::{Candidate, Candidates, Floors, Options, Seen, Thresholds};
use sam_model::init::initialise;
use sam_model::{SamConfig, Variant};

const IMAGE_HW: [usize; 2] = [1500, 2250];
const SIDE: usize = 256;
/// No score is above it.
const SHUT: f64 = 1e9;

/// The network's part, with so many points along each side: every mask is given up by its predicted IoU.
pub(crate) fn network(variant: Variant, points_per_side: usize, runs: usize) -> Vec<f64> {
    let predictor = predictor(variant);
    (0..runs).map(|_| ask(&predictor, points_per_side)).collect()
}

/// Everything after the network, on made-up logits.
pub(crate) fn after_network(runs: usize) -> Vec<f64> {
    (0..runs).map(|_| masks()).collect()
}

/// Both.
pub(crate) fn whole(runs: usize) -> Vec<f64> {
    let predictor = predictor(Variant::VitB);
    (0..runs).map(|_| ask(&predictor, 32) + masks()).collect()
}

/// Other thresholds on stored candidates.
pub(crate) fn thresholds(runs: usize) -> Vec<f64> {
    let (candidates, _) = candidates(&Thresholds { predicted_iou: 0.5, stability: 0.5, ..Thresholds::default() });
    let run = |at: usize| {
        let stability = 0.9 + 0.01 * at as f64;
        let started = Instant::now();
        candidates.generate(&Thresholds { stability, min_region_area: 100, ..Thresholds::default() }).expect("valid");
        started.elapsed().as_secs_f64()
    };
    (0..runs).map(run).collect()
}

fn predictor(variant: Variant) -> Predictor {
    let sam = SamConfig::published(variant).init(&Device::flex()).expect("published sizes fit");
    Predictor::new(&initialise(sam, 0))
}

fn ask(predictor: &Predictor, points_per_side: usize) -> f64 {
    let image = RgbImage::from_fn(IMAGE_HW[1] as u32, IMAGE_HW[0] as u32, |x, y| {
        [(x / 9) as u8, (y / 7) as u8, (x * y / 4096) as u8].into()
    });
    let floors = Floors { predicted_iou: SHUT, stability: 0.0 };
    let options = Options { points_per_side, floors, ..Options::default() };
    let started = Instant::now();
    let found = Candidates::find(predictor, &image, &options, &mut |_| ControlFlow::Continue(())).expect("valid");
    assert!(matches!(found, ControlFlow::Continue(found) if found.candidates.is_empty()));
    started.elapsed().as_secs_f64()
}

/// Ellipses of many sizes around the points, with soft edges; `pytorch_automatic.py` has the same.
fn made_up(index: usize) -> (Vec<f32>, f32) {
    let point = index / 3;
    let (column, row) = ((point % 32) as f32, (point / 32) as f32);
    // The part of the decoder's square that the image fills is 171 of 256 rows.
    let (cx, cy) = ((column + 0.5) * 8.0, (row + 0.5) * 171.0 / 32.0);
    let radius = [3.0, 7.0, 20.0][index % 3] + (index * 7 % 5) as f32;
    let logit = |at: usize| {
        let (y, x) = ((at / SIDE) as f32 - cy, (at % SIDE) as f32 - cx);
        (8.0 * (radius - (x * x + 1.5 * y * y).sqrt())).clamp(-20.0, 20.0)
    };
    ((0..SIDE * SIDE).map(logit).collect(), 0.8 + 0.2 * ((index * 37 % 101) as f32 / 101.0))
}

/// Candidates of made-up logits, and the seconds without making these up.
fn candidates(thresholds: &Thresholds) -> (Candidates, f64) {
    let frame = ModelFrame::new(IMAGE_HW, 1024);
    let upscaler = MaskUpscaler::new(SIDE, &frame, IMAGE_HW, [0, 0]).expect("small enough");
    let levels = StabilityLevels { threshold: 0.0, offset: 1.0 };
    let n = 3 * 32 * 32;
    let (mut candidates, mut seconds) = (Vec::new(), 0.0);
    for batch in (0..n).collect::<Vec<_>>().chunks(3 * 64) {
        let logits: Vec<(Vec<f32>, f32)> = batch.par_iter().map(|&index| made_up(index)).collect();
        let started = Instant::now();
        let passing = logits.par_iter().filter(|(_, score)| *score > thresholds.predicted_iou as f32);
        let upscaled = passing.map(|(logits, predicted_iou)| {
            let mask = upscaler.upscale(logits, levels);
            let (rle, certain_px, possible_px) = (mask.rle, mask.certain_px, mask.possible_px);
            let point_xy_px = [0.0, 0.0];
            Candidate { rle, predicted_iou: *predicted_iou, certain_px, possible_px, point_xy_px, crop: 0 }
        });
        candidates.extend(upscaled.collect::<Vec<_>>());
        seconds += started.elapsed().as_secs_f64();
    }
    let candidates = Candidates {
        image_hw: IMAGE_HW,
        candidates,
        crops_xyxy_px: vec![[0, 0, IMAGE_HW[1], IMAGE_HW[0]]],
        options: Options { floors: thresholds.floors(), ..Options::default() },
        seen: Seen { points: n / 3, masks: n, ..Seen::default() },
    };
    (candidates, seconds)
}

fn masks() -> f64 {
    let thresholds = Thresholds::default();
    let (candidates, seconds) = candidates(&thresholds);
    let started = Instant::now();
    let generated = candidates.generate(&thresholds).expect("valid");
    let n_bytes: usize = generated.masks.iter().map(|mask| mask.rle.to_coco_string().len()).sum();
    assert!((300..1500).contains(&generated.masks.len()) && n_bytes > 0, "{} masks", generated.masks.len());
    seconds + started.elapsed().as_secs_f64()
}
