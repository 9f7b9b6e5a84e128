//! The encoders of checkpoints, whichever network they come from.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use burn::tensor::Device;
use sam_learn::probe::FrozenEncoder;
use sam_model::MaeConfig;
use sam_model::weights::{Checkpoint, Layout, LoadOptions, LoadReport, MaeCheckpoint, StateDict};

use super::arguments::{ProbeArguments, Subject, Token};
use crate::names;
use crate::train::{pretrained_file, told};

/// A checkpoint, recognised; its weights are read once the data is known to be sound.
pub(crate) struct EncoderFile {
    /// In the table.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    kind: Kind,
}

enum Kind {
    Autoencoder(Box<MaeCheckpoint>),
    Segmenter(Box<Checkpoint>),
}

/// All of them.
pub(crate) fn open(arguments: &ProbeArguments) -> anyhow::Result<Vec<EncoderFile>> {
    let names = names::of_checkpoints(&arguments.checkpoints);
    let open = |(path, name): (&PathBuf, String)| {
        let file = EncoderFile::open(path, name)?;
        file.check(arguments)?;
        Ok(file)
    };
    arguments.checkpoints.iter().zip(names).map(open).collect()
}

impl EncoderFile {
    fn open(path: &Path, name: String) -> anyhow::Result<Self> {
        let file = pretrained_file(path);
        if file.is_dir() && file.join("plan.toml").is_file() {
            bail!("--checkpoint {}: the run has no best checkpoint yet; let it go on to a save first", path.display());
        }
        let dict = StateDict::open(&file)?;
        let kind = match Layout::recognise(&dict.tensors) {
            Ok(Layout::Mae) => Kind::Autoencoder(Box::new(MaeCheckpoint::open(&file)?)),
            // What is none at all, this says with all that it looked for.
            Ok(_) | Err(_) => Kind::Segmenter(Box::new(Checkpoint::recognise(dict)?)),
        };
        Ok(Self { name, path: file, kind })
    }

    /// Refuses a size or a token that the network cannot have, before the data is looked at.
    fn check(&self, arguments: &ProbeArguments) -> anyhow::Result<()> {
        let shown = self.path.display();
        let wrong_size = |problems: Vec<String>| anyhow!("{shown}: --image-size: {}", problems.join("; "));
        match &self.kind {
            Kind::Autoencoder(checkpoint) => {
                let side = arguments.image_size.map_or(checkpoint.config.image_size_hw, |side| [side; 2]);
                autoencoder_at(checkpoint, side).check().map_err(|error| wrong_size(error.problems))
            }
            Kind::Segmenter(_) if arguments.token == Token::Class => {
                bail!("{shown}: a segmenter has no class token; leave --token class out")
            }
            Kind::Segmenter(checkpoint) => {
                let config = segmenter_at(checkpoint, arguments.image_size).config;
                config.check().map_err(|error| wrong_size(error.problems))
            }
        }
    }

    /// With its weights, at the size that is asked for, or its own.
    pub(crate) fn load(
        &self,
        image_size: Option<usize>,
        subject: Subject,
        device: &Device,
    ) -> anyhow::Result<FrozenEncoder> {
        let (encoder, report) = match &self.kind {
            Kind::Autoencoder(checkpoint) => {
                let [height, width] = checkpoint.config.image_size_hw;
                let size_hw = match (image_size, subject) {
                    (Some(side), _) => [side; 2],
                    (None, Subject::Images) => [height, width],
                    // A whole image of any shape lies in a square, as the segmenter takes it.
                    (None, Subject::Objects) => [height.max(width); 2],
                };
                let (mae, report) = checkpoint.load_with(&autoencoder_at(checkpoint, size_hw), 0, device)?;
                (FrozenEncoder::Autoencoder(Box::new(mae)), report)
            }
            Kind::Segmenter(checkpoint) => {
                let (sam, report) = checkpoint.load_with(&segmenter_at(checkpoint, image_size), device)?;
                (FrozenEncoder::Segmenter(Box::new(sam)), report)
            }
        };
        self.tell(&report)?;
        Ok(encoder)
    }

    /// What a person should know of the tensors; a decoder that is not there was never needed.
    fn tell(&self, report: &LoadReport) -> anyhow::Result<()> {
        let mut err = std::io::stderr();
        let is_of_decoder = |key: &String| key.starts_with("decoder_") || key == "mask_token";
        let report = LoadReport {
            fresh: report.fresh.iter().filter(|key| !is_of_decoder(key)).cloned().collect(),
            ..report.clone()
        };
        for line in told(&report) {
            writeln!(err, "{}: {}", self.name, line.trim_start_matches("model: "))?;
        }
        Ok(())
    }

    /// What it is, for the results.
    pub(crate) fn description(&self) -> String {
        match &self.kind {
            Kind::Autoencoder(checkpoint) => sam_model::weights::describe_autoencoder(&checkpoint.config),
            Kind::Segmenter(checkpoint) => checkpoint.description(),
        }
    }
}

fn autoencoder_at(checkpoint: &MaeCheckpoint, image_size_hw: [usize; 2]) -> MaeConfig {
    MaeConfig { image_size_hw, ..checkpoint.config.clone() }
}

fn segmenter_at(checkpoint: &Checkpoint, image_size: Option<usize>) -> LoadOptions {
    let mut options = checkpoint.default_options();
    if let Some(side) = image_size {
        options.config.image_encoder.image_size = side;
    }
    options
}
