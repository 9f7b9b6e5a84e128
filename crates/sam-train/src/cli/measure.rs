//! The options that `eval` and `probe` share: where they compute, and where results go.

use std::path::PathBuf;

use clap::Args;
use sam_infer::{DeviceName, Precision};

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
    /// What matrix products multiply: f32, bf16 (8 bits; results differ by about 1 %), or auto: bf16 where it is faster [default: f32]
    #[arg(long, value_name = "NUMBERS")]
    precision: Option<Precision>,
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
        options.text("--precision", "run.precision", self.precision.as_ref());
        options.value("--workers", "run.workers", self.workers);
    }
}
