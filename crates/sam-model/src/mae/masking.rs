//! Random masking: the patches of an image that are hidden from the autoencoder's encoder.

use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use sam_files::Fingerprint;

/// The visible and the removed patches of each image.
#[derive(Clone, Debug)]
pub struct RandomMasking {
    /// Patches by increasing noise, visible ones first: `order[image][place]` is a patch.
    pub(super) order: Vec<Vec<usize>>,
    pub(super) n_kept: usize,
}

impl RandomMasking {
    /// Number of visible patches (`models_mae.py::random_masking`).
    pub fn n_kept(n_patches: usize, ratio: f64) -> usize {
        (n_patches as f64 * (1.0 - ratio)) as usize
    }

    /// Removes the patches of highest noise, given one row of `noise` per image; of equal values the first patch is kept.
    ///
    /// # Panics
    /// When no patch would be visible, or none removed.
    pub fn from_noise(noise: &[Vec<f32>], ratio: f64) -> Self {
        let n_patches = noise.first().map_or(0, Vec::len);
        let n_kept = Self::n_kept(n_patches, ratio);
        assert!(
            n_kept > 0 && n_kept < n_patches,
            "of {n_patches} patches some must be visible and some removed; at a ratio of {ratio} {n_kept} are visible"
        );
        let order = noise
            .iter()
            .map(|noise| {
                assert_eq!(noise.len(), n_patches, "noise must have a value per patch");
                let mut order: Vec<usize> = (0..n_patches).collect();
                order.sort_by(|&a, &b| noise[a].total_cmp(&noise[b]));
                order
            })
            .collect();
        Self { order, n_kept }
    }

    /// As [`RandomMasking::from_noise`], with the noise of each image drawn from `seed` and the image's draw index.
    pub fn draw(seed: u64, draws: &[u64], n_patches: usize, ratio: f64) -> Self {
        let noise: Vec<Vec<f32>> = draws.iter().map(|&draw| masking_noise(seed, draw, n_patches)).collect();
        Self::from_noise(&noise, ratio)
    }

    /// Number of images.
    pub fn n_images(&self) -> usize {
        self.order.len()
    }

    /// The visible patches of each image, in the order of the encoder's tokens.
    pub fn visible(&self) -> impl Iterator<Item = &[usize]> {
        self.order.iter().map(|order| &order[..self.n_kept])
    }

    /// The removed patches of each image.
    pub fn removed(&self) -> impl Iterator<Item = &[usize]> {
        self.order.iter().map(|order| &order[self.n_kept..])
    }

    /// Indices of these patches into a `[B * rows_per_image, ..]` tensor.
    pub(super) fn rows<'a>(
        patches: impl Iterator<Item = &'a [usize]>,
        rows_per_image: usize,
        device: &Device,
    ) -> Tensor<1, Int> {
        let rows = patches
            .enumerate()
            .flat_map(|(image, patches)| patches.iter().map(move |patch| (image * rows_per_image + patch) as i64));
        let rows: Vec<i64> = rows.collect();
        let count = rows.len();
        Tensor::from_data(TensorData::new(rows, [count]), device)
    }
}

/// Uniform noise in `[0, 1)` for the patches of one image, reproducible on every machine and in every version.
pub fn masking_noise(seed: u64, draw: u64, n_patches: usize) -> Vec<f32> {
    let mut hash = Fingerprint::new(seed);
    hash.add_bytes(b"masking");
    hash.add_word(draw);
    let mut rng = StdRng::seed_from_u64(hash.value());
    (0..n_patches).map(|_| rng.random::<f32>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "some must be visible")]
    fn a_ratio_that_keeps_no_patch_is_rejected() {
        let _ = RandomMasking::draw(0, &[0], 12, 0.95);
    }
}
