//! What can be typed after `sam-train probe`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::bail;
use clap::{Args, ValueEnum};
use sam_infer::DeviceName;
use sam_learn::probe::Pooling;

use crate::cli::SourceArguments;

#[derive(Debug, Args)]
pub(crate) struct ProbeArguments {
    /// A pre-training run, a masked autoencoder (.pth or .safetensors), or a segmenter, of which the encoder is taken;
    /// repeatable
    #[arg(long = "checkpoint", value_name = "FILE", required = true)]
    pub(crate) checkpoints: Vec<PathBuf>,
    /// Images in folders by class (CLASS/IMAGE, or train/CLASS/IMAGE and val/CLASS/IMAGE), or any data set whose objects have
    /// classes
    #[arg(long, value_name = "PATH")]
    pub(crate) data: PathBuf,
    /// What is judged, where it is a data set of its own
    #[arg(long, value_name = "PATH", conflicts_with_all = ["split", "hold_out"])]
    pub(crate) val: Option<PathBuf>,
    /// A file of `data split`: its part train is learned from, its part val judged
    #[arg(long, value_name = "FILE", conflicts_with = "hold_out")]
    pub(crate) split: Option<PathBuf>,
    /// Share of the images that is judged, by a hash of their names [default: the split that the data comes with, else 0.2]
    #[arg(long, value_name = "SHARE")]
    pub(crate) hold_out: Option<f64>,
    /// What is classified [default: objects where the data is of a known format, else images]
    #[arg(long, value_enum)]
    pub(crate) of: Option<Subject>,
    /// What stands for a whole image: mean (of the tokens of its patches) or class (the class token)
    #[arg(long, value_enum, default_value = "mean")]
    pub(crate) token: Token,
    /// How many neighbours vote [default: 20, and no more than a class has samples on average]
    #[arg(long, value_name = "K")]
    pub(crate) neighbours: Option<NonZeroUsize>,
    /// Side of the encoder's input in pixels [default: the checkpoint's]
    #[arg(long, value_name = "PX")]
    pub(crate) image_size: Option<usize>,
    /// Leave out classes with fewer samples to learn from, or with none to judge
    #[arg(long, value_name = "N")]
    pub(crate) min_samples: Option<NonZeroUsize>,
    /// At most so many images of each part, spread over it
    #[arg(long, value_name = "N")]
    pub(crate) max_images: Option<NonZeroUsize>,
    /// Of the random weights to compare with, and of --hold-out
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Leave out the encoder of random weights, which takes as long as the checkpoint's
    #[arg(long)]
    pub(crate) no_random: bool,
    /// Folder for probe.json; without it only a table is printed
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Replace the results of an earlier run in DIR
    #[arg(long)]
    pub(crate) force: bool,
    /// Where to compute: cpu, cuda, cuda:N or vulkan
    #[arg(long, default_value = "cpu")]
    pub(crate) device: DeviceName,
    /// Images in one call of the encoder [default: as suits its size]; no number depends on it, memory does
    #[arg(long, value_name = "N")]
    pub(crate) batch_images: Option<NonZeroUsize>,
    /// Threads that read images ahead
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub(crate) workers: usize,
    #[command(flatten)]
    pub(crate) source: SourceArguments,
}

/// What is classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// Images, whose folders are their classes
    Images,
    /// Objects, by the mean of the tokens under their masks
    Objects,
}

/// What stands for a whole image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Token {
    /// The mean over the patches
    Mean,
    /// The class token
    Class,
}

impl From<Token> for Pooling {
    fn from(token: Token) -> Self {
        match token {
            Token::Mean => Self::Mean,
            Token::Class => Self::ClassToken,
        }
    }
}

impl ProbeArguments {
    /// Refuses what makes no sense, before anything is read.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if let Some(share) = self.hold_out.filter(|share| !(*share > 0.0 && *share < 1.0)) {
            bail!("--hold-out must be above 0 and below 1, got {share}");
        }
        if self.of == Some(Subject::Objects) && self.token == Token::Class {
            bail!("--token class stands for a whole image; with --of objects leave it out");
        }
        Ok(())
    }
}
