//! Chromium, spoken to over its debugging pipe: one process for all tests, a profile of its own for each.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Nothing here takes a second; a machine that compiles meanwhile is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Requests that tests hold back, to see what the page does with late answers.
const HOLD: &str = "const real = window.fetch; window.held = []; window.fetch = (url, options) => { \
    if (window.isDeaf && String(url).startsWith('/api/pulse')) return new Promise(() => {}); \
    if (!window.holds || url !== '/api/predict' || JSON.parse(options.body).hover) return real(url, options); \
    const { signal, ...rest } = options; \
    return new Promise((answer, fail) => window.held.push(() => real(url, rest).then(answer, fail))); };";

/// The process, and who waits for its answers.
struct Chromium {
    _child: Child,
    to: Mutex<ChildStdin>,
    n_sent: AtomicU64,
    waiting: Mutex<HashMap<u64, Sender<Value>>>,
    /// Exceptions of pages, with the session they happened in.
    exceptions: Mutex<Vec<(String, String)>>,
}

static CHROMIUM: OnceLock<Option<Chromium>> = OnceLock::new();

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A folder for the process; those of test runs that have ended are removed.
fn profile_folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(id) = name.strip_prefix("browser-")
            && !Path::new("/proc").join(id).exists()
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    folder.join(format!("browser-{}", std::process::id()))
}

impl Chromium {
    fn start() -> Option<Self> {
        let Some(program) = installed() else {
            let is_required = std::env::var_os("SAM_TRAIN_BROWSER_TESTS").is_some_and(|value| value == "1");
            assert!(!is_required, "SAM_TRAIN_BROWSER_TESTS=1, and no browser is installed: apt install chromium");
            // Past the test runner, which shows the output of failed tests only.
            let _ = writeln!(std::io::stderr(), "skipped: no browser is installed (apt install chromium)");
            return None;
        };
        // The browser reads from descriptor 3 and writes to 4; a shell can pass them on. It ends with its pipe.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>/dev/null"])
            .arg(program)
            .args(["--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"])
            .args(["--disable-background-timer-throttling", "--disable-renderer-backgrounding", "--mute-audio"])
            .args(["--window-size=1280,800", &format!("--user-data-dir={}", profile_folder().display())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell starts");
        let (to, from) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        std::thread::spawn(move || {
            for message in BufReader::new(from).split(0).map_while(Result::ok) {
                if let (Ok(message), Some(chromium)) = (serde_json::from_slice(&message), chromium()) {
                    chromium.receive(&message);
                }
            }
        });
        Some(Self {
            _child: child,
            to: Mutex::new(to),
            n_sent: AtomicU64::new(1),
            waiting: Mutex::default(),
            exceptions: Mutex::default(),
        })
    }

    fn receive(&self, message: &Value) {
        let session = message["sessionId"].as_str().unwrap_or_default();
        match message["method"].as_str() {
            Some("Runtime.exceptionThrown") => {
                let details = message["params"]["exceptionDetails"].to_string();
                lock(&self.exceptions).push((session.to_owned(), details));
            }
            // Whether a page may be left is asked of people.
            Some("Page.javascriptDialogOpening") => {
                self.send(Some(session), "Page.handleJavaScriptDialog", &json!({"accept": true}), None);
            }
            _ => {
                let waits = message["id"].as_u64().and_then(|id| lock(&self.waiting).remove(&id));
                if let Some(waits) = waits {
                    let _ = waits.send(message.clone());
                }
            }
        }
    }

    fn send(&self, session: Option<&str>, method: &str, parameters: &Value, answer: Option<Sender<Value>>) {
        let id = self.n_sent.fetch_add(1, Ordering::Relaxed);
        if let Some(answer) = answer {
            lock(&self.waiting).insert(id, answer);
        }
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        lock(&self.to).write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
    }

    fn try_call(&self, session: Option<&str>, method: &str, parameters: &Value) -> Result<Value, Value> {
        let (sender, answers) = channel();
        self.send(session, method, parameters, Some(sender));
        let answer = answers.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{method}: no answer"));
        if answer["error"].is_null() { Ok(answer["result"].clone()) } else { Err(answer["error"].clone()) }
    }

    fn call(&self, session: Option<&str>, method: &str, parameters: &Value) -> Value {
        self.try_call(session, method, parameters).unwrap_or_else(|error| panic!("{method}: {error}"))
    }
}

/// The process, once it is started.
fn chromium() -> Option<&'static Chromium> {
    CHROMIUM.get_or_init(Chromium::start).as_ref()
}

/// Cookies and storage of one test; its tabs share them.
pub(crate) struct Profile {
    chromium: &'static Chromium,
    context: String,
}

impl Drop for Profile {
    fn drop(&mut self) {
        let _ =
            self.chromium.try_call(None, "Target.disposeBrowserContext", &json!({"browserContextId": self.context}));
    }
}

impl Profile {
    /// `None` when there is no browser and none is required.
    pub(crate) fn start() -> Option<Self> {
        let chromium = chromium()?;
        let made = chromium.call(None, "Target.createBrowserContext", &json!({}));
        Some(Self { chromium, context: made["browserContextId"].as_str().expect("an id").to_owned() })
    }

    /// An empty tab of 1280 x 800 px.
    pub(crate) fn tab(&self) -> Tab {
        let parameters = json!({"url": "about:blank", "browserContextId": self.context});
        let target = self.chromium.call(None, "Target.createTarget", &parameters)["targetId"].clone();
        let parameters = json!({"targetId": target, "flatten": true});
        let attached = self.chromium.call(None, "Target.attachToTarget", &parameters);
        let session = attached["sessionId"].as_str().expect("an id").to_owned();
        let tab = Tab { chromium: self.chromium, session };
        tab.call("Page.enable", json!({}));
        tab.call("Runtime.enable", json!({}));
        // As if it were in front: its keys arrive, its frames are drawn.
        tab.call("Emulation.setFocusEmulationEnabled", json!({"enabled": true}));
        tab.call("Page.addScriptToEvaluateOnNewDocument", json!({"source": HOLD}));
        tab.resize(1280, 800, 1.0);
        tab
    }
}

/// A page.
pub(crate) struct Tab {
    chromium: &'static Chromium,
    session: String,
}

impl Tab {
    /// Calls a method of the protocol.
    pub(crate) fn call(&self, method: &str, parameters: Value) -> Value {
        self.chromium.call(Some(&self.session), method, &parameters)
    }

    /// The exceptions in the page so far.
    pub(crate) fn exceptions(&self) -> Vec<String> {
        let all = lock(&self.chromium.exceptions);
        all.iter().filter(|(session, _)| *session == self.session).map(|(_, text)| text.clone()).collect()
    }

    /// The value of an expression in the page; `page` and `objectAt` are what `app.js` exports.
    pub(crate) fn value(&self, expression: &str) -> Value {
        let expression = format!(
            "import('/page/app.js').then(({{ page, objectAt }}) => {{ const view = page.view; return {expression}; }})"
        );
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// Waits until an expression is true.
    pub(crate) fn wait(&self, expression: &str) {
        let start = Instant::now();
        while self.value(expression) != true {
            if start.elapsed() > PATIENCE {
                let said = self.value(
                    "[...['message', 'saved', 'review-problem'].map((id) => document.getElementById(id).textContent), page.place, \
                     page.masks.length, page.draft.actions.length, page.selected, document.activeElement?.id]",
                );
                panic!("{expression} stays false; the page says {said}, exceptions {:?}", self.exceptions());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Opens the page and waits until it shows its image.
    pub(crate) fn open(&self, address: &str) {
        self.call("Page.navigate", json!({"url": address}));
        self.settle();
    }

    pub(crate) fn reload(&self) {
        // What is there before the new page comes must not be taken for it.
        self.call("Runtime.evaluate", json!({"expression": "window.isOld = true"}));
        self.call("Page.reload", json!({}));
        self.settle();
    }

    fn settle(&self) {
        let start = Instant::now();
        let ready = "window.isOld === undefined && document.readyState === 'complete' && location.pathname === '/' \
                     && location.search === '' && document.getElementById('canvas') !== null";
        let parameters = json!({"expression": ready, "returnByValue": true});
        // Between two pages there is nothing that could answer.
        while self
            .chromium
            .try_call(Some(&self.session), "Runtime.evaluate", &parameters)
            .map(|answer| answer["result"]["value"] == true)
            != Ok(true)
        {
            assert!(start.elapsed() < PATIENCE, "the page does not load");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.wait("view.picture !== null && page.draft.size !== null && page.readiness.state === 'ready'");
    }

    pub(crate) fn resize(&self, width: u32, height: u32, ratio: f64) {
        let parameters = json!({"width": width, "height": height, "deviceScaleFactor": ratio, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", parameters);
    }

    /// `kind`: mouseMoved, mousePressed or mouseReleased; `more`: further parameters.
    pub(crate) fn mouse(&self, kind: &str, [x, y]: [f64; 2], button: &str, more: &Value) {
        let pressed = json!({"none": 0, "left": 1, "right": 2})[button].clone();
        let mut event = json!({"type": kind, "x": x, "y": y, "button": button, "buttons": pressed, "clickCount": 1});
        for (key, value) in more.as_object().into_iter().flatten() {
            event[key] = value.clone();
        }
        self.call("Input.dispatchMouseEvent", event);
    }

    /// Where a pixel of the image is on the page.
    pub(crate) fn place(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        let at = self.value(&format!(
            "(([x, y]) => {{ const box = view.canvas.getBoundingClientRect(); return [x + box.left, y + box.top]; }})(view.toCanvas([{x}, {y}]))"
        ));
        [0, 1].map(|axis| at[axis].as_f64().expect("a number"))
    }

    /// Clicks on a pixel of the image.
    pub(crate) fn click(&self, pixel: [f64; 2], button: &str) {
        self.click_with(pixel, button, &json!({}));
    }

    pub(crate) fn click_with(&self, pixel: [f64; 2], button: &str, more: &Value) {
        let at = self.place(pixel);
        self.mouse("mouseMoved", at, "none", more);
        self.mouse("mousePressed", at, button, more);
        self.mouse("mouseReleased", at, button, more);
    }

    /// Drags from a pixel of the image to another.
    pub(crate) fn drag(&self, from: [f64; 2], to: [f64; 2], button: &str) {
        let (from, to) = (self.place(from), self.place(to));
        let none = json!({});
        self.mouse("mouseMoved", from, "none", &none);
        self.mouse("mousePressed", from, button, &none);
        self.mouse("mouseMoved", [0, 1].map(|axis| f64::midpoint(from[axis], to[axis])), button, &none);
        self.mouse("mouseMoved", to, button, &none);
        self.mouse("mouseReleased", to, button, &none);
    }

    /// Presses a key, such as `a`, `Enter` or `Shift+Z`.
    pub(crate) fn key(&self, key: &str) {
        let (key, modifiers) = match (key.strip_prefix("Shift+"), key.strip_prefix("Ctrl+")) {
            (Some(key), _) => (key, 8),
            (_, Some(key)) => (key, 2),
            _ => (key, 0),
        };
        let codes = [("Enter", 13), ("Escape", 27), ("Tab", 9), ("Backspace", 8), ("Delete", 46)];
        let arrows = [("ArrowLeft", 37), ("ArrowUp", 38), ("ArrowRight", 39), ("ArrowDown", 40)];
        let code = codes.iter().chain(&arrows).find(|(name, _)| *name == key).map_or(0, |(_, code)| *code);
        let text = match key {
            "Enter" => "\r",
            _ if key.chars().count() == 1 && modifiers != 2 => key,
            _ => "",
        };
        let event = |kind: &str| json!({"type": kind, "key": key, "text": if kind == "keyDown" { text } else { "" }, "modifiers": modifiers, "windowsVirtualKeyCode": code});
        self.call("Input.dispatchKeyEvent", event("keyDown"));
        self.call("Input.dispatchKeyEvent", event("keyUp"));
    }

    /// Pushes a button or changes a list by its id, as a person does.
    pub(crate) fn push(&self, id: &str) {
        self.value(&format!("document.getElementById('{id}').click()"));
    }

    /// Keeps a picture of the page where somebody wants to look at it.
    pub(crate) fn screenshot(&self, name: &str) {
        let Some(folder) = std::env::var_os("SAM_TRAIN_SCREENSHOTS").map(PathBuf::from) else { return };
        let data = self.call("Page.captureScreenshot", json!({"format": "png"}));
        let text = data["data"].as_str().expect("base64");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join(format!("{name}.png")), base64(text)).expect("written");
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
