//! The data that a run began with, recorded in `environment.json`: on resume, a change is reported, and a data set at
//! another place must be the same one.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use sam_data::DataIdentity;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The field of `environment.json`.
pub(super) const DATA: &str = "data";

/// A data set of a run.
#[derive(Clone, Debug)]
pub(crate) struct RunData {
    /// The configuration key that names it.
    pub(crate) key: String,
    pub(crate) path: PathBuf,
    pub(crate) identity: DataIdentity,
}

#[derive(Serialize, Deserialize)]
struct Recorded {
    path: PathBuf,
    #[serde(flatten)]
    identity: DataIdentity,
}

/// The record of a session's data.
pub(super) fn record(data: &[RunData]) -> Value {
    let recorded = data.iter().map(|data| {
        let recorded = Recorded { path: data.path.clone(), identity: data.identity.clone() };
        (data.key.clone(), json!(recorded))
    });
    Value::Object(recorded.collect::<Map<_, _>>())
}

/// Compares the data of a resumed run with the record of its first session; the place of the data with that of its last.
///
/// # Errors
///
/// When the data is at another place and is not that of the run.
pub(super) fn changes(data: &[RunData], first: &Value, last: &Value) -> Result<Vec<String>> {
    let of = |record: &Value, key: &str| serde_json::from_value::<Recorded>(record[key].clone()).ok();
    let mut changes = Vec::new();
    for RunData { key, path, identity } in data {
        let shown = path.display();
        let Some(began) = of(first, key) else {
            if first.is_null() {
                changes.push(format!("{key}: the run has no record of its data, so a change cannot be noticed"));
            }
            continue;
        };
        let was_at = of(last, key).map_or(began.path, |recorded| recorded.path);
        let Some(difference) = identity.difference(&began.identity) else { continue };
        if !is_same_place(&was_at, path) {
            bail!(
                "{key}: {shown} is not the data of this run, which was at {}: it {difference}; give the place of a copy",
                was_at.display()
            );
        }
        changes.push(format!(
            "{key}: {shown} has changed since the run began: it {difference}; the run continues with the data as it is now, \
             and differs from one that was never stopped"
        ));
    }
    Ok(changes)
}

/// Whether two paths lead to the same place, also through links.
pub(crate) fn is_same_place(one: &Path, other: &Path) -> bool {
    let resolved = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    resolved(one) == resolved(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TRAIN;

    fn data(path: &str, images: usize) -> Vec<RunData> {
        vec![RunData {
            key: TRAIN.to_owned(),
            path: path.into(),
            identity: DataIdentity { images, names: 1, contents: u64::MAX },
        }]
    }

    #[test]
    fn a_change_is_reported_and_other_data_is_rejected() {
        let began = record(&data("/a", 17));
        assert_eq!(changes(&data("/a", 17), &began, &began).expect("the same"), Vec::<String>::new());
        assert_eq!(changes(&data("/b", 17), &began, &began).expect("a copy"), Vec::<String>::new());
        let grown = changes(&data("/a", 20), &began, &began).expect("a warning");
        assert!(
            grown[0].contains("data.train: /a has changed") && grown[0].contains("20 images, and had 17"),
            "{grown:?}"
        );
        let error = changes(&data("/b", 20), &began, &began).expect_err("other data").to_string();
        assert!(error.contains("/b is not the data of this run, which was at /a"), "{error}");
        // Moved by an earlier resume, and changed there.
        let grown = changes(&data("/b", 20), &began, &record(&data("/b", 17))).expect("a warning");
        assert!(grown[0].contains("/b has changed"), "{grown:?}");
        let unknown = changes(&data("/a", 17), &Value::Null, &Value::Null).expect("a note");
        assert!(unknown[0].contains("no record of its data"), "{unknown:?}");
    }
}
