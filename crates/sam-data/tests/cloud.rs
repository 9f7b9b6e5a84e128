//! Shards in the cloud, through the true network path: a small HTTP server on the loopback address serves a folder, can be
//! stopped and started again, and counts what it is asked for.
#![cfg(feature = "cloud")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use sam_data::loader::{ErrorPolicy, Labels, Loader, LoaderOptions, Samples, Subset};
use sam_data::{DataError, Joined, Share, Source, SourceOptions};
use tempfile::TempDir;

const N_SHARDS: usize = 6;
const PER_SHARD: usize = 8;
const N: usize = N_SHARDS * PER_SHARD;

/// Serves a folder; dropping it closes all connections.
struct Server {
    address: SocketAddr,
    is_stopped: Arc<AtomicBool>,
    /// Requests by method and name.
    asked: Arc<Mutex<BTreeMap<String, u64>>>,
    sent: Arc<AtomicU64>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(folder: &Path, at: Option<SocketAddr>) -> Self {
        let listener = TcpListener::bind(at.unwrap_or_else(|| "127.0.0.1:0".parse().expect("an address")));
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("possible");
        let is_stopped = Arc::new(AtomicBool::new(false));
        let (asked, sent, open) =
            (Arc::default(), Arc::new(AtomicU64::new(0)), Arc::<Mutex<Vec<TcpStream>>>::default());
        let (folder, stop) = (folder.to_path_buf(), Arc::clone(&is_stopped));
        let (all_asked, all_sent, all_open) = (Arc::clone(&asked), Arc::clone(&sent), Arc::clone(&open));
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((stream, _)) = listener.accept() else {
                    std::thread::sleep(Duration::from_millis(2));
                    continue;
                };
                stream.set_nonblocking(false).expect("possible");
                all_open.lock().expect("no panic").push(stream.try_clone().expect("a socket"));
                let (folder, asked, sent) = (folder.clone(), Arc::clone(&all_asked), Arc::clone(&all_sent));
                std::thread::spawn(move || while answer(&stream, &folder, &asked, &sent).is_some() {});
            }
        });
        Self { address, is_stopped, asked, sent, open, thread: Some(thread) }
    }

    fn url(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("http://{}/{name}", self.address))
    }

    fn n_asked(&self, what: &str) -> u64 {
        let asked = self.asked.lock().expect("no panic");
        asked.iter().filter(|(key, _)| key.contains(what)).map(|(_, n)| n).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.is_stopped.store(true, Ordering::Relaxed);
        self.thread.take().expect("running").join().expect("no panic");
        for stream in self.open.lock().expect("no panic").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

/// Answers one request of a connection; `None` at its end.
fn answer(stream: &TcpStream, folder: &Path, asked: &Mutex<BTreeMap<String, u64>>, sent: &AtomicU64) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|&n| n > 0)?;
    let mut range = None;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(bytes) = line.strip_prefix("range: bytes=") {
            let (from, to) = bytes.split_once('-')?;
            range = Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?));
        }
    }
    let mut words = first.split(' ');
    let (method, path) = (words.next()?, words.next()?.trim_start_matches('/'));
    *asked.lock().ok()?.entry(format!("{method} {path}")).or_default() += 1;
    let mut stream = stream;
    let Ok(mut file) = std::fs::File::open(folder.join(path)) else {
        write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").ok()?;
        return Some(());
    };
    let len = file.metadata().ok()?.len();
    let etag = format!("ETag: \"{len}\"\r\nLast-Modified: Mon, 30 Nov 2026 00:00:00 GMT\r\n");
    if method == "HEAD" {
        write!(stream, "HTTP/1.1 200 OK\r\n{etag}Content-Length: {len}\r\n\r\n").ok()?;
        return Some(());
    }
    let (from, to) = range.map_or((0, len - 1), |(from, to)| (from, to.min(len - 1)));
    let mut body = vec![0; (to + 1 - from) as usize];
    file.seek(SeekFrom::Start(from)).ok()?;
    file.read_exact(&mut body).ok()?;
    let head = match range {
        Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{to}/{len}"),
        None => "200 OK".to_owned(),
    };
    write!(stream, "HTTP/1.1 {head}\r\n{etag}Content-Length: {}\r\n\r\n", body.len()).ok()?;
    stream.write_all(&body).ok()?;
    sent.fetch_add(body.len() as u64, Ordering::Relaxed);
    Some(())
}

/// A member of a tar: POSIX's header, the content, and zeros up to a multiple of 512.
fn append(tar: &mut Vec<u8>, name: &str, content: &[u8]) {
    let mut header = [0u8; 512];
    header[..name.len()].copy_from_slice(name.as_bytes());
    header[100..108].copy_from_slice(b"0000644\0");
    header[124..136].copy_from_slice(format!("{:011o}\0", content.len()).as_bytes());
    header[136..148].copy_from_slice(b"00000000000\0");
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    tar.extend(header);
    tar.extend(content);
    tar.resize(tar.len().next_multiple_of(512), 0);
}

/// Shards in SA-1B's layout, in a folder with their index; images that no two are alike, and do not compress.
fn write_shards() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let mut names = String::new();
    for shard in 0..N_SHARDS {
        let mut tar = Vec::new();
        for at in 0..PER_SHARD {
            let index = shard * PER_SHARD + at;
            let mut state = index as u32 + 1;
            let image = image::RgbImage::from_fn(40, 30, |_, _| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                image::Rgb([(state >> 24) as u8, index as u8, (state >> 16) as u8])
            });
            let mut png = std::io::Cursor::new(Vec::new());
            image.write_to(&mut png, image::ImageFormat::Png).expect("encoded");
            append(&mut tar, &format!("sa_{index}.png"), &png.into_inner());
            // Column-major runs of the left half.
            let json = format!(
                "{{\"image\": {{\"image_id\": {index}, \"width\": 40, \"height\": 30, \"file_name\": \"sa_{index}.png\"}}, \
                 \"annotations\": [{{\"id\": {index}, \"segmentation\": {{\"size\": [30, 40], \"counts\": [0, {}, {}]}}}}]}}",
                30 * (20 + at),
                30 * (20 - at)
            );
            append(&mut tar, &format!("sa_{index}.json"), json.as_bytes());
        }
        tar.extend([0; 1024]);
        std::fs::write(folder.path().join(format!("sa_{shard}.tar")), tar).expect("written");
        names.push_str(&format!("sa_{shard}.tar\n"));
    }
    std::fs::write(folder.path().join("shards.txt"), names).expect("written");
    folder
}

fn shard_bytes(folder: &Path) -> u64 {
    let len = |shard: usize| std::fs::metadata(folder.join(format!("sa_{shard}.tar"))).expect("there").len();
    (0..N_SHARDS).map(len).max().expect("shards")
}

/// A cache of this many shards.
fn options(folder: &Path, cache: &Path, n_shards: f64) -> SourceOptions {
    let gib = n_shards * (shard_bytes(folder) + 1) as f64 / f64::from(1u32 << 30);
    SourceOptions { cloud_cache_dir: Some(cache.to_path_buf()), cloud_cache_gib: gib, ..SourceOptions::default() }
}

fn loader(source: &Arc<Source>) -> LoaderOptions {
    LoaderOptions {
        seed: 3,
        n_images: NonZeroUsize::new(4).expect("not zero"),
        side_px: 32,
        mask_side_px: 16,
        labels: Labels::Wanted,
        shards: source.shard_order(),
        on_error: ErrorPolicy::Skip,
        ..LoaderOptions::default()
    }
}

/// The samples of the first draws, by the loader.
fn drawn(source: &Arc<Source>, options: LoaderOptions, first_batch: u64, n_batches: usize) -> Vec<usize> {
    let mut loader = Loader::new(Arc::clone(source) as Arc<dyn Samples>, options, first_batch);
    let batches = (0..n_batches).map(|_| loader.next_batch().expect("endless").expect("a batch"));
    batches.flat_map(|batch| batch.images.into_iter().map(|image| image.sample_index)).collect()
}

fn cached_bytes(cache: &Path) -> u64 {
    let folder = std::fs::read_dir(cache).expect("a cache").next().expect("of one address").expect("readable").path();
    let files = std::fs::read_dir(folder).expect("a folder").flatten();
    files
        .filter(|file| file.path().extension().is_some_and(|end| end == "tar"))
        .map(|file| file.metadata().map_or(0, |m| m.len()))
        .sum()
}

#[test]
fn samples_are_those_of_a_copy_on_disk() {
    let (shards, cache) = (write_shards(), tempfile::tempdir().expect("a folder"));
    let server = Server::start(shards.path(), None);
    let local = Source::open(shards.path(), &SourceOptions::default()).expect("on disk");
    let cloud =
        Source::open(&server.url("shards.txt"), &options(shards.path(), cache.path(), 3.0)).expect("in the cloud");
    assert_eq!((cloud.len(), local.len()), (N, N));
    for index in 0..N {
        let [one, other] = [&cloud, &local].map(|source| source.sample(index).expect("readable"));
        assert_eq!((one.name, one.image, one.objects), (other.name, other.image, other.objects));
        let [one, other] = [&cloud, &local].map(|source| source.undecoded(index).expect("readable"));
        assert_eq!(one, other);
    }
    assert_eq!(cached_bytes(cache.path()), 0, "nothing was announced, so no shard was downloaded");
    // Opened again, from the members that were kept.
    let n_asked = server.n_asked("GET sa_");
    let indices = Vec::from_iter(0..N);
    let again = Source::open(&server.url("shards.txt"), &options(shards.path(), cache.path(), 3.0)).expect("again");
    assert!(server.n_asked("GET sa_") - n_asked <= 32, "only files that are probed for classes");
    assert_eq!(again.identity(&indices), cloud.identity(&indices));
    // A single shard, under names without its own.
    let one = Source::open(&server.url("sa_2.tar"), &options(shards.path(), cache.path(), 3.0)).expect("one");
    assert_eq!((one.len(), one.name(0).as_str()), (PER_SHARD, "sa_16.png"));
}

#[test]
fn the_order_is_a_function_of_the_seed_and_the_step_and_the_cache_keeps_its_limit() {
    let (shards, cache) = (write_shards(), tempfile::tempdir().expect("a folder"));
    let server = Server::start(shards.path(), None);
    let open = |cache: &Path| {
        Arc::new(Source::open(&server.url("shards.txt"), &options(shards.path(), cache, 4.0)).expect("in the cloud"))
    };
    let source = open(cache.path());
    assert!(source.notes().iter().any(|note| note.contains("2 at a time")), "{:?}", source.notes());
    let sent = server.sent.load(Ordering::Relaxed);
    let two_epochs = drawn(&source, loader(&source), 0, 2 * N / 4);
    for epoch in two_epochs.chunks(N) {
        assert_eq!(epoch.iter().collect::<BTreeSet<_>>().len(), N, "every sample once");
        for pool in epoch.chunks(2 * PER_SHARD) {
            assert_eq!(pool.iter().map(|sample| sample / PER_SHARD).collect::<BTreeSet<_>>().len(), 2, "two shards");
        }
    }
    assert_ne!(two_epochs[..N], two_epochs[N..], "another order in each epoch");
    // Six shards through a cache of four: no more than once an epoch each, and what is read ahead of the end.
    let sent = (server.sent.load(Ordering::Relaxed) - sent) / shard_bytes(shards.path());
    assert!((6..=16).contains(&sent), "{sent} shards were sent");
    assert!(cached_bytes(cache.path()) <= 4 * (shard_bytes(shards.path()) + 1));
    // Without threads, from any step on, with another cache: the same.
    let other = tempfile::tempdir().expect("a folder");
    let fresh = open(other.path());
    let alone = LoaderOptions { n_workers: 0, ..loader(&fresh) };
    assert_eq!(drawn(&fresh, alone, 7, 6), two_epochs[28..52]);
    let another = LoaderOptions { seed: 4, ..loader(&fresh) };
    assert_ne!(drawn(&fresh, another, 0, N / 4), two_epochs[..N]);
}

#[test]
fn a_subset_and_a_mixture_draw_by_shards_too() {
    let (shards, cache) = (write_shards(), tempfile::tempdir().expect("a folder"));
    let server = Server::start(shards.path(), None);
    let source = Source::open(&server.url("shards.txt"), &options(shards.path(), cache.path(), 4.0)).expect("opened");
    let source = Arc::new(source);
    let samples = Arc::clone(&source) as Arc<dyn Samples>;
    let subset =
        Arc::new(Subset { samples: Arc::clone(&samples), indices: (0..N as u32).filter(|at| at % 4 > 0).collect() });
    let local = Arc::new(Source::open(shards.path(), &SourceOptions::default()).expect("on disk"));
    let sets: Vec<Arc<dyn Samples>> = vec![local, Arc::clone(&subset) as Arc<dyn Samples>];
    let share = |set: &Arc<dyn Samples>| Share { n_samples: set.n_samples(), weight: 1.0, shards: set.shard_order() };
    let shares = sets.iter().map(share).collect();
    let options = LoaderOptions { shares, shards: None, ..loader(&source) };
    let mut loader = Loader::new(Arc::new(Joined::new(sets)), options, 0);
    let mut of_subset = Vec::new();
    while of_subset.len() < subset.n_samples() {
        let batch = loader.next_batch().expect("endless").expect("a batch");
        of_subset
            .extend(batch.images.iter().filter(|image| image.sample_index >= N).map(|image| image.sample_index - N));
    }
    of_subset.truncate(subset.n_samples());
    let shard = |at: &usize| subset.indices[*at] as usize / PER_SHARD;
    for pool in of_subset.chunks(2 * PER_SHARD * 3 / 4) {
        assert_eq!(pool.iter().map(shard).collect::<BTreeSet<_>>().len(), 2, "{pool:?}");
    }
    assert_eq!(of_subset.iter().collect::<BTreeSet<_>>().len(), subset.n_samples());
    assert!(cached_bytes(cache.path()) > 0, "its shards were announced");
}

#[test]
fn a_shard_that_vanishes_is_named_and_counted() {
    let (shards, cache) = (write_shards(), tempfile::tempdir().expect("a folder"));
    let server = Server::start(shards.path(), None);
    let source = Source::open(&server.url("shards.txt"), &options(shards.path(), cache.path(), 2.0)).expect("opened");
    let source = Arc::new(source);
    // The last one of the epoch: it is not there yet.
    let order = source.shard_order().expect("shards");
    let last = order.at(3, 0, N as u64 - 1) / PER_SHARD;
    std::fs::remove_file(shards.path().join(format!("sa_{last}.tar"))).expect("removed");
    let mut reading = Loader::new(Arc::clone(&source) as Arc<dyn Samples>, loader(&source), 0);
    for _ in 0..N / 4 {
        reading.next_batch().expect("endless").expect("training goes on");
    }
    let report = reading.report().clone();
    assert!(report.n_skipped >= PER_SHARD as u64, "{report:?}");
    let reason = &report.drops.skipped[0].reason;
    assert!(reason.contains(&format!("/sa_{last}.tar")) && reason.contains("not found"), "{reason}");
    // With the other policy, it stops the run.
    let strict = LoaderOptions { on_error: ErrorPolicy::Stop, n_workers: 0, ..loader(&source) };
    let mut reading = Loader::new(source, strict, N as u64 / 4 - 1);
    let error = reading.next_batch().expect("a step").expect_err("gone").to_string();
    assert!(error.contains(&format!("/sa_{last}.tar")), "{error}");
}

#[test]
fn a_shard_that_is_replaced_is_not_mistaken_for_the_old_one() {
    let (shards, cache) = (write_shards(), tempfile::tempdir().expect("a folder"));
    let server = Server::start(shards.path(), None);
    let source = Source::open(&server.url("sa_0.tar"), &options(shards.path(), cache.path(), 2.0)).expect("opened");
    let longer = std::fs::read(shards.path().join("sa_1.tar")).expect("there");
    std::fs::write(shards.path().join("sa_0.tar"), [longer, vec![0; 512]].concat()).expect("written");
    let error = source.sample(0).expect_err("another shard");
    assert!(!error.is_outage() && error.to_string().contains("start again"), "{error}");
}

#[test]
fn a_server_that_restarts_is_waited_for() {
    let (shards, cache) = (write_shards(), tempfile::tempdir().expect("a folder"));
    let server = Server::start(shards.path(), None);
    let address = server.address;
    let source = Source::open(&server.url("shards.txt"), &options(shards.path(), cache.path(), 2.0)).expect("opened");
    let source = Arc::new(source);
    let mut reading = Loader::new(Arc::clone(&source) as Arc<dyn Samples>, loader(&source), 0);
    reading.next_batch().expect("endless").expect("a batch");
    drop(server);
    let folder = shards.path().to_path_buf();
    let restarted = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        Server::start(&folder, Some(address))
    });
    let mut samples = BTreeSet::new();
    for _ in 1..N / 4 {
        let batch = reading.next_batch().expect("endless").expect("waited for");
        samples.extend(batch.images.iter().map(|image| image.sample_index));
    }
    assert_eq!((samples.len(), reading.report().n_skipped), (N - 4, 0));
    // Away for good: threads that wait for the shards of the next epoch do not keep a run from ending.
    drop(restarted.join().expect("no panic"));
    let began = std::time::Instant::now();
    drop(reading);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
}

#[test]
fn readers_of_one_shard_share_a_download() {
    let (shards, cache) = (write_shards(), tempfile::tempdir().expect("a folder"));
    let server = Server::start(shards.path(), None);
    let source = Source::open(&server.url("shards.txt"), &options(shards.path(), cache.path(), 4.0)).expect("opened");
    let sent = server.sent.load(Ordering::Relaxed);
    Samples::announce(&source, &[2 * PER_SHARD], &[]);
    std::thread::scope(|threads| {
        for at in 0..PER_SHARD {
            let source = &source;
            threads.spawn(move || source.sample(2 * PER_SHARD + at).expect("readable"));
        }
    });
    let one = std::fs::metadata(shards.path().join("sa_2.tar")).expect("there").len();
    assert_eq!(server.sent.load(Ordering::Relaxed) - sent, one, "the shard once, and nothing else");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let (shards, cache) = (write_shards(), tempfile::tempdir().expect("a folder"));
    std::fs::write(shards.path().join("empty.txt"), "\n").expect("written");
    std::fs::write(shards.path().join("up.txt"), "../secret.tar\n").expect("written");
    std::fs::write(shards.path().join("list.json"), "[\"sa_1.tar\", \"sa_0.tar\"]").expect("written");
    std::fs::write(shards.path().join("broken.tar"), [7; 2048]).expect("written");
    let server = Server::start(shards.path(), None);
    let fine = options(shards.path(), cache.path(), 2.0);
    let error = |name: &str, options: &SourceOptions| match Source::open(&server.url(name), options) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("{name} was opened"),
    };
    for (name, expected) in [
        ("", "HTTP has no listing"),
        ("missing.tar", "not found"),
        ("missing.txt", "not found"),
        ("empty.txt", "no name"),
        ("up.txt", "secret.tar"),
        ("broken.tar", "a whole, plain .tar"),
    ] {
        let error = error(name, &fine);
        assert!(error.contains(expected), "{name}: {error}");
    }
    let small = error("shards.txt", &options(shards.path(), cache.path(), 0.5));
    assert!(small.contains("data.cloud_cache_gib must be at least"), "{small}");
    let other = SourceOptions { format: Some(sam_data::Format::Coco), ..fine.clone() };
    assert!(error("shards.txt", &other).contains("SA-1B's .tar shards"));
    let listed = Source::open(&server.url("list.json"), &fine).expect("a JSON list");
    assert_eq!((listed.len(), listed.name(0).as_str()), (2 * PER_SHARD, "sa_0/sa_0.png"));
    // Nobody listens.
    let address = server.url("shards.txt");
    drop(server);
    let error = Source::open(&address, &fine).map(drop).expect_err("no server");
    assert!(matches!(error, DataError::Cloud { .. }) && error.to_string().contains("attempts over"), "{error}");
}
