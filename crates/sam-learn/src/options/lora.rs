//! Low-rank adapters of a training.

use serde::{Deserialize, Serialize};

/// Low-rank adapters (LoRA, Hu 2022, arXiv 2106.09685): the image encoder and the adapted layers are frozen, and small
/// products beside the adapted layers learn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraOptions {
    /// Rank of a pair of factors.
    pub rank: usize,
    /// Scaling numerator: an adapter counts `alpha / rank`.
    pub alpha: f64,
    /// Probability with which an input of an adapter is dropped in training.
    pub dropout: f64,
    /// Adapted layers: [`QUERIES`], [`KEYS`], [`VALUES`], [`PROJECTION`] and [`MLP`] of every encoder block; parts, or
    /// patterns with `*` over official keys, of linear layers.
    pub targets: Vec<String>,
    /// The base checkpoint, as the user named it; written into the adapter folder.
    #[serde(skip)]
    pub base: String,
}

/// The target of the queries of the encoder's attention.
pub const QUERIES: &str = "q";
/// The target of its keys.
pub const KEYS: &str = "k";
/// The target of its values.
pub const VALUES: &str = "v";
/// The target of its output projection.
pub const PROJECTION: &str = "proj";
/// The target of both layers of the encoder's MLPs.
pub const MLP: &str = "mlp";

impl Default for LoraOptions {
    /// Rank and alpha of PEFT; queries and values as in the paper of LoRA and in SAMed.
    fn default() -> Self {
        Self {
            rank: 8,
            alpha: 8.0,
            dropout: 0.0,
            targets: vec![QUERIES.to_owned(), VALUES.to_owned()],
            base: String::new(),
        }
    }
}
