//! Checkpoints: what the world has, read strictly; what the world reads, written safely.
//!
//! - `state_dict.rs`: a file of named tensors, whatever its container (safetensors, `pth/`, a Hugging Face folder,
//!   `shards.rs`); `prefixes.rs`: what training programs put in front of the names.
//! - `layout.rs`: one key table per published layout.
//! - `parameters.rs`: a burn module as a list of tensors under official keys, and back.
//! - `recognise.rs`: sizes of the model from the tensors.
//! - `checkpoint.rs`: file to model. Each tensor of the file is used or named as dropped, each tensor of the model is
//!   filled or named as fresh; anything else is an error.
//! - `export.rs`, `safetensors_writer.rs`, `pth/writer.rs`: model to file, atomically, read back and compared.
//! - `autoencoder.rs`: files of a masked autoencoder, both ways.
//! - `text.rs`: the text prompt beside a checkpoint, or merged into it.
//! - `position_tables.rs`: resizing position embeddings to another image size.

mod autoencoder;
mod checkpoint;
mod error;
mod export;
mod huggingface;
mod layout;
mod parameters;
mod position_tables;
mod prefixes;
mod pth;
mod recognise;
mod recognise_tiny_vit;
mod safetensors_writer;
mod shards;
mod state_dict;
mod text;

pub(crate) use checkpoint::{describe, explain_in, finite, require_fit, surroundings};
pub(crate) use error::nearest_key;
pub(crate) use huggingface::json_beside;
pub(crate) use layout::{Row, UnknownKeys, of_another, rewrite};
pub(crate) use parameters::{official_key, transpose};
pub(crate) use recognise::Shapes;

pub use autoencoder::{MaeCheckpoint, MaeExportOptions, MaeParts, describe_autoencoder, export_mae};
pub use checkpoint::{CONFIG_METADATA, Checkpoint, LoadOptions, LoadReport};
pub use error::{Mismatch, WeightsError};
pub use export::{
    ExportFormat, ExportOptions, ExportReport, ImageSizePolicy, PUBLISHED_IMAGE_SIZE, TextExport, check_export, export,
    published_form,
};
pub use layout::Layout;
pub use parameters::{
    NamedTensor, ParameterPath, fill_parameters, fingerprint, host_values, named_tensors, parameter_shapes,
};
pub use position_tables::{ResizedTable, resize_absolute, resize_relative};
pub use pth::PthError;
pub use recognise::{Hints, Unrecognised, recognise_sam};
pub use safetensors_writer::write_f32_tensors;
pub use state_dict::{Container, Dtype, StateDict, TensorInfo};
pub use text::{TextPromptFile, text_prompt_beside};
