//! One process at a time in a run folder.
//!
//! The operating system locks `run.lock`, so the lock ends with its process, however that ends: there are no stale locks.
//! The file contains the id of the process.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::error::LearnError;

/// Name of the lock's file in a run folder.
pub const LOCK_FILE: &str = "run.lock";

/// The lock of a run folder, held until it is dropped.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    /// Locks a run folder, which exists.
    ///
    /// # Errors
    ///
    /// When another process holds the lock (its id is in the message), or when the file cannot be written.
    pub fn acquire(folder: &Path) -> Result<Self, LearnError> {
        let path = folder.join(LOCK_FILE);
        let write_error = |source| LearnError::Write { path: path.clone(), source };
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = options.map_err(write_error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only part of the message.
                let _ = file.read_to_string(&mut holder);
                let holder = holder.trim();
                let holder = if holder.is_empty() { "just started".to_owned() } else { holder.to_owned() };
                return Err(LearnError::InUse { folder: folder.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(write_error(source)),
        }
        file.set_len(0).map_err(write_error)?;
        file.seek(SeekFrom::Start(0)).map_err(write_error)?;
        file.write_all(format!("process {}\n", std::process::id()).as_bytes()).map_err(write_error)?;
        Ok(Self { _file: file })
    }
}

impl RunLock {
    /// Whether a process works in a folder, which is not changed.
    #[must_use]
    pub fn is_held(folder: &Path) -> bool {
        let file = OpenOptions::new().read(true).open(folder.join(LOCK_FILE));
        // Held for a moment, shared with whoever else looks.
        file.is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_is_rejected_until_the_first_ends() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = RunLock::acquire(folder.path()).expect("free");
        assert!(RunLock::is_held(folder.path()));
        let error = RunLock::acquire(folder.path()).expect_err("held").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        assert!(!RunLock::is_held(folder.path()));
        RunLock::acquire(folder.path()).expect("free again");
    }
}
