//! The annotator's page in a real browser: the real program serves it, Chromium shows it.
//!
//! Without a browser the tests say so and pass; with `SAM_TRAIN_BROWSER_TESTS=1` they fail then. `SAM_TRAIN_BROWSER` names one.
//! With `SAM_TRAIN_SCREENSHOTS=DIR`, what the page looks like is kept there.

mod chromium;
mod lasting; // what survives: kills, reloads, other tabs, a server that is away, late answers
mod looks; // sizes, contrast, names, 1,000 masks
mod places; // proposals, rounds, review, keys, classes
mod texts; // the text prompt
mod tools; // box, brush, pen, polygon, refinement, keys only

use std::path::{Path, PathBuf};

use serde_json::Value;

use self::chromium::{Profile, Tab};
use crate::annotate_cli::{Served, project};
use crate::cli::Run;

/// A class that is a trap.
const MARKUP: &str = "<img src=x onerror=alert(1)>";

/// `saved` says that everything is on disk.
const SAVED: &str = "document.getElementById('saved').dataset.state === 'saved' && page.outbox.waiting.length === 0";
/// The newest click is answered.
const ANSWERED: &str = "!page.draft.isAsking && page.draft.mask !== null";

/// A project that is served and shown.
struct Opened {
    tab: Tab,
    server: Served,
    run: Run,
    profile: Profile,
}

impl Opened {
    /// Two images, the classes cat and one with markup; `None` without a browser.
    fn start() -> Option<Self> {
        let profile = Profile::start()?;
        Some(Self::of(project(&format!("cat,{MARKUP}")), profile))
    }

    fn of(run: Run, profile: Profile) -> Self {
        let server = Served::start(&run.path("project"), 0);
        let tab = profile.tab();
        tab.open(&server.address());
        Self { tab, server, run, profile }
    }

    fn folder(&self) -> PathBuf {
        self.run.path("project")
    }

    fn restart(&mut self) {
        self.server = Served::start(&self.folder(), self.server.port);
    }

    fn on_disk(&self) -> Value {
        on_disk(&self.folder())
    }

    /// Commits the mask in the making and waits until it is on disk.
    fn commit(&self, n_masks: usize) {
        self.tab.wait(ANSWERED);
        self.tab.key("Enter");
        self.tab.wait(&format!("page.masks.length === {n_masks} && page.draft.isEmpty && {SAVED}"));
    }

    /// A mask of one stroke.
    fn paint(&self, from: [f64; 2], to: [f64; 2], n_masks: usize) {
        self.tab.key("b");
        self.tab.drag(from, to, "left");
        self.commit(n_masks);
        self.tab.key("c");
    }

    /// The end of a test: nothing has gone wrong unseen.
    fn end(self) {
        assert_eq!(self.tab.exceptions(), [""; 0]);
    }
}

/// The annotation file of the first image.
fn on_disk(folder: &Path) -> Value {
    let bytes = std::fs::read(folder.join("annotations/a.json")).expect("annotated");
    serde_json::from_slice(&bytes).expect("a whole file")
}

/// Click, one of three masks, negative click, undo, commit.
#[test]
fn a_mask_is_made_by_clicks_in_a_browser() {
    let Some(opened) = Opened::start() else { return };
    let tab = &opened.tab;
    tab.screenshot("01-opened");
    assert_eq!(tab.value("view.size"), serde_json::json!([211, 157]));

    tab.click([100.5, 80.5], "left");
    tab.wait(&format!("page.draft.candidates.length === 3 && {ANSWERED}"));
    let points = tab.value("page.draft.prompt().points");
    let error = |axis: usize, expected: f64| (points[0][axis].as_f64().expect("a number") - expected).abs();
    assert!(error(0, 100.5) < 0.5 && error(1, 80.5) < 0.5 && points[0][2] == 1, "{points}");
    let all = "page.draft.candidates.map(({ segmentation }) => segmentation.counts)";
    let three = tab.value(all);
    let largest =
        tab.value("page.draft.candidates.reduce((best, { area }, n, all) => area > all[best].area ? n : best, 0)");
    tab.key(&(largest.as_u64().expect("an index") + 1).to_string());
    tab.wait(&format!("page.draft.choice === {largest} && page.draft.mask !== null"));
    tab.screenshot("02-three-masks");

    tab.click([30.5, 120.5], "right");
    tab.wait("page.draft.candidates.length === 1 && !page.draft.isAsking");
    assert_eq!(tab.value("page.draft.prompt().points[1][2]"), 0);
    assert!(!three.as_array().expect("three").contains(&tab.value("page.draft.candidates[0].segmentation.counts")));
    tab.key("z");
    tab.wait("page.draft.candidates.length === 3 && !page.draft.isAsking");
    assert_eq!(tab.value(all), three, "as before the click");

    let best = tab.value("page.draft.candidates[page.draft.choice].segmentation");
    opened.commit(1);
    let file = opened.on_disk();
    assert_eq!(file["annotations"][0]["segmentation"], best);
    assert_eq!(file["annotations"][0]["source"], "assisted");
    assert_eq!(file["annotations"][0]["prompts"]["points"].as_array().map(Vec::len), Some(1));

    // Enter before the answer commits with it.
    tab.click([60.5, 60.5], "left");
    tab.key("Enter");
    tab.wait(&format!("page.masks.length === 2 && {SAVED}"));
    opened.end();
}
