//! Comparison of two or more evaluations of the same objects: values and paired differences with confidence intervals.

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::metrics::bootstrap::{Bootstrap, ImageSum, Interval, mean_interval};
use crate::metrics::click_metrics::{ClickMetrics, Measure};
use crate::metrics::results::{Results, Run};
use crate::metrics::text_metrics::TEXT_MEASURES;
use crate::protocol::object_record::ObjectRecord;
use crate::protocol::settings::Protocol;
use crate::protocol::text_record::{TextRecord, TextRun};

/// One metric of all models.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ComparisonRow {
    /// Name of the metric.
    pub metric: String,
    /// Interval of each model.
    pub intervals: Vec<Interval>,
    /// Paired difference of each later model and the first.
    pub differences: Vec<Interval>,
}

/// Compares the metrics of clicks, boxes and texts of models against those of the first. A single model has intervals only.
/// The values are those of [`Results::metrics`].
///
/// # Errors
///
/// When there is no model, or protocols or objects differ.
pub fn compare(models: &[&Results], config: &Bootstrap) -> Result<Vec<ComparisonRow>, EvalError> {
    let Some((first, others)) = models.split_first() else {
        return Err(EvalError::Nothing { metric: "a comparison".to_owned() });
    };
    for (at, other) in others.iter().enumerate() {
        check_paired(first, other, at + 2)?;
    }
    let mut rows = Vec::new();
    for (at, run) in first.runs.iter().enumerate().filter(|(_, run)| !run.records.is_empty()) {
        let metrics = ClickMetrics::new(&run.protocol, &run.click_metrics)?;
        // The bootstrap is over means; counts are excluded.
        for (name, measure) in metrics.measures().iter().filter(|(_, measure)| !matches!(measure, Measure::AtCap(_))) {
            let sums =
                |model: &&Results| image_sums(&model.runs[at].records, |record| metrics.value(name, *measure, record));
            let of_models: Vec<Vec<Vec<ImageSum>>> = models.iter().map(sums).collect::<Result<_, _>>()?;
            if of_models[0].is_empty() {
                continue;
            }
            rows.push(row(name, &of_models, config)?);
        }
    }
    let texts: Vec<&TextRun> = models.iter().filter_map(|model| model.texts.as_ref()).collect();
    for (name, measure) in TEXT_MEASURES.iter().filter(|_| !texts.is_empty()) {
        let sums = |run: &&TextRun| image_sums(&run.records, |record| Ok(measure.value(record)));
        let of_models: Vec<Vec<Vec<ImageSum>>> = texts.iter().map(sums).collect::<Result<_, _>>()?;
        if !of_models[0].is_empty() {
            rows.push(row(name, &of_models, config)?);
        }
    }
    Ok(rows)
}

fn row(name: &str, of_models: &[Vec<Vec<ImageSum>>], config: &Bootstrap) -> Result<ComparisonRow, EvalError> {
    let difference = |later: &Vec<Vec<ImageSum>>| mean_interval(&differences(later, &of_models[0]), config);
    Ok(ComparisonRow {
        metric: name.to_owned(),
        intervals: of_models.iter().map(|sums| mean_interval(sums, config)).collect::<Result<_, _>>()?,
        differences: of_models[1..].iter().map(difference).collect::<Result<_, _>>()?,
    })
}

/// A metric of one data set.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSetInterval {
    /// Name of the data set.
    pub data_set: String,
    /// Name of the metric.
    pub metric: String,
    /// Its value and interval.
    pub interval: Interval,
}

/// The intervals of some click metrics for each data set, resampled by its images.
///
/// # Errors
///
/// When a setting is invalid.
pub fn data_set_intervals(
    results: &Results,
    metrics: &[&str],
    config: &Bootstrap,
) -> Result<Vec<DataSetInterval>, EvalError> {
    let mut found = Vec::new();
    for run in &results.runs {
        let click_metrics = ClickMetrics::new(&run.protocol, &run.click_metrics)?;
        let is_wanted = |(name, measure): &&(String, Measure)| {
            metrics.contains(&name.as_str()) && !matches!(measure, Measure::AtCap(_))
        };
        for (name, measure) in click_metrics.measures().iter().filter(is_wanted) {
            for records in run.records.chunk_by(|a, b| a.data_set == b.data_set) {
                let sums = image_sums(records, |record| click_metrics.value(name, *measure, record))?;
                if !sums.is_empty() {
                    let (data_set, metric) = (records[0].data_set.clone(), name.clone());
                    found.push(DataSetInterval { data_set, metric, interval: mean_interval(&sums, config)? });
                }
            }
        }
    }
    if let Some(run) = &results.texts {
        for (name, measure) in TEXT_MEASURES.iter().filter(|(name, _)| metrics.contains(name)) {
            for records in run.records.chunk_by(|a, b| a.data_set == b.data_set) {
                let sums = image_sums(records, |record| Ok(measure.value(record)))?;
                if !sums.is_empty() {
                    let (data_set, metric) = (records[0].data_set.clone(), (*name).to_owned());
                    found.push(DataSetInterval { data_set, metric, interval: mean_interval(&sums, config)? });
                }
            }
        }
    }
    Ok(found)
}

fn check_paired(first: &Results, other: &Results, number: usize) -> Result<(), EvalError> {
    // The batch size does not affect results.
    let same_protocol = |a: &Run, b: &Run| {
        a.protocol == Protocol { objects_per_call: a.protocol.objects_per_call, ..b.protocol.clone() }
    };
    let pairs = || first.runs.iter().zip(&other.runs);
    if first.runs.len() != other.runs.len() || !pairs().all(|(a, b)| same_protocol(a, b)) {
        let difference = format!("other protocols in evaluation {number} than in evaluation 1");
        return Err(EvalError::Unpaired { difference });
    }
    for (Run { records: a, .. }, Run { records: b, .. }) in pairs() {
        if a.len() != b.len() {
            return Err(EvalError::Unpaired { difference: format!("{} and {} objects", a.len(), b.len()) });
        }
        if let Some((a, b)) = a.iter().zip(b).find(|(a, b)| ObjectRecord::by_name(a, b).is_ne()) {
            let difference = format!("{} on one side and {} on the other", a.place(), b.place());
            return Err(EvalError::Unpaired { difference });
        }
    }
    check_paired_texts(first.texts.as_ref(), other.texts.as_ref(), number)
}

/// The masks of wrong texts must be of the same texts, too.
fn check_paired_texts(first: Option<&TextRun>, other: Option<&TextRun>, number: usize) -> Result<(), EvalError> {
    let difference = match (first, other) {
        (None, None) => return Ok(()),
        (Some(a), Some(b)) if a.settings == b.settings => {
            if a.records.len() == b.records.len() {
                match a.records.iter().zip(&b.records).find(|(a, b)| TextRecord::by_name(a, b).is_ne()) {
                    None => return Ok(()),
                    Some((a, b)) => format!("{} on one side and {} on the other", a.place(), b.place()),
                }
            } else {
                format!("{} and {} texts", a.records.len(), b.records.len())
            }
        }
        _ => format!("other texts in evaluation {number} than in evaluation 1"),
    };
    Err(EvalError::Unpaired { difference })
}

/// What is sampled with its image.
pub(crate) trait OfImage {
    fn data_set(&self) -> &str;
    fn image(&self) -> &str;
}

impl OfImage for ObjectRecord {
    fn data_set(&self) -> &str {
        &self.data_set
    }

    fn image(&self) -> &str {
        &self.image
    }
}

impl OfImage for TextRecord {
    fn data_set(&self) -> &str {
        &self.data_set
    }

    fn image(&self) -> &str {
        &self.image
    }
}

impl<R: OfImage> OfImage for &R {
    fn data_set(&self) -> &str {
        (*self).data_set()
    }

    fn image(&self) -> &str {
        (*self).image()
    }
}

/// Sums over the objects or texts of each image that have a value, by data set, without images and data sets that have none: which
/// objects have one does not depend on the model. The records are sorted by name.
pub(crate) fn image_sums<R: OfImage>(
    records: &[R],
    value: impl Fn(&R) -> Result<Option<f64>, EvalError>,
) -> Result<Vec<Vec<ImageSum>>, EvalError> {
    let image = |records: &[R]| {
        let mut image = ImageSum { sum: 0.0, n_objects: 0.0 };
        for record in records {
            if let Some(value) = value(record)? {
                image = ImageSum { sum: image.sum + value, n_objects: image.n_objects + 1.0 };
            }
        }
        Ok(Some(image).filter(|image| image.n_objects > 0.0))
    };
    let data_set = |records: &[R]| -> Result<Vec<ImageSum>, EvalError> {
        records.chunk_by(|a, b| a.image() == b.image()).filter_map(|records| image(records).transpose()).collect()
    };
    let data_sets: Result<Vec<Vec<ImageSum>>, EvalError> =
        records.chunk_by(|a, b| a.data_set() == b.data_set()).map(data_set).collect();
    Ok(data_sets?.into_iter().filter(|images| !images.is_empty()).collect())
}

fn differences(later: &[Vec<ImageSum>], first: &[Vec<ImageSum>]) -> Vec<Vec<ImageSum>> {
    let image = |(later, first): (&ImageSum, &ImageSum)| ImageSum { sum: later.sum - first.sum, ..*later };
    later.iter().zip(first).map(|(later, first)| later.iter().zip(first).map(image).collect()).collect()
}
