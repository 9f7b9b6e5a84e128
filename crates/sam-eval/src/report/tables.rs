//! The tables of an evaluation report.

use std::collections::BTreeSet;

use crate::metrics::bootstrap::{FEWEST_IMAGES, Interval};
use crate::metrics::metric::{Better, Metric, Metrics, Unit, natural_order};
use crate::metrics::results::{DataSetResults, Results};
use crate::report::content::Report;
use crate::report::page::Table;
use crate::report::text_tables::text_tables;

/// All tables, in reading order.
pub(crate) fn tables(report: &Report<'_>) -> Vec<Table> {
    let mut tables = vec![gate(report), overall(report), comparison(report)];
    tables.extend(text_tables(report));
    tables.push(by_size(report));
    tables.extend(data_sets(report));
    tables.extend([calibration(report), about(report)]);
    tables.retain(|table| !table.rows.is_empty());
    tables
}

/// Those that say where models fail.
pub(crate) fn findings(report: &Report<'_>) -> Vec<Table> {
    let mut tables = vec![comparison(report)];
    tables.extend(text_tables(report));
    tables.push(by_size(report));
    tables.extend(data_sets(report));
    tables.push(calibration(report));
    tables.retain(|table| !table.rows.is_empty());
    tables
}

fn header(first: &str, report: &Report<'_>, last: &[&str]) -> Vec<String> {
    let models = report.models.iter().map(|model| model.name.to_owned());
    std::iter::once(first.to_owned()).chain(models).chain(last.iter().map(|&text| text.to_owned())).collect()
}

fn gate(report: &Report<'_>) -> Table {
    let rows = report.verdict.map_or_else(Vec::new, |verdict| {
        let row = |check: &crate::report::gate::GateCheck| {
            let outcome = if check.is_met() { "met" } else { "MISSED" };
            vec![check.metric.clone(), outcome.to_owned(), check.to_string()]
        };
        verdict.checks.iter().map(row).collect()
    });
    let passed = report.verdict.is_some_and(crate::report::gate::Verdict::is_pass);
    let note = if passed { "Passed." } else { "Failed." };
    Table {
        title: "Gate".to_owned(),
        note: note.to_owned(),
        header: ["metric", "outcome", "bound"].map(str::to_owned).to_vec(),
        rows,
    }
}

fn overall(report: &Report<'_>) -> Table {
    let n_data_sets = report.models.iter().map(|model| model.results.data_sets.len()).max().unwrap_or(0);
    let note = if n_data_sets > 1 {
        format!("Means over {n_data_sets} data sets, with equal weights.")
    } else {
        String::new()
    };
    Table {
        title: "Results".to_owned(),
        note,
        header: header("metric", report, &["better", "objects"]),
        rows: metric_rows(report, |results| Some(&results.metrics)),
    }
}

/// One row per metric of any model.
fn metric_rows<'a>(report: &Report<'a>, metrics: impl Fn(&'a Results) -> Option<&'a Metrics>) -> Vec<Vec<String>> {
    let of_models: Vec<Option<&Metrics>> = report.models.iter().map(|model| metrics(model.results)).collect();
    let names: BTreeSet<&str> =
        of_models.iter().flatten().flat_map(|metrics| metrics.iter().map(|(name, _)| name)).collect();
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by(|a, b| natural_order(a, b));
    names.retain(|name| report.focus.is_none_or(|focus| focus == *name));
    let row = |name: &str| {
        let values: Vec<Option<Metric>> =
            of_models.iter().map(|metrics| metrics.and_then(|metrics| metrics.get(name).ok()).copied()).collect();
        let known = values.iter().flatten().next();
        let better = known.map_or("", |metric| metric.better.name());
        let n_objects = known.map_or_else(String::new, |metric| metric.n_objects.to_string());
        let cells = values.iter().map(|value| value.map_or_else(|| "–".to_owned(), formatted));
        std::iter::once(name.to_owned()).chain(cells).chain([better.to_owned(), n_objects]).collect()
    };
    names.into_iter().map(row).collect()
}

fn comparison(report: &Report<'_>) -> Table {
    let differences = report.models.iter().skip(1).map(|model| format!("{} - {}", model.name, report.models[0].name));
    let mut header = header("metric", report, &[]);
    header.extend(differences);
    let row = |row: &crate::metrics::comparison::ComparisonRow| {
        let own = row.intervals.iter().map(|&interval| interval_cell(interval, ""));
        let differences = row
            .differences
            .iter()
            .map(|&interval| interval_cell(interval, if interval.is_significant() { " *" } else { "" }));
        std::iter::once(row.metric.clone()).chain(own).chain(differences).collect()
    };
    Table {
        title: "Confidence".to_owned(),
        note: confidence_note(report),
        header,
        rows: report.comparison.iter().map(row).collect(),
    }
}

fn confidence_note(report: &Report<'_>) -> String {
    let note = "Bootstrap confidence intervals over images, paired differences";
    let intervals = report.comparison.iter().flat_map(|row| row.intervals.iter().chain(&row.differences));
    match intervals.map(|interval| interval.n_images).min() {
        Some(n_images) if n_images < FEWEST_IMAGES => format!(
            "{note}. There are too few images ({n_images}) to tell a difference from chance, so none is marked: at least \
             {FEWEST_IMAGES} are needed, and the intervals of fewer are too narrow."
        ),
        _ => format!("{note}; * marks intervals that exclude zero."),
    }
}

fn interval_cell(interval: Interval, mark: &str) -> String {
    format!("{:.4} ({:.4} to {:.4}){mark}", interval.value, interval.low, interval.high)
}

fn by_size(report: &Report<'_>) -> Table {
    let sizes = crate::protocol::object_record::SizeBucket::ALL.map(crate::protocol::object_record::SizeBucket::name);
    let mut rows = Vec::new();
    for size in sizes {
        for mut row in metric_rows(report, |results| results.by_size.get(size)) {
            row[0] = named(report, size, &row[0]);
            rows.push(row);
        }
    }
    Table {
        title: "By size".to_owned(),
        note: "Small is below 32² px of the original image, medium below 96² px, as in COCO.".to_owned(),
        header: header("metric", report, &["better", "objects"]),
        rows,
    }
}

/// One table per data set if there are several, and one per data set with classes.
fn data_sets(report: &Report<'_>) -> Vec<Table> {
    fn find<'a>(results: &'a Results, name: &str) -> Option<&'a DataSetResults> {
        results.data_sets.iter().find(|data_set| data_set.name == name)
    }
    let all = |names: &mut BTreeSet<String>, results: &Results| {
        names.extend(results.data_sets.iter().map(|data_set| data_set.name.clone()));
    };
    let mut names = BTreeSet::new();
    report.models.iter().for_each(|model| all(&mut names, model.results));
    let mut tables = Vec::new();
    for name in &names {
        if names.len() > 1 {
            tables.push(Table {
                title: format!("Data set {name}"),
                note: String::new(),
                header: header("metric", report, &["better", "objects"]),
                rows: metric_rows(report, |results| find(results, name).map(|data_set| &data_set.metrics)),
            });
        }
        let of_models = report.models.iter().filter_map(|model| find(model.results, name));
        let classes: BTreeSet<&str> =
            of_models.flat_map(|data_set| data_set.by_class.keys().map(String::as_str)).collect();
        let mut classes: Vec<&str> = classes.into_iter().collect();
        // By the last model, which is the one that is used.
        let by_class = report.models.last().and_then(|model| find(model.results, name)).map(|found| &found.by_class);
        let goodness = |class: &str| {
            let metric = by_class?.get(class)?.get(report.focus?).ok()?;
            Some(if metric.better == Better::Lower { -metric.value } else { metric.value })
        };
        classes.sort_by(|a, b| goodness(a).unwrap_or(0.0).total_cmp(&goodness(b).unwrap_or(0.0)));
        let mut rows = Vec::new();
        for class in classes {
            let metrics =
                |results| find(results, name).and_then(|data_set: &DataSetResults| data_set.by_class.get(class));
            for mut row in metric_rows(report, metrics) {
                row[0] = named(report, class, &row[0]);
                rows.push(row);
            }
        }
        tables.push(Table {
            title: format!("Classes of {name}"),
            note: report.focus.map_or_else(String::new, |focus| format!("By {focus}, worst first.")),
            header: header("metric", report, &["better", "objects"]),
            rows,
        });
    }
    tables
}

/// The name of a row about a group of objects.
fn named(report: &Report<'_>, group: &str, metric: &str) -> String {
    if report.focus.is_some() { group.to_owned() } else { format!("{group}: {metric}") }
}

fn calibration(report: &Report<'_>) -> Table {
    let mut rows = Vec::new();
    for model in report.models {
        for (at, run) in model.results.runs.iter().enumerate() {
            let Some(calibration) = &run.calibration else { continue };
            let name = if model.results.runs.len() > 1 {
                format!("{}, run {}", model.name, at + 1)
            } else {
                model.name.to_owned()
            };
            let number = |value: f64| format!("{value:.4}");
            rows.push(vec![
                name,
                number(calibration.mean_absolute_error),
                number(calibration.mean_error),
                number(calibration.expected_calibration_error),
                calibration.n_answers.to_string(),
            ]);
        }
    }
    let header = ["model", "mean absolute error", "mean error", "expected calibration error", "answers"];
    Table {
        title: "Predicted IoU".to_owned(),
        note: "Predicted minus true IoU; a positive mean error means overconfidence.".to_owned(),
        header: header.map(str::to_owned).to_vec(),
        rows,
    }
}

fn about(report: &Report<'_>) -> Table {
    let keys: BTreeSet<&String> = report.models.iter().flat_map(|model| model.results.about.keys()).collect();
    let cell = |key: &String| {
        let values = report.models.iter().map(|model| model.results.about.get(key).cloned().unwrap_or_default());
        std::iter::once(key.clone()).chain(values).collect()
    };
    let mut rows: Vec<Vec<String>> = keys.into_iter().map(cell).collect();
    let protocols = report.models.iter().map(|model| {
        let runs = model.results.runs.iter().map(|run| serde_json::to_string(&run.protocol).unwrap_or_default());
        let texts = model.results.texts.iter().map(|run| serde_json::to_string(&run.settings).unwrap_or_default());
        runs.chain(texts).collect::<Vec<_>>().join(" ")
    });
    rows.push(std::iter::once("protocol".to_owned()).chain(protocols).collect());
    Table { title: "Evaluation settings".to_owned(), note: String::new(), header: header("", report, &[]), rows }
}

fn formatted(metric: Metric) -> String {
    match metric.unit {
        Unit::Fraction => format!("{:.4}", metric.value),
        Unit::Clicks => format!("{:.2}", metric.value),
        Unit::Objects => format!("{:.0}", metric.value),
    }
}
