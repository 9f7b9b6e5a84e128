//! The file of one embedding: a head that names what it is, then the values, little-endian, `[C, G, G]`.

use std::fmt;

use half::f16;
use sam_files::Fingerprint;
use serde::{Deserialize, Serialize};

use super::{CacheError, EntryKey};

/// Ending of the files.
pub(super) const EXTENSION: &str = "emb";

const MAGIC: [u8; 8] = *b"SAMEMB\x00\x01";

/// Magic, signature, image, mirroring with type, channels with grid, checksum.
const HEAD_BYTES: usize = 48;

/// Type of the values of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheDtype {
    /// Half the size. The encoder ends with a norm, so its values lie well within the range.
    #[default]
    F16,
    /// Exactly what the encoder gives.
    F32,
}

impl CacheDtype {
    /// Bytes of a value.
    #[must_use]
    pub fn n_bytes(self) -> usize {
        match self {
            Self::F16 => 2,
            Self::F32 => 4,
        }
    }
}

impl fmt::Display for CacheDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F16 => "f16",
            Self::F32 => "f32",
        })
    }
}

/// What an entry is.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) signature: u64,
    pub(super) key: EntryKey,
    pub(super) dtype: CacheDtype,
    pub(super) shape: [usize; 3],
}

/// Size of an entry's file.
pub(super) fn n_bytes(shape: [usize; 3], dtype: CacheDtype) -> u64 {
    (HEAD_BYTES + shape.iter().product::<usize>() * dtype.n_bytes()) as u64
}

/// The file of an entry.
pub(super) fn encode(values: &[f32], head: Head) -> Result<Vec<u8>, CacheError> {
    let is_held = |value: f32| match head.dtype {
        CacheDtype::F16 => f16::from_f32(value).is_finite(),
        CacheDtype::F32 => value.is_finite(),
    };
    if let Some(&value) = values.iter().find(|&&value| !is_held(value)) {
        return Err(CacheError::NotFinite { value, dtype: head.dtype });
    }
    let mut bytes = Vec::with_capacity(HEAD_BYTES + values.len() * head.dtype.n_bytes());
    bytes.extend_from_slice(&head.bytes());
    bytes.extend_from_slice(&[0; 8]);
    match head.dtype {
        CacheDtype::F16 => bytes.extend(values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes())),
        CacheDtype::F32 => bytes.extend(values.iter().flat_map(|value| value.to_le_bytes())),
    }
    let checksum = checksum(&bytes[HEAD_BYTES..]);
    bytes[HEAD_BYTES - 8..HEAD_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Ok(bytes)
}

/// The values of an entry; `None` when it is another one, or damaged.
pub(super) fn decode(bytes: &[u8], head: Head) -> Option<Vec<f32>> {
    let (found, values) = bytes.split_at_checked(HEAD_BYTES)?;
    let (found, stated) = found.split_at(HEAD_BYTES - 8);
    let is_whole = bytes.len() as u64 == n_bytes(head.shape, head.dtype);
    if !is_whole || found != head.bytes() || stated != checksum(values).to_le_bytes() {
        return None;
    }
    Some(match head.dtype {
        CacheDtype::F16 => values.as_chunks().0.iter().map(|&value| f16::from_le_bytes(value).to_f32()).collect(),
        CacheDtype::F32 => values.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect(),
    })
}

fn checksum(values: &[u8]) -> u64 {
    let mut hash = Fingerprint::new(0);
    hash.add_blocks(values);
    hash.value()
}

impl Head {
    fn bytes(&self) -> [u8; HEAD_BYTES - 8] {
        let [mirrored_x, mirrored_y] = self.key.mirrored;
        let [channels, grid, _] = self.shape;
        let variant = u64::from(mirrored_x) | u64::from(mirrored_y) << 1 | (self.dtype.n_bytes() as u64) << 8;
        let sizes = (channels as u64) << 32 | grid as u64;
        let mut bytes = [0; HEAD_BYTES - 8];
        let words = [self.signature, self.key.image, variant, sizes].map(u64::to_le_bytes);
        for (place, word) in bytes.chunks_exact_mut(8).zip(std::iter::once(MAGIC).chain(words)) {
            place.copy_from_slice(&word);
        }
        bytes
    }
}
