//! What stands for shards in the cloud in a program that was built without them: nothing, so that no other file asks.

use std::path::Path;

use crate::error::DataError;
use crate::formats::tar_members::TarMember;
use crate::source_options::SourceOptions;

/// There are none.
#[derive(Debug)]
pub(crate) enum CloudShards {}

impl CloudShards {
    pub(crate) fn open(location: &Path, _options: &SourceOptions) -> Result<Self, DataError> {
        Err(DataError::Content {
            path: location.to_path_buf(),
            what: "a data set".to_owned(),
            expected: "on disk for a program that was built without cloud support".to_owned(),
            got: "an address in the cloud".to_owned(),
            fix: "build with --features cloud, or copy the shards to disk and give their folder".to_owned(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        match *self {}
    }

    pub(crate) fn name(&self, _shard: usize) -> &str {
        match *self {}
    }

    pub(crate) fn address(&self, _shard: usize) -> String {
        match *self {}
    }

    pub(crate) fn bytes(&self, _shard: usize) -> u64 {
        match *self {}
    }

    pub(crate) fn pooled(&self, _n_samples: usize) -> usize {
        match *self {}
    }

    pub(crate) fn note(&self, _pooled: usize) -> String {
        match *self {}
    }

    pub(crate) fn each_members(
        &self,
        _wanted: &[usize],
        _add: impl FnMut(usize, Vec<TarMember>) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        match *self {}
    }

    pub(crate) fn announce(&self, _now: &[usize], _next: &[usize]) {
        match *self {}
    }

    pub(crate) fn read(&self, _shard: usize, _at: u64, _len: u64) -> Result<Vec<u8>, DataError> {
        match *self {}
    }
}
