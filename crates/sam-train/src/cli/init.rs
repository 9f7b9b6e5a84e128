//! The options of `sam-train init`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{SourceArguments, name};

#[derive(Debug, Args)]
#[command(after_help = "Example: sam-train init --data my-images > finetune.toml; sam-train --config finetune.toml")]
pub(crate) struct InitArguments {
    /// Your images and masks: folder, COCO .json, YOLO data.yaml or SA-1B .tar
    #[arg(long, value_name = "PATH")]
    pub(crate) data: PathBuf,
    /// A separate data set to validate on [default: the part val of --data, or some of its images]
    #[arg(long, value_name = "PATH")]
    pub(crate) validation: Option<PathBuf>,
    /// What learns, and from which prompts
    #[arg(long, value_enum, default_value_t = Preset::Laptop)]
    pub(crate) preset: Preset,
    /// The checkpoint to start from, of any layout, or the folder of a run [default: sam_vit_b_01ec64.pth]
    #[arg(long, value_name = "PATH")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// The folder of the run [default: runs/finetune]
    #[arg(long, value_name = "DIR")]
    pub(crate) run: Option<PathBuf>,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Replace FILE if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
}

impl InitArguments {
    /// The options that decide what is written, as typed.
    pub(crate) fn shown(&self) -> String {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let options = [
            ("--data", Some(self.data.display().to_string())),
            ("--validation", path(&self.validation)),
            ("--preset", Some(self.preset.name())),
            ("--checkpoint", path(&self.checkpoint)),
            ("--run", path(&self.run)),
        ];
        let shown = |(option, value): (&str, Option<String>)| Some(format!(" {option} {}", value?));
        options.into_iter().filter_map(shown).collect()
    }
}

/// What learns, and from which prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Preset {
    /// The mask decoder, on embeddings that are computed once: no GPU needed
    Laptop,
    /// Low-rank adapters of the encoder, and the decoder: for images unlike photographs
    Lora,
    /// All weights: for many images and a GPU
    Full,
    /// As laptop, for prompts that are always boxes
    Box,
    /// As laptop, for prompts that are always clicks
    Points,
    /// A small network from random weights
    Scratch,
}

impl Preset {
    /// As it is typed.
    pub(crate) fn name(self) -> String {
        name(self)
    }
}
