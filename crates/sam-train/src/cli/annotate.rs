//! The options of `sam-train annotate`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sam_infer::DeviceName;

/// A project to make or to work in.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Example: sam-train annotate init --images photos --checkpoint sam_vit_b_01ec64.pth --classes cat,dog --out pets; \
                  sam-train annotate pets"
)]
pub(crate) struct AnnotateArguments {
    #[command(subcommand)]
    pub(crate) command: Option<AnnotateCommand>,
    #[command(flatten)]
    pub(crate) serve: ServeArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AnnotateCommand {
    /// Make a project of a folder of images, which is only read
    Init(NewProjectArguments),
}

#[derive(Debug, Args)]
pub(crate) struct NewProjectArguments {
    /// Your images, at any depth below this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) images: PathBuf,
    /// The model that answers clicks: a checkpoint of any layout, or the folder of a run
    #[arg(long, value_name = "PATH")]
    pub(crate) checkpoint: PathBuf,
    /// Names of classes, such as cat,dog
    #[arg(long, value_name = "A,B,..", value_delimiter = ',')]
    pub(crate) classes: Vec<String>,
    /// The folder of the project, which does not exist yet or is empty
    #[arg(long, value_name = "PROJECT")]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// A folder that `sam-train annotate init` has made
    #[arg(required = true)]
    pub(crate) project: Option<PathBuf>,
    /// Listen on this port of 127.0.0.1; 0: on any [default: 8716 or one of the next]
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// Print the address and open no browser
    #[arg(long)]
    pub(crate) no_browser: bool,
    /// Where to compute: cpu, cuda, cuda:N, vulkan or wgpu
    #[arg(long, default_value = "cpu")]
    pub(crate) device: DeviceName,
}
