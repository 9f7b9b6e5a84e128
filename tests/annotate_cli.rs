//! `sam-train annotate` through the real program: a project, its server asked as a browser asks, and as others ask.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::cli::{Run, fixture};

/// A folder with two photographs, one of them in a folder with a space, and a project of them.
pub(crate) fn project(classes: &str) -> Run {
    let run = Run::new();
    std::fs::create_dir_all(run.path("photos/day 1")).expect("made");
    for name in ["photos/a.png", "photos/day 1/b.png"] {
        std::fs::copy(fixture("preprocess/photo.png"), run.path(name)).expect("copied");
    }
    let checkpoint = fixture("tiny_sam.safetensors");
    let mut arguments = vec!["annotate", "init", "--images", "photos", "--checkpoint", &checkpoint, "--out", "project"];
    if !classes.is_empty() {
        arguments.extend(["--classes", classes]);
    }
    let out = run.ok(&arguments);
    assert!(out.contains("2 images, 1 of them for validation; next: sam-train annotate project"), "{out}");
    run
}

/// A server of a project; killed when it is dropped.
pub(crate) struct Served {
    child: Child,
    pub(crate) port: u16,
    pub(crate) token: String,
}

impl Served {
    /// Starts the program; port 0 is any.
    pub(crate) fn start(project: &Path, port: u16) -> Self {
        Self::start_with(project, port, &[], Stdio::null())
    }

    /// As [`Served::start`], with more arguments, and what it says on standard error kept somewhere.
    pub(crate) fn start_with(project: &Path, port: u16, more: &[&str], errors: Stdio) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sam-train"))
            .args(["annotate", "--no-browser", "--port", &port.to_string()])
            .arg(project)
            .args(more)
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        let out = child.stdout.as_mut().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("it says where it listens");
        let address = line.trim().strip_prefix("open http://127.0.0.1:").expect("an address");
        let (port, token) = address.split_once("/?token=").expect("a port and a token");
        Self { child, port: port.parse().expect("a number"), token: token.to_owned() }
    }

    /// SIGKILL, as a crash or a lack of memory ends it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// As [`Served::post`]; `None` when the server has gone.
    pub(crate) fn try_post(&self, path: &str, body: &Value) -> Option<(u16, Value)> {
        let (status, answer) = self.post(path, body);
        (status != 0).then_some((status, answer))
    }

    pub(crate) fn address(&self) -> String {
        format!("http://127.0.0.1:{}/?token={}", self.port, self.token)
    }

    /// Sends the bytes of a request; returns status, headers and body. Status 0: there was no connection, or it ended without an
    /// answer.
    fn raw(&self, request: &[u8]) -> (u16, String, Vec<u8>) {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return (0, String::new(), Vec::new());
        };
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        // A server that has heard enough closes the connection while the rest is sent.
        let _ = stream.write_all(request);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
            return (0, String::new(), Vec::new());
        };
        let head = String::from_utf8(answer[..end].to_vec()).expect("text");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, head, answer[end + 4..].to_vec())
    }

    /// A request line with headers and a body, closed after its answer.
    fn send(&self, line: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String, Vec<u8>) {
        let mut request = format!("{line} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
        self.raw(&[request.as_bytes(), b"\r\n", body].concat())
    }

    /// The headers of the page's own requests.
    fn own(&self) -> [(&'static str, String); 5] {
        [
            ("Host", format!("127.0.0.1:{}", self.port)),
            ("Cookie", format!("sam-train-1=x; sam-train-{}={}", self.port, self.token)),
            ("Origin", format!("http://127.0.0.1:{}", self.port)),
            ("X-Sam-Train", "1".to_owned()),
            ("Content-Type", "application/json".to_owned()),
        ]
    }

    /// As [`Served::own`], with one header replaced, or left out where the value is empty.
    fn forged(&self, line: &str, name: &str, value: &str) -> u16 {
        let own = self.own();
        let mut headers: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
        headers.retain(|(other, _)| *other != name);
        if !value.is_empty() {
            headers.push((name, value));
        }
        self.send(line, &headers, b"{}").0
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.ask(&format!("GET {path}"), b"")
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.ask(&format!("POST {path}"), body.to_string().as_bytes())
    }

    fn ask(&self, line: &str, body: &[u8]) -> (u16, Value) {
        let own = self.own();
        let headers: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let (status, _, body) = self.send(line, &headers, body);
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every file below a folder with its content.
pub(crate) fn content(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            files.extend(content(&entry.path()));
        } else {
            files.push((entry.path(), std::fs::read(entry.path()).expect("readable")));
        }
    }
    files.sort();
    files
}

#[test]
fn init_makes_a_project_and_says_what_is_wrong() {
    let run = project("cat,a dog");
    let settings = std::fs::read_to_string(run.path("project/engine.toml")).expect("written");
    assert!(settings.contains("classes = [\"cat\", \"a dog\"]") && settings.contains("/photos\""), "{settings}");
    let (checkpoint, autoencoder) = (fixture("tiny_sam.safetensors"), fixture("tiny_mae.pth"));
    let refused = |images: &str, checkpoint: &str, out: &str, classes: &str, parts: &[&str]| {
        let base =
            ["annotate", "init", "--images", images, "--checkpoint", checkpoint, "--out", out, "--classes", classes];
        run.refused(&base, parts);
    };
    refused("photos", &checkpoint, "project", "cat", &["project", "not empty"]);
    refused("photos", &checkpoint, "photos/project", "cat", &["folder of its images"]);
    refused("nowhere", &checkpoint, "other", "cat", &["nowhere"]);
    refused("photos", &autoencoder, "other", "cat", &["segmenter"]);
    refused("photos", &checkpoint, "other", "cat,cat", &["\"cat\" twice"]);
    refused("photos", &checkpoint, "other", "cat,", &["1 to 100 letters"]);
    run.refused(&["annotate", "photos"], &["engine.toml"]);
    run.refused(&["annotate"], &["PROJECT"]);
    assert!(!run.path("other/engine.toml").exists() && !run.path("photos/project").exists());
}

/// From a click to a mask on disk, which a kill does not take back.
#[test]
fn a_click_becomes_a_mask_that_survives_a_kill() {
    let run = project("cat");
    let photos = content(&run.path("photos"));
    let mut server = Served::start(&run.path("project"), 0);
    let (status, found) = server.get("/api/project");
    assert_eq!((status, &found["classes"], &found["images"][1]["name"]), (200, &json!(["cat"]), &json!("day 1/b.png")));
    let image = found["images"][1]["id"].clone();
    let (status, _) = server.post("/api/look-at", &json!({"image": image, "next": [found["images"][0]["id"]]}));
    assert_eq!(status, 200);
    let prompt = json!({"points": [[100.5, 80.5, 1]]});
    let ask = json!({"image": image, "tab": "tab-00001", "number": 3, "prompt": prompt});
    let (status, answer) = server.post("/api/predict", &ask);
    assert_eq!(
        (status, &answer["number"], answer["candidates"].as_array().map(Vec::len)),
        (200, &json!(3), Some(3)),
        "{answer}"
    );
    let both = json!({"image": image, "tab": "tab-00001", "number": 4, "prompt": {"points": [[1, 1, 1], [9, 9, 0]], "box": [0, 0, 50, 60]}});
    assert_eq!(server.post("/api/predict", &both).1["candidates"].as_array().map(Vec::len), Some(1));
    let outside = json!({"image": image, "tab": "tab-00001", "number": 5, "prompt": {"points": [[211, 1, 1]]}});
    let (status, refused) = server.post("/api/predict", &outside);
    assert!(status == 400 && refused["error"].as_str().is_some_and(|error| error.contains("211 px wide")), "{refused}");

    let largest =
        answer["candidates"].as_array().into_iter().flatten().max_by_key(|one| one["area"].as_u64()).expect("three");
    let mask = json!({
        "uuid": "mask-0001", "segmentation": largest["segmentation"], "source": "assisted", "class": "cat", "prompts": prompt,
        "seconds": 1.5, "predicted_iou": largest["predicted_iou"], "model": answer["model"],
    });
    let add = json!({"op": "op-000001", "image": image, "base": 0, "change": {"kind": "add", "mask": mask}});
    let (status, applied) = server.post("/api/operations", &add);
    assert_eq!((status, &applied["status"], &applied["revision"]), (200, &json!("applied"), &json!(1)), "{applied}");
    server.kill();

    let server = Served::start(&run.path("project"), server.port);
    let (_, there) = server.get(&format!("/api/images/{}", image.as_str().expect("text")));
    assert_eq!((&there["revision"], &there["state"]), (&json!(1), &json!("open")), "{there}");
    assert_eq!(
        (&there["masks"][0]["segmentation"], &there["masks"][0]["uuid"]),
        (&largest["segmentation"], &json!("mask-0001"))
    );
    assert_eq!(server.post("/api/operations", &add), (200, applied), "the same operation is answered as before");
    let stale =
        json!({"op": "op-000002", "image": image, "base": 0, "change": {"kind": "delete", "uuid": "mask-0001"}});
    let (status, conflict) = server.post("/api/operations", &stale);
    assert_eq!((status, &conflict["current"]["area"]), (409, &largest["area"]), "{conflict}");
    run.refused(&["annotate", "project", "--no-browser"], &["another program works here", "process "]);

    let out = run.ok(&["data", "check", "project"]);
    assert!(out.contains("sa1b") && out.contains("objects  1"), "{out}");
    assert_eq!(content(&run.path("photos")), photos, "the folder of images is only read");
    let file: Value =
        serde_json::from_slice(&std::fs::read(run.path("project/annotations/day 1/b.json")).expect("there"))
            .expect("JSON");
    assert_eq!(file["annotations"][0]["model"], answer["model"]);
    assert_eq!(file["annotations"][0]["point_coords"], json!([[100.5, 80.5]]));
}

/// Everything that is not the page itself is turned away.
#[test]
fn others_are_turned_away() {
    let run = project("");
    std::fs::write(run.path("secret.txt"), "secret").expect("written");
    let server = Served::start(&run.path("project"), 0);
    let own_host = format!("127.0.0.1:{}", server.port);
    let (get, post) = ("GET /api/project", "POST /api/look-at");
    assert_eq!(server.forged(get, "Cookie", &server.own()[1].1), 200);
    assert_eq!(
        server.forged(post, "X-Sam-Train", "1"),
        400,
        "`{{}}` names no image, and that is all that is wrong with it"
    );
    for (line, name, value, status) in [
        // DNS rebinding: the name of another site, which has this machine's address.
        (get, "Host", "evil.example", 421),
        (get, "Host", &format!("evil.example:{}", server.port), 421),
        (get, "Host", "127.0.0.1", 421),
        (get, "Host", "", 421),
        (get, "Cookie", "", 403),
        (get, "Cookie", &format!("sam-train-{}={}", server.port, "0".repeat(64)), 403),
        (get, "Cookie", &format!("sam-train-{}={}", server.port, &server.token[..63]), 403),
        (get, "Sec-Fetch-Site", "cross-site", 403),
        (post, "Origin", "http://evil.example", 403),
        (post, "Origin", "null", 403),
        (post, "Origin", "", 403),
        (post, "Origin", "http://127.0.0.1:1", 403),
        (post, "X-Sam-Train", "", 403),
        (post, "Content-Type", "text/plain", 415),
        (post, "Content-Type", "", 415),
        ("PUT /api/project", "Origin", &server.own()[2].1, 405),
        ("OPTIONS /api/operations", "Origin", "http://evil.example", 405),
        ("GET /", "Cookie", "", 403),
        ("GET /page/app.js", "Cookie", "", 403),
        ("GET /?token=0000", "Cookie", "", 403),
    ] {
        assert_eq!(server.forged(line, name, value), status, "{line} with {name}: {value}");
    }
    for path in [
        "/../secret.txt",
        "/page/../../../secret.txt",
        "/..%2f..%2fsecret.txt",
        "/api/images/../../secret.txt",
        "//etc/passwd",
        "/api/images/..%2f..%2fsecret.txt/pixels",
        "/api/images/0000000000000000/pixels",
        "/page/",
        "/api/images/",
        "/api/images/%00",
        "/project/session.token",
    ] {
        let (status, body) = server.get(path);
        assert_eq!(status, 404, "{path}: {body}");
    }
    // The address with the token lets in, once and for this site only.
    let (status, head, _) = server.send(&format!("GET /?token={}", server.token), &[("Host", &own_host)], b"");
    assert_eq!(status, 200);
    let expected = format!("Set-Cookie: sam-train-{}={}; Path=/; HttpOnly; SameSite=Strict", server.port, server.token);
    assert!(head.contains(&expected), "{head}");
    for line in ["GET /", "GET /api/project", "GET /nothing"] {
        let (_, head, _) = server.send(line, &[("Host", &own_host)], b"");
        for header in [
            "X-Content-Type-Options: nosniff",
            "default-src 'none'",
            "frame-ancestors 'none'",
            "no-store",
            "no-referrer",
        ] {
            assert!(head.contains(header), "{line}: {head}");
        }
        assert!(!head.contains("Access-Control"), "{head}");
    }
    if cfg!(unix) {
        use std::os::unix::fs::PermissionsExt;
        let mode = std::fs::metadata(run.path("project/session.token")).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

/// Requests that would take memory, time or connections.
#[test]
fn a_server_is_not_held_up() {
    let run = project("");
    let server = Served::start(&run.path("project"), 0);
    let huge = format!(
        "POST /api/operations HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: 99999999999\r\n\r\n",
        server.port
    );
    assert_eq!(server.raw(huge.as_bytes()).0, 413);
    assert_eq!(server.raw(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").0, 501);
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert_eq!(server.raw(long.as_bytes()).0, 431);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(1000));
    assert_eq!(server.raw(many.as_bytes()).0, 400);
    assert_eq!(server.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").0, 400, "TLS");
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let own = server.own();
    let headers: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(server.send("POST /api/operations", &headers, deep.as_bytes()).0, 400);

    // A thousand connections that say nothing, two hundred at a time, as this process may not have more files open.
    for _ in 0..5 {
        let idle: Vec<_> = (0..200).filter_map(|_| TcpStream::connect(("127.0.0.1", server.port)).ok()).collect();
        assert_eq!(idle.len(), 200);
    }
    let start = Instant::now();
    while server.get("/api/project").0 != 200 {
        assert!(start.elapsed() < Duration::from_secs(20), "the connections are gone, and it still refuses");
        std::thread::sleep(Duration::from_millis(50));
    }
}
