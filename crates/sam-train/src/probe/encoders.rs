//! The encoders of checkpoints, of masked autoencoders and segmenters.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail};
use burn::tensor::Device;
use sam_learn::probe::FrozenEncoder;
use sam_model::MaeConfig;
use sam_model::weights::{Checkpoint, Layout, LoadOptions, LoadReport, MaeCheckpoint, StateDict};

use crate::config::ProbePlan;
use crate::config::probe::{Subject, Token};
use crate::names;
use crate::train::{checkpoint_file, load_report_lines};

/// A recognised checkpoint; its weights are read once the data is checked.
pub(crate) struct EncoderFile {
    /// Its name in the table.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    kind: Kind,
}

enum Kind {
    Autoencoder(Box<MaeCheckpoint>),
    Segmenter(Box<Checkpoint>),
}

/// Opens all checkpoints of a plan.
pub(crate) fn open(plan: &ProbePlan) -> anyhow::Result<Vec<EncoderFile>> {
    let checkpoints = &plan.model.checkpoints.checkpoint;
    let names = names::of_checkpoints(checkpoints);
    let open = |(path, name): (&PathBuf, String)| {
        let file = EncoderFile::open(path, name)?;
        file.check(plan)?;
        Ok(file)
    };
    checkpoints.iter().zip(names).map(open).collect()
}

impl EncoderFile {
    fn open(path: &Path, name: String) -> anyhow::Result<Self> {
        let file = checkpoint_file(path);
        if file.is_dir() && file.join("plan.toml").is_file() {
            bail!("{}: the run has no best checkpoint yet; resume it until it saves one", path.display());
        }
        let mut dict = StateDict::open(&file)?;
        let kind = match dict.recognise_layout() {
            Ok(Layout::Mae) => Kind::Autoencoder(Box::new(MaeCheckpoint::open(&file)?)),
            // For any other file, this error lists the layouts that are known.
            Ok(_) | Err(_) => Kind::Segmenter(Box::new(Checkpoint::recognise(dict)?)),
        };
        Ok(Self { name, path: file, kind })
    }

    /// Rejects a size or a token that the network cannot have, before the data is read.
    fn check(&self, plan: &ProbePlan) -> anyhow::Result<()> {
        let shown = self.path.display();
        let wrong_size = |problems: Vec<String>| anyhow!("{shown}: model.image_size: {}", problems.join("; "));
        match &self.kind {
            Kind::Autoencoder(checkpoint) => {
                let side = plan.model.image_size.map_or(checkpoint.config.image_size_hw, |side| [side; 2]);
                autoencoder_at(checkpoint, side).check().map_err(|error| wrong_size(error.problems))
            }
            Kind::Segmenter(_) if plan.probe.token == Token::Class => {
                bail!("{shown}: a segmenter has no class token; use probe.token = \"mean\" (--token mean)")
            }
            Kind::Segmenter(checkpoint) => {
                let config = segmenter_at(checkpoint, plan.model.image_size).config;
                config.check().map_err(|error| wrong_size(error.problems))
            }
        }
    }

    /// Loads it at `image_size`, or its own size.
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
                    // A whole image of any shape is padded to a square, as for the segmenter.
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
        self.print(&report)?;
        Ok(encoder)
    }

    /// Prints what was loaded; a missing decoder is not needed.
    fn print(&self, report: &LoadReport) -> anyhow::Result<()> {
        let mut err = crate::output::errors();
        let is_of_decoder = |key: &String| key.starts_with("decoder_") || key == "mask_token";
        let report = LoadReport {
            fresh: report.fresh.iter().filter(|key| !is_of_decoder(key)).cloned().collect(),
            ..report.clone()
        };
        for line in load_report_lines(&report) {
            writeln!(err, "{}: {}", self.name, line.trim_start_matches("model: "))?;
        }
        Ok(())
    }

    /// A description for the results.
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
        options.config.image_encoder.set_image_size(side);
    }
    options
}
