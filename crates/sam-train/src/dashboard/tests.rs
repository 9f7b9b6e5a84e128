//! From events to the screen, on a terminal in memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use sam_eval::Better;
use sam_learn::options::RECONSTRUCTION_LOSS;
use sam_learn::record::{
    Progress, RunEvent, RunHistory, RunStart, Scores, SegmentationTerms, StepRecord, ValidationRecord,
};

use super::draw::{Palette, draw};
use super::keys::{Request, on_key};
use super::state::{Heading, Phase, State, Stop};

fn scores(step: u64, value: f64) -> Scores {
    let metrics = ["miou_1", "miou_1_oracle", "miou_3", "miou_box", "small/miou_1"];
    Scores { step, metrics: metrics.into_iter().map(|name| (name.to_owned(), value)).collect() }
}

fn validation(step: u64, value: f64, is_best: bool) -> ValidationRecord {
    let (metric, is_baseline) = ("miou_1_oracle".to_owned(), step == 0);
    let better = Some(Better::Higher);
    ValidationRecord { scores: scores(step, value), metric, is_best, is_baseline, better, took_s: 2.0 }
}

fn step(step: u64, loss: f64) -> StepRecord {
    let terms = SegmentationTerms {
        focal: 0.0123,
        dice: 0.4567,
        iou_error: 0.0089,
        miou_first: 0.5,
        miou_last: 0.61,
        n_objects: 9,
    };
    StepRecord {
        step,
        of_steps: 4500,
        lr: 1.5e-3,
        loss,
        segmentation: Some(terms),
        distillation: Default::default(),
        grad_norm: 0.75,
        n_images: 8,
        images_per_s: 41.3,
        data_wait_share: 0.02,
        memory_mib: 412.0,
        elapsed_s: step as f64,
        eta_s: 130.0,
    }
}

fn start(history: RunHistory, metric: &str) -> RunStart {
    let best = history.validations.iter().rev().find(|record| record.is_best).map(|record| record.scores.clone());
    let baseline = history.validations.iter().find(|record| record.is_baseline).map(|record| record.scores.clone());
    let step = history.steps.last().map_or(0, |record| record.step);
    RunStart {
        progress: Progress { step, baseline, best, elapsed_s: step as f64, ..Progress::default() },
        of_steps: 4500,
        validation_every: 500,
        metric: Some(metric.to_owned()),
        eta_s: None,
        history: Arc::new(history),
    }
}

fn heading() -> Heading {
    let losses = vec!["data.train: 12 images; 1 unreadable".to_owned()];
    Heading { name: "coins".to_owned(), folder: "/home/someone/runs/coins".to_owned(), losses }
}

/// A run in the middle: losses fall, one step is an outlier.
fn in_the_middle(now: Instant) -> State {
    let mut state = State::new(heading(), &start(RunHistory::default(), "miou_1_oracle"), now);
    state.on(&RunEvent::Validated(validation(0, 0.31, false)), now);
    for at in 1..=1234 {
        let loss = if at == 700 { 900.0 } else { 1.0 / (1.0 + at as f64 / 300.0) };
        state.on(&RunEvent::Step(step(at, loss)), now);
        if at % 500 == 0 {
            state.on(&RunEvent::Validated(validation(at, 0.31 + at as f64 / 3000.0, true)), now);
            state.on(&RunEvent::Saved { step: at, path: "step".into() }, now);
        }
    }
    state
}

fn screen_in(state: &State, now: Instant, [width, height]: [u16; 2], has_colour: bool) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("in memory");
    terminal.draw(|frame| draw(frame, state, now, Palette { has_colour })).expect("drawn");
    let buffer = terminal.backend().buffer();
    let row = |y: u16| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(row).collect::<Vec<_>>().join("\n")
}

fn screen(state: &State, now: Instant, size: [u16; 2]) -> String {
    screen_in(state, now, size, true)
}

fn must_show(screen: &str, parts: &[&str]) {
    for part in parts {
        assert!(screen.contains(part), "must show `{part}`:\n{screen}");
    }
}

/// What a person needs, at any size of the whole dashboard.
const IMPORTANT: [&str; 21] = [
    "coins",
    "runs/coins",
    "training: step 1235, 1 min 05 s so far",
    "elapsed 1 min 05 s",
    "ETA 1 min 05 s",
    "step 1234 of 4500",
    "27 %",
    "focal          0.0123",
    "dice           0.4567",
    "IoU error      0.0089",
    "0.500 → 0.610",
    "1.50e-3",
    "41.3",
    "2 %",
    "412 MiB",
    "0.6433, step 1000",
    "0.3100",
    "+0.3333",
    "warnings: 1",
    "1 unreadable",
    "q or Ctrl-C: save and stop",
];

#[test]
fn everything_important_is_on_a_small_and_on_a_large_screen() {
    let began = Instant::now();
    let now = began + Duration::from_secs(65);
    let state = in_the_middle(began);
    for size in [[80, 24], [200, 50]] {
        let shown = screen(&state, now, size);
        let squeezed = shown.split('\n').map(|row| row.split_whitespace().collect::<Vec<_>>().join(" "));
        let squeezed = squeezed.collect::<Vec<_>>().join("\n");
        for part in IMPORTANT {
            let part = part.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(squeezed.contains(&part), "{size:?} must show `{part}`:\n{shown}");
        }
        must_show(&shown, &["loss", "miou_1_oracle", "baseline"]);
    }
    must_show(&screen(&state, now, [80, 24]), &["validation after step 1000: miou_1 0.6433  miou_1_oracle 0.6433"]);
    let large = screen(&state, now, [200, 50]);
    must_show(&large, &["loss terms", "train mIoU", "learning rate", "before training", "best"]);
    // The dot pattern of curves fills the middle of both.
    for size in [[80, 24], [200, 50]] {
        let dots =
            screen(&state, now, size).chars().filter(|symbol| ('\u{2801}'..='\u{28ff}').contains(symbol)).count();
        assert!(dots > usize::from(size[0]) / 2, "{size:?}: {dots}");
    }
}

#[test]
fn an_outlier_does_not_flatten_the_loss() {
    let now = Instant::now();
    let shown = screen(&in_the_middle(now), now, [80, 24]);
    // The axis ends at the loss of the first step and not at 900.
    must_show(&shown, &["1.00", "0.20"]);
    assert!(!shown.contains("900"), "{shown}");
}

#[test]
fn a_tiny_terminal_has_one_line_and_no_size_panics() {
    let now = Instant::now();
    let mut state = in_the_middle(now);
    let shown = screen(&state, now, [59, 3]);
    must_show(&shown, &["step 1234 of 4500", "loss", "ETA"]);
    state.stop = Stop::Asked;
    must_show(&screen(&state, now, [59, 3]), &["Save and stop? y / n"]);
    for width in [1, 2, 59, 60, 61, 79, 110, 300] {
        for height in [1, 2, 14, 15, 16, 20, 33, 34, 35, 100] {
            for state in [&state, &State::new(heading(), &start(RunHistory::default(), "miou_1"), now)] {
                screen(state, now, [width, height]);
            }
        }
    }
}

#[test]
fn without_colours_no_cell_has_one() {
    let now = Instant::now();
    let state = in_the_middle(now);
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).expect("in memory");
    let mut colours = |has_colour| {
        terminal.draw(|frame| draw(frame, &state, now, Palette { has_colour })).expect("drawn");
        let cells = terminal.backend().buffer().content.iter();
        cells.filter(|cell| cell.fg != ratatui::style::Color::Reset || cell.bg != ratatui::style::Color::Reset).count()
    };
    assert!(colours(true) > 0);
    assert_eq!(colours(false), 0);
}

#[test]
fn a_pre_training_shows_its_reconstruction_loss_and_that_lower_is_better() {
    let now = Instant::now();
    let mut state = State::new(heading(), &start(RunHistory::default(), RECONSTRUCTION_LOSS), now);
    let record = |at: u64, value: f64| ValidationRecord {
        scores: Scores { step: at, metrics: std::iter::once((RECONSTRUCTION_LOSS.to_owned(), value)).collect() },
        metric: RECONSTRUCTION_LOSS.to_owned(),
        is_best: at > 0,
        is_baseline: at == 0,
        better: Some(Better::Lower),
        took_s: 1.0,
    };
    state.on(&RunEvent::Validated(record(0, 1.25)), now);
    state.on(&RunEvent::Step(StepRecord { segmentation: None, ..step(10, 0.9) }), now);
    state.on(&RunEvent::Validated(record(10, 0.75)), now);
    let shown = screen(&state, now, [80, 24]);
    must_show(&shown, &["reconstruction loss", "0.9000", "reconstruction_loss", "0.7500, step 10", "-0.5000"]);
    assert!(!shown.contains("worse") && !shown.contains("focal"), "{shown}");
}

#[test]
fn a_best_below_the_baseline_is_called_worse() {
    let now = Instant::now();
    let mut state = State::new(heading(), &start(RunHistory::default(), "miou_1_oracle"), now);
    state.on(&RunEvent::Validated(validation(0, 0.5, false)), now);
    state.on(&RunEvent::Step(step(500, 0.9)), now);
    state.on(&RunEvent::Validated(validation(500, 0.4, true)), now);
    must_show(&screen(&state, now, [80, 24]), &["-0.1000 (worse)"]);
}

#[test]
fn a_resumed_run_begins_with_the_curves_and_scores_of_its_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let lines = (1..=20).map(|at| {
        let mut line = serde_json::to_value(step(at, 1.0 / at as f64)).expect("JSON");
        line["event"] = "step".into();
        line.to_string()
    });
    let validations = [validation(0, 0.31, false), validation(20, 0.6, true)].map(|record| {
        let mut line = serde_json::to_value(record).expect("JSON");
        line["event"] = "validation".into();
        line.to_string()
    });
    let text = lines.chain(validations).chain(["{\"event\":\"step\",\"st".to_owned()]).collect::<Vec<_>>().join("\n");
    std::fs::write(folder.path().join("metrics.jsonl"), text).expect("written");
    let history = RunHistory::read(folder.path()).expect("a log");
    let now = Instant::now();
    let start = RunStart { eta_s: Some(600.0), ..start(history, "miou_1_oracle") };
    let state = State::new(heading(), &start, now);
    assert_eq!((state.step, state.curves.loss.points().len()), (20, 20));
    assert_eq!(state.validations.curve.points(), [(0.0, 0.31), (20.0, 0.6)]);
    let shown = screen(&state, now + Duration::from_secs(60), [80, 24]);
    must_show(&shown, &["step 20 of 4500", "ETA 9 min 00 s", "elapsed 1 min 20 s", "0.6000, step 20", "+0.2900"]);
}

#[test]
fn phases_follow_the_events_and_a_long_step_shows_its_time() {
    let now = Instant::now();
    let mut state = State::new(heading(), &start(RunHistory::default(), "miou_1_oracle"), now);
    assert_eq!(state.phase, Phase::Preparing);
    must_show(&screen(&state, now, [80, 24]), &["preparing the first step", "ETA after step 1"]);
    state.on(&RunEvent::Validating { n_images: 3, of_images: 7 }, now);
    must_show(&screen(&state, now, [80, 24]), &["validating before training: 3 of 7 images"]);
    state.on(&RunEvent::Step(step(1, 1.0)), now);
    must_show(&screen(&state, now + Duration::from_secs(50), [80, 24]), &["training: step 2, 50 s so far"]);
    state.on(&RunEvent::Saving { step: 1 }, now);
    assert_eq!(state.phase_text(now), "saving");
    state.on(&RunEvent::Saved { step: 1, path: "x".into() }, now);
    assert_eq!(state.phase_text(now), "training");
    state.stop = Stop::Requested;
    must_show(&screen(&state, now, [80, 24]), &["stopping after this step, then saving", "Ctrl-C exits at once"]);
    let skipped = |reason: &str| RunEvent::Skipped { step: 1, reason: reason.to_owned() };
    for reason in ["a.png: cut short", "b.png: cut short", "a.png: cut short"] {
        state.on(&skipped(reason), now);
    }
    must_show(&screen(&state, now, [80, 24]), &["warnings: 3, 2 images skipped", "b.png: cut short"]);
}

#[test]
fn keys_ask_before_they_stop() {
    let now = Instant::now();
    let mut state = in_the_middle(now);
    let mut press = |code: KeyCode, modifiers: KeyModifiers| {
        let request = on_key(&mut state, KeyEvent::new(code, modifiers));
        (request, state.stop)
    };
    let plain = KeyModifiers::NONE;
    assert_eq!(press(KeyCode::Char('x'), plain), (None, Stop::No));
    assert_eq!(press(KeyCode::Enter, plain), (None, Stop::No), "no question, no answer");
    assert_eq!(press(KeyCode::Char('c'), plain), (None, Stop::No));
    assert_eq!(press(KeyCode::Char('q'), plain), (None, Stop::Asked));
    assert_eq!(press(KeyCode::Esc, plain), (None, Stop::No));
    assert_eq!(press(KeyCode::Esc, plain), (None, Stop::Asked));
    assert_eq!(press(KeyCode::Char('n'), plain), (None, Stop::No));
    press(KeyCode::Char('q'), plain);
    assert_eq!(press(KeyCode::Char('y'), plain), (Some(Request::SaveAndStop), Stop::Asked));
    assert_eq!(press(KeyCode::Enter, plain).0, Some(Request::SaveAndStop));
    assert_eq!(press(KeyCode::Char('c'), KeyModifiers::CONTROL).0, Some(Request::Interrupt));
    state.stop = Stop::Asked;
    must_show(&screen(&state, now, [80, 24]), &["Stop the run?", "save and stop", "keep running"]);
}
