//! Who may ask: a browser of this machine that was given the address with the secret.
//!
//! A page from elsewhere can make a browser send requests here. Its host name gives it away, even after its name server has
//! begun to answer with 127.0.0.1 (DNS rebinding), so `Host` is checked on every request; `Origin`, the content type and a header
//! of our own are checked on every POST. The secret comes once in the address and from then on as a cookie. Cookies are shared by
//! all ports of a host, so the port is in its name.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;

use super::request::Request;
use super::response::Response;
use crate::error::EngineError;

/// Its file in the project: a page that is open goes on when the server starts again.
pub(crate) const TOKEN_FILE: &str = "session.token";

/// Simple requests of other sites cannot have it.
const OWN_HEADER: &str = "x-sam-train";

#[derive(Debug)]
pub(super) struct Guard {
    port: u16,
    token: String,
}

impl Guard {
    /// Reads the project's secret, or makes one that only its owner can read.
    pub(super) fn open(folder: &Path, port: u16) -> Result<Self, EngineError> {
        let path = folder.join(TOKEN_FILE);
        if let Ok(token) = sam_files::read_text(&path, 1 << 10)
            && is_token(token.trim())
        {
            return Ok(Self { port, token: token.trim().to_owned() });
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(|error| EngineError::Io { path: path.clone(), source: error.into() })?;
        let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let _ = std::fs::remove_file(&path);
        write_private(&path, &token).map_err(EngineError::io(&path))?;
        Ok(Self { port, token })
    }

    /// The address to open, with the secret.
    pub(super) fn address(&self) -> String {
        format!("http://127.0.0.1:{}/?token={}", self.port, self.token)
    }

    fn cookie(&self) -> String {
        format!("sam-train-{}", self.port)
    }

    /// `Err`: the answer to somebody who may not ask, or who is let in.
    pub(super) fn check(&self, request: &Request) -> Result<(), Response> {
        let refuse = |status, message: &str| Err(Response::error(status, message));
        let host = request.header("host").unwrap_or_default();
        let names = ["127.0.0.1", "localhost", "[::1]"].map(|name| format!("{name}:{}", self.port));
        if !names.iter().any(|name| name.eq_ignore_ascii_case(host)) {
            return refuse(421, "this server answers to its own address only");
        }
        // Old browsers do not send it.
        if let Some(site) = request.header("sec-fetch-site")
            && !matches!(site, "same-origin" | "none")
            && !(site == "cross-site" && self.is_entrance(request))
        {
            return refuse(403, "this request comes from another site");
        }
        match request.method.as_str() {
            "GET" | "HEAD" => {}
            "POST" => {
                if request.header("origin") != Some(&format!("http://{host}")) {
                    return refuse(403, "this request comes from another site");
                }
                if request.header(OWN_HEADER) != Some("1") {
                    return refuse(403, "a request must have the header X-Sam-Train: 1");
                }
                let content_type = request.header("content-type").unwrap_or_default();
                if content_type.split(';').next().map(str::trim) != Some("application/json") {
                    return refuse(415, "a body must be application/json");
                }
            }
            _ => return refuse(405, "GET and POST are understood"),
        }
        if self.is_entrance(request) {
            return Err(self.enter());
        }
        let cookie = self.cookie();
        if request.cookies(&cookie).any(|value| is_equal(value, &self.token)) {
            return Ok(());
        }
        refuse(403, "open the address that `sam-train annotate` has printed, with its token")
    }

    /// The first request of a browser, with the secret in the address.
    fn is_entrance(&self, request: &Request) -> bool {
        let given = request.query.strip_prefix("token=");
        request.method == "GET" && request.path == "/" && given.is_some_and(|token| is_equal(token, &self.token))
    }

    /// Exchanges the secret for a cookie. A page that goes on by itself, as a cookie for this site only is not sent along with a
    /// redirect that began elsewhere; the address with the secret does not stay in the history.
    fn enter(&self) -> Response {
        const PAGE: &str = "<!doctype html><meta charset=\"utf-8\"><meta http-equiv=\"refresh\" content=\"0;url=/\"><title>sam-train</title>";
        let cookie = format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie(), self.token);
        Response::new("text/html; charset=utf-8", PAGE.as_bytes()).with("Set-Cookie", cookie)
    }
}

/// Writes a file that only its owner can read.
pub(super) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)?.write_all(text.as_bytes())
}

fn is_token(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Takes as long for any two texts of one length.
fn is_equal(given: &str, token: &str) -> bool {
    let differences = given.bytes().zip(token.bytes()).fold(0, |all, (a, b)| all | (a ^ b));
    given.len() == token.len() && std::hint::black_box(differences) == 0
}
