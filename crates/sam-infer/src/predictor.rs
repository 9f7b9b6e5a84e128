//! Images in, prompts in, masks out (`segment_anything/predictor.py`), in pixels of the original image.
//!
//! Differs from the reference: nothing is remembered between calls. [`Predictor::embed`] gives an embedding to keep;
//! [`Predictor::predict_many`] answers prompts on any number of embeddings in one pass of the decoder.
//!
//! Shapes: `M` masks of an object, `L` side of the decoder's masks, `H W` original image.

use std::path::Path;
use std::sync::OnceLock;

use burn::module::Module;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use sam_files::Fingerprint;
use sam_image::{Mask, ModelFrame, RgbImage, resize_longest_side};
use sam_model::weights::{Checkpoint, LoadReport, WeightsError, host_values, named_tensors};
use sam_model::{EncodedImages, MASK_THRESHOLD, MaskOutput, ObjectPrompt, Prompts, Sam, SamConfig};

use crate::embedding::{ImageEmbedding, picture_fingerprint};
use crate::prompt::{Prompt, PromptError};

/// Objects that are decoded together. On the processor the decoder goes through them in smaller parts; elsewhere each holds a
/// copy of its image's embedding (4 MiB per layer).
const OBJECTS_PER_PASS: usize = 64;

/// A segmenter ready to answer prompts.
#[derive(Clone, Debug)]
pub struct Predictor {
    sam: Sam,
    /// See [`Sam::image_positions`].
    image_positions: Tensor<4>,
    device: Device,
    encoder: OnceLock<u64>,
}

impl Predictor {
    /// Wraps a model where it is; training behaviour, if any, is switched off.
    pub fn new(sam: &Sam) -> Self {
        let sam = sam.valid();
        let device = sam.device();
        Self { image_positions: sam.image_positions(), sam, device, encoder: OnceLock::new() }
    }

    /// Loads a checkpoint of any layout that is read here.
    pub fn from_checkpoint(path: &Path, device: &Device) -> Result<(Self, LoadReport), WeightsError> {
        let checkpoint = Checkpoint::open(path)?;
        let (sam, report) = checkpoint.load(device)?;
        Ok((Self::new(&sam), report))
    }

    /// Sizes of the model.
    pub fn config(&self) -> &SamConfig {
        self.sam.config()
    }

    /// Runs the image encoder on one image.
    pub fn embed(&self, image: &RgbImage) -> ImageEmbedding {
        self.embed_many(&[image]).remove(0)
    }

    /// Runs the image encoder on several images at once: worth it on a GPU; on a CPU it takes the time of one after the
    /// other and the memory of all.
    pub fn embed_many(&self, images: &[&RgbImage]) -> Vec<ImageEmbedding> {
        let side = self.sam.image_size();
        let (inputs, pictures): (Vec<Tensor<4>>, Vec<(ModelFrame, u64)>) = images
            .iter()
            .map(|image| {
                let (resized, frame) = resize_longest_side(image, side);
                let input = Sam::preprocess(resized.as_raw(), frame.resized_hw, side, &self.device);
                (input, (frame, picture_fingerprint(image)))
            })
            .unzip();
        if inputs.is_empty() {
            return Vec::new();
        }
        let embedded = self.sam.encode(Tensor::cat(inputs, 0));
        let embed = |(index, (frame, picture))| ImageEmbedding {
            tensor: embedded.clone().narrow(0, index, 1),
            frame,
            encoder: self.encoder_fingerprint(),
            picture,
        };
        pictures.into_iter().enumerate().map(embed).collect()
    }

    /// Whether this predictor's encoder made the embedding.
    pub fn made(&self, embedding: &ImageEmbedding) -> bool {
        let (config, grid) = (self.config(), self.config().image_encoder.grid_size());
        embedding.encoder == self.encoder_fingerprint()
            && embedding.frame.side_px == config.image_encoder.image_size
            && embedding.tensor.dims() == [1, config.image_encoder.out_chans, grid, grid]
    }

    /// Of every tensor of the encoder; computed once, in a fraction of the time that one image takes.
    fn encoder_fingerprint(&self) -> u64 {
        *self.encoder.get_or_init(|| {
            let mut hash = Fingerprint::new(0);
            for tensor in named_tensors(&self.sam.image_encoder) {
                tensor.values().iter().for_each(|value| hash.add_word(u64::from(value.to_bits())));
            }
            hash.value()
        })
    }

    /// Answers one prompt.
    pub fn predict(
        &self,
        embedding: &ImageEmbedding,
        prompt: &Prompt,
        output: MaskOutput,
    ) -> Result<Prediction, PromptError> {
        let mut predictions = self.predict_many(&[embedding], &[(0, prompt)], output)?;
        Ok(predictions.remove(0))
    }

    /// Answers prompts on several images; each names its embedding by its place in `embeddings`.
    ///
    /// # Panics
    /// When a prompt names an embedding that is not there, or one that another encoder made.
    pub fn predict_many(
        &self,
        embeddings: &[&ImageEmbedding],
        prompts: &[(usize, &Prompt)],
        output: MaskOutput,
    ) -> Result<Vec<Prediction>, PromptError> {
        for embedding in embeddings {
            assert!(self.made(embedding), "an embedding must come from the predictor that decodes it");
        }
        let side = self.config().low_res_side();
        let objects: Vec<(usize, ObjectPrompt)> = prompts
            .iter()
            .map(|&(image, prompt)| Ok((image, prompt.to_model(&embeddings[image].frame, side)?)))
            .collect::<Result<_, PromptError>>()?;
        if objects.is_empty() {
            return Ok(Vec::new());
        }
        let images = Tensor::cat(embeddings.iter().map(|embedding| embedding.tensor.clone()).collect(), 0);
        let mut predictions = Vec::with_capacity(objects.len());
        for chunk in objects.chunks(OBJECTS_PER_PASS) {
            let (index, objects): (Vec<usize>, Vec<ObjectPrompt>) = chunk.iter().cloned().unzip();
            let decoded = self.decode(&images, &index, &objects, output);
            let qualities = host_values(&decoded.iou_predictions);
            let masks = decoded.low_res_logits.dims()[1];
            for (object, &image) in index.iter().enumerate() {
                predictions.push(Prediction {
                    low_res_logits: decoded.low_res_logits.clone().narrow(0, object, 1).squeeze_dim(0),
                    iou_predictions: qualities[object * masks..][..masks].to_vec(),
                    frame: embeddings[image].frame,
                });
            }
        }
        Ok(predictions)
    }

    fn decode(
        &self,
        images: &Tensor<4>,
        index: &[usize],
        objects: &[ObjectPrompt],
        output: MaskOutput,
    ) -> sam_model::DecodedMasks {
        let prompts = Prompts::from_objects(objects, self.config().low_res_side(), &self.device);
        let images = EncodedImages { embeddings: images.clone(), positions: self.image_positions.clone() };
        self.sam.decode_at(images, index, &prompts, output)
    }
}

/// The masks of one object.
#[derive(Clone, Debug)]
pub struct Prediction {
    /// `[M, L, L]`, in the model's frame, padding included; what a next call takes as mask prompt.
    pub low_res_logits: Tensor<3>,
    /// The model's own estimate of each mask's IoU; not bounded.
    pub iou_predictions: Vec<f32>,
    /// Of the image.
    pub frame: ModelFrame,
}

impl Prediction {
    /// Logits of one mask at the decoder's size, row-major: what [`Prompt::mask_logits`] takes.
    ///
    /// # Panics
    /// When there is no such mask.
    pub fn mask_logits(&self, index: usize) -> Vec<f32> {
        host_values(&self.low_res_logits.clone().narrow(0, index, 1))
    }

    /// Logits in pixels of the original image, before the threshold (`Sam.postprocess_masks`).
    ///
    /// # Shapes
    /// - returns `[M, H, W]`
    pub fn full_size_logits(&self) -> Tensor<3> {
        let [height, width] = self.frame.resized_hw;
        let side = self.frame.side_px;
        let in_frame = resize_bilinear(self.low_res_logits.clone().unsqueeze_dim(0), [side, side]);
        let in_image = in_frame.narrow(2, 0, height).narrow(3, 0, width);
        resize_bilinear(in_image, self.frame.original_hw).squeeze_dim(0)
    }

    /// Masks in pixels of the original image.
    pub fn masks(&self) -> Vec<Mask> {
        let logits = self.full_size_logits();
        let [_, height, width] = logits.dims();
        host_values(&logits)
            .chunks_exact(height * width)
            .map(|mask| {
                Mask::from_logits([height, width], mask, MASK_THRESHOLD).expect("a chunk has height x width logits")
            })
            .collect()
    }

    /// The mask that the model believes in most.
    pub fn best(&self) -> usize {
        most_confident(&self.iou_predictions)
    }
}

/// Place of the highest score, the first of equals, as numpy's `argmax`; 0 when there is none.
pub fn most_confident(scores: &[f32]) -> usize {
    (1..scores.len()).fold(0, |best, at| if scores[at] > scores[best] { at } else { best })
}

fn resize_bilinear(x: Tensor<4>, size_hw: [usize; 2]) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    if [height, width] == size_hw {
        return x;
    }
    let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(false);
    interpolate(x, options.with_output_size(size_hw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_equal_scores_wins() {
        assert_eq!(most_confident(&[0.5, 0.9, 0.9]), 1);
        assert_eq!(most_confident(&[-1.0, -2.0]), 0);
        assert_eq!(most_confident(&[]), 0);
    }
}
