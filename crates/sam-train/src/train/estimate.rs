//! What a run will take, printed before its first step: what learns, time, memory and disk.

use std::path::Path;

use anyhow::anyhow;
use sam_learn::options::{OptimiserOptions, RunOptions, ScheduleOptions, ValidationOptions};
use sam_learn::record::duration;
use sam_learn::{LearnError, Measured};

use super::session::advised;
use crate::disk::{free_bytes, size};
use crate::failure::Failure;
use crate::progress::Waiting;

/// Runs above this are warned of.
const LONG_S: f64 = 2.0 * 3600.0;

/// Saves that exist at once: two are kept, and the next is written before the older one goes.
const SAVES: u64 = 3;

/// Measures something before a run, for which it may take some seconds; what goes wrong is for the user to fix.
pub(super) fn measured<T>(measure: impl FnOnce() -> Result<T, LearnError>) -> Result<T, Failure> {
    let _waiting = Waiting::new("measuring the first steps".to_owned());
    measure().map_err(|error| {
        let text = anyhow!("{}", advised(&error));
        if matches!(error, LearnError::OutOfMemory { .. }) { Failure::OutOfMemory(text) } else { Failure::Input(text) }
    })
}

/// The options of a run that its cost depends on.
pub(super) struct RunLength<'p> {
    pub(super) run: &'p RunOptions,
    pub(super) optimiser: &'p OptimiserOptions,
    pub(super) schedule: &'p ScheduleOptions,
    pub(super) validation: &'p ValidationOptions,
    /// Exported files beside the best and the last checkpoint.
    pub(super) n_exports: usize,
    /// Images to train on.
    pub(super) n_images: usize,
    /// Embeddings that are kept on disk.
    pub(super) embeddings: Option<EmbeddingCost>,
}

/// The embeddings that are computed before the first step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct EmbeddingCost {
    pub(super) n_missing: usize,
    /// Size of all of them on disk.
    pub(super) n_bytes: u64,
    /// Seconds of an image in the encoder.
    pub(super) encode_s: f64,
}

impl EmbeddingCost {
    /// A validation that was measured with the encoder, without it.
    pub(super) fn without_in_validation(&self, measured: Measured) -> Measured {
        let encoder_s = measured.validation_images as f64 * self.encode_s;
        let validation_s = measured.validation_s.map(|seconds| (seconds - encoder_s).max(0.02 * seconds));
        Measured { validation_s, ..measured }
    }

    fn total_s(&self) -> f64 {
        self.n_missing as f64 * self.encode_s
    }
}

/// The cost of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cost {
    n_validations: u64,
    pub(super) total_s: f64,
    disk_bytes: u64,
}

impl RunLength<'_> {
    pub(super) fn cost(&self, measured: &Measured) -> Cost {
        let steps = self.schedule.steps;
        let n_validations = match measured.validation_s {
            Some(_) => steps.div_ceil(self.validation.every_steps) + u64::from(self.validation.baseline),
            None => 0,
        };
        let validation_s = measured.validation_s.unwrap_or_default();
        let n_checkpoints = 2 + self.n_exports as u64;
        Cost {
            n_validations,
            total_s: self.embeddings.map_or(0.0, |embeddings| embeddings.total_s())
                + steps as f64 * measured.step_s
                + n_validations as f64 * validation_s,
            disk_bytes: n_checkpoints * measured.checkpoint_bytes
                + SAVES * measured.save_bytes
                + self.embeddings.map_or(0, |embeddings| embeddings.n_bytes),
        }
    }

    /// The lines of the plan; the last ones are warnings, if there is reason for any.
    pub(super) fn lines(&self, measured: &Measured) -> Vec<String> {
        let Measured { step_s, images_per_step, objects_per_step, validation_s, .. } = measured;
        let cost = self.cost(measured);
        let steps = self.schedule.steps;
        let epochs = steps as f64 * images_per_step / self.n_images.max(1) as f64;
        let per_step = match (images_per_step, objects_per_step) {
            (images, objects) if images == objects => format!("{images:.0} images"),
            (images, objects) => format!("{images:.0} images with {objects:.1} objects"),
        };
        let mut lines = vec![
            format!("plan: learns {}", learned(measured)),
            format!("plan: {steps} steps of {per_step}, {} over the data", times(epochs)),
        ];
        let validations = validation_s.map_or(String::new(), |validation_s| {
            let (n, images) = (cost.n_validations, measured.validation_images);
            format!(", {} per validation of {images} images ({n} of them)", seconds(validation_s))
        });
        let limit = if self.validation.patience > 0 && validation_s.is_some() { "at most" } else { "about" };
        lines.push(format!(
            "plan: time {limit} {}: {} per step{validations}",
            duration(cost.total_s),
            seconds(*step_s)
        ));
        if let Some(embeddings) = self.embeddings.filter(|embeddings| embeddings.n_missing > 0) {
            let (n, took) = (embeddings.n_missing, duration(embeddings.total_s()));
            lines
                .push(format!("plan: {n} embeddings are computed before the first step, in about {took} of that time"));
        }
        let free = free_bytes(&self.run.dir);
        let shown_free = free.map_or(String::new(), |free| format!(", {} are free", size(free)));
        lines.push(format!("plan: memory about {} at most", size(measured.peak_bytes)));
        lines.push(format!("plan: disk about {} in {}{shown_free}", size(cost.disk_bytes), shown(&self.run.dir)));
        lines.extend(self.warnings(measured, cost, free));
        lines
    }

    fn warnings(&self, measured: &Measured, cost: Cost, free: Option<u64>) -> Vec<String> {
        let mut warnings = Vec::new();
        if cost.total_s > LONG_S {
            let learns_encoder = measured.parts.iter().any(|part| part.part == "image_encoder" && part.learned > 0);
            let frozen = if learns_encoder && self.optimiser.freeze.is_empty() {
                ", or optimiser.freeze = [\"image_encoder\"]"
            } else {
                ""
            };
            warnings.push(format!(
                "warning: this run takes hours on this machine; fewer schedule.steps, fewer clicks \
                 (prompts.correction_clicks) or a smaller model.image_size{frozen} take less. Ctrl-C saves at any time"
            ));
        }
        if free.is_some_and(|free| free < cost.disk_bytes) {
            warnings.push(format!(
                "warning: {} has less free space than the run takes; saves would fail",
                shown(&self.run.dir)
            ));
        }
        warnings
    }
}

/// Parts that learn, and those that do not.
fn learned(measured: &Measured) -> String {
    let sum = |count: fn(&sam_learn::optim::PartSize) -> usize| measured.parts.iter().map(count).sum::<usize>();
    let (all, learned) = (sum(|part| part.all), sum(|part| part.learned));
    let learning: Vec<String> = measured
        .parts
        .iter()
        .filter(|part| part.learned > 0)
        .map(|part| match part.learned == part.all {
            true => part.part.clone(),
            false => format!("{} of {}", millions(part.learned), part.part),
        })
        .collect();
    let frozen: Vec<&str> =
        measured.parts.iter().filter(|part| part.learned == 0).map(|part| part.part.as_str()).collect();
    let frozen = if frozen.is_empty() { String::new() } else { format!("; frozen: {}", frozen.join(", ")) };
    let learning = if learned == all { String::new() } else { format!(" ({}{frozen})", learning.join(", ")) };
    match learned == all {
        true => format!("all {} parameters", millions(all)),
        false => format!("{} of {} parameters{learning}", millions(learned), millions(all)),
    }
}

fn millions(n: usize) -> String {
    match n as f64 / 1e6 {
        millions if millions >= 0.1 => format!("{millions:.1} M"),
        _ => n.to_string(),
    }
}

/// A few seconds or less, with two digits that count.
fn seconds(s: f64) -> String {
    match s {
        s if s >= 60.0 => duration(s),
        s if s >= 10.0 => format!("{s:.0} s"),
        s if s >= 1.0 => format!("{s:.1} s"),
        s => format!("{:.0} ms", (s * 1000.0).max(1.0)),
    }
}

fn times(n: f64) -> String {
    if n >= 10.0 { format!("{n:.0} times") } else { format!("{n:.1} times") }
}

/// Relative to the current folder where that is shorter.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use sam_infer::Precision;
    use sam_learn::optim::PartSize;
    use sam_learn::options::{Activations, LrDecay};

    fn measured() -> Measured {
        let part = |part: &str, all, learned| PartSize { part: part.to_owned(), all, learned };
        Measured {
            parts: vec![part("image_encoder", 89_670_912, 0), part("mask_decoder", 4_058_340, 4_058_340)],
            step_s: 1.234,
            images_per_step: 1.0,
            objects_per_step: 7.5,
            validation_s: Some(14.0),
            validation_images: 10,
            peak_bytes: 2 << 30,
            checkpoint_bytes: 375 << 20,
            save_bytes: 400 << 20,
        }
    }

    fn with_length<T>(steps: u64, patience: usize, check: impl FnOnce(RunLength<'_>) -> T) -> T {
        let folder = tempfile::tempdir().expect("a folder");
        let run = RunOptions {
            dir: folder.path().join("run"),
            name: "run".to_owned(),
            seed: 0,
            device: "cpu".to_owned(),
            precision: Precision::F32,
            devices: Vec::new(),
            threads: 0,
            parallel: 1,
            activations: Activations::Keep,
        };
        let optimiser = OptimiserOptions { freeze: Vec::new(), ..OptimiserOptions::default() };
        let schedule = ScheduleOptions { steps, warmup_steps: 0, decay: LrDecay::Constant };
        let validation = ValidationOptions {
            every_steps: 100,
            metric: "miou_1".to_owned(),
            clicks: vec![1],
            boxes: true,
            texts: None,
            max_images: 0,
            patience,
            baseline: true,
        };
        let (n_exports, n_images) = (1, 40);
        check(RunLength {
            run: &run,
            optimiser: &optimiser,
            schedule: &schedule,
            validation: &validation,
            n_exports,
            n_images,
            embeddings: None,
        })
    }

    #[test]
    fn time_is_that_of_all_steps_and_validations() {
        let cost = with_length(1950, 0, |length| length.cost(&measured()));
        assert_eq!(cost.n_validations, 21, "twenty and the baseline");
        assert!((cost.total_s - (1950.0 * 1.234 + 21.0 * 14.0)).abs() < 1e-6);
        assert_eq!(cost.disk_bytes, (3 * 375 + 3 * 400) << 20);
    }

    #[test]
    fn embeddings_take_their_time_once() {
        let embeddings = EmbeddingCost { n_missing: 50, n_bytes: 100 << 20, encode_s: 1.0 };
        let without = embeddings.without_in_validation(measured());
        assert_eq!(without, Measured { validation_s: Some(4.0), ..measured() });
        with_length(1000, 0, |length| {
            let length = RunLength { embeddings: Some(embeddings), ..length };
            let cost = length.cost(&without);
            assert!((cost.total_s - (50.0 + 1000.0 * measured().step_s + 11.0 * 4.0)).abs() < 1e-6, "{cost:?}");
            assert!(length.lines(&without).iter().any(|line| line.contains("50 embeddings are computed before")));
        });
    }

    #[test]
    fn the_plan_says_what_learns_and_warns_of_hours() {
        let lines = with_length(2000, 5, |length| length.lines(&measured()));
        assert_eq!(lines[0], "plan: learns 4.1 M of 93.7 M parameters (mask_decoder; frozen: image_encoder)");
        assert_eq!(lines[1], "plan: 2000 steps of 1 images with 7.5 objects, 50 times over the data");
        assert!(lines[2].starts_with("plan: time at most 46 min"), "{lines:?}");
        assert!(lines[2].ends_with("1.2 s per step, 14 s per validation of 10 images (21 of them)"), "{lines:?}");
        assert!(!lines.iter().any(|line| line.starts_with("warning")), "{lines:?}");
        let lines = with_length(20_000, 0, |length| length.lines(&measured()));
        assert!(lines.last().is_some_and(|line| line.starts_with("warning: this run takes hours")), "{lines:?}");
    }
}
