//! Requests to S3, Google Cloud Storage, Azure and HTTP servers, from code that waits for them.
//!
//! The only asynchronous code of the project: one runtime of two threads, in which `object_store` works. Its own retries are
//! off, as ours cover whole answers, can be stopped, and say what was tried. Credentials come from the environment, by the names
//! that each provider's own programs use.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt, TryStreamExt};
use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::http::HttpBuilder;
use object_store::path::Path as Key;
use object_store::{
    ClientConfigKey, ClientOptions, GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig,
};
use tokio::runtime::Runtime;

use super::failure::{Failure, answer};
use super::location::{Location, Scheme};
use crate::error::DataError;

/// How long a server that does not answer is waited for: a restart, or a short loss of the network.
const PATIENCE: Duration = Duration::from_secs(75);
/// At the beginning, where a wrong address is likelier than a fault.
const PATIENCE_AT_FIRST: Duration = Duration::from_secs(10);
/// Pauses between attempts double from the first to the longest.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(4)];
/// A pause notices in this time that nobody waits any more.
const NAP: Duration = Duration::from_millis(100);
/// Settings of every client: a connection that does not come about, and an answer of which nothing more comes.
const TIMEOUTS: [(ClientConfigKey, &str); 3] = [
    (ClientConfigKey::ConnectTimeout, "5 seconds"),
    (ClientConfigKey::ReadTimeout, "20 seconds"),
    (ClientConfigKey::Timeout, "120 seconds"),
];
/// Shards are downloaded in parts, so that a fault costs one part; as AWS advises for ranges of S3.
const PART_BYTES: u64 = 8 << 20;
/// Parts of a shard that are under way at a time: one connection to S3 gives a fraction of a network.
const N_PARTS: usize = 4;

/// An object as it was listed.
#[derive(Clone, Debug)]
pub(super) struct Object {
    pub(super) key: Key,
    pub(super) len: u64,
    /// Names its content: the ETag, or else the time of its last change.
    pub(super) version: String,
    /// A strong ETag, which a request can name.
    etag: Option<String>,
}

/// A bucket or server.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) location: Location,
    inner: Box<dyn ObjectStore>,
    /// Whether it has ever answered.
    has_answered: AtomicBool,
    /// Whether it was waited for in vain, and has not answered since: then nobody waits again.
    is_away: AtomicBool,
    is_stopped: AtomicBool,
    /// Counts the times that what is waited for was given up.
    n_interrupts: AtomicU64,
    patience: Duration,
}

/// How long a request is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tries {
    /// As long as a server is waited for.
    Patient,
    /// Once.
    Once,
}

impl From<ObjectMeta> for Object {
    fn from(meta: ObjectMeta) -> Self {
        let version = meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_rfc3339());
        let etag = meta.e_tag.filter(|etag| !etag.starts_with("W/"));
        Self { key: meta.location, len: meta.size, version, etag }
    }
}

impl Store {
    pub(super) fn open(location: Location) -> Result<Self, DataError> {
        // A second installation is refused, which leaves the first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let built = builder(&location);
        let refused = |error: object_store::Error| Failure::Refused(error.to_string()).at(&location.address, &location);
        let inner = built.map_err(refused)?;
        Ok(Self {
            location,
            inner,
            has_answered: AtomicBool::new(false),
            is_away: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            n_interrupts: AtomicU64::new(0),
            patience: PATIENCE,
        })
    }

    /// Ends all waiting.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// Ends the waiting of the requests that have failed at least once; later ones are tried as ever.
    pub(super) fn interrupt(&self) {
        self.n_interrupts.fetch_add(1, Ordering::Relaxed);
    }

    /// The objects below a prefix, by their keys.
    pub(super) fn list(&self, prefix: &Key) -> Result<Vec<Object>, Failure> {
        let listed =
            self.block_on(Tries::Patient, || async { self.inner.list(Some(prefix)).try_collect::<Vec<_>>().await })?;
        let mut objects: Vec<Object> = listed.into_iter().map(Object::from).collect();
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    pub(super) fn head(&self, key: &Key) -> Result<Object, Failure> {
        self.block_on(Tries::Patient, || async { self.inner.head(key).await.map(Object::from) })
    }

    /// A range of an object, which must be what it was.
    pub(super) fn read(&self, object: &Object, range: Range<u64>, tries: Tries) -> Result<Vec<u8>, Failure> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.block_on(tries, || self.part(object, range.clone()))
    }

    /// Hands a whole object over in pieces, in order.
    pub(super) fn download(
        &self,
        object: &Object,
        mut sink: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), Failure> {
        runtime()?.block_on(async {
            let starts = (0..object.len).step_by(PART_BYTES as usize);
            let parts = starts.map(|at| at..object.len.min(at + PART_BYTES));
            let mut parts = stream::iter(parts)
                .map(|part| self.retried(Tries::Patient, move || self.part(object, part.clone())))
                .buffered(N_PARTS);
            while let Some(part) = parts.next().await {
                sink(&part?).map_err(Failure::disk)?;
            }
            Ok(())
        })
    }

    async fn part(&self, object: &Object, range: Range<u64>) -> object_store::Result<Vec<u8>> {
        let len = range.end - range.start;
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            if_match: object.etag.clone(),
            ..GetOptions::default()
        };
        let found = self.inner.get_opts(&object.key, options).await?;
        // Servers that know no conditions answer anyway.
        let is_same = match (&object.etag, &found.meta.e_tag) {
            (Some(listed), Some(etag)) => listed == etag,
            _ => true,
        };
        if found.meta.size != object.len || !is_same {
            let source = format!("it has {} bytes, and had {}", found.meta.size, object.len).into();
            return Err(object_store::Error::Precondition { path: object.key.to_string(), source });
        }
        let bytes = found.bytes().await?;
        if bytes.len() as u64 != len {
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, format!("{} of {len} bytes", bytes.len()));
            return Err(object_store::Error::Generic { store: "range", source: Box::new(source) });
        }
        Ok(bytes.to_vec())
    }

    fn block_on<T, F>(&self, tries: Tries, request: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        runtime()?.block_on(self.retried(tries, request))
    }

    /// Tries a request until it is answered, refused, or has been tried for as long as a server is waited for.
    async fn retried<T, F>(&self, tries: Tries, mut request: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let (began, [mut pause, longest]) = (Instant::now(), PAUSES);
        let n_interrupts = self.n_interrupts.load(Ordering::Relaxed);
        let is_given_up =
            || self.is_stopped.load(Ordering::Relaxed) || self.n_interrupts.load(Ordering::Relaxed) != n_interrupts;
        let mut n_tried = 0;
        loop {
            if is_given_up() {
                return Err(Failure::Stopped);
            }
            n_tried += 1;
            let error = match request().await {
                Ok(value) => {
                    self.has_answered.store(true, Ordering::Relaxed);
                    self.is_away.store(false, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(error) => error,
            };
            if let Some(failure) = Failure::of(&error) {
                return Err(failure);
            }
            let patience = match self.has_answered.load(Ordering::Relaxed) {
                _ if tries == Tries::Once || self.is_away.load(Ordering::Relaxed) => Duration::ZERO,
                true => self.patience,
                false => PATIENCE_AT_FIRST,
            };
            let waited = began.elapsed();
            if waited + pause > patience {
                self.is_away.fetch_or(tries == Tries::Patient, Ordering::Relaxed);
                return Err(Failure::Away { n_tried, waited, last: answer(&error) });
            }
            let until = Instant::now() + pause;
            while Instant::now() < until && !is_given_up() {
                tokio::time::sleep(NAP.min(pause)).await;
            }
            pause = (2 * pause).min(longest);
        }
    }
}

fn runtime() -> Result<&'static Runtime, Failure> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let build = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("sam-data-cloud").enable_all().build().ok()
    };
    let runtime = RUNTIME.get_or_init(build).as_ref();
    runtime.ok_or_else(|| Failure::Refused("no threads for requests to the cloud".to_owned()))
}

fn builder(location: &Location) -> object_store::Result<Box<dyn ObjectStore>> {
    let (url, once) = (location.base.as_str(), RetryConfig { max_retries: 0, ..RetryConfig::default() });
    // An endpoint that is typed as http:// is meant as such.
    let is_plain = |names: &[&str]| {
        names.iter().any(|name| std::env::var(name).is_ok_and(|endpoint| endpoint.starts_with("http://")))
    };
    Ok(match location.scheme {
        Scheme::S3 => {
            let mut builder = AmazonS3Builder::from_env().with_url(url).with_retry(once);
            for (key, value) in TIMEOUTS {
                builder = builder.with_config(AmazonS3ConfigKey::Client(key), value);
            }
            if is_plain(&["AWS_ENDPOINT", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"]) {
                builder = builder.with_allow_http(true);
            }
            Box::new(builder.build()?)
        }
        Scheme::Gs => {
            let mut builder = GoogleCloudStorageBuilder::from_env().with_url(url).with_retry(once);
            for (key, value) in TIMEOUTS {
                builder = builder.with_config(GoogleConfigKey::Client(key), value);
            }
            Box::new(builder.build()?)
        }
        Scheme::Az => {
            let mut builder = MicrosoftAzureBuilder::from_env().with_url(url).with_retry(once);
            for (key, value) in TIMEOUTS {
                builder = builder.with_config(AzureConfigKey::Client(key), value);
            }
            if is_plain(&["AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]) {
                builder = builder.with_allow_http(true);
            }
            Box::new(builder.build()?)
        }
        Scheme::Http => {
            let options = TIMEOUTS
                .into_iter()
                .fold(ClientOptions::new(), |options, (key, value)| options.with_config(key, value));
            let options = options.with_allow_http(url.starts_with("http://"));
            Box::new(HttpBuilder::new().with_url(url).with_client_options(options).with_retry(once).build()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_for_each_kind_of_place_can_be_made() {
        for address in ["https://host/a.tar", "http://host/a.tar", "s3://bucket/a"] {
            let location = Location::parse(std::path::Path::new(address)).expect("an address");
            let store = Store::open(location);
            assert!(store.is_ok(), "{store:?}");
        }
    }

    #[test]
    fn a_server_that_is_away_is_tried_for_some_time() {
        // A port that nobody listens on any more.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = format!("http://{}/a.tar", port.expect("a port"));
        let location = Location::parse(std::path::Path::new(&address)).expect("an address");
        let mut store = Store::open(location).expect("a store");
        store.has_answered = AtomicBool::new(true);
        store.patience = Duration::from_millis(1500);
        let failure = store.head(&store.location.key().clone()).expect_err("nobody is there");
        let Failure::Away { n_tried, last, .. } = &failure else { panic!("{failure:?}") };
        assert!(last.contains("refused"), "{last}");
        assert!((2..=5).contains(n_tried), "{failure:?}");
        let again = store.head(&store.location.key().clone()).expect_err("still nobody");
        assert!(matches!(again, Failure::Away { n_tried: 1, .. }), "{again:?}");
        let error = failure.at(&address, &store.location);
        assert!(error.is_outage() && error.to_string().contains("attempts over"), "{error}");
    }
}
