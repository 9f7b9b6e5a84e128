//! Points, boxes and masks to embeddings (arXiv 2304.02643 §A; `segment_anything/modeling/prompt_encoder.py`).
//!
//! Differs from the reference in one thing: the objects of a call may have different prompts. What one object lacks is
//! marked [`TokenKind::Absent`] and hidden from attention, so each object gets what it would get alone.
//!
//! Shapes: `O` objects, `N` sparse tokens of the longest prompt, `C` embedding width, `G` grid side of the embedding.

use std::ops::Range;

use burn::module::{Initializer, Module, Param};
use burn::nn::{Embedding, EmbeddingConfig};
use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::layer_norm::LayerNorm2d;
use crate::patch_conv::PatchConv;

/// Sides of a mask prompt per side of the embedding grid: 256 for 64.
pub const MASK_PROMPT_PER_GRID: usize = 4;

/// What a sparse token means. The numbers are those of the reference and of its ONNX export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// No token at all: the object's prompt is shorter than the longest one.
    Absent = -2,
    /// The token that the reference appends when there are points but no box.
    NotAPoint = -1,
    /// A point on the background.
    Negative = 0,
    /// A point on the object.
    Positive = 1,
    /// Upper left corner of a box.
    BoxTopLeft = 2,
    /// Lower right corner of a box.
    BoxBottomRight = 3,
}

/// The prompt of one object, in the model's frame (pixels of the padded `S x S` input).
#[derive(Clone, Debug, Default)]
pub struct ObjectPrompt {
    /// Clicks: position and whether it is on the object.
    pub points_xy_px: Vec<([f32; 2], bool)>,
    /// Upper left and lower right corner.
    pub box_xyxy_px: Option<[f32; 4]>,
    /// Logits of a previous mask, row-major, `4G x 4G`.
    pub mask_logits: Option<Vec<f32>>,
}

/// The prompts of all objects of a call.
#[derive(Clone, Debug)]
pub struct Prompts {
    /// Points and box corners; `None` when no object has any.
    pub sparse: Option<SparsePrompts>,
    /// Mask prompts; `None` when no object has one.
    pub masks: Option<MaskPrompts>,
    /// `O`.
    pub objects: usize,
}

/// Points and box corners of all objects.
#[derive(Clone, Debug)]
pub struct SparsePrompts {
    /// `[O, N, 2]`, x then y, pixels of the model's frame; the half-pixel shift is added inside.
    pub coords_xy_px: Tensor<3>,
    /// `[O, N]`, codes of [`TokenKind`].
    pub labels: Tensor<2, Int>,
    /// `[O, N]`, row by row, where the label is [`TokenKind::Absent`]; `None` when it is nowhere.
    pub absent: Option<Vec<bool>>,
}

/// Mask logits of all objects.
#[derive(Clone, Debug)]
pub struct MaskPrompts {
    /// `[O, 1, 4G, 4G]`; what an object without a mask holds is ignored.
    pub logits: Tensor<4>,
    /// `[O]`, which objects have one; `None` when all do.
    pub present: Option<Tensor<1, Bool>>,
}

impl Prompts {
    /// Those of some objects.
    pub fn part(&self, objects: Range<usize>) -> Self {
        let rows = |logits: &Tensor<4>| logits.clone().slice_dim(0, objects.clone());
        Self {
            sparse: self.sparse.as_ref().map(|sparse| SparsePrompts {
                coords_xy_px: sparse.coords_xy_px.clone().slice_dim(0, objects.clone()),
                labels: sparse.labels.clone().slice_dim(0, objects.clone()),
                absent: sparse.absent.as_ref().map(|absent| {
                    let [_, tokens] = sparse.labels.dims();
                    absent[objects.start * tokens..objects.end * tokens].to_vec()
                }),
            }),
            masks: self.masks.as_ref().map(|masks| MaskPrompts {
                logits: rows(&masks.logits),
                present: masks.present.as_ref().map(|present| present.clone().slice_dim(0, objects.clone())),
            }),
            objects: objects.len(),
        }
    }

    /// Gathers prompts from the host, in the reference's order: points, the padding token if there are points but no
    /// box, box corners.
    ///
    /// # Panics
    /// When `objects` is empty or a mask does not have `mask_side * mask_side` logits.
    pub fn from_objects(objects: &[ObjectPrompt], mask_side: usize, device: &Device) -> Self {
        assert!(!objects.is_empty(), "at least one object must be prompted");
        let tokens: Vec<Vec<([f32; 2], TokenKind)>> = objects.iter().map(sparse_tokens).collect();
        let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
        let sparse = (longest > 0).then(|| {
            let padded = || {
                tokens.iter().flat_map(|tokens| {
                    let missing = longest - tokens.len();
                    tokens.iter().copied().chain(std::iter::repeat_n(([0.0; 2], TokenKind::Absent), missing))
                })
            };
            let coords: Vec<f32> = padded().flat_map(|(xy, _)| xy).collect();
            let labels: Vec<i64> = padded().map(|(_, label)| label as i64).collect();
            let absent: Vec<bool> = padded().map(|(_, label)| label == TokenKind::Absent).collect();
            SparsePrompts {
                coords_xy_px: Tensor::from_data(TensorData::new(coords, [objects.len(), longest, 2]), device),
                labels: Tensor::from_data(TensorData::new(labels, [objects.len(), longest]), device),
                absent: absent.contains(&true).then_some(absent),
            }
        });
        Self { sparse, masks: mask_prompts(objects, mask_side, device), objects: objects.len() }
    }
}

fn sparse_tokens(object: &ObjectPrompt) -> Vec<([f32; 2], TokenKind)> {
    let label = |positive| if positive { TokenKind::Positive } else { TokenKind::Negative };
    let mut tokens: Vec<_> = object.points_xy_px.iter().map(|&(xy, positive)| (xy, label(positive))).collect();
    match object.box_xyxy_px {
        Some([x0, y0, x1, y1]) => {
            tokens.extend([([x0, y0], TokenKind::BoxTopLeft), ([x1, y1], TokenKind::BoxBottomRight)]);
        }
        None if !tokens.is_empty() => tokens.push(([0.0; 2], TokenKind::NotAPoint)),
        None => {}
    }
    tokens
}

fn mask_prompts(objects: &[ObjectPrompt], mask_side: usize, device: &Device) -> Option<MaskPrompts> {
    let have = objects.iter().filter(|object| object.mask_logits.is_some()).count();
    if have == 0 {
        return None;
    }
    let mut logits = Vec::with_capacity(objects.len() * mask_side * mask_side);
    for object in objects {
        match &object.mask_logits {
            Some(mask) => {
                assert_eq!(mask.len(), mask_side * mask_side, "a mask prompt must be {mask_side}x{mask_side}");
                logits.extend_from_slice(mask);
            }
            None => logits.resize(logits.len() + mask_side * mask_side, 0.0),
        }
    }
    let present = (have < objects.len()).then(|| {
        let present: Vec<bool> = objects.iter().map(|object| object.mask_logits.is_some()).collect();
        Tensor::from_data(TensorData::new(present, [objects.len()]), device)
    });
    let logits = Tensor::from_data(TensorData::new(logits, [objects.len(), 1, mask_side, mask_side]), device);
    Some(MaskPrompts { logits, present })
}

/// Sizes of a prompt encoder; the rest follows from the image encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptEncoderConfig {
    /// Width of the embeddings, equal to the image encoder's `out_chans`.
    pub embed_dim: usize,
    /// Channels in the middle of the mask prompt's convolutions; a multiple of 4.
    pub mask_in_chans: usize,
}

impl PromptEncoderConfig {
    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub fn init(&self, image_size: usize, grid_size: usize, device: &Device) -> PromptEncoder {
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
            image_size,
            grid_size,
        }
    }
}

/// Prompts in, sparse and dense embeddings out.
#[derive(Module, Debug)]
pub struct PromptEncoder {
    /// Positions to vectors.
    pub pe_layer: PositionEmbeddingRandom,
    /// For negative and positive points and the two box corners, in the order of [`TokenKind`].
    pub point_embeddings: Vec<Embedding>,
    /// For [`TokenKind::NotAPoint`].
    pub not_a_point_embed: Embedding,
    /// Mask logits to the embedding grid.
    pub mask_downscaling: MaskDownscaling,
    /// In place of a mask prompt.
    pub no_mask_embed: Embedding,
    image_size: usize,
    grid_size: usize,
}

/// What the mask decoder takes from the prompts.
#[derive(Clone, Debug)]
pub struct PromptEmbeddings {
    /// `[O, N, C]`; `None` when there are no points and boxes at all.
    pub sparse: Option<Tensor<3>>,
    /// `[O, N]`, row by row, `true` where an object has no such token; `None` when all have.
    pub absent: Option<Vec<bool>>,
    /// Of the mask prompts.
    pub dense: DenseEmbeddings,
}

/// What mask prompts add to the image embedding at each place: what all objects share, and what is an object's own.
#[derive(Clone, Debug)]
pub struct DenseEmbeddings {
    /// `[C]`.
    pub shared: Tensor<1>,
    /// As a product, `[O, G, G, I]` and `[I, C]`; `None` when no object has a mask prompt.
    pub own: Option<(Tensor<4>, Tensor<2>)>,
}

impl DenseEmbeddings {
    /// As the reference gives them: `[O, G, G, C]`, or `[1, 1, 1, C]` when no object has a mask prompt.
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
    /// Those of some objects.
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
    pub fn forward(&self, prompts: &Prompts) -> PromptEmbeddings {
        PromptEmbeddings {
            sparse: prompts.sparse.as_ref().map(|sparse| self.embed_sparse(sparse)),
            absent: prompts.sparse.as_ref().and_then(|sparse| sparse.absent.clone()),
            dense: self.embed_masks(prompts),
        }
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
        // A pixel's coordinate is its corner; its centre is half a pixel further.
        let centres = (sparse.coords_xy_px.clone() + 0.5) / self.image_size as f64;
        let positions = self.pe_layer.encode(centres); // [O, N, C]
        let channels = positions.dims()[2];
        let without_position = sparse.labels.clone().lower_elem(0).unsqueeze_dim::<3>(2);
        let positions = positions.mask_fill(without_position.expand([objects, tokens, channels]), 0.0);

        let mut table: Vec<Tensor<2>> = self.point_embeddings.iter().map(|token| token.weight.val()).collect();
        table.push(self.not_a_point_embed.weight.val());
        let not_a_point = (table.len() - 1) as i64;
        // Negative labels are the padding token; what an absent token holds does not matter, nothing reads it.
        let is_padding = sparse.labels.clone().lower_elem(0);
        let row = sparse.labels.clone().mask_fill(is_padding, not_a_point).reshape([objects * tokens]);
        let kinds = Tensor::cat(table, 0).select(0, row).reshape([objects, tokens, channels]);
        positions + kinds
    }

    /// The last convolution of a mask prompt is a product, which what follows can take apart; an object without a mask has
    /// zeros there, and one more channel that holds the difference between "no mask" and the convolution's bias.
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
    /// - `coords_unit`: `[B, N, 2]`, x then y, 0 to 1 over the model's frame
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
    /// 1 to `mask_in_chans / 4` channels, half the side.
    pub conv1: PatchConv,
    /// After `conv1`.
    pub norm1: LayerNorm2d,
    /// To `mask_in_chans` channels, a quarter of the side.
    pub conv2: PatchConv,
    /// After `conv2`.
    pub norm2: LayerNorm2d,
    /// To the embedding width.
    pub conv3: PatchConv,
}

impl MaskDownscaling {
    /// # Shapes
    /// - `logits_bhwc`: `[O, 4G, 4G, 1]`
    /// - returns `[O, G, G, C]`
    pub fn forward(&self, logits_bhwc: Tensor<4>) -> Tensor<4> {
        self.conv3.forward(self.channels(logits_bhwc))
    }

    /// What the last convolution takes.
    ///
    /// # Shapes
    /// - `logits_bhwc`: `[O, 4G, 4G, 1]`
    /// - returns `[O, G, G, mask_in_chans]`
    fn channels(&self, logits_bhwc: Tensor<4>) -> Tensor<4> {
        let x = self.norm1.forward_gelu(self.conv1.forward(logits_bhwc));
        self.norm2.forward_gelu(self.conv2.forward(x))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_follow_the_reference_order() {
        let mut object = ObjectPrompt { points_xy_px: vec![([1.0, 2.0], true)], ..Default::default() };
        let labels = |object: &ObjectPrompt| sparse_tokens(object).iter().map(|t| t.1).collect::<Vec<_>>();
        assert_eq!(labels(&object), [TokenKind::Positive, TokenKind::NotAPoint]);
        object.box_xyxy_px = Some([0.0, 0.0, 4.0, 4.0]);
        assert_eq!(labels(&object), [TokenKind::Positive, TokenKind::BoxTopLeft, TokenKind::BoxBottomRight]);
        assert!(labels(&ObjectPrompt::default()).is_empty());
    }

    #[test]
    fn only_unequal_prompts_lack_tokens() {
        let point = ObjectPrompt { points_xy_px: vec![([1.0, 2.0], true)], ..Default::default() };
        let boxed = ObjectPrompt { box_xyxy_px: Some([0.0, 0.0, 4.0, 4.0]), ..Default::default() };
        let both = ObjectPrompt { points_xy_px: point.points_xy_px.clone(), ..boxed.clone() };
        let absent = |objects: &[ObjectPrompt]| {
            Prompts::from_objects(objects, 8, &Device::flex()).sparse.map(|sparse| sparse.absent)
        };
        assert_eq!(absent(&[point.clone(), boxed.clone()]), Some(None));
        assert_eq!(absent(&[point, both]), Some(Some(vec![false, false, true, false, false, false])));
        assert_eq!(absent(&[ObjectPrompt { mask_logits: Some(vec![0.0; 64]), ..Default::default() }]), None);
    }
}
