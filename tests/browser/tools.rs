//! What the tools make of the mouse, the pen and the keys, compared with the definition.

use sam_image::Rle;
use serde_json::{Value, json};

use super::{ANSWERED, Opened, SAVED};

/// The pixels of a mask on disk, row by row.
fn pixels(mask: &Value) -> Vec<bool> {
    let size = [0, 1].map(|axis| mask["segmentation"]["size"][axis].as_u64().expect("a number") as usize);
    let counts = mask["segmentation"]["counts"].as_str().expect("a text");
    Rle::from_coco_string(size, counts.as_bytes()).expect("a mask").to_mask().pixels().to_vec()
}

/// The pixels of a 211 x 157 image whose middle fulfils a condition.
fn reference(is_set: impl Fn(f64, f64) -> bool) -> Vec<bool> {
    (0..157 * 211).map(|at| is_set((at % 211) as f64 + 0.5, (at / 211) as f64 + 0.5)).collect()
}

fn numbers(values: &Value) -> Vec<f64> {
    values.as_array().expect("a list").iter().map(|value| value.as_f64().expect("a number")).collect()
}

/// The definition of a stroke: what is within a radius of the lines between its points.
fn stroke(painting: &Value) -> Vec<bool> {
    let points: Vec<Vec<f64>> = painting["points"].as_array().expect("points").iter().map(numbers).collect();
    let radii = numbers(&painting["radii"]);
    let is_near = |x: f64, y: f64, index: usize| {
        let (a, b) = (&points[index.saturating_sub(1)], &points[index]);
        let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
        let (px, py) = (x - a[0], y - a[1]);
        let square = dx * dx + dy * dy;
        let t = if square > 0.0 { ((px * dx + py * dy) / square).clamp(0.0, 1.0) } else { 0.0 };
        (px - t * dx).powi(2) + (py - t * dy).powi(2) <= radii[index] * radii[index]
    };
    reference(|x, y| (0..points.len()).any(|index| is_near(x, y, index)))
}

#[test]
fn a_box_may_be_dragged_from_right_to_left() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    tab.drag([120.5, 110.5], [40.5, 30.5], "left");
    tab.wait("page.draft.box !== null && page.draft.candidates.length === 1 && !page.draft.isAsking");
    let corners = numbers(&tab.value("page.draft.box"));
    for (corner, expected) in corners.iter().zip([40.5, 30.5, 120.5, 110.5]) {
        assert!((corner - expected).abs() < 0.5, "{corners:?}");
    }
    tab.screenshot("05-box");
    opened.end();
}

#[test]
fn a_click_hits_the_same_pixel_when_zoomed_on_a_fine_screen() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    tab.resize(1100, 700, 2.0);
    tab.wait("view.canvas.width === 2 * view.canvas.clientWidth");
    tab.value("view.zoom(3.3, [300, 200])");
    let middle =
        numbers(&tab.value("view.toImage(view.place.map((side) => side / 2)).map((at) => Math.floor(at) + 0.5)"));
    tab.click([middle[0], middle[1]], "left");
    tab.wait("page.draft.points.length === 1 && !page.draft.isAsking");
    let hit = numbers(&tab.value("page.draft.points[0].xy.map(Math.floor)"));
    assert_eq!(hit, [middle[0].floor(), middle[1].floor()]);
    opened.end();
}

#[test]
fn a_stroke_is_the_pixels_within_its_radius() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    tab.key("b");
    tab.drag([60.5, 40.5], [150.5, 90.5], "left");
    tab.wait("page.draft.paintings.length === 1 && page.draft.mask !== null");
    let painted = stroke(&tab.value("page.draft.paintings[0]"));
    // The right button erases; the mask is what is painted and not erased.
    tab.drag([100.5, 20.5], [100.5, 120.5], "right");
    tab.wait("page.draft.paintings.length === 2");
    let erased = stroke(&tab.value("page.draft.paintings[1]"));
    opened.commit(1);
    let mask = opened.on_disk()["annotations"][0].clone();
    assert_eq!((&mask["source"], &mask["prompts"]["strokes"]), (&json!("manual"), &json!(2)));
    let expected: Vec<bool> = painted.iter().zip(&erased).map(|(set, gone)| *set && !gone).collect();
    assert!(pixels(&mask) == expected, "every pixel");
    assert!(expected.iter().filter(|set| **set).count() > 1000);
    opened.end();
}

#[test]
fn a_pen_paints_by_its_pressure() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    tab.key("b");
    let pen = |force: f64| json!({"pointerType": "pen", "force": force});
    let places = [[40.5, 80.5], [80.5, 80.5], [120.5, 80.5]].map(|pixel| tab.place(pixel));
    tab.mouse("mouseMoved", places[0], "none", &pen(0.0));
    tab.mouse("mousePressed", places[0], "left", &pen(0.1));
    tab.mouse("mouseMoved", places[1], "left", &pen(0.5));
    tab.mouse("mouseMoved", places[2], "left", &pen(1.0));
    tab.mouse("mouseReleased", places[2], "left", &pen(0.0));
    tab.wait("page.draft.paintings.length === 1 && page.draft.mask !== null");
    let painting = tab.value("page.draft.paintings[0]");
    let radii = numbers(&painting["radii"]);
    assert!(radii[0] < radii[1] && radii[1] < radii[2], "{radii:?}");
    opened.commit(1);
    assert!(pixels(&opened.on_disk()["annotations"][0]) == stroke(&painting), "every pixel");
    opened.end();
}

#[test]
fn a_polygon_is_filled_added_and_cut() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    let corners = [[40.5, 30.5], [150.5, 40.5], [130.5, 120.5], [60.5, 90.5]];
    tab.key("p");
    tab.click(corners[0], "left");
    tab.click(corners[1], "left");
    tab.click([200.5, 140.5], "left");
    tab.wait("page.polygon?.corners.length === 3");
    tab.screenshot("06-polygon");
    tab.key("Backspace");
    tab.wait("page.polygon.corners.length === 2");
    tab.click(corners[2], "left");
    tab.click(corners[3], "left");
    // A click on the first corner closes it.
    tab.click(corners[0], "left");
    tab.wait("page.polygon === null && page.draft.paintings.length === 1 && page.draft.mask !== null");
    let places: Vec<Vec<f64>> =
        tab.value("page.draft.paintings[0].corners").as_array().expect("corners").iter().map(numbers).collect();
    assert_eq!(places.len(), 4);
    // A triangle is cut out of it, closed by a key.
    for corner in [[80.5, 50.5], [120.5, 50.5], [100.5, 80.5]] {
        tab.click(corner, "right");
    }
    tab.key("Enter");
    tab.wait("page.draft.paintings.length === 2");
    let cut: Vec<Vec<f64>> =
        tab.value("page.draft.paintings[1].corners").as_array().expect("corners").iter().map(numbers).collect();
    opened.commit(1);
    let is_inside = |corners: &[Vec<f64>], x: f64, y: f64| {
        let crosses = |n: usize| {
            let (a, b) = (&corners[(n + corners.len() - 1) % corners.len()], &corners[n]);
            (a[1] <= y) != (b[1] <= y) && x >= a[0] + ((y - a[1]) / (b[1] - a[1])) * (b[0] - a[0])
        };
        (0..corners.len()).filter(|n| crosses(*n)).count() % 2 == 1
    };
    let expected = reference(|x, y| is_inside(&places, x, y) && !is_inside(&cut, x, y));
    assert!(pixels(&opened.on_disk()["annotations"][0]) == expected, "every pixel");
    assert!(expected.iter().filter(|set| **set).count() > 3000);
    // Esc leaves one that is not closed.
    tab.click(corners[0], "left");
    tab.wait("page.polygon !== null");
    tab.key("Escape");
    tab.wait("page.polygon === null && page.draft.isEmpty");
    opened.end();
}

#[test]
fn a_mask_is_refined_by_clicks() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    tab.click([100.5, 80.5], "left");
    opened.commit(1);
    let before = opened.on_disk()["annotations"][0].clone();
    // Alt and a click on the mask choose it.
    let pixel = numbers(&tab.value("(() => { const { bounds, height } = page.masks[0].shape; return [Math.floor(bounds[0] / height) + 0.5, bounds[0] % height + 0.5]; })()"));
    tab.click_with([pixel[0], pixel[1]], "left", &json!({"modifiers": 1}));
    tab.wait("page.selected === page.masks[0].uuid");
    tab.screenshot("07-chosen");
    tab.click([150.5, 110.5], "left");
    tab.wait(&format!("page.draft.revises !== null && page.draft.candidates.length === 1 && {ANSWERED}"));
    assert_eq!(
        tab.value("page.draft.context().mask.counts"),
        before["segmentation"]["counts"],
        "the request has the mask"
    );
    opened.commit(1);
    let after = opened.on_disk()["annotations"][0].clone();
    assert_eq!(after["uuid"], before["uuid"]);
    assert_ne!(after["segmentation"], before["segmentation"]);
    assert_eq!(after["prompts"]["points"].as_array().map(Vec::len), Some(2), "the first click stays recorded");
    tab.key("z");
    tab.wait(&format!("page.masks[0].prompts.points.length === 1 && {SAVED}"));
    assert_eq!(opened.on_disk()["annotations"][0]["segmentation"], before["segmentation"]);
    opened.end();
}

/// The mask of a click is seen before it, and is no click.
#[test]
fn the_mask_under_the_pointer_is_previewed() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    let at = tab.place([100.5, 80.5]);
    tab.mouse("mouseMoved", at, "none", &json!({}));
    tab.wait("page.hover.mask !== null");
    tab.screenshot("08-preview");
    assert_eq!(tab.value("page.draft.isEmpty && page.masks.length === 0"), true);
    tab.key("o");
    tab.wait("page.hover.mask === null");
    tab.key("o");
    tab.wait("page.hover.mask !== null");
    // A click takes its place.
    tab.click([100.5, 80.5], "left");
    tab.wait(&format!("page.hover.mask === null && {ANSWERED}"));
    opened.end();
}

/// From the first Tab to the last mask without a mouse: click, brush, box, polygon, state, list.
#[test]
fn everything_can_be_done_with_keys_only() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    let keys = |keys: &[&str]| keys.iter().for_each(|key| tab.key(key));
    for _ in 0..60 {
        if tab.value("document.activeElement?.id") == "canvas" {
            break;
        }
        tab.key("Tab");
    }
    assert_eq!(tab.value("document.activeElement.id"), "canvas");
    keys(&["ArrowLeft", "Shift+ArrowUp", "Enter"]);
    tab.wait(&format!("page.draft.points.length === 1 && page.cursor === null && {ANSWERED}"));
    opened.commit(1);
    keys(&["b", "Shift+ArrowRight", "Enter", "Shift+ArrowRight", "Shift+ArrowRight", "Enter"]);
    tab.wait("page.draft.paintings.length === 1 && page.draft.paintings[0].points.length === 3");
    opened.commit(2);
    keys(&["c", "Shift+ArrowLeft", "q", "Shift+ArrowDown", "Shift+ArrowRight", "Enter"]);
    tab.wait("page.draft.box !== null && !page.draft.isAsking");
    keys(&[
        "Escape",
        "p",
        "Shift+ArrowLeft",
        "Enter",
        "Shift+ArrowDown",
        "Enter",
        "Shift+ArrowRight",
        "Enter",
        "Enter",
    ]);
    tab.wait("page.polygon === null && page.draft.paintings.length === 1 && page.draft.mask !== null");
    opened.commit(3);
    keys(&["g"]);
    tab.wait(&format!("page.project.images[page.index].state === 'done' && {SAVED}"));
    tab.value("document.getElementById('objects').focus()");
    keys(&["ArrowDown", "ArrowDown"]);
    tab.wait("page.selected === page.masks[1].uuid");
    keys(&["Delete"]);
    tab.wait(&format!("page.masks.length === 2 && {SAVED}"));
    assert_eq!(opened.on_disk()["image"]["state"], "done");
    opened.end();
}

/// One finger clicks, two move the image and click nothing; a button stands in for the right one.
#[test]
fn a_finger_clicks_and_two_fingers_zoom() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    let touch = |kind: &str, places: &[[f64; 2]]| {
        let points: Vec<Value> =
            places.iter().enumerate().map(|(id, [x, y])| json!({"x": x, "y": y, "id": id})).collect();
        tab.call("Input.dispatchTouchEvent", json!({"type": kind, "touchPoints": points}));
    };
    let (a, b) = (tab.place([60.5, 60.5]), tab.place([150.5, 100.5]));
    let scale = tab.value("view.scale").as_f64().expect("a number");
    touch("touchStart", &[a]);
    touch("touchStart", &[a, b]);
    touch("touchMove", &[[a[0] - 60.0, a[1] - 40.0], [b[0] + 60.0, b[1] + 40.0]]);
    touch("touchEnd", &[]);
    tab.wait(&format!("view.scale > {scale} * 1.1"));
    assert_eq!(tab.value("page.draft.isEmpty && page.hover.mask === null"), true);
    tab.value("view.fit()");
    let tap = |pixel: [f64; 2]| {
        touch("touchStart", &[tab.place(pixel)]);
        touch("touchEnd", &[]);
    };
    tap([100.5, 80.5]);
    tab.wait(&format!("page.draft.points.length === 1 && page.draft.points[0].positive && {ANSWERED}"));
    tab.push("sign");
    tap([30.5, 120.5]);
    tab.wait("page.draft.points.length === 2 && !page.draft.points[1].positive && !page.draft.isAsking");
    opened.end();
}
