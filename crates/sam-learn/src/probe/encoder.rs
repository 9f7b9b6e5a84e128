//! An encoder that learns nothing more, whichever network it comes from.
//!
//! Shapes: `B` images, `H W` input in pixels, `N` patches, rows first, `C` width of the tokens.

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use sam_model::init::{initialise, initialise_mae};
use sam_model::{MaskedAutoencoder, Sam};

/// What stands for a whole image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of the tokens of its patches.
    #[default]
    Mean,
    /// The class token, which a masked autoencoder has.
    ClassToken,
}

/// A network of which the tokens are taken.
#[derive(Clone, Debug)]
pub enum FrozenEncoder {
    /// Tokens behind the last norm, nothing removed.
    Autoencoder(Box<MaskedAutoencoder>),
    /// Tokens behind the last block, before the neck: what a masked autoencoder hands over, and what training made of it.
    Segmenter(Box<Sam>),
}

/// Of a batch of images.
pub(crate) struct Tokens {
    /// `[B, N, C]`.
    pub(crate) patches: Tensor<3>,
    /// `[B, C]`, where there is one.
    pub(crate) class: Option<Tensor<2>>,
}

impl FrozenEncoder {
    /// The same sizes with random weights: what the architecture sees by itself.
    #[must_use]
    pub fn with_random_weights(&self, seed: u64) -> Self {
        match self {
            Self::Autoencoder(mae) => {
                let empty = mae.config().init(&self.device()).expect("sizes of a network that is there fit");
                Self::Autoencoder(Box::new(initialise_mae(empty, seed).valid()))
            }
            Self::Segmenter(sam) => {
                let empty = sam.config().init(&self.device()).expect("sizes of a network that is there fit");
                Self::Segmenter(Box::new(initialise(empty, seed).valid()))
            }
        }
    }

    /// Whether there is a class token.
    #[must_use]
    pub fn has_class_token(&self) -> bool {
        matches!(self, Self::Autoencoder(_))
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
            Self::Segmenter(sam) => sam.config().image_encoder.patch_size,
        }
    }

    /// Where it computes.
    #[must_use]
    pub fn device(&self) -> Device {
        match self {
            Self::Autoencoder(mae) => mae.device(),
            Self::Segmenter(sam) => sam.device(),
        }
    }

    /// # Shapes
    /// - `images`: `[B, 3, H, W]`, normalised
    pub(crate) fn tokens(&self, images: Tensor<4>) -> Tokens {
        match self {
            Self::Autoencoder(mae) => {
                let tokens = mae.features(images); // [B, 1 + N, C]
                let [batch, n_tokens, width] = tokens.dims();
                let class = tokens.clone().narrow(1, 0, 1).reshape([batch, width]);
                Tokens { patches: tokens.narrow(1, 1, n_tokens - 1), class: Some(class) }
            }
            Self::Segmenter(sam) => {
                let encoder = &sam.image_encoder;
                let tokens = encoder.blocks.iter().fold(encoder.embed_patches(images), |x, block| block.forward(x));
                let [batch, rows, columns, width] = tokens.dims();
                Tokens { patches: tokens.reshape([batch, rows * columns, width]), class: None }
            }
        }
    }
}
