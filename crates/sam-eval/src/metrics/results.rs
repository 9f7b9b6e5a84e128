//! The results of an evaluation: written as `results.json`, read by a later gate or comparison, and flattened into CSV.
//!
//! Metrics of a data set are means over its objects; the top-level metrics are means over data sets, as in the 23-set table
//! of the SAM paper (Fig. 9), and so are those by size. Full names of nested metrics carry a prefix:
//! `small/miou_1`, `coco-val/miou_1`, `coco-val/small/miou_1`, `coco-val/class:cat/miou_1`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use sam_files::printable;
use serde::{Deserialize, Serialize};

use crate::data_texts::TextKind;
use crate::error::EvalError;
use crate::metrics::calibration::Calibration;
use crate::metrics::click_metrics::{ClickMetrics, ClickMetricsConfig, grouped};
use crate::metrics::metric::{Metric, Metrics, nearest};
use crate::metrics::text_metrics::{grouped_texts, text_metrics};
use crate::protocol::object_record::{ObjectRecord, RoundPrompt, sort_records};
use crate::protocol::settings::Protocol;
use crate::protocol::text_record::{TextRecord, TextRun};

/// Version of the file format; incremented when its meaning changes.
pub(crate) const FORMAT: u32 = 1;

/// One evaluation of one checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Version of the file format.
    pub format: u32,
    /// Free-form metadata: checkpoint, device, version, time.
    pub about: BTreeMap<String, String>,
    /// Means over data sets.
    pub metrics: Metrics,
    /// Means over data sets, by object size.
    pub by_size: BTreeMap<String, Metrics>,
    /// Results of each data set.
    pub data_sets: Vec<DataSetResults>,
    /// Each protocol with its records, from which all click metrics derive.
    pub runs: Vec<Run>,
    /// Texts as prompts, with their records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texts: Option<TextRun>,
}

/// The results of one data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataSetResults {
    /// Name of the data set.
    pub name: String,
    /// Number of images with at least one record.
    pub n_images: usize,
    /// Number of objects, of the protocol with the most; with texts alone, the number of texts of images.
    pub n_objects: usize,
    /// Metrics over all objects.
    pub metrics: Metrics,
    /// Metrics by object size.
    pub by_size: BTreeMap<String, Metrics>,
    /// Metrics by class.
    pub by_class: BTreeMap<String, Metrics>,
}

/// A protocol with its records.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// The protocol.
    pub protocol: Protocol,
    /// The computed metrics.
    pub click_metrics: ClickMetricsConfig,
    /// Calibration of the predicted IoU.
    pub calibration: Option<Calibration>,
    /// Sorted by data set, image and object.
    pub records: Vec<ObjectRecord>,
}

impl Run {
    /// Sorts the records and computes the calibration.
    ///
    /// # Errors
    ///
    /// When an object occurs twice, or the protocol does not allow the metrics.
    pub fn new(
        protocol: Protocol,
        click_metrics: ClickMetricsConfig,
        mut records: Vec<ObjectRecord>,
    ) -> Result<Self, EvalError> {
        sort_records(&mut records)?;
        ClickMetrics::new(&protocol, &click_metrics)?;
        let calibration = Calibration::of(&records.iter().collect::<Vec<_>>());
        Ok(Self { protocol, click_metrics, calibration, records })
    }
}

impl Results {
    /// Combines runs, and AP and AR by data set, in any order.
    ///
    /// # Errors
    ///
    /// When two runs have a metric of the same name, or a record lacks a round.
    pub fn new(
        about: BTreeMap<String, String>,
        runs: Vec<Run>,
        average_precisions: &[(String, Metrics)],
    ) -> Result<Self, EvalError> {
        Self::with_texts(about, runs, None, average_precisions)
    }

    /// As [`Results::new`], with the texts of an evaluation.
    ///
    /// # Errors
    ///
    /// As [`Results::new`].
    pub fn with_texts(
        about: BTreeMap<String, String>,
        runs: Vec<Run>,
        texts: Option<TextRun>,
        average_precisions: &[(String, Metrics)],
    ) -> Result<Self, EvalError> {
        let mut data_sets: BTreeMap<&str, DataSetResults> = BTreeMap::new();
        for run in &runs {
            let metrics = ClickMetrics::new(&run.protocol, &run.click_metrics)?;
            let all: Vec<&ObjectRecord> = run.records.iter().collect();
            for (name, records) in grouped(&all, |record| Some(&record.data_set)) {
                let data_set = data_sets.entry(name).or_default();
                data_set.add(&metrics, &records)?;
            }
        }
        if let Some(run) = &texts {
            let all: Vec<&TextRecord> = run.records.iter().collect();
            for (name, records) in grouped_texts(&all, |record| Some(&record.data_set)) {
                data_sets.entry(name).or_default().add_texts(&records)?;
            }
        }
        for (name, metrics) in average_precisions {
            data_sets.entry(name).or_default().metrics.extend(metrics)?;
        }
        let named = |(name, results): (&str, DataSetResults)| DataSetResults { name: name.to_owned(), ..results };
        let data_sets: Vec<DataSetResults> = data_sets.into_iter().map(named).collect();
        let metrics = mean_over(data_sets.iter().map(|data_set| &data_set.metrics))?;
        let mut sizes: BTreeMap<String, Vec<&Metrics>> = BTreeMap::new();
        for (size, metrics) in data_sets.iter().flat_map(|data_set| &data_set.by_size) {
            sizes.entry(size.clone()).or_default().push(metrics);
        }
        let mut by_size = BTreeMap::new();
        for (size, metrics) in sizes {
            by_size.insert(size, mean_over(metrics.into_iter())?);
        }
        Ok(Self { format: FORMAT, about, metrics, by_size, data_sets, runs, texts })
    }

    /// All metrics by full name.
    #[must_use]
    pub fn flat(&self) -> BTreeMap<String, Metric> {
        let mut flat = BTreeMap::new();
        let mut add = |place: &str, metrics: &Metrics| {
            flat.extend(metrics.iter().map(|(name, &metric)| (format!("{place}{name}"), metric)));
        };
        add("", &self.metrics);
        for (size, metrics) in &self.by_size {
            add(&format!("{size}/"), metrics);
        }
        for DataSetResults { name, metrics, by_size, by_class, .. } in &self.data_sets {
            add(&format!("{name}/"), metrics);
            for (size, metrics) in by_size {
                add(&format!("{name}/{size}/"), metrics);
            }
            for (class, metrics) in by_class {
                add(&format!("{name}/class:{class}/"), metrics);
            }
        }
        flat
    }

    /// The metric of this full name.
    ///
    /// # Errors
    ///
    /// When it was not computed; the error lists the nearest names.
    pub fn metric(&self, name: &str) -> Result<Metric, EvalError> {
        let flat = self.flat();
        flat.get(name).copied().ok_or_else(|| EvalError::UnknownMetric {
            name: name.to_owned(),
            hint: nearest(name, flat.keys().map(String::as_str)),
        })
    }

    /// The content of `results.json`.
    ///
    /// # Errors
    ///
    /// Never in practice.
    pub fn to_json(&self) -> Result<String, EvalError> {
        let failed = |source| EvalError::Json { name: "results.json".to_owned(), expected: "writable", source };
        serde_json::to_string_pretty(self).map_err(failed)
    }

    /// Parses a `results.json`; `name` is for error messages.
    ///
    /// # Errors
    ///
    /// When it is not a `results.json`, or of another format version.
    pub fn from_json(name: &str, text: &str) -> Result<Self, EvalError> {
        let expected = "a results.json of an evaluation";
        let results: Self =
            serde_json::from_str(text).map_err(|source| EvalError::Json { name: name.to_owned(), expected, source })?;
        if results.format != FORMAT {
            let (expected, got) = (FORMAT.to_string(), results.format.to_string());
            return Err(EvalError::Content { name: name.to_owned(), what: "format".to_owned(), expected, got });
        }
        Ok(results)
    }

    /// All metrics as CSV: name, value, direction, unit, number of objects.
    #[must_use]
    pub fn metrics_csv(&self) -> String {
        let mut csv = "metric,value,better,unit,n_objects\n".to_owned();
        for (name, metric) in self.flat() {
            let row = [name, metric.value.to_string(), metric.better.name().to_owned(), metric.unit.name().to_owned()];
            push_row(&mut csv, row.iter().map(String::as_str).chain([metric.n_objects.to_string().as_str()]));
        }
        csv
    }

    /// All rounds of all objects as CSV, one row per round.
    #[must_use]
    pub fn rounds_csv(&self) -> String {
        let mut csv =
            "run,data_set,image,object_id,class,size,area_px,round,prompt,click_x,click_y,click_positive,iou,\
                       predicted_iou,oracle_iou,boundary_iou\n"
                .to_owned();
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| value.to_string());
        for (run, records) in self.runs.iter().map(|run| &run.records).enumerate() {
            for record in records {
                for (at, round) in record.rounds.iter().enumerate() {
                    let (prompt, click) = match round.prompt {
                        RoundPrompt::Box => ("box", None),
                        RoundPrompt::Refinement => ("refinement", None),
                        RoundPrompt::Click(click) => ("click", Some(click)),
                    };
                    let of_click =
                        |what: &dyn Fn(crate::protocol::clicks::Click) -> String| click.map_or_else(String::new, what);
                    push_row(
                        &mut csv,
                        [
                            run.to_string().as_str(),
                            &record.data_set,
                            &record.image,
                            &record.object_id.to_string(),
                            record.class.as_deref().unwrap_or_default(),
                            record.size.name(),
                            &record.area_px.to_string(),
                            &(at + 1).to_string(),
                            prompt,
                            &of_click(&|click| click.column.to_string()),
                            &of_click(&|click| click.row.to_string()),
                            &of_click(&|click| click.is_positive.to_string()),
                            &round.iou.to_string(),
                            &round.predicted_iou.to_string(),
                            &number(round.oracle_iou),
                            &number(round.boundary_iou),
                        ],
                    );
                }
            }
        }
        csv
    }
}

impl TextRun {
    /// All texts of all images as CSV, one row per text.
    #[must_use]
    pub fn csv(&self) -> String {
        let mut csv = "data_set,image,kind,text,class,n_targets,object_id,size,area_px,iou,predicted_iou,oracle_iou,\
                       wrong_iou,found_id,found_class,click_x,click_y,click_positive,click_iou\n"
            .to_owned();
        for record in &self.records {
            let kind = match record.kind {
                TextKind::Caption => "caption",
                TextKind::Class => "class",
            };
            push_row(
                &mut csv,
                [
                    record.data_set.as_str(),
                    &record.image,
                    kind,
                    &record.text,
                    record.class.as_deref().unwrap_or_default(),
                    &record.n_targets.to_string(),
                    &record.object_id.to_string(),
                    record.size.name(),
                    &record.area_px.to_string(),
                    &record.iou.to_string(),
                    &record.predicted_iou.to_string(),
                    &record.oracle_iou.to_string(),
                    &record.wrong_iou.map_or_else(String::new, |iou| iou.to_string()),
                    &record.found_id.map_or_else(String::new, |id| id.to_string()),
                    record.found_class.as_deref().unwrap_or_default(),
                    &record.click.column.to_string(),
                    &record.click.row.to_string(),
                    &record.click.is_positive.to_string(),
                    &record.click_iou.to_string(),
                ],
            );
        }
        csv
    }
}

impl DataSetResults {
    fn add(&mut self, metrics: &ClickMetrics, records: &[&ObjectRecord]) -> Result<(), EvalError> {
        let n_images = grouped(records, |record| Some(&record.image)).len();
        self.n_images = self.n_images.max(n_images);
        self.n_objects = self.n_objects.max(records.len());
        self.metrics.extend(&metrics.of(records)?)?;
        for (size, records) in grouped(records, |record| Some(record.size.name())) {
            self.by_size.entry(size.to_owned()).or_default().extend(&metrics.of(&records)?)?;
        }
        for (class, records) in grouped(records, |record| record.class.as_deref()) {
            self.by_class.entry(class.to_owned()).or_default().extend(&metrics.of(&records)?)?;
        }
        Ok(())
    }

    fn add_texts(&mut self, records: &[&TextRecord]) -> Result<(), EvalError> {
        self.n_images = self.n_images.max(grouped_texts(records, |record| Some(&record.image)).len());
        if self.n_objects == 0 {
            self.n_objects = records.len();
        }
        self.metrics.extend(&text_metrics(records)?)?;
        for (size, records) in grouped_texts(records, |record| Some(record.size.name())) {
            self.by_size.entry(size.to_owned()).or_default().extend(&text_metrics(&records)?)?;
        }
        for (class, records) in grouped_texts(records, |record| record.class.as_deref()) {
            self.by_class.entry(class.to_owned()).or_default().extend(&text_metrics(&records)?)?;
        }
        Ok(())
    }
}

/// The mean of each metric over the data sets that have it, with equal weights.
fn mean_over<'a>(data_sets: impl Iterator<Item = &'a Metrics>) -> Result<Metrics, EvalError> {
    let mut by_name: BTreeMap<&str, Vec<&Metric>> = BTreeMap::new();
    for (name, metric) in data_sets.flat_map(Metrics::iter) {
        by_name.entry(name).or_default().push(metric);
    }
    let mut means = Metrics::default();
    for (name, values) in by_name {
        let value = values.iter().map(|metric| metric.value).sum::<f64>() / values.len() as f64;
        let n_objects = values.iter().map(|metric| metric.n_objects).sum();
        means.insert(name, Metric { value, n_objects, ..*values[0] })?;
    }
    Ok(means)
}

/// A field that no spreadsheet takes for a formula (OWASP, "CSV injection"): a name that begins like one gets an apostrophe,
/// which spreadsheets hide. Numbers stay numbers.
fn harmless(field: &str) -> Cow<'_, str> {
    let field = printable(field);
    let begins_formula = field.starts_with(['=', '+', '-', '@', '\t', '\n']) && field.parse::<f64>().is_err();
    if begins_formula { Cow::Owned(format!("'{field}")) } else { field }
}

/// Appends a line of CSV, quoted as in RFC 4180.
fn push_row<'a>(csv: &mut String, fields: impl IntoIterator<Item = &'a str>) {
    for (at, field) in fields.into_iter().enumerate() {
        if at > 0 {
            csv.push(',');
        }
        let field = harmless(field);
        if field.contains([',', '"', '\n', '\r']) {
            let _ = write!(csv, "\"{}\"", field.replace('"', "\"\""));
        } else {
            csv.push_str(&field);
        }
    }
    csv.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_neither_formulas_nor_commands() {
        let mut csv = String::new();
        let fields = ["=1+1", "+x", "-x", "@SUM(A1)", "\tx", "-0.5", "1e-3", "NaN", "a,\"b\"", "c\u{1b}[2J", "miou_1"];
        push_row(&mut csv, fields);
        let expected = "'=1+1,'+x,'-x,'@SUM(A1),'\tx,-0.5,1e-3,NaN,\"a,\"\"b\"\"\",c\\u{1b}[2J,miou_1\n";
        assert_eq!(csv, expected);
    }
}
