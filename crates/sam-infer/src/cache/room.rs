//! Room for new entries: those that were used longest ago are removed, of whatever encoder, but none that is needed now and
//! none of an encoder that another process works with.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::entry::EXTENSION;
use super::{EmbeddingCache, EntryKey, LOCK_FILE};

/// Entries that are needed.
pub type Protected = HashSet<EntryKey>;

/// What was removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MadeRoom {
    /// Number of entries.
    pub n_removed: usize,
    /// Their size.
    pub n_bytes: u64,
    /// Size of all entries that are left.
    pub left_bytes: u64,
}

struct Found {
    path: PathBuf,
    n_bytes: u64,
    used: SystemTime,
}

impl EmbeddingCache {
    /// Removes entries until those that are left and `new_bytes` more take at most `max_bytes`, or until nothing more may be
    /// removed.
    #[must_use]
    pub fn make_room(&self, needed: &Protected, new_bytes: u64, max_bytes: u64) -> MadeRoom {
        let own = needed.iter().map(|&key| self.path_of(key)).collect::<HashSet<_>>();
        let mut locks: Vec<File> = Vec::new();
        let (mut removable, mut left_bytes) = (Vec::new(), 0);
        for folder in folders(&self.root) {
            let is_own = folder == self.folder;
            let lock = if is_own { None } else { lock_of_nobody_else(&folder) };
            let is_free = is_own || lock.is_some();
            for found in entries(&folder) {
                left_bytes += found.n_bytes;
                if is_free && !own.contains(&found.path) {
                    removable.push(found);
                }
            }
            locks.extend(lock);
        }
        removable.sort_by(|a, b| a.used.cmp(&b.used).then_with(|| a.path.cmp(&b.path)));
        let mut made = MadeRoom { left_bytes, ..MadeRoom::default() };
        for found in removable {
            if made.left_bytes + new_bytes <= max_bytes {
                break;
            }
            if std::fs::remove_file(&found.path).is_ok() {
                made.n_removed += 1;
                made.n_bytes += found.n_bytes;
                made.left_bytes -= found.n_bytes;
            }
        }
        made
    }
}

/// The folders of all signatures.
fn folders(root: &Path) -> Vec<PathBuf> {
    let is_signature =
        |name: &str| name.len() == 16 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let Ok(found) = std::fs::read_dir(root) else { return Vec::new() };
    let mut folders: Vec<PathBuf> = found
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(is_signature))
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect();
    folders.sort();
    folders
}

fn entries(folder: &Path) -> Vec<Found> {
    let Ok(found) = std::fs::read_dir(folder) else { return Vec::new() };
    let entry = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let metadata = entry.metadata().ok()?;
        let is_entry = metadata.is_file() && path.extension().is_some_and(|extension| extension == EXTENSION);
        let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        is_entry.then_some(Found { n_bytes: metadata.len(), used, path })
    };
    found.flatten().filter_map(entry).collect()
}

/// The lock of a folder that no process uses; while it is held, one that wants to waits.
fn lock_of_nobody_else(folder: &Path) -> Option<File> {
    let file = OpenOptions::new().read(true).write(true).open(folder.join(LOCK_FILE)).ok()?;
    file.try_lock().ok()?;
    Some(file)
}
