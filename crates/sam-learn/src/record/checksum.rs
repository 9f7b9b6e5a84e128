//! Length and checksum of a file. Detects damage; not secure against an attacker.

use std::io::{self, Read};
use std::path::Path;

use sam_files::Fingerprint;
use serde::{Deserialize, Serialize};

/// Length and checksum of a file's contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Checksum {
    /// Length in bytes.
    pub(crate) bytes: u64,
    /// FNV-1a over words of eight bytes, in hexadecimal.
    pub(crate) fnv1a: String,
}

impl Checksum {
    /// Checksum of a whole file; a missing file counts as empty.
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        match sam_files::open_regular(path) {
            Ok(file) => Self::of_reader(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::of_reader(io::empty()),
            Err(error) => Err(error),
        }
    }

    /// Checksum of the first `bytes` of a file.
    pub(crate) fn of_beginning(path: &Path, bytes: u64) -> io::Result<Self> {
        Self::of_reader(sam_files::open_regular(path)?.take(bytes))
    }

    fn of_reader(mut reader: impl Read) -> io::Result<Self> {
        const BUFFER_BYTES: usize = 1 << 16;
        let mut hash = Fingerprint::new(0);
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        let mut bytes = 0;
        loop {
            buffer.clear();
            let n = reader.by_ref().take(BUFFER_BYTES as u64).read_to_end(&mut buffer)?;
            if n == 0 {
                return Ok(Self { bytes, fnv1a: format!("{:016x}", hash.value()) });
            }
            bytes += n as u64;
            let (words, rest) = buffer.as_chunks::<8>();
            words.iter().for_each(|word| hash.add_word(u64::from_le_bytes(*word)));
            hash.add_bytes(rest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flipped_bits_and_truncation_are_detected() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..70_003_u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).expect("written");
        let whole = Checksum::of(&path).expect("readable");
        assert_eq!(whole.bytes, bytes.len() as u64);
        assert_eq!(Checksum::of_beginning(&path, whole.bytes).expect("readable"), whole);
        for at in (0..bytes.len()).step_by(997).chain([bytes.len() - 1]) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            std::fs::write(&path, &damaged).expect("written");
            assert_ne!(Checksum::of(&path).expect("readable"), whole, "bit at {at}");
            std::fs::write(&path, &bytes[..at]).expect("written");
            assert_ne!(Checksum::of(&path).expect("readable"), whole, "cut at {at}");
        }
    }

    #[test]
    fn a_missing_file_counts_as_empty() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(Checksum::of(&folder.path().join("none")).expect("none").bytes, 0);
    }
}
