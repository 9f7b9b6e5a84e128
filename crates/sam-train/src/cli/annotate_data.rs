//! The options of `sam-train annotate export` and `import`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use sam_engine::{ImageState, MaskSource};

use super::data::ConvertFormat;
use super::source::SourceArguments;

#[derive(Debug, Args)]
#[command(
    after_help = "What stays in the project is counted. Example: sam-train annotate export pets --to cvat --out pets-cvat"
)]
pub(crate) struct ExportProjectArguments {
    /// The project, which a server may have open
    pub(crate) project: PathBuf,
    /// Format to write
    #[arg(long)]
    pub(crate) to: ConvertFormat,
    /// New or empty folder
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Only images of these states
    #[arg(long, value_name = "A,B,..", value_delimiter = ',', default_values = ["open", "done"])]
    pub(crate) state: Vec<StateArgument>,
    /// Only masks of these sources [default: all]
    #[arg(long, value_name = "A,B,..", value_delimiter = ',')]
    pub(crate) source: Vec<MaskSourceArgument>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Images are matched by their file, else by their path without its ending, else by their name where both sides have \
                  it once. The same masks are never added twice, from whatever format. Example: sam-train annotate import pets \
                  --data pets-corrected"
)]
pub(crate) struct ImportMasksArguments {
    /// The project, which no server may have open
    pub(crate) project: PathBuf,
    /// The data set: folder, COCO .json, YOLO data.yaml, CVAT .xml or SA-1B .tar
    #[arg(long, value_name = "PATH")]
    pub(crate) data: PathBuf,
    /// What the masks are in the project [default: imported, to be corrected]
    #[arg(long = "as", value_name = "SOURCE")]
    pub(crate) imported_as: Option<ImportedAs>,
    #[command(flatten)]
    pub(crate) reading: SourceArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum StateArgument {
    /// Nobody has worked on it since its masks were removed
    Todo,
    /// Has masks, and may miss some
    Open,
    /// Every object that counts has its mask
    Done,
    /// Not to be annotated
    Skipped,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum MaskSourceArgument {
    /// A person, with the brush alone
    Manual,
    /// A person's prompts and the model
    Assisted,
    /// The model's proposal, accepted as it was
    Accepted,
    /// A proposal or an imported mask, changed by a person
    Corrected,
    /// Another data set's, and nobody has looked at it
    Imported,
    /// The model's, and nobody has looked at it
    Automatic,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ImportedAs {
    /// As good as made by a person: models learn from them and are measured by them
    Accepted,
    /// A model's, as `sam-train annotate auto` makes them
    Automatic,
}

impl From<StateArgument> for ImageState {
    fn from(state: StateArgument) -> Self {
        match state {
            StateArgument::Todo => Self::Todo,
            StateArgument::Open => Self::Open,
            StateArgument::Done => Self::Done,
            StateArgument::Skipped => Self::Skipped,
        }
    }
}

impl From<MaskSourceArgument> for MaskSource {
    fn from(source: MaskSourceArgument) -> Self {
        match source {
            MaskSourceArgument::Manual => Self::Manual,
            MaskSourceArgument::Assisted => Self::Assisted,
            MaskSourceArgument::Accepted => Self::Accepted,
            MaskSourceArgument::Corrected => Self::Corrected,
            MaskSourceArgument::Imported => Self::Imported,
            MaskSourceArgument::Automatic => Self::Automatic,
        }
    }
}
