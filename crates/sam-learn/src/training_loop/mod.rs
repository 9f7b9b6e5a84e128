//! The training loop, the same for every task: next batch, gradients, clip, step, record, validate, save.
//!
//! It is ours because burn-train's validates, saves and stops only at the ends of epochs. This one validates before the
//! first step (does training help at all?), takes the mean and not the sum of accumulated gradients, clips by the norm of
//! all gradients together, saves in the middle of an interval when it is interrupted, and looks at every loss before it
//! touches the weights. Optimiser, learning rates and interrupter are burn's.

mod measure;
mod pace;
mod profile;
mod ranked;
mod validation;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::lr_scheduler::module_lr_scheduler::{ModuleLearningRate, ModuleLrScheduler};
use burn::optim::{GradientsAccumulator, GradientsParams, ModuleOptimizer};
use burn::tensor::Device;
use burn::train::Interrupter;
use sam_data::DeviceBatch;
use sam_data::loader::{Loader, LoaderOptions, Samples};
use sam_files::sweep_unfinished;

use crate::device_memory::catch_out_of_memory;
use crate::error::LearnError;
use crate::optim::{Decay, EncoderLayers, averaged, clip_by_global_norm, optimiser_and_rates, scaled};
use crate::options::{LogOptions, OptimiserOptions, ScheduleOptions, ValidationOptions};
use crate::pairwise::PairwiseSum;
use crate::phases::{Phase, timed};
use crate::ranks::{Alone, Ranks, sum_gradients};
use crate::record::{
    ADAPTER_FOLDER, BEST_FILE, CHECKPOINTS_FOLDER, CheckpointFiles, CheckpointProblem, DistillationTerms,
    LAST_ADAPTER_FOLDER, LAST_FILE, LOG_FILE, MetricsLog, Observer, Observers, PREVIEWS_FOLDER, Progress, RunEvent,
    RunHistory, RunStart, SavedState, SegmentationTerms, StepRecord, TensorBoard, VALIDATION_FOLDER,
};
use crate::task::{BatchReport, Task, weighted_mean};
use pace::{Pace, memory_mib};

pub use measure::Measured;
pub(crate) use measure::measure;
pub(crate) use profile::profile;
pub use profile::{Profile, ProfiledStep};

/// The inputs that every run has.
pub struct RunInputs {
    /// Training data.
    pub samples: Arc<dyn Samples>,
    /// Loader options; the seed is that of the run.
    pub loader: LoaderOptions,
    /// Ends the run after the present step.
    pub interrupter: Interrupter,
    /// Receive the events of the run, beside its log and TensorBoard; of rank 0 alone.
    pub observers: Vec<Box<dyn Observer>>,
    /// Those that train together.
    pub ranks: Arc<dyn Ranks>,
}

impl RunInputs {
    /// The same for another rank, which is given later.
    pub(crate) fn shared(&self, observers: Vec<Box<dyn Observer>>) -> Self {
        let Self { samples, loader, interrupter, ranks, .. } = self;
        Self {
            samples: Arc::clone(samples),
            loader: loader.clone(),
            interrupter: interrupter.clone(),
            observers,
            ranks: Arc::clone(ranks),
        }
    }

    /// Of a run by itself that nobody watches.
    #[must_use]
    pub fn unobserved(samples: Arc<dyn Samples>, loader: LoaderOptions, interrupter: Interrupter) -> Self {
        Self { samples, loader, interrupter, observers: Vec::new(), ranks: Arc::new(Alone) }
    }
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps were made.
    Finished,
    /// It was asked to stop; it can be resumed.
    Interrupted,
    /// The metric has not improved for as long as was allowed.
    EarlyStopped,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Reason for the end.
    pub ending: Ending,
    /// Steps done and scores.
    pub progress: Progress,
    /// Checkpoint of the best validation; without validation that of the last step.
    pub best: PathBuf,
    /// Checkpoint of the last step.
    pub last: PathBuf,
}

/// The options that the loop itself reads.
pub(crate) struct LoopOptions {
    /// The run folder.
    pub(crate) folder: PathBuf,
    pub(crate) optimiser: OptimiserOptions,
    pub(crate) schedule: ScheduleOptions,
    pub(crate) validation: ValidationOptions,
    pub(crate) log: LogOptions,
}

/// Everything that a run of a task needs.
pub(crate) struct Setup<T: Task> {
    /// With the weights that the run begins with; those of a save replace them on resume.
    pub(crate) task: T,
    /// Blocks of the encoder, for learning rates by layer.
    pub(crate) layers: EncoderLayers,
    pub(crate) device: Device,
    pub(crate) options: LoopOptions,
    pub(crate) inputs: RunInputs,
    pub(crate) validation: Option<T::ValidationInput>,
}

/// Makes a run, or resumes one.
pub(crate) fn run<T: Task>(setup: Setup<T>, resume: Option<&SavedState>) -> Result<Outcome, LearnError> {
    let (mut run, task) = Run::new(setup, resume)?;
    let ending = catch_out_of_memory(&mut run, |run| run.train(task), |run| run.progress.step + 1)?;
    let Run { options, progress, .. } = run;
    Ok(Outcome { ending, progress, best: options.folder.join(BEST_FILE), last: options.folder.join(LAST_FILE) })
}

struct Run<T: Task> {
    options: LoopOptions,
    device: Device,
    batches: Loader,
    optimiser: ModuleOptimizer,
    rates: ModuleLrScheduler,
    /// The moving average of the weights.
    average: Option<T::Network>,
    validation: Option<T::ValidationInput>,
    progress: Progress,
    pace: Pace,
    interrupter: Interrupter,
    /// Whether any rank was asked to stop before the last step.
    is_stop_agreed: bool,
    checkpoints: CheckpointFiles,
    observers: Observers,
    ranks: Arc<dyn Ranks>,
}

impl<T: Task> Run<T> {
    /// The run as it begins, or as it was saved.
    fn new(setup: Setup<T>, resume: Option<&SavedState>) -> Result<(Self, T), LearnError> {
        let Setup { mut task, options, device, inputs, validation, layers } = setup;
        let RunInputs { samples, loader, interrupter, observers: others, ranks } = inputs;
        let is_writer = ranks.rank() == 0;
        if is_writer {
            let folders = [CHECKPOINTS_FOLDER, PREVIEWS_FOLDER, VALIDATION_FOLDER, ADAPTER_FOLDER, LAST_ADAPTER_FOLDER];
            for folder in std::iter::once("").chain(folders) {
                sweep_unfinished(&options.folder.join(folder));
            }
        }
        if let Some(state) = resume {
            task = state.load_model(task)?;
        }
        let mut progress = resume.map(|state| state.progress.clone()).unwrap_or_default();
        let average = match (options.optimiser.ema_decay, resume) {
            (None, _) => None,
            (Some(_), None) => Some(task.valid().network().clone()),
            (Some(_), Some(state)) => Some(state.load_average(task.valid().network().clone())?),
        };
        // The parameters' ids count, so the weights are loaded before.
        let (mut optimiser, rates) =
            optimiser_and_rates(task.network(), layers, &options.optimiser, &options.schedule, progress.step);
        if let Some(state) = resume {
            optimiser = optimiser.load_record(state.load_optimiser()?);
        }
        // All that watches the run, in the order in which it receives events.
        let checkpoints = CheckpointFiles::open(&options.folder);
        let mut warnings = Vec::new();
        let mut observers: Vec<Box<dyn Observer>> = Vec::new();
        if is_writer {
            let (log, of_log) = MetricsLog::open(&options.folder, resume)?;
            warnings.extend(of_log);
            if resume.is_some() {
                warnings.extend(check_checkpoints(&checkpoints, &mut progress));
            }
            observers.push(Box::new(log));
            if options.log.tensorboard {
                observers.push(Box::new(TensorBoard::new(&options.folder)));
            }
            observers.extend(others);
        }
        ranked::check(&*ranks, &task, &progress)?;
        let progress = ranked::of_first(&*ranks, progress)?;
        let history = match resume {
            Some(_) => RunHistory::read(&options.folder)?,
            None => RunHistory::default(),
        };
        let accumulation = options.optimiser.accumulation.max(1);
        let loader = LoaderOptions { turns: ranked::turns(&*ranks, accumulation)?, ..loader };
        let batches = Loader::new(samples, loader, progress.step * accumulation as u64);
        let mut run = Self {
            options,
            device,
            batches,
            optimiser,
            rates,
            average,
            validation,
            progress,
            pace: Pace::of_history(&history),
            interrupter,
            is_stop_agreed: false,
            checkpoints,
            observers: Observers(observers),
            ranks,
        };
        run.notify_start(history)?;
        warnings.into_iter().try_for_each(|message| run.observers.notify(&RunEvent::Warning { message }))?;
        Ok((run, task))
    }

    fn notify_start(&mut self, history: RunHistory) -> Result<(), LearnError> {
        let start = RunStart {
            progress: self.progress.clone(),
            of_steps: self.options.schedule.steps,
            validation_every: self.options.validation.every_steps,
            metric: self.validation.is_some().then(|| self.options.validation.metric.clone()),
            eta_s: self.eta_s(),
            history: Arc::new(history),
        };
        self.observers.notify(&RunEvent::Started(start))
    }

    /// Expected time to the last step; `None` before the first one.
    fn eta_s(&self) -> Option<f64> {
        let steps_left = self.options.schedule.steps.saturating_sub(self.progress.step);
        let validations_left = match self.validation {
            Some(_) => steps_left.div_ceil(self.options.validation.every_steps) + u64::from(self.is_validation_due()),
            None => 0,
        };
        self.pace.eta_s(steps_left, validations_left)
    }

    /// Trains until the last step, until nothing improves any more, or until the run is asked to stop.
    fn train(&mut self, mut task: T) -> Result<Ending, LearnError> {
        if self.is_validation_due() && self.validate_and_save(&task)?.is_break() {
            return Ok(Ending::Interrupted);
        }
        while self.progress.step < self.options.schedule.steps {
            if self.is_out_of_patience() {
                return Ok(Ending::EarlyStopped);
            }
            let (began, waited_before) = (Instant::now(), self.batches.report().waited);
            let own = self.gradients_of_next_batches(&task);
            let (grads, reports) = match self.of_all_ranks(&task, own) {
                Err(LearnError::Ranks(_)) if self.interrupter.should_stop() => {
                    self.save(&task)?;
                    return Ok(Ending::Interrupted);
                }
                of_all => of_all?,
            };
            // From here on, every rank does the same.
            let (grads, grad_norm) = self.clip(&task, grads, &reports)?;
            task = task.following_batches();
            let rates = self.rates.step();
            task = self.optimiser.step(rates.clone(), task, grads);
            self.update_average(&task);
            self.progress.step += 1;
            self.update_pace(began.elapsed(), self.batches.report().waited - waited_before, &reports);
            self.record(&reports, grad_norm, &rates)?;
            if self.should_stop() && self.progress.step < self.options.schedule.steps {
                self.save(&task)?;
                return Ok(Ending::Interrupted);
            }
            if self.is_validation_due() && self.validate_and_save(&task)?.is_break() {
                return Ok(Ending::Interrupted);
            }
        }
        Ok(Ending::Finished)
    }

    /// Before the first step; after every interval and after the last step. A session that was stopped during a
    /// validation makes up for it.
    fn is_validation_due(&self) -> bool {
        let Progress { step, validated_step, .. } = self.progress;
        let ValidationOptions { baseline, every_steps, .. } = self.options.validation;
        let is_due = match step {
            0 => baseline,
            _ => step.is_multiple_of(every_steps) || step == self.options.schedule.steps,
        };
        is_due && validated_step != Some(step)
    }

    fn is_out_of_patience(&self) -> bool {
        let patience = self.options.validation.patience;
        patience > 0 && self.progress.without_improvement >= patience
    }

    /// Gradients over this rank's batches of one optimiser step: of the loss of one batch, where the step has no more, else the sum
    /// over batches, each with its weight. The sum is pairwise, so that several ranks make the same additions.
    fn gradients_of_next_batches(&mut self, task: &T) -> Result<(GradientsParams, Vec<BatchReport>), LearnError> {
        let step = self.progress.step + 1;
        let accumulation = self.options.optimiser.accumulation.max(1);
        let network = task.network();
        let plus = |one, other| {
            let mut sum = GradientsAccumulator::new();
            sum.accumulate(network, one);
            sum.accumulate(network, other);
            sum.grads()
        };
        let mut sum = PairwiseSum::new();
        let mut reports: Vec<BatchReport> = Vec::new();
        for _ in 0..accumulation / self.ranks.n() {
            let batches = &mut self.batches;
            let batch = timed(Phase::Data, &self.device, || {
                let batch = batches.next_batch().ok_or(LearnError::Internal { what: "the training data ended" })?;
                let batch = batch.map_err(|error| LearnError::Data { step, reason: error.to_string() })?;
                Ok::<_, LearnError>(DeviceBatch::new(batch, &self.device))
            });
            let (grads, report) = task.gradients(batch?)?;
            if !report.loss.is_finite() {
                let terms = report.loss_terms();
                return Err(LearnError::NotFinite { step, loss: report.loss, terms, samples: report.images });
            }
            let grads = if accumulation > 1 { scaled(network, grads, report.weight as f64) } else { grads };
            sum.add(grads, plus);
            reports.push(report);
        }
        Ok((sum.finish(plus).unwrap_or_default(), reports))
    }

    /// Gradients of the mean loss over all batches of a step, those of other ranks too, and the reports of all. The mean is that of
    /// one large batch.
    fn of_all_ranks(
        &mut self,
        task: &T,
        own: Result<(GradientsParams, Vec<BatchReport>), LearnError>,
    ) -> Result<(GradientsParams, Vec<BatchReport>), LearnError> {
        let (step, network) = (self.progress.step + 1, task.network());
        let (grads, own) = own.map_or_else(|error| (None, Err(error)), |(grads, reports)| (Some(grads), Ok(reports)));
        let (reports, is_stop_agreed) = ranked::reports(&*self.ranks, own, self.interrupter.should_stop())?;
        self.is_stop_agreed = is_stop_agreed;
        for skipped in reports.iter().flat_map(|report| &report.skipped) {
            self.observers.notify(&RunEvent::Skipped { step, reason: skipped.reason.clone() })?;
        }
        let grads = sum_gradients(&*self.ranks, network, grads.unwrap_or_default())?;
        let weight: usize = reports.iter().map(|report| report.weight).sum();
        Ok(match reports.len() > 1 {
            true => (scaled(network, grads, 1.0 / weight.max(1) as f64), reports),
            false => (grads, reports),
        })
    }

    /// Whether the run is asked to stop, at the same step on every rank.
    fn should_stop(&self) -> bool {
        if self.ranks.n() > 1 { self.is_stop_agreed } else { self.interrupter.should_stop() }
    }

    /// Clipped gradients and their norm before.
    fn clip(
        &self,
        task: &T,
        grads: GradientsParams,
        reports: &[BatchReport],
    ) -> Result<(GradientsParams, f64), LearnError> {
        let (grads, norm) = clip_by_global_norm(task.network(), grads, self.options.optimiser.clip_norm);
        if !norm.is_finite() {
            let samples = reports.iter().flat_map(|report| report.images.clone()).collect();
            return Err(LearnError::GradientNotFinite { step: self.progress.step + 1, norm, samples });
        }
        Ok((grads, norm))
    }

    fn update_average(&mut self, task: &T) {
        if let Some(average) = self.average.take() {
            let decay = self.options.optimiser.ema_decay.unwrap_or_default();
            self.average = Some(averaged(
                average,
                task.network(),
                Decay { decay, step: self.progress.step, statistics: task.has_running_statistics() },
            ));
        }
    }

    fn record(
        &mut self,
        reports: &[BatchReport],
        grad_norm: f64,
        rates: &ModuleLearningRate,
    ) -> Result<(), LearnError> {
        let (step, of_steps) = (self.progress.step, self.options.schedule.steps);
        let record = StepRecord {
            step,
            of_steps,
            lr: rates.base(),
            loss: weighted_mean(reports, |report| report.loss),
            segmentation: SegmentationTerms::of_batches(reports),
            distillation: DistillationTerms::of_batches(reports),
            grad_norm,
            n_images: n_images(reports),
            images_per_s: self.pace.images_per_s(),
            data_wait_share: self.pace.data_wait_fraction(),
            memory_mib: memory_mib(&self.device),
            elapsed_s: self.progress.elapsed_s,
            eta_s: self.eta_s().unwrap_or_default(),
        };
        self.observers.notify(&RunEvent::Step(record))
    }

    fn update_pace(&mut self, took: Duration, waited: Duration, reports: &[BatchReport]) {
        self.pace.add(took, waited, n_images(reports));
        self.progress.elapsed_s += took.as_secs_f64();
    }

    /// As [`Run::validate`], then saves; the baseline alone is not worth a save.
    fn validate_and_save(&mut self, task: &T) -> Result<ControlFlow<()>, LearnError> {
        let is_stopped = self.validate(task)?;
        if is_stopped.is_break() || self.progress.step > 0 {
            self.save(task)?;
        }
        Ok(is_stopped)
    }

    /// Writes the last checkpoint and everything that a resumed run needs.
    fn save(&mut self, task: &T) -> Result<(), LearnError> {
        if self.ranks.rank() > 0 {
            return Ok(());
        }
        let began = Instant::now();
        self.observers.notify(&RunEvent::Saving { step: self.progress.step })?;
        let folder = &self.options.folder;
        let network = self.average.clone().unwrap_or_else(|| task.valid().network().clone());
        self.checkpoints.write(LAST_FILE, |path| T::write(&network, path))?;
        task.write_adapters(&network, &folder.join(LAST_ADAPTER_FOLDER))?;
        if self.validation.is_none() {
            task.write_adapters(&network, &folder.join(ADAPTER_FOLDER))?;
            self.checkpoints.write(BEST_FILE, |path| T::write(&network, path))?;
        }
        let (model, optimiser) = (task.clone().into_record(), self.optimiser.to_record());
        let checkpoints = folder.join(CHECKPOINTS_FOLDER);
        let log = folder.join(LOG_FILE);
        let path = SavedState::save(&checkpoints, model, self.average.as_ref(), optimiser, &self.progress, &log)?;
        self.pace.add_save(began.elapsed());
        self.observers.notify(&RunEvent::Saved { step: self.progress.step, path })
    }
}

/// Checks the checkpoints of a resumed run. Without its file the best score is forgotten, so that the next validation
/// writes a best checkpoint again.
fn check_checkpoints(files: &CheckpointFiles, progress: &mut Progress) -> Vec<String> {
    let mut warnings = Vec::new();
    match files.problem(LAST_FILE) {
        Some(CheckpointProblem::Lost(problem)) => warnings.push(format!("{problem}; the next save writes it again")),
        Some(CheckpointProblem::Unchecked(problem)) => warnings.push(problem),
        None => {}
    }
    match files.problem(BEST_FILE).filter(|_| progress.best.is_some()) {
        Some(CheckpointProblem::Lost(problem)) => {
            warnings.push(format!("{problem}; the next validation is the best so far and writes it again"));
            (progress.best, progress.without_improvement) = (None, 0);
        }
        Some(CheckpointProblem::Unchecked(problem)) => warnings.push(problem),
        None => {}
    }
    warnings
}

fn n_images(reports: &[BatchReport]) -> usize {
    reports.iter().map(|report| report.images.len()).sum()
}
