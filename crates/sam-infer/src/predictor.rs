//! The predictor (`segment_anything/predictor.py`): images and prompts to masks, in pixels of the original image.
//!
//! Differs from the reference: no state between calls. [`Predictor::embed`] returns an embedding that the caller keeps;
//! [`Predictor::predict_many`] decodes prompts on any number of embeddings in one pass of the decoder.
//!
//! Shapes: `M` masks of an object, `L` side length of the decoder's masks, `H W` original image.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::module::interpolate;
use burn::tensor::ops::{InterpolateMode, InterpolateOptions};
use burn::tensor::{Device, Tensor};
use sam_image::{Mask, ModelFrame, RgbImage, image_fingerprint, resize_longest_side};
use sam_model::lora::AdapterFile;
use sam_model::weights::{Checkpoint, LoadReport, WeightsError, fingerprint, host_values};
use sam_model::{EncodedImages, MASK_THRESHOLD, MaskOutput, ObjectPrompt, Prompts, Sam, SamConfig};

use crate::cache::{CacheDtype, CacheError, EmbeddingCache, EntryKey};
use crate::clip::ClipTexts;
use crate::embedding::{EncoderIdentity, ImageEmbedding};
use crate::precision::Precision;
use crate::prompt::{Prompt, PromptError};

/// Objects per decoder call. The CPU decoder works through them in smaller chunks; on other devices each object holds a
/// copy of its image's embedding (4 MiB per layer).
const OBJECTS_PER_PASS: usize = 64;

/// A promptable segmenter in evaluation mode.
#[derive(Clone, Debug)]
pub struct Predictor {
    sam: Sam,
    /// See [`Sam::image_positions`].
    image_positions: Tensor<4>,
    device: Device,
    encoder: Arc<EncoderIdentity>,
}

impl Predictor {
    /// Wraps a model on its device, without gradients.
    pub fn new(sam: &Sam) -> Self {
        // Adapters are merged: no difference but in speed.
        let sam = sam.valid().materialize();
        let encoder = Arc::new(EncoderIdentity::new(&sam.image_encoder));
        Self { image_positions: sam.image_positions(), device: sam.device(), encoder, sam }
    }

    /// Loads a checkpoint in any supported layout.
    pub fn from_checkpoint(path: &Path, device: &Device) -> Result<(Self, LoadReport), WeightsError> {
        let (sam, report) = Checkpoint::open(path)?.load(device)?;
        Ok((Self::new(&sam), report))
    }

    /// Loads a checkpoint, with low-rank adapters merged into it: see [`AdapterFile::open`].
    pub fn from_adapted(
        path: &Path,
        adapter: Option<&Path>,
        device: &Device,
    ) -> Result<(Self, LoadReport), WeightsError> {
        let Some(adapter) = adapter else { return Self::from_checkpoint(path, device) };
        let adapters = AdapterFile::open(adapter)?;
        let (sam, report) = Checkpoint::open(path)?.load(device)?;
        Ok((Self::new(&adapters.merge_into(sam)?), report))
    }

    /// The model's sizes.
    pub fn config(&self) -> &SamConfig {
        self.sam.config()
    }

    /// Checks that a CLIP is the one whose vectors the model takes as texts.
    ///
    /// # Errors
    ///
    /// When the model takes no texts, or those of another CLIP.
    pub fn check_clip(&self, clip: &ClipTexts) -> Result<(), PromptError> {
        let text = self.config().text.as_ref().ok_or(PromptError::TakesNoText)?;
        let (got, got_width) = (format!("{:016x}", clip.fingerprint()), clip.width());
        if text.clip == got && text.width == got_width {
            return Ok(());
        }
        Err(PromptError::OtherClip { expected: text.clip.clone(), expected_width: text.width, got, got_width })
    }

    /// A hash of every weight: equal for the same weights in any layout of a file. Reads all of them on the host.
    pub fn weights_fingerprint(&self) -> u64 {
        fingerprint(&self.sam)
    }

    /// Runs the image encoder on one image.
    pub fn embed(&self, image: &RgbImage) -> ImageEmbedding {
        self.embed_many(&[image]).remove(0)
    }

    /// Runs the image encoder on a batch of images. This pays on a GPU; on the CPU it takes as long as one image after the
    /// other, with the memory of all.
    pub fn embed_many(&self, images: &[&RgbImage]) -> Vec<ImageEmbedding> {
        let side = self.sam.image_size();
        let (inputs, sources): (Vec<Tensor<4>>, Vec<(ModelFrame, u64)>) = images
            .iter()
            .map(|image| {
                let (resized, frame) = resize_longest_side(image, side);
                let input = Sam::preprocess(resized.as_raw(), frame.resized_hw, side, &self.device);
                (input, (frame, image_fingerprint(image)))
            })
            .unzip();
        if inputs.is_empty() {
            return Vec::new();
        }
        let embedded = self.sam.encode(Tensor::cat(inputs, 0));
        let embed = |(index, (frame, image))| ImageEmbedding {
            tensor: embedded.clone().narrow(0, index, 1),
            frame,
            image,
            precision: Some(Precision::in_use()),
            encoder: Arc::clone(&self.encoder),
        };
        sources.into_iter().enumerate().map(embed).collect()
    }

    /// Opens the embeddings of this encoder in a folder of cached ones, which is made when it is missing.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn open_cache(&self, root: &Path, dtype: CacheDtype) -> Result<EmbeddingCache, CacheError> {
        EmbeddingCache::open(root, &self.sam.image_encoder, &self.config().image_encoder, dtype)
    }

    /// Whether a cache holds embeddings of this predictor's encoder.
    pub fn is_own_cache(&self, cache: &EmbeddingCache) -> bool {
        cache.is_of(&self.encoder)
    }

    /// As [`Predictor::embed`], from a cache of this encoder; what is missing there is computed and added. The embedding is
    /// rounded to the type of the cache either way.
    ///
    /// # Errors
    ///
    /// When the embedding cannot be written.
    pub fn embed_with(&self, cache: &EmbeddingCache, image: &RgbImage) -> Result<ImageEmbedding, CacheError> {
        let fingerprint = image_fingerprint(image);
        let key = EntryKey::plain(fingerprint);
        let tensor = match cache.load(key, &self.device) {
            Some(tensor) => tensor,
            None => cache.store(key, &self.embed(image).tensor)?,
        };
        let size_hw = [image.height() as usize, image.width() as usize];
        let frame = ModelFrame::new(size_hw, self.sam.image_size());
        let (precision, encoder) = (Some(Precision::in_use()), Arc::clone(&self.encoder));
        Ok(ImageEmbedding { tensor, frame, image: fingerprint, precision, encoder })
    }

    /// Whether the embedding comes from this predictor's encoder.
    pub fn is_own_embedding(&self, embedding: &ImageEmbedding) -> bool {
        let (config, grid) = (self.config(), self.config().image_encoder.grid_size());
        embedding.encoder.matches(&self.encoder)
            && embedding.frame.side_px == config.image_encoder.image_size()
            && embedding.tensor.dims() == [1, config.image_encoder.out_chans(), grid, grid]
    }

    /// Decodes one prompt.
    pub fn predict(
        &self,
        embedding: &ImageEmbedding,
        prompt: &Prompt,
        output: MaskOutput,
    ) -> Result<Prediction, PromptError> {
        let mut predictions = self.predict_many(&[embedding], &[(0, prompt)], output)?;
        Ok(predictions.remove(0))
    }

    /// Decodes prompts on several images; each prompt comes with the index of its embedding.
    ///
    /// # Panics
    /// When an index is out of range, or an embedding comes from another encoder.
    pub fn predict_many(
        &self,
        embeddings: &[&ImageEmbedding],
        prompts: &[(usize, &Prompt)],
        output: MaskOutput,
    ) -> Result<Vec<Prediction>, PromptError> {
        for embedding in embeddings {
            assert!(self.is_own_embedding(embedding), "an embedding must come from the encoder of this predictor");
        }
        let objects: Vec<(usize, ObjectPrompt)> = prompts
            .iter()
            .map(|&(image, prompt)| Ok((image, prompt.to_model(&embeddings[image].frame, self.config())?)))
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
    /// `[M, L, L]`, in the model's frame, padding included.
    pub low_res_logits: Tensor<3>,
    /// The predicted IoU of each mask; unbounded.
    pub iou_predictions: Vec<f32>,
    /// The image's sizes.
    pub frame: ModelFrame,
}

impl Prediction {
    /// Logits of one mask at the decoder's resolution, row-major, for [`Prompt::mask_logits`] of a later call.
    ///
    /// # Panics
    /// When the index is out of range.
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

    /// The mask with the highest predicted IoU alone.
    #[must_use]
    pub fn most_confident(self) -> Self {
        let best = self.best();
        let low_res_logits = self.low_res_logits.narrow(0, best, 1);
        Self { low_res_logits, iou_predictions: vec![self.iou_predictions[best]], frame: self.frame }
    }

    /// Index of the mask with the highest predicted IoU.
    pub fn best(&self) -> usize {
        most_confident(&self.iou_predictions)
    }
}

/// Index of the highest score, the first of equals, as numpy's `argmax`; 0 when there is none.
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
    use sam_model::init::initialise;

    use super::*;

    /// A tiny model with random weights.
    fn tiny(seed: u64) -> Predictor {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tiny_sam.safetensors");
        let (sam, _) = Checkpoint::open(&fixture).and_then(|file| file.load(&Device::flex())).expect("a fixture");
        Predictor::new(&initialise(sam, seed))
    }

    #[test]
    fn prediction_computes_no_fingerprint_and_other_encoders_are_recognised() {
        let image = RgbImage::new(9, 7);
        let (predictor, other) = (tiny(1), tiny(2));
        let embedding = predictor.embed(&image);
        let prompt = Prompt { points_xy_px: vec![([3.0, 3.0], true)], ..Prompt::default() };
        predictor.predict(&embedding, &prompt, MaskOutput::Single).expect("a valid prompt");
        let is_hashed = || matches!(&*predictor.encoder, EncoderIdentity::Weights { fingerprint, .. } if fingerprint.get().is_some());
        assert!(!is_hashed(), "hashing reads every weight of the encoder on the host");
        // A second predictor of the same weights compares fingerprints, and so does one of other weights.
        assert!(tiny(1).is_own_embedding(&embedding) && is_hashed());
        assert!(!other.is_own_embedding(&embedding));
        let decode = std::panic::AssertUnwindSafe(|| other.predict(&embedding, &prompt, MaskOutput::Single));
        assert!(std::panic::catch_unwind(decode).is_err());
    }

    #[test]
    fn the_first_of_equal_scores_wins() {
        assert_eq!(most_confident(&[0.5, 0.9, 0.9]), 1);
        assert_eq!(most_confident(&[-1.0, -2.0]), 0);
        assert_eq!(most_confident(&[]), 0);
    }
}
