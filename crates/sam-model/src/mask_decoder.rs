//! Tokens and image embedding to masks and their predicted quality (arXiv 2304.02643 §A and figure 14;
//! `segment_anything/modeling/mask_decoder.py`).
//!
//! Objects are the batch axis: each names its image, so images with different numbers of objects share one call. (The
//! reference repeats the embedding of a single image.) Only the masks that are asked for are formed.
//!
//! Shapes: `O` objects, `N` sparse prompt tokens, `G` grid side, `C` width, `M` masks.

use std::ops::Range;
use std::sync::Arc;

use burn::module::Initializer;
use burn::module::Module;
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::activation::gelu;
use burn::tensor::{Device, Tensor};
use sam_kernel::layer_norm::{Behind, LayerNorm};
use sam_kernel::mask_head::{MaskHead, MaskHeadSizes};
use serde::{Deserialize, Serialize};

use crate::attention::AbsentKeys;
use crate::fused::{SliceOperation, SliceOutput, WayBack, fused, is_fusible};
use crate::layer_norm::{LAYER_NORM_2D_EPS, LayerNorm2d};
use crate::mlp::Mlp;
use crate::patch_conv::PatchConvTranspose;
use crate::prompt_encoder::PromptEmbeddings;
use crate::two_way_transformer::{ImageTokens, Prepared, TwoWayTransformer, TwoWayTransformerConfig};

/// Sizes of a mask decoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskDecoderConfig {
    /// Width, equal to the image encoder's `out_chans`; a multiple of 8.
    pub transformer_dim: usize,
    /// Two-way blocks: 2, and 3 in the paper's data engine.
    pub depth: usize,
    /// Heads of every attention.
    pub num_heads: usize,
    /// Hidden width of the token MLP.
    pub mlp_dim: usize,
    /// Inner width of the attention between tokens and image.
    pub cross_dim: usize,
    /// Masks for an ambiguous prompt; one more is for an unambiguous one.
    pub num_multimask_outputs: usize,
    /// Layers of the IoU head.
    pub iou_head_depth: usize,
    /// Hidden width of the IoU head.
    pub iou_head_hidden_dim: usize,
    /// Dropout of the transformer's residual branches in training (paper: 0.1).
    #[serde(default)]
    pub dropout: f64,
}

/// Channels after the two upscaling steps are an eighth of the width.
const UPSCALED_FRACTION: usize = 8;

/// Layers of a hyper-network.
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
            output_upscaling: OutputUpscaling {
                conv1: PatchConvTranspose::new(dim, dim / 4, 2, device),
                norm1: LayerNorm2d::new(dim / 4, device),
                conv2: PatchConvTranspose::new(dim / 4, dim / UPSCALED_FRACTION, 2, device),
            },
            output_hypernetworks_mlps: (0..masks)
                .map(|_| Mlp::new(dim, dim, dim / UPSCALED_FRACTION, HYPERNETWORK_DEPTH, device))
                .collect(),
            iou_prediction_head: Mlp::new(dim, self.iou_head_hidden_dim, masks, self.iou_head_depth, device),
        }
    }
}

/// Which of the decoder's masks to form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaskOutput {
    /// Mask 0, for prompts that leave no doubt (`multimask_output=False`).
    Single,
    /// Masks 1 and up, for a prompt that may mean several things (`multimask_output=True`).
    Multi,
    /// All of them, the single one first.
    All,
}

/// Masks of the decoder's size with their predicted quality.
#[derive(Clone, Debug)]
pub struct DecodedMasks {
    /// `[O, M, 4G, 4G]`, a mask where above zero.
    pub low_res_logits: Tensor<4>,
    /// `[O, M]`, the decoder's own estimate of each mask's IoU; not bounded.
    pub iou_predictions: Tensor<2>,
}

/// Embeddings in, masks out.
#[derive(Module, Debug)]
pub struct MaskDecoder {
    /// Tokens and image attend to each other.
    pub transformer: TwoWayTransformer,
    /// The token that the IoU head reads.
    pub iou_token: Embedding,
    /// A token per mask.
    pub mask_tokens: Embedding,
    /// Image side to four times the grid.
    pub output_upscaling: OutputUpscaling,
    /// Mask token to the weights over the upscaled channels.
    pub output_hypernetworks_mlps: Vec<Mlp>,
    /// IoU token to a quality per mask.
    pub iou_prediction_head: Mlp,
}

/// Values of the objects' maps that exist at once when no gradient is needed: they stay in the processor's caches.
const VALUES_AT_ONCE: usize = 1 << 21;

impl MaskDecoder {
    /// # Shapes
    /// - `image_embeddings_bhwc`: `[B, G, G, C]`, `image_of_object`: `[O]`
    /// - `image_positions`: `[1, G, G, C]`
    pub fn forward(
        &self,
        image_embeddings_bhwc: Tensor<4>,
        image_of_object: &[usize],
        image_positions: Tensor<4>,
        prompts: PromptEmbeddings,
        output: MaskOutput,
    ) -> DecodedMasks {
        let [images, height, width, channels] = image_embeddings_bhwc.dims();
        let [positions, objects] = [height * width, image_of_object.len()];
        let shared = image_embeddings_bhwc + prompts.dense.shared.clone().reshape([1, 1, 1, channels]);
        let shared = shared.reshape([images, positions, channels]);
        let image_positions = image_positions.reshape([1, positions, channels]);
        let prepared = self.transformer.prepare(shared.clone(), image_positions);
        let decode = |objects: Range<usize>, prompts: PromptEmbeddings| {
            let of = Arc::new(image_of_object[objects].to_vec());
            let own = prompts.dense.own.map(|(own, weight)| (own.flatten(1, 2), weight));
            let image = ImageTokens { shared: shared.clone(), of, own };
            self.masks(image, &prepared, prompts.sparse, prompts.absent, [height, width], output)
        };
        let at_once = (VALUES_AT_ONCE / (positions * channels)).max(1);
        if objects <= at_once || shared.device().is_autodiff() || !is_fusible(&shared) {
            return decode(0..objects, prompts);
        }
        let parts = (0..objects).step_by(at_once).map(|start| start..(start + at_once).min(objects));
        let parts: Vec<DecodedMasks> = parts.map(|part| decode(part.clone(), prompts.part(part))).collect();
        DecodedMasks {
            low_res_logits: Tensor::cat(parts.iter().map(|part| part.low_res_logits.clone()).collect(), 0),
            iou_predictions: Tensor::cat(parts.into_iter().map(|part| part.iou_predictions).collect(), 0),
        }
    }

    fn masks(
        &self,
        image: ImageTokens,
        prepared: &Prepared,
        sparse: Option<Tensor<3>>,
        absent: Option<Vec<bool>>,
        [height, width]: [usize; 2],
        output: MaskOutput,
    ) -> DecodedMasks {
        let objects = image.of.len();
        let (tokens, absent) = self.tokens(objects, sparse, absent);
        let (tokens, image) = self.transformer.forward(image, prepared, tokens, absent.as_ref());
        let [_, _, channels] = image.dims();

        let mask_count = self.output_hypernetworks_mlps.len();
        let wanted = match output {
            MaskOutput::Single => 0..1,
            MaskOutput::Multi => 1..mask_count,
            MaskOutput::All => 0..mask_count,
        };
        let weights = wanted
            .clone()
            .map(|mask| self.output_hypernetworks_mlps[mask].forward(tokens.clone().narrow(1, 1 + mask, 1)))
            .collect();
        let weights = Tensor::cat(weights, 1); // [O, M, C / 8]
        let image = image.reshape([objects, height, width, channels]);
        let low_res_logits = self.output_upscaling.masks(image, weights);

        let iou_token = tokens.narrow(1, 0, 1).reshape([objects, channels]);
        let iou_predictions = self.iou_prediction_head.forward(iou_token).narrow(1, wanted.start, wanted.len());
        DecodedMasks { low_res_logits, iou_predictions }
    }

    /// IoU token, mask tokens, prompt tokens, and which of them an object lacks.
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

/// Two transposed convolutions, each doubling the side.
#[derive(Module, Debug)]
pub struct OutputUpscaling {
    /// `C` to `C / 4` channels.
    pub conv1: PatchConvTranspose,
    /// After `conv1`.
    pub norm1: LayerNorm2d,
    /// `C / 4` to `C / 8` channels.
    pub conv2: PatchConvTranspose,
}

impl OutputUpscaling {
    /// The product of the enlarged map with the weights of each mask; only on devices without kernels of ours the map itself
    /// comes into being.
    ///
    /// # Shapes
    /// - `x`: `[O, G, G, C]`, `weights`: `[O, M, C / 8]`
    /// - returns `[O, M, 4G, 4G]`
    pub fn masks(&self, x: Tensor<4>, weights: Tensor<3>) -> Tensor<4> {
        let [objects, height, width, _] = x.dims();
        let [_, masks, channels] = weights.dims();
        if is_fusible(&x) {
            let inputs = vec![
                x.into_dispatch(),
                weights.into_dispatch(),
                self.conv1.as_matrix().into_dispatch(),
                self.conv1.bias.val().into_dispatch(),
                self.norm1.weight.val().into_dispatch(),
                self.norm1.bias.val().into_dispatch(),
                self.conv2.as_matrix().into_dispatch(),
                self.conv2.bias.val().into_dispatch(),
            ];
            return fused(MaskHeadSizes { objects, grid: [height, width], masks }, inputs);
        }
        let upscaled = self.forward(x).reshape([objects, 16 * height * width, channels]);
        weights.matmul(upscaled.swap_dims(1, 2)).reshape([objects, masks, 4 * height, 4 * width])
    }

    /// # Shapes
    /// - `x`: `[O, G, G, C]`
    /// - returns `[O, 4G, 4G, C / 8]`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        gelu(self.conv2.forward(self.norm1.forward_gelu(self.conv1.forward(x))))
    }
}

/// Tokens and weights of masks first, then the parameters of [`OutputUpscaling`] in the order of its fields.
fn head_of<'a>(inputs: &[&'a [f32]]) -> MaskHead<'a> {
    let eps = LAYER_NORM_2D_EPS as f32;
    MaskHead {
        weight_1: inputs[2],
        bias_1: inputs[3],
        norm: LayerNorm { weight: inputs[4], bias: inputs[5], eps, behind: Behind::Gelu },
        weight_2: inputs[6],
        bias_2: inputs[7],
    }
}

impl SliceOperation for MaskHeadSizes {
    fn forward(&self, inputs: &[&[f32]]) -> SliceOutput {
        let values = head_of(inputs).forward(*self, inputs[0], inputs[1]);
        let [height, width] = self.grid;
        SliceOutput { values, shape: vec![self.objects, self.masks, 4 * height, 4 * width], kept: Vec::new() }
    }

    fn backward(&self, way: WayBack<'_>) -> Vec<Vec<f32>> {
        let grads = head_of(way.inputs).backward(*self, way.inputs[0], way.inputs[1], way.d_output);
        [grads.tokens, grads.mask_weights].into_iter().chain(grads.parameters).collect()
    }
}
