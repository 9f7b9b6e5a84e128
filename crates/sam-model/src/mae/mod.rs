//! The masked autoencoder from which SAM's encoder starts (He 2021, arXiv 2111.06377; `facebookresearch/mae`,
//! `models_mae.py`): most patches of an image are removed, a ViT encodes the visible ones, and a small decoder reconstructs
//! the others.
//!
//! Names and shapes are the reference's, so its checkpoints fit. Results are equal; the computation differs in two ways:
//! - pixels of removed patches never enter the encoder, where the reference embeds them and discards the tokens;
//! - the decoder's tokens stay in shuffled order, visible ones first, each with the embedding of its position. Attention is
//!   invariant to the order, so only reconstructed images are unshuffled.
//!
//! The noise that selects removed patches is drawn on the host, as a function of the seed and the draw index, so a resumed
//! run removes the same patches.
//!
//! Shapes: `B` images, `H W` image in pixels, `N` patches, `K` visible patches, `R = N - K` removed, `C` encoder dimension,
//! `D` decoder dimension, `P` values of a patch (`patch * patch * 3`, rows first, channels last).

mod config;
mod masking;

use burn::module::{Module, Param};
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

pub use config::MaeConfig;
pub use masking::{RandomMasking, masking_noise};

use crate::encoder::{Block, ENCODER_LAYER_NORM_EPS, PatchEmbed};
use crate::ops::layer_norm::normalise;
use crate::ops::linear::linear;
use crate::stage::{Stage, run};

/// Added to a patch's variance before its root is taken (`models_mae.py::forward_loss`).
const PATCH_VARIANCE_EPS: f64 = 1e-6;

/// The decoder's reconstruction target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaeTarget {
    /// The normalised input pixels.
    Pixels,
    /// The pixels of each patch, standardised by the patch's mean and standard deviation: better features (table 1d of the
    /// paper).
    NormalisedPixels,
}

/// The masked autoencoder.
#[derive(Module, Debug)]
pub struct MaskedAutoencoder {
    /// Patches to tokens.
    pub patch_embed: PatchEmbed,
    /// `[1, 1, C]`, the first token.
    pub cls_token: Param<Tensor<3>>,
    /// `[1, 1 + N, C]`; fixed.
    pub pos_embed: Param<Tensor<3>>,
    /// The encoder.
    pub blocks: Vec<Block>,
    /// After the encoder.
    pub norm: LayerNorm,
    /// `[C] -> [D]`.
    pub decoder_embed: Linear,
    /// `[1, 1, D]`, for every removed patch.
    pub mask_token: Param<Tensor<3>>,
    /// `[1, 1 + N, D]`; fixed.
    pub decoder_pos_embed: Param<Tensor<3>>,
    /// The decoder.
    pub decoder_blocks: Vec<Block>,
    /// After the decoder.
    pub decoder_norm: LayerNorm,
    /// `[D] -> [P]`.
    pub decoder_pred: Linear,
    #[module(skip)]
    config: MaeConfig,
}

/// Reconstructed images.
#[derive(Clone, Debug)]
pub struct Reconstruction {
    /// `[B, 3, H, W]`: the decoder's prediction of every patch.
    pub predicted: Tensor<4>,
    /// `[B, 3, H, W]`: the image with its removed patches predicted.
    pub completed: Tensor<4>,
    /// `[B, 1, H, W]`: 1 where a patch is removed.
    pub removed: Tensor<4>,
}

impl MaskedAutoencoder {
    /// The model's sizes.
    pub fn config(&self) -> &MaeConfig {
        &self.config
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.cls_token.lazy_device()
    }

    /// The training loss: the mean squared error over the removed patches.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, H, W]`, normalised; they get no gradient
    /// - returns `[1]`
    pub fn loss(&self, images: Tensor<4>, masking: &RandomMasking, target: MaeTarget) -> Tensor<1> {
        let (visible, stages) = self.stages(images, masking, target);
        run(&stages, visible).reshape([1])
    }

    /// [`MaskedAutoencoder::loss`] as stages, with the input of the first one.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, H, W]`, normalised
    /// - returns the first input, `[B, 1, K, P]`; the last output is the loss, `[1, 1, 1, 1]`
    pub fn stages<'a>(
        &'a self,
        images: Tensor<4>,
        masking: &'a RandomMasking,
        target: MaeTarget,
    ) -> (Tensor<4>, Vec<Stage<'a>>) {
        let [batch, ..] = images.dims();
        let device = images.device();
        let (n_patches, values) = (self.config.n_patches(), self.config.patch_values());
        let n_removed = n_patches - masking.n_kept;
        let patches = self.patchify(images); // [B, N, P]
        let visible = self.visible(patches.clone(), masking);
        let rows = RandomMasking::rows(masking.removed(), n_patches, &device);
        let removed = patches.reshape([batch * n_patches, values]).select(0, rows).reshape([batch, n_removed, values]);
        let target = match target {
            MaeTarget::Pixels => removed,
            MaeTarget::NormalisedPixels => {
                let (mean, deviation) = patch_statistics(removed.clone());
                (removed - mean) / deviation
            }
        };
        let mut stages: Vec<Stage<'a>> =
            vec![Box::new(move |x: Tensor<4>| self.visible_tokens(x.squeeze_dim(1), masking).unsqueeze_dim(1))];
        stages.extend(self.blocks.iter().map(|block| -> Stage<'a> { Box::new(|x| block.forward(x)) }));
        stages.push(Box::new(move |x: Tensor<4>| {
            let latent = normalise(x.squeeze_dim::<3>(1), &self.norm, ENCODER_LAYER_NORM_EPS);
            self.decoder_tokens(latent, masking).unsqueeze_dim(1)
        }));
        stages.extend(self.decoder_blocks.iter().map(|block| -> Stage<'a> { Box::new(|x| block.forward(x)) }));
        stages.push(Box::new(move |x: Tensor<4>| {
            let predicted = self.predict(x.squeeze_dim::<3>(1).narrow(1, 1 + masking.n_kept, n_removed)); // [B, R, P]
            let error = predicted - target.clone();
            (error.clone() * error).mean().reshape([1, 1, 1, 1])
        }));
        (visible.unsqueeze_dim(1), stages)
    }

    /// The decoder's reconstruction of images, as values of the network's input.
    ///
    /// With [`MaeTarget::NormalisedPixels`] the predicted patches get mean and deviation of the original ones, as in the
    /// paper's figures, because the decoder does not predict these.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, H, W]`, normalised
    /// - returns `[B, 3, H, W]` twice and `[B, 1, H, W]`
    pub fn reconstruct(&self, images: Tensor<4>, masking: &RandomMasking, target: MaeTarget) -> Reconstruction {
        let [batch, _, height, width] = images.dims();
        let device = images.device();
        let n_patches = self.config.n_patches();
        let patches = self.patchify(images);
        let predicted = self.predictions(patches.clone(), masking);
        let predicted = match target {
            MaeTarget::Pixels => predicted,
            MaeTarget::NormalisedPixels => {
                let (mean, deviation) = patch_statistics(patches.clone());
                predicted * deviation + mean
            }
        };
        let mut removed = vec![0f32; batch * n_patches];
        for (image, patches) in masking.removed().enumerate() {
            patches.iter().for_each(|patch| removed[image * n_patches + patch] = 1.0);
        }
        let removed = Tensor::<3>::from_data(TensorData::new(removed, [batch, n_patches, 1]), &device);
        let completed = patches * (removed.clone() * -1.0 + 1.0) + predicted.clone() * removed.clone();
        let removed = removed.expand([batch, n_patches, self.config.patch_values()]);
        let removed = self.unpatchify(removed, [height, width]).narrow(1, 0, 1);
        Reconstruction {
            predicted: self.unpatchify(predicted, [height, width]),
            completed: self.unpatchify(completed, [height, width]),
            removed,
        }
    }

    /// The decoder's output for every patch, visible ones included, in the order of the image: the reference's `pred`.
    ///
    /// # Shapes
    /// - `patches`: `[B, N, P]` from [`MaskedAutoencoder::patchify`]
    /// - returns `[B, N, P]`
    pub fn predictions(&self, patches: Tensor<3>, masking: &RandomMasking) -> Tensor<3> {
        let [batch, n_patches, values] = patches.dims();
        let device = patches.device();
        let latent = self.encode_visible(patches, masking);
        let predicted = self.predict(self.decode(latent, masking));
        let places = masking.order.iter().map(|order| {
            let mut places = vec![0; order.len()];
            order.iter().enumerate().for_each(|(place, &patch)| places[patch] = place);
            places
        });
        let places: Vec<Vec<usize>> = places.collect();
        let rows = RandomMasking::rows(places.iter().map(Vec::as_slice), n_patches, &device);
        predicted.reshape([batch * n_patches, values]).select(0, rows).reshape([batch, n_patches, values])
    }

    /// Class token and encoded tokens of the visible patches, the decoder's input.
    ///
    /// # Shapes
    /// - `patches`: `[B, N, P]`
    /// - returns `[B, 1 + K, C]`, class token first, visible patches in the masking's order
    pub fn encode_visible(&self, patches: Tensor<3>, masking: &RandomMasking) -> Tensor<3> {
        let tokens = self.visible_tokens(self.visible(patches, masking), masking);
        normalise(through(&self.blocks, tokens), &self.norm, ENCODER_LAYER_NORM_EPS)
    }

    /// Selects the visible patches: `[B, N, P]` to `[B, K, P]`.
    fn visible(&self, patches: Tensor<3>, masking: &RandomMasking) -> Tensor<3> {
        let [batch, n_patches, values] = patches.dims();
        assert_eq!(batch, masking.n_images(), "the masking must be for {batch} images");
        let rows = RandomMasking::rows(masking.visible(), n_patches, &patches.device());
        patches.reshape([batch * n_patches, values]).select(0, rows).reshape([batch, masking.n_kept, values])
    }

    /// Tokens of visible patches with positions, class token first: `[B, K, P]` to `[B, 1 + K, C]`.
    fn visible_tokens(&self, visible: Tensor<3>, masking: &RandomMasking) -> Tensor<3> {
        let [batch, n_visible, _] = visible.dims();
        let tokens = self.embed(visible);
        let places = RandomMasking::rows(masking.visible(), 0, &tokens.device());
        let n_patches = self.config.n_patches();
        let positions = self.pos_embed.val().narrow(1, 1, n_patches);
        let [_, _, width] = positions.dims();
        let positions = positions.reshape([n_patches, width]).select(0, places).reshape([batch, n_visible, width]);
        self.with_class(tokens + positions)
    }

    /// Features of whole images, nothing removed.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, H, W]`
    /// - returns `[B, 1 + N, C]`, class token first
    pub fn features(&self, images: Tensor<4>) -> Tensor<3> {
        let patches = self.patchify(images);
        let n_patches = self.config.n_patches();
        let tokens = self.with_class(self.embed(patches) + self.pos_embed.val().narrow(1, 1, n_patches));
        normalise(through(&self.blocks, tokens), &self.norm, ENCODER_LAYER_NORM_EPS)
    }

    /// Images to patches, in row-major order (`models_mae.py::patchify`).
    ///
    /// # Shapes
    /// - `images`: `[B, 3, H, W]`
    /// - returns `[B, N, P]`
    pub fn patchify(&self, images: Tensor<4>) -> Tensor<3> {
        let [batch, channels, height, width] = images.dims();
        let [expected_height, expected_width] = self.config.image_size_hw;
        assert_eq!(
            [channels, height, width],
            [3, expected_height, expected_width],
            "this model takes 3 x {expected_height} x {expected_width} px images"
        );
        let ([rows, columns], patch) = (self.config.grid_hw(), self.config.patch_size);
        images
            .reshape([batch, 3, rows, patch, columns, patch])
            .permute([0, 2, 4, 3, 5, 1]) // [B, rows, columns, patch, patch, 3]
            .reshape([batch, rows * columns, self.config.patch_values()])
    }

    /// The inverse of [`MaskedAutoencoder::patchify`].
    fn unpatchify(&self, patches: Tensor<3>, [height, width]: [usize; 2]) -> Tensor<4> {
        let [batch, ..] = patches.dims();
        let ([rows, columns], patch) = (self.config.grid_hw(), self.config.patch_size);
        patches
            .reshape([batch, rows, columns, patch, patch, 3])
            .permute([0, 5, 1, 3, 2, 4]) // [B, 3, rows, patch, columns, patch]
            .reshape([batch, 3, height, width])
    }

    /// Patches to tokens without positions, by the same convolution over an image of stacked patches.
    ///
    /// # Shapes
    /// - `patches`: `[B, K, P]`
    /// - returns `[B, K, C]`
    fn embed(&self, patches: Tensor<3>) -> Tensor<3> {
        let [batch, count, _] = patches.dims();
        let patch = self.config.patch_size;
        let tall = patches.reshape([batch, count * patch, patch, 3]);
        self.patch_embed.proj.forward(tall).reshape([batch, count, self.config.embed_dim])
    }

    /// Prepends the class token: `[B, K, C]` to `[B, 1 + K, C]`.
    fn with_class(&self, tokens: Tensor<3>) -> Tensor<3> {
        let [batch, _, width] = tokens.dims();
        let class = self.cls_token.val() + self.pos_embed.val().narrow(1, 0, 1);
        Tensor::cat(vec![class.expand([batch, 1, width]), tokens], 1)
    }

    /// Tokens of all patches, visible ones first, without the class token: `[B, 1 + K, C]` to `[B, N, D]`.
    fn decode(&self, latent: Tensor<3>, masking: &RandomMasking) -> Tensor<3> {
        let tokens = self.decoder_tokens(latent, masking);
        through(&self.decoder_blocks, tokens).narrow(1, 1, self.config.n_patches())
    }

    /// Inputs of the decoder's blocks, class token first: `[B, 1 + K, C]` to `[B, 1 + N, D]`.
    fn decoder_tokens(&self, latent: Tensor<3>, masking: &RandomMasking) -> Tensor<3> {
        let visible = linear(&self.decoder_embed, latent);
        let [batch, _, width] = visible.dims();
        let device = visible.device();
        let n_patches = self.config.n_patches();
        let n_removed = n_patches - masking.n_kept;
        let masks = self.mask_token.val().expand([batch, n_removed, width]);
        let tokens = Tensor::cat(vec![visible, masks], 1); // [B, 1 + N, D]
        let table = self.decoder_pos_embed.val();
        let class_position = table.clone().narrow(1, 0, 1).expand([batch, 1, width]);
        let places = RandomMasking::rows(masking.order.iter().map(Vec::as_slice), 0, &device);
        let positions = table.narrow(1, 1, n_patches).reshape([n_patches, width]);
        let positions = positions.select(0, places).reshape([batch, n_patches, width]);
        tokens + Tensor::cat(vec![class_position, positions], 1)
    }

    /// `[B, any, D]` to `[B, any, P]`.
    fn predict(&self, tokens: Tensor<3>) -> Tensor<3> {
        linear(&self.decoder_pred, normalise(tokens, &self.decoder_norm, ENCODER_LAYER_NORM_EPS))
    }
}

/// Runs blocks over token sequences, as grids of one row.
fn through(blocks: &[Block], tokens: Tensor<3>) -> Tensor<3> {
    let grid = tokens.unsqueeze_dim::<4>(1);
    blocks.iter().fold(grid, |x, block| block.forward(x)).squeeze_dim(1)
}

/// Mean and standard deviation of each patch, `[B, any, 1]`, from the unbiased variance.
fn patch_statistics(patches: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
    let [_, _, values] = patches.dims();
    let mean = patches.clone().mean_dim(2);
    let centred = patches - mean.clone();
    let variance = (centred.clone() * centred).sum_dim(2) / (values - 1) as f64;
    (mean, (variance + PATCH_VARIANCE_EPS).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn tiny() -> MaskedAutoencoder {
        let config = MaeConfig {
            image_size_hw: [16, 24],
            patch_size: 4,
            embed_dim: 8,
            depth: 1,
            num_heads: 2,
            mlp_dim: 16,
            decoder_embed_dim: 8,
            decoder_depth: 1,
            decoder_num_heads: 2,
            decoder_mlp_dim: 16,
        };
        crate::init::initialise_mae(config.init(&Device::flex()).expect("sizes fit"), 1)
    }

    #[test]
    fn unpatchify_of_patchify_is_the_same_image() {
        let mae = tiny();
        let images = Random::new(1).uniform([2, 3, 16, 24]);
        let back = mae.unpatchify(mae.patchify(images.clone()), [16, 24]);
        back.into_data().assert_eq(&images.into_data(), true);
    }

    /// Pixels of removed patches must not reach the encoder, nor those of one image another.
    #[test]
    fn removed_pixels_only_affect_the_target() {
        let mae = tiny();
        let device = Device::flex();
        let masking = RandomMasking::draw(3, &[0, 1], mae.config.n_patches(), 0.75);
        let patches = Random::new(2).uniform([2, 24, 48]);
        let before = mae.predictions(patches.clone(), &masking);
        let mut values = patches.into_data().try_to_vec::<f32>().expect("f32");
        for (image, removed) in masking.removed().enumerate() {
            for patch in removed {
                values[(image * 24 + patch) * 48..][..48].fill(7.0);
            }
        }
        let patches = Tensor::<3>::from_data(TensorData::new(values, [2, 24, 48]), &device);
        mae.predictions(patches, &masking).into_data().assert_eq(&before.into_data(), true);
    }

    #[test]
    fn visible_patches_of_a_completed_image_are_the_original() {
        let mae = tiny();
        let images = Random::new(3).uniform([1, 3, 16, 24]);
        let masking = RandomMasking::draw(0, &[5], 24, 0.75);
        let result = mae.reconstruct(images.clone(), &masking, MaeTarget::NormalisedPixels);
        let fraction = result.removed.clone().mean().into_scalar::<f32>();
        assert_eq!(fraction, 0.75);
        let visible = result.removed * -1.0 + 1.0;
        let difference = (result.completed - images) * visible;
        assert_eq!(difference.abs().max().into_scalar::<f32>(), 0.0);
    }
}
