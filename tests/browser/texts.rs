//! The text prompt in the page: typed, refined by clicks, undone, kept; what cannot be one; a model that takes none.

use serde_json::json;

use super::chromium::{Profile, Tab};
use super::{ANSWERED, Opened, SAVED};
use crate::annotate_text_cli::text_project;
use crate::cli::fixture;

/// Types into the field from the keyboard, and presses Enter.
fn type_text(tab: &Tab, text: &str) {
    tab.key("w");
    tab.wait("document.activeElement.id === 'text'");
    tab.call("Input.insertText", json!({"text": text}));
    tab.key("Enter");
}

fn scheme(tab: &Tab, value: &str) {
    let media = json!({"features": [{"name": "prefers-color-scheme", "value": value}]});
    tab.call("Emulation.setEmulatedMedia", media);
}

#[test]
fn a_text_makes_a_draft_that_clicks_refine() {
    let Some(profile) = Profile::start() else { return };
    let opened = Opened::of(text_project(), profile);
    let tab = &opened.tab;
    tab.wait("!document.getElementById('text-form').hidden");
    type_text(tab, "a red ring");
    tab.wait("page.draft.candidates.length === 3 && !page.draft.isAsking");
    assert_eq!(tab.value("[page.draft.text, document.activeElement.id]"), json!(["a red ring", "canvas"]));
    assert_eq!(tab.value("document.getElementById('text-form').classList.contains('used')"), true);
    let all = "page.draft.candidates.map(({ segmentation, predicted_iou }) => [segmentation.counts, predicted_iou])";
    let three = tab.value(all);
    // Another text takes its place, and undo brings it back.
    type_text(tab, "two <b>");
    tab.wait("page.draft.text !== 'a red ring' && page.draft.candidates.length === 3 && !page.draft.isAsking");
    assert_ne!(tab.value(all), three);
    assert_eq!(tab.value("document.querySelectorAll('.message b').length"), 0, "what is typed stays text");
    tab.key("z");
    tab.wait("page.draft.text === 'a red ring' && !page.draft.isAsking");
    tab.wait("document.getElementById('text').value === 'a red ring'");
    assert_eq!(tab.value(all), three);

    let largest =
        tab.value("page.draft.candidates.reduce((best, { area }, n, all) => area > all[best].area ? n : best, 0)");
    tab.key(&(largest.as_u64().expect("an index") + 1).to_string());
    tab.wait(&format!("page.draft.choice === {largest} && {ANSWERED}"));
    tab.wait("document.getElementById('message').textContent.startsWith('“a red ring”: predicted IoU')");
    for value in ["light", "dark"] {
        scheme(tab, value);
        tab.screenshot(&format!("20-text-{value}"));
    }
    tab.resize(390, 800, 2.0);
    tab.wait("view.canvas.clientWidth <= 390");
    tab.screenshot("21-text-phone");
    assert_eq!(tab.value("document.documentElement.scrollWidth <= 390"), true, "nothing is cut off on a phone");
    tab.resize(1280, 800, 1.0);
    tab.wait("view.canvas.clientWidth > 390");
    scheme(tab, "light");

    // One that is refused leaves the object in the making as it was.
    type_text(tab, &"star ".repeat(150));
    tab.wait("document.getElementById('message').textContent.includes('tokens')");
    assert_eq!(tab.value("[page.draft.text, page.masks.length, page.draft.choice]"), json!(["a red ring", 0, largest]));
    assert_eq!(tab.value(all), three);
    tab.click([100.5, 80.5], "left");
    tab.wait("page.draft.candidates.length === 1 && !page.draft.isAsking");
    assert_eq!(tab.value("[page.draft.prompt().text, page.draft.context().choice]"), json!(["a red ring", largest]));
    // Whatever this model makes of it, a stroke gives it pixels.
    tab.key("b");
    tab.drag([60.5, 40.5], [90.5, 60.5], "left");
    opened.commit(1);
    tab.key("c");
    let mask = opened.on_disk()["annotations"][0].clone();
    assert_eq!((&mask["prompts"]["text"], &mask["source"]), (&json!("a red ring"), &json!("assisted")));
    assert_eq!(mask["prompts"]["points"].as_array().map(Vec::len), Some(1));
    assert_eq!(tab.value("document.getElementById('text-form').classList.contains('used')"), false);
    what_is_no_text_is_said(tab);
    the_field_follows_the_model(&opened);
    opened.end();
}

fn what_is_no_text_is_said(tab: &Tab) {
    let is_bad = "document.getElementById('message').classList.contains('bad')";
    type_text(tab, "  ");
    tab.wait(&format!("{is_bad} && document.getElementById('message').textContent.startsWith('Type what')"));
    tab.key("Escape");
    type_text(tab, &"star ".repeat(150));
    tab.wait(&format!("{is_bad} && document.getElementById('message').textContent.includes('tokens')"));
    assert_eq!(tab.value("[page.draft.isEmpty, document.getElementById('text').value.length]"), json!([true, 749]));
    // Fewer words in its place.
    type_text(tab, "a star");
    tab.wait(&format!("page.draft.candidates.length === 3 && !page.draft.isAsking && !{is_bad}"));
    tab.key("Escape");
    tab.wait("page.draft.isEmpty && document.getElementById('text').value === 'a star'");
    // A chosen object is looked for anew, and stays the same object.
    tab.value("page.selected = page.masks[0].uuid");
    type_text(tab, "a blue disc");
    tab.wait("page.draft.candidates.length === 3 && !page.draft.isAsking");
    assert_eq!(
        tab.value("[page.draft.revises.uuid === page.masks[0].uuid, page.draft.context().mask ?? null]"),
        json!([true, null])
    );
    tab.key("b");
    tab.drag([60.5, 40.5], [90.5, 60.5], "left");
    tab.wait(ANSWERED);
    tab.key("Enter");
    tab.wait(&format!("page.draft.isEmpty && page.masks.length === 1 && {SAVED}"));
    assert_eq!(
        tab.value("[page.masks[0].prompts.text, page.masks[0].prompts.points.length]"),
        json!(["a blue disc", 1])
    );
    tab.key("c");
}

/// A round puts a model in use that takes no texts.
fn the_field_follows_the_model(opened: &Opened) {
    let folder = opened.folder();
    std::fs::create_dir_all(folder.join("rounds/0001")).expect("made");
    let to = folder.join("rounds/0001/model.safetensors");
    std::fs::copy(fixture("tiny_sam.safetensors"), to).expect("copied");
    let text = json!({"round": 1, "checkpoint": "rounds/0001/model.safetensors"}).to_string();
    std::fs::write(folder.join("model.json"), text).expect("written");
    let tab = &opened.tab;
    tab.wait("document.getElementById('text-form').hidden");
    tab.key("w");
    tab.wait("document.getElementById('message').textContent.includes('takes no texts')");
    assert_eq!(tab.value("document.activeElement.id !== 'text'"), true);
}
