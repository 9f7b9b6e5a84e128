//! A run: burn-train's `SupervisedTraining` with our own strategy for the loop.
//!
//! The strategy is ours because burn's validates, saves and stops at the ends of epochs only. Ours validates before the
//! first step (does training help at all?), takes the mean and not the sum of accumulated gradients, clips by the norm of
//! all gradients, saves in the middle of an interval when it is interrupted, and looks at every loss before it touches the
//! weights. Learner, optimiser, events, terminal view and interrupter are burn's.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use burn::data::dataloader::DataLoader;
use burn::train::checkpoint::{CheckpointingAction, CheckpointingStrategy};
use burn::train::logger::InMemoryMetricLogger;
use burn::train::metric::Adaptor;
use burn::train::metric::store::EventStoreClient;
use burn::train::renderer::default_renderer;
use burn::train::{
    Interrupter, Learner, SupervisedLearningStrategy, SupervisedTraining, SupervisedTrainingEventProcessor,
    TrainingComponents, TrainingStrategy,
};
use sam_data::EpochLoader;
use sam_data::loader::{LoaderOptions, Samples};
use sam_eval::{EvalProgress, EvalProtocol, EvalSet};
use sam_model::Sam;

use crate::courier::{Courier, courier};
use crate::error::LearnError;
use crate::events::RunEvent;
use crate::metrics::ShownMetric;
use crate::optimiser::{build, freeze, is_encoder_frozen};
use crate::options::{LogOptions, OptimiserOptions, ScheduleOptions, TrainOptions, ValidationOptions};
use crate::parts::Parts;
use crate::run_log::RunLog;
use crate::run_loop::RunLoop;
use crate::saved_state::{Progress, SavedState};
use crate::silent_renderer::SilentRenderer;
use crate::step::StepOptions;
use crate::student::Student;
use crate::trainee::{Recipe, Shown, Trainee, ValidationPass, ValidationSource};

/// What is validated, and how.
#[derive(Clone)]
pub struct Validation {
    /// What is looked at.
    pub sets: Vec<EvalSet>,
    /// How.
    pub protocols: Vec<EvalProtocol>,
    /// Threads that read images ahead.
    pub n_threads: usize,
}

/// Hears what happens.
pub type Listener = Arc<dyn Fn(&RunEvent) + Send + Sync>;

/// A run to be made.
pub struct Training {
    /// What is chosen; the run folder exists.
    pub options: TrainOptions,
    /// What is learned from.
    pub samples: Arc<dyn Samples>,
    /// How; its seed is that of [`TrainOptions`].
    pub loader: LoaderOptions,
    /// What is validated; `None`: the last checkpoint is the best.
    pub validation: Option<Validation>,
    /// Ends the run after the present step.
    pub interrupter: Interrupter,
    /// Hears what happens.
    pub listener: Listener,
    /// Whether burn-train's terminal view is shown.
    pub terminal_view: bool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps were made.
    Finished,
    /// It was asked to stop; it can go on.
    Interrupted,
    /// The metric has not improved for as long as was allowed.
    EarlyStopped,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// How far it is, with its scores.
    pub progress: Progress,
    /// Checkpoint of the best validation, of the last step without validation.
    pub best: PathBuf,
    /// Checkpoint of the last step.
    pub last: PathBuf,
}

/// Names of the checkpoints in a run folder.
pub const BEST_FILE: &str = "best.safetensors";
/// See [`BEST_FILE`].
pub const LAST_FILE: &str = "last.safetensors";
/// Folder of saved states in a run folder.
pub const CHECKPOINTS_FOLDER: &str = "checkpoints";

/// Makes a run, or goes on with one.
///
/// # Arguments
/// - `sam`: on an autodiff device, with the weights that the run begins with
/// - `resume`: where an earlier session left it
///
/// # Errors
///
/// When the options do not fit the model, data or disk fail, or a loss is not finite. What was saved before stays.
pub fn train(sam: Sam, training: Training, resume: Option<&SavedState>) -> Result<Outcome, LearnError> {
    let Training { options, samples, loader, validation, interrupter, listener, terminal_view } = training;
    let device = sam.device();
    let accumulation = options.optimiser.accumulation.max(1) as u64;

    let has_dropout = sam.config().image_encoder.drop_path_rate > 0.0 || sam.config().mask_decoder.dropout > 0.0;
    if options.run.parallel > 1 && has_dropout {
        return Err(LearnError::PartsWithDropout { n_parts: options.run.parallel });
    }
    let sam = freeze(sam, &options.optimiser.freeze)?;
    let recipe = Recipe {
        seed: options.run.seed,
        prompts: options.prompts.clone(),
        step: StepOptions {
            box_output: options.prompts.box_output,
            loss: options.loss.clone(),
            is_encoder_frozen: is_encoder_frozen(&sam),
            activations: options.run.activations,
            objects_at_once: None,
        },
        accumulation,
        parts: Parts::new(options.run.parallel)?,
    };
    let mut trainee = Trainee::new(sam, recipe);
    if let Some(state) = resume {
        trainee = state.load_model(trainee)?;
    }
    let micro_steps = usize::try_from(options.validation.every_steps * accumulation).unwrap_or(usize::MAX);
    let loader = LoaderOptions { seed: options.run.seed, ..loader };
    let progress = resume.map(|state| state.progress.clone()).unwrap_or_default();
    let loader = EpochLoader::training(samples, loader, micro_steps, progress.step * accumulation, &device);
    let pass = validation.map(|validation| pass(validation, &interrupter, &listener));
    let session = Session {
        encoder_depth: trainee.sam.config().image_encoder.depth,
        shown_in_training: &[
            ("loss", false),
            ("focal", false),
            ("dice", false),
            ("iou_error", false),
            ("train_miou", true),
        ],
        shown_in_validation: &[("miou_1", true), ("miou_1_oracle", true), ("miou_3", true), ("miou_box", true)],
        options: LoopOptions {
            folder: options.run.dir,
            optimiser: options.optimiser,
            schedule: options.schedule,
            validation: options.validation,
            log: options.log,
        },
        loader,
        pass,
        progress,
        interrupter,
        listener,
        terminal_view,
    };
    session.run(trainee, resume)
}

/// What the loop itself is told.
#[derive(Clone, Debug)]
pub(crate) struct LoopOptions {
    /// The run folder.
    pub(crate) folder: PathBuf,
    pub(crate) optimiser: OptimiserOptions,
    pub(crate) schedule: ScheduleOptions,
    pub(crate) validation: ValidationOptions,
    pub(crate) log: LogOptions,
}

/// A run of any student: burn's learner and our loop around it.
pub(crate) struct Session<P> {
    pub(crate) options: LoopOptions,
    pub(crate) loader: EpochLoader,
    pub(crate) pass: Option<P>,
    pub(crate) progress: Progress,
    /// Blocks of the encoder, for rates by layer.
    pub(crate) encoder_depth: usize,
    /// Names in the terminal view, and whether more is better.
    pub(crate) shown_in_training: &'static [(&'static str, bool)],
    pub(crate) shown_in_validation: &'static [(&'static str, bool)],
    pub(crate) interrupter: Interrupter,
    pub(crate) listener: Listener,
    pub(crate) terminal_view: bool,
}

impl<P: Clone + Send + Sync + 'static> Session<P> {
    /// Begins, or goes on where `resume` is; the student's weights are those of `resume` then.
    pub(crate) fn run<S>(self, student: S, resume: Option<&SavedState>) -> Result<Outcome, LearnError>
    where
        S: Student<Pass = P>,
        S::Report: Adaptor<Shown>,
        S::Judgement: Adaptor<Shown>,
    {
        let Self { options, loader, pass, progress, interrupter, listener, terminal_view, .. } = self;
        let average = match (options.optimiser.ema_decay, resume) {
            (None, _) => None,
            (Some(_), None) => Some(student.valid().network().clone()),
            (Some(_), Some(state)) => state.load_average(student.valid().network().clone())?,
        };
        let (optimiser, rates) =
            build(student.network(), self.encoder_depth, &options.optimiser, &options.schedule, progress.step);
        let mut learner = Learner::new(student, optimiser, rates);
        if let Some(state) = resume {
            learner.load_optim(state.load_optimiser()?);
        }
        let folder = options.folder.clone();
        let log = RunLog::open(&folder, progress.step, options.log.tensorboard)?;
        let n_epochs = options.schedule.steps.div_ceil(options.validation.every_steps) as usize;
        let (courier, model_sender, optimiser_sender) = courier();
        let run_loop: RunLoop<S> = RunLoop {
            options,
            loader: loader.clone(),
            has_validation: pass.is_some(),
            progress,
            average,
            log,
            listener,
            courier,
        };
        let strategy = Arc::new(Strategy { run_loop: Mutex::new(Some(run_loop)), outcome: Mutex::new(None) });
        let renderer = match terminal_view {
            true => default_renderer(interrupter.clone(), None),
            false => Box::new(SilentRenderer),
        };
        let mut supervised = SupervisedTraining::new(&folder, Arc::new(loader), Arc::new(ValidationSource(pass)))
            .with_training_strategy(TrainingStrategy::Custom(strategy.clone()))
            .with_interrupter(interrupter)
            .with_application_logger(None)
            .with_metric_logger(InMemoryMetricLogger::default())
            .with_checkpointing_strategy(Always)
            .with_custom_checkpointers(model_sender, optimiser_sender, Courier::ignoring_rates())
            .renderer(renderer)
            .num_epochs(n_epochs);
        for &(name, higher_is_better) in self.shown_in_training {
            supervised = supervised.metric_train_numeric(ShownMetric::new(name, higher_is_better));
        }
        for &(name, higher_is_better) in self.shown_in_validation {
            supervised = supervised.metric_valid_numeric(ShownMetric::new(name, higher_is_better));
        }
        drop(supervised.launch(learner).renderer);
        let mut outcome = strategy.outcome.lock().unwrap_or_else(PoisonError::into_inner);
        outcome.take().expect("the strategy always leaves an outcome")
    }
}

/// Tells the listener how far a validation is, and ends it when the run is asked to stop.
fn pass(validation: Validation, interrupter: &Interrupter, listener: &Listener) -> ValidationPass {
    let Validation { sets, protocols, n_threads } = validation;
    let (interrupter, listener) = (interrupter.clone(), Arc::clone(listener));
    let on_progress = Arc::new(move |at: EvalProgress| {
        listener(&RunEvent::Validating { n_images: at.n_images, of_images: at.of_images });
        if interrupter.should_stop() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    ValidationPass { sets, protocols, n_threads, on_progress }
}

/// Saves are made when the loop says so.
struct Always;

impl CheckpointingStrategy for Always {
    fn checkpointing(&mut self, _epoch: usize, _store: &EventStoreClient) -> Vec<CheckpointingAction> {
        vec![CheckpointingAction::Save]
    }
}

struct Strategy<S: Student> {
    run_loop: Mutex<Option<RunLoop<S>>>,
    outcome: Mutex<Option<Result<Outcome, LearnError>>>,
}

impl<S: Student> SupervisedLearningStrategy<S> for Strategy<S> {
    fn fit(
        &self,
        mut components: TrainingComponents<S>,
        mut learner: Learner<S>,
        train: Arc<dyn DataLoader<sam_data::DeviceBatch>>,
        valid: Arc<dyn DataLoader<S::Pass>>,
        _starting_epoch: usize,
    ) -> (S, SupervisedTrainingEventProcessor<S>) {
        let run_loop = self.run_loop.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut run_loop = run_loop.expect("a run is made once");
        let outcome = run_loop.run(&mut components, &mut learner, train.as_ref(), valid.as_ref());
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
        (learner.model(), components.event_processor)
    }
}
