//! Metrics of texts as prompts: a value per text of an image, averaged over a group.
//!
//! Names: `miou_text` (the most confident mask), `miou_text_oracle` (the best of three), `miou_text_click` (with one more
//! click), `recall_50_text` and `recall_75_text` (the fraction of texts whose mask has this IoU), `miou_wrong_text` (the masks
//! of other texts of the image against this text's target: a model that does not listen has the same as for its own),
//! `prompt_selectivity_text` (the fraction of texts whose mask fits a target better than every other object of the image) and
//! `predicted_iou_error_text`.

use std::collections::BTreeMap;

use crate::error::EvalError;
use crate::metrics::metric::{Better, Metric, Metrics, Unit};
use crate::protocol::text_record::TextRecord;

/// A measure of one text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextMeasure {
    /// IoU of the most confident mask.
    Iou,
    /// The best IoU of all masks.
    Oracle,
    /// IoU with one click more.
    Click,
    /// Whether the most confident mask has this IoU, in percent.
    Recall(u32),
    /// IoU of the masks of wrong texts; not measured where there is none.
    Wrong,
    /// Whether the mask fits a target best; not measured where all objects are targets.
    Selectivity,
    /// |predicted IoU - IoU|.
    PredictedIouError,
}

/// Names and measures, in table order.
pub(crate) const TEXT_MEASURES: [(&str, TextMeasure); 8] = [
    ("miou_text", TextMeasure::Iou),
    ("miou_text_oracle", TextMeasure::Oracle),
    ("miou_text_click", TextMeasure::Click),
    ("recall_50_text", TextMeasure::Recall(50)),
    ("recall_75_text", TextMeasure::Recall(75)),
    ("miou_wrong_text", TextMeasure::Wrong),
    ("prompt_selectivity_text", TextMeasure::Selectivity),
    ("predicted_iou_error_text", TextMeasure::PredictedIouError),
];

impl TextMeasure {
    /// The value of one text; `None` where it is not measured.
    pub(crate) fn value(self, record: &TextRecord) -> Option<f64> {
        let share = |is_so: bool| f64::from(u8::from(is_so));
        Some(match self {
            Self::Iou => record.iou,
            Self::Oracle => record.oracle_iou,
            Self::Click => record.click_iou,
            Self::Recall(percent) => share(record.iou >= f64::from(percent) / 100.0),
            Self::Wrong => return record.wrong_iou,
            Self::Selectivity => return record.is_selective.map(share),
            Self::PredictedIouError => (record.predicted_iou - record.iou).abs(),
        })
    }

    fn better(self) -> Better {
        match self {
            Self::Wrong | Self::PredictedIouError => Better::Lower,
            _ => Better::Higher,
        }
    }
}

/// All metrics of a group of texts, except for those that none of them has.
///
/// # Errors
///
/// When the group is empty.
pub(crate) fn text_metrics(records: &[&TextRecord]) -> Result<Metrics, EvalError> {
    let mut metrics = Metrics::default();
    for (name, measure) in TEXT_MEASURES {
        if records.is_empty() {
            return Err(EvalError::Nothing { metric: name.to_owned() });
        }
        let values: Vec<f64> = records.iter().filter_map(|record| measure.value(record)).collect();
        if values.is_empty() {
            continue;
        }
        let n_objects = values.len();
        let value = values.iter().sum::<f64>() / n_objects as f64;
        metrics.insert(name, Metric { value, better: measure.better(), unit: Unit::Fraction, n_objects })?;
    }
    Ok(metrics)
}

/// Groups records by a name, such as the class; records without it are skipped.
pub(crate) fn grouped_texts<'a>(
    records: &[&'a TextRecord],
    name: impl Fn(&'a TextRecord) -> Option<&'a str>,
) -> BTreeMap<&'a str, Vec<&'a TextRecord>> {
    let mut groups: BTreeMap<&str, Vec<&TextRecord>> = BTreeMap::new();
    for record in records {
        if let Some(name) = name(record) {
            groups.entry(name).or_default().push(record);
        }
    }
    groups
}
