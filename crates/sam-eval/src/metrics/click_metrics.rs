//! mIoU@k, oracle, NoC and failures: a value per object, averaged over a group.
//!
//! Source: RITM's `compute_noc_metric` and `get_results_table` (`isegm/inference/utils.py`). NoC@t is the mean number of
//! clicks until IoU >= t, counting the cap (20) for an object that never reaches it. Differs: `fail_t` is the fraction of
//! objects that **never** reach t. RITM's own ">=20@t" also counts a success at the very last click; it is `at_cap_t`, for
//! comparison with published tables.
//!
//! `prompt_selectivity` says whether a model listens to its prompts: of the objects in images with several, the fraction whose
//! first mask has a higher IoU with its own object than with every other. A model that gives the same mask whatever is
//! clicked, as one that was fine-tuned for too long, fits at most one object of an image.
//!
//! Names: `miou_3`, `miou_1_oracle`, `miou_1_refined`, `boundary_3`, `noc_90`, `fail_90`, `at_cap_90`,
//! `predicted_iou_error`, `prompt_selectivity` (`_box` after a box). A random first click adds `_random`; a box comes first as in `miou_box` (the box alone),
//! `miou_box_refined`, `miou_box_2` (the box and two clicks).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::metrics::metric::{Better, Metric, Metrics, Unit};
use crate::protocol::object_record::{ObjectRecord, Round};
use crate::protocol::settings::{Boundary, FirstClick, FirstMasks, Protocol, Start};

/// RITM's cap on clicks.
pub const NOC_CAP: usize = 20;

/// The click metrics to compute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClickMetricsConfig {
    /// The k of mIoU@k.
    pub at_clicks: Vec<usize>,
    /// The t of NoC@t, in percent.
    pub noc_percent: Vec<u32>,
    /// The count of an object that never reaches the threshold.
    pub noc_cap: usize,
}

impl ClickMetricsConfig {
    /// The commonly reported metrics that this protocol allows.
    #[must_use]
    pub fn for_protocol(protocol: &Protocol) -> Self {
        let mut at_clicks = vec![1, 2, 3, 5, 8, 9, 10, 20];
        at_clicks.retain(|&k| k <= protocol.n_clicks && protocol.stop_at_iou.is_none());
        let mut noc_percent = vec![80, 85, 90];
        let reaches = |percent: u32| protocol.stop_at_iou.is_none_or(|stop| threshold(percent) <= stop);
        noc_percent
            .retain(|&percent| protocol.start == Start::Click && protocol.n_clicks >= NOC_CAP && reaches(percent));
        Self { at_clicks, noc_percent, noc_cap: NOC_CAP }
    }
}

/// The round in which an IoU is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    /// After this click, from 1.
    Click(usize),
    /// After the box alone.
    Box,
    /// After the refinements of the first prompt.
    Refined,
}

/// A measure of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Measure {
    /// IoU of the selected mask.
    Iou(Moment),
    /// The best IoU of an ambiguous first prompt.
    OracleIou(Moment),
    /// Boundary IoU.
    BoundaryIou(Moment),
    /// Clicks until this IoU, in percent.
    Noc(u32),
    /// Whether this IoU was never reached.
    Fail(u32),
    /// Whether the number of clicks equals the cap (RITM's ">=20@t").
    AtCap(u32),
    /// |predicted IoU - IoU|, the mean over the object's rounds.
    PredictedIouError,
    /// Whether the first mask fits the object better than every other of the image; not measured where there is no other.
    Selectivity,
}

/// The click metrics of a protocol.
#[derive(Clone, Debug, PartialEq)]
pub struct ClickMetrics {
    measures: Vec<(String, Measure)>,
    noc_cap: usize,
}

impl ClickMetrics {
    /// Names the metrics and checks that the protocol allows them.
    ///
    /// # Errors
    ///
    /// When the protocol has too few clicks or stops too early.
    pub fn new(protocol: &Protocol, config: &ClickMetricsConfig) -> Result<Self, EvalError> {
        protocol.check()?;
        check_config(protocol, config)?;
        let start = if protocol.start == Start::Box { "box_" } else { "" };
        let variant = if let FirstClick::Random { .. } = protocol.first_click { "_random" } else { "" };
        let has_oracle = protocol.first_masks == FirstMasks::MostConfidentAndOracle;
        let mut measures = Vec::new();
        let mut add = |name: String, measure| measures.push((name + variant, measure));
        let mut moments: Vec<(String, Moment)> = Vec::new();
        if protocol.start == Start::Box {
            moments.push(("box".to_owned(), Moment::Box));
        }
        moments.extend(config.at_clicks.iter().map(|&k| (format!("{start}{k}"), Moment::Click(k))));
        let first = if protocol.start == Start::Box { Moment::Box } else { Moment::Click(1) };
        for (name, moment) in &moments {
            add(format!("miou_{name}"), Measure::Iou(*moment));
            if *moment == first && has_oracle {
                add(format!("miou_{name}_oracle"), Measure::OracleIou(*moment));
            }
            if protocol.boundary == Boundary::Measure {
                add(format!("boundary_{name}"), Measure::BoundaryIou(*moment));
            }
        }
        if protocol.n_refinements > 0 {
            let name = if protocol.start == Start::Box { "miou_box_refined" } else { "miou_1_refined" };
            add(name.to_owned(), Measure::Iou(Moment::Refined));
        }
        for &percent in &config.noc_percent {
            add(format!("noc_{percent}"), Measure::Noc(percent));
            add(format!("fail_{percent}"), Measure::Fail(percent));
            add(format!("at_cap_{percent}"), Measure::AtCap(percent));
        }
        let error_of = if protocol.start == Start::Box { "predicted_iou_error_box" } else { "predicted_iou_error" };
        add(error_of.to_owned(), Measure::PredictedIouError);
        let selectivity = if protocol.start == Start::Box { "prompt_selectivity_box" } else { "prompt_selectivity" };
        add(selectivity.to_owned(), Measure::Selectivity);
        Ok(Self { measures, noc_cap: config.noc_cap })
    }

    /// Names and measures, in table order.
    #[must_use]
    pub(crate) fn measures(&self) -> &[(String, Measure)] {
        &self.measures
    }

    /// All metrics of a group of records, except for those that none of them has.
    ///
    /// # Errors
    ///
    /// When the group is empty, or a record lacks a round.
    pub fn of(&self, records: &[&ObjectRecord]) -> Result<Metrics, EvalError> {
        let mut metrics = Metrics::default();
        for (name, measure) in &self.measures {
            if records.is_empty() {
                return Err(EvalError::Nothing { metric: name.clone() });
            }
            let (mut sum, mut n_objects) = (0.0, 0);
            for record in records {
                if let Some(value) = self.value(name, *measure, record)? {
                    (sum, n_objects) = (sum + value, n_objects + 1);
                }
            }
            if n_objects == 0 {
                continue;
            }
            let (better, unit) = match measure {
                Measure::Iou(_) | Measure::OracleIou(_) | Measure::BoundaryIou(_) | Measure::Selectivity => {
                    (Better::Higher, Unit::Fraction)
                }
                Measure::Noc(_) => (Better::Lower, Unit::Clicks),
                Measure::Fail(_) | Measure::PredictedIouError => (Better::Lower, Unit::Fraction),
                Measure::AtCap(_) => (Better::Lower, Unit::Objects),
            };
            let value = if unit == Unit::Objects { sum } else { sum / n_objects as f64 };
            metrics.insert(name, Metric { value, better, unit, n_objects })?;
        }
        Ok(metrics)
    }

    /// The value of one metric on one object; `None` where it is not measured.
    ///
    /// # Errors
    ///
    /// When the record lacks a round.
    pub(crate) fn value(&self, name: &str, measure: Measure, record: &ObjectRecord) -> Result<Option<f64>, EvalError> {
        let lacking = |needed: String, got: String| EvalError::TooFewRounds {
            metric: name.to_owned(),
            needed,
            got,
            image: record.image.clone(),
            object_id: record.object_id,
        };
        let n_clicks = record.clicks().count();
        let round = |moment: Moment| -> Result<&Round, EvalError> {
            match moment {
                Moment::Click(k) => k
                    .checked_sub(1)
                    .and_then(|before| record.clicks().nth(before))
                    .ok_or_else(|| lacking(format!("{k} clicks"), n_clicks.to_string())),
                Moment::Box => record.box_round().ok_or_else(|| lacking("a box prompt".to_owned(), "none".to_owned())),
                Moment::Refined => {
                    record.refined().ok_or_else(|| lacking("a refinement".to_owned(), "none".to_owned()))
                }
            }
        };
        let measured = |value: Option<f64>, what: &str| {
            value.ok_or_else(|| lacking(what.to_owned(), "a round without it".to_owned()))
        };
        let noc = |percent: u32| -> Result<Option<usize>, EvalError> {
            let reached = record.clicks().take(self.noc_cap).position(|round| round.iou >= threshold(percent));
            if reached.is_none() && n_clicks < self.noc_cap {
                return Err(lacking(
                    format!("{} clicks where {percent} % is not reached", self.noc_cap),
                    n_clicks.to_string(),
                ));
            }
            Ok(reached.map(|at| at + 1))
        };
        Ok(Some(match measure {
            Measure::Iou(moment) => round(moment)?.iou,
            Measure::OracleIou(moment) => measured(round(moment)?.oracle_iou, "an oracle")?,
            Measure::BoundaryIou(moment) => measured(round(moment)?.boundary_iou, "a boundary IoU")?,
            Measure::Noc(percent) => noc(percent)?.unwrap_or(self.noc_cap) as f64,
            Measure::Fail(percent) => f64::from(u8::from(noc(percent)?.is_none())),
            Measure::AtCap(percent) => f64::from(u8::from(noc(percent)?.unwrap_or(self.noc_cap) == self.noc_cap)),
            Measure::PredictedIouError => {
                let sum: f64 = record.rounds.iter().map(|round| (round.predicted_iou - round.iou).abs()).sum();
                if record.rounds.is_empty() {
                    return Err(lacking("a round".to_owned(), "none".to_owned()));
                }
                sum / record.rounds.len() as f64
            }
            Measure::Selectivity => {
                return Ok(record.is_selective.map(|is_selective| f64::from(u8::from(is_selective))));
            }
        }))
    }
}

/// Groups records by a name, such as the class; records without it are skipped.
pub(crate) fn grouped<'a>(
    records: &[&'a ObjectRecord],
    name: impl Fn(&'a ObjectRecord) -> Option<&'a str>,
) -> BTreeMap<&'a str, Vec<&'a ObjectRecord>> {
    let mut groups: BTreeMap<&str, Vec<&ObjectRecord>> = BTreeMap::new();
    for record in records {
        if let Some(name) = name(record) {
            groups.entry(name).or_default().push(record);
        }
    }
    groups
}

fn threshold(percent: u32) -> f64 {
    f64::from(percent) / 100.0
}

fn check_config(protocol: &Protocol, config: &ClickMetricsConfig) -> Result<(), EvalError> {
    if let Some(k) = config.at_clicks.iter().find(|&&k| k == 0 || k > protocol.n_clicks) {
        let expected = format!("of 1 to {} (n_clicks of the protocol)", protocol.n_clicks);
        return Err(EvalError::option("at_clicks", expected, k));
    }
    if let (Some(stop), Some(k)) = (protocol.stop_at_iou, config.at_clicks.first()) {
        return Err(EvalError::option("at_clicks", format!("empty when the protocol stops at IoU {stop}"), k));
    }
    if config.noc_percent.is_empty() {
        return Ok(());
    }
    if protocol.start == Start::Box {
        let expected = "empty when start = \"box\": NoC counts clicks from none";
        return Err(EvalError::option("noc_percent", expected, "some"));
    }
    if config.noc_cap == 0 || config.noc_cap > protocol.n_clicks {
        let expected = format!("of 1 to {} (n_clicks)", protocol.n_clicks);
        return Err(EvalError::option("noc_cap", expected, config.noc_cap));
    }
    let stop = protocol.stop_at_iou.unwrap_or(1.0);
    match config.noc_percent.iter().find(|&&percent| percent == 0 || threshold(percent) > stop) {
        Some(percent) => {
            let expected = format!("of 1 to {} (where the protocol stops)", stop * 100.0);
            Err(EvalError::option("noc_percent", expected, percent))
        }
        None => Ok(()),
    }
}
