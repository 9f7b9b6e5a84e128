//! The arguments of `sam-train neighbours`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::device::DeviceArguments;
use super::number;
use super::source::SourceArguments;

/// Among which objects neighbours are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Within {
    /// All objects of the data set
    Data,
    /// The other objects of the same image, as in the paper's figure
    Image,
}

#[derive(Debug, Args)]
pub(crate) struct NeighboursArguments {
    /// Checkpoint (.safetensors or .pth), Hugging Face folder, or folder of a run (its best checkpoint)
    #[arg(long, value_name = "FILE")]
    pub(crate) checkpoint: PathBuf,
    /// Any data set of masks: a folder, COCO .json, YOLO data.yaml or SA-1B .tar
    #[arg(long, value_name = "PATH")]
    pub(crate) data: PathBuf,
    /// A CLIP, to compare with: its Hugging Face folder or its file
    #[arg(long, value_name = "DIR")]
    pub(crate) clip: Option<PathBuf>,
    /// Where neighbours are looked for
    #[arg(long, value_enum, default_value = "data")]
    pub(crate) within: Within,
    /// Objects that are shown with their neighbours, spread over the data set
    #[arg(long, value_name = "N", default_value = "12", value_parser = number(1..=500))]
    pub(crate) queries: usize,
    /// Neighbours of each
    #[arg(long, value_name = "K", default_value = "8", value_parser = number(1..=50))]
    pub(crate) neighbours: usize,
    /// At most this many objects, of images that are spread over the data set
    #[arg(long, value_name = "N", default_value = "500", value_parser = number(2..=100_000))]
    pub(crate) max_objects: usize,
    /// Folder for neighbours.html and neighbours.json
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Replace an earlier result in DIR
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) device: DeviceArguments,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
}
