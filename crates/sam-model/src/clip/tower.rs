//! The text tower and the image tower (`clip/model.py`). The keys of files map themselves by the names here.
//!
//! Shapes: `B` texts or images, `N` tokens, `C` dimension of the tokens, `G` side of an image in patches, `S` in pixels, `W`
//! width of the vectors.

use burn::module::{Initializer, Module, Param};
use burn::nn::{LayerNorm, LayerNormConfig};
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::config::{ClipConfig, ImageTowerConfig, TextTowerConfig};
use crate::encoder::{Block, BlockConfig};
use crate::ops::attention::AbsentKeys;
use crate::ops::layer_norm::normalise;
use crate::ops::patch_conv::PatchConv;

/// Both towers.
#[derive(Module, Debug)]
pub struct ClipModel {
    /// Texts to vectors.
    pub text: TextTower,
    /// Images to vectors.
    pub visual: ImageTower,
}

impl ClipModel {
    pub(super) fn new(config: &ClipConfig, device: &Device) -> Self {
        Self {
            text: TextTower::new(&config.text, config.width, device),
            visual: ImageTower::new(&config.image, config.width, device),
        }
    }
}

/// Texts to vectors.
#[derive(Module, Debug)]
pub struct TextTower {
    /// `[vocabulary, C]`.
    pub token_embedding: Param<Tensor<2>>,
    /// `[context, C]`.
    pub positional_embedding: Param<Tensor<2>>,
    /// Each token sees itself and those before it.
    pub transformer: Transformer,
    /// After the blocks.
    pub ln_final: LayerNorm,
    /// `[C, W]`.
    pub text_projection: Param<Tensor<2>>,
    norm_eps: f64,
}

impl TextTower {
    fn new(config: &TextTowerConfig, width: usize, device: &Device) -> Self {
        let zeros = |shape: [usize; 2]| Initializer::Zeros.init(shape, device);
        let blocks = BlockConfig {
            activation: config.activation,
            norm_eps: config.norm_eps,
            ..BlockConfig::new(config.dim, config.num_heads, config.mlp_dim)
        };
        Self {
            token_embedding: zeros([config.vocabulary, config.dim]),
            positional_embedding: zeros([config.context, config.dim]),
            transformer: Transformer::new(blocks, config.depth, device),
            ln_final: LayerNormConfig::new(config.dim).with_epsilon(config.norm_eps).init(device),
            text_projection: zeros([config.dim, width]),
            norm_eps: config.norm_eps,
        }
    }

    /// Vectors of texts of equal length, not normalised.
    ///
    /// `tokens` are those of [`super::Tokenizer::encode`], which end with the end token: all that follow it in the reference
    /// change nothing.
    ///
    /// # Shapes
    /// - `tokens`: `B` rows of `N`
    /// - returns `[B, W]`
    ///
    /// # Panics
    /// When rows differ in length, or are empty or longer than the context.
    pub fn forward(&self, tokens: &[&[u32]]) -> Tensor<2> {
        let [context, channels] = self.positional_embedding.dims();
        let (batch, length) = (tokens.len(), tokens.first().map_or(0, |row| row.len()));
        assert!(tokens.iter().all(|row| row.len() == length), "texts of a batch have as many tokens each");
        assert!((1..=context).contains(&length), "a text has from 1 to {context} tokens, got {length}");
        let device = self.token_embedding.device();
        let indices: Vec<i64> = tokens.iter().flat_map(|row| row.iter().map(|&token| i64::from(token))).collect();
        let indices = Tensor::<1, Int>::from_data(TensorData::new(indices, [batch * length]), &device);
        let embedded = self.token_embedding.val().select(0, indices).reshape([batch, length, channels]);
        let positions = self.positional_embedding.val().narrow(0, 0, length).unsqueeze::<3>();
        let blocks = self.transformer.resblocks.iter();
        let x = blocks.fold(embedded + positions, |x, block| block.forward_causal(x));
        let last = x.narrow(1, length - 1, 1).reshape([batch, channels]);
        normalise(last, &self.ln_final, self.norm_eps).matmul(self.text_projection.val())
    }
}

/// Images to vectors.
#[derive(Module, Debug)]
pub struct ImageTower {
    /// Patches to tokens, without bias.
    pub conv1: PatchConv,
    /// `[C]`, the first token.
    pub class_embedding: Param<Tensor<1>>,
    /// `[1 + G * G, C]`, that of the class token first.
    pub positional_embedding: Param<Tensor<2>>,
    /// Before the blocks.
    pub ln_pre: LayerNorm,
    /// All tokens see each other.
    pub transformer: Transformer,
    /// On the class token, after the blocks.
    pub ln_post: LayerNorm,
    /// `[C, W]`.
    pub proj: Param<Tensor<2>>,
    norm_eps: f64,
}

impl ImageTower {
    fn new(config: &ImageTowerConfig, width: usize, device: &Device) -> Self {
        let norm = || LayerNormConfig::new(config.dim).with_epsilon(config.norm_eps).init(device);
        let blocks = BlockConfig {
            activation: config.activation,
            norm_eps: config.norm_eps,
            ..BlockConfig::new(config.dim, config.num_heads, config.mlp_dim)
        };
        Self {
            conv1: PatchConv::new(3, config.dim, config.patch_px, false, device),
            class_embedding: Initializer::Zeros.init([config.dim], device),
            positional_embedding: Initializer::Zeros.init([1 + config.grid() * config.grid(), config.dim], device),
            ln_pre: norm(),
            transformer: Transformer::new(blocks, config.depth, device),
            ln_post: norm(),
            proj: Initializer::Zeros.init([config.dim, width], device),
            norm_eps: config.norm_eps,
        }
    }

    /// Vectors of images, not normalised.
    ///
    /// With `seen`, the class token attends in the last block to itself and to the patches that are `true` only (Kirillov
    /// 2023, arXiv 2304.02643 §D.5).
    ///
    /// # Shapes
    /// - `images_bhwc`: `[B, S, S, 3]`, less the mean and over the deviation of the configuration
    /// - `seen`: `B` rows of `G * G`, row-major
    /// - returns `[B, W]`
    ///
    /// # Panics
    /// When sizes do not fit.
    pub fn forward(&self, images_bhwc: Tensor<4>, seen: Option<&[&[bool]]>) -> Tensor<2> {
        let patches = self.conv1.forward(images_bhwc); // [B, G, G, C]
        let [batch, rows, columns, channels] = patches.dims();
        let device = patches.device();
        let tokens = 1 + rows * columns;
        let absent = seen.map(|seen| {
            assert_eq!(seen.len(), batch, "each image has its patches");
            let mut absent = Vec::with_capacity(batch * tokens);
            for patches in seen {
                assert_eq!(patches.len(), tokens - 1, "each patch is seen or not");
                absent.push(false);
                absent.extend(patches.iter().map(|seen| !seen));
            }
            AbsentKeys::new(absent, [batch, tokens], &device)
        });
        let class = self.class_embedding.val().reshape([1, 1, channels]).expand([batch, 1, channels]);
        let x = Tensor::cat(vec![class, patches.reshape([batch, tokens - 1, channels])], 1);
        let x = normalise(x + self.positional_embedding.val().unsqueeze::<3>(), &self.ln_pre, self.norm_eps);
        let Some((last, others)) = self.transformer.resblocks.split_last() else {
            unreachable!("a tower has a block; the configuration was checked")
        };
        // A sequence is a grid of one row.
        let x = others.iter().fold(x.unsqueeze_dim::<4>(1), |x, block| block.forward(x)).squeeze_dim::<3>(1);
        let class = last.forward_first(x, absent).reshape([batch, channels]);
        normalise(class, &self.ln_post, self.norm_eps).matmul(self.proj.val())
    }
}

/// The blocks of a tower.
#[derive(Module, Debug)]
pub struct Transformer {
    /// First to last.
    pub resblocks: Vec<Block>,
}

impl Transformer {
    fn new(config: BlockConfig, depth: usize, device: &Device) -> Self {
        Self { resblocks: (0..depth).map(|_| config.init(device)).collect() }
    }
}
