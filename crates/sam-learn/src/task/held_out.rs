//! Validation of a masked autoencoder: the loss on held-out images, each with the same patches removed at every
//! validation, and what the decoder makes of them.
//!
//! Shapes: `B` images, `H W` input size of the model.

use std::ops::ControlFlow;
use std::sync::Arc;

use burn::tensor::Tensor;
use sam_data::DeviceBatch;
use sam_data::loader::{Loader, LoaderOptions, Samples, Turns};
use sam_data::random::Purpose;
use sam_image::RgbImage;
use sam_model::{PIXEL_MEAN, PIXEL_STD, RandomMasking};
use serde::{Deserialize, Serialize};

use super::ValidationRequest;
use super::mae::MaeTask;
use crate::error::LearnError;
use crate::ranks::{Ranks, gather_parts};

/// Validation images of a pre-training.
#[derive(Clone)]
pub struct HeldOut {
    /// The images.
    pub samples: Arc<dyn Samples>,
    /// Number of images used, from the first on.
    pub n_images: usize,
}

/// Held-out images, and how they are loaded.
pub(crate) struct HeldOutInput {
    pub(crate) held_out: HeldOut,
    pub(crate) loader: LoaderOptions,
}

/// Input, visible patches and reconstruction of each image.
type PreviewRows = Vec<Vec<RgbImage>>;

/// What a rank found.
#[derive(Serialize, Deserialize)]
struct HeldOutPart {
    losses: Vec<BatchLoss>,
    skipped: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct BatchLoss {
    /// Its index.
    batch: u64,
    mean: f64,
    n_images: usize,
}

pub(super) struct HeldOutOutput {
    /// Mean over images.
    pub(super) loss: f64,
    /// Input, visible patches and reconstruction of the first images.
    pub(super) preview_rows: PreviewRows,
    /// Reasons why images were skipped, for the first few of them.
    pub(super) skipped: Vec<String>,
}

impl MaeTask {
    /// The loss of this rank's part of the held-out images, and from it that of all.
    pub(super) fn reconstruct_held_out(
        &self,
        input: &HeldOutInput,
        request: ValidationRequest<'_>,
    ) -> Result<HeldOutOutput, LearnError> {
        let ValidationRequest { step, n_previews, on_progress, ranks, .. } = request;
        let failed = |reason: String| LearnError::Validation { step, source: reason.into() };
        let own = self.reconstruct_own(input, n_previews, on_progress, ranks).map_err(failed);
        let (own, preview_rows) = match own {
            Ok(Some((part, rows))) => (Ok(Some(part)), rows),
            Ok(None) => (Ok(None), Vec::new()),
            Err(error) => (Err(error), Vec::new()),
        };
        let mut parts = gather_parts(ranks, own)?;
        let mut losses: Vec<BatchLoss> = parts.iter_mut().flat_map(|part| std::mem::take(&mut part.losses)).collect();
        // As one rank would sum them.
        losses.sort_by_key(|loss| loss.batch);
        let n_images: usize = losses.iter().map(|loss| loss.n_images).sum();
        if n_images == 0 {
            return Err(failed("no held-out image could be read".to_owned()));
        }
        let loss = losses.iter().map(|loss| loss.mean * loss.n_images as f64).sum::<f64>() / n_images as f64;
        Ok(HeldOutOutput { loss, preview_rows, skipped: parts.into_iter().flat_map(|part| part.skipped).collect() })
    }

    /// The losses of this rank's batches, and rows for the preview; `None` when it was stopped.
    fn reconstruct_own(
        &self,
        input: &HeldOutInput,
        n_previews: usize,
        on_progress: &mut dyn FnMut(usize, usize) -> ControlFlow<()>,
        ranks: &dyn Ranks,
    ) -> Result<Option<(HeldOutPart, PreviewRows)>, String> {
        let HeldOutInput { held_out, loader } = input;
        let (device, target) = (self.mae.device(), self.recipe.objective.target);
        let of_images = held_out.n_images.min(held_out.samples.n_samples());
        let (mut losses, mut n_images, mut preview_rows) = (Vec::new(), 0, Vec::new());
        let turns = Turns::of_rank(ranks.rank(), ranks.n(), ranks.n());
        let mut loader = Loader::new(Arc::clone(&held_out.samples), LoaderOptions { turns, ..loader.clone() }, 0);
        while let Some(batch) = loader.next_batch() {
            let mut batch = DeviceBatch::new(batch.map_err(|error| error.to_string())?, &device);
            batch.images.retain(|image| image.draw < of_images as u64);
            let n = batch.images.len();
            if n == 0 {
                break;
            }
            let images = self.images(&batch).narrow(0, 0, n);
            // By the image and not by its place, so that a larger batch removes the same patches.
            let masking = self.masking(Purpose::HeldOutMasking, batch.images.iter().map(|image| image.draw));
            let loss = self.mae.loss(images.clone(), &masking, target);
            losses.push(BatchLoss { batch: batch.step, mean: f64::from(loss.into_scalar::<f32>()), n_images: n });
            if preview_rows.len() < n_previews {
                let wanted = n_previews - preview_rows.len();
                preview_rows.extend(self.preview_rows(images, &masking).into_iter().take(wanted));
            }
            n_images += n;
            let is_last = n_images >= of_images;
            if on_progress(n_images, of_images.div_ceil(ranks.n())).is_break() && !is_last {
                return Ok(None);
            }
            if is_last {
                break;
            }
        }
        let skipped = loader.report().drops.skipped.iter().map(|skipped| skipped.reason.clone()).collect();
        Ok(Some((HeldOutPart { losses, skipped }, preview_rows)))
    }

    /// A row for each image: as it is, its visible patches, and the reconstruction.
    fn preview_rows(&self, images: Tensor<4>, masking: &RandomMasking) -> Vec<Vec<RgbImage>> {
        let painted = self.mae.reconstruct(images.clone(), masking, self.recipe.objective.target);
        let visible = painted.removed * -1.0 + 1.0;
        // Removed patches in the mean colour, which is zero here.
        let columns = [images.clone(), images * visible, painted.completed].map(rgb_images);
        let [originals, visible, completed] = columns;
        let rows = originals.into_iter().zip(visible).zip(completed);
        rows.map(|((original, visible), completed)| vec![original, visible, completed]).collect()
    }
}

/// Normalised images, `[B, 3, H, W]`, back in RGB.
fn rgb_images(images: Tensor<4>) -> Vec<RgbImage> {
    let [batch, _, height, width] = images.dims();
    let values =
        images.permute([0, 2, 3, 1]).into_data().convert::<f32>().try_to_vec::<f32>().expect("converted to f32");
    let byte = |(at, value): (usize, &f32)| {
        let channel = at % 3;
        (value * PIXEL_STD[channel] + PIXEL_MEAN[channel]).round().clamp(0.0, 255.0) as u8
    };
    let bytes: Vec<u8> = values.iter().enumerate().map(byte).collect();
    bytes
        .chunks_exact((height * width * 3).max(1))
        .take(batch)
        .filter_map(|bytes| RgbImage::from_raw(width as u32, height as u32, bytes.to_vec()))
        .collect()
}
