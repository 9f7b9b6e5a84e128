//! The gate: pass or fail of an evaluation against bounds and against an earlier evaluation.
//!
//! ```toml
//! [gate]
//! miou_1_oracle = 0.75            # a lower bound, because higher is better
//! noc_90 = 8.0                    # an upper bound, because lower is better
//! "coco-val/small/miou_1" = 0.4   # any full name of `results.json`
//! baseline = "results.json"       # the results of a released model
//! max_drop = 0.01                 # largest allowed drop of any top-level fraction
//! ```
//!
//! A metric that was not computed is an error and not a miss, because such a gate would guard nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::EvalError;
use crate::metrics::metric::{Better, Metric, Unit, nearest};
use crate::metrics::results::Results;

/// The `[gate]` table of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GateConfig {
    /// The `results.json` to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<PathBuf>,
    /// Largest allowed drop of a fraction against the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_drop: Option<f64>,
    /// The bound of each metric.
    #[serde(flatten)]
    pub bounds: BTreeMap<String, f64>,
}

impl GateConfig {
    /// The bounds on metrics that are none of these, each with the nearest ones.
    #[must_use]
    pub fn unknown_metrics(&self, known: &[String]) -> Vec<(&str, EvalError)> {
        self.bounds.keys().filter_map(|name| Some((name.as_str(), unknown_metric(name, known)?))).collect()
    }
}

/// The metric is the last part of a full name.
fn unknown_metric(name: &str, known: &[String]) -> Option<EvalError> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let is_known = known.iter().any(|known| known == last);
    let hint = || nearest(last, known.iter().map(String::as_str));
    (!is_known).then(|| EvalError::UnknownMetric { name: name.to_owned(), hint: hint() })
}

/// Implemented by hand because the derived errors of a table with free keys do not name the key of the wrong type.
impl<'de> Deserialize<'de> for GateConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Table;

        impl<'de> Visitor<'de> for Table {
            type Value = GateConfig;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "a table of metrics and their bounds")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut table: A) -> Result<GateConfig, A::Error> {
                let mut gate = GateConfig::default();
                while let Some(key) = table.next_key::<String>()? {
                    let named = |error| A::Error::custom(format!("{key}: {error}"));
                    match key.as_str() {
                        "baseline" => gate.baseline = Some(table.next_value().map_err(named)?),
                        "max_drop" => gate.max_drop = Some(table.next_value().map_err(named)?),
                        _ => {
                            let bound = table.next_value().map_err(named)?;
                            gate.bounds.insert(key, bound);
                        }
                    }
                }
                Ok(gate)
            }
        }

        deserializer.deserialize_map(Table)
    }
}

/// A validated gate.
#[derive(Clone, Debug)]
pub struct Gate {
    bounds: BTreeMap<String, f64>,
    baseline: Option<(Results, f64)>,
}

/// The outcome of a gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// All checked bounds.
    pub checks: Vec<GateCheck>,
}

/// One checked bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateCheck {
    /// Full name of the metric.
    pub metric: String,
    /// The bound; equality meets it.
    pub wanted: f64,
    /// The direction of improvement: a lower bound for `Higher`.
    pub better: Better,
    /// The baseline's value, if the bound derives from it.
    pub baseline: Option<f64>,
    /// The measured value.
    pub got: f64,
}

impl Gate {
    /// Validates the configuration; `baseline` is the content of the file that it names.
    ///
    /// # Errors
    ///
    /// When a bound is not finite, the gate is empty, or only one of `baseline` and `max_drop` is given.
    pub fn new(config: &GateConfig, baseline: Option<Results>) -> Result<Self, EvalError> {
        if let Some((name, bound)) = config.bounds.iter().find(|(_, bound)| !bound.is_finite()) {
            return Err(EvalError::option("[gate]", "a table of finite bounds", format!("{name} = {bound}")));
        }
        let baseline = match (baseline, config.max_drop) {
            (_, Some(drop)) if !(drop.is_finite() && drop >= 0.0) => {
                return Err(EvalError::option("max_drop", "finite and at least 0", drop));
            }
            (Some(_), None) => return Err(EvalError::option("max_drop", "given together with baseline", "none")),
            (None, Some(_)) => return Err(EvalError::option("baseline", "given together with max_drop", "none")),
            (baseline, max_drop) => baseline.zip(max_drop),
        };
        if config.bounds.is_empty() && baseline.is_none() {
            return Err(EvalError::option("[gate]", "at least one bound or a baseline", "an empty table"));
        }
        Ok(Self { bounds: config.bounds.clone(), baseline })
    }

    /// Rejects, before an evaluation, bounds on metrics that it will not compute. See [`Gate::check_places`] for the data set, size
    /// or class of a full name.
    ///
    /// # Errors
    ///
    /// Names the first unknown metric and the nearest known ones.
    pub fn check_names(&self, known: &[String]) -> Result<(), EvalError> {
        let of_baseline = self.baseline.iter().flat_map(|(results, _)| results.metrics.iter());
        let of_baseline = of_baseline.filter(|(_, metric)| metric.unit == Unit::Fraction).map(|(name, _)| name);
        let mut names = self.bounds.keys().map(String::as_str).chain(of_baseline);
        names.find_map(|name| unknown_metric(name, known)).map_or(Ok(()), Err)
    }

    /// Rejects, once the data is known and before anything is computed, bounds on data sets, sizes or classes that have no object:
    /// `places` are the beginnings of full names, such as `small`, `photos`, `photos/small` and `photos/class:cat`.
    ///
    /// # Errors
    ///
    /// Names the first unknown place and the nearest full names.
    pub fn check_places(&self, places: &BTreeSet<String>) -> Result<(), EvalError> {
        let is_unknown = |name: &&String| name.rsplit_once('/').is_some_and(|(place, _)| !places.contains(place));
        let Some(name) = self.bounds.keys().find(is_unknown) else { return Ok(()) };
        let metric = name.rsplit('/').next().unwrap_or(name);
        let full: Vec<String> = places.iter().map(|place| format!("{place}/{metric}")).collect();
        Err(EvalError::UnknownMetric { name: name.clone(), hint: nearest(name, full.iter().map(String::as_str)) })
    }

    /// Checks the results of an evaluation.
    ///
    /// # Errors
    ///
    /// When a required metric was not computed.
    pub fn check(&self, results: &Results) -> Result<Verdict, EvalError> {
        let mut checks = Vec::new();
        for (name, &wanted) in &self.bounds {
            let Metric { value, better, .. } = results.metric(name)?;
            checks.push(GateCheck { metric: name.clone(), wanted, better, baseline: None, got: value });
        }
        if let Some((baseline, max_drop)) = &self.baseline {
            let is_fraction = |metric: &Metric| metric.unit == Unit::Fraction;
            let before = checks.len();
            for (name, earlier) in baseline.metrics.iter().filter(|(_, metric)| is_fraction(metric)) {
                let now = results.metrics.get(name)?;
                let wanted = match earlier.better {
                    Better::Higher => earlier.value - max_drop,
                    Better::Lower => earlier.value + max_drop,
                };
                let (metric, baseline) = (name.to_owned(), Some(earlier.value));
                checks.push(GateCheck { metric, wanted, better: earlier.better, baseline, got: now.value });
            }
            if checks.len() == before {
                return Err(EvalError::option("baseline", "an evaluation with at least one fraction", "one without"));
            }
        }
        Ok(Verdict { checks })
    }
}

impl Verdict {
    /// Whether every bound is met.
    #[must_use]
    pub fn is_pass(&self) -> bool {
        self.checks.iter().all(GateCheck::is_met)
    }

    /// The missed bounds.
    pub fn misses(&self) -> impl Iterator<Item = &GateCheck> {
        self.checks.iter().filter(|check| !check.is_met())
    }
}

impl GateCheck {
    /// Whether the bound is met; NaN meets none.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self.better {
            Better::Higher => self.got >= self.wanted,
            Better::Lower => self.got <= self.wanted,
        }
    }
}

impl std::fmt::Display for GateCheck {
    /// "miou_1_oracle must be at least 0.75, got 0.71".
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bound = if self.better == Better::Higher { "at least" } else { "at most" };
        // More digits where four would make a miss look like equality.
        let digits = (4..=17).find(|&digits| {
            let shown = |value: f64| format!("{value:.digits$}");
            shown(self.got) != shown(self.wanted) || self.got == self.wanted
        });
        let digits = digits.unwrap_or(17);
        write!(f, "{} must be {bound} {:.digits$}", self.metric, self.wanted)?;
        if let Some(baseline) = self.baseline {
            write!(f, " (baseline {baseline:.digits$})")?;
        }
        write!(f, ", got {:.digits$}", self.got)
    }
}
