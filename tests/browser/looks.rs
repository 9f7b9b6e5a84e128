//! How the page looks: small screens, dark ones, contrast, names for screen readers, and 1,000 masks.

use std::io::Write;

use sam_image::{Mask, Rle};
use serde_json::{Value, json};

use super::{ANSWERED, Opened, SAVED, on_disk};

/// Colours that are read on each other, by their names in the stylesheet.
const PAIRS: &str = "[['text', 'panel'], ['text', 'ground'], ['text', 'chosen'], ['soft', 'panel'], ['soft', 'ground'], ['soft', 'hover'], \
    ['accent', 'panel'], ['on-accent', 'accent'], ['good', 'panel'], ['warn', 'panel'], ['bad', 'panel'], ['second', 'panel']]";

/// The lowest ratio of the pairs, as WCAG 2 defines it, with its pair.
fn lowest_contrast(tab: &super::Tab) -> (f64, Value) {
    let lowest = tab.value(&format!(
        "(() => {{ const style = getComputedStyle(document.documentElement); \
         const light = (name) => {{ const hex = style.getPropertyValue('--' + name).trim(); \
             const [r, g, b] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255) \
                 .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4)); \
             return 0.2126 * r + 0.7152 * g + 0.0722 * b; }}; \
         return {PAIRS}.map((pair) => {{ const [a, b] = pair.map(light); \
             return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), pair.join(' on ')]; }}).sort((a, b) => a[0] - b[0])[0]; }})()"
    ));
    (lowest[0].as_f64().expect("a number"), lowest[1].clone())
}

#[test]
fn the_page_is_read_in_light_and_dark_on_a_phone_and_by_a_screen_reader() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    opened.paint([50.5, 40.5], [90.5, 60.5], 1);
    tab.click([100.5, 80.5], "left");
    tab.wait(ANSWERED);
    for scheme in ["light", "dark"] {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        tab.call("Emulation.setEmulatedMedia", media);
        let (ratio, pair) = lowest_contrast(tab);
        assert!(ratio >= 4.5, "{scheme}: {pair} has a contrast of {ratio:.2}");
        tab.screenshot(&format!("09-{scheme}"));
    }
    // Every control has a name, and is large enough to be hit.
    let nameless = tab.value(
        "[...document.querySelectorAll('button, input, select, textarea, a, canvas, progress')].filter((node) => \
         !(node.getAttribute('aria-label') || node.textContent.trim() || node.title || node.labels?.length)).map((node) => node.id || node.outerHTML)",
    );
    assert_eq!(nameless, json!([]));
    let small = tab.value(
        "[...document.querySelectorAll('button, select, input')].map((node) => [node.id, node.getBoundingClientRect()]) \
         .filter(([, box]) => box.width > 0 && (box.width < 24 || box.height < 24)).map(([id]) => id)",
    );
    assert_eq!(small, json!([]));
    tab.resize(390, 800, 2.0);
    tab.wait("view.canvas.clientWidth <= 390");
    assert_eq!(tab.value("document.documentElement.scrollWidth <= 390"), true, "nothing is cut off on a phone");
    let cut = tab.value(
        "(() => { const tools = document.querySelector('.tools'); return tools.scrollWidth <= tools.clientWidth; })()",
    );
    assert_eq!(cut, true, "every tool is in reach on a phone");
    tab.screenshot("10-phone-dark");
    for place in ["rounds", "review"] {
        tab.push(&format!("to-{place}"));
        tab.wait(&format!("page.place === '{place}'"));
        assert_eq!(tab.value("document.documentElement.scrollWidth <= 390"), true, "{place} on a phone");
    }
    opened.end();
}

/// The file of an image with 1,000 masks, made of one with a single mask.
fn thousand(file: &Value) -> Value {
    let mut file = file.clone();
    let first = file["annotations"][0].clone();
    let masks = (0..1000).map(|n| {
        let (x0, y0) = ((n * 37) % 190, (n * 53) % 140);
        let bitmap = Mask::from_fn([157, 211], |row, column| {
            row >= y0 && row < y0 + 12 && column >= x0 && column < x0 + 16 && (row + column) % 7 != 0
        });
        let rle = Rle::from_mask(&bitmap);
        let mut mask = first.clone();
        mask["id"] = json!(n + 1);
        mask["uuid"] = json!(format!("00000000-0000-4000-8000-{n:012}"));
        mask["segmentation"]["counts"] = json!(rle.to_coco_string());
        mask["area"] = json!(rle.area_px());
        mask["bbox"] = json!([x0, y0, 15, 11]);
        mask
    });
    file["annotations"] = masks.collect();
    file
}

#[test]
fn a_thousand_masks_are_drawn_within_a_frame() {
    let Some(mut opened) = Opened::start() else { return };
    opened.paint([50.5, 40.5], [90.5, 60.5], 1);
    opened.server.kill();
    let path = opened.folder().join("annotations/a.json");
    std::fs::write(&path, thousand(&on_disk(&opened.folder())).to_string()).expect("written");
    opened.restart();
    let tab = &opened.tab;
    tab.reload();
    tab.wait("page.masks.length === 1000");
    tab.wait("(() => { view.draw(); return !page.sprites.isBehind; })()");
    tab.screenshot("11-thousand-masks");
    // Panning: what the script takes for a frame, and how far apart frames are.
    let times = tab.value(
        "(async () => { const own = [], gaps = []; let last = performance.now(); \
         for (let n = 0; n < 60; n++) { \
             const start = performance.now(); gaps.push(start - last); last = start; \
             view.x += 3 * Math.sin(n / 5); view.y += 2 * Math.cos(n / 5); view.draw(); own.push(performance.now() - start); \
             await new Promise(requestAnimationFrame); } \
         const median = (all) => all.sort((a, b) => a - b)[all.length >> 1]; \
         return [median(own), median(gaps)]; })()",
    );
    let [own, gap] = [0, 1].map(|at| times[at].as_f64().expect("a number"));
    let _ =
        writeln!(std::io::stderr(), "1,000 masks: {own:.1} ms of script per frame, {gap:.1} ms from frame to frame");
    assert!(own < 8.0, "a frame of 1,000 masks takes {own:.1} ms of script");
    // One of them is changed: only it is sent, and the list follows.
    tab.value("page.selected = page.masks[700].uuid");
    tab.key("1");
    tab.wait(&format!("page.masks[700].class === 'cat' && {SAVED}"));
    tab.wait("document.querySelector('#objects [aria-selected=true]') !== null");
    assert_eq!(tab.value("document.querySelectorAll('#objects [role=option]').length <= 100"), true);
    opened.end();
}
