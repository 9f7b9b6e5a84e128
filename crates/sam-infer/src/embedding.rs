//! The image embedding: the encoder's output for one image, computed once and reused for any number of prompts.
//!
//! The file is a safetensors with one tensor. Its metadata holds the image's sizes and two fingerprints: of the encoder
//! that computed the embedding and of the image. An embedding of another encoder or another image decodes to plausible
//! nonsense, so both are compared before use. One that was computed in another precision is only a little different.
//!
//! Shapes: `C` channels, `G` side length of the embedding in patches.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use burn::tensor::{Device, Tensor, TensorData};
use sam_files::{Fingerprint, write_atomically_with};
use sam_image::ModelFrame;
use sam_model::ImageEncoder;
use sam_model::weights::{Dtype, StateDict, WeightsError, host_values, named_tensors, write_f32_tensors};

use crate::precision::Precision;

const TENSOR: &str = "image_embedding";
/// Metadata key of the image's fingerprint; part of the file format.
const IMAGE_KEY: &str = "picture";
const PRECISION_KEY: &str = "precision";

/// The embedding of one image.
#[derive(Clone, Debug)]
pub struct ImageEmbedding {
    /// `[1, C, G, G]`.
    pub tensor: Tensor<4>,
    /// The image's sizes: original, resized, and the model's side length.
    pub frame: ModelFrame,
    /// [`sam_image::image_fingerprint`] of the image.
    pub image: u64,
    /// What it was computed in; `None` of a file that does not say it.
    pub precision: Option<Precision>,
    pub(crate) encoder: Arc<EncoderIdentity>,
}

/// The identity of the encoder that computed an embedding.
#[derive(Debug)]
pub(crate) enum EncoderIdentity {
    /// The weights themselves. Hashing reads every one of them on the host, so it happens only when an embedding is saved
    /// or meets another predictor than its own. Tensors are reference-counted: nothing is copied.
    Weights { encoder: Box<ImageEncoder>, fingerprint: OnceLock<u64> },
    /// The fingerprint that a file holds.
    File(u64),
}

impl EncoderIdentity {
    pub(crate) fn new(encoder: &ImageEncoder) -> Self {
        Self::Weights { encoder: Box::new(encoder.clone()), fingerprint: OnceLock::new() }
    }

    /// The hash of every tensor of the encoder.
    pub(crate) fn fingerprint(&self) -> u64 {
        match self {
            Self::Weights { encoder, fingerprint } => *fingerprint.get_or_init(|| {
                let mut hash = Fingerprint::new(0);
                for tensor in named_tensors(encoder.as_ref()) {
                    tensor.values().iter().for_each(|value| hash.add_word(u64::from(value.to_bits())));
                }
                hash.value()
            }),
            Self::File(fingerprint) => *fingerprint,
        }
    }

    /// Whether both are the same encoder.
    pub(crate) fn matches(self: &Arc<Self>, other: &Arc<Self>) -> bool {
        Arc::ptr_eq(self, other) || self.fingerprint() == other.fingerprint()
    }
}

/// Why an embedding file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddingError {
    /// Reading or writing failed.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A safetensors file with other content.
    #[error("{}: not an image embedding: {problem}", path.display())]
    NotAnEmbedding {
        /// The file.
        path: PathBuf,
        /// The part that is missing or invalid.
        problem: String,
    },
}

impl ImageEmbedding {
    /// Writes the embedding. An existing file at `path` is replaced atomically.
    pub fn save(&self, path: &Path) -> Result<(), EmbeddingError> {
        let shape = self.tensor.dims();
        let values = host_values(&self.tensor);
        let [height, width] = self.frame.original_hw;
        let mut metadata = HashMap::from([
            ("original_hw".to_owned(), format!("{height},{width}")),
            ("image_size".to_owned(), self.frame.side_px.to_string()),
            ("encoder".to_owned(), format!("{:016x}", self.encoder.fingerprint())),
            (IMAGE_KEY.to_owned(), format!("{:016x}", self.image)),
        ]);
        if let Some(precision) = self.precision {
            metadata.insert(PRECISION_KEY.to_owned(), precision.to_string());
        }
        let io = |source| WeightsError::Io { path: path.to_owned(), source };
        let tensors: [(&str, &[usize], &[f32]); 1] = [(TENSOR, &shape, &values)];
        write_atomically_with(path, io, |temporary| write_f32_tensors(temporary, &tensors, metadata).map_err(io))?;
        Ok(())
    }

    /// Reads a file that [`ImageEmbedding::save`] wrote.
    pub fn load(path: &Path, device: &Device) -> Result<Self, EmbeddingError> {
        let dict = StateDict::open(path)?;
        let invalid = |problem: &str| EmbeddingError::NotAnEmbedding { path: path.to_owned(), problem: problem.into() };
        let info = dict.tensors.get(TENSOR).ok_or_else(|| invalid("there is no tensor `image_embedding`"))?;
        let shape: [usize; 4] = info.shape.as_slice().try_into().map_err(|_| invalid("it must have four axes"))?;
        if info.dtype != Dtype::F32 || shape[0] != 1 {
            return Err(invalid("it must be F32 with a batch size of 1"));
        }
        let text = |key: &str| dict.metadata.get(key).map(String::as_str);
        let frame = text("original_hw").and_then(parse_pair).zip(text("image_size").and_then(|s| s.parse().ok()));
        let (original_hw, side_px): ([usize; 2], usize) =
            frame.ok_or_else(|| invalid("its metadata has no image sizes"))?;
        if original_hw.contains(&0) || side_px == 0 {
            return Err(invalid("its sizes must be at least 1 px"));
        }
        let fingerprint = |key: &str| text(key).and_then(|text| u64::from_str_radix(text, 16).ok());
        let (encoder, image) = fingerprint("encoder")
            .zip(fingerprint(IMAGE_KEY))
            .ok_or_else(|| invalid("its metadata has no fingerprints of encoder and image"))?;
        let values = dict.read_f32(TENSOR)?;
        let tensor = Tensor::from_data(TensorData::new(values, shape), device);
        let encoder = Arc::new(EncoderIdentity::File(encoder));
        let precision = text(PRECISION_KEY).and_then(|name| name.parse().ok());
        Ok(Self { tensor, frame: ModelFrame::new(original_hw, side_px), image, precision, encoder })
    }
}

fn parse_pair(text: &str) -> Option<[usize; 2]> {
    let (height, width) = text.split_once(',')?;
    Some([height.parse().ok()?, width.parse().ok()?])
}
