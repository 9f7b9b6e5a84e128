//! CLIP (Radford 2021, arXiv 2103.00020): texts and images to vectors of one space, for text prompts. Inference only.
//!
//! [`ClipCheckpoint`] reads a published file or folder, [`ClipModel`] holds both towers, [`Tokenizer`] turns texts into the
//! numbers that the text tower takes. The towers are made of the blocks of SAM's encoder. Names are those of `openai/CLIP`.
//!
//! - `tower.rs`: both towers. Differs from the reference: a text is cut after its end token, which changes nothing, as no
//!   token sees a later one; of the image tower's last block only the class token's row is computed, and that token can be
//!   restricted to some patches (arXiv 2304.02643 §D.5).
//! - `config.rs`: the sizes; `recognise.rs`: the sizes from tensors and from the JSON files beside them.
//! - `keys.rs`: the layouts of files; `checkpoint.rs`: file to model.
//! - `tokenizer.rs`, `clean.rs`, `vocabulary.rs`: texts to tokens.

mod checkpoint;
mod clean;
mod config;
mod keys;
mod recognise;
#[cfg(test)]
mod tests;
mod tokenizer;
mod tower;
mod vocabulary;

pub use checkpoint::ClipCheckpoint;
pub use config::{ClipConfig, ImageTowerConfig, TextTowerConfig};
pub use keys::ClipLayout;
pub use tokenizer::{Tokenizer, TokenizerError};
pub use tower::{ClipModel, ImageTower, TextTower, Transformer};
