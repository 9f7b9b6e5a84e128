//! The last phase: is the new model better on the validation masks?
//!
//! Both models are measured on the same masks, so their difference is paired by image. The new one is taken when its mean of
//! one click is higher and no other metric drops by more than is allowed.

use sam_eval::{Bootstrap, Interval, Results, compare};
use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// The mean IoU of one click, with the best of the three masks: what a person sees who chooses among them.
const METRIC: &str = "miou_1_oracle";

/// What people do besides: trust the most confident mask, click again, draw a box; and what proposals stand on.
const GUARDED: [(&str, bool); 6] = [
    ("miou_1", true),
    ("miou_3", true),
    ("miou_box_oracle", true),
    ("miou_box", true),
    // A model that gives one mask whatever is clicked.
    ("prompt_selectivity", true),
    // Lower is better: without a calibrated score, proposals disappear.
    ("predicted_iou_error", false),
];

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Seconds since 1970.
    pub finished_unix_s: u64,
    /// Whether the new model is in use.
    pub verdict: Verdict,
    /// Why, for people.
    pub reasons: Vec<String>,
    /// The metric, before and after; `None` when it was not measured.
    pub gain: Option<Gain>,
}

/// Whether a model is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is in use.
    Promoted,
    /// The one before stays in use.
    Refused,
    /// There is no model.
    Failed,
}

/// A metric of both models with 95 % intervals.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gain {
    /// Its name.
    pub metric: String,
    /// Of the model in use.
    pub before: Interval,
    /// Of the new one.
    pub after: Interval,
    /// Paired.
    pub difference: Interval,
}

/// Compares the evaluations of the model in use and of the new one.
///
/// # Errors
///
/// When they are not of the same masks.
pub fn decide(before: &Results, after: &Results, max_drop: f64, now_unix_s: u64) -> Result<Decision, EngineError> {
    let rows = compare(&[before, after], &Bootstrap::default())?;
    let gain = |metric: &str| {
        let row = rows.iter().find(|row| row.metric == metric)?;
        let &[before, after] = row.intervals.as_slice() else { return None };
        Some(Gain { metric: metric.to_owned(), before, after, difference: *row.differences.first()? })
    };
    let mut reasons = Vec::new();
    let main = gain(METRIC);
    let is_better = main.as_ref().is_some_and(|gain| gain.difference.value > 0.0);
    match &main {
        None => reasons.push(format!("{METRIC} was not measured")),
        Some(gain) => {
            let [points, low, high] =
                [gain.difference.value, gain.difference.low, gain.difference.high].map(|value| 100.0 * value);
            reasons.push(format!("mIoU of one click: {points:+.1} points ({low:+.1} to {high:+.1})"));
            if gain.difference.has_few_images() {
                reasons.push(format!("in only {} images, which may be chance", gain.difference.n_images));
            } else if is_better && !gain.difference.excludes_zero() {
                reasons.push("which may be chance".to_owned());
            }
        }
    }
    let mut holds = true;
    for (metric, is_higher_better) in GUARDED {
        let Some(gain) = gain(metric) else { continue };
        let loss = if is_higher_better { -gain.difference.value } else { gain.difference.value };
        if loss > max_drop {
            holds = false;
            let (before, after) = (gain.before.value, gain.after.value);
            reasons.push(format!("{metric} would get worse: {before:.3} to {after:.3}"));
        }
    }
    let verdict = if is_better && holds { Verdict::Promoted } else { Verdict::Refused };
    Ok(Decision { finished_unix_s: now_unix_s, verdict, reasons, gain: main })
}
