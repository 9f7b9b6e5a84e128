//! `task = "probe"`, also as `sam-train probe`: classifiers on the frozen features of an encoder.

use std::path::PathBuf;

use clap::ValueEnum;
use sam_learn::probe::Pooling;
use serde::Serialize;

use super::files::{FilesPlan, SelectionPlan, read_selection};
use super::measure::{CheckpointsPlan, MeasureRunPlan};
use super::ranges::{BETWEEN_0_AND_1, IMAGE_SIZES};
use super::reader::{Reader, Section};

/// Everything that decides a probe. Printed, it is its configuration.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ProbePlan {
    /// The encoders.
    pub(crate) model: ProbeModelPlan,
    /// The labelled data.
    pub(crate) data: ProbeDataPlan,
    /// What is classified, and how.
    pub(crate) probe: ProbeOptions,
    /// Where and how it is computed.
    pub(crate) run: ProbeRunPlan,
}

/// The encoders.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ProbeModelPlan {
    #[serde(flatten)]
    pub(crate) checkpoints: CheckpointsPlan,
    /// Side length of the encoder's input in pixels; by default the checkpoint's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) image_size: Option<usize>,
}

/// The labelled data.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ProbeDataPlan {
    /// A data set of its own for validation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) validation: Option<PathBuf>,
    /// Fraction of the images that is held out for validation, by a hash of their names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) hold_out: Option<f64>,
    /// Classes with fewer training samples, or without validation samples, are excluded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) min_samples: Option<usize>,
    /// The images that are used.
    #[serde(flatten)]
    pub(crate) selection: SelectionPlan,
    /// Images in folders by class, or a data set whose objects have classes.
    #[serde(flatten, serialize_with = "FilesPlan::serialize_as_typed")]
    pub(crate) files: FilesPlan,
}

/// What is classified, and how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ProbeOptions {
    /// By default objects where the data set has a known format, else images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<Subject>,
    /// The feature of a whole image.
    pub(crate) token: Token,
    /// Neighbours that vote; by default 20, and no more than the training samples of an average class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) neighbours: Option<usize>,
    /// Whether the same encoder with random weights is probed for comparison.
    pub(crate) random: bool,
}

/// Where and how it is computed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct ProbeRunPlan {
    #[serde(flatten)]
    pub(crate) measure: MeasureRunPlan,
    /// Random seed of the random weights and of `hold_out`.
    pub(crate) seed: u64,
    /// Images in one call of the encoder; affects memory, not results.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) batch_images: Option<usize>,
}

/// What is classified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Subject {
    /// Images, by the folders they are in
    Images,
    /// Objects, by the mean of the tokens under their masks
    Objects,
}

/// The feature of a whole image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Token {
    /// The mean of the patch tokens
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

impl ProbePlan {
    pub(super) fn read(reader: &Reader<'_>) -> Self {
        let top = reader.top();
        let [model, data, probe, run] = ["model", "data", "probe", "run"].map(|section| top.section(section));
        let plan = Self {
            model: ProbeModelPlan {
                checkpoints: CheckpointsPlan::read(&model, true),
                image_size: model.integer_if_given("image_size", IMAGE_SIZES),
            },
            data: ProbeDataPlan::read(reader, &data),
            probe: ProbeOptions {
                of: probe.choice_if_given("of", &[("images", Subject::Images), ("objects", Subject::Objects)]),
                token: probe.choice("token", Token::Mean, &[("mean", Token::Mean), ("class", Token::Class)]),
                neighbours: probe.integer_if_given("neighbours", 1..),
                random: probe.flag("random", true),
            },
            run: ProbeRunPlan {
                measure: MeasureRunPlan::read(&run),
                seed: run.integer("seed", 0, 0..),
                batch_images: run.integer_if_given("batch_images", 1..),
            },
        };
        let is_of_image = plan.probe.of != Some(Subject::Objects) || plan.probe.token == Token::Mean;
        let expected = "\"mean\" with probe.of = \"objects\": the class token describes a whole image";
        reader.check(is_of_image, &["probe.token", "probe.of"], expected, "\"class\"");
        plan
    }
}

impl ProbeDataPlan {
    fn read(reader: &Reader<'_>, data: &Section<'_>) -> Self {
        let (files, selection) = read_selection(data);
        let plan = Self {
            validation: data.local_path_if_given("validation"),
            hold_out: data.float_if_given("hold_out", BETWEEN_0_AND_1),
            min_samples: data.integer_if_given("min_samples", 1..),
            selection,
            files,
        };
        let keys = ["data.validation", "data.split_file", "data.hold_out"];
        let given: Vec<&str> = keys.into_iter().filter(|key| data.is_given(&key["data.".len()..])).collect();
        let one = "given alone: validation data comes from one of data.validation, data.split_file and data.hold_out";
        reader.check(given.len() < 2, &given, one, given.join(" and "));
        plan
    }
}
