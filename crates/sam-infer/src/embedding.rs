//! An image as the encoder sees it: computed once, kept, saved and given back.
//!
//! The file is a safetensors with one tensor and, as text, the image's sizes and a fingerprint of the encoder that made
//! it: an embedding of another encoder decodes to plausible nonsense, so it is refused.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use sam_image::ModelFrame;
use sam_model::weights::{Dtype, StateDict, WeightsError, write_atomically};

const TENSOR: &str = "image_embedding";

/// The embedding of one image.
#[derive(Clone, Debug)]
pub struct ImageEmbedding {
    /// `[1, C, G, G]`.
    pub tensor: Tensor<4>,
    /// The image's sizes: original, resized, and the model's side.
    pub frame: ModelFrame,
    /// Of the encoder that computed it.
    pub fingerprint: u64,
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
        let values = self.tensor.to_data().try_to_vec::<f32>().unwrap_or_default();
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let pair = |size: [usize; 2]| format!("{},{}", size[0], size[1]);
        let metadata = HashMap::from([
            ("sam_train.kind".to_owned(), TENSOR.to_owned()),
            ("original_hw".to_owned(), pair(self.frame.original_hw)),
            ("image_size".to_owned(), self.frame.side_px.to_string()),
            ("encoder".to_owned(), format!("{:016x}", self.fingerprint)),
        ]);
        write_atomically(path, |temporary| {
            let unsupported = |error: safetensors::SafeTensorError| WeightsError::Io {
                path: path.to_owned(),
                source: std::io::Error::other(error),
            };
            let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, shape.to_vec(), &bytes)
                .map_err(unsupported)?;
            safetensors::serialize_to_file([(TENSOR, view)], Some(metadata), temporary).map_err(unsupported)
        })?;
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
        let fingerprint = text("encoder").and_then(|text| u64::from_str_radix(text, 16).ok());
        let fingerprint = fingerprint.ok_or_else(|| odd("its metadata names no encoder"))?;
        let values = dict.read_f32(TENSOR)?;
        let tensor = Tensor::from_data(TensorData::new(values, shape), device);
        Ok(Self { tensor, frame: ModelFrame::new(original_hw, side_px), fingerprint })
    }
}

fn parse_pair(text: &str) -> Option<[usize; 2]> {
    let (height, width) = text.split_once(',')?;
    Some([height.parse().ok()?, width.parse().ok()?])
}
