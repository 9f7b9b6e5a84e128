//! Runs side by side: keys of the configuration that differ, data, scores.

use std::collections::BTreeSet;

use sam_learn::record::is_headline;
use serde_json::{Value, json};

use super::run::Run;
use crate::cli::RunsArguments;
use crate::failure::Failure;
use crate::names::of_checkpoints;
use crate::output::aligned;

/// Keys that differ between any two runs.
const ALWAYS_DIFFERENT: [&str; 3] = ["run.dir", "run.name", "cache.dir"];

/// One difference or score: its name, and its value in each run.
type Row = (String, Vec<String>);

/// The comparison as text or JSON.
pub(super) fn text(runs: &[Run], arguments: &RunsArguments) -> Result<String, Failure> {
    let names = of_checkpoints(&runs.iter().map(|run| run.folder.clone()).collect::<Vec<_>>());
    let (configuration, data) = (configuration(runs), data(runs));
    let scores = scores(runs, arguments.metric.as_deref());
    if arguments.json {
        let object =
            |rows: &[Row]| -> Value { rows.iter().map(|(name, values)| (name.clone(), json!(values))).collect() };
        let compared = json!({
            "names": names,
            "runs": runs,
            "configuration": object(&configuration),
            "data": object(&data),
            "scores": object(&scores),
        });
        return Ok(serde_json::to_string_pretty(&compared)? + "\n");
    }
    let state = |run: &Run| {
        let of_steps = run.of_steps.map_or_else(String::new, |of_steps| format!(" of {of_steps}"));
        format!("{}, step {}{of_steps}", run.state.name(), run.step)
    };
    let states = vec![("state".to_owned(), runs.iter().map(state).collect())];
    let mut text = String::new();
    for (title, rows, none) in [
        ("runs", states, ""),
        ("configuration", configuration, "no key differs"),
        ("data", data, "the same, or not recorded"),
        ("scores: best (before training)", scores, "nothing was validated"),
    ] {
        text += &format!("{title}\n");
        if rows.is_empty() {
            text += &format!("  {none}\n");
            continue;
        }
        let header = std::iter::once(String::new()).chain(names.clone()).collect();
        let cells = rows.into_iter().map(|(name, values)| std::iter::once(format!("  {name}")).chain(values).collect());
        text += &aligned(&std::iter::once(header).chain(cells).collect::<Vec<Vec<String>>>());
        text.push('\n');
    }
    for run in runs {
        for note in &run.notes {
            text += &format!("{}: {note}\n", run.name);
        }
    }
    Ok(text)
}

fn configuration(runs: &[Run]) -> Vec<Row> {
    let plans: Vec<Vec<(String, String)>> = runs.iter().map(|run| flat(&run.plan)).collect();
    let keys: BTreeSet<&String> = plans.iter().flatten().map(|(key, _)| key).collect();
    let row = |key: &&String| -> Row {
        let value = |plan: &Vec<(String, String)>| {
            let found = plan.iter().find(|(name, _)| name == *key);
            found.map_or_else(|| "-".to_owned(), |(_, value)| value.clone())
        };
        ((*key).clone(), plans.iter().map(value).collect())
    };
    let rows = keys.iter().filter(|key| !ALWAYS_DIFFERENT.contains(&key.as_str())).map(row);
    rows.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

/// Keys with dots, and their values as TOML.
fn flat(table: &toml::Table) -> Vec<(String, String)> {
    let mut keys = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Table(inner) => {
                keys.extend(flat(inner).into_iter().map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            value => keys.push((key.clone(), value.to_string())),
        }
    }
    keys
}

/// What was recorded of the data: a row for each fact that differs.
fn data(runs: &[Run]) -> Vec<Row> {
    let facts: Vec<Vec<(String, String)>> = runs.iter().map(|run| flat_json(&run.environment["data"])).collect();
    let names: BTreeSet<&String> = facts.iter().flatten().map(|(name, _)| name).collect();
    let row = |name: &&String| -> Row {
        let value = |facts: &Vec<(String, String)>| {
            let found = facts.iter().find(|(fact, _)| fact == *name);
            found.map_or_else(|| "-".to_owned(), |(_, value)| value.clone())
        };
        ((*name).clone(), facts.iter().map(value).collect())
    };
    let rows = names.iter().map(row);
    rows.filter(|(_, values)| values.iter().any(|value| *value != values[0])).collect()
}

fn flat_json(value: &Value) -> Vec<(String, String)> {
    let Some(object) = value.as_object() else { return Vec::new() };
    let mut facts = Vec::new();
    for (key, value) in object {
        match value {
            Value::Object(_) => {
                facts.extend(flat_json(value).into_iter().map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            Value::String(text) => facts.push((key.clone(), text.clone())),
            // Hashes are told apart by their first digits.
            Value::Number(number) if number.as_u64().is_some_and(|hash| hash > u64::from(u32::MAX)) => {
                facts.push((key.clone(), format!("{:08x}", number.as_u64().unwrap_or_default() >> 32)));
            }
            other => facts.push((key.clone(), other.to_string())),
        }
    }
    facts
}

/// Metrics over all objects, or one metric.
fn scores(runs: &[Run], metric: Option<&str>) -> Vec<Row> {
    let names: BTreeSet<&str> = runs.iter().flat_map(Run::metric_names).collect();
    let is_shown = |name: &&str| metric.map_or(is_headline(name), |metric| metric == *name);
    let row = |name: &str| -> Row {
        let shown = |run: &Run| match run.before_and_best(Some(name)) {
            [Some(before), Some(best)] => format!("{best:.4} ({before:.4})"),
            [None, Some(best)] => format!("{best:.4}"),
            [Some(before), None] => format!("- ({before:.4})"),
            [None, None] => "-".to_owned(),
        };
        (name.to_owned(), runs.iter().map(shown).collect())
    };
    names.into_iter().filter(is_shown).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::flat;

    #[test]
    fn keys_have_dots() {
        let table: toml::Table = "a = 1\n[b]\nc = [1, 2]\n[b.d]\ne = \"x\"\n".parse().expect("TOML");
        let expected = [("a", "1"), ("b.c", "[1, 2]"), ("b.d.e", "\"x\"")];
        assert_eq!(flat(&table), expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }
}
