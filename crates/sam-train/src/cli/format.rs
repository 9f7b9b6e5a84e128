//! Formats of exported checkpoints, as they are typed on the command line and in configurations.

use clap::ValueEnum;
use sam_model::weights::ExportFormat;
use serde::{Deserialize, Serialize};

/// A format of exported checkpoints, also in `result.export`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum FormatArgument {
    /// Official keys, for this program, candle and programs based on them
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
