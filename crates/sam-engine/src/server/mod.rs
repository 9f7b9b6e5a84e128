//! A server for one person's browser on this machine: HTTP/1.1 on the loopback address, a thread per connection.
//!
//! A browser has six connections. Threads and time-outs of the standard library serve them without an async runtime, and a
//! handler may wait for the model or the disk as it is.

mod api;
mod guard;
mod page;
mod request;
mod response;
mod round_process;

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use self::api::Api;
pub(crate) use self::guard::TOKEN_FILE;
use self::guard::{Guard, write_private};
use self::request::{Connection, Received};
use self::response::Response;
use self::round_process::RoundProcess;
use crate::error::EngineError;
use crate::inference::Inference;
use crate::store::Store;

/// Where a project is served unless the port is taken: a bookmark and what a page has kept for later stay valid.
const FIRST_PORT: u16 = 8716;
/// Ports that are tried.
const N_PORTS: u16 = 20;
/// Connections beyond are told to come later.
const MAX_CONNECTIONS: usize = 64;
/// Connections that cannot be accepted one after the other, in two seconds.
const MAX_FAILED: usize = 100;
/// A browser that does not take its answer.
const SENDING: Duration = Duration::from_secs(30);
/// A page that opens the address: arguments of a program are seen by every user of a machine.
const START_PAGE: &str = "start.html";

/// Where a program finds the server of a project.
pub(crate) const PORT_FILE: &str = "session.port";

/// How a project is served.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// This port and no other; 0 is any.
    pub port: Option<u16>,
    /// Program and arguments of a process that makes a round of this project.
    pub round_command: Vec<OsString>,
}

/// A project that listens.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    guard: Arc<Guard>,
    api: Arc<Api>,
    folder: PathBuf,
}

impl Server {
    /// Listens on the loopback address.
    ///
    /// # Errors
    ///
    /// When the port is taken, or the project's folder cannot be written.
    pub fn bind(store: Store, inference: Arc<Inference>, options: ServerOptions) -> Result<Self, EngineError> {
        let folder = store.project().folder().to_owned();
        let listener = listen(options.port).map_err(|source| EngineError::Project {
            path: folder.clone(),
            problem: format!(
                "cannot be served on port {}: {source}; give another port",
                options.port.unwrap_or(FIRST_PORT)
            ),
        })?;
        let port = listener.local_addr().map_err(EngineError::io(&folder))?.port();
        let port_file = folder.join(PORT_FILE);
        sam_files::write_atomically(&port_file, port.to_string()).map_err(EngineError::io(&port_file))?;
        let guard = Arc::new(Guard::open(&folder, port)?);
        let rounds = RoundProcess::new(&folder, options.round_command);
        Ok(Self { listener, guard, api: Arc::new(Api::new(store, inference, rounds)), folder })
    }

    /// The address to open in a browser, with its secret.
    #[must_use]
    pub fn address(&self) -> String {
        self.guard.address()
    }

    /// Writes a page that leads to the address and that only its owner can read; returns its path, for a browser to open.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn write_start_page(&self) -> Result<PathBuf, EngineError> {
        let path = self.folder.join(START_PAGE);
        let address = self.address();
        let text = format!(
            "<!doctype html><meta charset=\"utf-8\"><title>sam-train</title><meta http-equiv=\"refresh\" content=\"0;url={address}\">\
             <p><a href=\"{address}\">sam-train annotate</a></p>\n"
        );
        let _ = std::fs::remove_file(&path);
        write_private(&path, &text).map_err(EngineError::io(&path))?;
        Ok(path)
    }

    /// Serves until the process ends. It may be killed at any time: what was answered is on disk.
    ///
    /// # Errors
    ///
    /// When connections cannot be accepted any more.
    pub fn run(&self) -> Result<(), EngineError> {
        let n_open = Arc::new(AtomicUsize::new(0));
        let mut n_failed = 0;
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                // A client that has gone, or too many open files for a moment.
                Err(_) if n_failed < MAX_FAILED => {
                    n_failed += 1;
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                Err(source) => return Err(EngineError::Io { path: self.folder.clone(), source }),
            };
            n_failed = 0;
            let open = Open::new(&n_open);
            if open.number > MAX_CONNECTIONS {
                refuse(&stream);
                continue;
            }
            let (guard, api) = (Arc::clone(&self.guard), Arc::clone(&self.api));
            let thread = std::thread::Builder::new().name("connection".to_owned());
            // Without a thread the connection ends, and the browser tries again.
            let _ = thread.spawn(move || {
                let _open = open;
                converse(stream, &guard, &api);
            });
        }
    }

    /// The project's folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Counts a connection while it lasts.
struct Open {
    n_open: Arc<AtomicUsize>,
    number: usize,
}

impl Open {
    fn new(n_open: &Arc<AtomicUsize>) -> Self {
        let number = n_open.fetch_add(1, Ordering::SeqCst) + 1;
        Self { n_open: Arc::clone(n_open), number }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.n_open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn listen(port: Option<u16>) -> std::io::Result<TcpListener> {
    let bind = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    match port {
        Some(port) => bind(port),
        None => (FIRST_PORT..FIRST_PORT + N_PORTS).find_map(|port| bind(port).ok()).map_or_else(|| bind(0), Ok),
    }
}

fn refuse(mut stream: &TcpStream) {
    let _ = stream.set_write_timeout(Some(Duration::from_millis(100)));
    let busy = Response::error(503, "too many connections").with("Retry-After", "1".to_owned());
    let _ = busy.write_to(&mut stream, false, false);
}

/// Answers the requests of a connection until it ends.
fn converse(stream: TcpStream, guard: &Guard, api: &Api) {
    let _ = stream.set_write_timeout(Some(SENDING));
    let _ = stream.set_nodelay(true);
    let mut connection = Connection::new(stream);
    loop {
        match connection.receive() {
            Received::Request(request) => {
                let response = match guard.check(&request) {
                    Ok(()) => api.answer(&request),
                    Err(response) => response,
                };
                if connection.send(&response, Some(&request)).is_err() || !request.keeps_alive {
                    return;
                }
            }
            Received::Rejected(response) => {
                let _ = connection.send(&response, None);
                connection.finish();
                return;
            }
            Received::Closed => return,
        }
    }
}
