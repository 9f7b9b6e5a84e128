//! The vector of a mask, to be compared with those of texts: the mean of two crops, one with what is around the mask and one without.

use std::ops::ControlFlow;

use rayon::prelude::*;
use sam_image::{RgbImage, Rle};

use super::{Background, Clip, IMAGES_AT_ONCE, MaskCrop};

/// Sides of a crop as a multiple of the longer side of the mask's box: the mean of those of the training.
const SCALE: f64 = 1.5;

const BACKGROUNDS: [Background; 2] = [Background::Kept, Background::Zeroed];

impl Clip {
    /// Vectors of masks of an image, of unit length: the direction of the mean of two crops, with the background kept and black, in
    /// which only the mask's patches are looked at ([`Clip::crops`]). An empty mask has none. The cosine with the vector of a text
    /// says how well that describes what the mask covers.
    ///
    /// `watch` is called with the number of masks done, and stops it with `Break`.
    ///
    /// # Panics
    /// When a mask has another size than the image.
    pub fn masks(
        &self,
        image: &RgbImage,
        masks: &[&Rle],
        watch: &mut dyn FnMut(usize) -> ControlFlow<()>,
    ) -> ControlFlow<(), Vec<Option<Vec<f32>>>> {
        let mut vectors = vec![None; masks.len()];
        let places: Vec<usize> = (0..masks.len()).filter(|&at| !masks[at].is_empty()).collect();
        let mut n_done = masks.len() - places.len();
        let [side_px, patch_px] = [self.side_px(), self.patch_px()];
        for places in places.chunks(IMAGES_AT_ONCE / BACKGROUNDS.len()) {
            watch(n_done)?;
            let crop = |&(at, background): &(usize, Background)| {
                MaskCrop::new(image, masks[at], SCALE, background, side_px, patch_px)
            };
            let wanted: Vec<_> = places.iter().flat_map(|&at| BACKGROUNDS.map(|background| (at, background))).collect();
            let crops: Vec<MaskCrop> = wanted.par_iter().map(crop).collect();
            for (&at, of_mask) in places.iter().zip(self.crops(&crops).chunks_exact(BACKGROUNDS.len())) {
                vectors[at] = Some(direction_of_mean(of_mask));
            }
            n_done += places.len();
        }
        watch(n_done)?;
        ControlFlow::Continue(vectors)
    }
}

/// The mean of vectors, of unit length.
fn direction_of_mean(vectors: &[Vec<f32>]) -> Vec<f32> {
    let width = vectors.first().map_or(0, Vec::len);
    let sum: Vec<f64> = (0..width).map(|at| vectors.iter().map(|vector| f64::from(vector[at])).sum()).collect();
    let length = sum.iter().map(|value| value * value).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    sum.iter().map(|value| (value / length) as f32).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::Device;
    use sam_image::bbox_to_rle;

    use super::*;

    #[test]
    fn a_masks_vector_lies_between_those_of_its_two_crops() {
        let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/clip/hf"));
        let clip = Clip::open(folder, &Device::flex()).expect("a CLIP");
        let image = RgbImage::from_fn(60, 40, |x, y| [(x * 4) as u8, (y * 6) as u8, ((x * y) % 251) as u8].into());
        let size = [40, 60];
        let boxes = (0..11).map(|n| [f64::from(n) * 4.0, 3.0, 12.0, 8.0 + f64::from(n)]);
        let mut masks: Vec<Rle> = boxes.map(|corners| bbox_to_rle(size, corners).expect("a box")).collect();
        masks.insert(4, Rle::empty(size).expect("a size"));
        let masks: Vec<&Rle> = masks.iter().collect();
        let mut seen = Vec::new();
        let found = clip.masks(&image, &masks, &mut |n| {
            seen.push(n);
            ControlFlow::Continue(())
        });
        let ControlFlow::Continue(vectors) = found else { panic!("nobody stops it") };
        assert_eq!(seen, [1, 9, 12]);
        assert_eq!(vectors.iter().position(Option::is_none), Some(4), "only the empty mask has no vector");
        let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum::<f64>();
        for at in [0, 5, 11] {
            let vector = vectors[at].as_deref().expect("a vector");
            let crops = BACKGROUNDS
                .map(|background| MaskCrop::new(&image, masks[at], 1.5, background, clip.side_px(), clip.patch_px()));
            let crops = clip.crops(&crops);
            assert!((dot(vector, vector) - 1.0).abs() < 1e-5);
            // As near to the one as to the other, and the same as alone.
            let [kept, zeroed] = [dot(vector, &crops[0]), dot(vector, &crops[1])];
            assert!((kept - zeroed).abs() < 1e-5 && kept <= 1.0 + 1e-5, "{kept} {zeroed}");
            let half = ((1.0 + dot(&crops[0], &crops[1])) / 2.0).sqrt();
            assert!((kept - half).abs() < 1e-5, "{kept} {half}");
        }
        let stopped = clip.masks(&image, &masks, &mut |n| match n < 9 {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        });
        assert_eq!(stopped, ControlFlow::Break(()));
    }
}
