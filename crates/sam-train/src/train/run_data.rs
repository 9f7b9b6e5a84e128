//! What a run began with, recorded in `environment.json`: its data sets, and the networks beside the one that it trains. On resume,
//! a change is reported, and what is at another place must be the same.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use sam_data::DataIdentity;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The field of `environment.json`.
pub(super) const DATA: &str = "data";

/// A data set of a run, or a network that it learns from.
#[derive(Clone, Debug)]
pub(crate) struct RunData {
    /// The configuration key that names it.
    pub(crate) key: String,
    pub(crate) path: PathBuf,
    pub(crate) identity: Identity,
}

/// What it is recognised by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Identity {
    /// A data set.
    Data(DataIdentity),
    /// A network, by a hash of its weights.
    Weights { weights: String },
}

impl Identity {
    /// Of a network, by a hash of its weights.
    pub(super) fn weights(fingerprint: u64) -> Self {
        Self::Weights { weights: format!("{fingerprint:016x}") }
    }

    /// As [`DataIdentity::difference`].
    fn difference(&self, earlier: &Self) -> Option<String> {
        match (self, earlier) {
            (Self::Data(data), Self::Data(earlier)) => data.difference(earlier),
            _ => (self != earlier).then(|| "has other weights".to_owned()),
        }
    }

    /// All of it, to be compared.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Data(DataIdentity { images, names, contents }) => {
                format!("{images} images, names {names:016x}, contents {contents:016x}")
            }
            Self::Weights { weights } => format!("weights {weights}"),
        }
    }

    fn noun(&self) -> &'static str {
        match self {
            Self::Data(_) => "data",
            Self::Weights { .. } => "network",
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Recorded {
    path: PathBuf,
    #[serde(flatten)]
    identity: Identity,
}

/// The record of a session.
pub(super) fn record(data: &[RunData]) -> Value {
    let recorded = data.iter().map(|data| {
        let recorded = Recorded { path: data.path.clone(), identity: data.identity.clone() };
        (data.key.clone(), json!(recorded))
    });
    Value::Object(recorded.collect::<Map<_, _>>())
}

/// Compares a resumed run with the record of its first session; places with those of its last.
///
/// # Errors
///
/// When something is at another place and is not what the run had.
pub(super) fn changes(data: &[RunData], first: &Value, last: &Value) -> Result<Vec<String>> {
    let of = |record: &Value, key: &str| serde_json::from_value::<Recorded>(record[key].clone()).ok();
    let mut changes = Vec::new();
    for RunData { key, path, identity } in data {
        let (shown, noun) = (path.display(), identity.noun());
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
                "{key}: {shown} is not the {noun} of this run, which was at {}: it {difference}; give the place of a copy",
                was_at.display()
            );
        }
        changes.push(format!(
            "{key}: {shown} has changed since the run began: it {difference}; the run continues with the {noun} as it is now, \
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
    use crate::config::{TEACHER, TRAIN};

    fn data(path: &str, images: usize) -> Vec<RunData> {
        vec![RunData {
            key: TRAIN.to_owned(),
            path: path.into(),
            identity: Identity::Data(DataIdentity { images, names: 1, contents: u64::MAX }),
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
        // A network.
        let teacher = |path: &str, weights| {
            vec![RunData { key: TEACHER.to_owned(), path: path.into(), identity: Identity::weights(weights) }]
        };
        let began = record(&teacher("/a", 1));
        assert_eq!(changes(&teacher("/b", 1), &began, &began).expect("a copy"), Vec::<String>::new());
        let changed = changes(&teacher("/a", 2), &began, &began).expect("a warning");
        assert!(changed[0].contains("it has other weights; the run continues with the network"), "{changed:?}");
        let error = changes(&teacher("/b", 2), &began, &began).expect_err("another teacher").to_string();
        assert!(error.contains("distil.teacher: /b is not the network of this run, which was at /a"), "{error}");
        let unknown = changes(&data("/a", 17), &Value::Null, &Value::Null).expect("a note");
        assert!(unknown[0].contains("no record of its data"), "{unknown:?}");
    }
}
