//! The tables of a probe on standard output: one for each classifier.

use std::io::Write;

use sam_eval::{ClassScores, Interval};

use super::files::{ProbeResults, Row, Scores};
use crate::output::output;

pub(crate) fn print(results: &ProbeResults) -> std::io::Result<()> {
    let mut out = output();
    let is_compared = results.rows.iter().any(|row| row.neighbours.less_random.is_some());
    let of_neighbours = format!("nearest neighbours, k = {}", results.neighbours);
    print_classifier(&mut out, results, &of_neighbours, is_compared, |row| &row.neighbours)?;
    print_classifier(&mut out, results, "linear layer", is_compared, |row| &row.linear)?;
    if is_compared {
        writeln!(out, "\n* significant: zero lies outside the 95 % interval of the paired bootstrap over images")?;
    }
    Ok(())
}

fn print_classifier(
    out: &mut impl Write,
    results: &ProbeResults,
    title: &str,
    is_compared: bool,
    scores: impl Fn(&Row) -> &Scores,
) -> std::io::Result<()> {
    let header = [title, "features", "accuracy", "balanced", if is_compared { "minus random weights" } else { "" }];
    let mut rows = vec![header.map(str::to_owned)];
    rows.extend(results.rows.iter().map(|row| {
        let Scores { scores, less_random } = scores(row);
        let [accuracy, balanced] = cells(scores);
        let difference = less_random.map_or_else(String::new, difference);
        [row.name.clone(), row.width.to_string(), accuracy, balanced, difference]
    }));
    let [accuracy, balanced] = cells(&results.most_frequent_class);
    rows.push(["the most frequent class".to_owned(), String::new(), accuracy, balanced, String::new()]);
    writeln!(out)?;
    print_rows(out, &rows)
}

fn cells(scores: &ClassScores) -> [String; 2] {
    let Interval { value, low, high, .. } = scores.accuracy;
    [format!("{value:.4} ({low:.4} to {high:.4})"), format!("{:.4}", scores.balanced_accuracy)]
}

fn difference(interval: Interval) -> String {
    let Interval { value, low, high, .. } = interval;
    let mark = if interval.is_significant() { " *" } else { "" };
    format!("{value:+.4} ({low:+.4} to {high:+.4}){mark}")
}

/// Aligned columns; the second one contains numbers.
fn print_rows(out: &mut impl Write, rows: &[[String; 5]]) -> std::io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 5] = std::array::from_fn(width);
    for row in rows {
        let cell = |column: usize| match column {
            1 => format!("{:>1$}", row[column], widths[column]),
            _ => format!("{:1$}", row[column], widths[column]),
        };
        let cells: [String; 5] = std::array::from_fn(cell);
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
