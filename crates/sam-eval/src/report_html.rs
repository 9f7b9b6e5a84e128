//! `report.html`: one file with everything in it.

use crate::chart::{Frame, N_COLOURS, Series, escape, histogram, lines};
use crate::object_record::ObjectRecord;
use crate::report::{Gallery, Model, Report};
use crate::report_tables::{Table, tables};
use crate::results::Run;
use crate::trial::{FirstClick, Start};

/// Bins of the histograms.
const N_BINS: usize = 10;

const STYLE: &str = include_str!("report.css");

pub(crate) fn render(report: &Report<'_>) -> String {
    let mut tables = tables(report);
    // The gate and the main table come before the charts, details after them.
    let after =
        tables.iter().position(|table| table.title != "Gate" && table.title != "Results").unwrap_or(tables.len());
    let details = tables.split_off(after);
    let body = [
        tables.iter().map(table_html).collect::<String>(),
        charts(report),
        report.galleries.iter().map(gallery_html).collect(),
        details.iter().map(table_html).collect(),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>{title}</title><style>{STYLE}</style></head>\n\
         <body><main><h1>{title}</h1>\n{}</main></body></html>\n",
        body.concat(),
        title = escape(report.title)
    )
}

fn table_html(table: &Table) -> String {
    let cells = |tag: &str, cells: &[String]| -> String {
        let cell = |cell: &String| format!("<{tag}>{}</{tag}>", escape(cell));
        format!("<tr{}>{}</tr>\n", row_class(cells), cells.iter().map(cell).collect::<String>())
    };
    let note = if table.note.is_empty() { String::new() } else { format!("<p>{}</p>", escape(&table.note)) };
    format!(
        "<section><h2>{}</h2>{note}<div class=\"wide\"><table><thead>{}</thead><tbody>{}</tbody></table></div></section>\n",
        escape(&table.title),
        cells("th", &table.header),
        table.rows.iter().map(|row| cells("td", row)).collect::<String>()
    )
}

/// A missed bound is to be seen.
fn row_class(cells: &[String]) -> &'static str {
    match cells.get(1).map(String::as_str) {
        Some("MISSED") => " class=\"missed\"",
        _ => "",
    }
}

fn gallery_html(gallery: &Gallery) -> String {
    let item = |item: &crate::report::GalleryItem| {
        let caption = escape(&item.caption);
        format!(
            "<figure><img src=\"{}\" alt=\"{caption}\"><figcaption>{caption}</figcaption></figure>\n",
            item.data_uri
        )
    };
    let items: String = gallery.items.iter().map(item).collect();
    format!("<section><h2>{}</h2><div class=\"gallery\">{items}</div></section>\n", escape(&gallery.title))
}

fn charts(report: &Report<'_>) -> String {
    let charts = [iou_per_click(report), first_ious(report), calibration(report)].concat();
    if charts.is_empty() {
        return String::new();
    }
    format!("<section><h2>Curves</h2><div class=\"charts\">{}</div></section>\n", charts.concat())
}

/// Each run of each model, with its name in a legend.
fn runs<'a>(models: &[Model<'a>]) -> Vec<(String, &'a Run)> {
    let name = |model: &Model<'a>, run: &Run| {
        let variant = match (run.protocol.start, run.protocol.first_click) {
            (Start::Box, _) => ", box first",
            (Start::Click, FirstClick::Random { .. }) => ", random first click",
            (Start::Click, FirstClick::Centre) => "",
        };
        format!("{}{variant}", model.name)
    };
    models.iter().flat_map(|model| model.results.runs.iter().map(move |run| (name(model, run), run))).collect()
}

fn iou_per_click(report: &Report<'_>) -> Vec<String> {
    let mut series = Vec::new();
    for (name, run) in runs(report.models) {
        let n_clicks = run.protocol.n_clicks;
        // After an early stop there is no mean over all objects.
        let is_whole = run.records.iter().all(|record| record.clicks().count() == n_clicks);
        if run.records.is_empty() || !is_whole || n_clicks < 2 {
            continue;
        }
        let mut sums = vec![0.0; n_clicks];
        for record in &run.records {
            record.clicks().zip(&mut sums).for_each(|(round, sum)| *sum += round.iou);
        }
        let mean = |(at, sum): (usize, &f64)| ((at + 1) as f64, sum / run.records.len() as f64);
        series.push(Series { name, points: sums.iter().enumerate().map(mean).collect() });
    }
    let most = series.iter().map(|line| line.points.len()).max().unwrap_or(0);
    if most == 0 {
        return Vec::new();
    }
    let ticks: Vec<f64> = (1..=most).map(|k| k as f64).collect();
    let frame = Frame {
        title: "IoU per click",
        x_label: "clicks",
        y_label: "mean IoU over objects",
        x_range: [1.0, most as f64],
        x_ticks: &ticks,
    };
    vec![lines(&frame, &series)]
}

fn first_ious(report: &Report<'_>) -> Vec<String> {
    let charts = [
        (
            "IoU after the first prompt",
            (|record| record.rounds.first().map(|round| round.iou)) as fn(&ObjectRecord) -> _,
        ),
        ("IoU after the last prompt", |record| record.rounds.last().map(|round| round.iou)),
    ];
    let ticks: Vec<f64> = (0..=N_BINS).map(|bin| bin as f64 / N_BINS as f64).collect();
    let mut rendered = Vec::new();
    for (title, iou) in charts {
        let mut series = Vec::new();
        for (name, run) in runs(report.models) {
            let mut counts = [0usize; N_BINS];
            for iou in run.records.iter().filter_map(iou) {
                counts[((iou * N_BINS as f64) as usize).min(N_BINS - 1)] += 1;
            }
            let n = run.records.len().max(1) as f64;
            let bar = |(bin, &count): (usize, &usize)| (bin as f64 / N_BINS as f64, count as f64 / n);
            series.push(Series { name, points: counts.iter().enumerate().map(bar).collect() });
        }
        let frame = Frame { title, x_label: "IoU", y_label: "share of objects", x_range: [0.0, 1.0], x_ticks: &ticks };
        if !series.is_empty() {
            rendered.push(histogram(&frame, 1.0 / N_BINS as f64, &series));
        }
    }
    rendered
}

fn calibration(report: &Report<'_>) -> Vec<String> {
    let mut series = Vec::new();
    for (name, run) in runs(report.models) {
        let Some(calibration) = &run.calibration else { continue };
        let used = calibration.bins.iter().filter(|bin| bin.n_answers > 0);
        let points = used.map(|bin| (bin.mean_predicted_iou.clamp(0.0, 1.0), bin.mean_iou)).collect();
        series.push(Series { name, points });
    }
    if series.is_empty() {
        return Vec::new();
    }
    // The ideal takes the colour after the models', or dashes when those are used up.
    let at = series.len().min(N_COLOURS);
    series.insert(at, Series { name: "ideal".to_owned(), points: vec![(0.0, 0.0), (1.0, 1.0)] });
    let ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
    let frame = Frame {
        title: "Predicted and real IoU",
        x_label: "predicted IoU (bins of 0.1)",
        y_label: "mean real IoU",
        x_range: [0.0, 1.0],
        x_ticks: &ticks,
    };
    vec![lines(&frame, &series)]
}
