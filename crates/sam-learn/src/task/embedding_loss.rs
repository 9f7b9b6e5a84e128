//! The loss of image embeddings against those of a teacher: the mean squared error over the cells that show the image, and a
//! step that learns nothing else.
//!
//! The padding beside an image is no part of the loss (EdgeSAM): what the teacher makes of it does not matter to a mask.
//!
//! Shapes: `B` images, `C` embedding dimension, `G` side of the embedding grid.

use std::ops::Range;

use burn::module::Module;
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Tensor;
use sam_model::Sam;

use super::shards::{ShardPools, shard_ranges, shard_seed};
use super::step::EncoderRun;
use crate::optim::scaled;

/// The embeddings that a step learns, without autodiff.
#[derive(Clone, Debug)]
pub struct EmbeddingTarget {
    /// `[B, C, G, G]`.
    pub values: Tensor<4>,
    /// 1 where a cell shows the image and 0 elsewhere, `[B, 1, G, G]`; `None` when all do.
    pub valid: Option<Tensor<4>>,
    /// Weight of the loss.
    pub weight: f64,
}

impl EmbeddingTarget {
    /// The loss before its weight, `[1]`: the mean over images of the mean squared error over valid cells and channels. And
    /// the gradient of the weighted loss with respect to the embeddings, `[B, C, G, G]`.
    pub(super) fn loss_and_gradient(&self, embeddings: Tensor<4>) -> (Tensor<1>, Tensor<4>) {
        let [images, channels, ..] = embeddings.dims();
        let (difference, n_cells) = self.difference(embeddings);
        let scaled = difference.clone() / n_cells.mul_scalar((channels * images) as f64);
        ((scaled.clone() * difference).sum(), scaled.mul_scalar(2.0 * self.weight))
    }

    /// The mean squared error of each image, `[B]`.
    pub(crate) fn errors(&self, embeddings: Tensor<4>) -> Tensor<1> {
        let [images, channels, ..] = embeddings.dims();
        let (difference, n_cells) = self.difference(embeddings);
        let sums = (difference.clone() * difference).sum_dim(1).sum_dim(2).sum_dim(3);
        (sums / n_cells.mul_scalar(channels as f64)).reshape([images])
    }

    /// The mean over valid cells of the cosine between the two vectors of a cell, for each image, `[B]`.
    pub(crate) fn cosines(&self, embeddings: Tensor<4>) -> Tensor<1> {
        let [images, ..] = embeddings.dims();
        let product = |a: &Tensor<4>, b: &Tensor<4>| (a.clone() * b.clone()).sum_dim(1); // [B, 1, G, G]
        let lengths = (product(&embeddings, &embeddings) * product(&self.values, &self.values)).sqrt();
        let cosines = product(&embeddings, &self.values) / lengths.clamp_min(f32::MIN_POSITIVE);
        let cosines = match &self.valid {
            Some(valid) => cosines * valid.clone(),
            None => cosines,
        };
        let n_cells = self.n_cells();
        (cosines.sum_dim(2).sum_dim(3) / n_cells).reshape([images])
    }

    /// Some of the images.
    pub(super) fn images(&self, images: Range<usize>) -> Self {
        let rows = |tensor: &Tensor<4>| tensor.clone().slice_dim(0, images.clone());
        Self { values: rows(&self.values), valid: self.valid.as_ref().map(rows), weight: self.weight }
    }

    /// The difference on valid cells, zero on others; and the number of valid cells, `[B, 1, 1, 1]`.
    fn difference(&self, embeddings: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        let difference = embeddings - self.values.clone();
        let difference = match &self.valid {
            Some(valid) => difference * valid.clone(),
            None => difference,
        };
        (difference, self.n_cells())
    }

    /// `[B, 1, 1, 1]`, at least 1.
    fn n_cells(&self) -> Tensor<4> {
        let [images, _, height, width] = self.values.dims();
        match &self.valid {
            Some(valid) => valid.clone().sum_dim(2).sum_dim(3).clamp_min(1.0),
            None => Tensor::full([images, 1, 1, 1], (height * width) as f64, &self.values.device()),
        }
    }
}

/// Gradients of a step that learns embeddings alone, with the images in shards that are computed side by side; and the mean
/// loss, `[1]`.
///
/// # Arguments
/// - `images`: normalised, `[B, 3, S, S]`, without autodiff
pub(super) fn embedding_gradients(
    sam: &Sam,
    images: &Tensor<4>,
    target: &EmbeddingTarget,
    run: EncoderRun,
    pools: &ShardPools,
) -> (GradientsParams, Tensor<1>) {
    let [n_images, ..] = images.dims();
    let device = sam.device();
    let shards = shard_ranges(n_images, pools.n());
    let is_sharded = shards.len() > 1;
    let work = shards.into_iter().zip(0..).map(|(shard, number)| {
        let run = EncoderRun { dropout_seed: shard_seed(run.dropout_seed, number), ..run };
        // Leaves of its own: backward passes over shared ones would wait for each other.
        let sam = if is_sharded { sam.clone().fork(&device) } else { sam.clone() };
        let images = images.clone().slice_dim(0, shard.clone());
        let target = target.images(shard.clone());
        move || {
            let (grads, loss) = run.gradients(&sam, images, |embeddings| {
                let (loss, gradient) = target.loss_and_gradient(embeddings);
                (GradientsAccumulator::new(), Some(gradient), loss)
            });
            (shard.len() as f64 / n_images as f64, grads, loss)
        }
    });
    let mut sums = GradientsAccumulator::new();
    let mut mean_loss = Tensor::zeros([1], &images.device());
    for (fraction, grads, loss) in pools.run(work.collect()) {
        sums.accumulate(sam, if is_sharded { scaled(sam, grads, fraction) } else { grads });
        mean_loss = mean_loss + loss.mul_scalar(fraction);
    }
    (sums.grads(), mean_loss)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    fn tensor<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
        tensor.into_data().try_to_vec::<f32>().expect("f32")
    }

    /// Two images of two channels and a grid of 1 x 2 cells, the second with one cell of padding.
    fn example() -> (EmbeddingTarget, Tensor<4>) {
        let target = EmbeddingTarget {
            values: tensor(vec![0.0, 1.0, 2.0, 3.0, 1.0, 5.0, 1.0, 5.0], [2, 2, 1, 2]),
            valid: Some(tensor(vec![1.0, 1.0, 1.0, 0.0], [2, 1, 1, 2])),
            weight: 3.0,
        };
        (target, tensor(vec![1.0, 1.0, 2.0, 1.0, 4.0, 0.0, 1.0, 0.0], [2, 2, 1, 2]))
    }

    #[test]
    fn padding_is_no_part_of_the_loss_and_each_image_counts_alike() {
        let (target, embeddings) = example();
        // Differences 1, 0, 0, -2 over 4 values, and 3, 0 over 2.
        assert_eq!(values(target.errors(embeddings.clone())), [5.0 / 4.0, 9.0 / 2.0]);
        let (loss, gradient) = target.loss_and_gradient(embeddings.clone());
        assert_eq!(values(loss), [(5.0 / 4.0 + 9.0 / 2.0) / 2.0]);
        // 2 * weight * difference / (values * images).
        assert_eq!(values(gradient), [0.75, 0.0, 0.0, -1.5, 4.5, 0.0, 0.0, 0.0]);
        let whole = EmbeddingTarget { valid: Some(tensor(vec![1.0; 4], [2, 1, 1, 2])), ..target.clone() };
        let same = EmbeddingTarget { valid: None, ..target };
        assert_eq!(values(whole.errors(embeddings.clone())), values(same.errors(embeddings)));
    }

    #[test]
    fn cosines_are_those_of_the_valid_cells() {
        let (target, embeddings) = example();
        let cosine = |a: [f32; 2], b: [f32; 2]| (a[0] * b[0] + a[1] * b[1]) / (a[0].hypot(a[1]) * b[0].hypot(b[1]));
        let first = (cosine([1.0, 2.0], [0.0, 2.0]) + cosine([1.0, 1.0], [1.0, 3.0])) / 2.0;
        let expected = [first, cosine([4.0, 1.0], [1.0, 1.0])];
        for (got, expected) in values(target.cosines(embeddings)).into_iter().zip(expected) {
            assert!((got - expected).abs() < 1e-6, "{got} {expected}");
        }
    }
}
