//! What can be typed. Nothing here reads a file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sam_data::{ConvertTo, OnBad, SourceOptions, Void};
use sam_infer::DeviceName;
use sam_model::weights::{Dtype, ExportFormat};
use serde::de::DeserializeOwned;

use crate::eval::EvalArguments;
use crate::probe::ProbeArguments;

/// Train, evaluate, export and try promptable segmenters (Segment Anything).
#[derive(Debug, Parser)]
#[command(
    version,
    arg_required_else_help = true,
    args_conflicts_with_subcommands = true,
    after_help = "Exit codes: 0 done, 1 failed, 2 bad input."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) run: RunArguments,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// A run by its configuration, or one to go on with.
#[derive(Debug, Args)]
#[command(next_help_heading = "Runs")]
pub(crate) struct RunArguments {
    /// Carry out a configuration, such as configs/quickstart.toml
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Go on with the run in this folder where it stopped; with --config, after comparing the configuration with the run's
    #[arg(long, value_name = "RUN")]
    pub(crate) resume: Option<PathBuf>,
    /// Change a key of the configuration, such as --set schedule.steps=200; repeatable
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// Check the configuration, print it with every default, and stop
    #[arg(long, requires = "config")]
    pub(crate) check: bool,
    /// Replace the run that is in the run folder
    #[arg(long, requires = "config")]
    pub(crate) force: bool,
    /// Plain lines even on a terminal
    #[arg(long)]
    pub(crate) plain: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Say what a checkpoint is: variant, image size, types, tensors, and what is missing or too many
    Inspect(InspectArguments),
    /// Convert a checkpoint so that other people's programs load it
    Export(ExportArguments),
    /// Segment an image from points, a box or an earlier mask
    Predict(PredictArguments),
    /// Measure checkpoints on data sets: mIoU per click and box, NoC, AP; with a report, and a gate for CI
    Eval(Box<EvalArguments>),
    /// Say what an encoder's features know of named images or objects: nearest neighbours and a linear layer
    Probe(Box<ProbeArguments>),
    /// Look at a data set, convert it, split it, or make one
    #[command(subcommand)]
    Data(DataCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Say what is in a data set and everything that is wrong with it; exit code 2 on errors
    Check(CheckArguments),
    /// Draw contact sheets: images with masks and boxes, and what augmentation makes of them
    Preview(PreviewArguments),
    /// Write a data set in another format, and say what that format cannot hold
    Convert(ConvertArguments),
    /// Decide which images train, validate and test; added files never move others
    Split(SplitArguments),
    /// Make small synthetic scenes with exact masks, the same ones for the same seed
    Synth(SynthArguments),
}

/// How to read a data set; what is not given is found out.
#[derive(Debug, Args)]
#[command(next_help_heading = "How to read the data set")]
pub(crate) struct SourceArguments {
    /// coco, label_images, sa1b, yolo_seg or labelme
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
    /// Folder of the images when it is not beside the annotations
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,
    /// Only this part of a data set that comes split: train, val or test
    #[arg(long, value_name = "PART")]
    part: Option<String>,
    /// COCO: what crowd means: auto, ignore, instances or drop
    #[arg(long, value_name = "POLICY", default_value = "auto")]
    crowd: String,
    /// Label images: auto, instance, semantic or binary
    #[arg(long, value_name = "KIND", default_value = "auto")]
    labels: String,
    /// Label images: the id that does not count: auto, none or a number
    #[arg(long, value_name = "ID", default_value = "auto")]
    void: String,
    /// Images of more than 8 bits: as_is, percentile, min_max or {"window":{"level":L,"width":W}}
    #[arg(long, value_name = "RULE", default_value = "as_is")]
    intensity: String,
    /// Leave bad objects and images out and count them, instead of stopping
    #[arg(long)]
    drop_bad: bool,
}

impl SourceArguments {
    /// As the data crate takes them; the names are those of a config file.
    pub(crate) fn options(&self) -> anyhow::Result<SourceOptions> {
        let void = match self.void.parse::<u32>() {
            Ok(id) => Void::Id(id),
            Err(_) => named("--void", &self.void)?,
        };
        Ok(SourceOptions {
            format: self.format.as_deref().map(|format| named("--format", format)).transpose()?,
            images: self.images.clone(),
            split: self.part.clone(),
            crowd: named("--crowd", &self.crowd)?,
            labels: named("--labels", &self.labels)?,
            void,
            intensity: named("--intensity", &self.intensity)?,
            bad: if self.drop_bad { OnBad::Drop } else { OnBad::Refuse },
            ..SourceOptions::default()
        })
    }
}

/// A value by the name that it has in a config file.
fn named<T: DeserializeOwned>(option: &str, text: &str) -> anyhow::Result<T> {
    let value = serde_json::from_str(text)
        .ok()
        .filter(serde_json::Value::is_object)
        .unwrap_or_else(|| serde_json::Value::String(text.to_owned()));
    serde_json::from_value(value).map_err(|error| anyhow::anyhow!("{option} {text}: {error}"))
}

#[derive(Debug, Args)]
pub(crate) struct CheckArguments {
    /// Folder, COCO .json, YOLO data.yaml or SA-1B .tar
    #[arg(value_name = "PATH")]
    pub(crate) path: PathBuf,
    /// Also write the report for programs
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
    /// How many images, spread over the data set
    #[arg(long, default_value_t = 12)]
    pub(crate) count: usize,
    /// How many augmented views of each
    #[arg(long, default_value_t = 3)]
    pub(crate) views: usize,
    /// Side of a picture in pixels
    #[arg(long, default_value_t = 256)]
    pub(crate) cell: usize,
    /// Of the augmentation
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Replace sheets of an earlier call
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
}

impl From<ConvertFormat> for ConvertTo {
    fn from(format: ConvertFormat) -> Self {
        match format {
            ConvertFormat::Coco => ConvertTo::Coco,
            ConvertFormat::Sa1b => ConvertTo::Sa1b,
            ConvertFormat::Labels => ConvertTo::Labels,
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
    /// Share for validation
    #[arg(long, default_value_t = 0.1)]
    pub(crate) val: f64,
    /// Share for testing
    #[arg(long, default_value_t = 0.0)]
    pub(crate) test: f64,
    /// Another seed is another split
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Take the split that the data set comes with
    #[arg(long)]
    pub(crate) given: bool,
    /// Keep images together whose names agree in what this pattern captures, such as `patient-(\\d+)`
    #[arg(long, value_name = "PATTERN")]
    pub(crate) group_regex: Option<String>,
    /// Keep images together whose names agree up to this text, such as `_`
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
    /// What to write
    #[arg(long, default_value = "coco")]
    pub(crate) format: SynthFormat,
    /// Write the scenes of a configuration, those it learns from and those it validates on, as a run makes them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["seed", "first", "min_side", "max_side", "noise"])]
    pub(crate) config: Option<PathBuf>,
    /// Scenes to train on
    #[arg(long, default_value_t = 24)]
    pub(crate) train: usize,
    /// Scenes to validate on [default: 12, with --config all of them]
    #[arg(long)]
    pub(crate) val: Option<usize>,
    /// Scenes of different seeds have nothing in common
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Number of the first scene, to make more of a seed later
    #[arg(long, default_value_t = 0)]
    pub(crate) first: u64,
    /// Smallest height and width in pixels
    #[arg(long, default_value_t = 128)]
    pub(crate) min_side: usize,
    /// Largest height and width in pixels
    #[arg(long, default_value_t = 192)]
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

#[derive(Debug, Args)]
pub(crate) struct InspectArguments {
    /// Checkpoint (.safetensors or .pth) or Hugging Face folder
    #[arg(value_name = "FILE")]
    pub(crate) checkpoint: PathBuf,
    /// List every tensor with its type and shape
    #[arg(long)]
    pub(crate) tensors: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Checkpoint (.safetensors or .pth) or Hugging Face folder
    #[arg(long, value_name = "IN")]
    pub(crate) checkpoint: PathBuf,
    /// What to write
    #[arg(long)]
    pub(crate) format: FormatArgument,
    /// File to write; a folder for `huggingface`
    #[arg(long, value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Type of the written weights
    #[arg(long, default_value = "f32")]
    pub(crate) dtype: DtypeArgument,
    /// Leave the position tables of a model below 1024 px as they are (most other programs cannot load that)
    #[arg(long)]
    pub(crate) keep_image_size: bool,
    /// For an MAE checkpoint, which holds an encoder only: draw everything else from this seed
    #[arg(long, value_name = "SEED")]
    pub(crate) fresh_seed: Option<u64>,
    /// Replace OUT if it exists
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PredictArguments {
    /// Checkpoint (.safetensors or .pth) or Hugging Face folder
    #[arg(long, value_name = "IN")]
    pub(crate) checkpoint: PathBuf,
    /// Photograph to segment: JPEG, PNG, TIFF, BMP or WebP
    #[arg(long, value_name = "PHOTO")]
    pub(crate) image: PathBuf,
    /// A click in pixels of the image; add `,0` for "not this". May be given several times
    #[arg(long = "point", value_name = "X,Y[,0]", value_parser = parse_point, allow_hyphen_values = true)]
    pub(crate) points: Vec<([f32; 2], bool)>,
    /// A box in pixels of the image
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", value_parser = parse_box, allow_hyphen_values = true)]
    pub(crate) box_xyxy_px: Option<[f32; 4]>,
    /// Refine an earlier mask: a file that `--logits` wrote (of several masks the one with the best score is taken)
    #[arg(long, value_name = "F")]
    pub(crate) mask_input: Option<PathBuf>,
    /// Three masks for a prompt that may mean several things, instead of one
    #[arg(long)]
    pub(crate) multimask: bool,
    /// Folder for a PNG per mask and an overlay to look at
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Also write `low_res_logits`, `logits` and `iou_predictions` to this safetensors file
    #[arg(long, value_name = "FILE")]
    pub(crate) logits: Option<PathBuf>,
    /// Use this image embedding instead of running the encoder
    #[arg(long, value_name = "FILE")]
    pub(crate) embedding: Option<PathBuf>,
    /// Keep the image embedding for `--embedding`
    #[arg(long, value_name = "FILE", conflicts_with = "embedding")]
    pub(crate) save_embedding: Option<PathBuf>,
    /// Where to compute: cpu, cuda, cuda:N or vulkan
    #[arg(long, default_value = "cpu")]
    pub(crate) device: DeviceName,
    /// Replace the masks of an earlier call in DIR, and files that exist
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum FormatArgument {
    /// Official keys, for this program, candle and what is built on them
    Safetensors,
    /// Official keys, for `sam_model_registry[..](checkpoint=..)` in PyTorch
    Pth,
    /// A folder for `transformers.SamModel.from_pretrained`
    Huggingface,
}

impl From<FormatArgument> for ExportFormat {
    fn from(format: FormatArgument) -> Self {
        match format {
            FormatArgument::Safetensors => ExportFormat::Safetensors,
            FormatArgument::Pth => ExportFormat::Pth,
            FormatArgument::Huggingface => ExportFormat::HuggingFace,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DtypeArgument {
    F32,
    F16,
    Bf16,
}

impl From<DtypeArgument> for Dtype {
    fn from(dtype: DtypeArgument) -> Self {
        match dtype {
            DtypeArgument::F32 => Dtype::F32,
            DtypeArgument::F16 => Dtype::F16,
            DtypeArgument::Bf16 => Dtype::BF16,
        }
    }
}

fn parse_point(text: &str) -> Result<([f32; 2], bool), String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    let positive = match parts.get(2) {
        None | Some(&"1") => true,
        Some(&"0") => false,
        Some(_) => return Err("must be X,Y or X,Y,1 (on the object) or X,Y,0 (not on it)".into()),
    };
    match numbers(&parts[..parts.len().min(2)])?[..] {
        [x, y] if parts.len() <= 3 => Ok(([x, y], positive)),
        _ => Err("must be X,Y or X,Y,0".into()),
    }
}

fn parse_box(text: &str) -> Result<[f32; 4], String> {
    let parts: Vec<&str> = text.split(',').map(str::trim).collect();
    numbers(&parts)?.try_into().map_err(|_| "must be four numbers: X0,Y0,X1,Y1".into())
}

fn numbers(parts: &[&str]) -> Result<Vec<f32>, String> {
    parts.iter().map(|part| part.parse().map_err(|_| format!("`{part}` is not a number"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_and_boxes() {
        assert_eq!(parse_point("3,4.5"), Ok(([3.0, 4.5], true)));
        assert_eq!(parse_point("3, 4,0"), Ok(([3.0, 4.0], false)));
        for wrong in ["", "3", "3,x", "1,2,3", "1,2,0,0"] {
            assert!(parse_point(wrong).is_err(), "{wrong}");
        }
        assert_eq!(parse_box("1,2,3,4"), Ok([1.0, 2.0, 3.0, 4.0]));
        assert!(parse_box("1,2,3").is_err());
    }
}
