//! Protocols on scripted segmenters, with every number computed by hand.
//!
//! The object is always the first 20 pixels of a 10 x 10 image; an answer of its first `n` pixels has IoU n / 20.

use sam_eval::{
    Boundary, ClickMetrics, ClickMetricsConfig, FirstClick, FirstMasks, ImageTask, MaskFeedback, MaskSelection,
    Metrics, ObjectRecord, Outcome, Protocol, RoundPrompt, Run, SizeBucket, Start, Target, run_interactive,
    tight_box_xyxy_px,
};
use sam_image::{Mask, Rle};

use super::scripted::{Scripted, Seen, first_pixels, image, rle};

const SIZE_HW: [usize; 2] = [10, 10];
const AREA_PX: usize = 20;

/// An answer with this IoU in twentieths and this predicted IoU.
fn answer(twentieths: usize, predicted_iou: f32) -> (Mask, f32) {
    (first_pixels(SIZE_HW, twentieths), predicted_iou)
}

fn play(script: impl Fn(&Seen) -> Vec<(Mask, f32)>, protocol: &Protocol) -> (ObjectRecord, Vec<Seen>) {
    let (target, pixels) = (rle(&first_pixels(SIZE_HW, AREA_PX)), image(SIZE_HW));
    let objects = [Target { id: 7, mask: &target, class: Some("cat") }];
    let task = ImageTask { data_set: "set", name: "a.jpg", image: &pixels, objects: &objects, ignore: None };
    let segmenter = Scripted::new(script);
    let mut outcomes = run_interactive(&segmenter, protocol, &[task]).expect("fine");
    assert_eq!(outcomes.len(), 1);
    (outcomes.remove(0).record, segmenter.seen.into_inner())
}

fn metrics(record: &ObjectRecord, protocol: &Protocol, config: &ClickMetricsConfig) -> Metrics {
    ClickMetrics::new(protocol, config).expect("fine").of(&[record]).expect("fine")
}

fn value(metrics: &Metrics, name: &str) -> f64 {
    metrics.get(name).unwrap_or_else(|error| panic!("{error}")).value
}

#[test]
fn miou_at_every_click_and_the_oracle() {
    let script = |seen: &Seen| match seen.clicks.len() {
        1 => vec![answer(4, 0.5), answer(10, 0.9), answer(16, 0.8)],
        n => vec![answer(10 + n, 0.75)],
    };
    let protocol = Protocol::default();
    let (record, seen) = play(script, &protocol);
    let config = ClickMetricsConfig::for_protocol(&protocol);
    assert_eq!((config.at_clicks.clone(), config.noc_percent.len()), (vec![1, 2, 3, 5], 0));
    let metrics = metrics(&record, &protocol, &config);
    assert_eq!(value(&metrics, "miou_1"), 0.5);
    assert_eq!(value(&metrics, "miou_1_oracle"), 0.8);
    assert_eq!(value(&metrics, "miou_2"), 0.6);
    assert_eq!(value(&metrics, "miou_5"), 0.75);
    // 0.4, then 0.15, 0.1, 0.05, 0; the prediction 0.9 is a float of 32 bits.
    let error = (f64::from(0.9f32) - 0.5 + (0.75 - 0.6) + (0.75 - 0.65) + (0.75 - 0.7) + 0.0) / 5.0;
    assert!((value(&metrics, "predicted_iou_error") - error).abs() < 1e-15);
    assert_eq!((record.size, record.area_px, record.class.as_deref()), (SizeBucket::Small, 20, Some("cat")));

    // Every round receives all clicks and, from the second on, the logits of the selected mask (index 1, then 0).
    assert_eq!(seen.iter().map(|seen| seen.clicks.len()).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
    assert_eq!(seen.iter().map(|seen| seen.logits).collect::<Vec<_>>(), [None, Some(1), Some(0), Some(0), Some(0)]);
    assert_eq!(seen[0].selection, MaskSelection::All);
    assert!(seen[1..].iter().all(|seen| seen.selection == MaskSelection::Single && seen.box_xyxy_px.is_none()));
    // The object is two rows of ten: depth 1 in both, so its first pixel; then the first pixel missed.
    assert_eq!((seen[1].clicks[0].xy_px(), seen[1].clicks[0].is_positive), ([0.0, 0.0], true));
    assert_eq!(seen[1].clicks[1].xy_px(), [0.0, 1.0]);
}

#[test]
fn noc_counts_the_cap_and_separates_failures_from_late_successes() {
    // 80 % at click 3, 85 % at click 20, 90 % never.
    let script = |seen: &Seen| {
        let n = match seen.clicks.len() {
            1..3 => 10,
            3..20 => 16,
            _ => 17,
        };
        vec![answer(n, 0.5)]
    };
    let protocol = Protocol { n_clicks: 20, ..Protocol::default() };
    let (record, _) = play(script, &protocol);
    let metrics = metrics(&record, &protocol, &ClickMetricsConfig::for_protocol(&protocol));
    let of = |percent: u32| ["noc", "fail", "at_cap"].map(|name| value(&metrics, &format!("{name}_{percent}")));
    assert_eq!(of(80), [3.0, 0.0, 0.0]);
    assert_eq!(of(85), [20.0, 0.0, 1.0]);
    assert_eq!(of(90), [20.0, 1.0, 1.0]);
    assert_eq!(value(&metrics, "miou_20"), 0.85);
}

#[test]
fn an_early_stop_changes_no_noc_and_rules_out_miou() {
    let script = |seen: &Seen| vec![answer(14 + seen.clicks.len(), 0.5)];
    let whole = Protocol { n_clicks: 20, ..Protocol::default() };
    let early = Protocol { stop_at_iou: Some(0.9), ..whole.clone() };
    let (long, _) = play(script, &whole);
    let (short, _) = play(script, &early);
    assert_eq!((long.rounds.len(), short.rounds.len()), (20, 4));
    let config = ClickMetricsConfig::for_protocol(&early);
    assert!(config.at_clicks.is_empty());
    for name in ["noc_80", "noc_85", "noc_90"] {
        let of_long = value(&metrics(&long, &whole, &ClickMetricsConfig::for_protocol(&whole)), name);
        assert_eq!(value(&metrics(&short, &early, &config), name), of_long);
    }
    let wanted = ClickMetricsConfig { at_clicks: vec![3], ..config };
    let error = ClickMetrics::new(&early, &wanted).expect_err("no mean").to_string();
    assert!(error.contains("at_clicks must be empty when the protocol stops at IoU 0.9"), "{error}");
    let error = ClickMetrics::new(&whole, &ClickMetricsConfig::for_protocol(&whole)).expect("fine").of(&[&short]);
    assert!(error.expect_err("too short").to_string().contains("miou_5 needs 5 clicks, got 4"));
}

#[test]
fn a_box_alone_refined_and_with_clicks() {
    let script = |seen: &Seen| match (seen.clicks.len(), seen.logits) {
        (0, None) => vec![answer(5, 0.1), answer(6, 0.3), answer(12, 0.2)],
        (0, Some(1)) => vec![answer(8, 0.5)],
        (0, _) => vec![answer(9, 0.5)],
        (n, _) => vec![answer(15 + n, 0.5)],
    };
    let protocol = Protocol { start: Start::Box, n_clicks: 2, n_refinements: 2, ..Protocol::default() };
    let (record, seen) = play(script, &protocol);
    let config = ClickMetricsConfig { at_clicks: vec![1, 2], noc_percent: Vec::new(), noc_cap: 20 };
    let metrics = metrics(&record, &protocol, &config);
    let names = ["miou_box", "miou_box_oracle", "miou_box_refined", "miou_box_1", "miou_box_2"];
    assert_eq!(names.map(|name| value(&metrics, name)), [0.3, 0.6, 0.45, 0.8, 0.85]);
    assert!(seen.iter().all(|seen| seen.box_xyxy_px == Some([0.0, 0.0, 10.0, 2.0])));
    assert_eq!(record.rounds.iter().filter(|round| round.prompt == RoundPrompt::Refinement).count(), 2);
}

#[test]
fn first_round_variants() {
    let script = |seen: &Seen| match seen.selection {
        MaskSelection::Single => vec![answer(1, 0.5)],
        _ => vec![answer(4, 0.5), answer(8, 0.5), answer(16, 0.25)],
    };
    let first = |first_masks| {
        let (record, seen) = play(script, &Protocol { first_masks, n_clicks: 1, ..Protocol::default() });
        (record.rounds[0].iou, record.rounds[0].oracle_iou, seen[0].selection)
    };
    assert_eq!(first(FirstMasks::Single), (0.05, None, MaskSelection::Single));
    // The first of equally confident masks.
    assert_eq!(first(FirstMasks::MostConfident), (0.2, None, MaskSelection::MostConfident));
    assert_eq!(first(FirstMasks::MostConfidentAndOracle), (0.2, Some(0.8), MaskSelection::All));

    let silent = Protocol { mask_feedback: MaskFeedback::Nothing, ..Protocol::default() };
    assert!(play(script, &silent).1.iter().all(|seen| seen.logits.is_none()));
}

#[test]
fn a_random_first_click_depends_only_on_seed_and_names() {
    let script = |_: &Seen| vec![answer(10, 0.5)];
    let random = |seed| Protocol { first_click: FirstClick::Random { seed }, n_clicks: 2, ..Protocol::default() };
    let first = |seed| play(script, &random(seed)).1[1].clicks[0];
    assert_eq!(first(3), first(3));
    assert!((0..20).any(|seed| first(seed) != first(3)));
    assert!((0..20).all(|seed| first(seed).is_positive && first(seed).row < 2));
    // The second click follows the rule: the first missed pixel of row 1 that is not clicked.
    assert!(play(script, &random(3)).1[1].clicks[1].row == 1);
    let (record, _) = play(script, &random(3));
    let metrics = metrics(&record, &random(3), &ClickMetricsConfig::for_protocol(&random(3)));
    assert_eq!(value(&metrics, "miou_1_random"), 0.5);
}

#[test]
fn boundary_iou_is_measured_on_request() {
    let protocol = Protocol { boundary: Boundary::Measure, n_clicks: 1, ..Protocol::default() };
    let (record, _) = play(|_| vec![answer(10, 0.5)], &protocol);
    let target = first_pixels(SIZE_HW, AREA_PX);
    let expected = sam_image::boundary_iou(&target, &first_pixels(SIZE_HW, 10), 0.02).expect("one size");
    let metrics = metrics(&record, &protocol, &ClickMetricsConfig::for_protocol(&protocol));
    assert_eq!(value(&metrics, "boundary_1"), expected);
}

/// Images of several sizes with several objects each, ignored pixels in some.
fn many() -> Vec<(String, sam_image::RgbImage, Vec<Rle>, Option<Rle>)> {
    let scene = |at: usize| {
        let size_hw = [20 + at * 3, 31 - at];
        let block = |y: usize, x: usize, side: usize| {
            let inside = |from: usize, at: usize| (from..from + side).contains(&at);
            rle(&Mask::from_fn(size_hw, |row, column| inside(y, row) && inside(x, column)))
        };
        let objects = (0..=at).map(|object| block(object * 2, 3 + object, 4 + at)).collect();
        (format!("{at}.png"), image(size_hw), objects, at.is_multiple_of(2).then(|| block(0, 0, 6)))
    };
    (0..6).map(scene).collect()
}

/// A segmenter whose answers depend on the whole prompt: discs around the clicks, larger with each.
fn discs(seen: &Seen) -> Vec<(Mask, f32)> {
    let radius = |grow: f32| {
        Mask::from_fn(seen.size_hw, |row, column| {
            let near = |click: &&sam_eval::Click| {
                let [x, y] = click.xy_px();
                (x - column as f32).hypot(y - row as f32) < grow + seen.clicks.len() as f32 / 2.0
            };
            seen.clicks.iter().rev().find(near).is_some_and(|click| click.is_positive)
        })
    };
    [1.5, 3.0, 5.0].map(|grow| (radius(grow), 0.6 + grow / 50.0)).to_vec()
}

fn outcomes(objects_per_call: usize, images_per_call: usize) -> (Vec<Outcome>, Vec<usize>) {
    let scenes = many();
    let targets: Vec<Vec<Target<'_>>> = scenes
        .iter()
        .map(|(_, _, masks, _)| {
            masks.iter().enumerate().map(|(id, mask)| Target { id: id as u64, mask, class: None }).collect()
        })
        .collect();
    let tasks: Vec<ImageTask<'_>> = scenes
        .iter()
        .zip(&targets)
        .map(|((name, image, _, ignore), objects)| ImageTask {
            data_set: "d",
            name,
            image,
            objects,
            ignore: ignore.as_ref(),
        })
        .collect();
    let segmenter = Scripted::new(discs);
    let protocol = Protocol { objects_per_call, ..Protocol::default() };
    let mut all = Vec::new();
    for tasks in tasks.chunks(images_per_call) {
        all.extend(run_interactive(&segmenter, &protocol, tasks).expect("fine"));
    }
    (all, segmenter.calls.into_inner())
}

#[test]
fn results_depend_neither_on_batches_nor_on_order() {
    let (one_by_one, calls) = outcomes(1, 1);
    assert!(calls.iter().all(|&n| n == 1));
    assert_eq!(one_by_one.len(), 21);
    for (objects_per_call, images_per_call) in [(1, 6), (4, 1), (5, 3), (100, 6)] {
        let (batched, calls) = outcomes(objects_per_call, images_per_call);
        assert!(calls.len() <= 21 * 5 && calls.iter().any(|&n| n == objects_per_call.min(21)) || images_per_call == 1);
        for (a, b) in one_by_one.iter().zip(&batched) {
            assert_eq!((&a.record, &a.final_mask), (&b.record, &b.final_mask));
        }
    }
    let mut records: Vec<ObjectRecord> = one_by_one.into_iter().map(|outcome| outcome.record).collect();
    let protocol = Protocol::default();
    let run = |records| Run::new(protocol.clone(), ClickMetricsConfig::for_protocol(&protocol), records).expect("fine");
    let in_order = run(records.clone());
    records.reverse();
    assert_eq!(run(records), in_order);
}

#[test]
fn ignored_pixels_are_excluded() {
    let target = first_pixels(SIZE_HW, AREA_PX);
    let ignore = Mask::from_fn(SIZE_HW, |row, _| row == 0 || row == 9);
    let (target, ignore, pixels) = (rle(&target), rle(&ignore), image(SIZE_HW));
    let objects = [Target { id: 1, mask: &target, class: None }];
    let task = ImageTask { data_set: "d", name: "n", image: &pixels, objects: &objects, ignore: Some(&ignore) };
    // Row 1 is predicted correctly; row 9 is a false positive but ignored.
    let script = |_: &Seen| vec![(Mask::from_fn(SIZE_HW, |row, _| row == 1 || row == 9), 0.5)];
    let segmenter = Scripted::new(script);
    let protocol = Protocol { n_clicks: 1, ..Protocol::default() };
    let outcome = run_interactive(&segmenter, &protocol, &[task]).expect("fine").remove(0);
    assert_eq!(outcome.record.rounds[0].iou, 1.0);
    assert_eq!(segmenter.seen.borrow()[0].clicks[0].xy_px(), [0.0, 1.0]);
    assert_eq!(tight_box_xyxy_px(&target), Some([0.0, 0.0, 10.0, 2.0]));
}

/// Three objects in one image and one in another: a model that gives the same mask whatever is clicked, and one that gives
/// the clicked object.
#[test]
fn a_model_that_ignores_its_prompts_is_not_selective() {
    // Rows of ten: two, three and five of them.
    let rows = |rows: std::ops::Range<usize>| Mask::from_fn(SIZE_HW, |row, _| rows.contains(&row));
    let all = [rows(0..2), rows(2..5), rows(5..10)];
    let rles: Vec<Rle> = all.iter().map(rle).collect();
    let pixels = image(SIZE_HW);
    let several: Vec<Target<'_>> =
        rles.iter().enumerate().map(|(id, mask)| Target { id: id as u64, mask, class: None }).collect();
    let alone = [several[0]];
    let task = |name, objects| ImageTask { data_set: "set", name, image: &pixels, objects, ignore: None };
    let tasks = [task("several.jpg", &several[..]), task("alone.jpg", &alone[..])];
    // One object per call: the others of the image need not be decoded with it.
    let protocol = Protocol { n_clicks: 2, objects_per_call: 1, ..Protocol::default() };
    let run = |script: &dyn Fn(&Seen) -> Vec<(Mask, f32)>| {
        let outcomes = run_interactive(&Scripted::new(script), &protocol, &tasks).expect("fine");
        let records: Vec<ObjectRecord> = outcomes.into_iter().map(|outcome| outcome.record).collect();
        let records: Vec<&ObjectRecord> = records.iter().collect();
        let config = ClickMetricsConfig::for_protocol(&protocol);
        ClickMetrics::new(&protocol, &config).expect("fine").of(&records).expect("fine")
    };
    let whole = run(&|_| vec![(rows(0..10), 0.9)]);
    let deaf = whole.get("prompt_selectivity").expect("several objects");
    // The whole image is nearest to the largest object.
    assert_eq!((deaf.value, deaf.n_objects), (1.0 / 3.0, 3), "the object that is alone does not count");
    let nothing = run(&|_| vec![(rows(0..0), 0.9)]);
    assert_eq!(value(&nothing, "prompt_selectivity"), 0.0);
    // The second click is in another object: only the first counts.
    let listens = run(&|seen| {
        let row = seen.clicks[0].row as usize;
        let of_click = all.iter().find(|mask| mask.get(row, 0)).expect("every row is of an object");
        vec![(if seen.clicks.len() == 1 { of_click.clone() } else { rows(0..10) }, 0.9)]
    });
    assert_eq!(value(&listens, "prompt_selectivity"), 1.0);
    // Half of the clicked object: its IoU of 0.5 is reached by no other.
    let halves = run(&|seen| vec![(rows(seen.clicks[0].row as usize..seen.clicks[0].row as usize + 1), 0.9)]);
    assert_eq!(value(&halves, "prompt_selectivity"), 1.0);

    let (record, _) = play(|_| vec![answer(10, 0.5)], &protocol);
    let metrics = metrics(&record, &protocol, &ClickMetricsConfig::for_protocol(&protocol));
    assert!(!metrics.contains("prompt_selectivity"), "one object cannot tell");
}
