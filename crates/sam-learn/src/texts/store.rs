//! Vectors of CLIP on disk, in files of a few: those of the objects of one image, or that of one text.
//!
//! A folder is of one CLIP and one way of cropping (its *signature*), a file is named by what it is of: the hash of an encoded
//! image, or of a text. So nothing stale is found. Files appear complete or not at all; one that is damaged does not match its
//! checksum and counts as missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use half::f16;
use sam_files::{Fingerprint, write_unsynced};
use sam_infer::cache::CacheError;

/// Changes when the same CLIP and crop give other numbers, or when a file is laid out differently.
pub(super) const FORMAT: u64 = 1;

const MAGIC: [u8; 8] = *b"SAMCLIP\x01";

/// Magic, signature, name, number of keys with rows of each, width, checksum.
const HEAD_BYTES: usize = 48;

/// Ten thousand objects of an image with all their vectors are less.
const MAX_BYTES: u64 = 256 << 20;

/// Rows of a file, by key.
pub(super) type Rows = BTreeMap<u64, Vec<Vec<f32>>>;

/// What a file is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    /// The objects of an image, by the hash of its encoded file.
    Image(u64),
    /// A text, by its hash.
    Text(u64),
}

/// The vectors of one signature.
#[derive(Debug)]
pub(super) struct VectorStore {
    folder: PathBuf,
    signature: u64,
    width: usize,
}

impl VectorStore {
    /// Opens a folder, which is made when it is missing.
    pub(super) fn open(root: &Path, signature: u64, width: usize) -> Result<Self, CacheError> {
        let folder = root.join(format!("clip-{signature:016x}"));
        std::fs::create_dir_all(&folder).map_err(|source| CacheError::Write { path: folder.clone(), source })?;
        Ok(Self { folder, signature, width })
    }

    /// Where the vectors are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The rows of a file; `None` when there is none, or it is damaged.
    pub(super) fn load(&self, name: Name) -> Option<Rows> {
        let bytes = sam_files::read_regular(&self.path(name), MAX_BYTES).ok()?;
        let (head, body) = bytes.split_at_checked(HEAD_BYTES)?;
        let word = |at: usize| head[8 * at..8 * at + 8].try_into().map(u64::from_le_bytes).unwrap_or_default();
        let (n_keys, n_rows) = ((word(3) >> 32) as usize, (word(3) & 0xFFFF_FFFF) as usize);
        let expected = n_keys.checked_mul(8 + n_rows.checked_mul(self.width)?.checked_mul(2)?)?;
        let is_whole = head[..8] == MAGIC
            && [word(1), word(2), word(4)] == [self.signature, name.word(), self.width as u64]
            && body.len() == expected
            && word(5) == checksum(body);
        if !is_whole {
            return None;
        }
        let (keys, values) = body.split_at(8 * n_keys);
        let keys = keys.as_chunks().0.iter().map(|&key| u64::from_le_bytes(key));
        let mut rows = values
            .chunks_exact(2 * self.width)
            .map(|row| row.as_chunks().0.iter().map(|&value| f16::from_le_bytes(value).to_f32()).collect());
        Some(keys.map(|key| (key, rows.by_ref().take(n_rows).collect())).collect())
    }

    /// Writes a file; all keys have as many rows.
    pub(super) fn save(&self, name: Name, rows: &Rows) -> Result<(), CacheError> {
        let n_rows = rows.values().next().map_or(0, Vec::len);
        assert!(rows.values().all(|of_key| of_key.len() == n_rows), "as many rows for every key");
        let mut body: Vec<u8> = rows.keys().flat_map(|key| key.to_le_bytes()).collect();
        for row in rows.values().flatten() {
            assert_eq!(row.len(), self.width, "a vector has the width of its CLIP");
            body.extend(row.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()));
        }
        let counts = (rows.len() as u64) << 32 | n_rows as u64;
        let words = [self.signature, name.word(), counts, self.width as u64, checksum(&body)];
        let head = MAGIC.into_iter().chain(words.into_iter().flat_map(u64::to_le_bytes));
        let bytes: Vec<u8> = head.chain(body).collect();
        let path = self.path(name);
        write_unsynced(&path, bytes).map_err(|source| CacheError::Write { path, source })
    }

    fn path(&self, name: Name) -> PathBuf {
        self.folder.join(match name {
            Name::Image(content) => format!("{content:016x}.vec"),
            Name::Text(hash) => format!("text-{hash:016x}.vec"),
        })
    }
}

impl Name {
    fn word(self) -> u64 {
        match self {
            Self::Image(word) | Self::Text(word) => word,
        }
    }
}

/// A vector as a file holds it: the same numbers whether it was just computed or read.
pub(super) fn rounded(vector: &[f32]) -> Vec<f32> {
    vector.iter().map(|&value| f16::from_f32(value).to_f32()).collect()
}

/// The hash of a text.
pub(super) fn hash_of(text: &str) -> u64 {
    let mut hash = Fingerprint::new(2);
    hash.add_bytes(text.as_bytes());
    hash.value()
}

fn checksum(body: &[u8]) -> u64 {
    let mut hash = Fingerprint::new(0);
    hash.add_blocks(body);
    hash.value()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_rounded_and_damage_is_absence() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = VectorStore::open(folder.path(), 7, 3).expect("opened");
        let rows: Rows =
            (1..4).map(|key| (key, vec![vec![key as f32, -0.5, 0.1], vec![0.0, 1.0, 2.0 * key as f32]])).collect();
        let name = Name::Image(5);
        assert_eq!(store.load(name), None);
        store.save(name, &rows).expect("saved");
        let loaded = store.load(name).expect("there");
        assert_eq!(loaded.keys().collect::<Vec<_>>(), rows.keys().collect::<Vec<_>>());
        for (got, expected) in loaded.values().flatten().flatten().zip(rows.values().flatten().flatten()) {
            assert!((got - expected).abs() <= expected.abs() * 1e-3, "{got} {expected}");
        }
        // Of another CLIP, or of something else.
        let other = VectorStore { folder: store.folder.clone(), signature: 8, width: 3 };
        assert_eq!(other.load(name), None);
        std::fs::copy(store.path(name), store.path(Name::Text(6))).expect("copied");
        assert_eq!(store.load(Name::Text(6)), None);
        let whole = std::fs::read(store.path(name)).expect("read");
        for at in [0, 9, 30, HEAD_BYTES + 3, whole.len() - 1] {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            std::fs::write(store.path(name), &bytes).expect("written");
            assert_eq!(store.load(name), None, "byte {at}");
        }
        std::fs::write(store.path(name), &whole[..whole.len() - 2]).expect("written");
        assert_eq!(store.load(name), None);
        store.save(Name::Text(9), &Rows::new()).expect("an image without objects");
        assert_eq!(store.load(Name::Text(9)), Some(Rows::new()));
    }
}
