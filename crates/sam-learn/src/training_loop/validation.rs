//! A validation in the loop: scores, the best checkpoint, and what is logged of them.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use burn::module::Module;
use sam_eval::Better;

use super::Run;
use crate::error::LearnError;
use crate::record::{ADAPTER_FOLDER, BEST_FILE, RunEvent, Scores, ValidationRecord, Which, write_preview};
use crate::task::{Task, ValidationOutput, ValidationRequest};

impl<T: Task> Run<T> {
    /// What to think of a first validation that is far worse than before training.
    fn collapse(&self, record: &ValidationRecord) -> Option<String> {
        let is_first = record.scores.step == self.options.validation.every_steps && !record.is_baseline;
        let (before, after) = (*self.progress.baseline.as_ref()?.metrics.get(&record.metric)?, record.score()?);
        let is_far_worse = match record.better() {
            Better::Higher => after < before / 2.0,
            Better::Lower => after > before * 2.0,
        };
        (is_first && is_far_worse).then(|| {
            format!(
                "{} went from {before:.4} to {after:.4} in the first {} steps: the model forgets what it had learned. The learning \
                 rate is probably too high, or the loss is not the one that it was trained with",
                record.metric, record.scores.step
            )
        })
    }

    /// Validates the model as it is now; `Break` when the run is asked to stop meanwhile.
    pub(super) fn validate(&mut self, task: &T) -> Result<ControlFlow<()>, LearnError> {
        let (step, metric) = (self.progress.step, &self.options.validation.metric);
        let Some(input) = &self.validation else {
            self.progress.validated_step = Some(step);
            return Ok(ControlFlow::Continue(()));
        };
        let began = Instant::now();
        let valid = task.valid();
        let network = self.average.clone().unwrap_or_else(|| valid.network().clone());
        // Merged, so that what is validated is what is exported, and at the speed of a network without adapters.
        let model = valid.with_network(network.clone().materialize());
        let (observers, interrupter, ranks) = (&mut self.observers, &self.interrupter, &*self.ranks);
        let mut observed = Ok(());
        let mut on_progress = |n_images, of_images| {
            observed = observers.notify(&RunEvent::Validating { n_images, of_images });
            match observed.is_err() || interrupter.should_stop() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        };
        let n_previews = self.options.log.previews;
        let output =
            model.validate(input, ValidationRequest { step, metric, n_previews, on_progress: &mut on_progress, ranks });
        observed?;
        let ValidationOutput { metrics, better, skipped, preview, details } = match output {
            Ok(output) => output,
            Err(LearnError::ValidationStopped) => return Ok(ControlFlow::Break(())),
            Err(_) if self.interrupter.should_stop() => return Ok(ControlFlow::Break(())),
            Err(error) => return Err(error),
        };
        for reason in skipped {
            self.observers.notify(&RunEvent::Skipped { step, reason })?;
        }
        let is_writer = self.ranks.rank() == 0;
        let took = began.elapsed();
        self.pace.add_validation(took);
        let record = self.score(Scores { step, metrics }, better, took);
        if record.is_best && is_writer {
            // The files first: a crash in between repeats this validation.
            model.write_adapters(&network, &self.options.folder.join(ADAPTER_FOLDER))?;
            self.checkpoints.write(BEST_FILE, |path| T::write(model.network(), path))?;
        }
        self.update_progress(&record);
        let warning = self.collapse(&record);
        let which = match (record.is_baseline, record.is_best) {
            (true, _) => Which::Baseline,
            (false, true) => Which::Best,
            (false, false) => Which::Last,
        };
        self.observers.notify(&RunEvent::Validated(record))?;
        if let Some(message) = warning {
            self.observers.notify(&RunEvent::Warning { message })?;
        }
        if !is_writer {
            return Ok(ControlFlow::Continue(()));
        }
        let written = details.map_or(Ok(()), |details| details.write(&self.options.folder, step, which));
        if let Err(error) = written {
            // Only the report needs them.
            self.observers.notify(&RunEvent::Warning { message: error.to_string() })?;
        }
        if let Some(image) = preview {
            let path = write_preview(&image, &self.options.folder, step)?;
            self.observers.notify(&RunEvent::Preview { step, path, image })?;
        }
        Ok(ControlFlow::Continue(()))
    }

    fn score(&self, scores: Scores, better: Better, took: Duration) -> ValidationRecord {
        let metric = self.options.validation.metric.clone();
        let sign = match better {
            Better::Higher => 1.0,
            Better::Lower => -1.0,
        };
        let score = |scores: &Scores| sign * scores.metrics.get(&metric).copied().unwrap_or(f64::NAN);
        let is_baseline = scores.step == 0;
        let is_best = !is_baseline && self.progress.best.as_ref().is_none_or(|best| score(&scores) > score(best));
        ValidationRecord { scores, metric, is_best, is_baseline, better: Some(better), took_s: took.as_secs_f64() }
    }

    fn update_progress(&mut self, record: &ValidationRecord) {
        let progress = &mut self.progress;
        match (record.is_baseline, record.is_best) {
            (true, _) => progress.baseline = Some(record.scores.clone()),
            (false, true) => (progress.best, progress.without_improvement) = (Some(record.scores.clone()), 0),
            (false, false) => progress.without_improvement += 1,
        }
        progress.last = Some(record.scores.clone());
        progress.validated_step = Some(record.scores.step);
        progress.elapsed_s += record.took_s;
    }
}
