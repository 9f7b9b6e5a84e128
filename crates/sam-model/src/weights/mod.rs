//! Checkpoints: what the world has, read strictly; what the world reads, written safely.
//!
//! - [`state_dict`]: a file of named tensors, whatever its container (safetensors, `.pth`, a Hugging Face folder).
//! - [`layout`]: one key table per published layout.
//! - [`parameters`]: a burn module as a list of tensors under official keys, and back.
//! - [`recognise`]: sizes of the model from the tensors.
//! - [`checkpoint`]: file to model. Each tensor of the file is used or named as dropped, each tensor of the model is
//!   filled or named as fresh; anything else is an error.
//! - [`atomic`], [`safetensors_writer`]: files that appear whole or not at all.
//! - [`autoencoder`]: files of a masked autoencoder, both ways.
//! - [`mod@export`]: model to file, atomically, read back and compared.
//! - [`position_tables`]: resizing position embeddings to another image size.

pub mod atomic;
pub mod autoencoder;
pub mod checkpoint;
pub mod error;
pub mod export;
#[cfg(test)]
mod fuzz;
pub mod huggingface;
pub mod layout;
pub mod parameters;
pub(crate) mod pickle;
pub(crate) mod pickle_machine;
pub mod position_tables;
pub mod pth;
pub(crate) mod pth_container;
#[cfg(test)]
mod pth_samples;
pub(crate) mod pth_writer;
pub mod recognise;
pub mod safetensors_writer;
pub mod state_dict;

pub use atomic::write_atomically;
pub use autoencoder::{MaeCheckpoint, MaeExportOptions, MaeParts, export_mae};
pub use checkpoint::{Checkpoint, LoadOptions, LoadReport};
pub use error::{Mismatch, WeightsError};
pub use export::{ExportFormat, ExportOptions, ExportReport, ImageSizePolicy, export};
pub use layout::Layout;
pub use parameters::ParameterPath;
pub use position_tables::ResizedTable;
pub use safetensors_writer::write_f32_tensors;
pub use state_dict::{Dtype, StateDict, TensorInfo};
