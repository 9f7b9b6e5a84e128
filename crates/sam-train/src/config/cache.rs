//! `[cache]`: embeddings of images that are kept on disk, of a training with a frozen encoder and of an evaluation.

use std::path::{Path, PathBuf};

use sam_infer::cache::CacheDtype;
use serde::{Deserialize, Serialize};

use super::data::AugmentationPlan;
use super::ranges::POSITIVE;
use super::reader::{Reader, Section};

/// Size of 16,000 embeddings of the published models as f16.
const MAX_GIB: f64 = 32.0;

/// The folder of embeddings beside those of the runs that share it.
const FOLDER: &str = "embeddings";

const DTYPES: [(&str, CacheDtype); 2] = [("f16", CacheDtype::F16), ("f32", CacheDtype::F32)];

/// When embeddings are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum CacheUse {
    /// Where nothing of the encoder learns, images are at most flipped, and an embedding is used more than once.
    Auto,
    /// Always; where that is impossible, it is an error.
    On,
    /// Never: the encoder runs in each step.
    Off,
}

/// Embeddings of a training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CachePlan {
    /// When they are kept.
    pub(crate) embeddings: CacheUse,
    /// Their folder, which any number of runs may share.
    pub(crate) dir: PathBuf,
    /// Type of their values.
    pub(crate) dtype: CacheDtype,
    /// Largest size of the folder; what was used longest ago is removed.
    pub(crate) max_gib: f64,
}

impl CachePlan {
    /// That of runs which were planned before the section existed.
    pub(crate) fn off() -> Self {
        Self { embeddings: CacheUse::Off, dir: PathBuf::new(), dtype: CacheDtype::default(), max_gib: MAX_GIB }
    }

    pub(super) fn read(reader: &Reader<'_>, run_dir: &Path, augmentation: &AugmentationPlan) -> Self {
        let cache = reader.top().section("cache");
        let uses = [("auto", CacheUse::Auto), ("on", CacheUse::On), ("off", CacheUse::Off)];
        let embeddings = cache.choice("embeddings", CacheUse::Auto, &uses);
        let mut plan = Self {
            embeddings,
            dir: beside(run_dir),
            dtype: cache.choice("dtype", CacheDtype::default(), &DTYPES),
            max_gib: MAX_GIB,
        };
        cache.defaults_to("dir", &toml::Value::from(plan.dir.display().to_string()).to_string());
        plan.change(&cache);
        let uses_them = "cache.embeddings = \"auto\" or \"on\"";
        cache.only_if(embeddings != CacheUse::Off, "embeddings", &["dir", "dtype", "max_gib"], uses_them);
        let changing = augmentation.beyond_flips();
        let is_possible = embeddings != CacheUse::On || changing.is_empty();
        let keys: Vec<&str> = std::iter::once("cache.embeddings").chain(changing.iter().copied()).collect();
        let expected = format!("\"auto\" or \"off\" with {}: only flips can be cached", changing.join(" and "));
        reader.check(is_possible, &keys, &expected, "\"on\"");
        plan
    }

    /// Reads the keys that can change on resume.
    pub(super) fn change(&mut self, cache: &Section<'_>) {
        if let Some(dir) = cache.text_if_given("dir") {
            self.dir = std::path::absolute(&dir).unwrap_or_else(|_| dir.into());
        }
        self.max_gib = cache.float("max_gib", self.max_gib, POSITIVE);
    }

    /// Follows a run that was moved, unless the folder was given.
    pub(super) fn follow(&mut self, old_run_dir: &Path, new_run_dir: &Path) {
        if self.dir == beside(old_run_dir) {
            self.dir = beside(new_run_dir);
        }
    }

    pub(crate) fn max_bytes(&self) -> u64 {
        bytes(self.max_gib)
    }
}

/// Embeddings of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct EvaluateCachePlan {
    /// Their folder; that of a run or one of its own.
    pub(crate) dir: PathBuf,
    /// Type of their values.
    pub(crate) dtype: CacheDtype,
    /// As [`CachePlan::max_gib`].
    pub(crate) max_gib: f64,
}

impl EvaluateCachePlan {
    pub(super) fn read(reader: &Reader<'_>) -> Option<Self> {
        let is_given = reader.top().is_given("cache");
        let cache = reader.top().section("cache");
        let dir = cache.text_if_given("dir").map(PathBuf::from);
        let plan = Self {
            dir: match is_given {
                true => cache.required("dir", "a folder for embeddings (--cache DIR)", dir, PathBuf::new()),
                false => PathBuf::new(),
            },
            dtype: cache.choice("dtype", CacheDtype::default(), &DTYPES),
            max_gib: cache.float("max_gib", MAX_GIB, POSITIVE),
        };
        if !is_given {
            reader.top().unused(&["cache"]);
        }
        is_given.then_some(plan)
    }

    pub(crate) fn max_bytes(&self) -> u64 {
        bytes(self.max_gib)
    }
}

fn beside(run_dir: &Path) -> PathBuf {
    run_dir.with_file_name(FOLDER)
}

fn bytes(gib: f64) -> u64 {
    (gib * f64::from(1u32 << 30)) as u64
}
