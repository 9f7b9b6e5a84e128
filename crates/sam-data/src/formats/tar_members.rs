//! Members of a plain `.tar`, without unpacking it.

use std::io::{Read, Seek};
use std::path::Path;

use crate::error::DataError;

/// A file inside an archive.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TarMember {
    pub(crate) name: String,
    pub(crate) at: u64,
    pub(crate) len: u64,
}

/// Reads the headers of an archive; hidden files are skipped. Sorted by name.
pub(crate) fn list(path: &Path) -> Result<Vec<TarMember>, DataError> {
    let io = |error| DataError::io(path, error);
    let file = sam_files::open_regular(path).map_err(io)?;
    let file_len = file.metadata().map_err(io)?.len();
    read(std::io::BufReader::new(file), file_len, path)
}

/// As [`list`], of an archive of `file_len` bytes that is called `path` in messages.
pub(crate) fn read(reader: impl Read + Seek, file_len: u64, path: &Path) -> Result<Vec<TarMember>, DataError> {
    let mut archive = tar::Archive::new(reader);
    let mut members = Vec::new();
    let mut end = 0;
    for member in archive.entries_with_seek().map_err(|error| DataError::io(path, error))? {
        let member = member.map_err(|error| damaged(path, &error))?;
        let kind = member.header().entry_type();
        let (at, len) = (member.raw_file_position(), member.size());
        end = at + len;
        if !kind.is_file() && !kind.is_contiguous() {
            continue;
        }
        let name = String::from_utf8_lossy(&member.path_bytes()).trim_start_matches("./").to_owned();
        if !name.rsplit('/').next().is_some_and(|name| name.starts_with('.')) {
            members.push(TarMember { name, at, len });
        }
    }
    if end > file_len {
        return Err(damaged(path, &format!("members up to byte {end} in a file of {file_len} bytes")));
    }
    members.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(members)
}

/// The error for a truncated or malformed archive.
pub(crate) fn damaged(path: &Path, got: &dyn std::fmt::Display) -> DataError {
    DataError::Content {
        path: path.to_path_buf(),
        what: "a shard".to_owned(),
        expected: "a whole, plain .tar".to_owned(),
        got: got.to_string(),
        fix: "download it again".to_owned(),
    }
}
