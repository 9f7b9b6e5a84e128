//! The table over several data sets, as Table 7 of the SAM paper has one for every set: means with their intervals.

use std::collections::BTreeMap;
use std::io::Write;

use sam_eval::{Bootstrap, EvalError, Interval, Metrics, Table, data_set_intervals};

use super::files::ModelOutcome;
use crate::output::{aligned, output};

/// The metrics that papers print for a data set, in this order; of those that were computed, the first few are shown.
const SHOWN: [&str; 16] = [
    "miou_1",
    "miou_1_oracle",
    "miou_1_random",
    "miou_3",
    "miou_5",
    "miou_9",
    "miou_box",
    "miou_text",
    "miou_text_click",
    "miou_wrong_text",
    "mask_ap",
    "mask_ar_1000",
    "edge_ods",
    "edge_ois",
    "edge_ap",
    "edge_r50",
];
/// More columns do not fit a page.
const MOST_COLUMNS: usize = 6;

/// One row for each data set, and the mean over them; none for a single data set.
pub(super) fn table(outcome: &ModelOutcome, bootstrap: &Bootstrap) -> Result<Option<Table>, EvalError> {
    let results = &outcome.results;
    if results.data_sets.len() < 2 {
        return Ok(None);
    }
    let names: Vec<&str> = SHOWN.into_iter().filter(|name| results.metrics.contains(name)).take(MOST_COLUMNS).collect();
    let intervals: BTreeMap<(String, String), Interval> = data_set_intervals(results, &names, bootstrap)?
        .into_iter()
        .map(|found| ((found.data_set, found.metric), found.interval))
        .collect();
    let cells = |set: &str, metrics: &Metrics| -> Vec<String> {
        let cell = |name: &&str| match (metrics.get(name), intervals.get(&(set.to_owned(), (*name).to_owned()))) {
            (Ok(_), Some(Interval { value, low, high, .. })) => format!("{value:.4} ({low:.4} to {high:.4})"),
            (Ok(metric), None) => format!("{:.4}", metric.value),
            (Err(_), _) => "–".to_owned(),
        };
        names.iter().map(cell).collect()
    };
    let mut rows = Vec::new();
    for set in &results.data_sets {
        let n_measured = set.metrics.iter().map(|(_, metric)| metric.n_objects).max().unwrap_or(0);
        let n_images = if set.n_images > 0 { set.n_images.to_string() } else { "–".to_owned() };
        let counts = [n_images, set.n_objects.max(n_measured).to_string()];
        rows.push([vec![set.name.clone()], counts.to_vec(), cells(&set.name, &set.metrics)].concat());
    }
    let mean = vec!["mean over data sets".to_owned(), String::new(), String::new()];
    rows.push([mean, cells("", &results.metrics)].concat());
    let header = ["data set", "images", "objects"].into_iter().chain(names).map(str::to_owned).collect();
    let title = format!("Data sets: {}", outcome.name);
    let note = "Means over the objects of each data set, with bootstrap intervals over its images.".to_owned();
    Ok(Some(Table { title, note, header, rows }))
}

/// Prints a table with aligned columns.
pub(super) fn print(table: &Table) -> std::io::Result<()> {
    let rows: Vec<Vec<String>> = std::iter::once(&table.header).chain(&table.rows).cloned().collect();
    write!(output(), "\n{}\n{}", table.title, aligned(&rows))
}
