//! Texts as prompts, against a scripted segmenter: every number is computed by hand.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use sam_data::loader::{SampleError, Samples};
use sam_data::{ObjectMask, Sample};
use sam_eval::{
    Bootstrap, Click, DataTexts, EvalError, EvalImage, EvalProtocols, EvalSet, Evaluation, MaskFeedback, MaskSelection,
    Model, PromptVectors, Report, Results, TextKind, TextProtocol, TextRun, TextSettings, TextSource, compare,
    evaluate, galleries, text_metric_names,
};
use sam_image::Mask;
use sam_infer::{Modality, TextVector};

use crate::scripted::{Scripted, Seen, image, rle};

const SIZE_HW: [usize; 2] = [4, 10];

/// Whole columns of the image.
fn columns(range: std::ops::Range<usize>) -> Mask {
    Mask::from_fn(SIZE_HW, |_, column| range.contains(&column))
}

fn object(id: u64, range: std::ops::Range<usize>, class: usize, captions: &[&str]) -> ObjectMask {
    let captions = captions.iter().map(|&caption| caption.to_owned()).collect();
    ObjectMask { mask: rle(&columns(range)), class: Some(class), id, captions }
}

/// Two rings and a star of 8 pixels each; the star has no caption.
fn sample() -> Sample {
    let objects = vec![
        object(1, 0..2, 0, &["a red ring", "A ring"]),
        object(2, 4..6, 0, &["a blue ring", "a ring"]),
        object(3, 8..10, 1, &[]),
    ];
    Sample { name: "a.png".to_owned(), image: image(SIZE_HW), objects, ignore: None }
}

fn classes() -> Arc<[String]> {
    ["Ring".to_owned(), "star".to_owned()].into()
}

fn eval_image(sample: Sample) -> EvalImage {
    EvalImage { data_set: "demo".into(), sample, classes: classes(), index: 0 }
}

/// The first value of a vector says which text it is.
fn vectors(texts: &[(&str, f32)]) -> BTreeMap<String, TextVector> {
    let vector = |value: f32| TextVector { values: Arc::from([value, 1.0]), modality: Modality::Text };
    texts.iter().map(|&(text, value)| (text.to_owned(), vector(value))).collect()
}

const RED: f32 = 1.0;
const BLUE: f32 = 2.0;
const ANY_RING: f32 = 3.0;
const CLASS_RING: f32 = 4.0;
const CLASS_STAR: f32 = 5.0;

fn protocol(texts: TextSource) -> TextProtocol {
    let captions = vectors(&[("a red ring", RED), ("a blue ring", BLUE), ("a ring", ANY_RING)]);
    let classes = vectors(&[("ring", CLASS_RING), ("star", CLASS_STAR)]);
    let settings = TextSettings {
        texts,
        templates: vec!["a photo of a {}".to_owned()],
        clip: "00".to_owned(),
        mask_feedback: MaskFeedback::Logits,
    };
    TextProtocol { settings, vectors: Arc::new(PromptVectors { captions, classes }), texts_per_call: 2 }
}

/// The text alone, and with a click the object that is meant.
fn script(seen: &Seen) -> Vec<(Mask, f32)> {
    let is_alone = seen.clicks.is_empty();
    match seen.text.expect("a text in every prompt") {
        RED if is_alone => vec![(columns(0..1), 0.9), (columns(0..2), 0.5), (columns(0..3), 0.4)],
        RED => vec![(columns(0..2), 0.9)],
        BLUE if is_alone => vec![(columns(1..6), 0.7)],
        BLUE => vec![(columns(4..7), 0.9)],
        ANY_RING => vec![(columns(4..6), 0.8)],
        CLASS_RING | CLASS_STAR => vec![(columns(8..10), 0.6)],
        other => panic!("an unknown text {other}"),
    }
}

fn run(protocol: &TextProtocol, sample: Sample) -> (Result<Evaluation, EvalError>, Vec<Seen>) {
    let segmenter = Scripted::new(script);
    let images = [Ok(eval_image(sample))];
    let protocols = EvalProtocols { objects: &[], text: Some(protocol) };
    let result = evaluate(&segmenter, images, 1, protocols, &mut |_| ControlFlow::Continue(()));
    let seen = segmenter.seen.borrow().clone();
    (result, seen)
}

fn value(results: &Results, name: &str) -> f64 {
    results.metric(name).unwrap_or_else(|error| panic!("{error}")).value
}

fn near(got: f64, expected: f64, what: &str) {
    assert!((got - expected).abs() < 1e-12, "{what}: {got}, expected {expected}");
}

#[test]
fn captions_are_scored_against_the_object_that_they_find() {
    let (evaluation, seen) = run(&protocol(TextSource::Captions), sample());
    let evaluation = evaluation.expect("valid");
    let results = &evaluation.results;
    // "a blue ring" (columns 1 to 6 of 4..6), "a red ring" (0..1 of 0..2), "a ring" (4..6, the second of two rings).
    let texts: &TextRun = results.texts.as_ref().expect("texts");
    let names: Vec<(&str, u64, usize)> =
        texts.records.iter().map(|record| (record.text.as_str(), record.object_id, record.n_targets)).collect();
    assert_eq!(names, [("a blue ring", 2, 1), ("a red ring", 1, 1), ("a ring", 2, 2)]);
    near(value(results, "miou_text"), (8.0 / 20.0 + 0.5 + 1.0) / 3.0, "most confident");
    near(value(results, "miou_text_oracle"), (8.0 / 20.0 + 1.0 + 1.0) / 3.0, "best of three");
    near(value(results, "miou_text_click"), (8.0 / 12.0 + 1.0 + 1.0) / 3.0, "with a click");
    near(value(results, "recall_50_text"), 2.0 / 3.0, "recall at 0.5");
    near(value(results, "recall_75_text"), 1.0 / 3.0, "recall at 0.75");
    // Columns 1 to 6 have 4 pixels of the red ring: 4 / (20 + 8 - 4). The red ring's mask has none of the blue one. "a ring"
    // says both, so it is wrong for neither, and neither is wrong for it.
    let wrong: Vec<Option<f64>> = texts.records.iter().map(|record| record.wrong_iou).collect();
    assert_eq!(wrong, [Some(0.0), Some(4.0 / 24.0), None]);
    near(value(results, "miou_wrong_text"), 1.0 / 12.0, "wrong texts");
    near(value(results, "prompt_selectivity_text"), 1.0, "each fits its own best");
    let predicted = [0.7f32, 0.9, 0.8].map(f64::from);
    let errors = (predicted[0] - 0.4) + (predicted[1] - 0.5) + (1.0 - predicted[2]);
    near(value(results, "predicted_iou_error_text"), errors / 3.0, "predicted IoU");
    assert_eq!(texts.left_out["demo"].objects_without_text, 1, "the star");
    assert_eq!(results.data_sets[0].n_objects, 3);
    near(results.data_sets[0].by_class["Ring"].get("miou_text").expect("a class").value, 1.9 / 3.0, "rings");
    assert!(results.by_size.contains_key("small"));
    let masks = [columns(1..6), columns(0..1), columns(4..6)].map(|mask| rle(&mask));
    assert_eq!(evaluation.text_masks, masks, "the most confident ones of the texts alone");

    // Texts alone give all masks; with the click comes the mask of before, and one mask out.
    let alone: Vec<&Seen> = seen.iter().filter(|seen| seen.clicks.is_empty()).collect();
    assert!(alone.iter().all(|seen| seen.selection == MaskSelection::All && seen.logits.is_none()));
    let clicked: Vec<&Seen> = seen.iter().filter(|seen| seen.clicks.len() == 1).collect();
    assert!(clicked.iter().all(|seen| seen.selection == MaskSelection::Single && seen.logits == Some(0)));
    assert_eq!((alone.len(), clicked.len()), (3, 3));
    // The largest error of the blue ring is what lies left of it, of which the middle column is deepest.
    assert_eq!(texts.records[0].click, Click { column: 2, row: 1, is_positive: false });
    // Of the red ring's, what is missing on its right.
    assert_eq!(texts.records[1].click, Click { column: 1, row: 0, is_positive: true });
}

#[test]
fn a_model_that_does_not_listen_is_found_out() {
    let (evaluation, _) = run(&protocol(TextSource::Classes), sample());
    let results = evaluation.expect("valid").results;
    let texts = results.texts.as_ref().expect("texts");
    // Both class names give the star.
    let found: Vec<_> = texts
        .records
        .iter()
        .map(|record| (record.text.as_str(), record.kind, record.found_class.as_deref(), record.is_selective))
        .collect();
    assert_eq!(
        found,
        [("ring", TextKind::Class, Some("star"), Some(false)), ("star", TextKind::Class, Some("star"), Some(true))]
    );
    near(value(&results, "miou_text"), 0.5, "one of two");
    near(value(&results, "miou_wrong_text"), 0.5, "the ring's mask is the star");
    near(value(&results, "prompt_selectivity_text"), 0.5, "one of two");
    near(value(&results, "demo/class:star/miou_wrong_text"), 1.0, "the star");
    // Between equal errors the annotator clicks on the false one, at its first pixel.
    assert_eq!(texts.records[0].click, Click { column: 8, row: 0, is_positive: false });
    assert_eq!((texts.records[0].object_id, texts.records[0].n_targets), (1, 2));
}

#[test]
fn both_kinds_of_texts_are_asked_and_unknown_vectors_counted() {
    let mut both = protocol(TextSource::Both);
    let (evaluation, _) = run(&both, sample());
    assert_eq!(evaluation.expect("valid").results.texts.expect("texts").records.len(), 5);
    Arc::make_mut(&mut both.vectors).captions.remove("a ring");
    let texts = run(&both, sample()).0.expect("valid").results.texts.expect("texts");
    assert_eq!(texts.records.len(), 4);
    assert_eq!(texts.left_out["demo"].texts_without_vector, 1);
    assert_eq!(texts.left_out["demo"].objects_without_text, 0, "the star has a class");
}

#[test]
fn ignored_pixels_count_neither_for_nor_against() {
    // The red ring's second column, which its mask lacks, and three columns of what is too much of the blue ring's.
    let ignored = Mask::from_fn(SIZE_HW, |_, column| (1..4).contains(&column));
    let sample = Sample { ignore: Some(rle(&ignored)), ..sample() };
    let results = run(&protocol(TextSource::Captions), sample).0.expect("valid").results;
    near(value(&results, "miou_text"), 1.0, "all are equal where it counts");
    near(value(&results, "miou_wrong_text"), 0.0, "the blue ring's mask ends at the ignored columns");
    let ignored = Mask::from_fn(SIZE_HW, |_, column| column < 2);
    let all = Sample { ignore: Some(rle(&ignored)), ..self::sample() };
    let error = run(&protocol(TextSource::Captions), all).0.expect_err("nothing to find").to_string();
    assert!(error.contains("object 1") && error.contains("wholly ignored"), "{error}");
}

/// A data set of one image.
struct One(Sample);

impl Samples for One {
    fn n_samples(&self) -> usize {
        1
    }

    fn sample(&self, _index: usize) -> Result<Sample, SampleError> {
        Ok(self.0.clone())
    }
}

fn eval_set(sample: Sample) -> EvalSet {
    EvalSet::new("demo", Arc::new(One(sample)), &classes())
}

#[test]
fn the_texts_of_data_sets_are_gathered_once_each() {
    let mut seen = 0;
    let mut progress = |n_images: usize| seen = n_images;
    let sets = [eval_set(sample())];
    let both = DataTexts::of(&sets, TextSource::Both, &mut progress).expect("texts");
    assert_eq!(both.captions.iter().collect::<Vec<_>>(), ["a blue ring", "a red ring", "a ring"]);
    assert_eq!(both.classes.iter().collect::<Vec<_>>(), ["ring", "star"]);
    assert_eq!((both.n_queries, both.n_objects_without), (5, 0));
    let captions = DataTexts::of(&sets, TextSource::Captions, &mut progress).expect("texts");
    assert_eq!((captions.n_queries, captions.n_objects_without, captions.classes.len()), (3, 1, 0));
    assert_eq!(seen, 1);
    let mut bare = sample();
    bare.objects.iter_mut().for_each(|object| (object.captions, object.class) = (Vec::new(), None));
    for (source, expected) in [
        (TextSource::Captions, "must have captions, got none"),
        (TextSource::Classes, "must have class names, got none"),
        (TextSource::Both, "must have captions or class names, got none"),
    ] {
        let sets = [eval_set(sample()), eval_set(bare.clone())];
        let error = DataTexts::of(&sets, source, &mut |_| ()).expect_err("no texts").to_string();
        assert!(error.contains("data set demo") && error.contains(expected), "{error}");
    }
}

#[test]
fn results_are_written_compared_and_shown() {
    let (evaluation, _) = run(&protocol(TextSource::Both), sample());
    let evaluation = evaluation.expect("valid");
    let results = &evaluation.results;
    let read = Results::from_json("results.json", &results.to_json().expect("JSON")).expect("its own format");
    assert_eq!(&read, results);
    let csv = results.texts.as_ref().expect("texts").csv();
    assert_eq!(csv.lines().count(), 6);
    assert!(csv.contains("demo,a.png,caption,a blue ring,Ring,1,2,small,8,0.4,"), "{csv}");

    let better = {
        let mut better = read;
        let texts = better.texts.as_mut().expect("texts");
        texts.records.iter_mut().for_each(|record| record.iou = 1.0);
        better
    };
    let rows = compare(&[results, &better], &Bootstrap::default()).expect("paired");
    assert_eq!(rows.iter().map(|row| row.metric.clone()).collect::<Vec<_>>(), text_metric_names());
    let row = &rows[0];
    near(row.intervals[0].value, value(results, "miou_text"), "an interval of the metric");
    near(row.differences[0].value, 1.0 - value(results, "miou_text"), "a paired difference");
    let mut fewer = better.clone();
    fewer.texts.as_mut().expect("texts").records.pop();
    let error = compare(&[results, &fewer], &Bootstrap::default()).expect_err("unpaired").to_string();
    assert!(error.contains("5 and 4 texts"), "{error}");

    let shown = galleries(&evaluation, &[eval_set(sample())], 2).expect("pictures");
    let models = [Model { name: "m", results }];
    let report = Report {
        title: "t",
        models: &models,
        comparison: &rows[..0],
        verdict: None,
        galleries: &shown,
        tables: &[],
        focus: None,
    };
    let text = report.markdown().expect("fine");
    assert!(text.contains("| Ring | 4 | 0.475 (0.475 to 0.475) |"), "texts by class: {text}");
    assert!(text.contains("Which object the masks fit best") && text.contains("| Ring | 4 | 75 % | 25 % |"), "{text}");
    let html = report.html().expect("fine");
    assert_eq!(html.matches("<img ").count(), shown.iter().map(|gallery| gallery.items.len()).sum::<usize>());
    let captions: Vec<&str> =
        shown.iter().flat_map(|gallery| &gallery.items).map(|item| item.caption.as_str()).collect();
    // Worst first, each object once; then the best.
    assert!(captions[0].starts_with("\"ring\" in a.png: IoU 0.000 with object 1 (of 2"), "{captions:?}");
    assert!(captions[1].starts_with("\"a blue ring\" in a.png: IoU 0.400 with object 2"), "{captions:?}");
}
