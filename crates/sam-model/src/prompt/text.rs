//! Text prompts through CLIP (arXiv 2304.02643 §D.5): a vector of CLIP becomes one sparse token.
//!
//! In training the vector is CLIP's of an image crop, at inference its of a text: the two modalities share a space. The
//! paper does not give the map from CLIP's width to the prompt's; here it is a linear layer, whose bias is the type of the
//! token, as `point_embeddings` are of points. A text has no position.
//!
//! CLIP's vectors of images and of texts lie in two separate cones (arXiv 2203.02053). Where the means of both are known,
//! each vector is taken relative to the mean of its modality.
//!
//! Shapes: `O` objects, `W` width of CLIP's vectors, `C` embedding dimension.

use std::ops::Range;
use std::sync::Arc;

use burn::module::{Initializer, Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor, TensorData};
use serde::{Deserialize, Serialize};

use crate::ops::linear::{linear, linear_layer};

/// Keeps the vector of an object without text finite.
const NORM_EPS: f64 = 1e-12;

/// The text prompt of a segmenter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextPromptConfig {
    /// Width of CLIP's vectors.
    pub width: usize,
    /// Fingerprint of the CLIP whose vectors it takes, in hexadecimal digits.
    pub clip: String,
}

impl TextPromptConfig {
    /// Parameters at zero, to be filled by a checkpoint or by [`crate::init`].
    pub(super) fn init(&self, embed_dim: usize, device: &Device) -> TextPrompt {
        let mean = || Initializer::Zeros.init([self.width], device).set_require_grad(false);
        TextPrompt { projection: linear_layer(self.width, embed_dim, device), image_mean: mean(), text_mean: mean() }
    }
}

/// The tower of CLIP that a vector comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Modality {
    /// The image tower.
    Image,
    /// The text tower.
    Text,
}

/// A vector of CLIP as a prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct TextVector {
    /// `[W]`, of unit length.
    pub values: Arc<[f32]>,
    /// Where it comes from.
    pub modality: Modality,
}

/// The text prompts of all objects of a call.
#[derive(Clone, Debug)]
pub struct TextPrompts {
    /// `[O, W]`, of unit length; zeros for an object without text.
    pub vectors: Tensor<2>,
    /// `[O]`, the modality of each vector; `None` for an object without text.
    pub modalities: Vec<Option<Modality>>,
}

impl TextPrompts {
    /// The vectors of all objects; `None` when no object has one.
    ///
    /// # Shapes
    /// - returns `vectors`: `[O, W]`
    ///
    /// # Panics
    /// When vectors have different widths.
    pub fn from_vectors(vectors: &[Option<TextVector>], device: &Device) -> Option<Self> {
        let width = vectors.iter().flatten().next()?.values.len();
        let mut values = vec![0f32; vectors.len() * width];
        for (row, vector) in values.chunks_exact_mut(width).zip(vectors) {
            if let Some(vector) = vector {
                row.copy_from_slice(&vector.values);
            }
        }
        let modalities = vectors.iter().map(|vector| vector.as_ref().map(|vector| vector.modality)).collect();
        Some(Self { vectors: Tensor::from_data(TensorData::new(values, [vectors.len(), width]), device), modalities })
    }

    /// Those of a range of objects; `None` when none of them has one.
    pub(super) fn part(&self, objects: Range<usize>) -> Option<Self> {
        let modalities = self.modalities[objects.clone()].to_vec();
        let has_any = modalities.iter().any(Option::is_some);
        has_any.then(|| Self { vectors: self.vectors.clone().slice_dim(0, objects), modalities })
    }

    /// Whether each object has no text, `[O]`.
    pub(super) fn absent(&self) -> impl Iterator<Item = bool> {
        self.modalities.iter().map(Option::is_none)
    }
}

/// A vector of CLIP to a sparse token.
#[derive(Module, Debug)]
pub struct TextPrompt {
    /// `[W] -> [C]`.
    pub projection: Linear,
    /// `[W]`, mean of image vectors, zeros where the gap between the modalities is left; never trained by gradients.
    pub image_mean: Param<Tensor<1>>,
    /// `[W]`, mean of text vectors, likewise.
    pub text_mean: Param<Tensor<1>>,
}

impl TextPrompt {
    /// # Shapes
    /// - returns `[O, 1, C]`
    pub fn forward(&self, prompts: &TextPrompts) -> Tensor<3> {
        let TextPrompts { vectors, modalities } = prompts;
        let ([objects, width], device) = (vectors.dims(), vectors.device());
        let is_text = |modality: &Option<Modality>| f32::from(u8::from(*modality == Some(Modality::Text)));
        let is_text: Vec<f32> = modalities.iter().map(is_text).collect();
        let is_text = Tensor::<2>::from_data(TensorData::new(is_text, [objects, 1]), &device);
        let [image, text] = [&self.image_mean, &self.text_mean].map(|mean| mean.val().reshape([1, width]));
        let means = is_text.matmul(text - image.clone()) + image; // [O, W]
        let centred = vectors.clone() - means;
        let length = (centred.clone().powi_scalar(2).sum_dim(1) + NORM_EPS).sqrt();
        linear(&self.projection, centred / length).unsqueeze_dim(1)
    }

    /// Whether vectors are taken relative to the mean of their modality.
    pub fn is_centred(&self) -> bool {
        let is_zero = |mean: &Param<Tensor<1>>| crate::weights::host_values(&mean.val()).iter().all(|&v| v == 0.0);
        !(is_zero(&self.image_mean) && is_zero(&self.text_mean))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn floats<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().iter::<f32>().collect()
    }

    /// Two values; the projection copies the vector, and adds 10 as the type.
    #[test]
    fn a_vector_is_taken_relative_to_the_mean_of_its_modality() {
        let device = Device::flex();
        let mut prompt = TextPromptConfig { width: 2, clip: String::new() }.init(2, &device);
        prompt.projection.weight = Param::from_tensor(Tensor::from_data([[1.0, 0.0], [0.0, 1.0]], &device));
        prompt.projection.bias = Some(Param::from_tensor(Tensor::from_data([10.0, 10.0], &device)));
        let vector = |modality| Some(TextVector { values: Arc::from([0.6, 0.8]), modality });
        let vectors = [vector(Modality::Image), None, vector(Modality::Text)];
        let prompts = TextPrompts::from_vectors(&vectors, &device).expect("two have text");
        assert_eq!(prompts.absent().collect::<Vec<_>>(), [false, true, false]);
        let near = |got: Vec<f32>, expected: &[f32]| {
            assert!(
                got.len() == expected.len() && got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5),
                "{got:?}"
            );
        };
        near(floats(prompt.forward(&prompts)), &[10.6, 10.8, 10.0, 10.0, 10.6, 10.8]);
        assert!(!prompt.is_centred());
        prompt.image_mean = Param::from_tensor(Tensor::from_data([0.6, 0.0], &device));
        prompt.text_mean = Param::from_tensor(Tensor::from_data([0.0, 0.8], &device));
        assert!(prompt.is_centred());
        let got = floats(prompt.forward(&prompts));
        near([&got[..2], &got[4..]].concat(), &[10.0, 11.0, 11.0, 10.0]);
        assert!(got.iter().all(|value| value.is_finite()), "{got:?}");
        assert!(prompts.part(1..2).is_none() && prompts.part(1..3).is_some());
    }
}
