//! Weights in several files: `model.safetensors.index.json` or `pytorch_model.bin.index.json`, and the shards beside it.
//!
//! Source: `save_pretrained` of transformers. The index maps each tensor to its file. Differs: a tensor that the index and
//! the shards do not agree on is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use super::error::WeightsError;
use super::state_dict::{Container, StateDict, not_a_checkpoint};

/// End of the name of an index.
pub(super) const INDEX_SUFFIX: &str = ".index.json";

/// Maximum size of an index; that of a ViT-H has 60 kB.
const MAX_INDEX_BYTES: u64 = 64 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The opened shards, and the shard of each tensor.
#[derive(Debug)]
pub(super) struct Shards {
    pub(super) parts: Vec<StateDict>,
    of: BTreeMap<String, usize>,
}

impl Shards {
    /// Opens all shards that an index names.
    pub(super) fn open(path: &Path) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::Io { path: path.to_owned(), source };
        let bytes = std::fs::metadata(path).map_err(io)?.len();
        if bytes > MAX_INDEX_BYTES {
            return Err(not_a_checkpoint(path, "a JSON file larger than any index of shards"));
        }
        let text = sam_files::read_text(path, sam_files::MAX_TEXT_BYTES).map_err(io)?;
        let index: Index = serde_json::from_str(&text)
            .map_err(|error| not_a_checkpoint(path, &format!("not an index of shards: {error}")))?;
        let files: BTreeSet<&str> = index.weight_map.values().map(String::as_str).collect();
        for file in &files {
            let is_name = matches!(Path::new(file).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
            if !is_name {
                let reason = format!("its shard `{file}` must be a file beside the index, not a path");
                return Err(not_a_checkpoint(path, &reason));
            }
            if !path.with_file_name(file).is_file() {
                let reason = format!("its shard `{file}` does not exist; all files of the index must be beside it");
                return Err(not_a_checkpoint(path, &reason));
            }
        }
        let (mut parts, mut of) = (Vec::new(), BTreeMap::new());
        for file in files {
            let part = StateDict::open_file(&path.with_file_name(file))?;
            for key in part.tensors.keys() {
                if index.weight_map.get(key).is_none_or(|named| named != file) {
                    let reason = format!("the index does not say that tensor `{key}` is in `{file}`, but it is");
                    return Err(not_a_checkpoint(path, &reason));
                }
                of.insert(key.clone(), parts.len());
            }
            parts.push(part);
        }
        if let Some((key, file)) = index.weight_map.iter().find(|(key, _)| !of.contains_key(*key)) {
            return Err(not_a_checkpoint(path, &format!("tensor `{key}` is not in its shard `{file}`")));
        }
        if parts.is_empty() {
            return Err(not_a_checkpoint(path, "an index without shards"));
        }
        Ok(Self { parts, of })
    }

    pub(super) fn container(&self) -> Container {
        self.parts[0].container
    }

    /// The shard with a tensor.
    ///
    /// # Panics
    /// When there is no such tensor.
    pub(super) fn part_of(&self, key: &str) -> &StateDict {
        &self.parts[self.of[key]]
    }
}
