//! The learning rate as a function of the step alone, so a run can be resumed at any step.

use burn::lr_scheduler::{LrScheduler, LrSchedulerRecord};

use crate::options::{LrDecay, ScheduleOptions};

impl ScheduleOptions {
    /// The factor on the highest rate in step `step` (from 0). The warm-up ends at 1 with its last step.
    pub(super) fn factor(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return (step + 1) as f64 / self.warmup_steps as f64;
        }
        let after = (step - self.warmup_steps) as f64;
        match &self.decay {
            LrDecay::Constant => 1.0,
            LrDecay::MultiStep { milestones, factor } => {
                let passed = milestones.iter().filter(|&&milestone| step >= milestone).count();
                factor.powi(passed as i32)
            }
            LrDecay::Cosine { final_share } => {
                let length = self.steps.saturating_sub(self.warmup_steps + 1).max(1) as f64;
                let done = (after / length).min(1.0);
                final_share + (1.0 - final_share) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
            }
            LrDecay::ReciprocalSqrt { timescale, cooldown_steps } => {
                let timescale = (*timescale).max(1) as f64;
                let decayed = (timescale / (after + timescale)).sqrt();
                let left = self.steps.saturating_sub(step) as f64;
                if *cooldown_steps > 0 && left < *cooldown_steps as f64 {
                    decayed * left / *cooldown_steps as f64
                } else {
                    decayed
                }
            }
        }
    }
}

/// The learning rate of a parameter group, as burn's scheduler takes it.
#[derive(Clone, Debug)]
pub(super) struct GroupRate {
    pub(super) schedule: ScheduleOptions,
    pub(super) rate: f64,
    pub(super) next_step: u64,
}

impl LrScheduler for GroupRate {
    fn step(&mut self) -> f64 {
        let factor = self.schedule.factor(self.next_step);
        self.next_step += 1;
        self.rate * factor
    }

    /// Empty: the step is saved with the progress of the run.
    fn to_record(&self) -> LrSchedulerRecord {
        LrSchedulerRecord::new()
    }

    fn load_record(&mut self, _record: LrSchedulerRecord) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(warmup_steps: u64, steps: u64, decay: LrDecay) -> ScheduleOptions {
        ScheduleOptions { steps, warmup_steps, decay }
    }

    #[test]
    fn multi_step_equals_the_schedule_of_the_paper() {
        let decay = LrDecay::MultiStep { milestones: vec![60_000, 86_666], factor: 0.1 };
        let paper = schedule(250, 90_000, decay);
        for (step, expected) in [
            (0, 0.004),
            (124, 0.5),
            (249, 1.0),
            (250, 1.0),
            (59_999, 1.0),
            (60_000, 0.1),
            (86_665, 0.1),
            (86_666, 0.01),
        ] {
            assert!((paper.factor(step) - expected).abs() < 1e-12, "step {step}: {}", paper.factor(step));
        }
    }

    #[test]
    fn cosine_ends_at_its_fraction_and_stays_there() {
        let cosine = schedule(10, 110, LrDecay::Cosine { final_share: 0.1 });
        assert_eq!(cosine.factor(10), 1.0);
        assert!((cosine.factor(109) - 0.1).abs() < 1e-12);
        assert!((cosine.factor(500) - 0.1).abs() < 1e-12);
        let rising = (10..109).any(|step| cosine.factor(step + 1) > cosine.factor(step));
        assert!(!rising);
    }

    #[test]
    fn reciprocal_square_root_cools_down_to_zero() {
        let decay = LrDecay::ReciprocalSqrt { timescale: 1000, cooldown_steps: 100 };
        let sam2 = schedule(100, 5000, decay);
        assert!((sam2.factor(3100) - 0.5).abs() < 1e-12, "a quarter of 1 / (1 + 3)");
        assert!(sam2.factor(4999) < 0.01 && sam2.factor(4999) > 0.0);
        assert_eq!(schedule(0, 9, LrDecay::Constant).factor(8), 1.0);
    }
}
