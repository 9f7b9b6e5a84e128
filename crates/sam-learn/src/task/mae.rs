//! Masked autoencoding (He 2021, arXiv 2111.06377): gradients of a pre-training step.
//!
//! Everything random, the image, its crop and the removed patches, is a function of the seed and of the draw.
//!
//! Shapes: `B` images, `H W` input size of the model.

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use sam_data::DeviceBatch;
use sam_data::random::{Purpose, RandomStream};
use sam_eval::Better;
use sam_image::contact_sheet;
use sam_model::weights::{Dtype, ExportFormat, MaeExportOptions, MaeParts, export_mae};
use sam_model::{MaskedAutoencoder, RandomMasking};

use super::batch::normalised_images;
use super::checkpointing::CheckpointedForward;
use super::held_out::{HeldOut, HeldOutInput};
use super::shards::{ShardPools, shard_ranges};
use super::{BatchReport, Task, ValidationOutput, ValidationRequest};
use crate::device_reads::read;
use crate::error::LearnError;
use crate::optim::scaled;
use crate::options::{Activations, MaeObjective, RECONSTRUCTION_LOSS};
use crate::phases::{Phase, timed};
use crate::record::DistillationTerms;

/// Side of an image in a preview.
const PREVIEW_PX: u32 = 224;

/// Everything that a step needs beside the weights.
#[derive(Clone, Debug)]
pub(crate) struct MaeRecipe {
    /// Random seed of masking.
    pub(crate) seed: u64,
    pub(crate) objective: MaeObjective,
    /// Shards of a batch that are computed side by side.
    pub(crate) pools: ShardPools,
    pub(crate) activations: Activations,
}

/// A masked autoencoder that learns to reconstruct.
#[derive(Module, Debug)]
pub(crate) struct MaeTask {
    pub(super) mae: MaskedAutoencoder,
    #[module(skip)]
    pub(super) recipe: MaeRecipe,
}

impl MaeTask {
    /// For an autoencoder on an autodiff device.
    pub(crate) fn new(mae: MaskedAutoencoder, recipe: MaeRecipe) -> Self {
        Self { mae, recipe }
    }

    /// Random masking of images, by their draws.
    pub(super) fn masking(&self, purpose: Purpose, draws: impl Iterator<Item = u64>) -> RandomMasking {
        let seed = RandomStream::new(self.recipe.seed, purpose, &[]).next_u64();
        let mask_ratio = self.recipe.objective.mask_ratio;
        RandomMasking::draw(seed, &draws.collect::<Vec<_>>(), self.mae.config().n_patches(), mask_ratio)
    }

    /// Normalised images of a batch without autodiff, `[B, 3, H, W]`: every one fills the model's input.
    pub(super) fn images(&self, batch: &DeviceBatch) -> Tensor<4> {
        let [height, width] = self.mae.config().image_size_hw;
        normalised_images(batch).narrow(2, 0, height).narrow(3, 0, width)
    }
}

impl Task for MaeTask {
    type Network = MaskedAutoencoder;
    type ValidationInput = HeldOutInput;

    fn network(&self) -> &MaskedAutoencoder {
        &self.mae
    }

    fn with_network(self, mae: MaskedAutoencoder) -> Self {
        Self { mae, ..self }
    }

    fn gradients(&self, batch: DeviceBatch) -> Result<(GradientsParams, BatchReport), LearnError> {
        let images = self.images(&batch);
        let n_images = batch.images.len();
        let shards = shard_ranges(n_images, self.recipe.pools.n());
        let n_shards = shards.len();
        let device = self.mae.device();
        let work = shards.into_iter().map(|shard| {
            let masking = self.masking(Purpose::Masking, batch.images[shard.clone()].iter().map(|image| image.draw));
            let images = images.clone().slice_dim(0, shard.clone());
            // Leaves of its own: backward passes over shared ones would wait for each other.
            let mae = if n_shards > 1 { self.mae.clone().fork(&device) } else { self.mae.clone() };
            let recipe = &self.recipe;
            move || {
                let (loss, grads) = loss_gradients(&mae, images, &masking, recipe);
                (shard.len() as f64 / n_images as f64, loss, grads)
            }
        });
        let mut sums = GradientsAccumulator::new();
        let (mut fractions, mut losses) = (Vec::new(), Vec::new());
        for (fraction, loss, grads) in self.recipe.pools.run(work.collect()) {
            fractions.push(fraction);
            losses.push(loss);
            let grads = if n_shards > 1 { scaled(&self.mae, grads, fraction) } else { grads };
            sums.accumulate(&self.mae, grads);
        }
        // Read together, and once the backward passes are under way.
        let losses = read(Tensor::cat(losses, 0));
        let loss = fractions.iter().zip(losses).fold(0.0, |sum, (fraction, loss)| sum + fraction * loss);
        let report = BatchReport {
            weight: n_images,
            images: batch.images.into_iter().map(|image| image.name).collect(),
            skipped: batch.drops.skipped,
            loss,
            segmentation: None,
            distillation: DistillationTerms::default(),
        };
        Ok((sums.grads(), report))
    }

    fn validate(&self, input: &HeldOutInput, request: ValidationRequest<'_>) -> Result<ValidationOutput, LearnError> {
        let metric = request.metric;
        let held_out = self.reconstruct_held_out(input, request)?;
        if metric != RECONSTRUCTION_LOSS {
            let computed = vec![RECONSTRUCTION_LOSS.to_owned()];
            return Err(LearnError::NoSuchMetric { metric: metric.to_owned(), computed });
        }
        let rows = held_out.preview_rows;
        Ok(ValidationOutput {
            metrics: BTreeMap::from([(metric.to_owned(), held_out.loss)]),
            better: Better::Lower,
            skipped: held_out.skipped,
            preview: (!rows.is_empty()).then(|| contact_sheet(&rows, PREVIEW_PX)),
            details: None,
        })
    }

    fn some_images(input: &HeldOutInput, n: usize) -> (HeldOutInput, usize, usize) {
        let HeldOutInput { held_out, loader } = input;
        let n_all = held_out.n_images.min(held_out.samples.n_samples());
        let some = HeldOut { n_images: n.min(n_all), ..held_out.clone() };
        (HeldOutInput { held_out: some, loader: loader.clone() }, n.min(n_all), n_all)
    }

    /// With the decoder: a run can start from it, and a segmenter takes the encoder alone.
    fn write(mae: &MaskedAutoencoder, path: &Path) -> Result<(), LearnError> {
        let options = MaeExportOptions { format: ExportFormat::Safetensors, dtype: Dtype::F32, parts: MaeParts::Whole };
        export_mae(mae, options, path)?;
        Ok(())
    }
}

/// Mean loss of images, `[1]` without autodiff, and its gradients.
fn loss_gradients(
    mae: &MaskedAutoencoder,
    images: Tensor<4>,
    masking: &RandomMasking,
    recipe: &MaeRecipe,
) -> (Tensor<1>, GradientsParams) {
    let (target, device) = (recipe.objective.target, &mae.device());
    match recipe.activations {
        Activations::Keep => {
            let loss = timed(Phase::EncoderForward, device, || mae.loss(Tensor::from_inner(images), masking, target));
            let value = loss.clone().inner();
            let grads = || GradientsParams::from_grads(loss.backward(), mae);
            (value, timed(Phase::EncoderBackward, device, grads))
        }
        Activations::Recompute => {
            let untracked = mae.clone().no_grad();
            let (visible, stages) = untracked.stages(images.clone(), masking, target);
            // Any seed: the stages draw nothing.
            let run = || CheckpointedForward::run(&stages, visible, 0);
            let (forward, loss) = timed(Phase::EncoderForward, device, run);
            let value = loss.clone().reshape([1]);
            let mut sums = GradientsAccumulator::new();
            let (_, stages) = mae.stages(images, masking, target);
            timed(Phase::EncoderBackward, device, || forward.backward(&stages, loss.ones_like(), mae, &mut sums));
            (value, sums.grads())
        }
    }
}
