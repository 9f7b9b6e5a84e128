//! The annotator's page in a real browser: Chromium, spoken to over its debugging pipe.
//!
//! Without a browser the test says so and passes; with `SAM_TRAIN_BROWSER_TESTS=1` it fails then. `SAM_TRAIN_BROWSER` names one.
//! With `SAM_TRAIN_SCREENSHOTS=DIR`, what the page looks like is kept there.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::annotate_cli::{Served, project};

const PATIENCE: Duration = Duration::from_secs(30);

/// A page in a headless browser.
struct Browser {
    child: Child,
    to: ChildStdin,
    messages: Receiver<Value>,
    n_sent: u64,
    session: Option<String>,
    /// Exceptions in the page.
    exceptions: Vec<String>,
    _profile: tempfile::TempDir,
}

fn installed() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SAM_TRAIN_BROWSER") {
        return Some(named.into());
    }
    let names = ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    names.iter().flat_map(|name| folders.iter().map(move |folder| folder.join(name))).find(|file| file.is_file())
}

impl Browser {
    /// Starts the browser; `None` when there is none and none is required.
    fn start() -> Option<Self> {
        let Some(program) = installed() else {
            let is_required = std::env::var_os("SAM_TRAIN_BROWSER_TESTS").is_some_and(|value| value == "1");
            assert!(!is_required, "SAM_TRAIN_BROWSER_TESTS=1, and no browser is installed: apt install chromium");
            // Past the test runner, which shows the output of failed tests only.
            let _ = writeln!(std::io::stderr(), "skipped: no browser is installed (apt install chromium)");
            return None;
        };
        let profile = tempfile::tempdir().expect("a folder");
        // The browser reads from descriptor 3 and writes to 4; a shell can pass them on.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null"])
            .arg(program)
            .args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-dev-shm-usage",
                "--mute-audio",
            ])
            .args(["--window-size=1280,800", &format!("--user-data-dir={}", profile.path().display())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell starts");
        let (to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (sender, messages) = channel();
        std::thread::spawn(move || {
            for message in BufReader::new(from).split(0).map_while(Result::ok) {
                let Ok(message) = serde_json::from_slice(&message) else { continue };
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let exceptions = Vec::new();
        let mut browser = Self { child, to, messages, n_sent: 0, session: None, exceptions, _profile: profile };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target["targetId"], "flatten": true}));
        browser.session = attached["sessionId"].as_str().map(str::to_owned);
        browser.call("Page.enable", json!({}));
        browser.call("Runtime.enable", json!({}));
        Some(browser)
    }

    /// Calls a method of the protocol.
    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.try_call(method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    fn try_call(&mut self, method: &str, parameters: Value) -> Result<Value, Value> {
        self.n_sent += 1;
        let mut message = json!({"id": self.n_sent, "method": method, "params": parameters});
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        loop {
            let answer = self.messages.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{method}: no answer"));
            if answer["method"] == "Runtime.exceptionThrown" {
                self.exceptions.push(answer["params"]["exceptionDetails"].to_string());
            }
            if answer["id"] == self.n_sent {
                return if answer["error"].is_null() {
                    Ok(answer["result"].clone())
                } else {
                    Err(answer["error"].clone())
                };
            }
        }
    }

    /// The value of an expression in the page; `page` and `view` are what `app.js` exports.
    fn value(&mut self, expression: &str) -> Value {
        let expression = format!(
            "import('/page/app.js').then(({{ page, objectAt }}) => {{ const view = page.view; return {expression}; }})"
        );
        let answer = self
            .call("Runtime.evaluate", json!({"expression": expression, "awaitPromise": true, "returnByValue": true}));
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    fn wait(&mut self, expression: &str) {
        let start = Instant::now();
        while self.value(expression) != true {
            if start.elapsed() > PATIENCE {
                let message = self.value("document.getElementById('message').textContent");
                panic!("{expression} stays false; the page says {message}, exceptions {:?}", self.exceptions);
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn open(&mut self, address: &str) {
        self.call("Page.navigate", json!({"url": address}));
        self.settle();
    }

    fn reload(&mut self) {
        // What is there before the new page comes must not be taken for it.
        self.call("Runtime.evaluate", json!({"expression": "window.isOld = true"}));
        self.call("Page.reload", json!({}));
        self.settle();
    }

    /// Waits until the page shows its image.
    fn settle(&mut self) {
        let start = Instant::now();
        let ready = "window.isOld === undefined && document.readyState === 'complete' && location.pathname === '/' \
                     && location.search === '' && document.getElementById('canvas') !== null";
        // Between two pages there is nothing that could answer.
        while self
            .try_call("Runtime.evaluate", json!({"expression": ready, "returnByValue": true}))
            .map(|answer| answer["result"]["value"] == true)
            != Ok(true)
        {
            assert!(start.elapsed() < PATIENCE, "the page does not load");
            std::thread::sleep(Duration::from_millis(30));
        }
        self.wait("view.picture !== null && page.draft.size !== null");
    }

    fn mouse(&mut self, kind: &str, [x, y]: [f64; 2], button: &str) {
        let pressed = json!({"none": 0, "left": 1, "right": 2})[button].clone();
        let event = json!({"type": kind, "x": x, "y": y, "button": button, "buttons": pressed, "clickCount": 1});
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Where a pixel of the image is on the page.
    fn place(&mut self, [x, y]: [f64; 2]) -> [f64; 2] {
        let at = self.value(&format!(
            "(([x, y]) => {{ const box = view.canvas.getBoundingClientRect(); return [x + box.left, y + box.top]; }})(view.toCanvas([{x}, {y}]))"
        ));
        [0, 1].map(|axis| at[axis].as_f64().expect("a number"))
    }

    /// Clicks on a pixel of the image.
    fn click(&mut self, pixel: [f64; 2], button: &str) {
        let at = self.place(pixel);
        self.mouse("mouseMoved", at, "none");
        self.mouse("mousePressed", at, button);
        self.mouse("mouseReleased", at, button);
    }

    /// Drags from a pixel of the image to another.
    fn drag(&mut self, from: [f64; 2], to: [f64; 2]) {
        let (from, to) = (self.place(from), self.place(to));
        self.mouse("mouseMoved", from, "none");
        self.mouse("mousePressed", from, "left");
        self.mouse("mouseMoved", [0, 1].map(|axis| f64::midpoint(from[axis], to[axis])), "left");
        self.mouse("mouseMoved", to, "left");
        self.mouse("mouseReleased", to, "left");
    }

    fn key(&mut self, key: &str) {
        let text = if key.len() == 1 { key } else { "" };
        self.call("Input.dispatchKeyEvent", json!({"type": "keyDown", "key": key, "text": text}));
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
    }

    /// Keeps a picture of the page where somebody wants to look at it.
    fn screenshot(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("SAM_TRAIN_SCREENSHOTS").map(PathBuf::from) else { return };
        let data = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let text = data["data"].as_str().expect("base64");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("{name}.png")), base64(text)).expect("written");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.to.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bytes of a base64 text.
fn base64(text: &str) -> Vec<u8> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits = text.bytes().filter_map(|byte| ALPHABET.iter().position(|&letter| letter == byte)).collect::<Vec<_>>();
    let group = |four: &[usize]| {
        let word = (0..4).fold(0, |word, at| word << 6 | four.get(at).copied().unwrap_or(0));
        [16, 8, 0].map(|shift| (word >> shift) as u8)[..four.len() - 1].to_vec()
    };
    digits.chunks(4).flat_map(group).collect()
}

/// The annotation file of the first image.
fn on_disk(folder: &Path) -> Value {
    let bytes = std::fs::read(folder.join("annotations/a.json")).expect("annotated");
    serde_json::from_slice(&bytes).expect("a whole file")
}

/// Click, negative click, undo, commit; the server is killed; the page shows the mask again. Then a stroke while the server is
/// away, which is saved once it is back, undone, and redone.
#[test]
fn a_mask_is_made_in_a_browser_and_nothing_is_lost() {
    let Some(mut browser) = Browser::start() else { return };
    let run = project("cat,<img src=x onerror=alert(1)>");
    let folder = run.path("project");
    let mut server = Served::start(&folder, 0);
    browser.open(&server.address());
    browser.wait("page.readiness.state === 'ready'");
    browser.screenshot("1-opened");
    assert_eq!(browser.value("page.view.size"), json!([211, 157]));

    browser.click([100.5, 80.5], "left");
    browser.wait("page.draft.candidates.length === 3 && !page.draft.isAsking");
    let points = browser.value("page.draft.prompt().points");
    let error = |axis: usize, expected: f64| (points[0][axis].as_f64().expect("a number") - expected).abs();
    assert!(error(0, 100.5) < 0.5 && error(1, 80.5) < 0.5 && points[0][2] == 1, "{points}");
    let three = browser.value("page.draft.candidates.map(({ segmentation }) => segmentation.counts)");
    let largest =
        browser.value("page.draft.candidates.reduce((best, { area }, n, all) => area > all[best].area ? n : best, 0)");
    browser.key(&(largest.as_u64().expect("an index") + 1).to_string());
    browser.wait(&format!("page.draft.choice === {largest} && page.draft.crop !== null"));
    browser.screenshot("2-three-masks");

    browser.click([30.5, 120.5], "right");
    browser.wait("page.draft.candidates.length === 1 && !page.draft.isAsking");
    assert_eq!(browser.value("page.draft.prompt().points[1][2]"), 0);
    assert!(!three.as_array().expect("three").contains(&browser.value("page.draft.candidates[0].segmentation.counts")));
    browser.key("z");
    browser.wait("page.draft.candidates.length === 3 && !page.draft.isAsking");
    assert_eq!(
        browser.value("page.draft.candidates.map(({ segmentation }) => segmentation.counts)"),
        three,
        "as before the click"
    );

    let best = browser.value("page.draft.candidates[page.draft.choice].segmentation");
    browser.wait("page.draft.crop !== null");
    browser.key("Enter");
    browser.wait("page.masks.length === 1 && document.getElementById('saved').dataset.state === 'saved'");
    assert_eq!(on_disk(&folder)["annotations"][0]["segmentation"], best);
    assert_eq!(on_disk(&folder)["annotations"][0]["prompts"]["points"].as_array().map(Vec::len), Some(1));

    // Killed between the commit and the reload.
    server.kill();
    let mut server = Served::start(&folder, server.port);
    browser.reload();
    browser.wait("page.masks.length === 1 && document.querySelectorAll('#objects li').length === 1");
    assert_eq!(browser.value("page.masks[0].segmentation"), best, "the cookie and the mask are still good");
    let is_drawn = "(() => { const { crop } = page.masks[0]; const at = crop.data.indexOf(1); \
        const pixel = [crop.x + at % crop.width + 0.5, crop.y + Math.floor(at / crop.width) + 0.5]; \
        const [x, y] = view.toCanvas(pixel); const context = view.canvas.getContext('2d'); \
        const look = () => { view.draw(); return context.getImageData(x, y, 1, 1).data.join(); }; \
        const shown = look(); page.allHidden = true; const bare = look(); page.allHidden = false; view.draw(); \
        return shown !== bare && objectAt(...pixel) === page.masks[0]; })()";
    browser.wait(is_drawn);
    assert_eq!(browser.value("document.querySelectorAll('img').length"), 0, "a class with markup is text");
    assert_eq!(browser.value("document.getElementById('class').options[2].value"), "<img src=x onerror=alert(1)>");
    browser.screenshot("3-reloaded");

    away_and_back(&mut browser, &mut server, &folder);
    looks(&mut browser);
    assert_eq!(browser.exceptions, [""; 0]);
}

/// A stroke is committed while the server is away.
fn away_and_back(browser: &mut Browser, server: &mut Served, folder: &Path) {
    server.kill();
    browser.key("b");
    browser.drag([150.5, 40.5], [190.5, 60.5]);
    browser.wait("page.draft.crop !== null && page.draft.strokes.length === 1");
    let area = browser.value("page.draft.crop.data.reduce((sum, value) => sum + value, 0)");
    browser.key("Enter");
    browser.wait("document.getElementById('saved').dataset.state === 'offline' && page.masks.length === 2");
    browser.screenshot("4-no-connection");
    assert_eq!(on_disk(folder)["annotations"].as_array().map(Vec::len), Some(1));
    *server = Served::start(folder, server.port);
    browser.wait("document.getElementById('saved').dataset.state === 'saved'");
    let file = on_disk(folder);
    assert_eq!((&file["annotations"][1]["source"], &file["annotations"][1]["area"]), (&json!("manual"), &area));
    // A stroke of radius r and length l covers pi r^2 + 2 r l pixels, all but those at its edge.
    let (radius, length) = (12.0, 40f64.hypot(20.0));
    let expected = std::f64::consts::PI * radius * radius + 2.0 * radius * length;
    assert!((area.as_f64().expect("a number") - expected).abs() < 0.05 * expected, "{area} {expected}");

    browser.key("z");
    browser.wait("page.masks.length === 1 && document.getElementById('saved').dataset.state === 'saved'");
    assert_eq!(on_disk(folder)["annotations"].as_array().map(Vec::len), Some(1));
    browser.key("Z");
    browser.wait("page.masks.length === 2 && document.getElementById('saved').dataset.state === 'saved'");
    assert_eq!(on_disk(folder)["annotations"][1]["uuid"], file["annotations"][1]["uuid"]);
    browser.key("c");
}

/// A box dragged from right to left; the same pixel at another zoom and two device pixels per pixel; dark, and as wide as a phone.
fn looks(browser: &mut Browser) {
    browser.drag([120.5, 110.5], [40.5, 30.5]);
    browser.wait("page.draft.box !== null && page.draft.candidates.length === 1 && !page.draft.isAsking");
    let corners = browser.value("page.draft.box");
    for (axis, expected) in [40.5, 30.5, 120.5, 110.5].into_iter().enumerate() {
        assert!((corners[axis].as_f64().expect("a number") - expected).abs() < 0.5, "{corners}");
    }
    browser.screenshot("5-box");
    browser.key("Escape");
    let metrics = |width: u32, height: u32, ratio: f64| json!({"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": false});
    browser.call("Emulation.setDeviceMetricsOverride", metrics(1100, 700, 2.0));
    browser
        .call("Emulation.setEmulatedMedia", json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]}));
    browser.wait("view.canvas.width === 2 * view.canvas.clientWidth");
    browser.value("view.zoom(3.3, [300, 200])");
    let middle = browser.value("view.toImage(view.place.map((side) => side / 2)).map((at) => Math.floor(at) + 0.5)");
    let pixel = [0, 1].map(|axis| middle[axis].as_f64().expect("a number"));
    browser.click(pixel, "left");
    browser.wait("page.draft.points.length === 1 && !page.draft.isAsking");
    let hit = browser.value("page.draft.points[0].xy.map(Math.floor)");
    assert_eq!(hit, json!(pixel.map(|at| at.floor() as i64)));
    browser.screenshot("6-dark-zoomed");
    browser.key("Escape");
    browser.call("Emulation.setDeviceMetricsOverride", metrics(390, 800, 2.0));
    browser.wait("view.canvas.clientWidth <= 390");
    browser.value("view.fit()");
    assert_eq!(browser.value("document.documentElement.scrollWidth <= 390"), true, "nothing is cut off on a phone");
    browser.screenshot("7-phone-dark");
    browser.key("?");
    browser.wait("document.getElementById('help').open");
    browser.call("Emulation.setDeviceMetricsOverride", metrics(1280, 800, 1.0));
    browser.screenshot("8-help-dark");
}
