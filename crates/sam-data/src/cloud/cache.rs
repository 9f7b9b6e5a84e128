//! The cache of shards on disk: which are there, being read, being downloaded or wanted, and which must go.
//!
//! Knows no network. Threads that download ask for the next shard ([`Cache::next_job`]), which reserves its bytes, and report
//! how it went; readers take a lease, which keeps a shard from being removed. The files with the reservations never exceed the
//! limit: a shard for which there is no room is not downloaded, and its samples are read one by one.
//!
//! The folder can be shared by several processes, each of which keeps to the limit as far as it sees; a shard that another
//! one removed is downloaded again.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::failure::Failure;

/// Shards on disk, by their place among those of the data set.
#[derive(Debug)]
pub(super) struct Cache {
    limit: u64,
    state: Mutex<State>,
    /// Signals every change of the state.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    slots: Vec<Slot>,
    /// Files of other data and of earlier versions, oldest first: the first to go.
    strangers: VecDeque<(PathBuf, u64)>,
    /// Bytes of all files, and of those that are being downloaded.
    used: u64,
    /// Counts uses.
    clock: u64,
    /// What was announced.
    now: Vec<usize>,
    next: Vec<usize>,
    /// Shards that a reader waits for, then those that are announced.
    urgent: VecDeque<usize>,
    ahead: VecDeque<usize>,
    is_stopped: bool,
}

#[derive(Debug)]
struct Slot {
    file: PathBuf,
    len: u64,
    held: Held,
    n_readers: usize,
    /// By the clock.
    used_at: u64,
    /// Of its downloads, how many failed, and the last of them.
    n_failed: u64,
    failure: Option<Failure>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    Absent,
    Loading,
    Present,
    /// The object is gone; it is not asked for again.
    Lost,
}

/// How a shard can be read.
pub(super) enum Access {
    /// In this file, until [`Cache::release`].
    File(PathBuf),
    /// By requests for its bytes: it is not announced, or there is no room for it.
    Remote,
    /// As well, but hardly anybody wants it: while this was waiting for the shard, it was announced that nobody waits any more.
    GivenUp,
}

/// A shard to download into this file.
pub(super) struct Job {
    pub(super) shard: usize,
    pub(super) file: PathBuf,
}

impl Cache {
    /// A cache in a folder, which is created, of shards with these names and lengths. What is there already is kept, as far
    /// as the limit allows.
    pub(super) fn open(folder: &Path, limit: u64, shards: &[(String, u64)]) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        sam_files::sweep_unfinished(folder);
        let slot = |(name, len): &(String, u64)| Slot {
            file: folder.join(name),
            len: *len,
            held: Held::Absent,
            n_readers: 0,
            used_at: 0,
            n_failed: 0,
            failure: None,
        };
        let mut state = State {
            slots: shards.iter().map(slot).collect(),
            strangers: VecDeque::new(),
            used: 0,
            clock: 0,
            now: Vec::new(),
            next: Vec::new(),
            urgent: VecDeque::new(),
            ahead: VecDeque::new(),
            is_stopped: false,
        };
        state.find_files(folder)?;
        state.make_room(0, limit, true);
        Ok(Self { limit, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Says which shards are needed now, and which after them.
    pub(super) fn announce(&self, now: Vec<usize>, next: Vec<usize>) {
        let mut state = self.lock();
        state.ahead =
            now.iter().chain(&next).copied().filter(|&shard| state.slots[shard].held == Held::Absent).collect();
        (state.now, state.next) = (now, next);
        drop(state);
        self.changed.notify_all();
    }

    /// Waits until a shard can be read.
    ///
    /// # Errors
    ///
    /// When it is gone, or a download that was waited for failed.
    pub(super) fn lease(&self, shard: usize) -> Result<Access, Failure> {
        let mut state = self.lock();
        let (n_failed, mut has_waited) = (state.slots[shard].n_failed, false);
        loop {
            let is_announced = state.now.contains(&shard) || state.next.contains(&shard);
            let is_given_up = has_waited && state.now.is_empty() && state.next.is_empty();
            state.clock += 1;
            let (clock, is_stopped) = (state.clock, state.is_stopped);
            let slot = &mut state.slots[shard];
            match (slot.held, &slot.failure) {
                (Held::Present, _) => {
                    slot.n_readers += 1;
                    slot.used_at = clock;
                    return Ok(Access::File(slot.file.clone()));
                }
                (Held::Lost, Some(failure)) => return Err(failure.clone()),
                (_, Some(failure)) if slot.n_failed > n_failed => return Err(failure.clone()),
                _ if is_stopped => return Err(Failure::Stopped),
                (Held::Absent | Held::Loading, _) if is_given_up => return Ok(Access::GivenUp),
                // Also of one that is under way: nobody may want to wait any more.
                (Held::Absent | Held::Loading, _) if !is_announced => return Ok(Access::Remote),
                (Held::Absent, _) => {
                    let len = slot.len;
                    if !state.urgent.contains(&shard) {
                        if !state.can_make_room(len, self.limit) {
                            return Ok(Access::Remote);
                        }
                        state.urgent.push_back(shard);
                        self.changed.notify_all();
                    }
                }
                (Held::Loading | Held::Lost, _) => {}
            }
            has_waited = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends a lease.
    pub(super) fn release(&self, shard: usize) {
        self.lock().slots[shard].n_readers -= 1;
        self.changed.notify_all();
    }

    /// Notes that the file of a shard is not there any more, or not whole.
    pub(super) fn forget(&self, shard: usize) {
        let mut state = self.lock();
        if state.slots[shard].held == Held::Present {
            state.slots[shard].held = Held::Absent;
            state.used -= state.slots[shard].len;
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Waits for a shard to download, with room for it; `None` when it is time to end.
    pub(super) fn next_job(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.is_stopped {
                return None;
            }
            if let Some(shard) = state.urgent.pop_front() {
                match state.begin(shard, self.limit, true) {
                    None => self.changed.notify_all(),
                    job => return job,
                }
                continue;
            }
            while state.ahead.front().is_some_and(|&shard| state.slots[shard].held != Held::Absent) {
                state.ahead.pop_front();
            }
            // One without room waits for its turn, and with it those after it.
            if let Some(&shard) = state.ahead.front()
                && let Some(job) = state.begin(shard, self.limit, false)
            {
                state.ahead.pop_front();
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reports how a download went.
    pub(super) fn finish(&self, shard: usize, result: Result<(), Failure>) {
        let mut state = self.lock();
        let slot = &mut state.slots[shard];
        match result {
            Ok(()) => slot.held = Held::Present,
            Err(failure) => {
                slot.held = if failure.is_loss() { Held::Lost } else { Held::Absent };
                slot.n_failed += 1;
                slot.failure = Some(failure);
                let len = slot.len;
                state.used -= len;
            }
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Ends all waiting.
    pub(super) fn stop(&self) {
        self.lock().is_stopped = true;
        self.changed.notify_all();
    }

    /// Bytes on disk, with those that are being downloaded.
    #[cfg(test)]
    fn used(&self) -> u64 {
        self.lock().used
    }

    /// No code panics while it holds the lock, so a poisoned one is still consistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes stock of a folder: the clock begins with the files in the order of their download.
    fn find_files(&mut self, folder: &Path) -> io::Result<()> {
        let mut files: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
        for entry in std::fs::read_dir(folder)?.flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_file() && entry.path().extension().is_some_and(|extension| extension == "tar") {
                files.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), entry.path(), metadata.len()));
            }
        }
        files.sort_unstable();
        for (_, path, len) in files {
            self.used += len;
            self.clock += 1;
            match self.slots.iter_mut().find(|slot| slot.file == path && slot.len == len) {
                Some(slot) => (slot.held, slot.used_at) = (Held::Present, self.clock),
                None => self.strangers.push_back((path, len)),
            }
        }
        Ok(())
    }

    /// Reserves the room of a shard; `None` without room, or when there is nothing to do.
    fn begin(&mut self, shard: usize, limit: u64, is_urgent: bool) -> Option<Job> {
        if self.slots[shard].held != Held::Absent || !self.make_room(self.slots[shard].len, limit, is_urgent) {
            return None;
        }
        let slot = &mut self.slots[shard];
        slot.held = Held::Loading;
        self.used += slot.len;
        Some(Job { shard, file: slot.file.clone() })
    }

    /// Removes what was used longest ago until there is room for `len` more bytes; returns whether there is. What is needed
    /// now stays, and what is needed next unless it is urgent.
    fn make_room(&mut self, len: u64, limit: u64, is_urgent: bool) -> bool {
        while self.used.saturating_add(len) > limit {
            if let Some((file, len)) = self.strangers.pop_front() {
                // One that cannot be removed is as good as gone: it is not ours.
                let _ = sam_files::remove_if_there(&file);
                self.used -= len;
                continue;
            }
            let oldest = self.removable(is_urgent).min_by_key(|&shard| self.slots[shard].used_at);
            let Some(slot) = oldest.map(|shard| &mut self.slots[shard]) else { return false };
            slot.held = Held::Absent;
            // What cannot be removed takes its room for good.
            if sam_files::remove_if_there(&slot.file).is_ok() {
                self.used -= slot.len;
            }
        }
        true
    }

    fn removable(&self, is_urgent: bool) -> impl Iterator<Item = usize> {
        (0..self.slots.len()).filter(move |shard| {
            let slot = &self.slots[*shard];
            let is_free = slot.held == Held::Present && slot.n_readers == 0;
            is_free && !self.now.contains(shard) && (is_urgent || !self.next.contains(shard))
        })
    }

    /// Whether there is room for an urgent shard, or will be when the downloads that are under way have ended.
    fn can_make_room(&self, len: u64, limit: u64) -> bool {
        let removable: u64 = self.removable(true).map(|shard| self.slots[shard].len).sum();
        let strangers: u64 = self.strangers.iter().map(|(_, len)| len).sum();
        (self.used - removable - strangers).saturating_add(len) <= limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(folder: &Path, limit: u64) -> Cache {
        let shards: Vec<(String, u64)> = (0..5).map(|shard| (format!("{shard}.tar"), 10)).collect();
        Cache::open(folder, limit, &shards).expect("a cache")
    }

    /// Downloads the next shard.
    fn load(cache: &Cache) -> usize {
        let Job { shard, file } = cache.next_job().expect("a job");
        std::fs::write(file, [0; 10]).expect("written");
        cache.finish(shard, Ok(()));
        shard
    }

    fn files(folder: &Path) -> Vec<String> {
        let names = std::fs::read_dir(folder).expect("a folder").flatten();
        let mut names: Vec<String> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        names
    }

    fn is_remote(cache: &Cache, shard: usize) -> bool {
        matches!(cache.lease(shard).expect("readable"), Access::Remote)
    }

    #[test]
    fn what_is_announced_is_loaded_in_order_and_what_was_used_longest_ago_goes() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = cache(folder.path(), 35);
        assert!(is_remote(&cache, 3), "nobody announced it");
        cache.announce(vec![3, 1], vec![0]);
        assert_eq!([load(&cache), load(&cache), load(&cache)], [3, 1, 0]);
        assert!(matches!(cache.lease(3).expect("readable"), Access::File(_)));
        cache.announce(vec![0], vec![2]);
        // 1 and not 3, which is being read.
        assert_eq!(load(&cache), 2);
        assert_eq!(files(folder.path()), ["0.tar", "2.tar", "3.tar"]);
        assert_eq!(cache.used(), 30);
        cache.release(3);
        cache.announce(vec![2], vec![4]);
        assert_eq!(load(&cache), 4);
        assert_eq!(cache.used(), 30);
        assert!(cache.used() <= 35);
    }

    #[test]
    fn without_room_a_shard_is_read_by_requests() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = cache(folder.path(), 15);
        cache.announce(vec![0, 1], vec![2]);
        assert_eq!(load(&cache), 0);
        assert!(is_remote(&cache, 1) && is_remote(&cache, 2));
        assert_eq!(cache.used(), 10);
        // Its turn comes with the next pool.
        cache.announce(vec![2], vec![]);
        assert_eq!(load(&cache), 2);
        assert_eq!(files(folder.path()), ["2.tar"]);
    }

    #[test]
    fn readers_wait_for_one_download_and_share_its_failure() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = cache(folder.path(), 50);
        cache.announce(vec![0, 1], vec![]);
        let lost = || Err(Failure::Gone("404".to_owned()));
        std::thread::scope(|threads| {
            let readers: Vec<_> = (0..4).map(|_| threads.spawn(|| cache.lease(1).is_ok())).collect();
            let broken = threads.spawn(|| cache.lease(0).is_err());
            for _ in 0..2 {
                let Job { shard, file } = cache.next_job().expect("a job");
                std::fs::write(file, [0; 10]).expect("written");
                cache.finish(shard, if shard == 0 { lost() } else { Ok(()) });
            }
            assert!(readers.into_iter().all(|reader| reader.join().expect("no panic")));
            assert!(broken.join().expect("no panic"));
        });
        assert!(cache.lease(0).is_err(), "it is not asked for again");
        assert_eq!(cache.used(), 10);
    }

    #[test]
    fn what_an_earlier_run_left_is_used_and_what_is_foreign_goes_first() {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, len) in [("0.tar", 10), ("old.tar", 10), ("1.tar", 7), ("notes.txt", 100)] {
            std::fs::write(folder.path().join(name), vec![0; len]).expect("written");
        }
        let cache = cache(folder.path(), 30);
        assert_eq!(cache.used(), 27);
        assert!(matches!(cache.lease(0).expect("readable"), Access::File(_)));
        cache.release(0);
        cache.announce(vec![0], vec![2]);
        assert_eq!(load(&cache), 2);
        assert!(files(folder.path()).contains(&"notes.txt".to_owned()), "only shards are ours");
        assert_eq!(files(folder.path()).iter().filter(|name| name.ends_with(".tar")).count(), 3);
        cache.forget(2);
        assert_eq!(cache.used(), if files(folder.path()).contains(&"1.tar".to_owned()) { 17 } else { 20 });
    }

    #[test]
    fn stopping_ends_all_waiting() {
        let folder = tempfile::tempdir().expect("a folder");
        let cache = cache(folder.path(), 50);
        cache.announce(vec![0], vec![]);
        let _job = cache.next_job().expect("a job");
        std::thread::scope(|threads| {
            let (reader, worker) =
                (threads.spawn(|| cache.lease(0).is_err()), threads.spawn(|| cache.next_job().is_none()));
            cache.stop();
            assert!(reader.join().expect("no panic") && worker.join().expect("no panic"));
        });
    }
}
