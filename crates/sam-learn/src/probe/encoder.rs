//! A frozen encoder of either network.
//!
//! Shapes: `B` images, `H W` input in pixels, `N` patches in row-major order, `C` embedding dimension.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sam_model::init::{initialise, initialise_mae};
use sam_model::{MaskedAutoencoder, Sam};

/// The feature of a whole image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of its patch tokens.
    #[default]
    Mean,
    /// The class token of a masked autoencoder.
    ClassToken,
}

/// A network whose tokens are the features.
#[derive(Clone, Debug)]
pub enum FrozenEncoder {
    /// Tokens after the last norm; no patch is removed.
    Autoencoder(Box<MaskedAutoencoder>),
    /// Tokens after the last block, before the neck: the part that a masked autoencoder pre-trains.
    Segmenter(Box<Sam>),
}

/// Tokens of a batch of images.
pub(super) struct Tokens {
    /// Patch tokens, `[B, N, C]`.
    pub(super) patches: Tensor<3>,
    /// The class token, where there is one, `[B, C]`.
    pub(super) class: Option<Tensor<2>>,
}

impl FrozenEncoder {
    /// The same architecture with random weights, as a baseline.
    #[must_use]
    pub fn with_random_weights(&self, seed: u64) -> Self {
        match self {
            Self::Autoencoder(mae) => {
                let empty = mae.config().init(&self.device()).expect("sizes of an existing network fit");
                Self::Autoencoder(Box::new(initialise_mae(empty, seed).valid()))
            }
            Self::Segmenter(sam) => {
                let empty = sam.config().init(&self.device()).expect("sizes of an existing network fit");
                Self::Segmenter(Box::new(initialise(empty, seed).valid()))
            }
        }
    }

    /// Height and width of the input in pixels.
    #[must_use]
    pub fn size_hw(&self) -> [usize; 2] {
        match self {
            Self::Autoencoder(mae) => mae.config().image_size_hw,
            Self::Segmenter(sam) => [sam.image_size(); 2],
        }
    }

    /// Side of a patch in pixels.
    #[must_use]
    pub fn patch_size(&self) -> usize {
        match self {
            Self::Autoencoder(mae) => mae.config().patch_size,
            Self::Segmenter(sam) => sam.config().image_encoder.patch_size(),
        }
    }

    /// The device of the weights.
    #[must_use]
    pub fn device(&self) -> Device {
        match self {
            Self::Autoencoder(mae) => mae.device(),
            Self::Segmenter(sam) => sam.device(),
        }
    }

    /// # Shapes
    /// - `images`: `[B, 3, H, W]`, normalised
    pub(super) fn tokens(&self, images: Tensor<4>) -> Tokens {
        match self {
            Self::Autoencoder(mae) => {
                let tokens = mae.features(images); // [B, 1 + N, C]
                let [batch, n_tokens, dim] = tokens.dims();
                let class = tokens.clone().narrow(1, 0, 1).reshape([batch, dim]);
                Tokens { patches: tokens.narrow(1, 1, n_tokens - 1), class: Some(class) }
            }
            Self::Segmenter(sam) => {
                let tokens = sam.image_encoder.features(images);
                let [batch, rows, columns, dim] = tokens.dims();
                Tokens { patches: tokens.reshape([batch, rows * columns, dim]), class: None }
            }
        }
    }
}
