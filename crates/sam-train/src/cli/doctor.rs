//! The arguments of `sam-train doctor`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
#[command(after_help = "Exit code 1 when something is broken. The home folder is shown as ~.")]
pub(crate) struct DoctorArguments {
    /// Folder whose disk space is shown
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) dir: PathBuf,
    /// Also compare the SHA-256 of a checkpoint with that of the published file, or with its name
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
