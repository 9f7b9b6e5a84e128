//! Tokens and image embedding to masks and their predicted quality (arXiv 2304.02643 §A and figure 14;
//! `segment_anything/modeling/mask_decoder.py`).
//!
//! Objects are the batch axis: each names its image, so images with different numbers of objects share one call. (The
//! reference repeats the embedding of a single image.) Only the requested masks are computed.
//!
//! Shapes: `B` images, `O` objects, `N` sparse prompt tokens, `G` grid size, `C` embedding dimension, `M` masks.

use std::ops::Range;
use std::sync::Arc;

use burn::module::{Initializer, Module};
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::two_way_transformer::{ImageTokens, TwoWayTransformer, TwoWayTransformerConfig};
use crate::ops::attention::AbsentKeys;
use crate::ops::mask_head::{OutputUpscaling, UPSCALED_FRACTION};
use crate::ops::mlp::Mlp;
use crate::ops::objects_at_once;
use crate::prompt::PromptEmbeddings;

/// Sizes of a mask decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskDecoderConfig {
    /// Embedding dimension, equal to the image encoder's `out_chans`; a multiple of 8.
    pub transformer_dim: usize,
    /// Two-way blocks: 2, and 3 in the paper's data engine.
    pub depth: usize,
    /// Heads of every attention.
    pub num_heads: usize,
    /// Hidden dimension of the token MLP.
    pub mlp_dim: usize,
    /// Inner dimension of the attention between tokens and image.
    pub cross_dim: usize,
    /// Masks for an ambiguous prompt; there is one more for an unambiguous prompt.
    pub num_multimask_outputs: usize,
    /// Layers of the IoU head.
    pub iou_head_depth: usize,
    /// Hidden dimension of the IoU head.
    pub iou_head_hidden_dim: usize,
    /// Dropout of the transformer's residual branches in training (paper: 0.1).
    #[serde(default)]
    pub dropout: f64,
}

/// Layers of a hypernetwork.
const HYPERNETWORK_DEPTH: usize = 3;

impl MaskDecoderConfig {
    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub fn init(&self, device: &Device) -> MaskDecoder {
        let dim = self.transformer_dim;
        let masks = self.num_multimask_outputs + 1;
        let tokens = |count| EmbeddingConfig::new(count, dim).with_initializer(Initializer::Zeros).init(device);
        MaskDecoder {
            transformer: TwoWayTransformerConfig {
                depth: self.depth,
                dim,
                num_heads: self.num_heads,
                mlp_dim: self.mlp_dim,
                cross_dim: self.cross_dim,
                dropout: self.dropout,
            }
            .init(device),
            iou_token: tokens(1),
            mask_tokens: tokens(masks),
            output_upscaling: OutputUpscaling::new(dim, device),
            output_hypernetworks_mlps: (0..masks)
                .map(|_| Mlp::new(dim, dim, dim / UPSCALED_FRACTION, HYPERNETWORK_DEPTH, device))
                .collect(),
            iou_prediction_head: Mlp::new(dim, self.iou_head_hidden_dim, masks, self.iou_head_depth, device),
        }
    }
}

/// The decoder's masks to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskOutput {
    /// Mask 0, for unambiguous prompts (`multimask_output=False`).
    Single,
    /// Masks 1 and up, for ambiguous prompts (`multimask_output=True`).
    Multi,
    /// All masks, the single one first.
    All,
}

/// Masks at the decoder's resolution with their predicted quality.
#[derive(Clone, Debug)]
pub struct DecodedMasks {
    /// `[O, M, 4G, 4G]`, above zero on the mask.
    pub low_res_logits: Tensor<4>,
    /// `[O, M]`, the decoder's estimate of each mask's IoU; not bounded.
    pub iou_predictions: Tensor<2>,
}

/// The mask decoder.
#[derive(Module, Debug)]
pub struct MaskDecoder {
    /// Tokens and image attend to each other.
    pub transformer: TwoWayTransformer,
    /// Token of the IoU head.
    pub iou_token: Embedding,
    /// One token per mask.
    pub mask_tokens: Embedding,
    /// Image tokens to a map of four times the grid.
    pub output_upscaling: OutputUpscaling,
    /// One per mask: mask token to the weights of the upscaled channels.
    pub output_hypernetworks_mlps: Vec<Mlp>,
    /// IoU token to the quality of each mask.
    pub iou_prediction_head: Mlp,
}

/// Inputs of [`MaskDecoder::forward`].
pub(crate) struct MaskDecoderInputs<'a> {
    /// `[B, G, G, C]`.
    pub(crate) embeddings_bhwc: Tensor<4>,
    /// Positions of the embedding's cells, `[1, G, G, C]`.
    pub(crate) positions_bhwc: Tensor<4>,
    /// `[O]`, indices into `B`.
    pub(crate) image_of_object: &'a [usize],
    /// The prompts of all objects.
    pub(crate) prompts: PromptEmbeddings,
    /// The masks to compute.
    pub(crate) output: MaskOutput,
}

/// Values of the objects' maps that exist at once when no gradient is needed: they stay in the caches of the CPU.
const VALUES_AT_ONCE: usize = 1 << 21;

impl MaskDecoder {
    /// # Shapes
    /// - returns `[O, M, 4G, 4G]` logits and `[O, M]` predicted IoUs
    pub(crate) fn forward(&self, inputs: MaskDecoderInputs<'_>) -> DecodedMasks {
        let MaskDecoderInputs { embeddings_bhwc, positions_bhwc, image_of_object, prompts, output } = inputs;
        let [images, height, width, channels] = embeddings_bhwc.dims();
        let [positions, objects] = [height * width, image_of_object.len()];
        let shared = embeddings_bhwc + prompts.dense.shared.clone().reshape([1, 1, 1, channels]);
        let shared = shared.reshape([images, positions, channels]);
        let image_positions = positions_bhwc.reshape([1, positions, channels]);
        let prepared = self.transformer.prepare(shared.clone(), image_positions);
        let decode = |objects: Range<usize>, prompts: PromptEmbeddings| {
            let image_index = Arc::new(image_of_object[objects.clone()].to_vec());
            let own = prompts.dense.own.map(|(own, weight)| (own.flatten(1, 2), weight));
            let image = ImageTokens { shared: shared.clone(), image_index, own };
            let (tokens, absent) = self.tokens(objects.len(), prompts.sparse, prompts.absent);
            let (tokens, image) = self.transformer.forward(image, &prepared, tokens, absent.as_ref());
            self.heads(tokens, image, [height, width], output)
        };
        let at_once = objects_at_once(&shared, positions * channels, VALUES_AT_ONCE);
        if objects <= at_once || shared.device().is_autodiff() {
            return decode(0..objects, prompts);
        }
        let chunks = (0..objects).step_by(at_once).map(|start| start..(start + at_once).min(objects));
        let chunks: Vec<DecodedMasks> = chunks.map(|chunk| decode(chunk.clone(), prompts.part(chunk))).collect();
        DecodedMasks {
            low_res_logits: Tensor::cat(chunks.iter().map(|chunk| chunk.low_res_logits.clone()).collect(), 0),
            iou_predictions: Tensor::cat(chunks.into_iter().map(|chunk| chunk.iou_predictions).collect(), 0),
        }
    }

    /// Tokens `[O, T, C]` and image `[O, G * G, C]` to masks.
    fn heads(
        &self,
        tokens: Tensor<3>,
        image: Tensor<3>,
        [height, width]: [usize; 2],
        output: MaskOutput,
    ) -> DecodedMasks {
        let [objects, _, channels] = image.dims();
        let mask_count = self.output_hypernetworks_mlps.len();
        let selected = match output {
            MaskOutput::Single => 0..1,
            MaskOutput::Multi => 1..mask_count,
            MaskOutput::All => 0..mask_count,
        };
        let weights = selected
            .clone()
            .map(|mask| self.output_hypernetworks_mlps[mask].forward(tokens.clone().narrow(1, 1 + mask, 1)))
            .collect();
        let weights = Tensor::cat(weights, 1); // [O, M, C / 8]
        let image = image.reshape([objects, height, width, channels]);
        let low_res_logits = self.output_upscaling.masks(image, weights);

        let iou_token = tokens.narrow(1, 0, 1).reshape([objects, channels]);
        let iou_predictions = self.iou_prediction_head.forward(iou_token).narrow(1, selected.start, selected.len());
        DecodedMasks { low_res_logits, iou_predictions }
    }

    /// IoU token, mask tokens, prompt tokens, and which of them are absent for an object.
    fn tokens(
        &self,
        objects: usize,
        sparse: Option<Tensor<3>>,
        absent: Option<Vec<bool>>,
    ) -> (Tensor<3>, Option<AbsentKeys>) {
        let own = Tensor::cat(vec![self.iou_token.weight.val(), self.mask_tokens.weight.val()], 0);
        let [count, channels] = own.dims();
        let own = own.reshape([1, count, channels]).expand([objects, count, channels]);
        let Some(sparse) = sparse else { return (own, None) };
        let [_, n_sparse, _] = sparse.dims();
        let absent = absent.map(|absent| {
            let of_object = |absent: &[bool]| std::iter::repeat_n(false, count).chain(absent.to_vec());
            let absent = absent.chunks_exact(n_sparse).flat_map(of_object).collect();
            AbsentKeys::new(absent, [objects, count + n_sparse], &sparse.device())
        });
        (Tensor::cat(vec![own, sparse], 1), absent)
    }
}
