//! The arguments of `sam-train export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum, value_parser};
use sam_model::weights::{Dtype, ExportFormat};
use sam_onnx::{Opset, PROTOBUF_LIMIT, WeightType};

use super::name;

#[derive(Debug, Args)]
pub(crate) struct ExportArguments {
    /// Checkpoint (.safetensors or .pth), Hugging Face folder, or folder of a run (its best checkpoint)
    #[arg(long, value_name = "IN")]
    pub(crate) checkpoint: PathBuf,
    /// Adapters to merge into it: a PEFT folder, the folder of a run with `lora`, or a .pth of SAMed
    #[arg(long, value_name = "FOLDER")]
    pub(crate) adapter: Option<PathBuf>,
    /// Format to write
    #[arg(long)]
    pub(crate) format: WrittenFormat,
    /// File to write; a folder for `huggingface` and `onnx`
    #[arg(long, value_name = "OUT")]
    pub(crate) out: PathBuf,
    /// Data type of the written weights [default: f32]; not for `onnx`, which has --weights
    #[arg(long)]
    pub(crate) dtype: Option<DtypeArgument>,
    /// Do not resize the position tables of a model below 1024 px (most other programs cannot load these); `onnx` resizes them
    /// for --annotator only
    #[arg(long)]
    pub(crate) keep_image_size: bool,
    /// Write the text prompt of a model that has one into OUT, too, instead of into a file beside it (safetensors only; other
    /// programs refuse such a file)
    #[arg(long)]
    pub(crate) merge_text: bool,
    /// For an MAE checkpoint, which has only an encoder: random seed of all other weights
    #[arg(long, value_name = "SEED")]
    pub(crate) fresh_seed: Option<u64>,
    /// Replace OUT if it exists
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) onnx: OnnxArguments,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "With --format onnx")]
pub(crate) struct OnnxArguments {
    /// Also write what this annotation program needs beside the graphs, and set the options that it needs; see README
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) annotator: Option<AnnotatorArgument>,
    /// The encoder takes pixels (height x width x 3, RGB from 0 to 255, longest side resized to that of the model) instead of a
    /// normalised and padded image
    #[arg(long)]
    pub(crate) preprocess: bool,
    /// The decoder gives the one mask for the prompt, instead of all four
    #[arg(long)]
    pub(crate) single_mask: bool,
    /// The decoder gives that mask cut out as bytes, with its corners, as the page of CVAT reads it
    #[arg(long)]
    pub(crate) cvat: bool,
    /// Number type of the written weights [default: f32]; the graphs compute in f32
    #[arg(long, value_name = "TYPE")]
    pub(crate) weights: Option<WeightsArgument>,
    /// Version of the operators, 13 to 21 [default: 17]
    #[arg(long, value_name = "N", value_parser = value_parser!(i64).range(Opset::OLDEST..=Opset::NEWEST))]
    pub(crate) opset: Option<i64>,
    /// Put the weights of a larger graph into a second file; for tests
    #[arg(long, value_name = "BYTES", hide = true, value_parser = value_parser!(u64).range(..=PROTOBUF_LIMIT))]
    pub(crate) external_above: Option<u64>,
}

impl OnnxArguments {
    /// The first option that is given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        [
            (self.annotator.is_some(), "--annotator"),
            (self.preprocess, "--preprocess"),
            (self.single_mask, "--single-mask"),
            (self.cvat, "--cvat"),
            (self.weights.is_some(), "--weights"),
            (self.opset.is_some(), "--opset"),
            (self.external_above.is_some(), "--external-above"),
        ]
        .into_iter()
        .find_map(|(is_given, option)| is_given.then_some(option))
    }
}

/// A format of `export --format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WrittenFormat {
    /// Official keys, for this program, candle and programs based on them
    Safetensors,
    /// Official keys, for `sam_model_registry[..](checkpoint=..)` in PyTorch
    Pth,
    /// A folder for `transformers.SamModel.from_pretrained`
    Huggingface,
    /// A folder with encoder.onnx and decoder.onnx, for ONNX Runtime and programs based on it
    Onnx,
}

impl WrittenFormat {
    /// The format of a checkpoint; `None` for graphs.
    pub(crate) fn of_checkpoint(self) -> Option<ExportFormat> {
        match self {
            Self::Safetensors => Some(ExportFormat::Safetensors),
            Self::Pth => Some(ExportFormat::Pth),
            Self::Huggingface => Some(ExportFormat::HuggingFace),
            Self::Onnx => None,
        }
    }

    /// As it is typed.
    pub(crate) fn name(self) -> String {
        name(self)
    }
}

/// An annotation program that runs the graphs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnnotatorArgument {
    /// config.yaml for X-AnyLabeling and AnyLabeling; sets --preprocess and --single-mask
    XAnylabeling,
    /// A nuclio function for CVAT: function.yaml, main.py, model_handler.py; sets --cvat
    Cvat,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightsArgument {
    F32,
    /// Half the size
    F16,
    /// A quarter of the size: matrices as 8 bits with one scale per output channel, position tables as f16
    Int8,
}

impl From<WeightsArgument> for WeightType {
    fn from(weights: WeightsArgument) -> Self {
        match weights {
            WeightsArgument::F32 => WeightType::F32,
            WeightsArgument::F16 => WeightType::F16,
            WeightsArgument::Int8 => WeightType::Int8,
        }
    }
}
