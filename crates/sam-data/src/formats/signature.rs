//! Files that are something else than their name says, recognised by their first bytes.
//!
//! A download that failed, a clone without Git LFS and a renamed photograph are the usual reasons why a file cannot be read,
//! and a decoder's own message ("invalid signature") names none of them.

use std::path::Path;

use crate::error::DataError;

/// First bytes that are enough for [`foreign`].
const HEAD_BYTES: usize = 512;

/// What a file is instead of an image or a text of annotations, and the fix.
fn foreign(bytes: &[u8]) -> Option<(&'static str, &'static str)> {
    const DOWNLOAD: &str = "download it again";
    let head = &bytes[..bytes.len().min(HEAD_BYTES)];
    let text = head.trim_ascii_start().to_ascii_lowercase();
    if bytes.is_empty() {
        Some(("an empty file", DOWNLOAD))
    } else if head.starts_with(b"version https://git-lfs") {
        Some(("a Git LFS pointer", "run `git lfs pull` in its repository"))
    } else if text.starts_with(b"<!doctype html") || text.starts_with(b"<html") {
        Some(("an HTML page", "the download failed (is a login needed?); download it again"))
    } else if head.get(4..8) == Some(b"ftyp") {
        Some(("a HEIC, AVIF or video file", "convert it to JPEG or PNG"))
    } else if head.starts_with(b"PK\x03\x04") || head.starts_with(&[0x1F, 0x8B]) {
        Some(("a compressed archive", "unpack it first"))
    } else {
        None
    }
}

/// An error for a file of another kind, recognised by its first bytes; `expected` is what it should be.
pub(crate) fn check(bytes: &[u8], name: &Path, expected: &str) -> Result<(), DataError> {
    let Some((got, fix)) = foreign(bytes) else { return Ok(()) };
    Err(DataError::Content {
        path: name.to_path_buf(),
        what: "the file".to_owned(),
        expected: expected.to_owned(),
        got: got.to_owned(),
        fix: fix.to_owned(),
    })
}
