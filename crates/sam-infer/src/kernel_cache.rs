//! What a GPU's backend learns on a machine, kept between processes: which of several kernels is fastest for an operation and a range of
//! sizes. Learned anew, it takes seconds to minutes of every start.
//!
//! CubeCL's own settings go first: a `cubecl.toml` in the current folder or above it, and its environment variables
//! (<https://github.com/tracel-ai/cubecl>); `[compilation] cache = true` there keeps compiled kernels, too. By default CubeCL writes
//! below the `target` of a Rust project in the current folder; here it is the cache folder of this user.

use cubecl::config::cache::CacheConfig;
use cubecl::config::{CubeClRuntimeConfig, RuntimeConfig};

/// Sets where kernels are kept. Only the first call in a process has an effect, and none once a device is open.
pub(crate) fn keep_kernels() {
    let mut config = CubeClRuntimeConfig::from_current_dir().override_from_env();
    if matches!(config.environment.path, CacheConfig::Target)
        && let Some(folder) = sam_files::cache_folder("kernels")
    {
        config.environment.path = CacheConfig::Directory(folder);
    }
    CubeClRuntimeConfig::try_set(config);
}
