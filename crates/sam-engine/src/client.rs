//! A client of a running server: what a program says to it that labels without a browser.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::EngineError;
use crate::server::{PORT_FILE, TOKEN_FILE};

/// An answer may wait for the encoder.
const PATIENCE: Duration = Duration::from_secs(180);
/// The largest answer: a project with very many images.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// A connection to the server of a project.
#[derive(Debug)]
pub struct Client {
    port: u16,
    token: String,
    stream: Option<TcpStream>,
}

/// An answer: its status and its JSON.
#[derive(Debug)]
pub struct Answer {
    /// HTTP's.
    pub status: u16,
    body: Vec<u8>,
}

impl Client {
    /// The server that has the project open.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn of_project(folder: &Path) -> Result<Self, EngineError> {
        let read = |name: &str| {
            let path = folder.join(name);
            sam_files::read_text(&path, 1 << 10).map_err(|_| EngineError::Project {
                path: folder.to_owned(),
                problem: "is not open; start its server first".to_owned(),
            })
        };
        let (port, token) = (read(PORT_FILE)?, read(TOKEN_FILE)?);
        let port = port.trim().parse().map_err(|_| EngineError::Invalid(format!("{PORT_FILE}: must be a port")))?;
        Ok(Self::new(port, token.trim().to_owned()))
    }

    /// A server of this machine.
    #[must_use]
    pub fn new(port: u16, token: String) -> Self {
        Self { port, token, stream: None }
    }

    /// Asks for something.
    ///
    /// # Errors
    ///
    /// When the server does not answer, or refuses.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, EngineError> {
        self.ask("GET", path, b"")?.parsed()
    }

    /// Sends something.
    ///
    /// # Errors
    ///
    /// As [`Client::get`].
    pub fn post<T: DeserializeOwned>(&mut self, path: &str, body: &impl Serialize) -> Result<T, EngineError> {
        let body = serde_json::to_vec(body).map_err(|error| EngineError::Invalid(error.to_string()))?;
        self.ask("POST", path, &body)?.parsed()
    }

    /// Sends a request over the open connection, or over a new one where the server has closed it.
    ///
    /// # Errors
    ///
    /// When the server does not answer.
    pub fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Result<Answer, EngineError> {
        let failed =
            |source: std::io::Error| EngineError::Io { path: format!("127.0.0.1:{}", self.port).into(), source };
        let request = [self.head(method, path, body.len()).as_bytes(), body].concat();
        if let Some(stream) = self.stream.take()
            && let Ok((answer, stream)) = exchange(stream, &request)
        {
            self.stream = stream;
            return Ok(answer);
        }
        let stream = TcpStream::connect(("127.0.0.1", self.port)).map_err(failed)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (answer, stream) = exchange(stream, &request).map_err(failed)?;
        self.stream = stream;
        Ok(answer)
    }

    fn head(&self, method: &str, path: &str, body_len: usize) -> String {
        let Self { port, token, .. } = self;
        format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nCookie: sam-train-{port}={token}\r\n\
             Origin: http://127.0.0.1:{port}\r\nX-Sam-Train: 1\r\nContent-Type: application/json\r\n\
             Content-Length: {body_len}\r\n\r\n"
        )
    }
}

impl Answer {
    /// The JSON of an answer that is a success.
    ///
    /// # Errors
    ///
    /// When the server refuses, with its message; or when the answer is something else.
    pub fn parsed<T: DeserializeOwned>(&self) -> Result<T, EngineError> {
        if self.status != 200 {
            let text = String::from_utf8_lossy(&self.body);
            return Err(EngineError::Invalid(format!("the server answers {}: {text}", self.status)));
        }
        serde_json::from_slice(&self.body)
            .map_err(|error| EngineError::Invalid(format!("the server's answer: {error}")))
    }
}

/// The connection is given back where the server keeps it open.
fn exchange(mut stream: TcpStream, request: &[u8]) -> std::io::Result<(Answer, Option<TcpStream>)> {
    stream.write_all(request)?;
    let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        if let Some((status, head_len, body_len, keeps_alive)) = head(&bytes)?
            && bytes.len() >= head_len + body_len
        {
            let body = bytes[head_len..head_len + body_len].to_vec();
            return Ok((Answer { status, body }, keeps_alive.then_some(stream)));
        }
        match stream.read(&mut chunk)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    }
}

/// Status, length of head and body, and whether the connection stays open; `None` when more is to come.
fn head(bytes: &[u8]) -> std::io::Result<Option<(u16, usize, usize, bool)>> {
    let invalid = || std::io::Error::from(std::io::ErrorKind::InvalidData);
    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut headers);
    let head_len = match response.parse(bytes) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(invalid()),
    };
    let header = |name: &str| {
        let header = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok()
    };
    let body_len = header("content-length").and_then(|length| length.parse().ok()).ok_or_else(invalid)?;
    if body_len > MAX_ANSWER_BYTES {
        return Err(invalid());
    }
    let keeps_alive = header("connection").is_some_and(|value| value.eq_ignore_ascii_case("keep-alive"));
    Ok(Some((response.code.ok_or_else(invalid)?, head_len, body_len, keeps_alive)))
}
