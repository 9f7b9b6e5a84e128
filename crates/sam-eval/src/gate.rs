//! Pass or fail: numbers against bounds, and against an earlier evaluation.
//!
//! ```toml
//! [gate]
//! miou_1_oracle = 0.75            # at least, because more is better
//! noc_90 = 8.0                    # at most, because less is better
//! "coco-val/small/miou_1" = 0.4   # any full name of `results.json`
//! baseline = "results.json"       # of the released model
//! max_drop = 0.01                 # no share among its top-level metrics may be worse by more
//! ```
//!
//! A metric that was not computed is an error and not a miss: such a gate would guard nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::EvalError;
use crate::metric::{Better, Metric, Unit, nearest};
use crate::results::Results;

/// The `[gate]` table as it is typed.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct GateConfig {
    /// A `results.json` to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub baseline: Option<PathBuf>,
    /// By how much a share may be worse than in the baseline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_drop: Option<f64>,
    /// The bound of each metric.
    #[serde(flatten)]
    pub bounds: BTreeMap<String, f64>,
}

/// By hand: what serde derives for a table with free keys does not say which of them has the wrong type.
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

/// A gate, ready to judge.
#[derive(Clone, Debug)]
pub struct Gate {
    bounds: BTreeMap<String, f64>,
    baseline: Option<(Results, f64)>,
}

/// What came of a gate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// Every bound that was looked at.
    pub checks: Vec<GateCheck>,
}

/// One bound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GateCheck {
    /// The metric's full name.
    pub metric: String,
    /// The bound; it is met by equality.
    pub wanted: f64,
    /// Whether it is a lower bound.
    pub better: Better,
    /// The value of the baseline, where it is the reason.
    pub baseline: Option<f64>,
    /// What was measured.
    pub got: f64,
}

impl Gate {
    /// Checks what was typed; `baseline` is the file that it names, read.
    ///
    /// # Errors
    ///
    /// When a bound is no number, the gate is empty, or one of `baseline` and `max_drop` is without the other.
    pub fn new(config: &GateConfig, baseline: Option<Results>) -> Result<Self, EvalError> {
        let refuse =
            |key, expected: &str, got: String| Err(EvalError::Option { key, expected: expected.to_owned(), got });
        if let Some((name, bound)) = config.bounds.iter().find(|(_, bound)| !bound.is_finite()) {
            return refuse("[gate]", "a table of finite bounds", format!("{name} = {bound}"));
        }
        let baseline = match (baseline, config.max_drop) {
            (Some(results), Some(drop)) if drop.is_finite() && drop >= 0.0 => Some((results, drop)),
            (_, Some(drop)) if !(drop.is_finite() && drop >= 0.0) => {
                return refuse("max_drop", "a finite share from 0", drop.to_string());
            }
            (Some(_), None) => return refuse("max_drop", "given together with baseline", "none".to_owned()),
            (None, Some(_)) => return refuse("baseline", "given together with max_drop", "none".to_owned()),
            _ => None,
        };
        if config.bounds.is_empty() && baseline.is_none() {
            return refuse("[gate]", "at least one bound or a baseline", "an empty table".to_owned());
        }
        Ok(Self { bounds: config.bounds.clone(), baseline })
    }

    /// Refuses a gate on metrics that an evaluation with these (over all objects) will not compute, before it is run. Whether
    /// a data set, size or class of a full name exists shows only afterwards.
    ///
    /// # Errors
    ///
    /// With the first unknown metric and the nearest known ones.
    pub fn check_names(&self, known: &[String]) -> Result<(), EvalError> {
        let of_baseline = self.baseline.iter().flat_map(|(results, _)| results.metrics.iter());
        let of_baseline = of_baseline.filter(|(_, metric)| metric.unit == Unit::Share).map(|(name, _)| name);
        for name in self.bounds.keys().map(String::as_str).chain(of_baseline) {
            let last = name.rsplit('/').next().unwrap_or(name);
            if !known.iter().any(|known| known == last) {
                let hint = nearest(last, known.iter().map(String::as_str));
                return Err(EvalError::UnknownMetric { name: name.to_owned(), hint });
            }
        }
        Ok(())
    }

    /// Judges an evaluation.
    ///
    /// # Errors
    ///
    /// When a metric that is asked for was not computed.
    pub fn judge(&self, results: &Results) -> Result<Verdict, EvalError> {
        let mut checks = Vec::new();
        for (name, &wanted) in &self.bounds {
            let Metric { value, better, .. } = results.metric(name)?;
            checks.push(GateCheck { metric: name.clone(), wanted, better, baseline: None, got: value });
        }
        if let Some((baseline, max_drop)) = &self.baseline {
            let shares = |metric: &Metric| metric.unit == Unit::Share;
            let before = checks.len();
            for (name, earlier) in baseline.metrics.iter().filter(|(_, metric)| shares(metric)) {
                let now = results.metrics.get(name)?;
                let wanted = match earlier.better {
                    Better::Higher => earlier.value - max_drop,
                    Better::Lower => earlier.value + max_drop,
                };
                let (metric, baseline) = (name.to_owned(), Some(earlier.value));
                checks.push(GateCheck { metric, wanted, better: earlier.better, baseline, got: now.value });
            }
            if checks.len() == before {
                let (key, expected) = ("baseline", "an evaluation with at least one share".to_owned());
                return Err(EvalError::Option { key, expected, got: "one without".to_owned() });
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

    /// The bounds that are not met.
    pub fn misses(&self) -> impl Iterator<Item = &GateCheck> {
        self.checks.iter().filter(|check| !check.is_met())
    }
}

impl GateCheck {
    /// Whether the bound is met; a NaN meets none.
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
        // More digits where four would show a miss as a hit.
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
