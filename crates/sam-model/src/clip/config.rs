//! Sizes of a CLIP.

use burn::tensor::Device;
use sam_files::Fingerprint;

use super::tower::ClipModel;
use crate::config::{MAX_DEPTH, MAX_IMAGE_SIZE, MAX_WIDTH, SamConfigError, SizeChecks, divides};
use crate::ops::mlp::Activation;

/// Epsilon of every norm (PyTorch's default).
pub(crate) const CLIP_LAYER_NORM_EPS: f64 = 1e-5;

/// Largest vocabulary; the published one has 49,408 tokens.
const MAX_VOCABULARY: usize = 1 << 20;

/// Sizes of both towers.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipConfig {
    /// Length of the vectors.
    pub width: usize,
    /// Of texts.
    pub text: TextTowerConfig,
    /// Of images.
    pub image: ImageTowerConfig,
}

/// Sizes of the text tower.
#[derive(Clone, Debug, PartialEq)]
pub struct TextTowerConfig {
    /// Number of different tokens.
    pub vocabulary: usize,
    /// Largest number of tokens of a text, start and end included.
    pub context: usize,
    /// Dimension of the tokens.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block; divides `dim`.
    pub num_heads: usize,
    /// Hidden dimension of a block's MLP.
    pub mlp_dim: usize,
    /// Between the layers of the MLPs.
    pub activation: Activation,
    /// Epsilon of the norms.
    pub norm_eps: f64,
}

/// Sizes of the image tower.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageTowerConfig {
    /// Size of the square input in pixels; a multiple of `patch_px`.
    pub side_px: usize,
    /// Size of a patch in pixels.
    pub patch_px: usize,
    /// Dimension of the tokens.
    pub dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads of a block; divides `dim`.
    pub num_heads: usize,
    /// Hidden dimension of a block's MLP.
    pub mlp_dim: usize,
    /// Between the layers of the MLPs.
    pub activation: Activation,
    /// Epsilon of the norms.
    pub norm_eps: f64,
    /// Mean of the pixels per channel, which are from 0 to 1.
    pub mean: [f32; 3],
    /// Their deviation per channel.
    pub std: [f32; 3],
}

/// Mean of the pixels of OpenAI's training data (`clip/clip.py`), per channel.
pub(crate) const OPENAI_MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Their deviation.
pub(crate) const OPENAI_STD: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

impl ImageTowerConfig {
    /// Size of the input in patches.
    pub fn grid(&self) -> usize {
        self.side_px / self.patch_px.max(1)
    }
}

impl ClipConfig {
    /// Checks that the sizes fit together, and reports all problems together.
    pub fn check(&self) -> Result<(), SamConfigError> {
        let (text, image) = (&self.text, &self.image);
        let mut checks = SizeChecks::default();
        for (name, size, limit) in [
            ("the vectors' width", self.width, MAX_WIDTH),
            ("the vocabulary", text.vocabulary, MAX_VOCABULARY),
            ("the context", text.context, MAX_IMAGE_SIZE),
            ("the text tower's width", text.dim, MAX_WIDTH),
            ("the text tower's depth", text.depth, MAX_DEPTH),
            ("the text tower's MLP", text.mlp_dim, MAX_WIDTH),
            ("the image tower's input", image.side_px, MAX_IMAGE_SIZE),
            ("the image tower's width", image.dim, MAX_WIDTH),
            ("the image tower's depth", image.depth, MAX_DEPTH),
            ("the image tower's MLP", image.mlp_dim, MAX_WIDTH),
        ] {
            checks.require((1..=limit).contains(&size), || format!("{name} must be from 1 to {limit}, got {size}"));
        }
        for (name, heads, dim, eps) in
            [("text", text.num_heads, text.dim, text.norm_eps), ("image", image.num_heads, image.dim, image.norm_eps)]
        {
            checks.require(divides(heads, dim), || {
                format!("the {heads} heads of the {name} tower must divide its width {dim}")
            });
            checks.require((0.0..1.0).contains(&eps), || format!("an epsilon must be from 0 to 1, got {eps}"));
        }
        checks.require(divides(image.patch_px, image.side_px), || {
            format!("the image tower's input of {} px must be whole patches of {} px", image.side_px, image.patch_px)
        });
        checks.require(image.mean.iter().all(|mean| mean.is_finite()), || "the pixels' mean must be finite".into());
        checks.require(image.std.iter().all(|std| std.is_finite() && *std > 0.0), || {
            "the pixels' deviation must be positive".into()
        });
        checks.finish()
    }

    /// A model on `device` whose parameters are zero (norms: identity) until a checkpoint fills them.
    ///
    /// # Errors
    /// When sizes do not fit together.
    pub fn init(&self, device: &Device) -> Result<ClipModel, SamConfigError> {
        self.check()?;
        Ok(ClipModel::new(self, device))
    }

    /// The sizes for people.
    pub fn description(&self) -> String {
        let (text, image) = (&self.text, &self.image);
        format!(
            "CLIP with vectors of {} (image: {} px, patch {}, width {}, depth {}, {} heads, {}; text: {} of {} tokens, width \
             {}, depth {}, {} heads, {})",
            self.width,
            image.side_px,
            image.patch_px,
            image.dim,
            image.depth,
            image.num_heads,
            activation_name(image.activation),
            text.context,
            text.vocabulary,
            text.dim,
            text.depth,
            text.num_heads,
            activation_name(text.activation),
        )
    }

    /// Adds all sizes to a fingerprint.
    pub(super) fn add_to(&self, hash: &mut Fingerprint) {
        let ClipConfig { width, text, image } = self;
        let sizes = [
            *width,
            text.vocabulary,
            text.context,
            text.dim,
            text.depth,
            text.num_heads,
            text.mlp_dim,
            image.side_px,
            image.patch_px,
            image.dim,
            image.depth,
            image.num_heads,
            image.mlp_dim,
        ];
        sizes.into_iter().for_each(|size| hash.add_word(size as u64));
        for (activation, eps) in [(text.activation, text.norm_eps), (image.activation, image.norm_eps)] {
            hash.add_bytes(activation_name(activation).as_bytes());
            hash.add_word(eps.to_bits());
        }
        image.mean.iter().chain(&image.std).for_each(|value| hash.add_word(u64::from(value.to_bits())));
    }
}

/// The activation function for people, and for fingerprints.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Gelu => "GELU",
        Activation::QuickGelu => "QuickGELU",
        Activation::Relu => "ReLU",
    }
}
