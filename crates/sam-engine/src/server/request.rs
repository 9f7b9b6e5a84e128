//! Requests of HTTP/1.1, read within limits of size and time. `httparse` parses; what is not needed here (bodies in chunks,
//! upgrades) is refused.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::response::Response;

/// The largest request line with its headers.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// The most headers; browsers send about 20.
const MAX_HEADERS: usize = 64;
/// The largest body: a mask of a 100-megapixel image with noisy edges has about 10 MB.
pub(super) const MAX_BODY_BYTES: usize = 32 << 20;
/// A connection without a request is closed after this time.
const IDLE: Duration = Duration::from_secs(30);
/// A request must be there this long after its first byte, so that slow senders cannot hold connections.
const WHOLE_REQUEST: Duration = Duration::from_secs(20);

/// A whole request.
#[derive(Debug, Default)]
pub(super) struct Request {
    pub(super) method: String,
    /// As sent, without the query.
    pub(super) path: String,
    pub(super) query: String,
    /// Names in lower case.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    pub(super) keeps_alive: bool,
}

impl Request {
    /// A header that must not come twice: `None` then.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(other, _)| other == name);
        let first = found.next()?;
        found.next().is_none().then_some(first.1.as_str())
    }

    /// The values of a cookie; other ports of the host may have set more of them.
    pub(super) fn cookies<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let cookies = self.headers.iter().filter(|(header, _)| header == "cookie");
        cookies.flat_map(|(_, value)| value.split(';')).filter_map(move |cookie| {
            let (key, value) = cookie.trim().split_once('=')?;
            (key == name).then_some(value)
        })
    }
}

/// What came over a connection.
pub(super) enum Received {
    Request(Request),
    /// To be answered with this, after which the connection ends.
    Rejected(Response),
    Closed,
}

/// A connection with the bytes that came after the last request.
pub(super) struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
}

/// Why reading ended.
enum Stop {
    Closed,
    TooSlow,
}

impl Connection {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, pending: Vec::new() }
    }

    /// Reads the next request.
    pub(super) fn receive(&mut self) -> Received {
        let mut deadline = if self.pending.is_empty() { None } else { Some(Instant::now() + WHOLE_REQUEST) };
        let (mut request, head_len, body_len) = loop {
            match parse_head(&self.pending) {
                Ok(Some(parsed)) => break parsed,
                Ok(None) if self.pending.len() >= MAX_HEAD_BYTES => {
                    return Received::Rejected(Response::error(431, "the headers are too long"));
                }
                Ok(None) => {}
                Err(rejected) => return Received::Rejected(rejected),
            }
            match self.read_more(deadline) {
                Ok(()) => deadline = deadline.or(Some(Instant::now() + WHOLE_REQUEST)),
                // A browser that keeps a connection for later is no error.
                Err(_) if deadline.is_none() => return Received::Closed,
                Err(Stop::Closed) => return Received::Closed,
                Err(Stop::TooSlow) => return Received::Rejected(Response::error(408, "the request took too long")),
            }
        };
        if body_len > 0 && request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
            let _ = self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        while self.pending.len() < head_len + body_len {
            match self.read_more(deadline) {
                Ok(()) => {}
                Err(Stop::Closed) => return Received::Closed,
                Err(Stop::TooSlow) => return Received::Rejected(Response::error(408, "the request took too long")),
            }
        }
        let rest = self.pending.split_off(head_len + body_len);
        request.body = self.pending.split_off(head_len);
        self.pending = rest;
        Received::Request(request)
    }

    fn read_more(&mut self, deadline: Option<Instant>) -> Result<(), Stop> {
        let left = deadline.map_or(IDLE, |deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Err(Stop::TooSlow);
        }
        self.stream.set_read_timeout(Some(left)).map_err(|_| Stop::Closed)?;
        let mut chunk = [0; 16 << 10];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Stop::Closed),
            Ok(n) => {
                self.pending.extend_from_slice(&chunk[..n]);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(Stop::TooSlow),
            Err(_) => Err(Stop::Closed),
        }
    }

    pub(super) fn send(&mut self, response: &Response, request: Option<&Request>) -> std::io::Result<()> {
        let keeps_alive = request.is_some_and(|request| request.keeps_alive);
        let is_head = request.is_some_and(|request| request.method == "HEAD");
        response.write_to(&mut self.stream, keeps_alive, is_head)
    }

    /// Ends a connection whose request was not read: what still comes is taken for a moment, as closing at once would discard
    /// the answer.
    pub(super) fn finish(&mut self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
        let deadline = Instant::now() + Duration::from_millis(500);
        while self.read_more(Some(deadline)).is_ok() {
            self.pending.clear();
        }
    }
}

/// The head of a request, its length and that of the body; `None` when more is to come.
fn parse_head(bytes: &[u8]) -> Result<Option<(Request, usize, usize)>, Response> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let bad = |problem: &str| Response::error(400, problem);
    let head_len = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(bad("this is no request of HTTP/1.1")),
    };
    if head_len > MAX_HEAD_BYTES {
        return Err(Response::error(431, "the headers are too long"));
    }
    let target = parsed.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let text = |value: &[u8]| String::from_utf8(value.to_vec()).map_err(|_| bad("a header is no text"));
    let headers = parsed
        .headers
        .iter()
        .map(|header| Ok((header.name.to_ascii_lowercase(), text(header.value)?)))
        .collect::<Result<Vec<_>, Response>>()?;
    let is_new = parsed.version == Some(1);
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        headers,
        ..Request::default()
    };
    request.keeps_alive =
        is_new && !request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
    let count = |name: &str| request.headers.iter().filter(|(other, _)| other == name).count();
    if count("transfer-encoding") > 0 {
        return Err(Response::error(501, "a body must come with its length"));
    }
    let body_len = match (count("content-length"), request.header("content-length")) {
        (0, _) => 0,
        (_, Some(length)) if !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit()) => {
            length.parse::<usize>().unwrap_or(usize::MAX)
        }
        _ => return Err(bad("Content-Length must be one number")),
    };
    if body_len > MAX_BODY_BYTES {
        return Err(Response::error(413, &format!("a body must have at most {} MiB", MAX_BODY_BYTES >> 20)));
    }
    Ok(Some((request, head_len, body_len)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_parsed_and_strange_ones_rejected() {
        let head = |text: &str| parse_head(text.as_bytes()).map_err(|response| response.status);
        let (request, len, body) =
            head("POST /a/b?c=d HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nCookie: a=1; b=2\r\n\r\nabc")
                .expect("fine")
                .expect("whole");
        assert_eq!((request.path.as_str(), request.query.as_str(), body), ("/a/b", "c=d", 3));
        assert_eq!((len, request.keeps_alive), (72, true));
        assert_eq!(request.cookies("b").collect::<Vec<_>>(), ["2"]);
        assert!(head("GET / HTTP/1.1\r\nHost").expect("fine").is_none());
        for (text, status) in [
            ("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501),
            ("POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 413),
            ("POST / HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
            ("POST / HTTP/1.1\r\nContent-Length: +3\r\n\r\n", 400),
            ("\u{0}\u{1} nonsense", 400),
        ] {
            assert_eq!(head(text).err(), Some(status), "{text}");
        }
    }
}
