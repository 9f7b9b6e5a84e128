//! A checkpoint that answers clicks, and its cache of embeddings.

use std::io::Read;
use std::path::Path;

use sam_files::{Fingerprint, open_regular};
use sam_infer::Predictor;
use sam_infer::cache::{CacheDtype, EmbeddingCache};

use crate::error::EngineError;

/// A model in use.
#[derive(Debug)]
pub struct Model {
    predictor: Predictor,
    cache: EmbeddingCache,
    fingerprint: String,
    name: String,
}

impl Model {
    /// A predictor with the file that it is from and the folder of embeddings; `name` is for people.
    ///
    /// # Errors
    ///
    /// When the checkpoint is gone, or the folder of embeddings cannot be written.
    pub fn new(predictor: Predictor, checkpoint: &Path, embeddings: &Path, name: String) -> Result<Self, EngineError> {
        let cache = predictor.open_cache(embeddings, CacheDtype::F16)?;
        let fingerprint = file_fingerprint(checkpoint)?;
        Ok(Self { predictor, cache, fingerprint, name })
    }

    /// The network.
    #[must_use]
    pub fn predictor(&self) -> &Predictor {
        &self.predictor
    }

    /// Embeddings of its encoder.
    pub(crate) fn cache(&self) -> &EmbeddingCache {
        &self.cache
    }

    /// Of the checkpoint's file, 16 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// For people.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// The hash of a whole file, 16 hexadecimal digits: how masks name the checkpoint that predicted them.
///
/// # Errors
///
/// When it cannot be read.
pub fn file_fingerprint(path: &Path) -> Result<String, EngineError> {
    let read = || -> std::io::Result<u64> {
        let mut file = open_regular(path)?;
        let (mut hash, mut bytes) = (Fingerprint::new(0), Vec::with_capacity(1 << 20));
        loop {
            bytes.clear();
            (&mut file).take(1 << 20).read_to_end(&mut bytes)?;
            if bytes.is_empty() {
                return Ok(hash.value());
            }
            hash.add_blocks(&bytes);
        }
    };
    read().map(|hash| format!("{hash:016x}")).map_err(EngineError::io(path))
}
