//! The console output of a run: plain lines, and a table at the end.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use sam_learn::Outcome;
use sam_learn::options::RECONSTRUCTION_LOSS;
use sam_learn::record::{Progress, RunEvent, Scores, SegmentationTerms, StepRecord, ValidationRecord, duration};

use crate::output::{errors, output};

/// Width of a column of the table.
const WIDTH: usize = 21;

/// Time between two progress lines of a validation.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Files that are listed at the end; the others are counted.
const SPELT_OUT: usize = 20;

/// Prints events; on a terminal, burn-train's view shows the steps and only the end is printed.
pub(crate) struct Lines {
    every_steps: u64,
    is_terminal: bool,
    last_line: Mutex<Instant>,
    /// Unreadable images by the reason, which names the file, with their number of occurrences.
    skipped: Mutex<BTreeMap<String, usize>>,
}

impl Lines {
    pub(crate) fn new(every_steps: u64, is_terminal: bool) -> Self {
        Self { every_steps, is_terminal, last_line: Mutex::new(Instant::now()), skipped: Mutex::default() }
    }

    pub(crate) fn start(&self, folder: &Path, resumed: Option<&Progress>) {
        let mut out = output();
        let _ = match resumed {
            Some(progress) => writeln!(out, "resumes in {} after step {}", folder.display(), progress.step),
            None => writeln!(out, "writes to {}", folder.display()),
        };
    }

    /// Ignores output errors, which must not end a run.
    pub(crate) fn show(&self, event: &RunEvent) {
        if let RunEvent::Skipped { step, reason } = event
            && let Ok(mut skipped) = self.skipped.lock()
        {
            let n_times = skipped.entry(reason.clone()).or_default();
            *n_times += 1;
            // Every epoch skips it again; how often is printed at the end.
            if *n_times == 1 {
                let _ = writeln!(errors(), "step {step}: skipped: {reason}");
            }
        }
        if let RunEvent::Warning { message } = event {
            let _ = writeln!(errors(), "{message}");
        }
        if self.is_terminal {
            return;
        }
        let mut out = output();
        let _ = match event {
            RunEvent::Step(record) if record.step.is_multiple_of(self.every_steps) || record.step == 1 => {
                writeln!(out, "{}", step_line(record))
            }
            RunEvent::Validating { n_images, of_images } => {
                let Ok(mut last) = self.last_line.lock() else { return };
                if last.elapsed() < LINE_EVERY {
                    return;
                }
                *last = Instant::now();
                writeln!(out, "validating: {n_images} of {of_images} images")
            }
            RunEvent::Validated(record) => writeln!(out, "{}", validation_line(record)),
            RunEvent::Step(_)
            | RunEvent::Saved { .. }
            | RunEvent::Skipped { .. }
            | RunEvent::Preview { .. }
            | RunEvent::Warning { .. } => Ok(()),
        };
    }

    /// Skipped images, and the scores before training, of the best and of the last checkpoint.
    pub(crate) fn end(&self, outcome: &Outcome) {
        self.print_skipped();
        let Progress { baseline, best, last, .. } = &outcome.progress;
        let rows: Vec<(&str, &Scores)> = [("before", baseline), ("best", best), ("last", last)]
            .into_iter()
            .filter_map(|(name, scores)| scores.as_ref().map(|scores| (name, scores)))
            .collect();
        let Some((_, first)) = rows.first() else { return };
        let names: Vec<&String> = first.metrics.keys().filter(|name| is_shown(name)).collect();
        let mut out = output();
        let header: Vec<String> = names.iter().map(|name| format!("{name:>WIDTH$}")).collect();
        let _ = writeln!(out, "\n{:<8}{:>8}{}", "", "step", header.concat());
        for (name, scores) in rows {
            let values: Vec<String> = names
                .iter()
                .map(|metric| {
                    scores.metrics.get(*metric).map_or_else(|| format!("{:>WIDTH$}", "-"), |v| format!("{v:>WIDTH$.4}"))
                })
                .collect();
            let _ = writeln!(out, "{name:<8}{:>8}{}", scores.step, values.concat());
        }
        let _ = writeln!(out);
    }

    /// Each file once, although every epoch skips it again.
    fn print_skipped(&self) {
        let Ok(skipped) = self.skipped.lock() else { return };
        if skipped.is_empty() {
            return;
        }
        let n_times: usize = skipped.values().sum();
        let mut out = output();
        let n = skipped.len();
        let _ = writeln!(out, "\nskipped unreadable images: {n} ({n_times} times)");
        for (reason, times) in skipped.iter().take(SPELT_OUT) {
            let _ = writeln!(out, "  {times} x {reason}");
        }
        if n > SPELT_OUT {
            let _ = writeln!(out, "  and {} more", n - SPELT_OUT);
        }
    }
}

fn is_shown(name: &str) -> bool {
    name.starts_with("miou") || name == RECONSTRUCTION_LOSS
}

fn step_line(record: &StepRecord) -> String {
    let StepRecord { step, of_steps, loss, lr, .. } = record;
    let terms = record.segmentation.as_ref().map_or(String::new(), |terms| {
        let SegmentationTerms { focal, dice, iou_error, miou_first, miou_last, .. } = terms;
        format!(" (focal {focal:.4} dice {dice:.3} iou {iou_error:.3})  train mIoU {miou_first:.3} -> {miou_last:.3}")
    });
    format!(
        "step {step}/{of_steps}  loss {loss:.4}{terms}  lr {lr:.2e}  {} images/s  data {:.0} %  {:.0} MiB  ETA {}",
        rate(record.images_per_s),
        100.0 * record.data_wait_share,
        record.memory_mib,
        duration(record.eta_s),
    )
}

/// At least two digits that count, as a large model takes a minute per image.
fn rate(images_per_s: f64) -> String {
    match images_per_s {
        many if many >= 1.0 => format!("{many:.1}"),
        few if few >= 0.01 => format!("{few:.3}"),
        fewer => format!("{fewer:.1e}"),
    }
}

fn validation_line(record: &ValidationRecord) -> String {
    let metrics: Vec<String> = record
        .scores
        .metrics
        .iter()
        .filter(|(name, _)| is_shown(name))
        .map(|(name, value)| format!("{name} {value:.4}"))
        .collect();
    let what = match (record.is_baseline, record.is_best) {
        (true, _) => "  (before training)".to_owned(),
        (false, true) => format!("  (best by {})", record.metric),
        (false, false) => String::new(),
    };
    format!("validation after step {}: {}{what}", record.scores.step, metrics.join("  "))
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn slow_steps_are_not_rounded_to_nothing() {
        assert_eq!([41.04, 1.0, 0.9, 0.0213, 0.004].map(rate), ["41.0", "1.0", "0.900", "0.021", "4.0e-3"]);
    }
}
