//! Speed of a run: smoothed times, and how long the rest will take.

use std::time::Duration;

/// Weight of the past in smoothed values.
const SMOOTHING: f64 = 0.9;

#[derive(Default)]
pub(super) struct Pace {
    /// Smoothed; `None` before the first step.
    step_s: Option<f64>,
    wait_s: f64,
    images: f64,
    /// Duration of the last validation.
    validation_s: f64,
}

impl Pace {
    pub(super) fn add(&mut self, step: Duration, wait: Duration, n_images: usize) {
        let (step_s, wait_s, images) = (step.as_secs_f64(), wait.as_secs_f64(), n_images as f64);
        let smooth = |old: f64, new: f64| SMOOTHING * old + (1.0 - SMOOTHING) * new;
        (self.step_s, self.wait_s, self.images) = match self.step_s {
            None => (Some(step_s), wait_s, images),
            Some(old) => (Some(smooth(old, step_s)), smooth(self.wait_s, wait_s), smooth(self.images, images)),
        };
    }

    pub(super) fn add_validation(&mut self, took: Duration) {
        self.validation_s = took.as_secs_f64();
    }

    pub(super) fn images_per_s(&self) -> f64 {
        self.per_step_s(self.images)
    }

    /// Fraction of the time in which steps wait for data.
    pub(super) fn data_wait_fraction(&self) -> f64 {
        self.per_step_s(self.wait_s).min(1.0)
    }

    pub(super) fn eta_s(&self, steps_left: u64, validations_left: u64) -> f64 {
        steps_left as f64 * self.step_s.unwrap_or_default() + validations_left as f64 * self.validation_s
    }

    fn per_step_s(&self, value: f64) -> f64 {
        self.step_s.filter(|&step_s| step_s > 0.0).map_or(0.0, |step_s| value / step_s)
    }
}

/// Physical memory of this process.
pub(super) fn memory_mib() -> f64 {
    memory_stats::memory_stats().map_or(0.0, |stats| stats.physical_mem as f64 / f64::from(1 << 20))
}
