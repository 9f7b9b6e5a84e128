//! The shards of a data set in the cloud: listed, indexed, downloaded ahead, read.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};

use object_store::path::Path as Key;
use sam_files::Fingerprint;

use super::cache::{Access, Cache, Job};
use super::failure::Failure;
use super::location::{Location, Scheme};
use super::store::{Object, Store, Tries};
use super::{default_cloud_cache, index};
use crate::error::DataError;
use crate::formats::files::has_extension;
use crate::formats::place::read_range;
use crate::formats::tar_members::TarMember;
use crate::source_options::SourceOptions;

/// Shards that are downloaded at a time.
const N_DOWNLOADS: usize = 2;
/// Shards whose headers are read at a time: each waits for one answer after the other.
const N_INDEXED: usize = 16;
/// Samples that are mixed, where the cache holds more: a larger pool only delays the first batches, which need all of it.
const ENOUGH_SAMPLES: usize = 20_000;
/// Shards of a pool, at least, where the cache holds them.
const ENOUGH_SHARDS: usize = 8;
/// Downloads and leases of a shard that others remove from a shared folder meanwhile, before its samples are read one by one.
const N_LEASES: usize = 3;

/// The shards at an address. Dropping it ends its downloads.
#[derive(Debug)]
pub(crate) struct CloudShards {
    inner: Arc<Inner>,
    downloads: Once,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    objects: Vec<Object>,
    /// Relative to the address.
    names: Vec<String>,
    cache: Cache,
    folder: PathBuf,
    limit: u64,
}

impl CloudShards {
    /// Lists the shards at an address. None is read.
    ///
    /// # Errors
    ///
    /// When the address is wrong, the server does not answer or refuses, there is no shard, or the cache cannot hold the
    /// largest one.
    pub(crate) fn open(location: &Path, options: &SourceOptions) -> Result<Self, DataError> {
        let store = Store::open(Location::parse(location)?)?;
        let objects = list(&store)?;
        let names: Vec<String> = objects.iter().map(|object| store.location.relative(&object.key).to_owned()).collect();
        let (folder, limit) = (folder_of(&store.location, options)?, limit_of(options)?);
        let largest = objects.iter().map(|object| object.len).max().unwrap_or(0);
        if largest > limit {
            return Err(DataError::Option {
                key: "data.cloud_cache_gib",
                expected: format!(
                    "at least {:.3}, the size of the largest shard of {}",
                    gib(largest),
                    location.display()
                ),
                got: format!("{}", options.cloud_cache_gib),
            });
        }
        let files: Vec<(String, u64)> =
            objects.iter().map(|object| (format!("{:016x}.tar", id(object)), object.len)).collect();
        let cache = Cache::open(&folder, limit, &files)
            .map_err(|error| Failure::disk(error).at(&folder.display().to_string(), &store.location))?;
        let inner = Arc::new(Inner { store, objects, names, cache, folder, limit });
        Ok(Self { inner, downloads: Once::new() })
    }

    /// Number of shards; at least one.
    pub(crate) fn len(&self) -> usize {
        self.inner.objects.len()
    }

    /// The name of a shard, relative to the address.
    pub(crate) fn name(&self, shard: usize) -> &str {
        &self.inner.names[shard]
    }

    pub(crate) fn address(&self, shard: usize) -> String {
        self.inner.address(shard)
    }

    /// The size of a shard.
    pub(crate) fn bytes(&self, shard: usize) -> u64 {
        self.inner.objects[shard].len
    }

    /// How many shards are drawn from at a time: as many as fit into the cache together with the same number ahead. It decides
    /// the order, so it is a function of the options and of the data set.
    pub(crate) fn pooled(&self, n_samples: usize) -> usize {
        let n_bytes: u64 = (0..self.len()).map(|shard| self.bytes(shard)).sum();
        let largest = (0..self.len()).map(|shard| self.bytes(shard)).max().unwrap_or(1);
        let held = match n_bytes <= self.inner.limit {
            true => self.len(),
            false => usize::try_from(self.inner.limit / (2 * largest).max(1)).unwrap_or(usize::MAX),
        };
        let enough = (ENOUGH_SAMPLES * self.len()).div_ceil(n_samples.max(1)).max(ENOUGH_SHARDS);
        held.min(enough).clamp(1, self.len())
    }

    /// What is read and how, in a sentence.
    pub(crate) fn note(&self, pooled: usize) -> String {
        let n_bytes: u64 = (0..self.len()).map(|shard| self.bytes(shard)).sum();
        format!(
            "{}: {} shards of {:.2} GiB in all, of which {pooled} at a time are drawn from; they are kept in {}, at most {:.2} GiB",
            self.inner.store.location.address,
            self.len(),
            gib(n_bytes),
            self.inner.folder.display(),
            gib(self.inner.limit)
        )
    }

    /// Reads the members of these shards, several at a time, and hands them over in this order.
    ///
    /// # Errors
    ///
    /// When a shard is damaged or cannot be read; those of `add`.
    pub(crate) fn each_members(
        &self,
        wanted: &[usize],
        mut add: impl FnMut(usize, Vec<TarMember>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        for some in wanted.chunks(N_INDEXED) {
            let read = |&shard: &usize| self.inner.members(shard);
            let all: Vec<_> = std::thread::scope(|threads| {
                let threads: Vec<_> = some.iter().map(|shard| threads.spawn(move || read(shard))).collect();
                threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
            });
            for (&shard, members) in some.iter().zip(all) {
                add(shard, members.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?)?;
            }
        }
        Ok(())
    }

    /// Says which shards are needed now, and which after them: they are downloaded in this order.
    pub(crate) fn announce(&self, now: &[usize], next: &[usize]) {
        self.inner.cache.announce(now.to_vec(), next.to_vec());
        if now.is_empty() && next.is_empty() {
            return self.inner.store.interrupt();
        }
        self.downloads.call_once(|| {
            for thread in 0..N_DOWNLOADS {
                let inner = Arc::clone(&self.inner);
                let work = move || inner.download_all();
                // Without a thread, announced shards would be waited for.
                std::thread::Builder::new()
                    .name(format!("sam-data-shards-{thread}"))
                    .spawn(work)
                    .expect("a thread can be started");
            }
        });
    }

    /// Reads a range of a shard: from the cache, waiting for it if the shard is announced, or else by a request.
    ///
    /// # Errors
    ///
    /// When the shard is gone or was replaced, or the server refuses or does not answer.
    pub(crate) fn read(&self, shard: usize, at: u64, len: u64) -> Result<Vec<u8>, DataError> {
        let inner = &*self.inner;
        let mut tries = Tries::Patient;
        for _ in 0..N_LEASES {
            match inner.cache.lease(shard).map_err(|failure| inner.error(shard, failure))? {
                Access::Remote => break,
                Access::GivenUp => {
                    tries = Tries::Once;
                    break;
                }
                Access::File(file) => {
                    let bytes = read_range(&file, at, len);
                    inner.cache.release(shard);
                    match bytes {
                        Err(DataError::Io { source, .. })
                            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) =>
                        {
                            inner.cache.forget(shard);
                        }
                        bytes => return bytes,
                    }
                }
            }
        }
        inner.store.read(&inner.objects[shard], at..at + len, tries).map_err(|failure| inner.error(shard, failure))
    }
}

impl Drop for CloudShards {
    fn drop(&mut self) {
        // Its threads end with the part of a shard that they are at.
        self.inner.cache.stop();
        self.inner.store.stop();
    }
}

impl Inner {
    fn address(&self, shard: usize) -> String {
        self.store.location.address_of(&self.objects[shard].key)
    }

    fn error(&self, shard: usize, failure: Failure) -> DataError {
        failure.at(&self.address(shard), &self.store.location)
    }

    fn members(&self, shard: usize) -> Result<Vec<TarMember>, DataError> {
        let object = &self.objects[shard];
        index::members(&self.store, object, &index::file(&self.folder, id(object)))
    }

    /// The work of a thread.
    fn download_all(&self) {
        while let Some(Job { shard, file }) = self.cache.next_job() {
            self.cache.finish(shard, self.download(&self.objects[shard], &file));
        }
    }

    fn download(&self, object: &Object, file: &Path) -> Result<(), Failure> {
        // Another process may share the folder.
        if std::fs::metadata(file).is_ok_and(|metadata| metadata.len() == object.len) {
            return Ok(());
        }
        sam_files::write_atomically_with(file, Failure::disk, |temporary| {
            let mut out = File::create(temporary).map_err(Failure::disk)?;
            self.store.download(object, |bytes| out.write_all(bytes))
        })?;
        Ok(())
    }
}

/// The shards at an address, by their keys.
fn list(store: &Store) -> Result<Vec<Object>, DataError> {
    let location = &store.location;
    let (address, key) = (location.address.as_str(), location.key());
    let failed = |failure: Failure| failure.at(address, location);
    let missing = |expected: &str, got: String, fix: &str| DataError::Content {
        path: Path::new(address).to_path_buf(),
        what: "the address".to_owned(),
        expected: expected.to_owned(),
        got,
        fix: fix.to_owned(),
    };
    if has_extension(key.as_ref(), "tar") {
        return Ok(vec![store.head(key).map_err(failed)?]);
    }
    if has_extension(key.as_ref(), "txt") || has_extension(key.as_ref(), "json") {
        return listed_in(store, key);
    }
    if location.scheme == Scheme::Http {
        return Err(missing(
            "that of a .tar, or of a file that names shards (shards.txt, or a .json list), as HTTP has no listing",
            format!("\"{address}\""),
            "put a shards.txt with one name a line beside the shards, and give its address",
        ));
    }
    let all = store.list(key).map_err(failed)?;
    let n_all = all.len();
    let is_shard = |object: &Object| {
        let name = object.key.as_ref().rsplit('/').next().unwrap_or_default();
        has_extension(name, "tar") && !name.starts_with('.')
    };
    let shards: Vec<Object> = all.into_iter().filter(is_shard).collect();
    if shards.is_empty() {
        let fix = "is the prefix right? Of data in the cloud, SA-1B's shards can be read; pack other formats with `data convert`";
        return Err(missing("that of objects ending in .tar", format!("{n_all} objects and none of them"), fix));
    }
    Ok(shards)
}

/// The shards that a file names, relative to it: one a line, or a JSON list.
fn listed_in(store: &Store, key: &Key) -> Result<Vec<Object>, DataError> {
    let address = store.location.address_of(key);
    let failed = |failure: Failure| failure.at(&address, &store.location);
    let wrong = |got: String| DataError::Content {
        path: Path::new(&address).to_path_buf(),
        what: "an index of shards".to_owned(),
        expected: "names ending in .tar relative to it, one a line or as a JSON list of texts".to_owned(),
        got,
        fix: "write one name a line".to_owned(),
    };
    let file = store.head(key).map_err(failed)?;
    if file.len > sam_files::MAX_TEXT_BYTES {
        return Err(wrong(format!("{} bytes", file.len)));
    }
    let bytes = store.read(&file, 0..file.len, Tries::Patient).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|error| wrong(error.to_string()))?;
    let names: Vec<String> = match has_extension(key.as_ref(), "json") {
        true => serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?,
        false => text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect(),
    };
    let folder = key.as_ref().rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut keys = Vec::with_capacity(names.len());
    for name in &names {
        let key = Key::parse(format!("{folder}/{name}").trim_start_matches('/'));
        match key {
            Ok(key) if has_extension(name, "tar") && !name.starts_with('/') => keys.push(key),
            _ => return Err(wrong(format!("\"{}\"", sam_files::printable(name)))),
        }
    }
    if keys.is_empty() {
        return Err(wrong("no name".to_owned()));
    }
    keys.sort_unstable();
    keys.dedup();
    let mut shards = Vec::with_capacity(keys.len());
    for some in keys.chunks(N_INDEXED) {
        let heads: Vec<_> = std::thread::scope(|threads| {
            let threads: Vec<_> = some.iter().map(|key| threads.spawn(|| store.head(key))).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for (key, head) in some.iter().zip(heads) {
            let head = head.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            shards.push(head.map_err(|failure| failure.at(&store.location.address_of(key), &store.location))?);
        }
    }
    Ok(shards)
}

/// Names a version of an object in the cache.
fn id(object: &Object) -> u64 {
    let mut hash = Fingerprint::new(0);
    for part in [object.key.as_ref(), &object.version] {
        hash.add_word(part.len() as u64);
        hash.add_bytes(part.as_bytes());
    }
    hash.add_word(object.len);
    hash.value()
}

/// The folder of an address in the cache.
fn folder_of(location: &Location, options: &SourceOptions) -> Result<PathBuf, DataError> {
    let root = options.cloud_cache_dir.clone().or_else(default_cloud_cache).ok_or_else(|| DataError::Option {
        key: "data.cloud_cache_dir",
        expected: "given, as the environment names no folder of caches (HOME, XDG_CACHE_HOME)".to_owned(),
        got: "nothing".to_owned(),
    })?;
    let mut hash = Fingerprint::new(0);
    hash.add_bytes(location.address.as_bytes());
    // A name that people recognise, and the hash that tells those apart.
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.');
    let shown: String = location.address.chars().map(|letter| if is_plain(letter) { letter } else { '_' }).collect();
    let tail: String = shown.chars().rev().take(60).collect::<Vec<_>>().into_iter().rev().collect();
    Ok(root.join(format!("{}-{:016x}", tail.trim_start_matches(['_', '.']), hash.value())))
}

fn limit_of(options: &SourceOptions) -> Result<u64, DataError> {
    let given = options.cloud_cache_gib;
    if given.is_finite() && given > 0.0 {
        return Ok((given * f64::from(1u32 << 30)) as u64);
    }
    let (key, expected) = ("data.cloud_cache_gib", "a number above 0".to_owned());
    Err(DataError::Option { key, expected, got: given.to_string() })
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}
