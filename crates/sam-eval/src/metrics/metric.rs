//! A metric value with its direction, its unit and the number of objects behind it.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::EvalError;

/// The direction of improvement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// Higher is better: IoU, AP, AR.
    Higher,
    /// Lower is better: clicks, failures, errors.
    Lower,
}

/// The unit of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// A fraction of one.
    #[serde(rename = "share")]
    Fraction,
    /// Clicks per object.
    Clicks,
    /// Number of objects.
    Objects,
}

impl Better {
    /// The name used in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Higher => "higher",
            Self::Lower => "lower",
        }
    }
}

impl Unit {
    /// The name used in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fraction => "share",
            Self::Clicks => "clicks",
            Self::Objects => "objects",
        }
    }
}

/// A metric value.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The value.
    pub value: f64,
    /// The direction of improvement.
    pub better: Better,
    /// The unit.
    pub unit: Unit,
    /// Number of objects in the mean or sum; for AP and AR the number of targets.
    pub n_objects: usize,
}

impl Metric {
    /// A fraction of which higher is better.
    #[must_use]
    pub fn fraction(value: f64, n_objects: usize) -> Self {
        Self { value, better: Better::Higher, unit: Unit::Fraction, n_objects }
    }

    /// The deterioration against an earlier value; positive when this one is worse.
    #[must_use]
    pub fn drop_from(&self, earlier: &Self) -> f64 {
        match self.better {
            Better::Higher => earlier.value - self.value,
            Better::Lower => self.value - earlier.value,
        }
    }
}

/// Metrics by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metrics(BTreeMap<String, Metric>);

impl Metrics {
    /// Adds a metric.
    ///
    /// # Errors
    ///
    /// When the name exists.
    pub fn insert(&mut self, name: &str, metric: Metric) -> Result<(), EvalError> {
        match self.0.insert(name.to_owned(), metric) {
            None => Ok(()),
            Some(_) => Err(EvalError::Duplicate { what: format!("metric {name}") }),
        }
    }

    /// Adds all metrics of another set.
    ///
    /// # Errors
    ///
    /// When both have a metric of the same name.
    pub fn extend(&mut self, other: &Self) -> Result<(), EvalError> {
        other.0.iter().try_for_each(|(name, &metric)| self.insert(name, metric))
    }

    /// The metric of this name.
    ///
    /// # Errors
    ///
    /// When there is none; the error lists the nearest names.
    pub fn get(&self, name: &str) -> Result<&Metric, EvalError> {
        self.0.get(name).ok_or_else(|| EvalError::UnknownMetric {
            name: name.to_owned(),
            hint: nearest(name, self.0.keys().map(String::as_str)),
        })
    }

    /// Whether there is a metric of this name.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Number of metrics.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no metrics.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All metrics in natural order: `miou_2` before `miou_10`.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Metric)> {
        let mut all: Vec<_> = self.0.iter().map(|(name, metric)| (name.as_str(), metric)).collect();
        all.sort_by(|a, b| natural_order(a.0, b.0));
        all.into_iter()
    }
}

/// Natural order of names with numbers.
pub(crate) fn natural_order(a: &str, b: &str) -> Ordering {
    let key = |text: &str| -> Vec<(u64, String)> {
        text.split('_').map(|part| (part.parse().unwrap_or(u64::MAX), part.to_owned())).collect()
    };
    key(a).cmp(&key(b))
}

/// A hint with the nearest known names.
pub(crate) fn nearest<'a>(wanted: &str, names: impl Iterator<Item = &'a str>) -> String {
    const SHOWN: usize = 3;
    let mut by_distance: Vec<(usize, &str)> =
        names.map(|name| (strsim::damerau_levenshtein(wanted, name), name)).collect();
    by_distance.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| natural_order(a.1, b.1)));
    if by_distance.is_empty() {
        return "no metric was computed at all".to_owned();
    }
    let shown: Vec<&str> = by_distance.iter().take(SHOWN).map(|(_, name)| *name).collect();
    format!("the nearest of {} are {}", by_distance.len(), shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_sort_naturally() {
        let mut metrics = Metrics::default();
        for name in ["miou_10", "noc_90", "miou_2", "miou_1_oracle", "miou_1", "miou_box"] {
            metrics.insert(name, Metric::fraction(0.5, 1)).expect("new");
        }
        let names: Vec<&str> = metrics.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["miou_1", "miou_1_oracle", "miou_2", "miou_10", "miou_box", "noc_90"]);
        assert!(metrics.insert("miou_1", Metric::fraction(0.5, 1)).expect_err("twice").to_string().contains("miou_1"));
        let error = metrics.get("mIoU_1_orcale").expect_err("unknown").to_string();
        assert!(error.contains("the nearest of 6 are miou_1_oracle,"), "{error}");
    }
}
