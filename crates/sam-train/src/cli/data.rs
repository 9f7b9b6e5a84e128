//! The arguments of `sam-train data`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, value_parser};
use sam_data::ConvertTo;

use super::number;
use super::source::SourceArguments;

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Describe a data set and list all its errors; exit code 2 on errors
    Check(CheckArguments),
    /// Draw contact sheets: images with masks and boxes, and augmented views of them
    Preview(PreviewArguments),
    /// Convert a data set to another format, and report what that format cannot store
    Convert(ConvertArguments),
    /// Split the images into train, val and test; adding files never moves others
    Split(SplitArguments),
    /// Generate small synthetic scenes with exact masks, reproducible by their seed
    Synth(SynthArguments),
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// Folder, COCO .json, YOLO data.yaml or SA-1B .tar
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Also write the report as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
}

#[derive(Debug, Args)]
pub(crate) struct PreviewArguments {
    /// Folder, COCO .json, YOLO data.yaml or SA-1B .tar
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Folder for the sheets
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Number of images, spread over the data set
    #[arg(long, default_value_t = 12, value_parser = number(1..=10_000))]
    pub(crate) count: usize,
    /// Augmented views of each image
    #[arg(long, default_value_t = 3, value_parser = number(0..=100))]
    pub(crate) views: usize,
    /// Size of each view in pixels
    #[arg(long, default_value_t = 256, value_parser = number(64..=2048))]
    pub(crate) cell: usize,
    /// Random seed for augmentation
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Replace the sheets of an earlier call
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
}

#[derive(Debug, Args)]
pub(crate) struct ConvertArguments {
    /// Folder, COCO .json, YOLO data.yaml or SA-1B .tar
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Format to write
    #[arg(long)]
    pub(crate) to: ConvertFormat,
    /// New or empty folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Also copy images that lie outside the folder of the data set (`../x.jpg`, absolute paths, links)
    #[arg(long)]
    pub(crate) copy_outside: bool,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ConvertFormat {
    /// COCO instances, masks as compressed RLE
    Coco,
    /// A JSON file beside each image
    Sa1b,
    /// 16-bit PNGs of instance ids
    Labels,
    /// A text file of polygons per image, and data.yaml
    Yolo,
    /// CVAT for images 1.1, masks as RLE
    Cvat,
    /// Tasks with brush masks, and the labelling configuration
    LabelStudio,
    /// A JSON file of mask shapes beside each image
    Labelme,
}

impl From<ConvertFormat> for ConvertTo {
    fn from(format: ConvertFormat) -> Self {
        match format {
            ConvertFormat::Coco => ConvertTo::Coco,
            ConvertFormat::Sa1b => ConvertTo::Sa1b,
            ConvertFormat::Labels => ConvertTo::Labels,
            ConvertFormat::Yolo => ConvertTo::Yolo,
            ConvertFormat::Cvat => ConvertTo::Cvat,
            ConvertFormat::LabelStudio => ConvertTo::LabelStudio,
            ConvertFormat::Labelme => ConvertTo::Labelme,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SplitArguments {
    /// Folder, COCO .json, YOLO data.yaml or SA-1B .tar
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// JSON file with the names of each part
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// Fraction for validation
    #[arg(long, default_value_t = 0.1)]
    pub(crate) val: f64,
    /// Fraction for testing
    #[arg(long, default_value_t = 0.0)]
    pub(crate) test: f64,
    /// Random seed of the split
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Use the data set's own split
    #[arg(long)]
    pub(crate) given: bool,
    /// Keep images together for which this pattern captures the same text, such as `patient-(\\d+)`
    #[arg(long, value_name = "PATTERN")]
    pub(crate) group_regex: Option<String>,
    /// Keep images together whose names are equal up to this text, such as `_`
    #[arg(long, value_name = "TEXT", conflicts_with = "group_regex")]
    pub(crate) group_prefix: Option<String>,
    /// Keep the images of a folder together
    #[arg(long, conflicts_with_all = ["group_regex", "group_prefix"])]
    pub(crate) group_folder: bool,
    /// Replace FILE if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
}

#[derive(Debug, Args)]
pub(crate) struct SynthArguments {
    /// New or empty folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Format to write
    #[arg(long, default_value = "coco")]
    pub(crate) format: SynthFormat,
    /// Write the training and validation scenes of a configuration, as a run generates them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "first", "min_side", "max_side", "noise"])]
    pub(crate) config: Option<PathBuf>,
    /// Scenes to train on
    #[arg(long, default_value_t = 24, value_parser = number(0..=1_000_000))]
    pub(crate) train: usize,
    /// Scenes to validate on [default: 12, with --config all of them]
    #[arg(long, value_parser = number(0..=1_000_000))]
    pub(crate) val: Option<usize>,
    /// Random seed of the scenes
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Index of the first scene, to continue a seed later
    #[arg(long, default_value_t = 0, value_parser = value_parser!(u64).range(0..=1 << 53))]
    pub(crate) first: u64,
    /// Smallest height and width in pixels
    #[arg(long, default_value_t = 128, value_parser = number(32..=4096))]
    pub(crate) min_side: usize,
    /// Largest height and width in pixels
    #[arg(long, default_value_t = 192, value_parser = number(32..=4096))]
    pub(crate) max_side: usize,
    /// Noise in grey levels; less makes smaller files
    #[arg(long, default_value_t = 5.0)]
    pub(crate) noise: f64,
    /// Write into a folder that is not empty
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum SynthFormat {
    /// PNG images and a COCO file per split
    Coco,
    /// JPEG images with a JSON file beside each
    Sa1b,
}
