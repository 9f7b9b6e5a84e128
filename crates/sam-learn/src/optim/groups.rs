//! Parameter groups: weight decay, learning rates.
//!
//! Layer-wise decay is that of ViTDet (Li 2022, arXiv 2203.16527;
//! detectron2's `get_vit_lr_decay_rate`): patches and positions are layer 0, block `i` is layer `i + 1`, all other
//! parameters are the last layer.

use std::collections::BTreeMap;

use burn::lr_scheduler::module_lr_scheduler::ModuleLrScheduler;
use burn::module::{Module, ParamGroup, ParamId};
use burn::optim::ModuleOptimizer;
use sam_model::ops::InPlaceAdamW;

use super::parameters::{NamedParameter, parameters};
use super::schedule::GroupRate;
use crate::options::{OptimiserOptions, ScheduleOptions};

const BLOCKS: &str = "image_encoder.blocks.";

/// The optimiser and the learning rates of its groups, for the parameters as they are now (ids matter: load weights
/// before).
#[must_use]
pub fn optimiser_and_rates<M: Module>(
    model: &M,
    encoder_depth: usize,
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
        by_factor.entry(rate_factor(&parameter.key, encoder_depth, options).to_bits()).or_default().push(parameter.id);
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
    let is_position = key.ends_with("pos_embed") || key.ends_with("rel_pos_h") || key.ends_with("rel_pos_w");
    parameter.shape.len() > 1 && !is_position
}

fn rate_factor(key: &str, depth: usize, options: &OptimiserOptions) -> f64 {
    let parts = &options.part_lr;
    if !["image_encoder.", "prompt_encoder.", "mask_decoder."].iter().any(|part| key.starts_with(part)) {
        return 1.0; // A masked autoencoder has none of these parts.
    }
    let Some(encoder_key) = key.strip_prefix("image_encoder.") else {
        return if key.starts_with("prompt_encoder.") { parts.prompt_encoder } else { parts.mask_decoder };
    };
    let layer = match key.strip_prefix(BLOCKS).and_then(|rest| rest.split('.').next()?.parse::<usize>().ok()) {
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
            assert_eq!(rate_factor(key, 12, &options), expected, "{key}");
        }
    }
}
