//! Command-line arguments. Only the gate file of `eval` is read here, as its values are options like the others.

mod annotate;
mod annotate_data;
mod auto;
mod bench;
mod checkpoint;
mod data;
mod device;
mod doctor;
mod eval;
mod export;
mod format;
mod init;
mod measure;
mod neighbours;
mod probe;
mod runs;
mod source;
mod verbosity;

pub(crate) use annotate::{
    AnnotateArguments, AnnotateCommand, AutomaticArguments, NewProjectArguments, RoundArguments, ServeArguments,
    SimulateArguments, StatusArguments,
};
pub(crate) use annotate_data::{ExportProjectArguments, ImportMasksArguments, ImportedAs};
pub(crate) use auto::{AutoArguments, AutoTextArguments, MaskFormat};
pub(crate) use bench::BenchArguments;
pub(crate) use checkpoint::{InspectArguments, PredictArguments, PredictFormat};
pub(crate) use data::{
    CheckArguments, ConvertArguments, DataCommand, PreviewArguments, SplitArguments, SynthArguments, SynthFormat,
};
pub(crate) use device::open_for_inference;
pub(crate) use doctor::DoctorArguments;
pub(crate) use eval::EvalArguments;
pub(crate) use export::{AnnotatorArgument, ExportArguments, OnnxArguments, WrittenFormat};
pub(crate) use format::FormatArgument;
pub(crate) use init::{InitArguments, Preset};
pub(crate) use neighbours::{NeighboursArguments, Within};
pub(crate) use probe::ProbeArguments;
pub(crate) use runs::RunsArguments;
pub(crate) use source::SourceArguments;
pub(crate) use verbosity::{Verbosity, VerbosityArguments};

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::builder::TypedValueParser;
use clap::{Args, Parser, Subcommand, ValueEnum, value_parser};

use crate::build;

/// Train, evaluate, export and try promptable segmenters (Segment Anything).
#[derive(Debug, Parser)]
#[command(
    version = build::VERSION,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 bad input, 3 no memory left, 130 stopped without an end. A run that is stopped and saved ends with 0."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) run: RunArguments,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// A configuration to run, or a run to resume.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Runs")]
pub(crate) struct RunArguments {
    /// Run a configuration, such as configs/quickstart.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Resume the run in this folder; with --config, after comparing the configuration with that of the run
    #[arg(long, value_name = "RUN")]
    pub(crate) resume: Option<PathBuf>,
    /// Override a key of the configuration, such as --set schedule.steps=200; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Check the configuration and the data, measure a step, print what the run takes and the configuration with every
    /// default, which can be run, and exit (with --resume: print the plan of the run)
    #[arg(long)]
    pub(crate) check: bool,
    /// Train two steps, validate, save, resume from the save, compare, export, and remove it all
    #[arg(long, conflicts_with_all = ["check", "resume", "force"])]
    pub(crate) dry_run: bool,
    /// Replace an earlier run or its results in the folder that the configuration names
    #[arg(long, requires = "config")]
    pub(crate) force: bool,
    /// Print plain lines even on a terminal
    #[arg(long)]
    pub(crate) plain: bool,
    #[command(flatten)]
    pub(crate) verbosity: VerbosityArguments,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Look at your data and write a configuration that fits it
    Init(Box<InitArguments>),
    /// Describe a checkpoint: variant, image size, types, tensors, and missing or unexpected ones
    Inspect(InspectArguments),
    /// Convert a checkpoint for other programs
    Export(Box<ExportArguments>),
    /// Segment images from points, boxes or an earlier mask
    Predict(PredictArguments),
    /// Segment everything in images, without prompts
    Auto(Box<AutoArguments>),
    /// Evaluate checkpoints on data sets: mIoU per click and box, NoC, AP; with a report, and a gate for CI
    Eval(Box<EvalArguments>),
    /// Classify labelled images or objects by an encoder's frozen features: nearest neighbours and a linear layer
    Probe(Box<ProbeArguments>),
    /// Show which masks are close to one another in a segmenter's latent space, and in CLIP's
    Neighbours(Box<NeighboursArguments>),
    /// List the runs below a folder with their state and scores, or compare some: configuration, data, scores
    Runs(RunsArguments),
    /// Label images in a browser together with a model: click, look, commit
    Annotate(Box<AnnotateArguments>),
    /// Check, preview, convert, split or generate a data set
    #[command(subcommand)]
    Data(DataCommand),
    /// Measure the phases of a training step, beside what this machine's matrix products could do
    Bench(BenchArguments),
    /// Print the JSON Schema of a configuration: every key with its type, range, default and cost
    #[command(after_help = "Save it beside your configurations, and begin them with the line `#:schema schema.json`: \
                            editors with Taplo (Even Better TOML) then complete, explain and check every key.")]
    Schema,
    /// Say what this build can do on this machine: devices, memory, SIMD, disk space, versions
    Doctor(DoctorArguments),
}

impl RunArguments {
    /// Those of a command that runs a configuration made of its own options.
    pub(crate) fn of_command(force: bool, verbosity: VerbosityArguments) -> Self {
        Self { force, verbosity, ..Self::default() }
    }
}

/// A parser of whole numbers in a range.
fn number(range: RangeInclusive<u64>) -> impl TypedValueParser<Value = usize> {
    value_parser!(u64).range(range).map(|number| number as usize)
}

/// The name of a value, as it is typed.
fn name<T: ValueEnum>(value: T) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}
