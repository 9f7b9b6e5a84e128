//! `[lora]`: low-rank adapters of a training. The keys are the fields of [`LoraOptions`].

use sam_learn::options::{KEYS, LoraOptions, MLP, PROJECTION, QUERIES, VALUES};

use super::model::ModelPlan;
use super::ranges::POSITIVE;
use super::reader::Reader;
use super::suggestion::nearest;

/// The parts of a model, which linear layers' keys begin with.
const PARTS: [&str; 2] = ["image_encoder", "mask_decoder"];

/// `None` without the section.
pub(super) fn read_lora(reader: &Reader<'_>, model: &ModelPlan) -> Option<LoraOptions> {
    let is_given = reader.top().is_given("lora");
    let lora = reader.top().section("lora");
    let default = LoraOptions::default();
    let rank = lora.integer("rank", default.rank, 1..);
    let alpha = lora.float_if_given("alpha", POSITIVE);
    lora.defaults_to("alpha", &rank.to_string());
    lora.defaults_to("targets", "[\"q\", \"v\"]");
    let options = LoraOptions {
        rank,
        // A factor of 1, whatever the rank.
        alpha: alpha.unwrap_or(rank as f64),
        dropout: lora.float("dropout", default.dropout, 0.0..1.0),
        targets: lora.texts_if_given("targets", cannot_adapt).unwrap_or(default.targets),
        base: String::new(),
    };
    if !is_given {
        reader.top().unused(&["lora"]);
        return None;
    }
    reader.check(!options.targets.is_empty(), &["lora.targets"], "a list of at least one target", "none");
    let has_base = matches!(model, ModelPlan::Checkpoint(_));
    let expected = "\"checkpoint\" with [lora]: adapters belong to a base model that others have";
    let other = match model {
        ModelPlan::Mae(_) => "\"mae\"",
        ModelPlan::TinyVit(_) => "\"tiny_vit\"",
        ModelPlan::Scratch(_) | ModelPlan::Checkpoint(_) => "\"scratch\"",
    };
    reader.check(has_base, &["model.init", "lora"], expected, other);
    Some(options)
}

/// Whether a pattern names a layer is checked with the model.
fn cannot_adapt(target: &str) -> Option<String> {
    let words = [QUERIES, KEYS, VALUES, PROJECTION, MLP];
    let first = target.split('.').next().unwrap_or_default();
    if words.contains(&target) || first.contains('*') || PARTS.contains(&first) {
        return None;
    }
    let meant = nearest(target, words.into_iter().chain(PARTS)).map(|word| format!(" (did you mean \"{word}\"?)"));
    Some(format!(
        "a list of \"q\", \"k\", \"v\", \"proj\", \"mlp\" or of patterns with `*` over keys of a checkpoint, such as \
         \"mask_decoder.transformer.*.q_proj\"{}",
        meant.unwrap_or_default()
    ))
}
