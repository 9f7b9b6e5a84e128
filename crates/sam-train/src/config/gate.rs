//! `[gate]` of an evaluation: bounds on metrics.

use std::path::Path;

use sam_eval::GateConfig;

use super::document::Document;
use super::problems::ConfigError;
use super::reader::{Paths, Reader};
use super::shape::Shape;

/// `[gate]`: free keys, each the name of a metric with its bound.
pub(super) fn read_gate(reader: &Reader<'_>) -> Option<GateConfig> {
    let is_given = reader.top().is_given("gate");
    if !is_given {
        reader.top().unused(&["gate"]);
    }
    let section = reader.top().section("gate");
    let mut gate = GateConfig {
        baseline: section.local_path_if_given("baseline"),
        max_drop: section.float_if_given("max_drop", 0.0..),
        ..GateConfig::default()
    };
    let given = section.free_keys(Shape::number("", &..));
    for name in given.iter() {
        if name == "baseline" || name == "max_drop" {
            continue;
        }
        if let Some(bound) = section.float_if_given(name, ..) {
            gate.bounds.insert(name.clone(), bound);
        }
    }
    let [max_drop, baseline] = ["gate.max_drop", "gate.baseline"];
    let is_whole = gate.baseline.is_some() == gate.max_drop.is_some();
    reader.check(is_whole, &[max_drop, baseline], &format!("given together with {baseline}"), "one of them alone");
    let is_empty = is_given && given.is_empty();
    reader.check(!is_empty, &["gate"], "at least one bound, or baseline and max_drop", "an empty section");
    is_given.then_some(gate)
}

/// The section `gate` of a configuration, whatever else is in it.
///
/// # Errors
///
/// With all errors of the section, or when it is missing.
pub(crate) fn load_gate(path: &Path) -> Result<GateConfig, ConfigError> {
    let document = Document::load(path, &[])?;
    // A missing baseline is reported once the plan is read.
    let reader = Reader::new(&document, Paths::MayBeMissing);
    let gate = read_gate(&reader);
    reader.check(gate.is_some(), &["gate"], "a section [gate] with bounds", "a file without it");
    reader.finish_part()?;
    Ok(gate.unwrap_or_default())
}
