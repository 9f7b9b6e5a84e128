//! The schema says what the reader does: every key has its sentence, every configuration of this repository fits, and what the
//! reader rejects does not.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use toml::de::DeTable;

use super::*;
use crate::config::schema::{AllKeys, join, json_of_toml, schema};
use crate::config::sentences::{keys, sentence};

/// The first error of a value by the keywords that the schema has; any other keyword is an error of this test.
fn error_of(schema: &Value, value: &Value, path: &str, root: &Value) -> Option<String> {
    let Value::Object(keywords) = schema else {
        return (schema == &Value::Bool(false)).then(|| format!("{path}: not allowed"));
    };
    let fits = |schema: &Value| error_of(schema, value, path, root).is_none();
    let number = value.as_f64();
    let wrong = |text: String| Some(format!("{path}: {text}, got {value}"));
    for (keyword, argument) in keywords {
        let bound = argument.as_f64().unwrap_or_default();
        let schemas = || argument.as_array().into_iter().flatten();
        let error = match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "default" | "then" | "additionalProperties" => None,
            "type" => {
                let is_of = |name: &Value| match (name.as_str().expect("a type"), value) {
                    ("integer", Value::Number(_)) => number.is_some_and(|number| number.fract() == 0.0),
                    ("object", Value::Object(_)) | ("array", Value::Array(_)) | ("string", Value::String(_)) => true,
                    ("boolean", Value::Bool(_)) | ("number", Value::Number(_)) => true,
                    _ => false,
                };
                let is_type = if argument.is_array() { schemas().any(is_of) } else { is_of(argument) };
                (!is_type).then(|| wrong(format!("must be of type {argument}"))).flatten()
            }
            "$ref" => {
                let name = argument.as_str().and_then(|at| at.strip_prefix("#/$defs/")).expect("a definition");
                error_of(&root["$defs"][name], value, path, root)
            }
            "minimum" => number.filter(|&number| number < bound).and_then(|_| wrong(format!("at least {bound}"))),
            "maximum" => number.filter(|&number| number > bound).and_then(|_| wrong(format!("at most {bound}"))),
            "exclusiveMinimum" => {
                number.filter(|&number| number <= bound).and_then(|_| wrong(format!("above {bound}")))
            }
            "exclusiveMaximum" => {
                number.filter(|&number| number >= bound).and_then(|_| wrong(format!("below {bound}")))
            }
            "enum" => (!schemas().any(|word| word == value)).then(|| wrong(format!("one of {argument}"))).flatten(),
            "const" => (argument != value).then(|| wrong(format!("equal to {argument}"))).flatten(),
            "anyOf" => (!schemas().any(fits)).then(|| wrong(format!("any of {argument}"))).flatten(),
            "allOf" => schemas().find_map(|schema| error_of(schema, value, path, root)),
            "if" => fits(argument).then(|| error_of(&keywords["then"], value, path, root)).flatten(),
            "required" => schemas()
                .find(|key| value.is_object() && value.get(key.as_str().expect("a key")).is_none())
                .and_then(|key| wrong(format!("must have {key}"))),
            "properties" => value.as_object().into_iter().flatten().find_map(|(key, value)| {
                let path = join(path, key);
                match (argument.get(key), keywords.get("additionalProperties")) {
                    (Some(schema), _) | (None, Some(schema)) => error_of(schema, value, &path, root),
                    (None, None) => None,
                }
            }),
            "items" => value.as_array().into_iter().flatten().find_map(|value| error_of(argument, value, path, root)),
            "minItems" => {
                value.as_array().filter(|list| (list.len() as f64) < bound).and_then(|_| wrong("too short".into()))
            }
            "maxItems" => {
                value.as_array().filter(|list| list.len() as f64 > bound).and_then(|_| wrong("too long".into()))
            }
            other => panic!("{path}: this test does not know the keyword {other}"),
        };
        if error.is_some() {
            return error;
        }
    }
    None
}

fn check(schema: &Value, toml: &str) -> Option<String> {
    let table = DeTable::parse(toml).expect("valid TOML");
    let value = json_of_toml(&toml::de::DeValue::Table(table.into_inner())).expect("JSON");
    error_of(schema, &value, "", schema)
}

#[test]
fn every_key_has_a_sentence_and_every_sentence_a_key() {
    let all = AllKeys::record();
    let mut missing = Vec::new();
    let mut paths = BTreeSet::new();
    for (section, keys) in &all.sections {
        for (key, recordings) in keys {
            let path = join(section, key);
            match sentence(&path) {
                None => missing.push(path.clone()),
                Some(found) => {
                    assert!(found.about.ends_with('.'), "{path}: whole sentences: {}", found.about);
                    let is_said = !recordings.is_derived || !found.default.is_empty();
                    assert!(is_said, "{path}: its default follows from other keys; say it in sentences.toml");
                }
            }
            assert!(!recordings.shapes().is_empty(), "{path} has no values");
            paths.insert(path);
        }
    }
    assert!(missing.is_empty(), "add a line to config/sentences.toml for each of these keys: {}", missing.join(", "));
    let left_over: Vec<&str> = keys().filter(|key| !paths.contains(*key)).collect();
    assert!(left_over.is_empty(), "no task reads these keys: {}", left_over.join(", "));
    assert!(paths.len() > 200, "only {} keys", paths.len());
}

#[test]
fn the_configurations_of_this_repository_fit() {
    let schema = schema();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let mut n_read = 0;
    for entry in std::fs::read_dir(folder).expect("configs").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a text");
        assert_eq!(check(&schema, &text), None, "{}", path.display());
        n_read += 1;
    }
    assert!(n_read > 8, "only {n_read} configurations");
    assert_eq!(check(&schema, LEAST), None);
    for num_heads in ["4", "[4, 5, 10]"] {
        assert_eq!(
            check(&schema, &format!("model.init = \"scratch\"\n[model.sizes]\nnum_heads = {num_heads}\n")),
            None
        );
    }
    let all = "task = \"evaluate\"\n[gate]\nmiou_1 = 0.5\nbaseline = \"a\"\nmax_drop = 0.01\n[[data]]\npath = \"a\"\nvoid = { id = 7 }\n\
               [[data]]\npath = \"b\"\nintensity = { window = { level = -40, width = 400 } }\n[model]\ncheckpoint = [\"a\"]\n";
    assert_eq!(check(&schema, all), None);
}

#[test]
fn what_the_reader_rejects_does_not_fit() {
    let schema = schema();
    for (text, words) in [
        ("[optimiser]\nlrr = 1e-3", "optimiser.lrr: not allowed"),
        ("[optimizer]\nlr = 1e-3", "optimizer: not allowed"),
        ("[optimiser]\nlr = 0", "optimiser.lr: above 0"),
        ("[data]\nimages_per_step = 100000", "data.images_per_step: at most 65536"),
        ("[data]\nimages_per_step = 1.5", "data.images_per_step: must be of type \"integer\""),
        ("[data]\nmax_pixels = 0", "data.max_pixels: at least 1"),
        ("[run]\nactivations = \"drop\"", "run.activations: one of [\"keep\",\"recompute\"]"),
        ("[data]\nsplit = \"own\"", "data.split: any of"),
        ("[model.sizes]\nencoder = \"cnn\"", "model.sizes.encoder: one of [\"vit\",\"tiny_vit\"]"),
        ("[model.sizes]\nembed_dims = [64, 128]", "model.sizes.embed_dims: too short"),
        ("[model.sizes]\nnum_heads = [4, 5]", "model.sizes.num_heads: any of"),
        ("[data]\nsplit = { vall = 0.1 }", "data.split: any of"),
        ("[data.augmentation]\ncrop = [0.5]", "data.augmentation.crop: too short"),
        ("[mae]\nmask_ratio = 0.5", "mae: not allowed"),
        ("[data]\npath = \"a\"", "data.path: not allowed"),
        ("task = \"evaluate\"\n[data]\ntrain = \"a\"", "data.train: not allowed"),
        ("task = \"evaluate\"\n[[data]]\npath = \"a\"\ntrain = \"a\"", "data.train: not allowed"),
        ("task = \"probe\"\n[[data]]\npath = \"a\"", "data: must be of type \"object\""),
        ("task = \"evaluat\"", "task: one of"),
        ("task = \"pretrain\"\n[model]\ndrop_path = 0.1", "model.drop_path: not allowed"),
    ] {
        let error = check(&schema, text).unwrap_or_else(|| panic!("accepted: {text}"));
        assert!(error.contains(words), "{text}: {words:?} is missing in: {error}");
    }
}

#[test]
fn a_key_says_its_default_its_cost_and_its_tasks() {
    let schema = schema();
    let key = |section: &str, key: &str| match section {
        "data" => schema["$defs"]["data"]["properties"][key].clone(),
        _ => schema["properties"][section]["properties"][key].clone(),
    };
    assert_eq!(key("optimiser", "layer_decay")["default"], 1.0);
    assert_eq!(key("data", "crowd")["default"], "auto");
    assert_eq!(key("data", "classes")["default"], Value::Array(Vec::new()));
    assert_eq!(key("schedule", "warmup_steps")["default"], Value::Null, "it follows from the steps");
    for (section, name, words) in [
        ("data", "objects_per_step", "Default: 64, and at least images_per_step. Cost: time of the decoder"),
        ("data", "crowd", "COCO: meaning of crowd annotations."),
        ("data", "split_file", "(task: evaluate, probe)"),
        ("prompts", "box_chance", "Default: that of the preset."),
        ("run", "threads", "Compute threads; 0 is one per core. (task: train, distil, pretrain)"),
    ] {
        let description = key(section, name)["description"].to_string();
        assert!(description.contains(words), "{words:?} is missing in: {description}");
    }
}
