//! A file of named tensors in any container: safetensors, a PyTorch `.pth`, shards of either, or a Hugging Face folder.
//!
//! The container is recognised by its first bytes, never by its name. Opening reads the index only; a tensor's bytes are
//! read on demand, so that a large file is inspected quickly and loaded without being in memory twice.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use sam_files::{FOREIGN_HEAD_BYTES, foreign_file};

use super::error::WeightsError;
use super::pth::{PthIndex, PthTensor};
use super::shards::{INDEX_SUFFIX, Shards};

/// Element type of a stored tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of safetensors")]
pub enum Dtype {
    F64,
    F32,
    F16,
    BF16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Dtype {
    /// Bytes of an element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 | Dtype::I64 => 8,
            Dtype::F32 | Dtype::I32 => 4,
            Dtype::F16 | Dtype::BF16 | Dtype::I16 => 2,
            Dtype::I8 | Dtype::U8 | Dtype::Bool => 1,
        }
    }

    fn from_safetensors(dtype: safetensors::Dtype) -> Option<Self> {
        use safetensors::Dtype as S;
        Some(match dtype {
            S::F64 => Dtype::F64,
            S::F32 => Dtype::F32,
            S::F16 => Dtype::F16,
            S::BF16 => Dtype::BF16,
            S::I64 => Dtype::I64,
            S::I32 => Dtype::I32,
            S::I16 => Dtype::I16,
            S::I8 => Dtype::I8,
            S::U8 => Dtype::U8,
            S::BOOL => Dtype::Bool,
            _ => return None,
        })
    }
}

/// The index entry of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Element type in the file.
    pub dtype: Dtype,
    /// Axes as in PyTorch.
    pub shape: Vec<usize>,
}

/// The container of the tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Container {
    /// A `.safetensors` file.
    Safetensors,
    /// A PyTorch pickle, zipped or in the legacy format.
    Pth,
}

/// Named tensors of a file.
#[derive(Debug)]
pub struct StateDict {
    /// The file, even if a folder was opened.
    pub path: PathBuf,
    /// The container of the tensors.
    pub container: Container,
    /// All tensors by key.
    pub tensors: BTreeMap<String, TensorInfo>,
    /// Text stored beside the tensors (safetensors only).
    pub metadata: BTreeMap<String, String>,
    /// The key that wraps the tensors, as in `{"model": ..}`.
    pub wrapper: Option<String>,
    /// Entries that are not tensors (`.pth` only).
    pub skipped: Vec<String>,
    /// What was removed from the names of all tensors, as in `module.`; see [`StateDict::recognise_layout`].
    pub removed: Option<String>,
    /// Names in the file, of tensors that were renamed.
    name_in_file: BTreeMap<String, String>,
    storage: Storage,
}

#[derive(Debug)]
enum Storage {
    Safetensors { offsets: BTreeMap<String, (u64, u64)> },
    Pth { index: PthIndex, positions: BTreeMap<String, usize> },
    Shards(Shards),
}

/// Files of a Hugging Face folder that hold weights, in order of preference.
const HUGGING_FACE_WEIGHTS: [&str; 4] =
    ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];

impl StateDict {
    /// Reads the index of a checkpoint file, of the shards that an `.index.json` names, or of the weights in a Hugging Face
    /// folder.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::Io { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(io)?.is_dir() {
            return Self::open(&weights_of_folder(path)?);
        }
        match path.to_string_lossy().ends_with(INDEX_SUFFIX) {
            true => Self::open_shards(path),
            false => Self::open_file(path),
        }
    }

    /// Reads the index of a file that holds its tensors itself.
    pub(super) fn open_file(path: &Path) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::Io { path: path.to_owned(), source };
        let mut file = sam_files::open_regular(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut head = [0u8; FOREIGN_HEAD_BYTES];
        let read = read_up_to(&mut file, &mut head).map_err(io)?;
        match &head[..read] {
            [b'P', b'K', ..] | [0x80, 2..=5, ..] => Self::open_pth(path),
            // Eight bytes of header length, then JSON.
            [_, _, _, _, _, _, _, _, b'{', ..] => Self::open_safetensors(path, file, length),
            head => Err(match foreign_file(head) {
                Some(foreign) => not_a_checkpoint(path, &format!("it is {}; {}", foreign.what, foreign.fix)),
                None => not_a_checkpoint(
                    path,
                    "it starts neither like a safetensors file nor like a PyTorch .pth (a zip or a pickle)",
                ),
            }),
        }
    }

    fn open_shards(path: &Path) -> Result<Self, WeightsError> {
        let shards = Shards::open(path)?;
        let parts = || shards.parts.iter();
        Ok(Self {
            path: path.to_owned(),
            container: shards.container(),
            tensors: parts().flat_map(|part| part.tensors.clone()).collect(),
            metadata: parts().flat_map(|part| part.metadata.clone()).collect(),
            wrapper: None,
            skipped: parts().flat_map(|part| part.skipped.clone()).collect(),
            removed: None,
            name_in_file: BTreeMap::new(),
            storage: Storage::Shards(shards),
        })
    }

    /// Gives tensors new names; `names` has them by their old ones, and no two are equal.
    pub(super) fn rename(&mut self, names: BTreeMap<String, String>) {
        let tensors = std::mem::take(&mut self.tensors);
        self.tensors = tensors.into_iter().map(|(key, info)| (names.get(&key).cloned().unwrap_or(key), info)).collect();
        let in_file = |key: String| self.name_in_file.get(&key).cloned().unwrap_or(key);
        self.name_in_file = names.into_iter().map(|(key, name)| (name, in_file(key))).collect();
    }

    fn open_pth(path: &Path) -> Result<Self, WeightsError> {
        let index = PthIndex::open(path)?;
        let info = |tensor: &PthTensor| TensorInfo { dtype: tensor.dtype, shape: tensor.shape.clone() };
        let tensors = index.tensors.iter().map(|tensor| (tensor.name.clone(), info(tensor))).collect();
        let positions = index.tensors.iter().enumerate().map(|(at, tensor)| (tensor.name.clone(), at)).collect();
        Ok(Self {
            path: path.to_owned(),
            container: Container::Pth,
            tensors,
            metadata: BTreeMap::new(),
            wrapper: index.wrapper.clone(),
            skipped: index.skipped.clone(),
            removed: None,
            name_in_file: BTreeMap::new(),
            storage: Storage::Pth { index, positions },
        })
    }

    fn open_safetensors(path: &Path, mut file: File, length: u64) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::Io { path: path.to_owned(), source };
        let mut size = [0u8; 8];
        file.seek(SeekFrom::Start(0)).and_then(|_| file.read_exact(&mut size)).map_err(io)?;
        let header_size = u64::from_le_bytes(size);
        let data_start = header_size.saturating_add(8);
        if data_start > length {
            return Err(WeightsError::Truncated { path: path.to_owned(), expected: data_start, got: length });
        }
        let mut header = vec![0u8; header_size as usize];
        file.read_exact(&mut header).map_err(io)?;
        let header: safetensors::tensor::Metadata = serde_json::from_slice(&header)
            .map_err(|error| not_a_checkpoint(path, &format!("its safetensors header is damaged: {error}")))?;
        let expected = data_start + header.data_len() as u64;
        if expected > length {
            return Err(WeightsError::Truncated { path: path.to_owned(), expected, got: length });
        }
        if expected < length {
            let reason = format!("{} bytes follow the end that its safetensors header declares", length - expected);
            return Err(not_a_checkpoint(path, &reason));
        }
        let (mut tensors, mut offsets) = (BTreeMap::new(), BTreeMap::new());
        for (key, info) in header.tensors() {
            let dtype = Dtype::from_safetensors(info.dtype).ok_or_else(|| {
                not_a_checkpoint(path, &format!("tensor `{key}` has the unsupported type {:?}", info.dtype))
            })?;
            let (start, end) = info.data_offsets;
            offsets.insert(key.clone(), (data_start + start as u64, (end - start) as u64));
            tensors.insert(key, TensorInfo { dtype, shape: info.shape.clone() });
        }
        Ok(Self {
            path: path.to_owned(),
            container: Container::Safetensors,
            tensors,
            metadata: header.metadata().clone().unwrap_or_default().into_iter().collect(),
            wrapper: None,
            skipped: Vec::new(),
            removed: None,
            name_in_file: BTreeMap::new(),
            storage: Storage::Safetensors { offsets },
        })
    }

    /// Little-endian bytes of a tensor, row-major.
    ///
    /// # Panics
    /// When there is no such tensor.
    pub fn read_bytes(&self, key: &str) -> Result<Vec<u8>, WeightsError> {
        let key = self.name_in_file.get(key).map_or(key, String::as_str);
        match &self.storage {
            Storage::Shards(shards) => shards.part_of(key).read_bytes(key),
            Storage::Pth { index, positions } => Ok(index.read(&index.tensors[positions[key]])?),
            Storage::Safetensors { offsets } => {
                let (start, length) = offsets[key];
                let mut bytes = vec![0u8; length as usize];
                sam_files::open_regular(&self.path)
                    .and_then(|mut file| {
                        file.seek(SeekFrom::Start(start))?;
                        file.read_exact(&mut bytes)
                    })
                    .map_err(|source| WeightsError::Io { path: self.path.clone(), source })?;
                Ok(bytes)
            }
        }
    }

    /// Values of a float tensor, row-major, as f32.
    ///
    /// # Panics
    /// When there is no such tensor.
    pub fn read_f32(&self, key: &str) -> Result<Vec<f32>, WeightsError> {
        let dtype = self.tensors[key].dtype;
        let bytes = self.read_bytes(key)?;
        floats_from_bytes(dtype, &bytes).ok_or_else(|| WeightsError::NotAFloat {
            path: self.path.clone(),
            key: key.to_owned(),
            dtype,
        })
    }
}

/// Little-endian bytes of floats as f32; `None` when the type is not a float type.
pub(crate) fn floats_from_bytes(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let wide = |chunk: &[u8]| chunk.try_into().map(f64::from_le_bytes).unwrap_or_default() as f32;
    let single = |chunk: &[u8]| chunk.try_into().map(f32::from_le_bytes).unwrap_or_default();
    let half = |chunk: &[u8]| chunk.try_into().map(f16::from_le_bytes).unwrap_or_default().to_f32();
    let brain = |chunk: &[u8]| chunk.try_into().map(bf16::from_le_bytes).unwrap_or_default().to_f32();
    Some(match dtype {
        Dtype::F64 => bytes.chunks_exact(8).map(wide).collect(),
        Dtype::F32 => bytes.chunks_exact(4).map(single).collect(),
        Dtype::F16 => bytes.chunks_exact(2).map(half).collect(),
        Dtype::BF16 => bytes.chunks_exact(2).map(brain).collect(),
        _ => return None,
    })
}

/// f32 values as little-endian bytes of a float type, rounded to nearest.
///
/// # Panics
/// When the type is not a float type.
pub(crate) fn bytes_from_floats(dtype: Dtype, values: &[f32]) -> Vec<u8> {
    match dtype {
        Dtype::F64 => values.iter().flat_map(|&value| f64::from(value).to_le_bytes()).collect(),
        Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        Dtype::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        Dtype::BF16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
        other => panic!("weights are stored as floats, not as {other:?}"),
    }
}

fn weights_of_folder(folder: &Path) -> Result<PathBuf, WeightsError> {
    for name in HUGGING_FACE_WEIGHTS {
        let path = folder.join(name);
        if path.is_file() {
            return Ok(path);
        }
    }
    let reason = format!("a folder without {}", HUGGING_FACE_WEIGHTS.join(" or "));
    Err(not_a_checkpoint(folder, &reason))
}

pub(super) fn not_a_checkpoint(path: &Path, reason: &str) -> WeightsError {
    WeightsError::NotACheckpoint { path: path.to_owned(), reason: reason.to_owned() }
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversion_to_a_type_is_idempotent() {
        let values = [0.0, -1.5, 1.0 / 3.0, 65504.0, 1e-8, f32::INFINITY];
        for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
            let once = floats_from_bytes(dtype, &bytes_from_floats(dtype, &values)).expect("a float");
            let twice = floats_from_bytes(dtype, &bytes_from_floats(dtype, &once)).expect("a float");
            assert_eq!(once, twice);
            if matches!(dtype, Dtype::F64 | Dtype::F32) {
                assert_eq!(once, values);
            }
        }
        assert_eq!(floats_from_bytes(Dtype::I64, &[0; 8]), None);
    }

    #[test]
    fn files_that_are_not_checkpoints_are_rejected() {
        let folder = tempfile::tempdir().expect("a folder");
        let cases: [(&str, &[u8], &str); 7] = [
            ("empty", b"", "empty"),
            (
                "pointer",
                b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                "a Git LFS pointer; run `git lfs",
            ),
            ("page", b"<!DOCTYPE html><html><head>", "an HTML page"),
            ("gz", &[0x1F, 0x8B, 8, 0], "a compressed archive; unpack it first"),
            ("model.safetensors.index.json", b"{}", "missing field `weight_map`"),
            ("text", b"epoch,loss\n1,0.5\n2,0.4\n", "neither"),
            ("header", b"\x02\0\0\0\0\0\0\0{!", "damaged"),
        ];
        for (name, bytes, expected) in cases {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).expect("written");
            let error = StateDict::open(&path).expect_err("not a checkpoint").to_string();
            assert!(error.contains(expected) && error.contains(name), "{error}");
        }
        let path = folder.path().join("short");
        std::fs::write(&path, b"\xff\0\0\0\0\0\0\0{\"a\":").expect("written");
        assert!(matches!(StateDict::open(&path), Err(WeightsError::Truncated { .. })));
        assert!(StateDict::open(folder.path()).expect_err("no weights").to_string().contains("model.safetensors"));
    }
}
