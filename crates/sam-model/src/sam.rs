//! The segmenter: image encoder, prompt encoder, mask decoder (arXiv 2304.02643; `segment_anything/modeling/sam.py`).
//!
//! Differs from the reference: one call takes any number of images and objects. Each object names its image; nothing is
//! repeated per image, and nothing is under `no_grad`, so the same calls serve training.
//!
//! Shapes: `B` images, `O` objects, `S` image size, `G` grid size, `C` embedding dimension, `M` masks.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{SamConfig, SamConfigError, SizeChecks};
use crate::decoder::{DecodedMasks, MaskDecoder, MaskDecoderConfig, MaskDecoderInputs, MaskOutput};
use crate::encoder::{ImageEncoder, TinyVit};
use crate::ops::objects_at_once;
use crate::preprocess::preprocess;
use crate::prompt::{PromptEncoder, Prompts};

/// A logit above this is on the mask (`sam.py::mask_threshold`).
pub const MASK_THRESHOLD: f32 = 0.0;

/// Values of the objects' maps that exist at once in training, 8 objects at 1024 px. What the objects of an image share is computed
/// for each group of objects: on 2 cores, groups of 1, 2, 4 and 8 take 16.3, 12.1, 10.6 and 9.5 s a step, and groups of 8 half a GiB more
/// than those of 4.
const TRAINING_VALUES_AT_ONCE: usize = 1 << 23;

/// Embeddings of images with the positions of their cells.
#[derive(Clone, Debug)]
pub struct EncodedImages {
    /// `[B, C, G, G]` from [`Sam::encode`].
    pub embeddings: Tensor<4>,
    /// `[1, G, G, C]` from [`Sam::image_positions`].
    pub positions: Tensor<4>,
}

/// The parameter with other values.
fn filled(param: Param<Tensor<1>>, values: Vec<f32>) -> Param<Tensor<1>> {
    let (id, device, shape) = (param.id, param.lazy_device(), param.lazy_shape());
    param.transform_for_load(Tensor::from_data(TensorData::new(values, shape), &device), id)
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
    pub(crate) config: SamConfig,
}

impl Sam {
    /// The model's sizes.
    pub fn config(&self) -> &SamConfig {
        &self.config
    }

    /// Size of the square input in pixels.
    pub fn image_size(&self) -> usize {
        self.config.image_encoder.image_size()
    }

    /// The device of the parameters.
    pub fn device(&self) -> Device {
        self.prompt_encoder.no_mask_embed.weight.lazy_device()
    }

    /// Normalises an image that already has its size in the model's input, and pads it at the right and bottom.
    ///
    /// # Shapes
    /// - `rgb`: `height * width * 3` bytes, row-major, neither dimension above `S`
    /// - returns `[1, 3, S, S]`
    pub fn preprocess(rgb: &[u8], size_hw: [usize; 2], image_size: usize, device: &Device) -> Tensor<4> {
        preprocess(rgb, size_hw, image_size, device)
    }

    /// Images to embeddings, once per image for any number of prompts.
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

    /// The means of CLIP's image and text vectors, from which text prompts are taken.
    ///
    /// # Panics
    /// When the model takes no texts, or they have another width.
    #[must_use]
    pub fn with_text_means(mut self, [image, text]: [Vec<f32>; 2]) -> Self {
        let prompt = self.prompt_encoder.text_prompt.as_mut().expect("a model that takes texts");
        prompt.image_mean = filled(prompt.image_mean.clone(), image);
        prompt.text_mean = filled(prompt.text_mean.clone(), text);
        self
    }

    /// The model with the prompt encoder and the mask decoder of another; its own text prompt stays where that one has none.
    ///
    /// # Errors
    ///
    /// When the sizes of the two differ in anything but the encoder.
    pub fn with_decoder_of(mut self, other: &Self) -> Result<Self, SamConfigError> {
        let mut checks = SizeChecks::default();
        let (own, others) = (&self.config, &other.config);
        let mut equal = |what: &str, own: usize, other: usize| {
            checks.require(own == other, || format!("{what} must be {other}, as that of the other model, got {own}"));
        };
        equal("image_size", own.image_encoder.image_size(), others.image_encoder.image_size());
        equal("the side of the embedding grid", own.image_encoder.grid_size(), others.image_encoder.grid_size());
        equal("out_chans", own.image_encoder.out_chans(), others.image_encoder.out_chans());
        equal("mask_in_chans", own.prompt_encoder.mask_in_chans, others.prompt_encoder.mask_in_chans);
        equal("decoder_depth", own.mask_decoder.depth, others.mask_decoder.depth);
        equal("decoder_heads", own.mask_decoder.num_heads, others.mask_decoder.num_heads);
        equal("decoder_mlp_dim", own.mask_decoder.mlp_dim, others.mask_decoder.mlp_dim);
        checks.finish()?;
        let own_text = self.prompt_encoder.text_prompt.take();
        self.prompt_encoder = other.prompt_encoder.clone();
        match &other.config.text {
            Some(text) => self.config.text = Some(text.clone()),
            None => self.prompt_encoder.text_prompt = own_text,
        }
        self.mask_decoder = other.mask_decoder.clone();
        self.config.mask_decoder =
            MaskDecoderConfig { dropout: self.config.mask_decoder.dropout, ..other.config.mask_decoder.clone() };
        Ok(self)
    }

    /// Takes over the statistics of the batches that were encoded since the last call, where batch norms have running ones.
    #[must_use]
    pub fn following_batches(mut self) -> Self {
        if let Some(tiny) = self.image_encoder.tiny_vit_mut() {
            tiny.follow_batches();
        }
        self
    }

    /// The model whose batch norms keep their statistics where they do not learn, and the number of those whose statistics
    /// follow the batches of a training.
    #[must_use]
    pub fn with_settled_batch_norms(mut self) -> (Self, usize) {
        let n_running = self.image_encoder.tiny_vit_mut().map_or(0, TinyVit::settle_batch_norms);
        (self, n_running)
    }

    /// The same network with the batch norms of its encoder, if it has some, moved into the convolutions before them, by the stored
    /// statistics: `c.weight` and `bn.bias` are then the kernel and the bias of a convolution that gives the same, and the rest of
    /// a norm does nothing.
    #[must_use]
    pub fn with_folded_norms(mut self) -> Self {
        if let Some(tiny) = self.image_encoder.tiny_vit_mut() {
            tiny.fold_batch_norms();
        }
        self
    }

    /// Objects to decode together in training: on the CPU so many that their maps take a bounded memory, elsewhere all.
    pub fn objects_at_once(&self) -> usize {
        let grid = self.config.image_encoder.grid_size();
        let values_per_object = grid * grid * self.config.mask_decoder.transformer_dim;
        objects_at_once(&self.prompt_encoder.no_mask_embed.weight.val(), values_per_object, TRAINING_VALUES_AT_ONCE)
    }

    /// Prompts to masks, for all objects of all images at once.
    ///
    /// # Shapes
    /// - `image_embeddings`: `[B, C, G, G]` from [`Sam::encode`]
    /// - `image_of_object`: `[O]`, indices into `B`
    /// - returns `[O, M, 4G, 4G]` logits and `[O, M]` predicted IoUs
    pub fn decode(
        &self,
        image_embeddings: Tensor<4>,
        image_of_object: &[usize],
        prompts: &Prompts,
        output: MaskOutput,
    ) -> DecodedMasks {
        let images = EncodedImages { embeddings: image_embeddings, positions: self.image_positions() };
        self.decode_at(images, image_of_object, prompts, output)
    }

    /// Positions of the embedding's cells; training does not change them.
    ///
    /// # Shapes
    /// - returns `[1, G, G, C]`
    pub fn image_positions(&self) -> Tensor<4> {
        self.prompt_encoder.dense_positions()
    }

    /// As [`Sam::decode`], for repeated calls: positions are computed once.
    ///
    /// # Shapes
    /// - `image_of_object`: `[O]`, indices into `B`
    /// - returns `[O, M, 4G, 4G]` logits and `[O, M]` predicted IoUs
    pub fn decode_at(
        &self,
        images: EncodedImages,
        image_of_object: &[usize],
        prompts: &Prompts,
        output: MaskOutput,
    ) -> DecodedMasks {
        let [n_images, ..] = images.embeddings.dims();
        assert_eq!(image_of_object.len(), prompts.objects, "each object names one image");
        assert!(image_of_object.iter().all(|&image| image < n_images), "there are {n_images} images");
        self.mask_decoder.forward(MaskDecoderInputs {
            embeddings_bhwc: images.embeddings.permute([0, 2, 3, 1]),
            positions_bhwc: images.positions,
            image_of_object,
            prompts: self.prompt_encoder.forward(prompts),
            output,
        })
    }
}
