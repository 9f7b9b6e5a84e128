//! Sizes of masked autoencoders, and models of these sizes.

use burn::module::{Initializer, Param};
use burn::nn::LayerNormConfig;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::MaskedAutoencoder;
use crate::config::{MAX_DEPTH, MAX_IMAGE_SIZE, MAX_WIDTH, SamConfigError, SizeChecks, Variant, divides};
use crate::encoder::{BlockConfig, ENCODER_LAYER_NORM_EPS, PatchEmbed};
use crate::init::sines_and_cosines;
use crate::ops::linear::linear_layer;
use crate::ops::patch_conv::PatchConv;

/// Size of the published models' images in pixels.
const MAE_IMAGE_SIZE: usize = 224;

/// Sizes of a masked autoencoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaeConfig {
    /// Height and width of the input in pixels; multiples of `patch_size`.
    pub image_size_hw: [usize; 2],
    /// Size of a patch in pixels.
    pub patch_size: usize,
    /// Embedding dimension of the encoder's tokens; a multiple of 4.
    pub embed_dim: usize,
    /// Blocks of the encoder.
    pub depth: usize,
    /// Attention heads of the encoder; divides `embed_dim`.
    pub num_heads: usize,
    /// Hidden dimension of the encoder's MLPs.
    pub mlp_dim: usize,
    /// Embedding dimension of the decoder's tokens; a multiple of 4.
    pub decoder_embed_dim: usize,
    /// Blocks of the decoder.
    pub decoder_depth: usize,
    /// Attention heads of the decoder; divides `decoder_embed_dim`.
    pub decoder_num_heads: usize,
    /// Hidden dimension of the decoder's MLPs.
    pub decoder_mlp_dim: usize,
}

impl MaeConfig {
    /// Multiplications of the products for one image, each with its addition: the encoder on the patches that are kept, the decoder on
    /// all. Norms and activations are not counted.
    #[must_use]
    pub fn multiply_adds(&self, mask_ratio: f64) -> f64 {
        let n = self.n_patches() as f64;
        let patch = 3.0 * (self.patch_size * self.patch_size) as f64;
        // With the class token.
        let kept = super::RandomMasking::n_kept(self.n_patches(), mask_ratio) as f64 + 1.0;
        let [dim, mlp] = [self.embed_dim, self.mlp_dim].map(|size| size as f64);
        let [decoder_dim, decoder_mlp] = [self.decoder_embed_dim, self.decoder_mlp_dim].map(|size| size as f64);
        let block = |tokens: f64, dim: f64, mlp: f64| tokens * (4.0 * dim * dim + 2.0 * dim * mlp + 2.0 * tokens * dim);
        let encoder = n * patch * dim + self.depth as f64 * block(kept, dim, mlp);
        let between = kept * dim * decoder_dim;
        let decoder = self.decoder_depth as f64 * block(n + 1.0, decoder_dim, decoder_mlp) + n * decoder_dim * patch;
        encoder + between + decoder
    }

    /// A published size at 224 px (`models_mae.py`): patches of 16 px, of 14 px in ViT-H.
    ///
    /// A SAM has patches of 16 px whatever its size: set `patch_size` to 16 to pre-train a ViT-H for one.
    ///
    /// # Panics
    /// For a variant that is none of [`Variant::VITS`].
    pub fn published(variant: Variant) -> Self {
        let (patch_size, embed_dim, depth, num_heads) = match variant {
            Variant::VitB => (16, 768, 12, 12),
            Variant::VitL => (16, 1024, 24, 16),
            Variant::VitH => (14, 1280, 32, 16),
            Variant::Mobile => panic!("a TinyViT has no masked autoencoder"),
        };
        Self {
            image_size_hw: [MAE_IMAGE_SIZE; 2],
            patch_size,
            embed_dim,
            depth,
            num_heads,
            mlp_dim: 4 * embed_dim,
            decoder_embed_dim: 512,
            decoder_depth: 8,
            decoder_num_heads: 16,
            decoder_mlp_dim: 4 * 512,
        }
    }

    /// Rows and columns of patches.
    pub fn grid_hw(&self) -> [usize; 2] {
        self.image_size_hw.map(|size| size / self.patch_size)
    }

    /// Patches of an image.
    pub fn n_patches(&self) -> usize {
        let [rows, columns] = self.grid_hw();
        rows * columns
    }

    /// Values of a patch.
    pub fn patch_values(&self) -> usize {
        self.patch_size * self.patch_size * 3
    }

    /// Checks that the sizes fit together, and reports all problems together.
    pub fn check(&self) -> Result<(), SamConfigError> {
        let mut checks = SizeChecks::default();
        let [height, width] = self.image_size_hw;
        for (name, size, limit) in [
            ("image height", height, MAX_IMAGE_SIZE),
            ("image width", width, MAX_IMAGE_SIZE),
            ("patch_size", self.patch_size, MAX_IMAGE_SIZE),
            ("embed_dim", self.embed_dim, MAX_WIDTH),
            ("mlp_dim", self.mlp_dim, MAX_WIDTH),
            ("decoder_embed_dim", self.decoder_embed_dim, MAX_WIDTH),
            ("decoder_mlp_dim", self.decoder_mlp_dim, MAX_WIDTH),
            ("depth", self.depth, MAX_DEPTH),
            ("decoder_depth", self.decoder_depth, MAX_DEPTH),
        ] {
            checks.require((1..=limit).contains(&size), || format!("{name} must be between 1 and {limit}, got {size}"));
        }
        for (name, size) in [("image height", height), ("image width", width)] {
            checks.require(divides(self.patch_size, size), || {
                format!("{name} {size} must be a multiple of patch_size {}", self.patch_size)
            });
        }
        for (name, width, heads_name, heads) in [
            ("embed_dim", self.embed_dim, "num_heads", self.num_heads),
            ("decoder_embed_dim", self.decoder_embed_dim, "decoder_num_heads", self.decoder_num_heads),
        ] {
            checks.require(divides(heads, width), || format!("{heads_name} {heads} must divide {name} {width}"));
            checks.require(width.is_multiple_of(4), || {
                format!("{name} must be a multiple of 4, for positions of two axes, got {width}")
            });
        }
        checks.finish()
    }

    /// A model on `device` with its fixed positions; all other parameters are zero (norms: identity) until a checkpoint or
    /// [`crate::init::initialise_mae`] fills them.
    pub fn init(&self, device: &Device) -> Result<MaskedAutoencoder, SamConfigError> {
        self.check()?;
        let norm = |width: usize| LayerNormConfig::new(width).with_epsilon(ENCODER_LAYER_NORM_EPS).init(device);
        let blocks = |depth: usize, dim: usize, num_heads: usize, mlp_dim: usize| {
            let config = BlockConfig::new(dim, num_heads, mlp_dim);
            (0..depth).map(|_| config.init(device)).collect()
        };
        let positions = |width: usize| {
            // The class token has no position: its row is zero.
            let mut values = vec![0f32; width];
            values.extend(sines_and_cosines(self.grid_hw(), width));
            let table = Tensor::from_data(TensorData::new(values, [1, 1 + self.n_patches(), width]), device);
            Param::from_tensor(table).set_require_grad(false)
        };
        Ok(MaskedAutoencoder {
            patch_embed: PatchEmbed { proj: PatchConv::new(3, self.embed_dim, self.patch_size, true, device) },
            cls_token: Initializer::Zeros.init([1, 1, self.embed_dim], device),
            pos_embed: positions(self.embed_dim),
            blocks: blocks(self.depth, self.embed_dim, self.num_heads, self.mlp_dim),
            norm: norm(self.embed_dim),
            decoder_embed: linear_layer(self.embed_dim, self.decoder_embed_dim, device),
            mask_token: Initializer::Zeros.init([1, 1, self.decoder_embed_dim], device),
            decoder_pos_embed: positions(self.decoder_embed_dim),
            decoder_blocks: blocks(
                self.decoder_depth,
                self.decoder_embed_dim,
                self.decoder_num_heads,
                self.decoder_mlp_dim,
            ),
            decoder_norm: norm(self.decoder_embed_dim),
            decoder_pred: linear_layer(self.decoder_embed_dim, self.patch_values(), device),
            config: self.clone(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::Module;

    /// Elements of the official state dicts, by hand from the shapes in `models_mae.py`.
    #[test]
    fn published_sizes_have_the_published_number_of_parameters() {
        let totals = [(Variant::VitB, 111_907_840), (Variant::VitL, 329_541_888), (Variant::VitH, 657_074_508)];
        for (variant, total) in totals {
            let mae = MaeConfig::published(variant).init(&Device::flex()).expect("published sizes fit");
            assert_eq!(mae.num_params(), total, "{}", variant.name());
        }
    }

    #[test]
    fn all_problems_are_reported_together() {
        let mut config = MaeConfig::published(Variant::VitB);
        (config.image_size_hw, config.num_heads, config.decoder_embed_dim) = ([224, 230], 7, 510);
        let text = config.check().expect_err("sizes do not fit").to_string();
        for part in ["width 230", "num_heads 7", "510"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
