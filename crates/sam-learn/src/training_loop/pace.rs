//! Speed of a run: smoothed times, and how long the rest will take.

use std::time::Duration;

use burn::tensor::Device;

use crate::device_memory::device_memory;
use crate::record::RunHistory;

/// Weight of the past in smoothed values.
const SMOOTHING: f64 = 0.9;

#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Smoothed; `None` before the first step.
    step_s: Option<f64>,
    wait_s: f64,
    images: f64,
    /// Steps of this session, and one for those of earlier sessions.
    n: u32,
    /// Duration of the last validation.
    validation_s: f64,
    /// Duration of the last save; there is one after each validation.
    save_s: f64,
}

impl Pace {
    /// The pace at which earlier sessions of the run ended. It counts as a single step, so that another device or a busy
    /// machine shows within a few steps.
    pub(super) fn of_history(history: &RunHistory) -> Self {
        let validation_s = history.validations.last().map_or(0.0, |record| record.took_s);
        let Some(last) = history.steps.last().filter(|last| last.images_per_s > 0.0) else {
            return Self { validation_s, ..Self::default() };
        };
        let images = last.n_images as f64;
        let step_s = images / last.images_per_s;
        Self { step_s: Some(step_s), wait_s: last.data_wait_share * step_s, images, n: 1, validation_s, save_s: 0.0 }
    }

    pub(super) fn add(&mut self, step: Duration, wait: Duration, n_images: usize) {
        let (step_s, wait_s, images) = (step.as_secs_f64(), wait.as_secs_f64(), n_images as f64);
        // The plain mean at first: a slow first step would weigh too much for too long.
        let past = SMOOTHING.min(f64::from(self.n) / f64::from(self.n + 1));
        let smooth = |old: f64, new: f64| past * old + (1.0 - past) * new;
        self.n = self.n.saturating_add(1);
        (self.step_s, self.wait_s, self.images) = match self.step_s {
            None => (Some(step_s), wait_s, images),
            Some(old) => (Some(smooth(old, step_s)), smooth(self.wait_s, wait_s), smooth(self.images, images)),
        };
    }

    pub(super) fn add_validation(&mut self, took: Duration) {
        self.validation_s = took.as_secs_f64();
    }

    pub(super) fn add_save(&mut self, took: Duration) {
        self.save_s = took.as_secs_f64();
    }

    pub(super) fn images_per_s(&self) -> f64 {
        self.per_step_s(self.images)
    }

    /// Fraction of the time in which steps wait for data.
    pub(super) fn data_wait_fraction(&self) -> f64 {
        self.per_step_s(self.wait_s).min(1.0)
    }

    /// `None` before the first step.
    pub(super) fn eta_s(&self, steps_left: u64, validations_left: u64) -> Option<f64> {
        let pauses = validations_left as f64 * (self.validation_s + self.save_s);
        Some(steps_left as f64 * self.step_s? + pauses)
    }

    fn per_step_s(&self, value: f64) -> f64 {
        self.step_s.filter(|&step_s| step_s > 0.0).map_or(0.0, |step_s| value / step_s)
    }
}

/// What a device that reports its memory has given to this process; else, on the CPU, the process's physical memory.
pub(super) fn memory_mib(device: &Device) -> f64 {
    let of_process = || memory_stats::memory_stats().map_or(0, |stats| stats.physical_mem as u64);
    let bytes = device_memory(device).map_or_else(of_process, |memory| memory.reserved);
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::StepRecord;

    fn second(n: f64) -> Duration {
        Duration::from_secs_f64(n)
    }

    #[test]
    fn a_slow_first_step_does_not_spoil_the_estimate() {
        let mut pace = Pace::default();
        assert_eq!(pace.eta_s(10, 1), None);
        for took in [11.0, 1.0, 1.0, 1.0, 1.0] {
            pace.add(second(took), second(0.0), 2);
        }
        // The mean of five steps, 3 s.
        pace.add_validation(second(4.0));
        pace.add_save(second(1.0));
        let eta = pace.eta_s(10, 2).expect("steps were made");
        assert!((eta - 40.0).abs() < 1e-9, "{eta}");
    }

    #[test]
    fn a_resumed_run_knows_its_pace_before_its_first_step() {
        let last = StepRecord {
            step: 5,
            of_steps: 9,
            lr: 1.0,
            loss: 1.0,
            segmentation: None,
            distillation: Default::default(),
            grad_norm: 1.0,
            n_images: 4,
            images_per_s: 2.0,
            data_wait_share: 0.25,
            memory_mib: 1.0,
            elapsed_s: 1.0,
            eta_s: 1.0,
        };
        let mut pace = Pace::of_history(&RunHistory { steps: vec![last], ..RunHistory::default() });
        assert_eq!((pace.eta_s(3, 1), pace.data_wait_fraction()), (Some(6.0), 0.25));
        pace.add(second(4.0), second(1.0), 4);
        assert_eq!(pace.eta_s(3, 1), Some(9.0), "both count alike");
        assert_eq!(Pace::of_history(&RunHistory::default()).eta_s(3, 1), None);
    }
}
