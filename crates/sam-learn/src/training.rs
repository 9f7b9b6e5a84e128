//! A training run: a segmenter, its data and its options become the setup of a run.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sam_data::loader::{Content, LoaderOptions};
use sam_model::lora::has_adapters;
use sam_model::{BatchNormStatistics, Modality, Sam, TextVector};

use crate::embeddings::{FingerprintedSamples, FrozenEmbeddings};
use crate::error::LearnError;
use crate::optim::{EncoderLayers, adapt, choose_learning, is_encoder_frozen, learned_keys};
use crate::options::TrainOptions;
use crate::ranks::{Ranks, on_threads};
use crate::record::SavedState;
use crate::task::{
    AdapterRecord, Embeddings, SegmentationRecipe, SegmentationTask, ShardPools, StepOptions, Texts, Validation,
};
use crate::teacher::{Distillation, Teacher, WithoutMasks, without_gradients};
use crate::texts::TextVectors;
use crate::training_loop::{LoopOptions, Measured, Outcome, Profile, RunInputs, Setup, measure, profile, run};

/// The inputs of a training run, beside the model.
pub struct Training {
    /// All sections; the run folder exists.
    pub options: TrainOptions,
    /// Data, interruption and observers.
    pub inputs: RunInputs,
    /// Validation data; `None`: the last checkpoint is the best.
    pub validation: Option<Validation>,
    /// The embeddings of an encoder of which nothing learns, in a cache of its own; `None`: the encoder runs in each step.
    /// The augmentation must then only mirror.
    pub embeddings: Option<Arc<FrozenEmbeddings>>,
    /// The teacher of a distillation.
    pub distillation: Option<Distillation>,
    /// The texts of the objects, for a segmenter that takes texts; `None`: no prompt is a text.
    pub texts: Option<Arc<TextVectors>>,
}

/// Whether nothing of the encoder learns in a run with these options.
///
/// # Errors
///
/// When the options do not fit the model.
pub fn freezes_encoder(sam: &Sam, options: &TrainOptions) -> Result<bool, LearnError> {
    Ok(is_encoder_frozen(&prepare(sam.clone(), options)?))
}

/// The segmenter with its adapters, and with everything frozen that does not learn, as [`train`] starts with.
///
/// # Arguments
/// - `sam`: with adapters already, when a training continues those of a file (see [`adapt`])
///
/// # Errors
///
/// When the options do not fit the model.
fn prepare(sam: Sam, options: &TrainOptions) -> Result<Sam, LearnError> {
    let sam = match &options.lora {
        Some(lora) if !has_adapters(&sam) => adapt(sam, lora, options.run.seed, None)?,
        _ => sam,
    };
    choose_learning(sam, &options.optimiser)
}

/// Trains a segmenter, or resumes a run.
///
/// # Arguments
/// - `sam`: on an autodiff device, with the weights that the run begins with, and with adapters where it continues some (see
///   [`adapt`](crate::optim::adapt))
/// - `resume`: the save of an earlier session
///
/// # Errors
///
/// When the options do not fit the model, data or disk fail, or a loss is not finite. Earlier saves stay.
pub fn train(sam: Sam, training: Training, resume: Option<&SavedState>) -> Result<Outcome, LearnError> {
    let kept = |kept: Option<Arc<FrozenEmbeddings>>| kept.map_or(Embeddings::EachStep, Embeddings::Kept);
    let teacher = training.distillation.as_ref().map(|distillation| {
        let without_masks = WithoutMasks::First(distillation.options.embedding_steps);
        (kept(distillation.embeddings.clone()), without_masks)
    });
    let sources = Sources {
        embeddings: kept(training.embeddings.clone()),
        texts: training.texts.clone().map_or(Texts::Nowhere, Texts::Kept),
        teacher,
    };
    run(setup(sam, training, sources)?, resume)
}

/// Trains a segmenter on several devices of this machine, each a rank with its share of the batches of a step.
///
/// # Arguments
/// - `sam`: as for [`train`], on any of the devices
///
/// # Errors
///
/// As [`train`], and when the batches of a step cannot be divided among the devices.
pub fn train_on(
    devices: &[Device],
    sam: &Sam,
    mut training: Training,
    resume: Option<&SavedState>,
) -> Result<Outcome, LearnError> {
    if devices.len() < 2 {
        return train(sam.clone(), training, resume);
    }
    let interrupter = training.inputs.interrupter.clone();
    let mut observers = Some(std::mem::take(&mut training.inputs.observers));
    let of_device = |device: &Device| {
        let distillation = training.distillation.clone();
        let distillation =
            distillation.map(|distil| Distillation { teacher: distil.teacher.clone().fork(device), ..distil });
        let mut own = Training {
            options: training.options.clone(),
            inputs: training.inputs.shared(observers.take().unwrap_or_default()),
            validation: training.validation.clone(),
            embeddings: training.embeddings.clone(),
            distillation,
            texts: training.texts.clone(),
        };
        let sam = sam.clone().fork(device);
        move |ranks: Arc<dyn Ranks>| {
            own.inputs.ranks = ranks;
            train(sam, own, resume)
        }
    };
    on_threads(devices.iter().map(of_device).collect(), &interrupter)
}

/// Measures what a run will take by some steps and validations, after which nothing remains. `None` when not even one step
/// can be made; [`train`] then says why.
///
/// # Arguments
/// - `keeps_embeddings`: for a run with [`Training::embeddings`], or with those of its teacher, which need not be there yet. Its
///   validation is measured with the encoder.
///
/// # Errors
///
/// As [`train`], before its first step.
pub fn measure_training(sam: Sam, training: Training, keeps_embeddings: bool) -> Result<Option<Measured>, LearnError> {
    let sources = stand_ins(&sam, &training, keeps_embeddings);
    measure(setup(sam, training, sources)?)
}

/// For steps that show what a run takes.
fn stand_ins(sam: &Sam, training: &Training, keeps_embeddings: bool) -> Sources {
    let stand_in = |sam: &Sam| match keeps_embeddings {
        true => {
            let (sam, side) = (sam.valid(), sam.image_size());
            Embeddings::StandIn(Box::new(sam.encode(Tensor::zeros([1, 3, side, side], &sam.device()))))
        }
        false => Embeddings::EachStep,
    };
    let (embeddings, teacher) = match &training.distillation {
        Some(Distillation { teacher, options, .. }) => {
            let share = options.embedding_steps as f64 / training.options.schedule.steps.max(1) as f64;
            (Embeddings::EachStep, Some((stand_in(teacher), WithoutMasks::Spread(share))))
        }
        None => (stand_in(sam), None),
    };
    // Vectors need not be there yet.
    let texts = match (&training.options.prompts.text, &sam.config().text) {
        (Some(_), Some(text)) => Texts::StandIn(TextVector {
            values: std::iter::once(1.0).chain(std::iter::repeat_n(0.0, text.width - 1)).collect(),
            modality: Modality::Image,
        }),
        _ => Texts::Nowhere,
    };
    Sources { embeddings, texts, teacher }
}

/// Measures the phases of `n_steps` steps of a run, after one that is not counted; nothing remains. A run that would keep embeddings
/// is measured with stand-ins for them.
///
/// # Errors
///
/// As [`train`].
pub fn profile_training(
    sam: Sam,
    training: Training,
    keeps_embeddings: bool,
    n_steps: usize,
) -> Result<Profile, LearnError> {
    let sources = stand_ins(&sam, &training, keeps_embeddings);
    profile(setup(sam, training, sources)?, n_steps)
}

/// Where a task finds what it learns from, beside images and masks.
struct Sources {
    embeddings: Embeddings,
    texts: Texts,
    /// The teacher's embeddings, and the steps that learn nothing else.
    teacher: Option<(Embeddings, WithoutMasks)>,
}

fn setup(sam: Sam, training: Training, sources: Sources) -> Result<Setup<SegmentationTask>, LearnError> {
    let Training { options, inputs, validation, distillation, .. } = training;
    let Sources { embeddings, texts, teacher } = sources;
    let (sam, n_running) = prepare(sam, &options)?.with_settled_batch_norms();
    let takes_batches = sam.config().image_encoder.tiny_vit().map(|tiny| tiny.batch_norm);
    if takes_batches == Some(BatchNormStatistics::Running) && n_running == 0 {
        return Err(LearnError::NoRunningStatistics);
    }
    let TrainOptions { run: run_options, prompts, loss, lora, optimiser, schedule, validation: intervals, log } =
        options;
    if run_options.parallel > 1 && n_running > 0 {
        return Err(LearnError::ShardsWithRunningStatistics { n_shards: run_options.parallel });
    }
    if inputs.ranks.n() > 1 && n_running > 0 {
        return Err(LearnError::RanksWithRunningStatistics { n_ranks: inputs.ranks.n() });
    }
    let is_encoder_frozen = is_encoder_frozen(&sam);
    let teacher = match distillation.zip(teacher) {
        Some((distillation, (embeddings, without_masks))) => {
            distillation.check(&sam)?;
            let learns_embeddings =
                distillation.options.embedding_steps > 0 || distillation.options.embedding_weight > 0.0;
            if is_encoder_frozen && learns_embeddings {
                return Err(LearnError::TaughtEncoderIsFrozen);
            }
            Some(Teacher {
                sam: without_gradients(&distillation.teacher),
                embeddings,
                options: distillation.options,
                without_masks,
                seed: run_options.seed,
            })
        }
        None => None,
    };
    let recipe = SegmentationRecipe {
        has_running_statistics: n_running > 0,
        seed: run_options.seed,
        step: StepOptions {
            box_output: prompts.box_output,
            loss,
            is_encoder_frozen,
            activations: run_options.activations,
            objects_at_once: None,
        },
        prompts,
        accumulation: optimiser.accumulation.max(1) as u64,
        pools: ShardPools::new(run_options.parallel)?,
        adapters: lora.map(|lora| AdapterRecord { base: lora.base, dropout: lora.dropout, whole: learned_keys(&sam) }),
        embeddings: embeddings.clone(),
        texts,
        teacher,
    };
    let mut inputs = RunInputs { loader: LoaderOptions { seed: run_options.seed, ..inputs.loader }, ..inputs };
    if !matches!(embeddings, Embeddings::EachStep) {
        let is_fixed = recipe.step.is_encoder_frozen && inputs.loader.augmentation.only_mirrors();
        assert!(is_fixed, "embeddings are kept of a frozen encoder, and of images that are only mirrored");
        inputs.loader.content = Content::Hash;
    }
    if recipe.teacher.as_ref().is_some_and(|teacher| matches!(teacher.embeddings, Embeddings::Kept(_))) {
        assert!(inputs.loader.augmentation.only_mirrors(), "embeddings are kept of images that are only mirrored");
        inputs.loader.content = Content::PixelsAndHash;
    }
    if let Embeddings::Kept(kept) = embeddings {
        inputs.samples = Arc::new(FingerprintedSamples(kept));
    }
    Ok(Setup {
        layers: EncoderLayers::of(&sam.config().image_encoder),
        device: sam.device(),
        task: SegmentationTask::new(sam, recipe),
        options: LoopOptions { folder: run_options.dir, optimiser, schedule, validation: intervals, log },
        inputs,
        validation,
    })
}
