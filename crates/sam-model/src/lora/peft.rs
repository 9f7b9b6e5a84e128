//! The adapter folder of Hugging Face PEFT (<https://github.com/huggingface/peft>, read in 0.21.2), for
//! `transformers.SamModel`: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Tensors are `base_model.model.<layer>.lora_A.weight` `[r, in]` and `lora_B.weight` `[out, r]`; modules that were trained
//! whole (`modules_to_save`) keep their plain names. Adapters over the official package's names are read, too. Queries, keys
//! and values are one layer there: adapters of some of them are one of a larger rank, with zeros in `lora_B`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use burn::nn::Linear;
use serde_json::{Map, Value, json};

use super::adapter::LowRankAdapter;
use super::file::{AdapterFile, AdapterFormat, LayerFactors, io, matrix, problem, values_of};
use crate::decoder::DownsampledAttention;
use crate::encoder::{ImageEncoder, TinyVit, Vit};
use crate::ops::mlp::Mlp;
use crate::sam::Sam;
use crate::weights::{
    Layout, NamedTensor, StateDict, WeightsError, host_values, named_tensors, transpose, write_f32_tensors,
};

pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";
const OLD_WEIGHTS: &str = "adapter_model.bin";

/// Starts every key.
const PREFIX: &str = "base_model.model.";

/// In `adapter_config.json`, the class of the network that the names are of; absent for a `SamModel`.
const MAPPING: &str = "auto_mapping";
const CLASS: &str = "base_model_class";
const OFFICIAL_CLASS: &str = "Sam";

/// A second copy of the position frequencies, which the prompt encoder of `SamModel` has.
const SHARED: &str = "prompt_encoder.shared_embedding.positional_embedding";

/// Settings that make an adapter something else than `W + s B A`, with the value of plain LoRA.
const NOT_PLAIN: [&str; 12] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "lora_bias",
    "fan_in_fan_out",
    "layer_replication",
    "alora_invocation_tokens",
    "target_parameters",
    "trainable_token_indices",
];

/// Initialisations that change the base weights, so that the factors do not belong to the published ones.
const CHANGES_BASE: [&str; 5] = ["pissa", "olora", "corda", "loftq", "lora_ga"];

pub(super) fn read(folder: &Path) -> Result<AdapterFile, WeightsError> {
    let config = Config::read(&folder.join(CONFIG))?;
    let weights = [WEIGHTS, OLD_WEIGHTS].map(|name| folder.join(name)).into_iter().find(|path| path.is_file());
    let weights = weights.ok_or_else(|| problem(folder, format!("has {CONFIG}, but no {WEIGHTS}")))?;
    let dict = StateDict::open(&weights)?;
    let (mut layers, mut whole) = (BTreeMap::new(), BTreeMap::new());
    for (key, info) in &dict.tensors {
        // Names of older versions have the adapter's own name in them.
        let plain = key.strip_prefix(PREFIX).unwrap_or(key).replace(".default.weight", ".weight");
        if let Some(name) = plain.strip_suffix(".lora_A.weight") {
            let layer = official(&format!("{name}.weight"), config.is_official);
            let layer = layer.and_then(|key| Some(key.strip_suffix(".weight")?.to_owned()));
            let layer = layer.ok_or_else(|| unknown(&dict, key))?;
            layers.insert(layer, factors(&dict, key, name, &config)?);
        } else if !plain.ends_with(".lora_B.weight") {
            if plain.contains("lora_") {
                return Err(problem(
                    &weights,
                    format!("`{key}` is no factor of a linear layer; only plain LoRA is read"),
                ));
            }
            if plain == SHARED {
                continue;
            }
            let plain = plain.replace(".base_layer.", ".").replace(".modules_to_save.", ".");
            let official = official(&plain, config.is_official).ok_or_else(|| unknown(&dict, key))?;
            whole.insert(official, (info.shape.clone(), values_of(&dict, key)?));
        }
    }
    if layers.is_empty() {
        return Err(problem(&weights, "holds no lora_A; expected the factors of low-rank adapters".to_owned()));
    }
    Ok(AdapterFile { path: folder.to_owned(), format: AdapterFormat::Peft, base: config.base, layers, whole })
}

/// The official key of a tensor of either package; `is_official` where the folder says whose it is.
fn official(plain: &str, is_official: bool) -> Option<String> {
    if is_official || plain.starts_with("image_encoder.") {
        return Some(plain.to_owned());
    }
    let of_hugging_face = Layout::HuggingFace.key_to_official(plain);
    // The decoder's names are the official ones in part; those of the official package have no row.
    of_hugging_face.or_else(|| {
        let has_part = plain.starts_with("mask_decoder.") || plain.starts_with("prompt_encoder.");
        has_part.then(|| plain.to_owned())
    })
}

fn unknown(dict: &StateDict, key: &str) -> WeightsError {
    problem(&dict.path, format!("`{key}` is a layer of another model; expected the names of transformers.SamModel"))
}

fn factors(dict: &StateDict, key_a: &str, name: &str, config: &Config) -> Result<LayerFactors, WeightsError> {
    let key_b = key_a.replace(".lora_A.", ".lora_B.");
    let ((rank, inputs), (outputs, columns)) = (matrix(dict, key_a)?, matrix(dict, &key_b)?);
    if rank != columns {
        return Err(problem(&dict.path, format!("`{key_a}` has rank {rank}, `{key_b}` has {columns}")));
    }
    let alpha = config.alpha_of(name);
    let scale = if config.uses_rslora { alpha / (rank as f64).sqrt() } else { alpha / rank as f64 };
    Ok(LayerFactors { a: values_of(dict, key_a)?, b: values_of(dict, &key_b)?, rank, inputs, outputs, scale })
}

/// What is read of `adapter_config.json`.
struct Config {
    base: Option<String>,
    alpha: f64,
    alphas: Vec<(String, f64)>,
    uses_rslora: bool,
    /// Whether the names are those of the official package, and not of transformers.
    is_official: bool,
}

impl Config {
    fn read(path: &Path) -> Result<Self, WeightsError> {
        let text = sam_files::read_text(path, sam_files::MAX_TEXT_BYTES).map_err(|source| io(path, source))?;
        let value: Value =
            serde_json::from_str(&text).map_err(|error| problem(path, format!("it is damaged: {error}")))?;
        let kind = value["peft_type"].as_str().unwrap_or("of no type");
        if kind != "LORA" {
            return Err(problem(
                path,
                format!("only adapters of peft_type \"LORA\" are supported, this one is {kind}"),
            ));
        }
        let is_on = |value: &Value| match value {
            Value::Null | Value::Bool(false) => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => !map.is_empty(),
            _ => true,
        };
        if let Some(name) = NOT_PLAIN.iter().find(|name| is_on(&value[**name])) {
            let set = &value[*name];
            return Err(problem(path, format!("{name} = {set} is not plain LoRA, which is all that is supported")));
        }
        let init = value["init_lora_weights"].as_str().unwrap_or_default();
        if CHANGES_BASE.iter().any(|name| init.starts_with(name)) {
            let what = format!(
                "init_lora_weights = \"{init}\" changes the base weights; convert it to plain LoRA with \
                 save_pretrained(.., path_initial_model_for_weight_conversion=..)"
            );
            return Err(problem(path, what));
        }
        let rank = value["r"].as_f64().unwrap_or(8.0);
        let alphas = value["alpha_pattern"].as_object();
        let alphas = alphas.into_iter().flatten().filter_map(|(name, alpha)| Some((name.clone(), alpha.as_f64()?)));
        Ok(Self {
            base: value["base_model_name_or_path"].as_str().filter(|base| !base.is_empty()).map(str::to_owned),
            alpha: value["lora_alpha"].as_f64().unwrap_or(rank),
            alphas: alphas.collect(),
            uses_rslora: is_on(&value["use_rslora"]),
            is_official: value[MAPPING][CLASS] == OFFICIAL_CLASS,
        })
    }

    /// PEFT's patterns match the end of a name, from a dot on.
    fn alpha_of(&self, name: &str) -> f64 {
        let matches = |pattern: &str| {
            let pattern = pattern.strip_prefix('^').unwrap_or(pattern).trim_end_matches('$').replace("\\.", ".");
            name == pattern || name.strip_suffix(&pattern).is_some_and(|rest| rest.ends_with('.'))
        };
        self.alphas.iter().find(|(pattern, _)| matches(pattern)).map_or(self.alpha, |(_, alpha)| *alpha)
    }
}

/// What a folder says beside the tensors.
#[derive(Clone, Debug)]
pub struct PeftFolder<'a> {
    /// The checkpoint that the adapters belong to, as its user named it.
    pub base: &'a str,
    /// Probability of dropping an input, for a training that continues.
    pub dropout: f64,
    /// Official keys of the tensors that were trained whole.
    pub whole: &'a BTreeSet<String>,
}

/// Writes the adapters of a network, and the modules that were trained whole, as a folder of PEFT; existing files are
/// replaced one by one, the weights last.
///
/// # Errors
///
/// When the folder cannot be written, or the network has no adapters or no names in `transformers.SamModel`.
pub fn write_peft(sam: &Sam, content: &PeftFolder<'_>, folder: &Path) -> Result<(), WeightsError> {
    let adapters = adapters_of(sam);
    let no_names = || WeightsError::Unsupported("the network has no names in transformers.SamModel".to_owned());
    // transformers has no TinyViT; MobileSAM's own package has the official names.
    let layout = if sam.image_encoder.vit().is_some() { Layout::HuggingFace } else { Layout::Official };
    let theirs = |key: &str| layout.key_from_official(key).ok_or_else(no_names);
    let mut layers = BTreeMap::new();
    for (name, factors) in &adapters {
        let key = theirs(&format!("{name}.weight"))?;
        layers.insert(key.strip_suffix(".weight").unwrap_or(&key).to_owned(), factors);
    }
    if layers.is_empty() {
        return Err(WeightsError::Unsupported("the network has no adapters".to_owned()));
    }
    let mut tensors: BTreeMap<String, NamedTensor> = BTreeMap::new();
    for tensor in named_tensors(sam).into_iter().filter(|tensor| !tensor.key.contains(".lora_")) {
        tensors.insert(theirs(&tensor.key)?, tensor);
    }
    let whole: BTreeSet<String> = content.whole.iter().map(|key| theirs(key)).collect::<Result<_, _>>()?;
    let modules = modules_to_save(&tensors, &whole, &layers);

    std::fs::create_dir_all(folder).map_err(|source| io(folder, source))?;
    let mut config = config_json(content, &layers, &modules);
    if layout == Layout::Official {
        config[MAPPING] = json!({ CLASS: OFFICIAL_CLASS, "parent_library": "mobile_sam.modeling.sam" });
    }
    let path = folder.join(CONFIG);
    sam_files::write_atomically(&path, format!("{config:#}\n")).map_err(|source| io(&path, source))?;
    let mut written: Vec<(String, Vec<usize>, Vec<f32>)> = Vec::new();
    for (name, factors) in &layers {
        let LayerFactors { a, b, rank, inputs, outputs, .. } = factors;
        written.push((format!("{PREFIX}{name}.lora_A.weight"), vec![*rank, *inputs], a.clone()));
        written.push((format!("{PREFIX}{name}.lora_B.weight"), vec![*outputs, *rank], b.clone()));
    }
    for (key, tensor) in &tensors {
        if modules.iter().any(|module| is_within(key, module)) {
            written.push((format!("{PREFIX}{key}"), tensor.shape.clone(), tensor.values()));
        }
    }
    if let (true, Some(frequencies)) =
        (modules.contains("prompt_encoder"), tensors.get("shared_image_embedding.positional_embedding"))
    {
        written.push((format!("{PREFIX}{SHARED}"), frequencies.shape.clone(), frequencies.values()));
    }
    if let Some((key, ..)) = written.iter().find(|(.., values)| values.iter().any(|value| !value.is_finite())) {
        return Err(problem(folder, format!("`{key}` is not finite; the training has diverged")));
    }
    let listed: Vec<(&str, &[usize], &[f32])> =
        written.iter().map(|(key, shape, values)| (key.as_str(), shape.as_slice(), values.as_slice())).collect();
    let path = folder.join(WEIGHTS);
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let failed = |source| io(&path, source);
    sam_files::write_atomically_with(&path, failed, |temporary| {
        write_f32_tensors(temporary, &listed, metadata).map_err(failed)
    })?;
    Ok(())
}

fn config_json(
    content: &PeftFolder<'_>,
    layers: &BTreeMap<String, &LayerFactors>,
    modules: &BTreeSet<String>,
) -> Value {
    let alpha = |factors: &LayerFactors| factors.scale * factors.rank as f64;
    let first = layers.values().next().map_or((8, 8.0), |factors| (factors.rank, alpha(factors)));
    let mut ranks = Map::new();
    let mut alphas = Map::new();
    for (name, factors) in layers {
        if factors.rank != first.0 {
            ranks.insert(name.clone(), json!(factors.rank));
        }
        if alpha(factors) != first.1 {
            alphas.insert(name.clone(), number(alpha(factors)));
        }
    }
    json!({
        "peft_type": "LORA",
        "base_model_name_or_path": content.base,
        "task_type": null,
        "inference_mode": true,
        "r": first.0,
        "lora_alpha": number(first.1),
        "lora_dropout": content.dropout,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "target_modules": layers.keys().collect::<Vec<_>>(),
        "modules_to_save": if modules.is_empty() { Value::Null } else { json!(modules) },
        "bias": "none",
        "init_lora_weights": true,
        "use_rslora": false,
        "use_dora": false,
        "lora_bias": false,
        "fan_in_fan_out": false,
        "layer_replication": null,
    })
}

/// PEFT declares alpha a whole number; others are accepted.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 { json!(value as i64) } else { json!(value) }
}

/// The largest modules that hold a tensor trained whole and no adapter. Lists of modules cannot be saved, only their parts.
fn modules_to_save(
    tensors: &BTreeMap<String, NamedTensor>,
    whole: &BTreeSet<String>,
    layers: &BTreeMap<String, &LayerFactors>,
) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for key in whole {
        let parts: Vec<&str> = key.split('.').collect();
        let found = (1..parts.len()).map(|n| parts[..n].join(".")).find(|module| {
            let is_list = tensors.keys().any(|key| {
                let rest = key.strip_prefix(module.as_str()).and_then(|rest| rest.strip_prefix('.'));
                rest.and_then(|rest| rest.split('.').next()).is_some_and(|part| part.parse::<usize>().is_ok())
            });
            !is_list && !layers.keys().any(|layer| is_within(layer, module))
        });
        modules.extend(found);
    }
    modules
}

fn is_within(key: &str, module: &str) -> bool {
    key.strip_prefix(module).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The factors of all adapters, by official key without `.weight`.
fn adapters_of(sam: &Sam) -> BTreeMap<String, LayerFactors> {
    let adapted = linears(sam).into_iter().filter_map(|(name, layer)| {
        let adapter = layer.weight.reparameterization::<LowRankAdapter>()?;
        let [inputs, rank] = adapter.lora_a.dims();
        let up = adapter.up();
        let [_, outputs] = up.dims();
        let a = transpose(&host_values(&adapter.lora_a.val()), inputs, rank);
        let b = transpose(&host_values(&up), rank, outputs);
        Some((name, LayerFactors { a, b, rank, inputs, outputs, scale: adapter.scale() }))
    });
    adapted.collect()
}

/// All linear layers of a segmenter with their official keys, without `.weight`.
fn linears(sam: &Sam) -> Vec<(String, &Linear)> {
    let mut found: Vec<(String, &Linear)> = Vec::new();
    match &sam.image_encoder {
        ImageEncoder::Vit(vit) => found.extend(of_vit(vit)),
        ImageEncoder::TinyVit(tiny) => found.extend(of_tiny_vit(tiny)),
    }
    let decoder = &sam.mask_decoder;
    for (index, block) in decoder.transformer.layers.iter().enumerate() {
        let name = |part: &str| format!("mask_decoder.transformer.layers.{index}.{part}");
        found.extend(of_attention(&name("self_attn"), &block.self_attn));
        found.extend(of_attention(&name("cross_attn_token_to_image"), &block.cross_attn_token_to_image));
        found.extend([(name("mlp.lin1"), &block.mlp.lin1), (name("mlp.lin2"), &block.mlp.lin2)]);
        found.extend(of_attention(&name("cross_attn_image_to_token"), &block.cross_attn_image_to_token));
    }
    let last = &decoder.transformer.final_attn_token_to_image;
    found.extend(of_attention("mask_decoder.transformer.final_attn_token_to_image", last));
    for (index, head) in decoder.output_hypernetworks_mlps.iter().enumerate() {
        found.extend(of_head(&format!("mask_decoder.output_hypernetworks_mlps.{index}"), head));
    }
    found.extend(of_head("mask_decoder.iou_prediction_head", &decoder.iou_prediction_head));
    found
}

fn of_vit(vit: &Vit) -> impl Iterator<Item = (String, &Linear)> {
    vit.blocks.iter().enumerate().flat_map(|(index, block)| {
        let layers = [
            ("attn.qkv", &block.attn.qkv),
            ("attn.proj", &block.attn.proj),
            ("mlp.lin1", &block.mlp.lin1),
            ("mlp.lin2", &block.mlp.lin2),
        ];
        layers.map(|(name, layer)| (format!("image_encoder.blocks.{index}.{name}"), layer))
    })
}

fn of_tiny_vit(tiny: &TinyVit) -> impl Iterator<Item = (String, &Linear)> {
    // The layer of convolutions is the first.
    let blocks = tiny.window_layers.iter().enumerate().flat_map(|(at, layer)| {
        layer.blocks.iter().enumerate().map(move |(index, block)| (format!("{}.blocks.{index}", at + 1), block))
    });
    blocks.flat_map(|(place, block)| {
        let layers = [
            ("attn.qkv", &block.attn.qkv),
            ("attn.proj", &block.attn.proj),
            ("mlp.fc1", &block.mlp.fc1),
            ("mlp.fc2", &block.mlp.fc2),
        ];
        layers.map(|(name, layer)| (format!("image_encoder.layers.{place}.{name}"), layer))
    })
}

fn of_attention<'a>(name: &str, attention: &'a DownsampledAttention) -> [(String, &'a Linear); 4] {
    [
        ("q_proj", &attention.q_proj),
        ("k_proj", &attention.k_proj),
        ("v_proj", &attention.v_proj),
        ("out_proj", &attention.out_proj),
    ]
    .map(|(part, layer)| (format!("{name}.{part}"), layer))
}

fn of_head<'a>(name: &str, head: &'a Mlp) -> Vec<(String, &'a Linear)> {
    head.layers.iter().enumerate().map(|(index, layer)| (format!("{name}.layers.{index}"), layer)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lora::linear_layers;
    use crate::{SamConfig, Variant};
    use burn::tensor::Device;

    /// A layer that the list forgets would be missing from every folder.
    #[test]
    fn all_linear_layers_are_listed() {
        for variant in [Variant::VitB, Variant::Mobile] {
            let sam = SamConfig::published(variant).init(&Device::flex()).expect("sizes fit");
            let mut listed: Vec<String> = linears(&sam).into_iter().map(|(name, _)| name).collect();
            let mut found: Vec<String> = linear_layers(&sam).into_iter().map(|layer| layer.name).collect();
            listed.sort();
            found.sort();
            assert_eq!(listed, found);
        }
    }

    #[test]
    fn patterns_of_alpha_match_the_end_of_a_name() {
        let alphas = vec![("attn.qkv".to_owned(), 3.0), ("^mask_decoder\\.x$".to_owned(), 5.0)];
        let config = Config { base: None, alpha: 8.0, alphas, uses_rslora: false, is_official: false };
        let alphas = ["vision_encoder.layers.0.attn.qkv", "qkv", "attn.qkv", "xattn.qkv", "mask_decoder.x"];
        assert_eq!(alphas.map(|name| config.alpha_of(name)), [3.0, 8.0, 3.0, 8.0, 5.0]);
    }
}
