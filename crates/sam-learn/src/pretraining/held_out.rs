//! What is held out: judged without gradients, and painted to be looked at.

use std::sync::Arc;

use burn::tensor::{ExecutionError, Tensor};
use burn::train::metric::{Adaptor, ItemLazy};
use burn::train::{InferenceStep, Interrupter};
use sam_data::DeviceBatch;
use sam_data::loader::{Loader, LoaderOptions};
use sam_data::random::Purpose;
use sam_image::RgbImage;
use sam_model::{PIXEL_MEAN, PIXEL_STD, RandomMasking};

use super::{Autoencoder, HeldOut, images_of};
use crate::events::RunEvent;
use crate::options::RECONSTRUCTION_LOSS;
use crate::trainee::Shown;
use crate::training::Listener;

/// One pass over what is held out.
#[derive(Clone)]
pub(super) struct HeldOutPass {
    pub(super) held_out: HeldOut,
    pub(super) loader: LoaderOptions,
    pub(super) n_previews: usize,
    pub(super) interrupter: Interrupter,
    pub(super) listener: Listener,
}

/// What comes of it.
pub(super) struct HeldOutReport {
    /// Over images, or why there is none.
    pub(super) loss: Result<f64, String>,
    /// Input, what was left of it, what was made of that.
    pub(super) rows: Vec<Vec<RgbImage>>,
    /// Why images could not be read, for the first few of them.
    pub(super) left_out: Vec<String>,
}

impl InferenceStep for Autoencoder {
    type Input = HeldOutPass;
    type Output = HeldOutReport;

    fn step(&self, pass: HeldOutPass) -> HeldOutReport {
        let (mut rows, mut left_out) = (Vec::new(), Vec::new());
        let loss = self.judge(&pass, &mut rows, &mut left_out);
        HeldOutReport { loss, rows, left_out }
    }
}

impl Autoencoder {
    fn judge(
        &self,
        pass: &HeldOutPass,
        rows: &mut Vec<Vec<RgbImage>>,
        left_out: &mut Vec<String>,
    ) -> Result<f64, String> {
        let (device, size_hw) = (self.mae.device(), self.mae.config().image_size_hw);
        let of_images = pass.held_out.n_images.min(pass.held_out.samples.n_samples());
        let (mut sum, mut n_images) = (0.0, 0);
        let mut loader = Loader::new(Arc::clone(&pass.held_out.samples), pass.loader.clone(), 0);
        while let Some(batch) = loader.next_batch() {
            let mut batch = DeviceBatch::new(batch.map_err(|error| error.to_string())?, &device);
            let n = batch.images.len().min(of_images - n_images);
            batch.images.truncate(n);
            let images = images_of(&batch, size_hw).narrow(0, 0, n);
            // By the image and not by its place, so that a larger batch removes the same patches.
            let masking = self.masking(Purpose::HeldOutMasking, batch.images.iter().map(|image| image.draw));
            let loss = self.mae.loss(images.clone(), &masking, self.recipe.mae.target);
            sum += f64::from(loss.into_scalar::<f32>()) * n as f64;
            if rows.len() < pass.n_previews {
                let wanted = pass.n_previews - rows.len();
                rows.extend(self.panels(images, &masking).into_iter().take(wanted));
            }
            n_images += n;
            (pass.listener)(&RunEvent::Validating { n_images, of_images });
            if n_images >= of_images {
                break;
            }
            if pass.interrupter.should_stop() {
                return Err("the run was asked to stop".to_owned());
            }
        }
        left_out.extend(loader.report().drops.skipped.iter().map(|skipped| skipped.reason.clone()));
        if n_images == 0 {
            return Err("no image that is held out could be read".to_owned());
        }
        Ok(sum / n_images as f64)
    }

    /// A row for each image: as it is, what was left of it, what the decoder made of that.
    fn panels(&self, images: Tensor<4>, masking: &RandomMasking) -> Vec<Vec<RgbImage>> {
        let painted = self.mae.reconstruct(images.clone(), masking, self.recipe.mae.target);
        let kept = painted.removed * -1.0 + 1.0;
        // Removed patches in the mean colour, which is zero here.
        let views = [images.clone(), images * kept, painted.completed].map(pictures);
        let [seen, left, made] = views;
        seen.into_iter().zip(left).zip(made).map(|((seen, left), made)| vec![seen, left, made]).collect()
    }
}

/// `[B, 3, H, W]` as the network sees it to pictures.
fn pictures(images: Tensor<4>) -> Vec<RgbImage> {
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

impl ItemLazy for HeldOutReport {
    fn sync(self) -> Result<Self, ExecutionError> {
        Ok(self)
    }
}

impl Adaptor<Shown> for HeldOutReport {
    fn adapt(&self) -> Shown {
        Shown(self.loss.iter().map(|&loss| (RECONSTRUCTION_LOSS, loss)).collect())
    }
}
