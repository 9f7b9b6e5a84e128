//! The curves of a run: loss and its terms, validation metrics, learning rate, gradient norm.
//!
//! A run has up to a million steps and a chart a few hundred pixels, so a point is the mean of several steps. Behind the
//! smooth line, in grey, are the steps themselves, or means of few where they are too many to draw.

use sam_eval::chart::{Axis, Frame, Mark, Scale, Series, lines, ticks};

use super::events::{SegmentationTerms, StepRecord, ValidationRecord};
use super::headline::also_parts;
use super::run_log::RunHistory;
use crate::options::{EMBEDDING_MSE, RECONSTRUCTION_LOSS};

/// Points of a smooth line, at most.
const N_BINS: usize = 120;

/// Points of a grey line, at most.
const N_FINE_BINS: usize = 1000;

/// Ratio of the largest to the smallest value from which the axis is logarithmic.
const LOGARITHMIC_FROM: f64 = 4.0;

/// Approximate number of labels on the horizontal axis.
const N_X_TICKS: usize = 6;

/// All charts, as SVG.
pub(super) fn charts(history: &RunHistory) -> Vec<String> {
    let steps = &history.steps;
    let rates = Series { name: "highest of all parameter groups".to_owned(), mark: Mark::Line, points: thinned(steps) };
    let drawn = [
        loss(history),
        terms(history),
        embeddings(history),
        training_iou(history),
        validation(history),
        chart(history, "Learning rate", "learning rate", Some(Scale::Linear), vec![rates]),
        chart(history, "Gradient norm before clipping", "norm", None, noisy("", steps, |step| Some(step.grad_norm))),
    ];
    drawn.into_iter().flatten().collect()
}

/// Training loss, and that of the held-out images, where it is the same loss.
fn loss(history: &RunHistory) -> Option<String> {
    let mut series = noisy("training", &history.steps, |step| Some(step.loss));
    series.extend(validated(history, RECONSTRUCTION_LOSS, "held out"));
    chart(history, "Loss", "loss", None, series)
}

fn terms(history: &RunHistory) -> Option<String> {
    let steps = &history.steps;
    let series = [
        smooth("focal", steps, |step| Some(of_terms(step)?.focal)),
        smooth("dice", steps, |step| Some(of_terms(step)?.dice)),
        smooth("error of the predicted IoU", steps, |step| Some(of_terms(step)?.iou_error)),
    ];
    chart(history, "Loss terms, not weighted", "loss", None, series.into_iter().flatten().collect())
}

/// The error of the embeddings against a teacher's, in training and on validation data.
fn embeddings(history: &RunHistory) -> Option<String> {
    let mut series = noisy("training", &history.steps, |step| step.distillation.embedding_mse);
    series.extend(validated(history, EMBEDDING_MSE, "validation"));
    chart(history, "Embeddings against the teacher's", "mean squared error", None, series)
}

fn training_iou(history: &RunHistory) -> Option<String> {
    let steps = &history.steps;
    let series = [
        smooth("after the first prompt", steps, |step| Some(of_terms(step)?.miou_first)),
        smooth("after the last pass", steps, |step| Some(of_terms(step)?.miou_last)),
    ];
    let series = series.into_iter().flatten().collect();
    chart(history, "IoU on training data", "mean IoU over objects", Some(Scale::Linear), series)
}

fn of_terms(step: &StepRecord) -> Option<&SegmentationTerms> {
    step.segmentation.as_ref()
}

/// The mean IoUs over all objects.
fn validation(history: &RunHistory) -> Option<String> {
    let names = history.validations.first()?.scores.headlines().into_iter().map(|(name, _)| name);
    let names = names.filter(|name| also_parts(name).map_or(*name, |(_, metric)| metric).starts_with("miou"));
    let series = names.filter_map(|name| validated(history, name, name)).collect();
    chart(history, "IoU on validation data", "mean IoU over objects", Some(Scale::Linear), series)
}

fn validated(history: &RunHistory, metric: &str, name: &str) -> Option<Series> {
    let point = |record: &ValidationRecord| Some((record.scores.step as f64, *record.scores.metrics.get(metric)?));
    let points: Vec<(f64, f64)> = history.validations.iter().filter_map(point).collect();
    (!points.is_empty()).then(|| Series { name: name.to_owned(), mark: Mark::Dots, points })
}

/// A chart over the steps of the run; `None` when there is nothing to draw.
fn chart(
    history: &RunHistory,
    title: &str,
    y_label: &str,
    scale: Option<Scale>,
    series: Vec<Series>,
) -> Option<String> {
    let ys = || series.iter().flat_map(|line| &line.points).map(|&(_, y)| y).filter(|y| y.is_finite());
    if series.iter().all(|line| line.points.is_empty()) {
        return None;
    }
    // All charts of a run share one axis. That of a run that was stopped early ends at its last step.
    let of_steps = history.steps.iter().map(|record| record.step);
    let of_validations = history.validations.iter().map(|record| record.scores.step);
    let at = || of_steps.clone().chain(of_validations.clone());
    let x_range = [at().min(), at().max()].map(|step| step.unwrap_or_default() as f64);
    let [low, high] = [ys().fold(f64::INFINITY, f64::min), ys().fold(0.0, f64::max)];
    let falls_by_factors = low > 0.0 && high / low > LOGARITHMIC_FROM;
    let scale = scale.unwrap_or(if falls_by_factors { Scale::Logarithmic } else { Scale::Linear });
    let y_label = match scale {
        Scale::Logarithmic => format!("{y_label}, logarithmic"),
        Scale::Linear => y_label.to_owned(),
    };
    let x_ticks: Vec<f64> = ticks(x_range, N_X_TICKS).into_iter().filter(|tick| tick.fract() == 0.0).collect();
    let frame =
        Frame { title, x_label: "steps", y_label: &y_label, x_range, x_ticks: &x_ticks, y: Axis::around(ys(), scale) };
    Some(lines(&frame, &series))
}

/// A grey line of the steps and a smooth one over it.
fn noisy(name: &str, steps: &[StepRecord], get: impl Fn(&StepRecord) -> Option<f64>) -> Vec<Series> {
    let fine = binned(steps, &get, N_FINE_BINS);
    let Some(smooth) = smooth(name, steps, &get) else { return Vec::new() };
    let per_point = steps.len().div_ceil(N_FINE_BINS);
    let of = |n: usize| if n > 1 { format!("mean of {n} steps") } else { "each step".to_owned() };
    if fine.len() == smooth.points.len() {
        return vec![smooth];
    }
    let named = match (name, of(steps.len().div_ceil(N_BINS))) {
        ("", of) => of,
        (name, of) => format!("{name}, {of}"),
    };
    vec![Series { name: of(per_point), mark: Mark::Faint, points: fine }, Series { name: named, ..smooth }]
}

fn smooth(name: &str, steps: &[StepRecord], get: impl Fn(&StepRecord) -> Option<f64>) -> Option<Series> {
    let points = binned(steps, &get, N_BINS);
    (!points.is_empty()).then(|| Series { name: name.to_owned(), mark: Mark::Line, points })
}

/// Means of equal numbers of consecutive steps, each at its middle step.
fn binned(steps: &[StepRecord], get: &impl Fn(&StepRecord) -> Option<f64>, n_bins: usize) -> Vec<(f64, f64)> {
    let values: Vec<(f64, f64)> = steps.iter().filter_map(|step| Some((step.step as f64, get(step)?))).collect();
    let per_bin = values.len().div_ceil(n_bins).max(1);
    let mean = |bin: &[(f64, f64)]| {
        let n = bin.len() as f64;
        (bin.iter().map(|point| point.0).sum::<f64>() / n, bin.iter().map(|point| point.1).sum::<f64>() / n)
    };
    values.chunks(per_bin).map(mean).collect()
}

/// Learning rates of single steps and no means, so the corners of a schedule stay corners.
fn thinned(steps: &[StepRecord]) -> Vec<(f64, f64)> {
    let every = steps.len().div_ceil(N_FINE_BINS).max(1);
    let is_shown = |at: usize| at.is_multiple_of(every) || at + 1 == steps.len();
    let shown = steps.iter().enumerate().filter(|&(at, _)| is_shown(at));
    shown.map(|(_, step)| (step.step as f64, step.lr)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64, loss: f64) -> StepRecord {
        StepRecord {
            step,
            of_steps: 9,
            lr: step as f64,
            loss,
            segmentation: None,
            distillation: Default::default(),
            grad_norm: 1.0,
            n_images: 1,
            images_per_s: 1.0,
            data_wait_share: 0.0,
            memory_mib: 1.0,
            elapsed_s: 1.0,
            eta_s: 1.0,
        }
    }

    #[test]
    fn many_steps_become_means_of_equal_counts() {
        let steps: Vec<StepRecord> = (1..=10).map(|at| step(at, at as f64 * at as f64)).collect();
        let points = binned(&steps, &|step| Some(step.loss), 4);
        // Three steps each, the last one alone.
        let expected = [(2.0, 14.0 / 3.0), (5.0, 77.0 / 3.0), (8.0, 194.0 / 3.0), (10.0, 100.0)];
        assert!(points.iter().zip(expected).all(|(a, b)| a.0 == b.0 && (a.1 - b.1).abs() < 1e-9), "{points:?}");
        assert_eq!(points.len(), expected.len());
        assert_eq!(binned(&steps, &|step| Some(step.loss), 10).len(), 10);
        assert!(binned(&steps, &|_| None, 10).is_empty());
    }

    #[test]
    fn a_short_run_is_drawn_step_by_step_and_a_long_one_smoothly() {
        let short: Vec<StepRecord> = (1..=20).map(|at| step(at, 1.0)).collect();
        let series = noisy("training", &short, |step| Some(step.loss));
        assert_eq!((series.len(), series[0].points.len(), series[0].name.as_str()), (1, 20, "training"));
        let long: Vec<StepRecord> = (1..=5000).map(|at| step(at, 1.0)).collect();
        let series = noisy("training", &long, |step| Some(step.loss));
        assert_eq!([&series[0].name, &series[1].name], ["mean of 5 steps", "training, mean of 42 steps"]);
        assert_eq!(series[0].mark, Mark::Faint);
        assert!(series[0].points.len() <= N_FINE_BINS && series[1].points.len() <= N_BINS);
        let rates = thinned(&long);
        assert_eq!((rates[0], rates.last().copied()), ((1.0, 1.0), Some((5000.0, 5000.0))));
    }

    #[test]
    fn a_run_without_validation_has_three_charts() {
        assert!(charts(&RunHistory::default()).is_empty());
        let history = RunHistory { steps: vec![step(1, 2.0)], ..RunHistory::default() };
        assert_eq!(charts(&history).len(), 3, "loss, rate and gradient");
    }

    #[test]
    fn a_loss_that_falls_by_a_large_factor_has_a_logarithmic_axis() {
        let of = |losses: [f64; 2]| {
            let steps = losses.iter().zip(1..).map(|(&loss, at)| step(at, loss)).collect();
            loss(&RunHistory { steps, ..RunHistory::default() }).expect("a chart")
        };
        assert!(of([1.0, 0.05]).contains("loss, logarithmic"));
        assert!(!of([1.0, 0.5]).contains("logarithmic"));
    }
}
