//! Data sets in the cloud: SA-1B's `.tar` shards at an address, read through a cache on disk that is smaller than they are.
//!
//! An address is `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, the address of one `.tar`, or over
//! `http://` and `https://`, which have no listing, that of an index of shards (`store.rs`). The members of every shard are
//! read from its tar headers by range requests, once (`index.rs`). A training then draws from a few shards at a time
//! ([`crate::shard_order`]), which are downloaded whole and ahead of their use (`cache.rs`); a sample of any other shard is read
//! by a request for its own bytes.
//!
//! Differs from WebDataset: shards are not streams but places, so the order is the function of seed and step that it is on
//! disk, a resumed run needs no state, and every sample comes once per epoch whatever the number of threads.
//!
//! Without the feature `cloud`, only the addresses are known, to say so.

#[cfg(feature = "cloud")]
mod cache;
#[cfg(feature = "cloud")]
mod failure;
#[cfg(feature = "cloud")]
mod index;
#[cfg(feature = "cloud")]
mod location;
#[cfg(feature = "cloud")]
mod shards;
#[cfg(feature = "cloud")]
mod store;

#[cfg(not(feature = "cloud"))]
mod absent;
#[cfg(not(feature = "cloud"))]
pub(crate) use absent::CloudShards;
#[cfg(feature = "cloud")]
pub(crate) use shards::CloudShards;

use std::path::{Path, PathBuf};

/// The beginnings of addresses.
const SCHEMES: [&str; 5] = ["s3://", "gs://", "az://", "http://", "https://"];

/// Default of [`crate::SourceOptions::cloud_cache_gib`]: five shards of SA-1B, of 10 GiB each, and the next five.
pub const CLOUD_CACHE_GIB: f64 = 110.0;

/// Whether a path is an address in the cloud and no place on disk.
#[must_use]
pub fn is_cloud(path: &Path) -> bool {
    path.to_str().is_some_and(|path| SCHEMES.iter().any(|scheme| path.starts_with(scheme)))
}

/// Whether this program was built with support for addresses in the cloud (feature `cloud`).
#[must_use]
pub fn has_cloud() -> bool {
    cfg!(feature = "cloud")
}

/// The folder of the cache where no other is given: that of the system for this user. `None` where the environment names none.
#[must_use]
pub fn default_cloud_cache() -> Option<PathBuf> {
    sam_files::cache_folder("shards")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_from_paths() {
        for address in ["s3://bucket/a", "gs://b", "az://c/d", "http://localhost:1/x.tar", "https://host/shards.txt"] {
            assert!(is_cloud(Path::new(address)), "{address}");
        }
        for path in ["/data/s3:/a", "s3:/bucket", "data", "C:\\data", "ftp://host/a.tar"] {
            assert!(!is_cloud(Path::new(path)), "{path}");
        }
    }
}
