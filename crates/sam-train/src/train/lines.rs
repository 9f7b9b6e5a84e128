//! The lines of a run: what its events say to a person, and the skipped images at its end.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sam_eval::Better;
use sam_learn::options::{EMBEDDING_COSINE, EMBEDDING_MSE, RECONSTRUCTION_LOSS};
use sam_learn::record::{
    DistillationTerms, Progress, RunEvent, Scores, SegmentationTerms, StepRecord, ValidationRecord, also_parts,
    duration, rate,
};

use super::console::{Console, Kind};

/// Time between two progress lines of a validation.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Files that are listed at the end; the others are counted.
const SPELT_OUT: usize = 20;

/// Turns events into lines.
pub(crate) struct Lines {
    console: Arc<Console>,
    every_steps: u64,
    seen: Mutex<Seen>,
}

/// What earlier events said.
struct Seen {
    last_line: Instant,
    baseline: Option<Scores>,
    better: Option<Better>,
    /// Unreadable images by the reason, which names the file, with their number of occurrences.
    skipped: BTreeMap<String, usize>,
}

impl Lines {
    pub(crate) fn new(console: Arc<Console>, every_steps: u64) -> Self {
        let seen = Seen { last_line: Instant::now(), baseline: None, better: None, skipped: BTreeMap::new() };
        Self { console, every_steps, seen: Mutex::new(seen) }
    }

    pub(crate) fn start(&self, folder: &Path, resumed: Option<&Progress>) {
        let folder = folder.display();
        let text = match resumed {
            Some(progress) => format!("resumes in {folder} after step {}", progress.step),
            None => format!("writes to {folder}"),
        };
        self.console.print(Kind::Progress, &text);
    }

    pub(crate) fn show(&self, event: &RunEvent) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, text) = match event {
            RunEvent::Started(start) => {
                seen.baseline.clone_from(&start.progress.baseline);
                seen.better = start.history.validations.last().map(ValidationRecord::better);
                return;
            }
            RunEvent::Step(record) => {
                let is_due =
                    record.step.is_multiple_of(self.every_steps) || record.step == 1 || self.console.is_verbose();
                if !is_due {
                    return;
                }
                (Kind::Progress, step_line(record, self.console.is_verbose()))
            }
            RunEvent::Validating { n_images, of_images } => {
                if seen.last_line.elapsed() < LINE_EVERY {
                    return;
                }
                seen.last_line = Instant::now();
                (Kind::Progress, format!("validating: {n_images} of {of_images} images"))
            }
            RunEvent::Validated(record) => {
                seen.better = Some(record.better());
                if record.is_baseline {
                    seen.baseline = Some(record.scores.clone());
                }
                (Kind::Progress, validation_line(record, seen.baseline.as_ref()))
            }
            RunEvent::Skipped { step, reason } => {
                let n_times = seen.skipped.entry(reason.clone()).or_default();
                *n_times += 1;
                // Every epoch skips it again; how often is printed at the end.
                if *n_times > 1 {
                    return;
                }
                (Kind::Warning, format!("step {step}: skipped: {reason}"))
            }
            RunEvent::Warning { message } => (Kind::Warning, message.clone()),
            RunEvent::Saving { .. } => return,
            RunEvent::Saved { path, .. } => (Kind::Detail, format!("saved {}", path.display())),
            RunEvent::Preview { path, .. } => (Kind::Detail, format!("preview {}", path.display())),
        };
        drop(seen);
        self.console.print(kind, &text);
    }

    /// Direction in which the metric of the validations improves.
    pub(crate) fn better(&self, metric: &str) -> Better {
        let by_name =
            if [RECONSTRUCTION_LOSS, EMBEDDING_MSE].contains(&metric) { Better::Lower } else { Better::Higher };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).better.unwrap_or(by_name)
    }

    /// Each file once, although every epoch skips it again.
    pub(crate) fn print_skipped(&self) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let skipped = &seen.skipped;
        if skipped.is_empty() {
            return;
        }
        let n_times: usize = skipped.values().sum();
        let n = skipped.len();
        let mut lines = vec![format!("\nskipped unreadable images: {n} ({n_times} times)")];
        lines.extend(skipped.iter().take(SPELT_OUT).map(|(reason, times)| format!("  {times} x {reason}")));
        if n > SPELT_OUT {
            lines.push(format!("  and {} more", n - SPELT_OUT));
        }
        self.console.print(Kind::Result, &lines.join("\n"));
    }
}

/// Metrics that are worth a line; the others are in the log and the report.
pub(super) fn is_shown(name: &str) -> bool {
    let metric = also_parts(name).map_or(name, |(_, metric)| metric);
    metric.starts_with("miou") || [RECONSTRUCTION_LOSS, EMBEDDING_MSE, EMBEDDING_COSINE].contains(&name)
}

fn step_line(record: &StepRecord, is_verbose: bool) -> String {
    let StepRecord { step, of_steps, loss, lr, grad_norm, .. } = record;
    let terms = record.segmentation.as_ref().map_or(String::new(), |terms| {
        let SegmentationTerms { focal, dice, iou_error, miou_first, miou_last, .. } = terms;
        format!(" (focal {focal:.4} dice {dice:.3} iou {iou_error:.3})  train mIoU {miou_first:.3} -> {miou_last:.3}")
    });
    let DistillationTerms { embedding_mse, teacher_share } = record.distillation;
    let mse = embedding_mse.map(|mse| format!("  embedding MSE {mse:.4}"));
    let share = teacher_share.map(|share| format!("  teacher's masks {:.0} %", 100.0 * share));
    let taught: String = mse.into_iter().chain(share).collect();
    let more = match (is_verbose, &record.segmentation) {
        (false, _) => String::new(),
        (true, None) => format!("  gradient norm {grad_norm:.3}  {} images", record.n_images),
        (true, Some(terms)) => {
            format!("  gradient norm {grad_norm:.3}  {} images, {} objects", record.n_images, terms.n_objects)
        }
    };
    format!(
        "step {step}/{of_steps}  loss {loss:.4}{terms}{taught}  lr {lr:.2e}  {} images/s  data {:.0} %  {:.0} MiB  ETA {}{more}",
        rate(record.images_per_s),
        100.0 * record.data_wait_share,
        record.memory_mib,
        duration(record.eta_s),
    )
}

fn validation_line(record: &ValidationRecord, baseline: Option<&Scores>) -> String {
    let metrics: Vec<String> = record
        .scores
        .headlines()
        .into_iter()
        .filter(|(name, _)| is_shown(name))
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    let what = match (record.is_baseline, record.is_best) {
        (true, _) => "  (before training)".to_owned(),
        (false, true) => format!("  (best by {}{})", record.metric, compared(record, baseline)),
        (false, false) => String::new(),
    };
    format!("validation after step {}: {}{what}", record.scores.step, metrics.join("  "))
}

/// The best so far may still be worse than the model before training.
fn compared(record: &ValidationRecord, baseline: Option<&Scores>) -> String {
    let Some(baseline) = baseline else { return String::new() };
    let (Some(change), Some(before)) = (record.improvement_on(baseline), baseline.metrics.get(&record.metric)) else {
        return String::new();
    };
    let side = match (change.partial_cmp(&0.0), record.better()) {
        (Some(std::cmp::Ordering::Less), Better::Higher) => "below",
        (Some(std::cmp::Ordering::Less), Better::Lower) => "above",
        (Some(std::cmp::Ordering::Equal), _) => "equal to",
        _ => return String::new(),
    };
    format!(" since the start, {side} the {before:.4} before training")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(metric: &str, value: f64, better: Better) -> ValidationRecord {
        let scores = Scores { step: 2, metrics: std::iter::once((metric.to_owned(), value)).collect() };
        let metric = metric.to_owned();
        ValidationRecord { scores, metric, is_best: true, is_baseline: false, better: Some(better), took_s: 1.0 }
    }

    #[test]
    fn the_best_that_is_worse_than_before_training_is_called_so() {
        let line = |metric: &str, values: [f64; 2], better| {
            let baseline = record(metric, values[0], better).scores;
            validation_line(&record(metric, values[1], better), Some(&baseline))
        };
        assert!(line("miou_1", [0.5, 0.6], Better::Higher).ends_with("(best by miou_1)"));
        let worse = line("miou_1", [0.5, 0.4], Better::Higher);
        assert!(worse.ends_with("(best by miou_1 since the start, below the 0.5000 before training)"), "{worse}");
        let worse = line(RECONSTRUCTION_LOSS, [0.5, 0.6], Better::Lower);
        assert!(worse.ends_with("since the start, above the 0.5000 before training)"), "{worse}");
        let equal = line("miou_1", [0.5, 0.5], Better::Higher);
        assert!(equal.ends_with("since the start, equal to the 0.5000 before training)"), "{equal}");
        let alone = validation_line(&record("miou_1", 0.5, Better::Higher), None);
        assert!(alone.ends_with("(best by miou_1)"), "{alone}");
    }
}
