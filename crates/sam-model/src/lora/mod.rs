//! Low-rank adapters (LoRA, Hu 2022, arXiv 2106.09685): a frozen linear layer learns a small product beside its weight,
//! `W' = W + (alpha / rank) B A`.
//!
//! - `adapter.rs`: the adapter of one layer, as burn knows it (a reparameterisation of the weight), and attaching adapters.
//! - `file.rs`: adapters on disk, whatever wrote them: layers by official key, and tensors that were trained whole.
//! - `peft.rs`: the folder of Hugging Face PEFT, both ways. `samed.rs`: the `.pth` of SAMed, read.

mod adapter;
mod file;
mod peft;
mod samed;

pub use adapter::{AdaptedColumns, AdapterShape, LinearLayer, LowRankAdapter, attach, has_adapters, linear_layers};
pub use file::{AdapterFile, AdapterFormat, LayerFactors};
pub use peft::{PeftFolder, write_peft};
