//! Reading files that somebody else made: regular files only, and never more than a stated number of bytes.
//!
//! A pipe waits for a writer that may never come, and a device such as `/dev/zero` never ends. A file of a terabyte may be a
//! hole of a few bytes on disk. All of them are errors before anything is read.

use std::fs::{File, FileType, Metadata};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The largest text that is read as a whole: configurations, lists, annotations of one image.
pub const MAX_TEXT_BYTES: u64 = 256 << 20;

/// The largest other file that is read as a whole: images, results of a detector.
pub const MAX_FILE_BYTES: u64 = 1 << 30;

/// Opens a regular file, or a symbolic link to one.
///
/// # Errors
///
/// When it cannot be opened, or is a pipe, a device, a socket or a folder.
pub fn open_regular(path: &Path) -> Result<File> {
    // Opening a pipe would already wait.
    require_regular(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    require_regular(&file.metadata()?)?;
    Ok(file)
}

/// Reads a regular file of at most `max_bytes`.
///
/// # Errors
///
/// As [`open_regular`], and when the file is larger.
pub fn read_regular(path: &Path, max_bytes: u64) -> Result<Vec<u8>> {
    let file = open_regular(path)?;
    let len = file.metadata()?.len();
    require_at_most(len, max_bytes)?;
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
    // Files below /proc say 0, and a file may grow.
    file.take(max_bytes.saturating_add(1)).read_to_end(&mut bytes)?;
    require_at_most(bytes.len() as u64, max_bytes)?;
    Ok(bytes)
}

/// Reads a text of at most `max_bytes` in UTF-8.
///
/// # Errors
///
/// As [`read_regular`], and when it is not UTF-8.
pub fn read_text(path: &Path, max_bytes: u64) -> Result<String> {
    let bytes = read_regular(path, max_bytes)?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes()[..at].iter().filter(|&&byte| byte == b'\n').count();
        Error::new(
            ErrorKind::InvalidData,
            format!("must be UTF-8 text, got byte {:#04x} in line {line}", error.as_bytes()[at]),
        )
    })
}

/// The error for a file above its limit.
///
/// # Errors
///
/// When `len` is above `max_bytes`.
pub fn require_at_most(len: u64, max_bytes: u64) -> Result<()> {
    if len <= max_bytes {
        return Ok(());
    }
    let message = format!("must have at most {} MiB, got {} MiB", max_bytes >> 20, len.div_ceil(1 << 20));
    Err(Error::new(ErrorKind::FileTooLarge, message))
}

fn require_regular(metadata: &Metadata) -> Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let kind = kind_of(metadata.file_type());
    let error = if metadata.is_dir() { ErrorKind::IsADirectory } else { ErrorKind::InvalidInput };
    Err(Error::new(error, format!("must be a regular file, got {kind}")))
}

#[cfg(unix)]
fn kind_of(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    match () {
        () if kind.is_dir() => "a folder",
        () if kind.is_fifo() => "a pipe (save its content to a file first)",
        () if kind.is_socket() => "a socket",
        () => "a device",
    }
}

#[cfg(not(unix))]
fn kind_of(kind: FileType) -> &'static str {
    if kind.is_dir() { "a folder" } else { "a device" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_limited_before_anything_is_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "12345").expect("written");
        assert_eq!(read_regular(&path, 5).expect("read"), b"12345");
        let error = read_regular(&path, 4).expect_err("too large").to_string();
        assert!(error.contains("at most 0 MiB, got 1 MiB"), "{error}");
        // A hole of a terabyte.
        File::create(&path).and_then(|file| file.set_len(1 << 40)).expect("sparse");
        let error = read_text(&path, MAX_TEXT_BYTES).expect_err("too large").to_string();
        assert!(error.contains("at most 256 MiB, got 1048576 MiB"), "{error}");
        std::fs::write(&path, b"a\nb\xff").expect("written");
        let error = read_text(&path, MAX_TEXT_BYTES).expect_err("no UTF-8").to_string();
        assert!(error.contains("byte 0xff in line 2"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn pipes_devices_sockets_and_folders_are_rejected() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("socket");
        let _listening = std::os::unix::net::UnixListener::bind(&socket).expect("bound");
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
        for (path, kind) in [
            (Path::new("/dev/zero"), "a device"),
            (folder.path(), "a folder"),
            (&socket, "a socket"),
            (&pipe, "a pipe"),
        ] {
            let error = open_regular(path).expect_err("not regular").to_string();
            assert!(error.contains(&format!("must be a regular file, got {kind}")), "{error}");
        }
    }
}
