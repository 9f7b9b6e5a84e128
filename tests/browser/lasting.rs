//! Nothing is lost, and nothing old is shown: kills, reloads, other tabs, a server that is away, late answers.

use serde_json::{Value, json};

use super::{ANSWERED, MARKUP, Opened, SAVED};

/// Whether the first mask is seen on the canvas, and found under the pointer.
const IS_DRAWN: &str = "(() => { const { box } = page.masks[0].shape; \
    for (let y = box.y; y < box.y + box.height; y++) for (let x = box.x; x < box.x + box.width; x++) { \
        if (objectAt(x, y) !== page.masks[0]) continue; \
        const [cx, cy] = view.toCanvas([x + 0.5, y + 0.5]); const context = view.canvas.getContext('2d'); \
        const look = () => { view.draw(); return context.getImageData(cx, cy, 1, 1).data.join(); }; \
        const shown = look(); page.allHidden = true; const bare = look(); page.allHidden = false; view.draw(); \
        return shown !== bare; } return false; })()";

#[test]
fn a_mask_survives_a_kill_between_commit_and_reload() {
    let Some(mut opened) = Opened::start() else { return };
    opened.tab.click([100.5, 80.5], "left");
    opened.commit(1);
    let made = opened.tab.value("page.masks[0].segmentation");
    opened.server.kill();
    opened.restart();
    opened.tab.reload();
    opened.tab.wait("page.masks.length === 1 && document.querySelectorAll('#objects [role=option]').length === 1");
    assert_eq!(opened.tab.value("page.masks[0].segmentation"), made, "the cookie and the mask are still good");
    opened.tab.wait(IS_DRAWN);
    opened.end();
}

#[test]
fn what_is_made_while_the_server_is_away_is_saved_once_it_is_back() {
    let Some(mut opened) = Opened::start() else { return };
    opened.server.kill();
    opened.tab.key("b");
    opened.tab.drag([150.5, 40.5], [190.5, 60.5], "left");
    opened.tab.wait("page.draft.mask !== null && page.draft.paintings.length === 1");
    opened.tab.key("Enter");
    opened.tab.wait("document.getElementById('saved').dataset.state === 'offline' && page.masks.length === 1");
    // A second change on top of the first: it follows it, in order.
    opened.tab.value("page.selected = page.masks[0].uuid");
    opened.tab.key("1");
    opened.tab.wait("page.masks[0].class === 'cat' && page.outbox.waiting.length === 2");
    opened.tab.screenshot("03-no-connection");
    // The page may be left and come back meanwhile: it cannot, without a server, but what it keeps is in the browser.
    assert_eq!(
        opened.tab.value("Object.keys(localStorage).filter((key) => key.startsWith(page.outbox.prefix)).length"),
        2
    );
    opened.restart();
    opened.tab.wait(SAVED);
    let mask = opened.on_disk()["annotations"][0].clone();
    assert_eq!((&mask["source"], &mask["class"]), (&json!("manual"), &json!("cat")));
    opened.end();
}

#[test]
fn undo_and_redo_survive_a_reload() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    opened.paint([50.5, 40.5], [90.5, 60.5], 1);
    let uuid = opened.on_disk()["annotations"][0]["uuid"].clone();
    tab.value("page.selected = page.masks[0].uuid");
    tab.key("2");
    tab.wait(&format!("page.masks[0].class !== null && {SAVED}"));
    assert_eq!(opened.on_disk()["annotations"][0]["class"], MARKUP);

    tab.reload();
    tab.key("z");
    tab.wait(&format!("page.masks[0].class === null && {SAVED}"));
    tab.key("Ctrl+z");
    tab.wait(&format!("page.masks.length === 0 && {SAVED}"));
    assert_eq!(opened.on_disk()["annotations"], json!([]));
    tab.reload();
    tab.key("Shift+Z");
    tab.wait("page.masks.length === 1");
    tab.key("Shift+Z");
    tab.wait(&format!("page.masks[0].class !== null && {SAVED}"));
    let mask = opened.on_disk()["annotations"][0].clone();
    assert_eq!((&mask["uuid"], &mask["class"]), (&uuid, &json!(MARKUP)));
    assert_eq!(tab.value("document.querySelectorAll('img').length"), 0, "a class with markup is text");
    opened.end();
}

#[test]
fn two_tabs_add_and_edit() {
    let Some(opened) = Opened::start() else { return };
    let first = &opened.tab;
    let second = opened.profile.tab();
    second.open(&format!("http://127.0.0.1:{}/", opened.server.port));
    opened.paint([40.5, 40.5], [60.5, 40.5], 1);
    second.key("b");
    second.drag([120.5, 100.5], [150.5, 100.5], "left");
    second.key("Enter");
    // Each sees what the other has added, without being told.
    for tab in [first, &second] {
        tab.wait(&format!("page.masks.length === 2 && {SAVED}"));
    }
    let uuids = |tab: &super::Tab| tab.value("page.masks.map(({ uuid }) => uuid).sort()");
    assert_eq!(uuids(first), uuids(&second));

    // The second does not know what the first does to an object, and removes it: the object stays, and it is told.
    second.value("window.isDeaf = true");
    first.value("page.selected = page.masks[0].uuid");
    first.key("1");
    first.wait(&format!("page.masks[0].class === 'cat' && {SAVED}"));
    second.value("page.selected = page.masks[0].uuid");
    second.key("Delete");
    second.wait("page.problem.includes('changed elsewhere') && page.masks.length === 2");
    second.wait("page.masks.some((mask) => mask.class === 'cat')");
    assert_eq!(opened.on_disk()["annotations"].as_array().map(Vec::len), Some(2));
    second.screenshot("04-changed-elsewhere");

    // An undo of what somebody else has changed since is refused and forgotten.
    first.value("window.isDeaf = true");
    second.value("page.selected = page.masks.find((mask) => mask.class === 'cat').uuid");
    second.key("2");
    second.wait(&format!("page.masks.every((mask) => mask.class !== 'cat') && {SAVED}"));
    first.key("z");
    first.wait("page.problem.startsWith('Not undone')");
    first.wait("page.masks.every((mask) => mask.class !== 'cat')");
    let classes: Vec<Value> =
        opened.on_disk()["annotations"].as_array().expect("two").iter().map(|mask| mask["class"].clone()).collect();
    assert!(classes.contains(&json!(MARKUP)), "{classes:?}");
    assert_eq!(second.exceptions(), [""; 0]);
    opened.end();
}

#[test]
fn an_old_answer_is_never_shown() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    tab.value("window.holds = true");
    tab.click([60.5, 60.5], "left");
    tab.wait("window.held.length === 1 && page.draft.isAsking");
    tab.value("window.holds = false");
    tab.click([150.5, 110.5], "left");
    tab.wait(&format!("page.draft.candidates.length === 1 && {ANSWERED}"));
    let newest = tab.value("page.draft.mask.segmentation.counts");
    tab.value("window.held[0]().then(() => { window.hasCome = true; })");
    tab.wait("window.hasCome === true");
    assert_eq!(tab.value("page.draft.candidates.length"), 1);
    assert_eq!(tab.value("page.draft.mask.segmentation.counts"), newest);
    tab.key("Escape");

    // Nor one of another image.
    tab.value("window.holds = true; window.hasCome = false");
    tab.click([60.5, 60.5], "left");
    tab.wait("window.held.length === 2");
    tab.key("d");
    tab.wait("page.index === 1 && view.picture !== null && page.draft.size !== null");
    tab.value("window.held[1]().then(() => { window.hasCome = true; })");
    tab.wait("window.hasCome === true");
    assert_eq!(tab.value("page.draft.isEmpty && page.draft.mask === null"), true);
    opened.end();
}
