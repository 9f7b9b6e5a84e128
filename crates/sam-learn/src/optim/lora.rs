//! Which layers get low-rank adapters.

use std::collections::BTreeMap;

use sam_model::Sam;
use sam_model::lora::{AdaptedColumns, AdapterFile, AdapterShape, LinearLayer, attach, linear_layers};

use super::patterns::{is_matched, nearest};
use crate::error::LearnError;
use crate::options::{KEYS, LoraOptions, MLP, PROJECTION, QUERIES, VALUES};

/// Puts adapters beside the layers that `options` name, with the factors of `start` where a training continues. Everything
/// else still learns: see [`super::choose_learning`].
///
/// # Errors
///
/// When a target names no linear layer, two targets name one layer, or `start` has adapters of other layers or of another
/// shape.
pub fn adapt(sam: Sam, options: &LoraOptions, seed: u64, start: Option<&AdapterFile>) -> Result<Sam, LearnError> {
    let shapes = shapes(&linear_layers(&sam), options)?;
    let Some(file) = start else {
        return Ok(attach(sam, seed, &|name| shapes.get(name).copied(), &|_| None)?);
    };
    let differs = |layer: &str, has: &str| LearnError::OtherAdapters {
        path: file.path.clone(),
        layer: layer.to_owned(),
        has: has.to_owned(),
    };
    if let Some(layer) = shapes.keys().find(|name| !file.layers.contains_key(*name)) {
        return Err(differs(layer, "no adapter"));
    }
    if let Some(layer) = file.layers.keys().find(|name| !shapes.contains_key(*name)) {
        return Err(differs(layer, "an adapter"));
    }
    let sam = file.fill(sam)?;
    Ok(attach(sam, seed, &|name| shapes.get(name).copied(), &|name| file.layers.get(name).cloned())?)
}

/// The adapters by layer.
fn shapes(layers: &[LinearLayer], options: &LoraOptions) -> Result<BTreeMap<String, AdapterShape>, LearnError> {
    let mut columns: BTreeMap<String, AdaptedColumns> = BTreeMap::new();
    for target in &options.targets {
        let mut is_found = false;
        for layer in layers {
            let Some(added) = columns_of(&layer.name, target) else { continue };
            is_found = true;
            let both = match (columns.get(&layer.name), added) {
                (None, added) => Some(added),
                (Some(AdaptedColumns::Thirds(a)), AdaptedColumns::Thirds(b)) => {
                    Some(AdaptedColumns::Thirds([a[0] || b[0], a[1] || b[1], a[2] || b[2]]))
                }
                // Two patterns, or a pattern and queries, keys or values.
                (Some(AdaptedColumns::All), AdaptedColumns::All) => Some(AdaptedColumns::All),
                _ => None,
            };
            let both =
                both.ok_or_else(|| LearnError::AdaptedTwice { target: target.clone(), layer: layer.name.clone() })?;
            columns.insert(layer.name.clone(), both);
        }
        if !is_found {
            let example = nearest(target, layers.iter().map(|layer| layer.name.as_str()));
            return Err(LearnError::AdaptsNothing { target: target.clone(), example });
        }
    }
    let LoraOptions { rank, alpha, dropout, .. } = *options;
    // The decoder computes some products for all objects together, where an adapter has no input of its own to drop.
    if let (true, Some(layer)) = (dropout > 0.0, columns.keys().find(|name| !name.starts_with("image_encoder."))) {
        return Err(LearnError::DropoutOutsideEncoder { layer: layer.clone() });
    }
    let smallest = |layer: &LinearLayer| layer.inputs.min(layer.outputs);
    for layer in layers.iter().filter(|layer| columns.contains_key(&layer.name)) {
        if rank > smallest(layer) {
            return Err(LearnError::RankTooLarge { rank, layer: layer.name.clone(), largest: smallest(layer) });
        }
    }
    Ok(columns.into_iter().map(|(name, columns)| (name, AdapterShape { rank, alpha, dropout, columns })).collect())
}

/// What a target adapts of a layer.
fn columns_of(layer: &str, target: &str) -> Option<AdaptedColumns> {
    let of_vit = layer.strip_prefix("image_encoder.blocks.").and_then(|rest| Some(rest.split_once('.')?.1));
    // A TinyViT has queries, keys and values head by head, so they are no thirds of a layer.
    let in_block = of_vit.or_else(|| {
        let rest = layer.strip_prefix("image_encoder.layers.")?.split_once(".blocks.")?.1;
        Some(rest.split_once('.')?.1)
    });
    let of_attention = |thirds: [bool; 3]| (of_vit == Some("attn.qkv")).then_some(AdaptedColumns::Thirds(thirds));
    let whole = |is_target: bool| is_target.then_some(AdaptedColumns::All);
    match target {
        QUERIES => of_attention([true, false, false]),
        KEYS => of_attention([false, true, false]),
        VALUES => of_attention([false, false, true]),
        PROJECTION => whole(in_block == Some("attn.proj")),
        MLP => whole(in_block.is_some_and(|name| name.starts_with("mlp."))),
        pattern => whole(is_matched(layer, pattern) || is_matched(&format!("{layer}.weight"), pattern)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers() -> Vec<LinearLayer> {
        let names = [
            "image_encoder.blocks.0.attn.qkv",
            "image_encoder.blocks.0.attn.proj",
            "image_encoder.blocks.0.mlp.lin1",
            "mask_decoder.transformer.layers.0.self_attn.q_proj",
            "mask_decoder.transformer.layers.0.self_attn.k_proj",
        ];
        names.map(|name| LinearLayer { name: name.into(), inputs: 8, outputs: 24, is_adapted: false }).to_vec()
    }

    fn adapted(targets: &[&str]) -> Result<Vec<(String, AdaptedColumns)>, String> {
        let targets = targets.iter().map(|target| (*target).to_owned()).collect();
        let shapes = shapes(&layers(), &LoraOptions { targets, ..LoraOptions::default() });
        let shapes = shapes.map_err(|error| error.to_string())?;
        Ok(shapes.into_iter().map(|(name, shape)| (name, shape.columns)).collect())
    }

    #[test]
    fn targets_are_words_for_the_encoder_or_patterns_for_any_layer() {
        let qkv = "image_encoder.blocks.0.attn.qkv".to_owned();
        let thirds = AdaptedColumns::Thirds([true, false, true]);
        assert_eq!(adapted(&["q", "v"]), Ok(vec![(qkv.clone(), thirds)]));
        assert_eq!(adapted(&["image_encoder.blocks.*.attn.qkv"]), Ok(vec![(qkv, AdaptedColumns::All)]));
        let names = |targets: &[&str]| adapted(targets).map(|found| found.into_iter().map(|(name, _)| name).collect());
        let q_proj = "mask_decoder.transformer.layers.0.self_attn.q_proj".to_owned();
        assert_eq!(names(&["mask_decoder.transformer.*.q_proj"]), Ok(vec![q_proj.clone()]));
        assert_eq!(names(&["mask_decoder.transformer.*.q_proj.weight"]), Ok(vec![q_proj]));
        assert_eq!(names(&["proj", "mlp", "mask_decoder"]).map(|found: Vec<String>| found.len()), Ok(4));
    }

    #[test]
    fn slips_are_errors_that_name_what_was_meant() {
        let slip = adapted(&["mask_decoder.transformer.*.q_prj"]).expect_err("no such layer");
        assert!(slip.contains("q_prj") && slip.contains("self_attn.q_proj"), "{slip}");
        let twice = adapted(&["q", "image_encoder.blocks.*.attn.qkv"]).expect_err("both");
        assert!(twice.contains("twice") && twice.contains("image_encoder.blocks.0.attn.qkv"), "{twice}");
        let options = LoraOptions { rank: 9, ..LoraOptions::default() };
        assert!(shapes(&layers(), &options).expect_err("too large").to_string().contains("at most 8"));
    }
}
