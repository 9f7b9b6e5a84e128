//! An image as the encoder sees it: computed once, kept, saved and given back.
//!
//! The file is a safetensors with one tensor and, as text, the image's sizes and two fingerprints: of the encoder that made
//! it and of the picture. An embedding of another encoder or another picture decodes to plausible nonsense, so both are
//! compared before use.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use sam_files::{Fingerprint, write_atomically_with};
use sam_image::{ModelFrame, RgbImage};
use sam_model::weights::{Dtype, StateDict, WeightsError, host_values, write_f32_tensors};

const TENSOR: &str = "image_embedding";

/// The embedding of one image.
#[derive(Clone, Debug)]
pub struct ImageEmbedding {
    /// `[1, C, G, G]`.
    pub tensor: Tensor<4>,
    /// The image's sizes: original, resized, and the model's side.
    pub frame: ModelFrame,
    /// Fingerprint of the encoder that computed it.
    pub encoder: u64,
    /// [`picture_fingerprint`] of the image.
    pub picture: u64,
}

/// Tells pictures apart by their size and pixels.
pub fn picture_fingerprint(image: &RgbImage) -> u64 {
    let mut hash = Fingerprint::new(0);
    hash.add_word(u64::from(image.width()));
    hash.add_word(u64::from(image.height()));
    hash.add_bytes(image.as_raw());
    hash.value()
}

/// An embedding file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddingError {
    /// Reading or writing failed.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A safetensors file, but of something else.
    #[error("{}: not an image embedding: {problem}", path.display())]
    NotAnEmbedding {
        /// The file.
        path: PathBuf,
        /// What is missing or odd.
        problem: String,
    },
}

impl ImageEmbedding {
    /// Writes the embedding; what stands at `path` is replaced at once or not at all.
    pub fn save(&self, path: &Path) -> Result<(), EmbeddingError> {
        let shape = self.tensor.dims();
        let values = host_values(&self.tensor);
        let pair = |size: [usize; 2]| format!("{},{}", size[0], size[1]);
        let metadata = HashMap::from([
            ("original_hw".to_owned(), pair(self.frame.original_hw)),
            ("image_size".to_owned(), self.frame.side_px.to_string()),
            ("encoder".to_owned(), format!("{:016x}", self.encoder)),
            ("picture".to_owned(), format!("{:016x}", self.picture)),
        ]);
        let io = |source| WeightsError::Io { path: path.to_owned(), source };
        let tensors: [(&str, &[usize], &[f32]); 1] = [(TENSOR, &shape, &values)];
        write_atomically_with(path, io, |temporary| write_f32_tensors(temporary, &tensors, metadata).map_err(io))?;
        Ok(())
    }

    /// Reads what [`ImageEmbedding::save`] wrote.
    pub fn load(path: &Path, device: &Device) -> Result<Self, EmbeddingError> {
        let dict = StateDict::open(path)?;
        let odd = |problem: &str| EmbeddingError::NotAnEmbedding { path: path.to_owned(), problem: problem.into() };
        let info = dict.tensors.get(TENSOR).ok_or_else(|| odd("there is no tensor `image_embedding`"))?;
        let shape: [usize; 4] = info.shape.as_slice().try_into().map_err(|_| odd("it must have four axes"))?;
        if info.dtype != Dtype::F32 || shape[0] != 1 {
            return Err(odd("it must be F32 of one image"));
        }
        let text = |key: &str| dict.metadata.get(key).map(String::as_str);
        let frame = text("original_hw").and_then(parse_pair).zip(text("image_size").and_then(|s| s.parse().ok()));
        let (original_hw, side_px): ([usize; 2], usize) = frame.ok_or_else(|| odd("its metadata names no sizes"))?;
        if original_hw.contains(&0) || side_px == 0 {
            return Err(odd("its sizes must be at least 1 px"));
        }
        let fingerprint = |key: &str| text(key).and_then(|text| u64::from_str_radix(text, 16).ok());
        let (encoder, picture) = fingerprint("encoder")
            .zip(fingerprint("picture"))
            .ok_or_else(|| odd("its metadata names no encoder and no picture"))?;
        let values = dict.read_f32(TENSOR)?;
        let tensor = Tensor::from_data(TensorData::new(values, shape), device);
        Ok(Self { tensor, frame: ModelFrame::new(original_hw, side_px), encoder, picture })
    }
}

fn parse_pair(text: &str) -> Option<[usize; 2]> {
    let (height, width) = text.split_once(',')?;
    Some([height.parse().ok()?, width.parse().ok()?])
}
