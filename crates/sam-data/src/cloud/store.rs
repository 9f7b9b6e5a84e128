//! Requests to S3, Google Cloud Storage, Azure and HTTP servers, from code that waits for them.
//!
//! The only asynchronous code of the project: one runtime of two threads, in which `object_store` works. Its own retries are
//! off, as ours cover whole answers, can be stopped, and say what was tried. Credentials come from the environment, by the names
//! that each provider's own programs use.

use std::future::Future;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
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

use super::failure::Failure;
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

/// The kinds of places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    S3,
    Gs,
    Az,
    Http,
}

/// An address, taken apart.
#[derive(Clone, Debug)]
pub(super) struct Location {
    /// As it was typed, without a slash at the end.
    pub(super) address: String,
    pub(super) scheme: Scheme,
    /// Scheme and bucket or host: `s3://bucket`.
    base: String,
    /// What comes after the bucket or host.
    path: Key,
}

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
    patience: Duration,
}

impl Location {
    pub(super) fn parse(location: &Path) -> Result<Self, DataError> {
        let wrong = |expected: &str, got: &str, fix: &str| DataError::Content {
            path: location.to_path_buf(),
            what: "the address".to_owned(),
            expected: expected.to_owned(),
            got: got.to_owned(),
            fix: fix.to_owned(),
        };
        let form = "s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or http(s)://host/path";
        let address = location.to_str().ok_or_else(|| wrong(form, "other bytes than UTF-8", "type it again"))?;
        let address = address.trim_end_matches('/');
        let (scheme, rest) = address.split_once("://").unwrap_or_default();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let kind = match scheme {
            "s3" => Scheme::S3,
            "gs" => Scheme::Gs,
            "az" => Scheme::Az,
            "http" | "https" => Scheme::Http,
            _ => return Err(wrong(form, address, "type it in one of these forms")),
        };
        if host.is_empty() {
            return Err(wrong(form, "no bucket or host", "name it after the ://"));
        }
        if host.contains('@') {
            let fix = "put credentials into the environment: an address is printed and saved with the run";
            return Err(wrong("without credentials", "something before an @", fix));
        }
        if kind == Scheme::Http && address.contains(['?', '#']) {
            return Err(wrong("without a query", "a ? or #", "signed addresses expire; use s3://, gs:// or az://"));
        }
        let path = if kind == Scheme::Http { Key::from_url_path(path) } else { Key::parse(path) };
        let path = path.map_err(|error| wrong("a path of names", &error.to_string(), "remove what is no name"))?;
        Ok(Self { address: address.to_owned(), scheme: kind, base: format!("{scheme}://{host}"), path })
    }

    /// The address of a key of its bucket.
    pub(super) fn address_of(&self, key: &Key) -> String {
        format!("{}/{key}", self.base)
    }

    /// A key relative to this place; the last name of its own key.
    pub(super) fn relative<'k>(&self, key: &'k Key) -> &'k str {
        let (key, own) = (key.as_ref(), self.path.as_ref());
        match key.strip_prefix(own).map(|rest| rest.trim_start_matches('/')) {
            Some(rest) if !rest.is_empty() => rest,
            _ => key.rsplit('/').next().unwrap_or(key),
        }
    }

    pub(super) fn key(&self) -> &Key {
        &self.path
    }

    /// What of the environment was looked at, with the values of what is no secret.
    pub(super) fn environment(&self) -> String {
        let names: &[&str] = match self.scheme {
            Scheme::S3 => &[
                "AWS_ACCESS_KEY_ID",
                "AWS_SECRET_ACCESS_KEY",
                "AWS_SESSION_TOKEN",
                "AWS_REGION",
                "AWS_ENDPOINT",
                "AWS_SKIP_SIGNATURE",
            ],
            Scheme::Gs => &["GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SKIP_SIGNATURE"],
            Scheme::Az => &[
                "AZURE_STORAGE_ACCOUNT_NAME",
                "AZURE_STORAGE_ACCOUNT_KEY",
                "AZURE_STORAGE_SAS_TOKEN",
                "AZURE_CLIENT_ID",
                "AZURE_SKIP_SIGNATURE",
            ],
            Scheme::Http => return "the address alone".to_owned(),
        };
        let shown = |name: &&str| match std::env::var(name).ok().filter(|value| !value.is_empty()) {
            Some(value) if name.ends_with("REGION") || name.ends_with("ENDPOINT") => format!("{name} ({value})"),
            Some(_) => format!("{name} (set)"),
            None => format!("{name} (not set)"),
        };
        names.iter().map(shown).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn credentials_fix(&self) -> String {
        match self.scheme {
            Scheme::S3 => {
                "set keys that may list and read this place, or AWS_SKIP_SIGNATURE=true for a public bucket; AWS_ENDPOINT for \
                 a server that is not Amazon's"
            }
            Scheme::Gs => "set an account that may list and read this place, or GOOGLE_SKIP_SIGNATURE=true for a public bucket",
            Scheme::Az => "set an account that may list and read this place, or AZURE_SKIP_SIGNATURE=true for a public container",
            Scheme::Http => "the server must give this address without a password",
        }
        .to_owned()
    }
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
            patience: PATIENCE,
        })
    }

    /// Ends all waiting.
    pub(super) fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    /// The objects below a prefix, by their keys.
    pub(super) fn list(&self, prefix: &Key) -> Result<Vec<Object>, Failure> {
        let listed = self.block_on(|| async { self.inner.list(Some(prefix)).try_collect::<Vec<_>>().await })?;
        let mut objects: Vec<Object> = listed.into_iter().map(Object::from).collect();
        objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(objects)
    }

    pub(super) fn head(&self, key: &Key) -> Result<Object, Failure> {
        self.block_on(|| async { self.inner.head(key).await.map(Object::from) })
    }

    /// A range of an object, which must be what it was.
    pub(super) fn read(&self, object: &Object, range: Range<u64>) -> Result<Vec<u8>, Failure> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        self.block_on(|| self.part(object, range.clone()))
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
            let mut parts =
                stream::iter(parts).map(|part| self.retried(move || self.part(object, part.clone()))).buffered(N_PARTS);
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

    fn block_on<T, F>(&self, request: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        runtime()?.block_on(self.retried(request))
    }

    /// Tries a request until it is answered, refused, or has been tried for as long as a server is waited for.
    async fn retried<T, F>(&self, mut request: impl FnMut() -> F) -> Result<T, Failure>
    where
        F: Future<Output = object_store::Result<T>>,
    {
        let (began, [mut pause, longest]) = (Instant::now(), PAUSES);
        let mut n_tried = 0;
        loop {
            if self.is_stopped.load(Ordering::Relaxed) {
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
                _ if self.is_away.load(Ordering::Relaxed) => Duration::ZERO,
                true => self.patience,
                false => PATIENCE_AT_FIRST,
            };
            let waited = began.elapsed();
            if waited + pause > patience {
                self.is_away.store(true, Ordering::Relaxed);
                return Err(Failure::Away { n_tried, waited, last: error.to_string() });
            }
            let until = Instant::now() + pause;
            while Instant::now() < until && !self.is_stopped.load(Ordering::Relaxed) {
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

    fn parsed(address: &str) -> Result<Location, String> {
        Location::parse(Path::new(address)).map_err(|error| error.to_string())
    }

    #[test]
    fn addresses_are_taken_apart() {
        let location = parsed("s3://bucket/a/b/").expect("an address");
        assert_eq!(
            (location.scheme, location.base.as_str(), location.path.as_ref()),
            (Scheme::S3, "s3://bucket", "a/b")
        );
        let key = Key::from("a/b/c/d.tar");
        assert_eq!(location.relative(&key), "c/d.tar");
        assert_eq!(location.address_of(&key), "s3://bucket/a/b/c/d.tar");
        let location = parsed("http://host:80/x%20y.tar").expect("an address");
        assert_eq!(location.path.as_ref(), "x y.tar");
        assert_eq!(location.relative(location.key()), "x y.tar");
        assert_eq!(parsed("gs://bucket").expect("an address").path.as_ref(), "");
    }

    #[test]
    fn wrong_addresses_say_what_is_wrong() {
        for (address, what) in [
            ("s3:///key", "no bucket or host"),
            ("https://user:secret@host/a.tar", "before an @"),
            ("https://host/a.tar?sig=1", "a ? or #"),
            ("s3://bucket/a//b", "a path of names"),
        ] {
            let error = parsed(address).expect_err(address);
            assert!(error.contains(what), "{address}: {error}");
        }
    }

    #[test]
    fn a_server_that_is_away_is_tried_for_some_time() {
        // A port that nobody listens on any more.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = format!("http://{}/a.tar", port.expect("a port"));
        let location = parsed(&address).expect("an address");
        let mut store = Store::open(location).expect("a store");
        store.has_answered = AtomicBool::new(true);
        store.patience = Duration::from_millis(1500);
        let failure = store.head(&store.location.key().clone()).expect_err("nobody is there");
        let Failure::Away { n_tried, .. } = &failure else { panic!("{failure:?}") };
        assert!((2..=5).contains(n_tried), "{failure:?}");
        let again = store.head(&store.location.key().clone()).expect_err("still nobody");
        assert!(matches!(again, Failure::Away { n_tried: 1, .. }), "{again:?}");
        let error = failure.at(&address, &store.location);
        assert!(error.is_outage() && error.to_string().contains("attempts over"), "{error}");
    }
}
