//! The machine: processor and memory. Nothing here names the user or the host.

use std::path::{Path, PathBuf};

use serde::Serialize;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Processor and memory.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Machine {
    /// "Linux (Ubuntu 24.04)", with the kernel.
    pub(crate) os: String,
    /// The model name of the processor.
    pub(crate) processor: String,
    /// Cores, if the system says.
    pub(crate) cores: Option<usize>,
    /// Threads that this process may use.
    pub(crate) threads: usize,
    /// Vector instructions of the kernels.
    pub(crate) simd: &'static str,
    /// Memory in bytes; in a container, its limit.
    pub(crate) memory_bytes: u64,
    /// Memory in bytes that is available now.
    pub(crate) available_bytes: u64,
}

impl Machine {
    pub(crate) fn look() -> Self {
        let kind =
            RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()).with_memory(MemoryRefreshKind::everything());
        let system = System::new_with_specifics(kind);
        let processor = system.cpus().first().map_or("", |cpu| cpu.brand()).trim().to_owned();
        let os = System::long_os_version().unwrap_or_else(|| std::env::consts::OS.to_owned());
        let [mut memory_bytes, mut available_bytes] = [system.total_memory(), system.available_memory()];
        if let Some(limits) = system.cgroup_limits().filter(|limits| limits.total_memory > 0) {
            memory_bytes = memory_bytes.min(limits.total_memory);
            available_bytes = available_bytes.min(limits.free_memory);
        }
        Self {
            os: format!("{os}, {}", System::kernel_long_version()),
            processor,
            cores: System::physical_core_count(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            simd: sam_model::instruction_set(),
            memory_bytes,
            available_bytes,
        }
    }
}

/// A path to show to others: with `~` for the home folder.
pub(crate) fn without_home(path: &Path) -> PathBuf {
    let home = std::env::home_dir().filter(|home| home.components().count() > 1);
    match home.and_then(|home| path.strip_prefix(home).ok().map(Path::to_path_buf)) {
        Some(rest) => Path::new("~").join(rest),
        None => path.to_path_buf(),
    }
}
