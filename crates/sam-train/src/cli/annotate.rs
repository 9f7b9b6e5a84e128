//! The options of `sam-train annotate`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use sam_engine::SplitBy;
use sam_infer::DeviceName;

use super::annotate_data::{ExportProjectArguments, ImportMasksArguments};
use super::auto::AutomaticMaskArguments;
use super::device::DeviceArguments;
use super::verbosity::VerbosityArguments;

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
    /// Retrain the model on the masks so far, measure it, and take it if it is better
    Round(RoundArguments),
    /// Let the model label the images that nobody has worked on; validation images are left to people
    Auto(AutomaticArguments),
    /// Write the masks in the format of a trainer or a labelling program
    Export(ExportProjectArguments),
    /// Add the masks of a data set to the images of the same names, to be corrected
    Import(ImportMasksArguments),
    /// Say how far a project is: images, masks, rounds, review
    Status(StatusArguments),
    /// Label as a person would, from the truth of a data set, through the server of an open project
    Simulate(SimulateArguments),
}

#[derive(Debug, Args)]
pub(crate) struct NewProjectArguments {
    /// Your images, at any depth below this folder
    #[arg(long, value_name = "DIR")]
    pub(crate) images: PathBuf,
    /// The model that answers clicks: a checkpoint of any layout, or the folder of a run
    #[arg(long, value_name = "PATH")]
    pub(crate) checkpoint: PathBuf,
    /// The CLIP that the checkpoint's texts are of: objects are then found by what they are called, too
    #[arg(long, value_name = "DIR")]
    pub(crate) clip: Option<PathBuf>,
    /// Names of classes, such as cat,dog
    #[arg(long, value_name = "A,B,..", value_delimiter = ',')]
    pub(crate) classes: Vec<String>,
    /// The folder of the project, which does not exist yet or is empty
    #[arg(long, value_name = "PROJECT")]
    pub(crate) out: PathBuf,
    /// The part of the images whose masks measure models and are never learned from
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    pub(crate) validation: f64,
    /// What is wholly for validation or wholly to learn from: the frames of a video or the slices of a patient in a folder
    #[arg(long, value_name = "BY", value_enum, default_value_t = ValidationBy::Image)]
    pub(crate) validation_by: ValidationBy,
}

/// What is kept together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ValidationBy {
    Image,
    Folder,
}

impl From<ValidationBy> for SplitBy {
    fn from(by: ValidationBy) -> Self {
        match by {
            ValidationBy::Image => Self::Image,
            ValidationBy::Folder => Self::Folder,
        }
    }
}

#[derive(Debug, Args)]
#[command(after_help = "The same command resumes a round that was stopped or killed. The server of the project \
                        may be open meanwhile; it takes a better model by itself.")]
pub(crate) struct RoundArguments {
    /// The project
    pub(crate) project: PathBuf,
    /// Make a round whenever so many new masks are there, until Ctrl-C
    #[arg(long, value_name = "N", value_parser = super::number(1..=1_000_000))]
    pub(crate) auto: Option<usize>,
    /// Override a key of the training's configuration, such as --set schedule.steps=100; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Where to compute: cpu, cuda, cuda:N, vulkan or wgpu
    #[arg(long, default_value = "cpu")]
    pub(crate) device: DeviceName,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

#[derive(Debug, Args)]
#[command(after_help = "Images that have automatic masks of the model in use are skipped: the same command resumes.")]
pub(crate) struct AutomaticArguments {
    /// The project, which no server may have open
    pub(crate) project: PathBuf,
    #[command(flatten)]
    pub(crate) masks: AutomaticMaskArguments,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    /// The project
    pub(crate) project: PathBuf,
    /// Print it as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Seconds are those of a model of a person: 2 s to look at an object and commit its mask, 1.5 s per click, \
                        20 s with the brush where the clicks do not suffice, 1 s per proposal."
)]
pub(crate) struct SimulateArguments {
    /// The project, open in a server of this machine
    pub(crate) project: PathBuf,
    /// A data set with the true masks of the project's images, of the same names
    #[arg(long, value_name = "PATH")]
    pub(crate) truth: PathBuf,
    /// Commit a mask of this IoU with the truth
    #[arg(long, value_name = "IOU", default_value_t = 0.9)]
    pub(crate) iou: f64,
    /// Take the brush after so many clicks
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = super::number(1..=100))]
    pub(crate) clicks: usize,
    /// Stop after so many masks [default: all]
    #[arg(long, value_name = "N", value_parser = super::number(1..=1_000_000_000))]
    pub(crate) masks: Option<usize>,
    /// Look at proposals first, and accept the good ones
    #[arg(long)]
    pub(crate) proposals: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArguments {
    /// A folder that `sam-train annotate init` has made
    #[arg(required = true)]
    pub(crate) project: Option<PathBuf>,
    /// Listen on this port of 127.0.0.1; 0: on any [default: 8716 or one of the next]
    #[arg(long, value_name = "N")]
    pub(crate) port: Option<u16>,
    /// The CLIP that the model's texts are of: the page gets a field for texts [default: that of the project]
    #[arg(long, value_name = "DIR")]
    pub(crate) clip: Option<PathBuf>,
    /// Print the address and open no browser
    #[arg(long)]
    pub(crate) no_browser: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
}
