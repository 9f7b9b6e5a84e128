//! Proposals, rounds, the review, keys, classes and notes.

use serde_json::{Value, json};

use super::chromium::Profile;
use super::{ANSWERED, Opened, SAVED};
use crate::cli::{Run, fixture};
use crate::rounds_cli;

#[test]
fn proposals_are_accepted_rejected_and_corrected() {
    let Some(profile) = Profile::start() else { return };
    // A network that finds something, and a picture of its own.
    let run = Run::new();
    std::fs::create_dir_all(run.path("photos")).expect("made");
    std::fs::copy(fixture("automatic/square.png"), run.path("photos/a.png")).expect("copied");
    std::fs::copy(fixture("automatic/wide.png"), run.path("photos/<img src=x onerror=alert(1)>.png")).expect("copied");
    let checkpoint = fixture("automatic/weights.safetensors");
    run.ok(&["annotate", "init", "--images", "photos", "--checkpoint", &checkpoint, "--out", "project"]);
    let opened = Opened::of(run, profile);
    let tab = &opened.tab;
    tab.value(
        "(() => { const index = page.project.images.findIndex(({ name }) => name === 'a.png'); \
        document.querySelectorAll('#images .row')[index].click(); })()",
    );
    tab.wait("document.getElementById('name').textContent === 'a.png' && page.draft.size !== null");
    assert_eq!(tab.value("document.querySelectorAll('img').length"), 0, "a file name with markup is text");
    tab.wait("page.readiness.state === 'ready'");
    tab.key("v");
    tab.wait("page.proposals.state === 'ready'");
    tab.value("(() => { const slider = document.getElementById('threshold'); slider.value = 0; slider.dispatchEvent(new Event('input')); })()");
    tab.wait("page.proposals.listed().length >= 4");
    let all = tab.value("page.proposals.listed().length").as_u64().expect("a number");
    // The slider leaves those above its threshold.
    tab.value(
        "(() => { const slider = document.getElementById('threshold'); \
        slider.value = page.proposals.all[1].predicted_iou; slider.dispatchEvent(new Event('input')); })()",
    );
    tab.wait("page.proposals.listed().every((item) => item.predicted_iou >= page.proposals.threshold)");
    tab.value("(() => { const slider = document.getElementById('threshold'); slider.value = 0; slider.dispatchEvent(new Event('input')); })()");
    tab.wait(&format!("page.proposals.listed().length === {all}"));
    tab.wait(&format!("document.getElementById('proposals-count').textContent === '{all} of {all}'"));

    // The surest first.
    tab.value("document.getElementById('canvas').focus()");
    tab.key("a");
    tab.wait("page.proposals.focused() === page.proposals.all[0]");
    tab.screenshot("12-proposals");
    let first = tab.value("page.proposals.all[0].uuid");
    tab.key("a");
    tab.wait(&format!("page.masks.length === 1 && {SAVED}"));
    let mask = opened.on_disk()["annotations"][0].clone();
    assert_eq!((&mask["uuid"], &mask["source"]), (&first, &json!("accepted")));

    tab.wait("page.proposals.focused() !== null && page.proposals.timer !== undefined");
    let rejected = tab.value("page.proposals.chosen");
    tab.key("r");
    tab.wait(&format!("page.rejected.length === 1 && {SAVED}"));
    tab.reload();
    tab.wait("page.proposals.state === 'ready' && page.rejected.length === 1");
    assert_eq!(
        tab.value(&format!("page.proposals.listed().some(({{ uuid }}) => uuid === {rejected} || uuid === {first})")),
        false
    );
    // Undo brings it back.
    tab.key("z");
    tab.wait(&format!("page.rejected.length === 0 && page.proposals.all.some(({{ uuid }}) => uuid === {rejected})"));

    // A click on the chosen one corrects it.
    tab.key("a");
    tab.wait("page.proposals.focused() !== null");
    let corrected = tab.value("page.proposals.chosen");
    let pixel = tab.value("(() => { const { bounds, height } = page.proposals.focused().shape; return [Math.floor(bounds[0] / height) + 0.5, bounds[0] % height + 0.5]; })()");
    tab.click([0, 1].map(|axis| pixel[axis].as_f64().expect("a number")), "right");
    tab.wait(&format!("page.draft.revises !== null && {ANSWERED}"));
    opened.commit(2);
    let mask = opened.on_disk()["annotations"][1].clone();
    assert_eq!((&mask["uuid"], &mask["source"]), (&corrected, &json!("corrected")));

    // All of them, and one undo.
    tab.wait("page.proposals.state === 'ready' && page.proposals.listed().length > 1");
    tab.key("Shift+A");
    tab.wait(&format!("page.masks.length > 3 && page.proposals.listed().length === 0 && {SAVED}"));
    tab.key("z");
    tab.wait(&format!("page.masks.length === 2 && {SAVED}"));
    assert_eq!(opened.on_disk()["annotations"].as_array().map(Vec::len), Some(2));
    opened.end();
}

#[test]
fn a_key_can_be_changed_and_two_actions_never_share_one() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    let rebind = |action: &str, key: &str| {
        tab.value(&format!("document.querySelector('#keys [data-action=\"{action}\"]').click()"));
        tab.wait("document.querySelector('#keys .waiting') !== null");
        tab.key(key);
        tab.wait("document.querySelector('#keys .waiting') === null");
        tab.value("document.getElementById('key-state').textContent").as_str().expect("a text").to_owned()
    };
    tab.key("?");
    tab.wait("document.getElementById('help').open");
    tab.screenshot("13-keys");
    assert!(rebind("brush", "j").contains('J'));
    assert!(rebind("eraser", "j").contains("taken"));
    assert!(rebind("eraser", "Enter").contains("cannot be changed"));
    assert!(rebind("eraser", "Escape").contains("Nothing"));
    assert_eq!(tab.value("document.querySelector('kbd[data-key=brush]').textContent"), "J");
    tab.key("Escape");
    tab.wait("!document.getElementById('help').open");
    tab.reload();
    tab.key("j");
    tab.wait("page.tool === 'brush'");
    tab.key("c");
    tab.key("b");
    tab.wait("page.tool === 'click'");
    tab.key("?");
    tab.push("reset-keys");
    tab.key("Escape");
    tab.wait("!document.getElementById('help').open");
    tab.key("b");
    tab.wait("page.tool === 'brush'");
    opened.end();
}

#[test]
fn a_class_is_added_and_a_note_is_kept() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    tab.value("(() => { const list = document.getElementById('class'); list.value = list.options[list.options.length - 1].value; list.dispatchEvent(new Event('change')); })()");
    tab.wait("document.getElementById('class-dialog').open");
    let add = |name: &str| {
        tab.value(&format!("document.getElementById('class-name').value = {}", json!(name)));
        tab.value("document.querySelector('#class-form .main').click()");
    };
    add("cat");
    tab.wait("document.getElementById('class-problem').textContent !== ''");
    add("</select><b>dog");
    tab.wait("!document.getElementById('class-dialog').open && page.project.classes.length === 3");
    assert_eq!(tab.value("document.getElementById('class').value"), "</select><b>dog");
    opened.paint([50.5, 40.5], [90.5, 60.5], 1);
    assert_eq!(opened.on_disk()["annotations"][0]["class"], "</select><b>dog");
    assert_eq!(tab.value("document.querySelectorAll('b, img').length"), 0, "a class with markup is text");

    tab.key("n");
    tab.wait("document.activeElement.id === 'note'");
    for letter in "two?".chars() {
        tab.key(&letter.to_string());
    }
    tab.key("Enter");
    tab.wait(&format!("page.note === 'two?' && {SAVED}"));
    tab.reload();
    tab.wait("document.getElementById('note').value === 'two?'");
    tab.key("z");
    tab.wait(&format!("page.note === '' && {SAVED}"));
    opened.end();
}

/// A round says what it needs, and a review that there is nothing to look at.
#[test]
fn rounds_and_the_review_say_what_they_need() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    opened.paint([50.5, 40.5], [90.5, 60.5], 1);
    tab.push("to-rounds");
    tab.wait("page.place === 'rounds' && page.rounds.answer !== null");
    tab.wait("document.getElementById('start-round').disabled");
    let why = tab.value("document.getElementById('round-why').textContent");
    assert!(why.as_str().is_some_and(|why| why.contains("mask")), "{why}");
    assert_eq!(tab.value("location.hash"), "#rounds");
    tab.screenshot("14-rounds");
    tab.push("to-review");
    tab.wait("page.place === 'review' && !page.review.isBusy");
    tab.value("document.querySelector('#review-form button').click()");
    tab.wait("document.getElementById('review-problem').textContent !== ''");
    tab.screenshot("15-review");
    // A reload comes back to the same place.
    tab.reload();
    tab.wait("page.place === 'review'");
    tab.push("to-image");
    tab.wait("page.place === 'image' && document.getElementById('canvas').clientWidth > 0");
    opened.end();
}

/// A mask is judged, corrected and deleted; the share follows.
#[test]
fn automatic_masks_are_reviewed() {
    let Some(mut opened) = Opened::start() else { return };
    opened.paint([50.5, 40.5], [90.5, 60.5], 1);
    opened.paint([130.5, 40.5], [170.5, 60.5], 2);
    opened.paint([60.5, 110.5], [100.5, 120.5], 3);
    opened.server.kill();
    let mut file = opened.on_disk();
    for mask in file["annotations"].as_array_mut().expect("masks") {
        mask["source"] = json!("automatic");
    }
    std::fs::write(opened.folder().join("annotations/a.json"), file.to_string()).expect("written");
    opened.restart();
    let tab = &opened.tab;
    tab.reload();
    tab.push("to-review");
    tab.wait("page.place === 'review' && !page.review.isBusy");
    tab.value("document.querySelector('#review-form button').click()");
    tab.wait(
        "page.review.answer?.items.length === 3 && (page.review.seen?.mask ?? null) !== null && !page.review.isBusy",
    );
    tab.screenshot("16-five-views");
    tab.key("g");
    tab.wait("page.review.answer.n_judged === 1 && !page.review.isBusy");
    tab.key("e");
    tab.wait("page.place === 'image' && page.selected !== null && page.draft.size !== null");
    tab.key("b");
    tab.drag([20.5, 20.5], [30.5, 140.5], "left");
    tab.wait("page.draft.mask !== null");
    tab.key("Enter");
    tab.wait(
        "page.place === 'review' && page.review.answer.n_judged === 2 && !page.review.isBusy && (page.review.seen?.mask ?? null) !== null",
    );
    tab.key("Delete");
    tab.wait("page.review.answer.n_judged === 3 && !page.review.isBusy");
    let verdicts = tab.value("page.review.answer.items.map(({ verdict }) => verdict).sort()");
    assert_eq!(verdicts, json!(["corrected", "deleted", "good"]));
    let share = tab.value("page.review.answer.share").as_f64().expect("a number");
    assert!((share - 1.0 / 3.0).abs() < 1e-6, "{share}");
    tab.screenshot("17-reviewed");
    assert_eq!(opened.on_disk()["annotations"].as_array().map(Vec::len), Some(2));
    // What was found good is still automatic until a person takes it.
    tab.push("to-image");
    tab.wait(
        "page.place === 'image' && page.masks.length === 2 && document.querySelectorAll('#objects li').length === 2",
    );
    tab.value(
        "document.getElementById(`object-${page.masks.find(({ source }) => source === 'automatic').uuid}`).click()",
    );
    tab.wait("page.selected !== null");
    tab.key("y");
    tab.wait(&format!("page.masks.some(({{ source }}) => source === 'accepted') && {SAVED}"));
    let sources: Vec<Value> =
        opened.on_disk()["annotations"].as_array().expect("masks").iter().map(|mask| mask["source"].clone()).collect();
    assert!(sources.contains(&json!("accepted")) && sources.contains(&json!("corrected")), "{sources:?}");
    opened.end();
}

/// From the button to the better model, in words and numbers.
#[test]
fn a_round_is_started_followed_and_its_model_is_used() {
    let Some(profile) = Profile::start() else { return };
    let run = rounds_cli::project(20, &rounds_cli::training(3e-3, 60));
    let opened = Opened::of(run, profile);
    rounds_cli::simulate(&opened.run, &["--masks", "60"]);
    let tab = &opened.tab;
    let first = tab.value("page.project.model");
    tab.push("to-rounds");
    tab.wait("page.rounds.answer !== null && !document.getElementById('start-round').disabled");
    tab.push("start-round");
    tab.wait("page.rounds.answer.running !== null && !document.getElementById('round-running').hidden");
    tab.wait("document.getElementById('round-title').textContent.startsWith('Round 1')");
    tab.push("to-image");
    tab.wait("page.place === 'image' && page.news.startsWith('Round 1 is better: +')");
    tab.screenshot("18-better");
    assert_ne!(tab.value("page.project.model"), first);
    tab.push("to-rounds");
    tab.wait("document.querySelectorAll('#round-rows tr').length === 1");
    tab.wait("document.querySelectorAll('#round-charts svg.chart').length === 3");
    let row = tab.value("document.querySelector('#round-rows tr').textContent");
    assert!(row.as_str().is_some_and(|row| row.contains("Promoted") && row.contains('%')), "{row}");
    tab.screenshot("19-rounds");
    opened.end();
}
