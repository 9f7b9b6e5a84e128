//! A pre-training run: an encoder learns from images alone, as a masked autoencoder (He 2021, arXiv 2111.06377;
//! `main_pretrain.py`), in the same loop as a training run.

use sam_data::loader::{Labels, LoaderOptions, Order};
use sam_data::transforms::{Augmentation, ResizedCrop};
use sam_model::MaskedAutoencoder;

use crate::error::LearnError;
use crate::optim::EncoderLayers;
use crate::options::PretrainOptions;
use crate::record::SavedState;
use crate::task::{HeldOut, HeldOutInput, MaeRecipe, MaeTask, ShardPools};
use crate::training_loop::{LoopOptions, Measured, Outcome, RunInputs, Setup, measure, run};

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

/// Measures what a run will take, as [`crate::measure_training`].
///
/// # Errors
///
/// As [`pretrain`], before its first step.
pub fn measure_pretraining(mae: MaskedAutoencoder, pretraining: Pretraining) -> Result<Option<Measured>, LearnError> {
    measure(setup(mae, pretraining)?)
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
