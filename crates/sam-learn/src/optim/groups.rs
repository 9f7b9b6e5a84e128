//! Parameter groups: weight decay, learning rates.
//!
//! Layer-wise decay is that of ViTDet (Li 2022, arXiv 2203.16527;
//! detectron2's `get_vit_lr_decay_rate`): patches and positions are layer 0, block `i` is layer `i + 1`, all other
//! parameters are the last layer. The blocks of a TinyViT are counted through its layers, and what shrinks a map is of the block
//! before it, as in its authors' code (`set_layer_lr_decay`).

use std::collections::BTreeMap;

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::{Module, ParamGroup, ParamId};
use burn::optim::ModuleOptimizer;
use sam_model::ImageEncoderConfig;
use sam_model::ops::InPlaceAdamW;

use super::parameters::{NamedParameter, parameters};
use super::schedule::GroupRate;
use crate::options::{OptimiserOptions, ScheduleOptions};

const BLOCKS: &str = "blocks.";
const LAYERS: &str = "layers.";

/// How the blocks of an encoder are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncoderLayers {
    /// Of a plain ViT.
    Vit {
        /// Number of blocks.
        depth: usize,
    },
    /// Of a TinyViT.
    TinyVit {
        /// Blocks of each layer.
        depths: [usize; 4],
    },
}

impl EncoderLayers {
    /// Those of an encoder.
    #[must_use]
    pub fn of(encoder: &ImageEncoderConfig) -> Self {
        match encoder {
            ImageEncoderConfig::Vit(vit) => Self::Vit { depth: vit.depth },
            ImageEncoderConfig::TinyVit(tiny) => Self::TinyVit { depths: tiny.depths },
        }
    }

    fn depth(self) -> usize {
        match self {
            Self::Vit { depth } => depth,
            Self::TinyVit { depths } => depths.iter().sum(),
        }
    }

    /// The block that a parameter is of, or that it is counted with.
    fn block(self, encoder_key: &str) -> Option<usize> {
        match self {
            Self::Vit { .. } => encoder_key.strip_prefix(BLOCKS)?.split('.').next()?.parse().ok(),
            Self::TinyVit { depths } => {
                let (layer, rest) = encoder_key.strip_prefix(LAYERS)?.split_once('.')?;
                let layer: usize = layer.parse().ok()?;
                let before: usize = depths.get(..layer)?.iter().sum();
                match rest.strip_prefix(BLOCKS) {
                    Some(rest) => Some(before + rest.split('.').next()?.parse::<usize>().ok()?),
                    None => Some((before + depths.get(layer)?).saturating_sub(1)),
                }
            }
        }
    }
}

/// The optimiser and the learning rates of its groups, for the parameters as they are now (ids matter: load weights
/// before).
#[must_use]
pub fn optimiser_and_rates<M: Module>(
    model: &M,
    layers: EncoderLayers,
    options: &OptimiserOptions,
    schedule: &ScheduleOptions,
    first_step: u64,
) -> (ModuleOptimizer, ModuleLrScheduler) {
    let adamw = |weight_decay: f64| InPlaceAdamW::new(options.betas, options.eps, weight_decay);
    let rate = |factor: f64| GroupRate { schedule: schedule.clone(), rate: options.lr * factor, next_step: first_step };
    let mut undecayed: Vec<ParamId> = Vec::new();
    // Keyed by the bits of the factor, so that equal factors are one group and the order never changes.
    let mut by_factor: BTreeMap<u64, Vec<ParamId>> = BTreeMap::new();
    for parameter in parameters(model).iter().filter(|parameter| parameter.learns) {
        if !is_decayed(parameter) {
            undecayed.push(parameter.id);
        }
        by_factor.entry(rate_factor(&parameter.key, layers, options).to_bits()).or_default().push(parameter.id);
    }
    let optimiser = ModuleOptimizer::from(adamw(options.weight_decay)).with_group(
        ParamGroup::from_ids(undecayed),
        adamw(0.0),
        None,
    );
    let mut rates = ModuleLrScheduler::new(rate(1.0));
    for (bits, ids) in by_factor {
        rates = rates.with_group(ParamGroup::from_ids(ids), rate(f64::from_bits(bits)));
    }
    (optimiser, rates)
}

/// Norms and biases have one axis; position tables are named.
fn is_decayed(parameter: &NamedParameter) -> bool {
    let key = &parameter.key;
    let is_position = ["pos_embed", "rel_pos_h", "rel_pos_w", "attention_biases"].iter().any(|end| key.ends_with(end));
    parameter.shape.len() > 1 && !is_position
}

fn rate_factor(key: &str, layers: EncoderLayers, options: &OptimiserOptions) -> f64 {
    let depth = layers.depth();
    let parts = &options.part_lr;
    if !["image_encoder.", "prompt_encoder.", "mask_decoder."].iter().any(|part| key.starts_with(part)) {
        return 1.0; // A masked autoencoder has none of these parts.
    }
    let Some(encoder_key) = key.strip_prefix("image_encoder.") else {
        return if key.starts_with("prompt_encoder.") { parts.prompt_encoder } else { parts.mask_decoder };
    };
    let layer = match layers.block(encoder_key) {
        Some(block) => block + 1,
        None if encoder_key.starts_with("patch_embed") || encoder_key.starts_with("pos_embed") => 0,
        None => depth + 1,
    };
    parts.image_encoder * options.layer_decay.powi((depth + 1 - layer) as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_decay_from_the_top() {
        let options = OptimiserOptions { layer_decay: 0.5, ..OptimiserOptions::default() };
        for (key, expected) in [
            ("image_encoder.patch_embed.proj.weight", 0.5f64.powi(13)),
            ("image_encoder.pos_embed", 0.5f64.powi(13)),
            ("image_encoder.blocks.0.attn.qkv.weight", 0.5f64.powi(12)),
            ("image_encoder.blocks.11.attn.rel_pos_h", 0.5),
            ("image_encoder.neck.0.weight", 1.0),
            ("mask_decoder.iou_token.weight", 1.0),
            // An adapter learns with its block.
            ("image_encoder.blocks.11.attn.qkv.lora_A.weight", 0.5),
        ] {
            assert_eq!(rate_factor(key, EncoderLayers::Vit { depth: 12 }, &options), expected, "{key}");
        }
    }

    #[test]
    fn blocks_of_a_tiny_vit_are_counted_through_its_layers() {
        let options = OptimiserOptions { layer_decay: 0.5, ..OptimiserOptions::default() };
        let layers = EncoderLayers::TinyVit { depths: [2, 2, 6, 2] };
        for (key, expected) in [
            ("image_encoder.patch_embed.seq.0.c.weight", 13),
            ("image_encoder.layers.0.blocks.0.conv1.c.weight", 12),
            ("image_encoder.layers.0.blocks.1.conv1.bn.weight", 11),
            ("image_encoder.layers.0.downsample.conv1.c.weight", 11),
            ("image_encoder.layers.2.blocks.0.attn.attention_biases", 8),
            ("image_encoder.layers.2.downsample.conv3.bn.bias", 3),
            ("image_encoder.layers.3.blocks.1.mlp.fc2.weight", 1),
            ("image_encoder.neck.0.weight", 0),
        ] {
            assert_eq!(rate_factor(key, layers, &options), 0.5f64.powi(expected), "{key}");
        }
    }

    #[test]
    fn tables_of_positions_do_not_decay() {
        let parameter =
            |key: &str| NamedParameter { key: key.to_owned(), id: ParamId::new(), shape: vec![4, 49], learns: true };
        assert!(!is_decayed(&parameter("image_encoder.layers.1.blocks.0.attn.attention_biases")));
        assert!(is_decayed(&parameter("image_encoder.layers.1.blocks.0.attn.qkv.weight")));
    }
}
