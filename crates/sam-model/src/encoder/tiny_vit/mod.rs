//! TinyViT (arXiv 2207.10666) as the image encoder of MobileSAM (arXiv 2306.14289; `mobile_sam/modeling/tiny_vit_sam.py`): a stem
//! of convolutions, a layer of inverted bottlenecks and three layers of windowed attention with convolutions in between, then the
//! neck of SAM's own encoder.
//!
//! Differs from the reference: any image size that 16 divides; maps stay channels-last; the classifier, which MobileSAM's files
//! carry and its network never calls, has no part here.
//!
//! Shapes: `B` images, `S` image size in pixels, `G` grid size (`S / 16`), `C` channels of the last layer.

mod batch_norm;
mod config;
mod conv_norm;
mod layers;
mod window_block;

use burn::module::Module;

pub use batch_norm::BatchNorm;
pub use config::{BatchNormStatistics, TinyVitConfig};
pub use conv_norm::{ConvNorm, ConvWeight};
pub use layers::{ConvLayer, MbConv, PatchEmbedding, PatchMerging, WindowLayer};
pub use window_block::{NormMlp, WindowAttention, WindowBlock};

use self::layers::conv_layer;
use self::window_block::window_layer;
use super::neck::Neck;
use crate::stage::Stage;

/// TinyViT and its neck.
#[derive(Module, Debug)]
pub struct TinyVit {
    /// Pixels to the first map.
    pub patch_embed: PatchEmbedding,
    /// Layer 0.
    pub conv_layer: ConvLayer,
    /// Layers 1 to 3.
    pub window_layers: Vec<WindowLayer>,
    /// The last map to the embedding's channels.
    pub neck: Neck,
}

impl TinyVit {
    /// All before the neck, as stages.
    ///
    /// # Shapes
    /// - first input: `[B, 3, S, S]`, last output: `[B, G, G, C]`
    pub(super) fn stages_before_neck(&self) -> Vec<Stage<'_>> {
        let mut stages: Vec<Stage<'_>> = vec![Box::new(|images| self.patch_embed.forward(images))];
        self.conv_layer.push_stages(&mut stages);
        self.window_layers.iter().for_each(|layer| layer.push_stages(&mut stages));
        stages
    }

    /// Takes over the statistics of the batches that were seen, where batch norms have running ones.
    pub(crate) fn follow_batches(&mut self) {
        self.batch_norms_mut().into_iter().for_each(BatchNorm::follow);
    }

    /// From now on batch norms that do not learn keep their statistics; returns the number of the others, if theirs are running.
    pub(crate) fn settle_batch_norms(&mut self) -> usize {
        self.batch_norms_mut().into_iter().map(BatchNorm::settle).filter(|&is_running| is_running).count()
    }

    /// Moves every batch norm into its convolution, by the stored statistics. What is left of a norm adds the bias.
    pub(crate) fn fold_batch_norms(&mut self) {
        self.convolutions_mut().into_iter().for_each(ConvNorm::fold);
    }

    fn batch_norms_mut(&mut self) -> Vec<&mut BatchNorm> {
        self.convolutions_mut().into_iter().map(|convolution| &mut convolution.bn).collect()
    }

    fn convolutions_mut(&mut self) -> Vec<&mut ConvNorm> {
        let mut convolutions: Vec<&mut ConvNorm> = self.patch_embed.seq.iter_mut().collect();
        for MbConv { conv1, conv2, conv3, .. } in &mut self.conv_layer.blocks {
            convolutions.extend([conv1, conv2, conv3]);
        }
        let PatchMerging { conv1, conv2, conv3 } = &mut self.conv_layer.downsample;
        convolutions.extend([conv1, conv2, conv3]);
        for layer in &mut self.window_layers {
            convolutions.extend(layer.blocks.iter_mut().map(|block| &mut block.local_conv));
            if let Some(PatchMerging { conv1, conv2, conv3 }) = &mut layer.downsample {
                convolutions.extend([conv1, conv2, conv3]);
            }
        }
        convolutions
    }
}
