//! The charts of an evaluation report: IoU per click, histograms of IoU, and calibration of the predicted IoU.

use crate::metrics::results::Run;
use crate::protocol::object_record::ObjectRecord;
use crate::protocol::settings::{FirstClick, Start};
use crate::report::chart::{Axis, Frame, Mark, N_COLOURS, Series, histogram, lines};
use crate::report::content::{Model, Report};

/// Bins of the histograms.
const N_BINS: usize = 10;

/// All charts, rendered.
pub(crate) fn charts(report: &Report<'_>) -> Vec<String> {
    [iou_per_click(report), first_ious(report), calibration(report)].concat()
}

/// Each run of each model, with its legend entry.
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
        // After an early stop, there is no mean over all objects.
        let is_whole = run.records.iter().all(|record| record.clicks().count() == n_clicks);
        if run.records.is_empty() || !is_whole || n_clicks < 2 {
            continue;
        }
        let mut sums = vec![0.0; n_clicks];
        for record in &run.records {
            record.clicks().zip(&mut sums).for_each(|(round, sum)| *sum += round.iou);
        }
        let mean = |(at, sum): (usize, &f64)| ((at + 1) as f64, sum / run.records.len() as f64);
        series.push(Series { name, mark: Mark::Dots, points: sums.iter().enumerate().map(mean).collect() });
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
        y: Axis::FRACTION,
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
            series.push(Series { name, mark: Mark::Dots, points: counts.iter().enumerate().map(bar).collect() });
        }
        let frame = Frame {
            title,
            x_label: "IoU",
            y_label: "fraction of objects",
            x_range: [0.0, 1.0],
            x_ticks: &ticks,
            y: Axis::FRACTION,
        };
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
        series.push(Series { name, mark: Mark::Dots, points });
    }
    if series.is_empty() {
        return Vec::new();
    }
    // The ideal line takes the next colour, or dashes when all are used.
    let at = series.len().min(N_COLOURS);
    series.insert(at, Series { name: "ideal".to_owned(), mark: Mark::Dots, points: vec![(0.0, 0.0), (1.0, 1.0)] });
    let ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0];
    let frame = Frame {
        title: "Predicted and true IoU",
        x_label: "predicted IoU (bins of 0.1)",
        y_label: "mean true IoU",
        x_range: [0.0, 1.0],
        x_ticks: &ticks,
        y: Axis::FRACTION,
    };
    vec![lines(&frame, &series)]
}
