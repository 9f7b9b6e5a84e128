//! Protocols over the predictor: results equal those of single prompts, independent of batching, reading threads and mask
//! upscaling.

use std::ops::ControlFlow;
use std::sync::Arc;

use sam_data::{Source, SourceOptions};
use sam_eval::{
    Boundary, Clicker, EvalError, EvalImage, EvalProtocol, EvalSet, Evaluation, ObjectRecord, PredictorSegmenter,
    Protocol, RoundPrompt, Start, evaluate, read_images,
};
use sam_image::{Mask, RgbImage, Rle, mask_iou};
use sam_infer::{Predictor, Prompt};
use sam_model::MaskOutput;

use crate::data_cli::datasets;
use crate::fixture::{cpu, tiny};

fn source(name: &str, part: &str) -> Source {
    let options = SourceOptions { split: Some(part.to_owned()), ..SourceOptions::default() };
    Source::open(std::path::Path::new(&datasets(name)), &options).expect("a committed data set")
}

fn eval_set(name: &str, part: &str) -> EvalSet {
    let source = source(name, part);
    let classes = source.classes().to_vec();
    EvalSet::new(name, Arc::new(source), &classes)
}

fn protocols(objects_per_call: usize) -> [EvalProtocol; 2] {
    let clicks = Protocol { n_clicks: 3, boundary: Boundary::Measure, objects_per_call, ..Protocol::default() };
    let boxes = Protocol { start: Start::Box, n_clicks: 0, n_refinements: 1, objects_per_call, ..Protocol::default() };
    [clicks.into(), boxes.into()]
}

fn play(sets: &[EvalSet], n_threads: usize, objects_per_call: usize) -> Evaluation {
    let segmenter = PredictorSegmenter::new(Predictor::new(&tiny(&cpu())));
    let images = read_images(sets, n_threads);
    let n_images = images.n_images();
    let proceed = &mut |_| ControlFlow::Continue(());
    evaluate(&segmenter, images, n_images, protocols(objects_per_call)[..].into(), proceed).expect("a valid data set")
}

/// The protocol written out: one object, one prompt and one call of `predict` at a time.
fn by_hand(predictor: &Predictor, image: &RgbImage, target: &Rle, start: Start) -> (Vec<f64>, Mask) {
    let embedding = predictor.embed(image);
    let size_hw = [image.height() as usize, image.width() as usize];
    let mut clicker = Clicker::new(target.to_mask(), None);
    let mut prompt = Prompt::default();
    let (mut ious, mut mask) = (Vec::new(), Mask::empty(size_hw));
    for round in 0..if start == Start::Click { 3 } else { 2 } {
        match start {
            Start::Click => {
                let click = clicker.next_click(&mask);
                prompt.points_xy_px.push((click.xy_px(), click.is_positive));
            }
            Start::Box => {
                let corners = target.bounds_xyxy_px().expect("some pixels");
                prompt.box_xyxy_px = Some(corners.map(|edge| edge as f32));
            }
        }
        let output = if round == 0 { MaskOutput::Multi } else { MaskOutput::Single };
        let prediction = predictor.predict(&embedding, &prompt, output).expect("a valid prompt");
        let best = prediction.best();
        mask = prediction.masks().swap_remove(best);
        prompt.mask_logits = Some(prediction.mask_logits(best));
        ious.push(mask_iou(&mask, clicker.target()).expect("one size"));
    }
    (ious, mask)
}

#[test]
fn batched_rounds_equal_single_prompts() {
    let predictor = Predictor::new(&tiny(&cpu()));
    let (source, set) = (source("photos", "val"), eval_set("photos", "val"));
    let evaluation = play(&[set], 2, 5);
    for (start, run, masks) in [(Start::Click, 0, 0), (Start::Box, 1, 1)] {
        let (run, masks) = (&evaluation.results.runs[run], &evaluation.final_masks[masks]);
        assert_eq!((run.protocol.start, run.records.len(), masks.len()), (start, 8, 8));
        let mut compared = 0;
        for index in 0..source.len() {
            let sample = source.sample(index).expect("valid");
            for object in &sample.objects {
                let is_it = |record: &ObjectRecord| record.image == sample.name && record.object_id == object.id;
                let at = run.records.iter().position(is_it).expect("every object has a record");
                let (ious, mask) = by_hand(&predictor, &sample.image, &object.mask, start);
                let got: Vec<f64> = run.records[at].rounds.iter().map(|round| round.iou).collect();
                for (got, expected) in got.iter().zip(&ious) {
                    assert!((got - expected).abs() < 1e-6, "{start:?} {}: {got} {expected}", sample.name);
                }
                assert_eq!(got.len(), ious.len());
                assert_eq!(masks[at].to_mask(), mask);
                compared += 1;
            }
        }
        assert_eq!(compared, 8);
    }
    let prompts: Vec<RoundPrompt> =
        evaluation.results.runs[1].records[0].rounds.iter().map(|round| round.prompt).collect();
    assert_eq!(prompts, [RoundPrompt::Box, RoundPrompt::Refinement]);
}

#[test]
fn results_depend_neither_on_batches_nor_threads_nor_order() {
    let sets = [eval_set("photos", "val"), eval_set("synth", "val").at_most(5)];
    let first = play(&sets, 0, 1);
    assert!(first.results.metrics.contains("miou_3") && first.results.metrics.contains("miou_box_refined"));
    assert!(first.results.metrics.contains("boundary_1") && first.results.data_sets.len() == 2);
    let swapped = [sets[1].clone(), sets[0].clone()];
    for (sets, n_threads, objects_per_call) in [(&sets, 3, 4), (&swapped, 1, 16), (&swapped, 9, 1000)] {
        let other = play(sets, n_threads, objects_per_call);
        assert_eq!(other.results.metrics, first.results.metrics, "{n_threads} {objects_per_call}");
        assert_eq!(other.final_masks, first.final_masks);
        for (a, b) in other.results.runs.iter().zip(&first.results.runs) {
            assert_eq!(a.records, b.records);
        }
    }
}

#[test]
fn an_autodiff_model_gives_the_same_results() {
    let proceed = &mut |_| ControlFlow::Continue(());
    let set = eval_set("photos", "val").at_most(1);
    let mut results = Vec::new();
    for device in [cpu(), cpu().autodiff()] {
        let segmenter = PredictorSegmenter::new(Predictor::new(&tiny(&device)));
        let images = read_images(std::slice::from_ref(&set), 0);
        results.push(evaluate(&segmenter, images, 1, protocols(16)[..].into(), proceed).expect("valid").results);
    }
    assert_eq!(results[0], results[1]);
}

#[test]
fn progress_is_reported_and_can_interrupt() {
    let set = eval_set("synth", "val").at_most(6);
    let segmenter = PredictorSegmenter::new(Predictor::new(&tiny(&cpu())));
    let run = |mut progress: Box<dyn FnMut(sam_eval::EvalProgress) -> ControlFlow<()> + '_>| {
        let images = read_images(std::slice::from_ref(&set), 2);
        evaluate(&segmenter, images, 6, protocols(3)[..].into(), &mut *progress)
    };
    let mut reported = Vec::new();
    let evaluation = run(Box::new(|at| {
        reported.push(at);
        ControlFlow::Continue(())
    }));
    let n_records = evaluation.expect("fine").results.runs[0].records.len();
    let last = reported.last().expect("reported");
    assert_eq!((last.n_images, last.of_images, last.n_objects), (6, 6, 2 * n_records));
    assert!(reported.windows(2).all(|pair| pair[0].n_objects <= pair[1].n_objects));

    let interrupted = run(Box::new(|at| match at.n_objects {
        0..4 => ControlFlow::Continue(()),
        _ => ControlFlow::Break(()),
    }));
    let error = interrupted.expect_err("interrupted");
    assert!(matches!(error, EvalError::Interrupted { of_images: 6, .. }) && !error.is_bad_input(), "{error}");
}

#[test]
fn unreadable_or_empty_input_is_reported() {
    let segmenter = PredictorSegmenter::new(Predictor::new(&tiny(&cpu())));
    let proceed = &mut |_| ControlFlow::Continue(());
    let mut beyond = eval_set("photos", "val");
    beyond.indices = Vec::new();
    let images = read_images(&[beyond], 2);
    let error = evaluate(&segmenter, images, 0, protocols(4)[..].into(), proceed).expect_err("no object").to_string();
    assert!(error.contains("at least one object, got none"), "{error}");

    let twice = [protocols(4)[0].clone(), protocols(4)[0].clone()];
    let none: Vec<Result<EvalImage, EvalError>> = Vec::new();
    let error = evaluate(&segmenter, none, 0, twice[..].into(), proceed).expect_err("twice").to_string();
    assert!(error.contains("metric miou_1 must occur once"), "{error}");

    let folder = tempfile::tempdir().expect("a folder");
    let copy = |from: std::path::PathBuf, to: &str| {
        let to = folder.path().join(to);
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        std::fs::copy(from, to).expect("copied");
    };
    let photos = std::path::PathBuf::from(datasets("photos"));
    copy(photos.join("annotations/instances_val.json"), "annotations/instances_val.json");
    copy(photos.join("val/chelsea.jpg"), "val/chelsea.jpg");
    copy(photos.join("val/camera.jpg"), "val/camera.jpg");
    let source = Source::open(folder.path(), &SourceOptions::default()).expect("valid");
    std::fs::write(folder.path().join("val/camera.jpg"), "not an image").expect("written");
    let set = EvalSet::new("photos", Arc::new(source), &[]);
    for n_threads in [0, 2] {
        let images = read_images(std::slice::from_ref(&set), n_threads);
        let error = evaluate(&segmenter, images, 2, protocols(4)[..].into(), proceed).expect_err("unreadable");
        let text = error.to_string();
        assert!(error.is_bad_input() && text.contains("data set photos, sample 1"), "{text}");
        assert!(text.contains("camera.jpg"), "{text}");
    }
}
