//! The whole segmenter: image encoder, prompt encoder, mask decoder (arXiv 2304.02643; `segment_anything/modeling/sam.py`
//! and `build_sam.py`).
//!
//! Differs from the reference: one call takes any number of images and objects. Each object names its image; nothing
//! repeats per image, and nothing is hidden under `no_grad`, so the same calls train.
//!
//! Shapes: `B` images, `O` objects, `S` image side, `G` grid side, `C` embedding width, `M` masks.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::fused::is_fusible;
use crate::image_encoder::{ImageEncoder, ImageEncoderConfig};
use crate::mask_decoder::{DecodedMasks, MaskDecoder, MaskDecoderConfig, MaskOutput};
use crate::prompt_encoder::{MASK_PROMPT_PER_GRID, PromptEncoder, PromptEncoderConfig, Prompts};

/// Mean of the training images per RGB channel, 0 to 255 (`build_sam.py`).
pub const PIXEL_MEAN: [f32; 3] = [123.675, 116.28, 103.53];

/// Standard deviation of the training images per RGB channel (`build_sam.py`).
pub const PIXEL_STD: [f32; 3] = [58.395, 57.12, 57.375];

/// A logit above this is on the mask (`sam.py::mask_threshold`).
pub const MASK_THRESHOLD: f32 = 0.0;

/// The published sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Variant {
    /// 91 M parameters.
    VitB,
    /// 308 M parameters.
    VitL,
    /// 636 M parameters.
    VitH,
}

impl Variant {
    /// All, smallest first.
    pub const ALL: [Variant; 3] = [Variant::VitB, Variant::VitL, Variant::VitH];

    /// The name in the reference's `sam_model_registry`.
    pub fn name(self) -> &'static str {
        match self {
            Variant::VitB => "vit_b",
            Variant::VitL => "vit_l",
            Variant::VitH => "vit_h",
        }
    }
}

/// Values of the objects' maps that exist at once while learning. Beyond 32 MiB a tensor's memory goes back to the system
/// when it is dropped, and is fetched page by page again.
const LEARNED_AT_ONCE: usize = 1 << 22;

/// Sizes of a segmenter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamConfig {
    /// Image to embedding.
    pub image_encoder: ImageEncoderConfig,
    /// Prompts to embeddings.
    pub prompt_encoder: PromptEncoderConfig,
    /// Embeddings to masks.
    pub mask_decoder: MaskDecoderConfig,
}

/// Sizes beyond these belong to no model but to a damaged or hostile file; the published ones are far below.
const MAX_WIDTH: usize = 1 << 16;
const MAX_DEPTH: usize = 1000;
const MAX_IMAGE_SIZE: usize = 1 << 15;

/// A configuration whose sizes do not fit together.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("model sizes do not fit together: {}", problems.join("; "))]
pub struct SamConfigError {
    /// One sentence per problem.
    pub problems: Vec<String>,
}

impl SamConfig {
    /// One of the published sizes, at 1024 px (`build_sam.py`).
    pub fn published(variant: Variant) -> Self {
        let (embed_dim, depth, num_heads, global_attn_indexes) = match variant {
            Variant::VitB => (768, 12, 12, vec![2, 5, 8, 11]),
            Variant::VitL => (1024, 24, 16, vec![5, 11, 17, 23]),
            Variant::VitH => (1280, 32, 16, vec![7, 15, 23, 31]),
        };
        Self {
            image_encoder: ImageEncoderConfig {
                image_size: 1024,
                patch_size: 16,
                embed_dim,
                depth,
                num_heads,
                mlp_dim: 4 * embed_dim,
                out_chans: 256,
                window_size: 14,
                global_attn_indexes,
                drop_path_rate: 0.0,
            },
            prompt_encoder: PromptEncoderConfig { embed_dim: 256, mask_in_chans: 16 },
            mask_decoder: MaskDecoderConfig {
                transformer_dim: 256,
                depth: 2,
                num_heads: 8,
                mlp_dim: 2048,
                cross_dim: 128,
                num_multimask_outputs: 3,
                iou_head_depth: 3,
                iou_head_hidden_dim: 256,
                dropout: 0.0,
            },
        }
    }

    /// Which published size this is, whatever its image size and its rates for training.
    pub fn variant(&self) -> Option<Variant> {
        Variant::ALL.into_iter().find(|&variant| {
            let mut published = Self::published(variant);
            published.image_encoder.image_size = self.image_encoder.image_size;
            published.image_encoder.drop_path_rate = self.image_encoder.drop_path_rate;
            published.mask_decoder.dropout = self.mask_decoder.dropout;
            published == *self
        })
    }

    /// Side of the decoder's masks and of mask prompts in pixels: 256 at 1024.
    pub fn low_res_side(&self) -> usize {
        MASK_PROMPT_PER_GRID * self.image_encoder.grid_size()
    }

    /// Checks that the sizes fit together, and lists everything that does not.
    pub fn check(&self) -> Result<(), SamConfigError> {
        let (encoder, prompts, decoder) = (&self.image_encoder, &self.prompt_encoder, &self.mask_decoder);
        let mut problems = Vec::new();
        let mut require = |holds: bool, problem: String| {
            if !holds {
                problems.push(problem);
            }
        };
        for (name, size, limit) in [
            ("image_size", encoder.image_size, MAX_IMAGE_SIZE),
            ("patch_size", encoder.patch_size, MAX_IMAGE_SIZE),
            ("window_size", encoder.window_size, MAX_IMAGE_SIZE),
            ("embed_dim", encoder.embed_dim, MAX_WIDTH),
            ("the encoder's mlp_dim", encoder.mlp_dim, MAX_WIDTH),
            ("out_chans", encoder.out_chans, MAX_WIDTH),
            ("mask_in_chans", prompts.mask_in_chans, MAX_WIDTH),
            ("the decoder's mlp_dim", decoder.mlp_dim, MAX_WIDTH),
            ("cross_dim", decoder.cross_dim, MAX_WIDTH),
            ("iou_head_hidden_dim", decoder.iou_head_hidden_dim, MAX_WIDTH),
            ("the encoder's depth", encoder.depth, MAX_DEPTH),
            ("the decoder's depth", decoder.depth, MAX_DEPTH),
            ("num_multimask_outputs", decoder.num_multimask_outputs, MAX_DEPTH),
            ("iou_head_depth", decoder.iou_head_depth, MAX_DEPTH),
        ] {
            require(size <= limit, format!("{name} must be at most {limit}, got {size}"));
        }
        let divides = |divisor: usize, value: usize| divisor > 0 && value > 0 && value.is_multiple_of(divisor);
        require(
            divides(encoder.patch_size, encoder.image_size),
            format!("image_size {} must be a multiple of patch_size {}", encoder.image_size, encoder.patch_size),
        );
        require(
            divides(encoder.num_heads, encoder.embed_dim),
            format!("num_heads {} must divide embed_dim {}", encoder.num_heads, encoder.embed_dim),
        );
        require(encoder.depth > 0, "depth must be at least 1".into());
        require(encoder.mlp_dim > 0 && encoder.out_chans > 0, "mlp_dim and out_chans must be at least 1".into());
        for &block in &encoder.global_attn_indexes {
            require(
                block < encoder.depth,
                format!("global_attn_indexes names block {block}, but there are only {} blocks", encoder.depth),
            );
        }
        require(
            encoder.window_size > 0 || encoder.global_attn_indexes.len() == encoder.depth,
            "window_size must be at least 1 unless every block is global".into(),
        );
        require(
            (0.0..1.0).contains(&encoder.drop_path_rate),
            format!("drop_path_rate must be in [0, 1), got {}", encoder.drop_path_rate),
        );
        require(
            prompts.embed_dim == encoder.out_chans && decoder.transformer_dim == encoder.out_chans,
            format!(
                "the encoder's out_chans {}, the prompt encoder's embed_dim {} and the decoder's transformer_dim {} \
                 must be equal",
                encoder.out_chans, prompts.embed_dim, decoder.transformer_dim
            ),
        );
        require(
            divides(4, prompts.mask_in_chans),
            format!("mask_in_chans must be a multiple of 4, got {}", prompts.mask_in_chans),
        );
        require(
            divides(8, decoder.transformer_dim),
            format!("transformer_dim must be a multiple of 8, got {}", decoder.transformer_dim),
        );
        require(
            divides(decoder.num_heads, decoder.transformer_dim) && divides(decoder.num_heads, decoder.cross_dim),
            format!(
                "the decoder's num_heads {} must divide transformer_dim {} and cross_dim {}",
                decoder.num_heads, decoder.transformer_dim, decoder.cross_dim
            ),
        );
        require(
            decoder.iou_head_depth > 0 && decoder.num_multimask_outputs > 0 && decoder.mlp_dim > 0,
            "iou_head_depth, num_multimask_outputs and the decoder's mlp_dim must be at least 1".into(),
        );
        require(
            (0.0..1.0).contains(&decoder.dropout),
            format!("the decoder's dropout must be in [0, 1), got {}", decoder.dropout),
        );
        if problems.is_empty() { Ok(()) } else { Err(SamConfigError { problems }) }
    }

    /// A model on `device` whose parameters are zero (norms: identity) until a checkpoint
    /// ([`crate::weights::Checkpoint`]) or [`crate::init::initialise`] fills them.
    pub fn init(&self, device: &Device) -> Result<Sam, SamConfigError> {
        self.check()?;
        let encoder = &self.image_encoder;
        Ok(Sam {
            image_encoder: encoder.init(device),
            prompt_encoder: self.prompt_encoder.init(encoder.image_size, encoder.grid_size(), device),
            mask_decoder: self.mask_decoder.init(device),
            config: self.clone(),
        })
    }
}

/// The segmenter.
#[derive(Module, Debug)]
pub struct Sam {
    /// Image to embedding.
    pub image_encoder: ImageEncoder,
    /// Prompts to embeddings.
    pub prompt_encoder: PromptEncoder,
    /// Embeddings to masks.
    pub mask_decoder: MaskDecoder,
    #[module(skip)]
    config: SamConfig,
}

impl Sam {
    /// The sizes it was made with.
    pub fn config(&self) -> &SamConfig {
        &self.config
    }

    /// Side of the square input in pixels.
    pub fn image_size(&self) -> usize {
        self.config.image_encoder.image_size
    }

    /// Where it computes.
    pub fn device(&self) -> Device {
        self.prompt_encoder.no_mask_embed.weight.lazy_device()
    }

    /// Normalises an image that already has its size in the model's frame and pads it at the right and bottom; the
    /// padding is zero *after* normalisation.
    ///
    /// # Shapes
    /// - `rgb`: `height * width * 3` bytes, row-major, neither side above `S`
    /// - returns `[1, 3, S, S]`
    pub fn preprocess(rgb: &[u8], [height, width]: [usize; 2], image_size: usize, device: &Device) -> Tensor<4> {
        assert_eq!(rgb.len(), height * width * 3, "an RGB image of {height}x{width} has three bytes per pixel");
        assert!(
            height <= image_size && width <= image_size,
            "an image of {height}x{width} must be resized to fit {image_size} px before"
        );
        let plane = image_size * image_size;
        let mut input = vec![0f32; 3 * plane];
        for (y, row) in rgb.chunks_exact(width * 3).enumerate() {
            for (x, pixel) in row.chunks_exact(3).enumerate() {
                for channel in 0..3 {
                    let value = (pixel[channel] as f32 - PIXEL_MEAN[channel]) / PIXEL_STD[channel];
                    input[channel * plane + y * image_size + x] = value;
                }
            }
        }
        Tensor::from_data(TensorData::new(input, [1, 3, image_size, image_size]), device)
    }

    /// Images to embeddings: once per image, however many prompts follow.
    ///
    /// # Shapes
    /// - `images`: `[B, 3, S, S]` from [`Sam::preprocess`]
    /// - returns `[B, C, G, G]`
    pub fn encode(&self, images: Tensor<4>) -> Tensor<4> {
        let [_, channels, height, width] = images.dims();
        assert_eq!(
            [channels, height, width],
            [3, self.image_size(), self.image_size()],
            "this model takes 3 x {0} x {0} px images",
            self.image_size()
        );
        self.image_encoder.forward(images)
    }

    /// Objects that a caller who learns should decode together: on the processor so many that their maps stay where memory
    /// is reused instead of fetched anew, elsewhere all.
    pub fn objects_at_once(&self) -> usize {
        if !is_fusible(&self.prompt_encoder.no_mask_embed.weight.val()) {
            return usize::MAX;
        }
        let grid = self.config.image_encoder.grid_size();
        (LEARNED_AT_ONCE / (grid * grid * self.config.mask_decoder.transformer_dim)).max(1)
    }

    /// Prompts to masks, for all objects of all images at once.
    ///
    /// # Shapes
    /// - `image_embeddings`: `[B, C, G, G]` from [`Sam::encode`]
    /// - `image_of_object`: `[O]`, places in `B`
    pub fn decode(
        &self,
        image_embeddings: Tensor<4>,
        image_of_object: &[usize],
        prompts: &Prompts,
        output: MaskOutput,
    ) -> DecodedMasks {
        self.decode_at(self.image_positions(), image_embeddings, image_of_object, prompts, output)
    }

    /// Positions of the embedding's cells, `[1, G, G, C]`; nothing that learns changes them.
    pub fn image_positions(&self) -> Tensor<4> {
        self.prompt_encoder.dense_positions()
    }

    /// As [`Sam::decode`], for those who decode often: given [`Sam::image_positions`] once.
    pub fn decode_at(
        &self,
        image_positions: Tensor<4>,
        image_embeddings: Tensor<4>,
        image_of_object: &[usize],
        prompts: &Prompts,
        output: MaskOutput,
    ) -> DecodedMasks {
        let [images, ..] = image_embeddings.dims();
        assert_eq!(image_of_object.len(), prompts.objects, "each object names one image");
        assert!(image_of_object.iter().all(|&image| image < images), "there are {images} images");
        let embeddings = image_embeddings.permute([0, 2, 3, 1]);
        let prompts = self.prompt_encoder.forward(prompts);
        self.mask_decoder.forward(embeddings, image_of_object, image_positions, prompts, output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_sizes_have_the_published_number_of_elements() {
        // Totals of the official state dicts, from the shapes in `build_sam.py`.
        let totals = [93_735_728, 312_343_088, 641_090_864];
        for (variant, total) in Variant::ALL.into_iter().zip(totals) {
            let config = SamConfig::published(variant);
            let sam = config.init(&Device::flex()).expect("published sizes fit");
            assert_eq!(sam.num_params(), total, "{}", variant.name());
            assert_eq!(config.variant(), Some(variant));
        }
    }

    #[test]
    fn every_misfit_is_listed_at_once() {
        let mut config = SamConfig::published(Variant::VitB);
        config.image_encoder.image_size = 1000;
        config.image_encoder.num_heads = 7;
        config.image_encoder.global_attn_indexes.push(99);
        config.mask_decoder.transformer_dim = 250;
        let error = config.check().expect_err("sizes do not fit");
        let text = error.to_string();
        for part in ["1000", "num_heads 7", "block 99", "250"] {
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn padding_is_zero_after_normalisation() {
        let input = Sam::preprocess(&[255, 0, 0, 0, 0, 255], [1, 2], 4, &Device::flex());
        let values = input.into_data().try_to_vec::<f32>().expect("f32");
        assert_eq!(values[0], (255.0 - PIXEL_MEAN[0]) / PIXEL_STD[0]);
        assert_eq!(values[1], (0.0 - PIXEL_MEAN[0]) / PIXEL_STD[0]);
        assert_eq!(values[32 + 1], (255.0 - PIXEL_MEAN[2]) / PIXEL_STD[2]);
        assert!(values[2..16].iter().all(|&value| value == 0.0));
    }
}
