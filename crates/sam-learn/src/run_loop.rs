//! The loop itself: steps, validations, saves, and the end.

use std::time::Instant;

use burn::data::dataloader::{DataLoader, Progress as Items};
use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::train::{
    EventProcessorTraining, InferenceStep, Learner, LearnerEvent, TrainOutput, TrainingComponents, TrainingItem,
};
use sam_data::{DeviceBatch, EpochLoader};

use crate::courier::Courier;
use crate::error::LearnError;
use crate::events::{RunEvent, StepRecord, ValidationRecord};
use crate::optimiser::{averaged, clip_by_global_norm, scaled};
use crate::previews;
use crate::run_log::RunLog;
use crate::saved_state::{Progress, SavedState, Scores};
use crate::student::{Judged, Report, Student, weighted_mean};
use crate::training::{BEST_FILE, CHECKPOINTS_FOLDER, Ending, LAST_FILE, Listener, LoopOptions, Outcome};

/// Weight of the past in smoothed speeds.
const SMOOTHING: f64 = 0.9;

pub(crate) struct RunLoop<S: Student> {
    pub(crate) options: LoopOptions,
    pub(crate) loader: EpochLoader,
    pub(crate) has_validation: bool,
    pub(crate) progress: Progress,
    /// The moving average of the weights.
    pub(crate) average: Option<S::Network>,
    pub(crate) log: RunLog,
    pub(crate) listener: Listener,
    pub(crate) courier: Courier,
}

/// Gradients and reports of the batches of one optimiser step.
struct Gathered<R> {
    grads: Option<GradientsParams>,
    reports: Vec<R>,
}

/// Smoothed speeds.
#[derive(Default)]
struct Pace {
    step_s: Option<f64>,
    wait_s: f64,
    images: f64,
    /// Time of one validation, for the ETA.
    validation_s: f64,
}

impl Pace {
    fn add(&mut self, step_s: f64, wait_s: f64, images: f64) {
        let smooth = |old: f64, new: f64| SMOOTHING * old + (1.0 - SMOOTHING) * new;
        match self.step_s {
            None => (self.step_s, self.wait_s, self.images) = (Some(step_s), wait_s, images),
            Some(old) => {
                self.step_s = Some(smooth(old, step_s));
                self.wait_s = smooth(self.wait_s, wait_s);
                self.images = smooth(self.images, images);
            }
        }
    }
}

type TrainLoader = dyn DataLoader<DeviceBatch>;
type ValidLoader<S> = dyn DataLoader<<S as Student>::Pass>;

impl<S: Student> RunLoop<S> {
    pub(crate) fn run(
        &mut self,
        components: &mut TrainingComponents<S>,
        learner: &mut Learner<S>,
        train: &TrainLoader,
        valid: &ValidLoader<S>,
    ) -> Result<Outcome, LearnError> {
        let mut pace = Pace::default();
        let ending = self.go(components, learner, train, valid, &mut pace);
        if ending.is_err() {
            // burn-train must see it, too, or its view would say that all is well.
            components.interrupter.stop(Some("an error"));
        }
        let ending = ending?;
        Ok(Outcome {
            ending,
            progress: self.progress.clone(),
            best: self.options.folder.join(BEST_FILE),
            last: self.options.folder.join(LAST_FILE),
        })
    }

    fn go(
        &mut self,
        components: &mut TrainingComponents<S>,
        learner: &mut Learner<S>,
        train: &TrainLoader,
        valid: &ValidLoader<S>,
        pace: &mut Pace,
    ) -> Result<Ending, LearnError> {
        let steps = self.options.schedule.steps;
        let is_baseline_due =
            self.progress.step == 0 && self.options.validation.baseline && self.progress.validated_step.is_none();
        if is_baseline_due && self.validate(components, learner, valid, pace)?.is_break() {
            return self.interrupted(components, learner);
        }
        // A session that was stopped during a validation makes it up.
        if self.progress.step > 0 && self.is_boundary() && self.progress.validated_step != Some(self.progress.step) {
            if self.validate(components, learner, valid, pace)?.is_break() {
                return self.interrupted(components, learner);
            }
            self.save(components, learner)?;
        }
        while self.progress.step < steps {
            if self.is_out_of_patience() {
                return Ok(Ending::EarlyStopped);
            }
            self.interval(components, learner, train, pace)?;
            if components.interrupter.should_stop() && self.progress.step != steps {
                return self.interrupted(components, learner);
            }
            if self.validate(components, learner, valid, pace)?.is_break() {
                return self.interrupted(components, learner);
            }
            self.save(components, learner)?;
        }
        Ok(if self.is_out_of_patience() && self.progress.step < steps {
            Ending::EarlyStopped
        } else {
            Ending::Finished
        })
    }

    /// Whether a validation belongs behind the present step.
    fn is_boundary(&self) -> bool {
        self.progress.step.is_multiple_of(self.options.validation.every_steps)
            || self.progress.step == self.options.schedule.steps
    }

    fn is_out_of_patience(&self) -> bool {
        self.options.validation.patience > 0 && self.progress.without_improvement >= self.options.validation.patience
    }

    fn interrupted(
        &mut self,
        components: &mut TrainingComponents<S>,
        learner: &Learner<S>,
    ) -> Result<Ending, LearnError> {
        self.save(components, learner)?;
        Ok(Ending::Interrupted)
    }

    /// Steps up to the next validation, or until the run is asked to stop.
    fn interval(
        &mut self,
        components: &mut TrainingComponents<S>,
        learner: &mut Learner<S>,
        train: &TrainLoader,
        pace: &mut Pace,
    ) -> Result<(), LearnError> {
        let epoch = (self.progress.step / self.options.validation.every_steps) as usize + 1;
        let total_items = train.num_items();
        self.event(components, LearnerEvent::StartSplit { epoch_number: epoch, total_items });
        let mut gathered: Gathered<S::Report> = Gathered { grads: None, reports: Vec::new() };
        let mut began = Instant::now();
        let mut iterator = train.iter();
        let mut waited_before = self.loader.report().waited;
        while let Some(batch) = iterator.next() {
            let at_step = self.progress.step + 1;
            let batch = batch.map_err(|error| LearnError::Data { step: at_step, reason: chain(&error) })?;
            let TrainOutput { grads, item } = learner.train_step(batch);
            if !item.loss().is_finite() {
                return Err(item.not_finite(at_step));
            }
            for skipped in item.skipped() {
                (self.listener)(&RunEvent::Skipped { step: at_step, reason: skipped.reason.clone() });
            }
            let items = iterator.progress();
            gathered.add(learner.model().network(), grads, item.clone(), self.options.optimiser.accumulation);
            let is_complete = gathered.reports.len() >= self.options.optimiser.accumulation;
            if is_complete {
                let reports = std::mem::take(&mut gathered.reports);
                let grads = gathered.grads.take().unwrap_or_default();
                let norm = self.optimise(learner, grads, &reports)?;
                let (step_s, waited) = (began.elapsed().as_secs_f64(), self.loader.report().waited);
                let wait_s = waited.saturating_sub(waited_before).as_secs_f64();
                (began, waited_before) = (Instant::now(), waited);
                let n_images: usize = reports.iter().map(|report| report.images().len()).sum();
                pace.add(step_s, wait_s, n_images as f64);
                self.progress.elapsed_s += step_s;
                let record = self.record(learner, &reports, norm, pace);
                self.log.step(&record)?;
                (self.listener)(&RunEvent::Step(record));
            }
            let lr = Some(learner.lr_current());
            let item = TrainingItem::new(item, items, Some(self.progress.step as usize), lr);
            self.event(components, LearnerEvent::ProcessedItem(item));
            // An optimiser step is finished before the run stops, so that a save is always between two.
            if is_complete && (components.interrupter.should_stop() || self.is_boundary()) {
                break;
            }
        }
        drop(iterator);
        self.event(components, LearnerEvent::EndSplit(epoch));
        Ok(())
    }

    /// Clips, steps and averages; gives the norm of the gradient.
    fn optimise(
        &mut self,
        learner: &mut Learner<S>,
        grads: GradientsParams,
        reports: &[S::Report],
    ) -> Result<f64, LearnError> {
        let model = learner.model();
        let weight: usize = reports.iter().map(Report::weight).sum();
        let network = model.network();
        let grads = if reports.len() > 1 { scaled(network, grads, 1.0 / weight.max(1) as f64) } else { grads };
        let (grads, norm) = clip_by_global_norm(network, grads, self.options.optimiser.clip_norm);
        if !norm.is_finite() {
            let samples = reports.iter().flat_map(|report| report.images().to_vec()).collect();
            return Err(LearnError::GradientNotFinite { step: self.progress.step + 1, norm, samples });
        }
        drop(model);
        learner.lr_step();
        learner.optimizer_step(grads);
        if let Some(average) = self.average.take() {
            let decay = self.options.optimiser.ema_decay.unwrap_or_default();
            self.average = Some(averaged(average, learner.model().network(), decay, self.progress.step));
        }
        self.progress.step += 1;
        Ok(norm)
    }

    fn record(&self, learner: &Learner<S>, reports: &[S::Report], norm: f64, pace: &Pace) -> StepRecord {
        let (step, of_steps) = (self.progress.step, self.options.schedule.steps);
        let step_s = pace.step_s.unwrap_or_default();
        let validations_left = (of_steps - step).div_ceil(self.options.validation.every_steps);
        StepRecord {
            step,
            of_steps,
            lr: learner.lr_current().base(),
            loss: weighted_mean(reports, Report::loss),
            segmentation: S::Report::terms(reports),
            grad_norm: norm,
            n_images: reports.iter().map(|report| report.images().len()).sum(),
            images_per_s: if step_s > 0.0 { pace.images / step_s } else { 0.0 },
            data_wait_share: if step_s > 0.0 { (pace.wait_s / step_s).min(1.0) } else { 0.0 },
            memory_mib: memory_mib(),
            elapsed_s: self.progress.elapsed_s,
            eta_s: (of_steps - step) as f64 * step_s + validations_left as f64 * pace.validation_s,
        }
    }

    /// Looks at the model as it is now; `Break` when the run is asked to stop meanwhile.
    fn validate(
        &mut self,
        components: &mut TrainingComponents<S>,
        learner: &Learner<S>,
        valid: &ValidLoader<S>,
        pace: &mut Pace,
    ) -> Result<std::ops::ControlFlow<()>, LearnError> {
        use std::ops::ControlFlow::{Break, Continue};
        let step = self.progress.step;
        let Some(pass) = valid.iter().next() else {
            self.progress.validated_step = Some(step);
            return Ok(Continue(()));
        };
        let pass = pass.map_err(|error| LearnError::Data { step, reason: chain(&error) })?;
        let epoch = step.div_ceil(self.options.validation.every_steps).max(1) as usize;
        let began = Instant::now();
        self.event_valid(components, LearnerEvent::StartSplit { epoch_number: epoch, total_items: 1 });
        let mut model = learner.model().valid();
        if let Some(average) = &self.average {
            model = model.with_network(average.clone());
        }
        let judgement = InferenceStep::step(&model, pass.clone());
        let Judged { metrics, sign } = match S::judged(&judgement, &self.options.validation.metric, step) {
            Ok(judged) => judged,
            Err(_) if components.interrupter.should_stop() => return Ok(Break(())),
            Err(error) => return Err(error),
        };
        for reason in S::left_out(&judgement) {
            (self.listener)(&RunEvent::Skipped { step, reason: reason.clone() });
        }
        let scores = Scores { step, metrics };
        let is_baseline = step == 0;
        let score =
            |scores: &Scores| sign * scores.metrics.get(&self.options.validation.metric).copied().unwrap_or(f64::NAN);
        let is_best = !is_baseline && self.progress.best.as_ref().is_none_or(|best| score(&scores) > score(best));
        let previews = S::picture(&pass, &judgement, self.options.log.previews);
        let took_s = began.elapsed().as_secs_f64();
        pace.validation_s = took_s;

        if is_best {
            // The file first: a crash in between repeats this validation.
            S::write(model.network(), &self.options.folder.join(BEST_FILE))?;
            self.progress.best = Some(scores.clone());
            self.progress.without_improvement = 0;
        } else if !is_baseline {
            self.progress.without_improvement += 1;
        }
        if is_baseline {
            self.progress.baseline = Some(scores.clone());
        }
        self.progress.last = Some(scores.clone());
        self.progress.validated_step = Some(step);
        self.progress.elapsed_s += took_s;
        let record =
            ValidationRecord { scores, metric: self.options.validation.metric.clone(), is_best, is_baseline, took_s };
        self.log.validation(&record)?;
        (self.listener)(&RunEvent::Validated(record));
        if let Some(picture) = previews {
            let path = previews::write(&picture, &self.options.folder, step)?;
            self.log.picture(&picture, step);
            (self.listener)(&RunEvent::Preview { step, path });
        }
        let item = TrainingItem::new(judgement, Items::new(1, 1, Some("validations".into())), Some(1), None);
        self.event_valid(components, LearnerEvent::ProcessedItem(item));
        self.event_valid(components, LearnerEvent::EndSplit(epoch));
        self.event(components, LearnerEvent::EndEpoch(epoch));
        Ok(Continue(()))
    }

    /// Writes the last checkpoint and everything that is needed to go on.
    fn save(&mut self, components: &mut TrainingComponents<S>, learner: &Learner<S>) -> Result<(), LearnError> {
        let step = self.progress.step;
        let network = self.average.clone().unwrap_or_else(|| learner.model().valid().network().clone());
        S::write(&network, &self.options.folder.join(LAST_FILE))?;
        if !self.has_validation {
            S::write(&network, &self.options.folder.join(BEST_FILE))?;
        }
        let checkpointer = components.checkpointer.as_mut();
        let checkpointer = checkpointer.ok_or(LearnError::Internal { what: "burn-train lost its checkpointers" })?;
        checkpointer.checkpoint(learner, step as usize, &components.event_store);
        let (model, optimiser) = self.courier.receive()?;
        let folder = self.options.folder.join(CHECKPOINTS_FOLDER);
        let path = SavedState::save(&folder, model, self.average.as_ref(), optimiser, &self.progress)?;
        (self.listener)(&RunEvent::Saved { step, path });
        Ok(())
    }

    /// The terminal view must not end a run: what it cannot show is left out.
    fn event(&self, components: &mut TrainingComponents<S>, event: LearnerEvent<S::Report>) {
        let _ = components.event_processor.process_train(event);
    }

    fn event_valid(&self, components: &mut TrainingComponents<S>, event: LearnerEvent<S::Judgement>) {
        let _ = components.event_processor.process_valid(event);
    }
}

impl<R: Report> Gathered<R> {
    /// Adds a batch's gradients; of several batches each counts by its weight, so their mean is that of one large batch.
    fn add<N: Module>(&mut self, network: &N, grads: GradientsParams, report: R, accumulation: usize) {
        let grads = match accumulation > 1 {
            true => scaled(network, grads, report.weight() as f64),
            false => grads,
        };
        self.reports.push(report);
        self.grads = Some(match self.grads.take() {
            None => grads,
            Some(sum) => {
                let mut accumulator = GradientsAccumulator::new();
                accumulator.accumulate(network, sum);
                accumulator.accumulate(network, grads);
                accumulator.grads()
            }
        });
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

fn memory_mib() -> f64 {
    memory_stats::memory_stats().map_or(0.0, |stats| stats.physical_mem as f64 / f64::from(1 << 20))
}
