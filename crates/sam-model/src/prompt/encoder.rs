//! Points, boxes and masks to embeddings (arXiv 2304.02643 §A; `segment_anything/modeling/prompt_encoder.py`).
//!
//! Differs from the reference in one respect: the objects of a call may have different prompts. Missing tokens are marked
//! [`super::TokenKind::Absent`] and masked out of attention, so each object has the result it would have alone.
//!
//! Shapes: `O` objects, `N` sparse tokens of the longest prompt, `C` embedding dimension, `G` grid size of the embedding.

use std::ops::Range;

use burn::module::{Initializer, Module, Param};
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use super::prompts::{Prompts, SparsePrompts};
use super::text::{TextPrompt, TextPromptConfig};
use crate::ops::layer_norm::LayerNorm2d;
use crate::ops::patch_conv::PatchConv;

/// Size of a mask prompt per size of the embedding grid: 256 for 64.
pub(crate) const MASK_PROMPT_PER_GRID: usize = 4;

/// Sizes of a prompt encoder; the rest follows from the image encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptEncoderConfig {
    /// Embedding dimension, equal to the image encoder's `out_chans`.
    pub embed_dim: usize,
    /// Hidden channels of the mask prompt's convolutions; a multiple of 4.
    pub mask_in_chans: usize,
}

impl PromptEncoderConfig {
    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub fn init(
        &self,
        text: Option<&TextPromptConfig>,
        image_size: usize,
        grid_size: usize,
        device: &Device,
    ) -> PromptEncoder {
        let Self { embed_dim, mask_in_chans } = *self;
        let token = || EmbeddingConfig::new(1, embed_dim).with_initializer(Initializer::Zeros).init(device);
        let gaussian = Initializer::Zeros.init([2, embed_dim / 2], device).set_require_grad(false);
        PromptEncoder {
            pe_layer: PositionEmbeddingRandom { positional_encoding_gaussian_matrix: gaussian },
            point_embeddings: (0..4).map(|_| token()).collect(),
            not_a_point_embed: token(),
            mask_downscaling: MaskDownscaling {
                conv1: PatchConv::new(1, mask_in_chans / 4, 2, true, device),
                norm1: LayerNorm2d::new(mask_in_chans / 4, device),
                conv2: PatchConv::new(mask_in_chans / 4, mask_in_chans, 2, true, device),
                norm2: LayerNorm2d::new(mask_in_chans, device),
                conv3: PatchConv::new(mask_in_chans, embed_dim, 1, true, device),
            },
            no_mask_embed: token(),
            text_prompt: text.map(|text| text.init(embed_dim, device)),
            image_size,
            grid_size,
        }
    }
}

/// The prompt encoder.
#[derive(Module, Debug)]
pub struct PromptEncoder {
    /// Positions to embeddings.
    pub pe_layer: PositionEmbeddingRandom,
    /// For negative and positive points and the two box corners, in the order of [`super::TokenKind`].
    pub point_embeddings: Vec<Embedding>,
    /// For [`super::TokenKind::NotAPoint`].
    pub not_a_point_embed: Embedding,
    /// Mask logits to the embedding grid.
    pub mask_downscaling: MaskDownscaling,
    /// For objects without a mask prompt.
    pub no_mask_embed: Embedding,
    /// Vectors of CLIP to tokens; not in the official package.
    pub text_prompt: Option<TextPrompt>,
    image_size: usize,
    grid_size: usize,
}

/// The prompts as the mask decoder takes them.
#[derive(Clone, Debug)]
pub struct PromptEmbeddings {
    /// `[O, N, C]`, a text first; `None` when there are no texts, points and boxes at all.
    pub sparse: Option<Tensor<3>>,
    /// `[O, N]`, row-major, `true` where an object has no such token; `None` when all have.
    pub absent: Option<Vec<bool>>,
    /// Embeddings of the mask prompts.
    pub dense: DenseEmbeddings,
}

/// Embeddings of mask prompts, added to the image embedding: a part shared by all objects, and a part per object.
#[derive(Clone, Debug)]
pub struct DenseEmbeddings {
    /// `[C]`.
    pub shared: Tensor<1>,
    /// As a product, `[O, G, G, I]` and `[I, C]`; `None` when no object has a mask prompt.
    pub own: Option<(Tensor<4>, Tensor<2>)>,
}

impl DenseEmbeddings {
    /// The embeddings in the reference's form.
    ///
    /// # Shapes
    /// - returns `[O, G, G, C]`, or `[1, 1, 1, C]` when no object has a mask prompt
    pub fn whole_bhwc(self) -> Tensor<4> {
        let [channels] = self.shared.dims();
        let shared = self.shared.reshape([1, 1, 1, channels]);
        match self.own {
            None => shared,
            Some((own, weight)) => own.matmul(weight.unsqueeze()) + shared,
        }
    }
}

impl PromptEmbeddings {
    /// The embeddings of a range of objects.
    pub fn part(&self, objects: Range<usize>) -> Self {
        let absent = self.absent.as_ref().zip(self.sparse.as_ref()).map(|(absent, sparse)| {
            let [_, tokens, _] = sparse.dims();
            absent[objects.start * tokens..objects.end * tokens].to_vec()
        });
        let own = self.dense.own.as_ref();
        let own = own.map(|(own, weight)| (own.clone().slice_dim(0, objects.clone()), weight.clone()));
        Self {
            sparse: self.sparse.as_ref().map(|sparse| sparse.clone().slice_dim(0, objects.clone())),
            absent,
            dense: DenseEmbeddings { shared: self.dense.shared.clone(), own },
        }
    }
}

impl PromptEncoder {
    /// Embeds the prompts of all objects.
    ///
    /// # Shapes
    /// - returns `sparse`: `[O, N, C]`, `absent`: `[O, N]`, `dense`: see `DenseEmbeddings`
    ///
    /// # Panics
    /// When an object has a text and the model takes none, or vectors of another width.
    pub fn forward(&self, prompts: &Prompts) -> PromptEmbeddings {
        let dense = self.embed_masks(prompts);
        let points = prompts.sparse.as_ref().map(|sparse| self.embed_sparse(sparse));
        let points_absent = prompts.sparse.as_ref().and_then(|sparse| sparse.absent.clone());
        let Some(text) = &prompts.text else {
            return PromptEmbeddings { sparse: points, absent: points_absent, dense };
        };
        let layer = self.text_prompt.as_ref().expect("a text prompts a model that takes texts");
        let token = layer.forward(text); // [O, 1, C]
        let n_points = points.as_ref().map_or(0, |points| points.dims()[1]);
        let some_absent = points_absent.is_some() || text.absent().any(|absent| absent);
        let absent = some_absent.then(|| {
            let of_points = points_absent.unwrap_or_else(|| vec![false; prompts.objects * n_points]);
            let rows = text.absent().enumerate();
            rows.flat_map(|(object, absent)| {
                std::iter::once(absent).chain(of_points[object * n_points..][..n_points].iter().copied())
            })
            .collect()
        });
        let sparse = match points {
            Some(points) => Tensor::cat(vec![token, points], 1),
            None => token,
        };
        PromptEmbeddings { sparse: Some(sparse), absent, dense }
    }

    /// Positions of the embedding grid's cell centres.
    ///
    /// # Shapes
    /// - returns `[1, G, G, C]`
    pub fn dense_positions(&self) -> Tensor<4> {
        let grid = self.grid_size;
        let centre = |index: usize| (index as f32 + 0.5) / grid as f32;
        let coords: Vec<f32> = (0..grid * grid).flat_map(|cell| [centre(cell % grid), centre(cell / grid)]).collect();
        let device = self.no_mask_embed.weight.val().device();
        let coords = Tensor::from_data(TensorData::new(coords, [1, grid * grid, 2]), &device);
        let encoded = self.pe_layer.encode(coords);
        let channels = encoded.dims()[2];
        encoded.reshape([1, grid, grid, channels])
    }

    fn embed_sparse(&self, sparse: &SparsePrompts) -> Tensor<3> {
        let [objects, tokens, _] = sparse.coords_xy_px.dims();
        // Coordinates are of a pixel's corner; its centre is half a pixel further.
        let centres = (sparse.coords_xy_px.clone() + 0.5) / self.image_size as f64;
        let positions = self.pe_layer.encode(centres); // [O, N, C]
        let channels = positions.dims()[2];
        let without_position = sparse.labels.clone().lower_elem(0).unsqueeze_dim::<3>(2);
        let positions = positions.mask_fill(without_position.expand([objects, tokens, channels]), 0.0);

        let mut table: Vec<Tensor<2>> = self.point_embeddings.iter().map(|token| token.weight.val()).collect();
        table.push(self.not_a_point_embed.weight.val());
        let not_a_point = (table.len() - 1) as i64;
        // Negative labels become the padding token; the values of absent tokens do not matter, as nothing reads them.
        let is_padding = sparse.labels.clone().lower_elem(0);
        let row = sparse.labels.clone().mask_fill(is_padding, not_a_point).reshape([objects * tokens]);
        let kinds = Tensor::cat(table, 0).select(0, row).reshape([objects, tokens, channels]);
        positions + kinds
    }

    /// The last convolution of a mask prompt is left as a product, of which the decoder uses the factors. An object without
    /// a mask has zeros there, and one more channel holds the difference between "no mask" and the convolution's bias.
    fn embed_masks(&self, prompts: &Prompts) -> DenseEmbeddings {
        let no_mask = self.no_mask_embed.weight.val(); // [1, C]
        let Some(masks) = &prompts.masks else {
            return DenseEmbeddings { shared: no_mask.squeeze_dim(0), own: None };
        };
        let [objects, _, height, width] = masks.logits.dims();
        let downscaling = &self.mask_downscaling;
        let channels = downscaling.channels(masks.logits.clone().reshape([objects, height, width, 1]));
        let (weight, bias) = downscaling.conv3.as_matrix();
        let bias = bias.expect("the reference's last convolution has a bias");
        let own = match &masks.present {
            None => (channels, weight),
            Some(present) => {
                let [_, rows, columns, _] = channels.dims();
                let present = present.clone().float().reshape([objects, 1, 1, 1]);
                let absent = (present.clone() * -1.0 + 1.0).expand([objects, rows, columns, 1]);
                let difference = no_mask - bias.clone().unsqueeze();
                (Tensor::cat(vec![channels * present, absent], 3), Tensor::cat(vec![weight, difference], 0))
            }
        };
        DenseEmbeddings { shared: bias, own: Some(own) }
    }
}

/// Random Fourier features of positions (arXiv 2006.10739).
#[derive(Module, Debug)]
pub struct PositionEmbeddingRandom {
    /// `[2, C / 2]`, first row for x; saved with the weights and never trained.
    pub positional_encoding_gaussian_matrix: Param<Tensor<2>>,
}

impl PositionEmbeddingRandom {
    /// # Shapes
    /// - `coords_unit`: `[B, N, 2]`, x then y, 0 to 1 over the model's input
    /// - returns `[B, N, C]`
    pub fn encode(&self, coords_unit: Tensor<3>) -> Tensor<3> {
        let frequencies = self.positional_encoding_gaussian_matrix.val().unsqueeze::<3>();
        let projected = (coords_unit * 2.0 - 1.0).matmul(frequencies) * (2.0 * std::f64::consts::PI);
        Tensor::cat(vec![projected.clone().sin(), projected.cos()], 2)
    }
}

/// Mask logits to the embedding grid: two strided convolutions and a projection, GELU between.
#[derive(Module, Debug)]
pub struct MaskDownscaling {
    /// 1 to `mask_in_chans / 4` channels, half the resolution.
    pub conv1: PatchConv,
    /// After `conv1`.
    pub norm1: LayerNorm2d,
    /// To `mask_in_chans` channels, a quarter of the resolution.
    pub conv2: PatchConv,
    /// After `conv2`.
    pub norm2: LayerNorm2d,
    /// To the embedding dimension.
    pub conv3: PatchConv,
}

impl MaskDownscaling {
    /// # Shapes
    /// - `logits_bhwc`: `[O, 4G, 4G, 1]`
    /// - returns `[O, G, G, C]`
    pub fn forward(&self, logits_bhwc: Tensor<4>) -> Tensor<4> {
        self.conv3.forward(self.channels(logits_bhwc))
    }

    /// Input of the last convolution.
    ///
    /// # Shapes
    /// - `logits_bhwc`: `[O, 4G, 4G, 1]`
    /// - returns `[O, G, G, mask_in_chans]`
    fn channels(&self, logits_bhwc: Tensor<4>) -> Tensor<4> {
        let x = self.norm1.forward_gelu(self.conv1.forward(logits_bhwc));
        self.norm2.forward_gelu(self.conv2.forward(x))
    }
}
