//! Which image a file holds, without decoding it: the hash of the encoded file, and that of the pixels it decodes to.
//!
//! A text file with a line for each image that was decoded once. A changed file has another hash, so its line is not found.
//! Lines are only ever appended, each in one write; one that was torn by a crash does not match its checksum and is skipped.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use sam_files::Fingerprint;

use super::{CacheError, append};

const FILE: &str = "images.txt";

/// About five million images.
const MAX_BYTES: u64 = 256 << 20;

/// Hashes of encoded images and of their pixels.
#[derive(Debug)]
pub struct ImageIndex {
    path: PathBuf,
    pixels_of: Mutex<HashMap<u64, u64>>,
}

impl ImageIndex {
    /// Opens the index in the folder of a cache. Without one, or when it cannot be read, nothing is known.
    ///
    /// # Errors
    ///
    /// When it cannot be appended to.
    pub fn open(root: &Path) -> Result<Self, CacheError> {
        let path = root.join(FILE);
        let bytes = sam_files::read_regular(&path, MAX_BYTES).unwrap_or_default();
        if !bytes.is_empty() && !bytes.ends_with(b"\n") {
            // The rest of a torn line must not spoil the next.
            append(&path, "\n").map_err(|source| CacheError::Write { path: path.clone(), source })?;
        }
        let text = String::from_utf8_lossy(&bytes);
        Ok(Self { path, pixels_of: Mutex::new(text.lines().filter_map(parse).collect()) })
    }

    /// [`crate::image_fingerprint`] of the pixels that `content` decodes to, if they were decoded before.
    #[must_use]
    pub fn pixels_of(&self, content: u64) -> Option<u64> {
        self.pixels_of.lock().unwrap_or_else(PoisonError::into_inner).get(&content).copied()
    }

    /// Adds a decoded image.
    ///
    /// # Errors
    ///
    /// When the file cannot be appended to.
    pub fn insert(&self, content: u64, pixels: u64) -> Result<(), CacheError> {
        let mut known = self.pixels_of.lock().unwrap_or_else(PoisonError::into_inner);
        if known.insert(content, pixels) == Some(pixels) {
            return Ok(());
        }
        let line = format!("{content:016x} {pixels:016x} {:016x}\n", checksum(content, pixels));
        append(&self.path, &line).map_err(|source| CacheError::Write { path: self.path.clone(), source })
    }
}

fn parse(line: &str) -> Option<(u64, u64)> {
    let mut numbers = line.split(' ').map(|number| u64::from_str_radix(number, 16).ok());
    let (content, pixels, stated) = (numbers.next()??, numbers.next()??, numbers.next()??);
    (stated == checksum(content, pixels)).then_some((content, pixels))
}

fn checksum(content: u64, pixels: u64) -> u64 {
    let mut hash = Fingerprint::new(1);
    [content, pixels].into_iter().for_each(|word| hash.add_word(word));
    hash.value()
}
