//! The JSON Schema (draft 2020-12) of a configuration of any task, for editors that complete, explain and check.
//!
//! The reader itself is the source: nearly empty configurations of each task are read, and every key that is asked for is
//! recorded with its values and its default ([`super::shape`]); [`super::sentences`] says what a key is for. A key stands once
//! in the schema, whatever tasks have it; conditions on `task` forbid the keys of other tasks.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use toml::de::DeValue;

use super::document::Document;
use super::plan::{Plan, Task};
use super::sentences::{Sentence, sentence};
use super::shape::{KnownKey, Shape};

/// What is read to record the keys. A default that differs between the configurations of a task follows from other keys, and
/// so does one that only some of them have; a section that is read on a condition needs a configuration that meets it.
pub(super) const RECORDINGS: [(Task, &str); 11] = [
    (Task::Train, ""),
    (
        Task::Train,
        "run.dir = \"a/b\"\noptimiser.accumulation = 3\nschedule.steps = 1000\nprompts.preset = \"points\"\n\
         loss.preset = \"sam2\"\ndata.images_per_step = 96\n[data.synth]\nseed = 1\nside_px_min = 40\n",
    ),
    (Task::Train, "model.init = \"scratch\"\nmodel.sizes.encoder = \"tiny_vit\"\n"),
    (Task::Distil, ""),
    (Task::Distil, "schedule.steps = 1000\ndata.source = \"images\"\n"),
    (Task::Distil, "model.init = \"scratch\"\nmodel.sizes.encoder = \"tiny_vit\"\n"),
    (Task::Pretrain, "model.variant = \"vit_b\""),
    (
        Task::Pretrain,
        "model.variant = \"vit_l\"\nschedule.steps = 1000\ndata.images_per_step = 256\n[data.synth]\nseed = 1\n",
    ),
    (Task::Evaluate, "protocol.noc_percent = [80]\n"),
    (Task::Evaluate, ""),
    (Task::Probe, ""),
];

/// The keys of all tasks.
#[derive(Debug, Default)]
pub(super) struct AllKeys {
    /// By section and key.
    pub(super) sections: BTreeMap<String, BTreeMap<String, Recordings>>,
    /// The values of sections with free keys.
    free: BTreeMap<String, Shape>,
}

/// A key in the tasks that have it.
#[derive(Debug, Default)]
pub(super) struct Recordings {
    by_task: Vec<(Task, KnownKey)>,
    /// Whether its default follows from other keys.
    pub(super) is_derived: bool,
}

/// The schema of a configuration.
pub(crate) fn schema() -> Value {
    let all = AllKeys::record();
    let mut schema = all.section("");
    let lists = all.sections.iter().flat_map(|(section, keys)| {
        keys.iter().filter(|(_, recordings)| recordings.is_list_of_sections()).map(|(key, _)| join(section, key))
    });
    let definitions: Map<String, Value> = lists.map(|path| (path.clone(), all.definition(&path))).collect();
    schema.insert("$defs".to_owned(), Value::Object(definitions));
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("A configuration of sam-train"));
    schema.insert("allOf".to_owned(), Task::ALL.iter().map(|&(_, task)| all.condition(task)).collect());
    Value::Object(schema)
}

impl AllKeys {
    pub(super) fn record() -> Self {
        let mut all = Self::default();
        for (task, text) in RECORDINGS {
            // The texts are ours.
            let Ok(document) = Document::parse("schema", PathBuf::new(), text, &[]) else { continue };
            let recorded = Plan::record(task, &document);
            all.free.extend(recorded.free);
            for (section, keys) in recorded.keys {
                let section = all.sections.entry(without_index(&section)).or_default();
                for (key, known) in keys {
                    section.entry(key).or_default().add(task, known);
                }
            }
        }
        all
    }

    /// An object for a section.
    fn section(&self, path: &str) -> Map<String, Value> {
        let keys = self.sections.get(path).into_iter().flatten();
        let properties: Map<String, Value> =
            keys.map(|(key, recordings)| (key.clone(), self.key(&join(path, key), recordings))).collect();
        let others = self.free.get(path).map_or(json!(false), |shape| self.value(path, shape));
        let object = json!({ "type": "object", "properties": properties, "additionalProperties": others });
        object.as_object().cloned().unwrap_or_default()
    }

    /// The keys of a section that may also be a list, of which this says nothing.
    fn definition(&self, path: &str) -> Value {
        let mut section = self.section(path);
        section.remove("type");
        Value::Object(section)
    }

    fn key(&self, path: &str, recordings: &Recordings) -> Value {
        let mut schema = match recordings.is_list_of_sections() {
            true => section_or_list(path),
            false => self.any_of(path, &recordings.shapes()),
        };
        let is_derived = recordings.is_derived || sentence(path).is_some_and(|said| !said.default.is_empty());
        let default = recordings.default().filter(|_| !is_derived);
        if let Some(value) = default.as_deref().and_then(json_of) {
            schema.insert("default".to_owned(), value);
        }
        schema.insert("description".to_owned(), json!(recordings.description(path)));
        Value::Object(schema)
    }

    fn any_of(&self, path: &str, shapes: &[Shape]) -> Map<String, Value> {
        let mut values: Vec<Value> = shapes.iter().map(|shape| self.value(path, shape)).collect();
        let schema = if values.len() == 1 { values.remove(0) } else { json!({ "anyOf": values }) };
        schema.as_object().cloned().unwrap_or_default()
    }

    fn value(&self, path: &str, shape: &Shape) -> Value {
        match shape {
            Shape::Flag => json!({ "type": "boolean" }),
            Shape::Integer { smallest, largest } => {
                let mut schema = json!({ "type": "integer", "maximum": largest });
                if let Some(smallest) = smallest {
                    schema["minimum"] = json!(smallest);
                }
                schema
            }
            Shape::Number { low, high } => {
                let mut schema = json!({ "type": "number" });
                for (bound, included, excluded) in
                    [(low, "minimum", "exclusiveMinimum"), (high, "maximum", "exclusiveMaximum")]
                {
                    match bound {
                        Bound::Included(value) => schema[included] = json!(value),
                        Bound::Excluded(value) => schema[excluded] = json!(value),
                        Bound::Unbounded => {}
                    }
                }
                schema
            }
            Shape::Text => json!({ "type": "string" }),
            Shape::Words(words) => json!({ "enum": words }),
            Shape::List(of, length) => {
                let mut schema = json!({ "type": "array", "items": self.value(path, of) });
                if let Some(length) = length {
                    schema["minItems"] = json!(length);
                    schema["maxItems"] = json!(length);
                }
                schema
            }
            Shape::Table(keys) => {
                let properties: Map<String, Value> =
                    keys.iter().map(|(key, shape)| ((*key).to_owned(), self.value(path, shape))).collect();
                let required: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
                json!({
                    "type": "object", "properties": properties, "required": required, "additionalProperties": false
                })
            }
            Shape::Section => Value::Object(self.section(path)),
        }
    }

    /// With this task, the keys of others are wrong, and values are those that the task takes.
    fn condition(&self, task: Task) -> Value {
        let mut is_task = json!({ "properties": { "task": { "const": task.name() } } });
        if task != Task::Train {
            // Without the key it is a training.
            is_task["required"] = json!(["task"]);
        }
        json!({ "if": is_task, "then": self.limits(task, "") })
    }

    /// What the schema of a section has to say beyond the keys of all tasks.
    fn limits(&self, task: Task, path: &str) -> Value {
        let mut properties = Map::new();
        for (key, recordings) in self.sections.get(path).into_iter().flatten() {
            let path = join(path, key);
            let Some(known) = recordings.of(task) else {
                properties.insert(key.clone(), json!(false));
                continue;
            };
            if known.shapes.contains(&Shape::Section) {
                let mut limits = self.limits(task, &path);
                if known.shapes.contains(&Shape::list(Shape::Section)) {
                    limits["items"] = limits.clone();
                } else if recordings.is_list_of_sections() {
                    limits["type"] = json!("object");
                }
                if limits != json!({}) {
                    properties.insert(key.clone(), limits);
                }
            } else if known.shapes != recordings.shapes() {
                properties.insert(key.clone(), Value::Object(self.any_of(&path, &known.shapes)));
            }
        }
        if properties.is_empty() { json!({}) } else { json!({ "properties": properties }) }
    }
}

impl Recordings {
    fn add(&mut self, task: Task, known: KnownKey) {
        match self.by_task.iter_mut().find(|(other, _)| *other == task) {
            Some((_, before)) => {
                self.is_derived |= before.default != known.default;
                before.add(known.default, known.shapes);
            }
            None => self.by_task.push((task, known)),
        }
    }

    fn of(&self, task: Task) -> Option<&KnownKey> {
        self.by_task.iter().find(|(other, _)| *other == task).map(|(_, known)| known)
    }

    pub(super) fn shapes(&self) -> Vec<Shape> {
        let mut all = KnownKey::default();
        self.by_task.iter().for_each(|(_, known)| all.add("", known.shapes.clone()));
        all.shapes
    }

    /// Whether it may be one section or a list of them.
    fn is_list_of_sections(&self) -> bool {
        self.shapes().contains(&Shape::list(Shape::Section))
    }

    /// The default, if all tasks have the same.
    fn default(&self) -> Option<String> {
        let defaults: BTreeSet<&str> = self.by_task.iter().map(|(_, known)| known.default.as_str()).collect();
        match (defaults.first(), defaults.len()) {
            (Some(default), 1) if !default.is_empty() => Some((*default).to_owned()),
            _ => None,
        }
    }

    /// Sentences on a key: what it is, its default where the schema cannot say it, its cost, its tasks.
    fn description(&self, path: &str) -> String {
        let Sentence { about, default, cost } = sentence(path).unwrap_or_default();
        let mut description = about;
        if !default.is_empty() {
            description += &format!(" Default: {default}.");
        } else if self.default().is_none() {
            let of = |(task, known): &(Task, KnownKey)| {
                (!known.default.is_empty()).then(|| format!("{} ({})", known.default, task.name()))
            };
            let defaults: Vec<String> = self.by_task.iter().filter_map(of).collect();
            if !defaults.is_empty() {
                description += &format!(" Default: {}.", defaults.join(", "));
            }
        }
        if !cost.is_empty() {
            description += &format!(" Cost: {cost}.");
        }
        if self.by_task.len() < Task::ALL.len() {
            let tasks: Vec<&str> = self.by_task.iter().map(|(task, _)| task.name()).collect();
            description += &format!(" (task: {})", tasks.join(", "));
        }
        description
    }
}

/// A section, or a list of such sections: both refer to one definition, and an error names the key.
fn section_or_list(path: &str) -> Map<String, Value> {
    let one = json!([{ "$ref": format!("#/$defs/{path}") }]);
    let schema = json!({
        "type": ["object", "array"], "allOf": one, "items": { "type": "object", "allOf": one }
    });
    schema.as_object().cloned().unwrap_or_default()
}

/// Elements of a list of sections have the same keys.
fn without_index(section: &str) -> String {
    let part = |part: &str| part.split('[').next().unwrap_or_default().to_owned();
    section.split('.').map(part).collect::<Vec<_>>().join(".")
}

pub(super) fn join(section: &str, key: &str) -> String {
    if section.is_empty() { key.to_owned() } else { format!("{section}.{key}") }
}

/// A default as it would be typed.
fn json_of(typed: &str) -> Option<Value> {
    json_of_toml(DeValue::parse(typed).ok()?.get_ref())
}

pub(super) fn json_of_toml(value: &DeValue<'_>) -> Option<Value> {
    Some(match value {
        DeValue::String(text) => json!(text.as_ref()),
        DeValue::Integer(number) => json!(i64::from_str_radix(number.as_str(), number.radix()).ok()?),
        DeValue::Float(number) => json!(number.as_str().parse::<f64>().ok()?),
        DeValue::Boolean(flag) => json!(flag),
        DeValue::Datetime(time) => json!(time.to_string()),
        DeValue::Array(list) => {
            list.iter().map(|value| json_of_toml(value.get_ref())).collect::<Option<Vec<_>>>()?.into()
        }
        DeValue::Table(table) => {
            let mut object = Map::new();
            for (key, value) in table.iter() {
                object.insert(key.get_ref().to_string(), json_of_toml(value.get_ref())?);
            }
            Value::Object(object)
        }
    })
}
