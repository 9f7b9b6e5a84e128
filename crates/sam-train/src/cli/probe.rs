//! The arguments of `sam-train probe`: each option is a key of a configuration with `task = "probe"`.

use std::path::PathBuf;

use clap::Args;

use super::measure::MeasureArguments;
use super::name;
use super::source::SourceArguments;
use crate::config::probe::{Subject, Token};
use crate::config::{Document, Options, Task};

#[derive(Debug, Args)]
#[command(after_help = "The same as a configuration: configs/probe.toml.")]
pub(crate) struct ProbeArguments {
    /// A pre-training run, a masked autoencoder (.pth or .safetensors), or a segmenter, whose encoder is probed; repeatable
    #[arg(long = "checkpoint", value_name = "FILE", required = true)]
    checkpoints: Vec<PathBuf>,
    /// Images in folders by class (CLASS/IMAGE, or train/CLASS/IMAGE and val/CLASS/IMAGE), or any data set whose objects have
    /// classes
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// Validation data, where it is a data set of its own
    #[arg(long, value_name = "PATH", conflicts_with_all = ["split", "hold_out"])]
    val: Option<PathBuf>,
    /// A file of `data split`: its part train is for training, its part val for validation
    #[arg(long, value_name = "FILE", conflicts_with = "hold_out")]
    split: Option<PathBuf>,
    /// Fraction of the images for validation, by a hash of their names [default: the data set's own split, else 0.2]
    #[arg(long, value_name = "SHARE")]
    hold_out: Option<f64>,
    /// What is classified [default: objects where the data set has a known format, else images]
    #[arg(long, value_enum)]
    of: Option<Subject>,
    /// The feature of a whole image: mean (of the patch tokens) or class (the class token) [default: mean]
    #[arg(long, value_enum)]
    token: Option<Token>,
    /// Neighbours that vote [default: 20, and no more than the training samples of an average class]
    #[arg(long, value_name = "K")]
    neighbours: Option<usize>,
    /// Side length of the encoder's input in pixels [default: the checkpoint's]
    #[arg(long, value_name = "PX")]
    image_size: Option<usize>,
    /// Exclude classes with fewer training samples, or without validation samples
    #[arg(long, value_name = "N")]
    min_samples: Option<usize>,
    /// At most this many images of each part, spread over it
    #[arg(long, value_name = "N")]
    max_images: Option<usize>,
    /// Random seed of the random weights to compare with, and of --hold-out [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Skip the encoder with random weights, which takes as long as the checkpoint's
    #[arg(long)]
    no_random: bool,
    /// Images in one call of the encoder; affects memory, not results [default: by its size]
    #[arg(long, value_name = "N")]
    batch_images: Option<usize>,
    #[command(flatten)]
    pub(crate) measure: MeasureArguments,
    #[command(flatten)]
    source: SourceArguments,
}

impl ProbeArguments {
    /// The options as a configuration.
    pub(crate) fn document(&self) -> Document {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let mut options = Options::of_task("sam-train probe", Task::Probe);
        options.paths("--checkpoint", "model.checkpoint", &self.checkpoints);
        options.value("--image-size", "model.image_size", self.image_size);

        self.source.add_to(&mut options);
        options.text("--data", "data.path", Some(self.data.display()));
        options.text("--val", "data.validation", path(&self.val));
        options.text("--split", "data.split_file", path(&self.split));
        options.value("--hold-out", "data.hold_out", self.hold_out);
        options.value("--min-samples", "data.min_samples", self.min_samples);
        options.value("--max-images", "data.max_images", self.max_images);

        options.text("--of", "probe.of", self.of.map(name));
        options.text("--token", "probe.token", self.token.map(name));
        options.value("--neighbours", "probe.neighbours", self.neighbours);
        options.flag("--no-random", "probe.random", self.no_random, "false");

        self.measure.add_to(&mut options);
        options.value("--seed", "run.seed", self.seed);
        options.value("--batch-images", "run.batch_images", self.batch_images);
        options.into_document()
    }
}
