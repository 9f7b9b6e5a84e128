//! The members of the shards: read from their tar headers by range requests, and kept in the cache.
//!
//! A header tells where the next one is, so the requests of a shard come one after the other: for SA-1B's images of a megabyte
//! one for each pair of image and JSON. Several shards are read at a time, and each only once.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::failure::Failure;
use super::store::{Object, Store, Tries};
use crate::error::DataError;
use crate::formats::tar_members::{self, TarMember};

/// A window of SA-1B holds the JSON and the headers between two images. Where members are smaller, windows follow one another
/// and double.
const WINDOW_BYTES: [u64; 2] = [256 << 10, 4 << 20];

/// The first words of a file of members.
const FORMAT: &str = "sam-train members 1";

/// The members of a shard, sorted by name: those that were kept, or else those of the store.
pub(super) fn members(store: &Store, shard: &Object, kept: &Path) -> Result<Vec<TarMember>, DataError> {
    if let Some(members) = load(kept, shard) {
        return Ok(members);
    }
    let address = store.location.address_of(&shard.key);
    let mut reader = Ranges { store, shard, at: 0, start: 0, window: Vec::new(), size: WINDOW_BYTES[0], failure: None };
    let members = tar_members::read(&mut reader, shard.len, Path::new(&address));
    if let Some(failure) = reader.failure {
        return Err(failure.at(&address, &store.location));
    }
    let members = members?;
    // A full disk costs reading them again, and no data.
    if !members.iter().any(|member| member.name.contains(['\n', '\r'])) {
        let _ = sam_files::write_atomically(kept, text(shard, &members));
    }
    Ok(members)
}

/// One line for each member after that of the shard, and a last one by which a file is known to be whole.
fn text(shard: &Object, members: &[TarMember]) -> String {
    let mut text = format!("{FORMAT} {} {}\n", shard.len, shard.version);
    for TarMember { name, at, len } in members {
        text.push_str(&format!("{at} {len} {name}\n"));
    }
    text.push_str(&format!("end {}\n", members.len()));
    text
}

/// `None` where there is no file, or it is damaged or of another shard.
fn load(path: &Path, shard: &Object) -> Option<Vec<TarMember>> {
    let text = sam_files::read_text(path, sam_files::MAX_TEXT_BYTES).ok()?;
    let mut lines = text.lines();
    if lines.next()? != format!("{FORMAT} {} {}", shard.len, shard.version) {
        return None;
    }
    let mut members = Vec::new();
    for line in lines {
        let (first, rest) = line.split_once(' ')?;
        if first == "end" {
            return (rest.parse() == Ok(members.len())).then_some(members);
        }
        let (len, name) = rest.split_once(' ')?;
        let (at, len): (u64, u64) = (first.parse().ok()?, len.parse().ok()?);
        if at.checked_add(len).is_none_or(|end| end > shard.len) {
            return None;
        }
        members.push(TarMember { name: name.to_owned(), at, len });
    }
    None
}

/// Where the members of a shard are kept.
pub(super) fn file(folder: &Path, id: u64) -> PathBuf {
    folder.join(format!("{id:016x}.members"))
}

/// A shard as a file that is read in windows.
struct Ranges<'a> {
    store: &'a Store,
    shard: &'a Object,
    at: u64,
    /// Where the window starts.
    start: u64,
    window: Vec<u8>,
    /// Of the next window.
    size: u64,
    /// Of the last request, as the error of a reader loses it.
    failure: Option<Failure>,
}

impl Read for Ranges<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.start + self.window.len() as u64;
        if self.at >= self.shard.len || buffer.is_empty() {
            return Ok(0);
        }
        if !(self.start..end).contains(&self.at) {
            self.size = if self.at == end && end > 0 { (2 * self.size).min(WINDOW_BYTES[1]) } else { WINDOW_BYTES[0] };
            let range = self.at..self.shard.len.min(self.at + self.size);
            self.window = self.store.read(self.shard, range, Tries::Patient).map_err(|failure| {
                self.failure = Some(failure);
                io::Error::other("the request failed")
            })?;
            self.start = self.at;
        }
        let from = &self.window[(self.at - self.start) as usize..];
        let n = from.len().min(buffer.len());
        buffer[..n].copy_from_slice(&from[..n]);
        self.at += n as u64;
        Ok(n)
    }
}

impl Seek for Ranges<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let to = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.shard.len.checked_add_signed(by),
        };
        self.at = to.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a place before the start"))?;
        Ok(self.at)
    }
}
