//! A pre-training run: an encoder learns from images alone, as a masked autoencoder (He 2021, arXiv 2111.06377;
//! `main_pretrain.py`), in the same loop as a training run.

use std::sync::Arc;

use burn::module::Module;
use burn::tensor::Device;
use sam_data::loader::{Labels, LoaderOptions, Order};
use sam_data::transforms::{Augmentation, ResizedCrop};
use sam_model::MaskedAutoencoder;

use crate::error::LearnError;
use crate::optim::EncoderLayers;
use crate::options::PretrainOptions;
use crate::ranks::{Ranks, on_threads};
use crate::record::SavedState;
use crate::task::{HeldOut, HeldOutInput, MaeRecipe, MaeTask, ShardPools};
use crate::training_loop::{LoopOptions, Measured, Outcome, Profile, RunInputs, Setup, measure, profile, run};

/// The inputs of a pre-training run, beside the model.
pub struct Pretraining {
    /// All sections; the run folder exists.
    pub options: PretrainOptions,
    /// Data, interruption and observers. Labels are ignored; sizes and order of the loader follow from options and model.
    pub inputs: RunInputs,
    /// Validation data; `None`: the last checkpoint is the best.
    pub held_out: Option<HeldOut>,
}

/// Pre-trains an encoder, or resumes a run.
///
/// # Arguments
/// - `mae`: on an autodiff device, with the weights that the run begins with
/// - `resume`: the save of an earlier session
///
/// # Errors
///
/// When data or disk fail, or a loss is not finite. Earlier saves stay.
pub fn pretrain(
    mae: MaskedAutoencoder,
    pretraining: Pretraining,
    resume: Option<&SavedState>,
) -> Result<Outcome, LearnError> {
    run(setup(mae, pretraining)?, resume)
}

/// Pre-trains on several devices of this machine, each a rank with its share of the batches of a step.
///
/// # Errors
///
/// As [`pretrain`], and when the batches of a step cannot be divided among the devices.
pub fn pretrain_on(
    devices: &[Device],
    mae: &MaskedAutoencoder,
    mut pretraining: Pretraining,
    resume: Option<&SavedState>,
) -> Result<Outcome, LearnError> {
    if devices.len() < 2 {
        return pretrain(mae.clone(), pretraining, resume);
    }
    let interrupter = pretraining.inputs.interrupter.clone();
    let mut observers = Some(std::mem::take(&mut pretraining.inputs.observers));
    let of_device = |device: &Device| {
        let mut own = Pretraining {
            options: pretraining.options.clone(),
            inputs: pretraining.inputs.shared(observers.take().unwrap_or_default()),
            held_out: pretraining.held_out.clone(),
        };
        let mae = mae.clone().fork(device);
        move |ranks: Arc<dyn Ranks>| {
            own.inputs.ranks = ranks;
            pretrain(mae, own, resume)
        }
    };
    on_threads(devices.iter().map(of_device).collect(), &interrupter)
}

/// Measures what a run will take, as [`crate::measure_training`].
///
/// # Errors
///
/// As [`pretrain`], before its first step.
pub fn measure_pretraining(mae: MaskedAutoencoder, pretraining: Pretraining) -> Result<Option<Measured>, LearnError> {
    measure(setup(mae, pretraining)?)
}

/// Measures the phases of some steps, as [`crate::profile_training`].
///
/// # Errors
///
/// As [`pretrain`].
pub fn profile_pretraining(
    mae: MaskedAutoencoder,
    pretraining: Pretraining,
    n_steps: usize,
) -> Result<Profile, LearnError> {
    profile(setup(mae, pretraining)?, n_steps)
}

fn setup(mae: MaskedAutoencoder, pretraining: Pretraining) -> Result<Setup<MaeTask>, LearnError> {
    let Pretraining { options, inputs, held_out } = pretraining;
    let PretrainOptions { run: run_options, mae: objective, optimiser, schedule, validation: intervals, log } = options;
    let size_hw = mae.config().image_size_hw;
    let loader = LoaderOptions {
        seed: run_options.seed,
        side_px: size_hw[0].max(size_hw[1]),
        mask_side_px: 1,
        order: Order::ShuffledEpochs,
        labels: Labels::Unused,
        ..inputs.loader
    };
    let held_out = held_out.map(|held_out| HeldOutInput {
        loader: LoaderOptions {
            order: Order::InOrderOnce,
            augmentation: Augmentation { resized_crop: Some(ResizedCrop::middle(size_hw)), ..Augmentation::default() },
            ..loader.clone()
        },
        held_out,
    });
    let recipe = MaeRecipe {
        seed: run_options.seed,
        objective,
        pools: ShardPools::new(run_options.parallel)?,
        activations: run_options.activations,
    };
    Ok(Setup {
        layers: EncoderLayers::Vit { depth: mae.config().depth },
        device: mae.device(),
        task: MaeTask::new(mae, recipe),
        options: LoopOptions { folder: run_options.dir, optimiser, schedule, validation: intervals, log },
        inputs: RunInputs { loader, ..inputs },
        validation: held_out,
    })
}
