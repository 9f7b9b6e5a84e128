//! The short table of an evaluation on standard output.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use sam_eval::{ComparisonRow, FEWEST_IMAGES, Interval, Metric, Unit};
use sam_learn::record::rate;

use super::files::ModelOutcome;
use crate::failure::Failure;
use crate::output::output;

/// Each metric over all objects with its bootstrap interval; with several checkpoints, their differences, too.
pub(crate) fn print(
    outcomes: &[ModelOutcome],
    comparison: &[ComparisonRow],
    out: Option<&Path>,
) -> Result<(), Failure> {
    let mut rows = vec![header(outcomes)];
    let intervals: BTreeMap<&str, &ComparisonRow> = comparison.iter().map(|row| (row.metric.as_str(), row)).collect();
    let Some(first) = outcomes.first() else { return Ok(()) };
    for (name, _) in first.results.metrics.iter() {
        let row = intervals.get(name);
        let mut cells = vec![name.to_owned()];
        for (at, outcome) in outcomes.iter().enumerate() {
            let metric = outcome.results.metrics.get(name).ok();
            let interval = row.map(|row| row.intervals[at]);
            cells.push(metric.map_or_else(|| "-".to_owned(), |metric| shown(*metric, interval)));
        }
        if let Some(row) = row {
            cells.extend(row.differences.iter().map(|difference| {
                let mark = if difference.is_significant() { " *" } else { "" };
                format!("{:+.4} ({:+.4} to {:+.4}){mark}", difference.value, difference.low, difference.high)
            }));
        }
        rows.push(cells);
    }
    let mut stdout = output();
    let widths: Vec<usize> = (0..rows[0].len())
        .map(|column| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    for row in &rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        writeln!(stdout, "{}", cells.join("  ").trim_end())?;
    }
    if outcomes.len() > 1 && !comparison.is_empty() {
        let differences = comparison.iter().flat_map(|row| &row.differences);
        match differences.map(|difference| difference.n_images).min() {
            Some(n_images) if n_images < FEWEST_IMAGES => writeln!(
                stdout,
                "too few images ({n_images}) to tell a difference from chance; at least {FEWEST_IMAGES} are needed"
            )?,
            _ => {
                writeln!(
                    stdout,
                    "* significant: zero lies outside the 95 % interval of the paired bootstrap over images"
                )?;
            }
        }
    }
    for outcome in outcomes {
        let sets = &outcome.results.data_sets;
        let n_objects: usize = sets.iter().map(|data_set| data_set.n_objects).sum();
        if n_objects > 0 {
            let per_s = rate(n_objects as f64 / outcome.seconds);
            writeln!(stdout, "{}: {n_objects} objects in {:.1} s, {per_s} per second", outcome.name, outcome.seconds)?;
        }
    }
    if let Some(out) = out {
        writeln!(stdout, "report: {}", out.join("report.html").display())?;
    }
    Ok(())
}

fn header(outcomes: &[ModelOutcome]) -> Vec<String> {
    let mut cells = vec!["metric".to_owned()];
    cells.extend(outcomes.iter().map(|outcome| outcome.name.clone()));
    cells.extend(outcomes.iter().skip(1).map(|outcome| format!("{} minus {}", outcome.name, outcomes[0].name)));
    cells
}

fn shown(metric: Metric, interval: Option<Interval>) -> String {
    let digits = match metric.unit {
        Unit::Fraction => 4,
        Unit::Clicks => 2,
        Unit::Objects => 0,
    };
    match interval {
        Some(Interval { low, high, .. }) => {
            format!("{:.digits$} ({low:.digits$} to {high:.digits$})", metric.value)
        }
        None => format!("{:.digits$}", metric.value),
    }
}
