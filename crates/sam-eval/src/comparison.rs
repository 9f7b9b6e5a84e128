//! Two or more evaluations of the same objects, side by side: each number with its interval, each difference with its own.

use serde::{Deserialize, Serialize};

use crate::bootstrap::{Bootstrap, Interval, Pairing};
use crate::click_metrics::{ClickMetrics, Measure};
use crate::error::EvalError;
use crate::results::Results;

/// One metric of all models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparisonRow {
    /// Its name.
    pub metric: String,
    /// Of each model.
    pub intervals: Vec<Interval>,
    /// Each later model less the first, drawn in pairs.
    pub differences: Vec<Interval>,
}

/// Compares the click metrics of models; the first is what the others are measured against. One model gives intervals only.
/// Metrics over data sets are means of their means, so the values are those of [`Results::metrics`].
///
/// # Errors
///
/// When there is no model, or they were not run with the same protocols on the same objects.
pub fn compare(models: &[&Results], config: &Bootstrap) -> Result<Vec<ComparisonRow>, EvalError> {
    let Some((first, others)) = models.split_first() else {
        return Err(EvalError::Nothing { metric: "a comparison".to_owned() });
    };
    for (at, other) in others.iter().enumerate() {
        let protocols = |results: &Results| results.runs.iter().map(|run| run.protocol.clone()).collect::<Vec<_>>();
        let same = |a: &crate::Protocol, b: &crate::Protocol| {
            // How many objects are asked about at once changes no number.
            *a == crate::Protocol { objects_per_call: a.objects_per_call, ..b.clone() }
        };
        let (a, b) = (protocols(first), protocols(other));
        if a.len() != b.len() || !a.iter().zip(&b).all(|(a, b)| same(a, b)) {
            let difference = format!("other protocols in evaluation {} than in evaluation 1", at + 2);
            return Err(EvalError::Unpaired { difference });
        }
    }
    let mut rows = Vec::new();
    for (at, run) in first.runs.iter().enumerate().filter(|(_, run)| !run.records.is_empty()) {
        let metrics = ClickMetrics::new(&run.protocol, &run.click_metrics)?;
        // A count is no mean, so it has no place among intervals of means.
        let means = metrics.measures().iter().filter(|(_, measure)| !matches!(measure, Measure::AtCap(_)));
        for (name, _) in means {
            let pairings: Vec<Pairing> = models
                .iter()
                .map(|model| Pairing::new(&metrics, name, &run.records, &model.runs[at].records))
                .collect::<Result<_, _>>()?;
            let own = |model: &&Results| {
                let records = &model.runs[at].records;
                Pairing::new(&metrics, name, records, records)?.interval(config)
            };
            let intervals = models.iter().map(own).collect::<Result<_, _>>()?;
            let differences =
                pairings[1..].iter().map(|pairing| pairing.difference(config)).collect::<Result<_, _>>()?;
            rows.push(ComparisonRow { metric: name.clone(), intervals, differences });
        }
    }
    Ok(rows)
}
