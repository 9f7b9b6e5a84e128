//! Pre-training of an encoder as a masked autoencoder (He 2021, arXiv 2111.06377; `main_pretrain.py`): the same loop as a
//! training, with images alone.
//!
//! Everything random is a function of the seed and of the draw: which image, which window of it, which patches go. So a run
//! that goes on is the run. What is judged is the same loss on images that are held out, each with the same patches removed
//! at every validation.
//!
//! Shapes: `B` images, `S` side of the loader's square, `H W` input of the model.

mod held_out;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{ExecutionError, Tensor};
use burn::train::metric::{Adaptor, ItemLazy};
use burn::train::{Interrupter, TrainOutput, TrainStep};
use sam_data::loader::{Labels, LoaderOptions, Order, Samples, SkippedSample};
use sam_data::random::{Purpose, RandomStream};
use sam_data::transforms::{Augmentation, ResizedCrop};
use sam_data::{DeviceBatch, EpochLoader};
use sam_image::{RgbImage, contact_sheet};
use sam_model::weights::{Dtype, ExportFormat, MaeExportOptions, MaeParts, export_mae};
use sam_model::{MaskedAutoencoder, RandomMasking};

use held_out::{HeldOutPass, HeldOutReport};

use crate::error::LearnError;
use crate::events::SegmentationTerms;
use crate::optimiser::scaled;
use crate::options::{Activations, MaeObjective, PretrainOptions, RECONSTRUCTION_LOSS};
use crate::parts::Parts;
use crate::recompute::Ran;
use crate::saved_state::SavedState;
use crate::scene::normalised_images;
use crate::student::{Judged, Report, Student};
use crate::trainee::Shown;
use crate::training::{Listener, LoopOptions, Outcome, Session};

/// Images of a batch at which the published `blr` is the rate (`main_pretrain.py`).
const IMAGES_OF_BASE_RATE: f64 = 256.0;

/// Side of a picture in the panels.
const CELL_PX: u32 = 224;

/// The rate of a step of so many images, from the published base rate: `lr = blr * images / 256`.
#[must_use]
pub fn rate_of_base(base_lr: f64, images_per_step: usize) -> f64 {
    base_lr * images_per_step as f64 / IMAGES_OF_BASE_RATE
}

/// Images that are never learned from.
#[derive(Clone)]
pub struct HeldOut {
    /// The images.
    pub samples: Arc<dyn Samples>,
    /// How many are looked at, from the first on.
    pub n_images: usize,
}

/// A pre-training to be made.
pub struct Pretraining {
    /// What is chosen; the run folder exists.
    pub options: PretrainOptions,
    /// What is learned from; labels are left aside.
    pub samples: Arc<dyn Samples>,
    /// How; seed, sizes and the use of labels follow from options and model.
    pub loader: LoaderOptions,
    /// What is judged by; `None`: the last checkpoint is the best.
    pub held_out: Option<HeldOut>,
    /// Ends the run after the present step.
    pub interrupter: Interrupter,
    /// Hears what happens.
    pub listener: Listener,
    /// Whether burn-train's terminal view is shown.
    pub terminal_view: bool,
}

/// Makes a run, or goes on with one.
///
/// # Arguments
/// - `mae`: on an autodiff device, with the weights that the run begins with
/// - `resume`: where an earlier session left it
///
/// # Errors
///
/// When data or disk fail, or a loss is not finite. What was saved before stays.
pub fn pretrain(
    mae: MaskedAutoencoder,
    pretraining: Pretraining,
    resume: Option<&SavedState>,
) -> Result<Outcome, LearnError> {
    let Pretraining { options, samples, loader, held_out, interrupter, listener, terminal_view } = pretraining;
    let device = mae.device();
    let size_hw = mae.config().image_size_hw;
    let encoder_depth = mae.config().depth;
    let accumulation = options.optimiser.accumulation.max(1) as u64;
    let side_px = size_hw[0].max(size_hw[1]);
    let loader = LoaderOptions {
        seed: options.run.seed,
        side_px,
        mask_side_px: 1,
        order: Order::ShuffledEpochs,
        labels: Labels::Unused,
        ..loader
    };
    let pass = held_out.map(|held_out| HeldOutPass {
        loader: LoaderOptions {
            order: Order::InOrderOnce,
            augmentation: Augmentation { resized_crop: Some(ResizedCrop::middle(size_hw)), ..Augmentation::default() },
            ..loader.clone()
        },
        held_out,
        n_previews: options.log.previews,
        interrupter: interrupter.clone(),
        listener: Arc::clone(&listener),
    });
    let recipe = Recipe {
        seed: options.run.seed,
        mae: options.mae,
        parts: Parts::new(options.run.parallel)?,
        activations: options.run.activations,
    };
    let mut student = Autoencoder { mae, recipe };
    if let Some(state) = resume {
        student = state.load_model(student)?;
    }
    let progress = resume.map(|state| state.progress.clone()).unwrap_or_default();
    let micro_steps = usize::try_from(options.validation.every_steps * accumulation).unwrap_or(usize::MAX);
    let session = Session {
        encoder_depth,
        shown_in_training: &[("loss", false)],
        shown_in_validation: &[(RECONSTRUCTION_LOSS, false)],
        options: LoopOptions {
            folder: options.run.dir,
            optimiser: options.optimiser,
            schedule: options.schedule,
            validation: options.validation,
            log: options.log,
        },
        loader: EpochLoader::training(samples, loader, micro_steps, progress.step * accumulation, &device),
        pass,
        progress,
        interrupter,
        listener,
        terminal_view,
    };
    session.run(student, resume)
}

/// What a step needs beside the weights.
#[derive(Clone, Debug)]
struct Recipe {
    seed: u64,
    mae: MaeObjective,
    parts: Parts,
    activations: Activations,
}

/// A masked autoencoder with its recipe.
#[derive(Module, Debug)]
struct Autoencoder {
    mae: MaskedAutoencoder,
    #[module(skip)]
    recipe: Recipe,
}

impl Autoencoder {
    /// Which patches of a batch's images are removed, by their draws.
    fn masking(&self, purpose: Purpose, draws: impl Iterator<Item = u64>) -> RandomMasking {
        let Recipe { seed, mae: MaeObjective { mask_ratio, .. }, .. } = self.recipe;
        let seed = RandomStream::new(seed, purpose, &[]).next_u64();
        RandomMasking::draw(seed, &draws.collect::<Vec<_>>(), self.mae.config().n_patches(), mask_ratio)
    }
}

/// Normalised images of a batch without autodiff, `[B, 3, H, W]`: every one fills the model's input.
fn images_of(batch: &DeviceBatch, [height, width]: [usize; 2]) -> Tensor<4> {
    normalised_images(batch).narrow(2, 0, height).narrow(3, 0, width)
}

/// What a training step says.
#[derive(Clone, Debug)]
struct PaintedBatch {
    loss: f64,
    images: Vec<String>,
    skipped: Vec<SkippedSample>,
}

impl TrainStep for Autoencoder {
    type Input = DeviceBatch;
    type Output = PaintedBatch;

    fn step(&self, batch: DeviceBatch) -> TrainOutput<PaintedBatch> {
        let images = images_of(&batch, self.mae.config().image_size_hw);
        let n_images = batch.images.len();
        let n_parts = self.recipe.parts.n().min(n_images);
        let device = self.mae.device();
        let work = (0..n_parts).map(|part| {
            let of_part = part * n_images / n_parts..(part + 1) * n_images / n_parts;
            let masking = self.masking(Purpose::Masking, batch.images[of_part.clone()].iter().map(|image| image.draw));
            let images = images.clone().slice_dim(0, of_part.clone());
            // Leaves of its own: backward passes over shared ones would wait for each other.
            let mae = if n_parts > 1 { self.mae.clone().fork(&device) } else { self.mae.clone() };
            let recipe = &self.recipe;
            move || {
                let (loss, grads) = learn(&mae, images, &masking, recipe);
                (of_part.len() as f64 / n_images as f64, loss, grads)
            }
        });
        let mut sums = GradientsAccumulator::new();
        let mut value = 0.0;
        for (share, loss, grads) in self.recipe.parts.run(work.collect()) {
            value += share * loss;
            let grads = if n_parts > 1 { scaled(&self.mae, grads, share) } else { grads };
            sums.accumulate(&self.mae, grads);
        }
        let grads = sums.grads();
        let item = PaintedBatch {
            loss: value,
            images: batch.images.into_iter().map(|image| image.name).collect(),
            skipped: batch.drops.skipped,
        };
        TrainOutput { grads, item }
    }
}

/// Loss of some images and the gradients of their mean.
fn learn(
    mae: &MaskedAutoencoder,
    images: Tensor<4>,
    masking: &RandomMasking,
    recipe: &Recipe,
) -> (f64, GradientsParams) {
    match recipe.activations {
        Activations::Keep => {
            let loss = mae.loss(Tensor::from_inner(images), masking, recipe.mae.target);
            let value = f64::from(loss.clone().into_scalar::<f32>());
            (value, GradientsParams::from_grads(loss.backward(), mae))
        }
        Activations::Recompute => {
            let untracked = mae.clone().no_grad();
            let (kept, stages) = untracked.stages(images.clone(), masking, recipe.mae.target);
            // Nothing is drawn on the way.
            let (ran, loss) = Ran::forward(&stages, kept, &mae.device(), 0);
            let value = f64::from(loss.clone().into_scalar::<f32>());
            let mut sums = GradientsAccumulator::new();
            let (_, stages) = mae.stages(images, masking, recipe.mae.target);
            ran.backward(&stages, loss.ones_like(), mae, &mut sums);
            (value, sums.grads())
        }
    }
}

impl Report for PaintedBatch {
    fn weight(&self) -> usize {
        self.images.len()
    }

    fn images(&self) -> &[String] {
        &self.images
    }

    fn skipped(&self) -> &[SkippedSample] {
        &self.skipped
    }

    fn loss(&self) -> f64 {
        self.loss
    }

    fn not_finite(&self, step: u64) -> LearnError {
        LearnError::ReconstructionNotFinite { step, loss: self.loss, samples: self.images.clone() }
    }

    fn terms(_reports: &[Self]) -> Option<SegmentationTerms> {
        None
    }
}

impl Student for Autoencoder {
    type Network = MaskedAutoencoder;
    type Report = PaintedBatch;
    type Pass = HeldOutPass;
    type Judgement = HeldOutReport;

    fn network(&self) -> &MaskedAutoencoder {
        &self.mae
    }

    fn with_network(self, mae: MaskedAutoencoder) -> Self {
        Self { mae, ..self }
    }

    /// With the decoder: a run can go on from it, and whoever wants the encoder leaves the rest.
    fn write(mae: &MaskedAutoencoder, path: &Path) -> Result<(), LearnError> {
        let options = MaeExportOptions { format: ExportFormat::Safetensors, dtype: Dtype::F32, parts: MaeParts::Whole };
        export_mae(mae, options, path)?;
        Ok(())
    }

    fn judged(report: &HeldOutReport, metric: &str, step: u64) -> Result<Judged, LearnError> {
        let loss = report.loss.clone().map_err(|reason| LearnError::Validation { step, source: reason.into() })?;
        if metric != RECONSTRUCTION_LOSS {
            let computed = vec![RECONSTRUCTION_LOSS.to_owned()];
            return Err(LearnError::NoSuchMetric { metric: metric.to_owned(), computed });
        }
        Ok(Judged { metrics: BTreeMap::from([(metric.to_owned(), loss)]), sign: -1.0 })
    }

    fn left_out(report: &HeldOutReport) -> &[String] {
        &report.left_out
    }

    fn picture(_pass: &HeldOutPass, report: &HeldOutReport, n_images: usize) -> Option<RgbImage> {
        let n = n_images.min(report.rows.len());
        (n > 0).then(|| contact_sheet(&report.rows[..n], CELL_PX))
    }
}

impl ItemLazy for PaintedBatch {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<Shown> for PaintedBatch {
    fn adapt(&self) -> Shown {
        Shown(vec![("loss", self.loss)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_rate() {
        // 64 GPUs of 64 images at 1.5e-4 (PRETRAIN.md).
        assert!((rate_of_base(1.5e-4, 4096) - 2.4e-3).abs() < 1e-12);
    }
}
