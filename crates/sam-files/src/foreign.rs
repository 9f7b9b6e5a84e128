//! Files that are something else than their name says, recognised by their first bytes.
//!
//! A download that failed, a clone without Git LFS and a renamed file are the usual reasons why a file cannot be read, and a
//! reader's own message ("invalid signature") names none of them.

/// First bytes that are enough for [`foreign_file`].
pub const FOREIGN_HEAD_BYTES: usize = 512;

/// What a file is instead of what was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignFile {
    /// With its article: "an HTML page".
    pub what: &'static str,
    /// What to do, as an imperative.
    pub fix: &'static str,
}

/// Recognises a file that is neither an image that is read, nor a text of annotations, nor a checkpoint, by its first
/// [`FOREIGN_HEAD_BYTES`].
#[must_use]
pub fn foreign_file(bytes: &[u8]) -> Option<ForeignFile> {
    const DOWNLOAD: &str = "download it again";
    /// Where a tar archive has its signature.
    const TAR: std::ops::Range<usize> = 257..262;
    let head = &bytes[..bytes.len().min(FOREIGN_HEAD_BYTES)];
    let text = head.trim_ascii_start().to_ascii_lowercase();
    let is_page = |start: &&[u8]| text.starts_with(start);
    let (what, fix) = if bytes.is_empty() {
        ("an empty file", DOWNLOAD)
    } else if head.starts_with(b"version https://git-lfs") {
        ("a Git LFS pointer", "run `git lfs pull` in its repository")
    } else if [b"<!doctype html".as_slice(), b"<html", b"<head"].iter().any(is_page) {
        ("an HTML page", "the download failed (is a login needed?); download it again")
    } else if head.get(4..8) == Some(b"ftyp") {
        ("a HEIC, AVIF or video file", "convert it to JPEG or PNG")
    } else if head.starts_with(b"PK\x03\x04") || head.starts_with(&[0x1F, 0x8B]) || head.get(TAR) == Some(b"ustar") {
        ("a compressed archive", "unpack it first")
    } else {
        return None;
    };
    Some(ForeignFile { what, fix })
}
