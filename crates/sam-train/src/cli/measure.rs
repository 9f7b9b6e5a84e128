//! The options that `eval` and `probe` share: where they compute, and where results go.

use std::path::PathBuf;

use clap::Args;
use sam_infer::DeviceName;

use super::verbosity::VerbosityArguments;
use crate::config::Options;

#[derive(Debug, Args)]
pub(crate) struct MeasureArguments {
    /// Folder for results, as JSON and, for `eval`, as tables and reports; without it only tables are printed
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Replace results of an earlier run in DIR
    #[arg(long)]
    pub(crate) force: bool,
    /// Where to compute: cpu, cuda, cuda:N, vulkan or wgpu [default: cpu]
    #[arg(long)]
    device: Option<DeviceName>,
    /// Threads that read images ahead [default: 2]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

impl MeasureArguments {
    /// Adds them as keys of `[run]`.
    pub(super) fn add_to(&self, options: &mut Options) {
        options.text("--out", "run.out", self.out.as_ref().map(|path| path.display()));
        options.text("--device", "run.device", self.device.as_ref());
        options.value("--workers", "run.workers", self.workers);
    }
}
