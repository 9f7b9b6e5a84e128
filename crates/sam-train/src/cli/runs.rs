//! The arguments of `sam-train runs`.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct RunsArguments {
    /// A folder, whose runs are listed; or two or more runs, which are compared
    #[arg(value_name = "DIR", default_value = "runs")]
    pub(crate) folders: Vec<PathBuf>,
    /// Show this metric, best first [default: the one that chose the best checkpoint of each run, newest first]
    #[arg(long, value_name = "NAME")]
    pub(crate) metric: Option<String>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}
