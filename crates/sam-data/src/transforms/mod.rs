//! Augmentation of an image and its masks, and the mapping back.
//!
//! Sampling an [`Augmentation`] gives a [`View`]: the visible part of the original, its scale, and whether it is
//! mirrored. The view is one affine map with an exact inverse, so image, masks, points and boxes follow the same
//! geometry ([`MaskSampler`] for masks), and predictions can be mapped back. [`ColourJitter`] then changes colours in
//! place.
//!
//! Frames: *original* pixels are those of the decoded, upright image; *model* pixels are those of the square input of
//! `side_px`, in which the image lies in the **top-left corner** whatever the augmentation, as at inference.
//! Coordinates are continuous: pixel `i` covers `[i, i + 1)` and its centre is `i + 0.5`.
//!
//! Large-scale jitter is that of ViTDet (Ghiasi et al. 2021, "Simple copy-paste", §3; detectron2's `ResizeScale` with
//! `FixedSizeCrop`): a scale `s` uniform in 0.1-2.0; below 1 the image is shrunk and padded, above 1 a window of 1/s of
//! the longer side is cropped. Differs from detectron2: the window is cropped on whole original pixels before the
//! resize, which gives the same image at a fraction of the cost.

mod colour;
mod mask_sampler;
mod view;

pub use colour::ColourJitter;
pub use mask_sampler::MaskSampler;
pub use view::{Affine, View};

use sam_image::{ModelFrame, Resampling};

use crate::random::RandomStream;

/// Random augmentations. All are off by default, as in the paper's training on SA-1B (appendix A).
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Augmentation {
    /// Probability of a horizontal flip, 0.5 in most recipes.
    pub horizontal_flip_chance: f64,
    /// Probability of a vertical flip, for microscopy and aerial images.
    pub vertical_flip_chance: f64,
    /// Large-scale jitter, 0.1-2.0 in the paper when training on manual annotations.
    pub scale_jitter: Option<ScaleJitter>,
    /// A random window of the image, before the jitter.
    pub crop: Option<RandomCrop>,
    /// Brightness, contrast, saturation.
    pub colour: Option<ColourJitter>,
    /// A window that fills the model's input, instead of crop, jitter and padding; for pre-training.
    pub resized_crop: Option<ResizedCrop>,
}

/// A random window of the image, resized to the model's input (torchvision's `RandomResizedCrop` with its defaults
/// except for the area; MAE uses 0.2 to 1, and bicubic).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ResizedCrop {
    /// Minimum and maximum fraction of the image's area.
    pub area_share: [f64; 2],
    /// Minimum and maximum aspect ratio (width / height) of the window.
    pub aspect: [f64; 2],
    /// Size after resizing, `[height, width]`; the longer one is the side of the model's input.
    pub size_hw: [usize; 2],
}

impl ResizedCrop {
    /// MAE's pre-training (`main_pretrain.py`).
    #[must_use]
    pub fn of_pretraining(size_hw: [usize; 2]) -> Self {
        Self { area_share: [0.2, 1.0], aspect: [3.0 / 4.0, 4.0 / 3.0], size_hw }
    }

    /// The largest centred window, for deterministic use.
    #[must_use]
    pub fn middle(size_hw: [usize; 2]) -> Self {
        let aspect = size_hw[1] as f64 / size_hw[0] as f64;
        Self { area_share: [1.0, 1.0], aspect: [aspect, aspect], size_hw }
    }

    /// As in torchvision: ten attempts to find a window that fits, else the largest centred one with an allowed aspect.
    fn draw(&self, original_hw: [usize; 2], stream: &mut RandomStream) -> Window {
        const TRIES: usize = 10;
        let [height, width] = original_hw.map(|side| side as f64);
        for _ in 0..TRIES {
            let area = height * width * stream.uniform(self.area_share[0], self.area_share[1]);
            let aspect = stream.uniform(self.aspect[0].ln(), self.aspect[1].ln()).exp();
            let places = [stream.unit(), stream.unit()];
            let sides = [(area / aspect).sqrt().round(), (area * aspect).sqrt().round()];
            if sides[0] >= 1.0 && sides[1] >= 1.0 && sides[0] <= height && sides[1] <= width {
                return Window::whole(original_hw).shrunk_to(sides, places);
            }
        }
        let of_image = width / height;
        let aspect = of_image.clamp(self.aspect[0], self.aspect[1]);
        let sides = if of_image < aspect { [width / aspect, width] } else { [height, height * aspect] };
        Window::whole(original_hw).shrunk_to(sides, [0.5, 0.5])
    }
}

/// A scale relative to "the longer side fills the model's input".
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScaleJitter {
    /// Minimum scale, above 0.
    pub scale_min: f64,
    /// Maximum scale.
    pub scale_max: f64,
}

impl Default for ScaleJitter {
    /// The range of ViTDet and SAM.
    fn default() -> Self {
        Self { scale_min: 0.1, scale_max: 2.0 }
    }
}

/// A window whose sides are a random fraction of the image's, at a random place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RandomCrop {
    /// Minimum fraction of each side, above 0.
    pub side_share_min: f64,
    /// Maximum fraction of each side, at most 1.
    pub side_share_max: f64,
}

impl Default for RandomCrop {
    fn default() -> Self {
        Self { side_share_min: 0.5, side_share_max: 1.0 }
    }
}

impl Augmentation {
    /// Returns whether sampling again can show another part of the image.
    #[must_use]
    pub fn can_hide_objects(&self) -> bool {
        self.crop.is_some() || self.scale_jitter.is_some() || self.resized_crop.is_some()
    }

    /// Returns whether an image is seen as a whole and in its own colours, mirrored or not: there are at most four of it.
    #[must_use]
    pub fn only_mirrors(&self) -> bool {
        self.colour.is_none() && !self.can_hide_objects()
    }

    /// Samples a view of an image of `original_hw` for a model input of `side_px`.
    ///
    /// The stream always yields the same number of values in the same order, so enabling one augmentation does not
    /// change the values of the others.
    ///
    /// # Panics
    ///
    /// When a size is zero, or a range of the options is empty.
    #[must_use]
    pub fn draw_view(&self, original_hw: [usize; 2], side_px: usize, stream: &mut RandomStream) -> View {
        let mirrored_x = stream.chance(self.horizontal_flip_chance);
        let mirrored_y = stream.chance(self.vertical_flip_chance);
        let places: [f64; 6] = std::array::from_fn(|_| stream.unit());

        if let Some(crop) = self.resized_crop {
            let window = crop.draw(original_hw, stream);
            assert_eq!(
                crop.size_hw[0].max(crop.size_hw[1]),
                side_px,
                "the window must fill the model's input on one side"
            );
            return View {
                original_hw,
                crop_origin_yx: window.origin_yx,
                crop_hw: window.size_hw,
                resized_hw: crop.size_hw,
                side_px,
                mirrored_x,
                mirrored_y,
                resampling: Resampling::Bicubic,
            };
        }
        let mut window = Window::whole(original_hw);
        if let Some(crop) = self.crop {
            let share = between(crop.side_share_min, crop.side_share_max, places[0]);
            let sides_hw = original_hw.map(|side| side as f64 * share);
            window = window.shrunk_to(sides_hw, [places[1], places[2]]);
        }
        let mut content_side_px = side_px;
        if let Some(jitter) = self.scale_jitter {
            let scale = between(jitter.scale_min, jitter.scale_max, places[3]);
            if scale > 1.0 {
                let seen = window.size_hw[0].max(window.size_hw[1]) as f64 / scale;
                window = window.shrunk_to([seen, seen], [places[4], places[5]]);
            } else {
                content_side_px = ((side_px as f64 * scale).round() as usize).max(1);
            }
        }
        View {
            original_hw,
            crop_origin_yx: window.origin_yx,
            crop_hw: window.size_hw,
            resized_hw: ModelFrame::new(window.size_hw, content_side_px).resized_hw,
            side_px,
            mirrored_x,
            mirrored_y,
            resampling: Resampling::Bilinear,
        }
    }
}

fn between(low: f64, high: f64, unit: f64) -> f64 {
    assert!(low > 0.0 && low <= high, "a range of scales must be above 0 and not empty, got {low}-{high}");
    low + (high - low) * unit
}

/// A rectangle in whole original pixels.
struct Window {
    origin_yx: [usize; 2],
    size_hw: [usize; 2],
}

impl Window {
    fn whole(size_hw: [usize; 2]) -> Self {
        Self { origin_yx: [0, 0], size_hw }
    }

    /// A window of about the given sides inside this one; `places` in [0, 1) select the origin among all possible ones.
    fn shrunk_to(&self, sides_hw: [f64; 2], places: [f64; 2]) -> Self {
        let mut shrunk = Self::whole(self.size_hw);
        for axis in 0..2 {
            let size = (sides_hw[axis].round() as usize).clamp(1, self.size_hw[axis]);
            let n_origins = self.size_hw[axis] - size + 1;
            let offset = ((places[axis] * n_origins as f64) as usize).min(n_origins - 1);
            shrunk.origin_yx[axis] = self.origin_yx[axis] + offset;
            shrunk.size_hw[axis] = size;
        }
        shrunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Purpose;

    fn everything() -> Augmentation {
        Augmentation {
            horizontal_flip_chance: 0.5,
            vertical_flip_chance: 0.25,
            scale_jitter: Some(ScaleJitter::default()),
            crop: Some(RandomCrop::default()),
            colour: Some(ColourJitter::default()),
            resized_crop: None,
        }
    }

    #[test]
    fn views_stay_inside_and_cover_the_range() {
        let (mut n_mirrored_x, mut n_mirrored_y, mut n_shrunk) = (0, 0, 0);
        let (mut smallest, mut largest) = (f64::MAX, 0.0f64);
        for draw in 0..4000 {
            let original_hw = [[480, 640], [33, 900], [1, 1], [700, 20]][draw as usize % 4];
            let mut stream = RandomStream::new(0, Purpose::View, &[draw]);
            let view = everything().draw_view(original_hw, 256, &mut stream);
            for (axis, &original) in original_hw.iter().enumerate() {
                assert!(view.crop_hw[axis] >= 1 && view.resized_hw[axis] >= 1);
                assert!(view.crop_origin_yx[axis] + view.crop_hw[axis] <= original);
                assert!(view.resized_hw[axis] <= 256);
            }
            n_mirrored_x += usize::from(view.mirrored_x);
            n_mirrored_y += usize::from(view.mirrored_y);
            let longest = view.resized_hw[0].max(view.resized_hw[1]);
            n_shrunk += usize::from(longest < 256);
            if draw % 4 == 0 {
                let scale = longest as f64 / view.crop_hw[0].max(view.crop_hw[1]) as f64 * 2.5;
                (smallest, largest) = (smallest.min(scale), largest.max(scale));
            }
        }
        assert!((1850..2150).contains(&n_mirrored_x), "{n_mirrored_x}");
        assert!((880..1120).contains(&n_mirrored_y), "{n_mirrored_y}");
        // Scales below 1 are 0.9 / 1.9 of the range.
        assert!((1750..2050).contains(&n_shrunk), "{n_shrunk}");
        // 640 px to 256 is a factor of 0.4; the crop enlarges by up to 2 and the jitter by 0.1 to 2.
        assert!(smallest < 0.2 && largest > 3.0 && largest <= 4.1, "{smallest} {largest}");
    }

    #[test]
    fn augmentations_do_not_change_the_draws_of_others() {
        for draw in 0..200 {
            let stream = RandomStream::new(4, Purpose::View, &[draw]);
            let all = everything().draw_view([300, 400], 256, &mut stream.clone());
            let flips_only = Augmentation { crop: None, scale_jitter: None, ..everything() }.draw_view(
                [300, 400],
                256,
                &mut stream.clone(),
            );
            assert_eq!([all.mirrored_x, all.mirrored_y], [flips_only.mirrored_x, flips_only.mirrored_y]);
        }
    }

    #[test]
    fn pretraining_windows_have_their_areas_and_aspects() {
        let crop = ResizedCrop::of_pretraining([32, 48]);
        let augmentation =
            Augmentation { resized_crop: Some(crop), horizontal_flip_chance: 0.5, ..Augmentation::default() };
        let (mut sum, mut smallest, mut largest) = (0.0, f64::MAX, 0.0f64);
        for draw in 0..4000 {
            let view = augmentation.draw_view([400, 600], 48, &mut RandomStream::new(0, Purpose::View, &[draw]));
            assert_eq!((view.resized_hw, view.side_px, view.resampling), ([32, 48], 48, Resampling::Bicubic));
            let [height, width] = view.crop_hw.map(|side| side as f64);
            assert!(view.crop_origin_yx[0] + view.crop_hw[0] <= 400 && view.crop_origin_yx[1] + view.crop_hw[1] <= 600);
            assert!((0.74..1.34).contains(&(width / height)), "{width} / {height}");
            let share = height * width / 240_000.0;
            (sum, smallest, largest) = (sum + share, smallest.min(share), largest.max(share));
        }
        // Uniform from 0.2 on, except what does not fit an image of 2 : 3 at 3 : 4 to 4 : 3 (at most 8/9 of it does).
        assert!(smallest < 0.21 && largest > 0.86 && largest < 0.9, "{smallest} {largest}");
        // A window of aspect r fits up to a fraction of 2 r / 3; over log-uniform r that gives a mean of 0.4511.
        assert!((sum / 4000.0 - 0.4511).abs() < 0.01, "{}", sum / 4000.0);
        // No window of that area fits a line, so its middle is taken.
        let view = augmentation.draw_view([4, 4000], 48, &mut RandomStream::new(0, Purpose::View, &[1]));
        assert_eq!((view.crop_hw, view.crop_origin_yx[0]), ([4, 5], 0));
        let middle = Augmentation { resized_crop: Some(ResizedCrop::middle([32, 32])), ..Augmentation::default() };
        let view = middle.draw_view([100, 300], 32, &mut RandomStream::new(0, Purpose::View, &[]));
        assert_eq!((view.crop_hw, view.crop_origin_yx), ([100, 100], [0, 100]));
    }

    #[test]
    fn no_augmentation_equals_the_preprocessing_of_inference() {
        let view = Augmentation::default().draw_view([333, 500], 1024, &mut RandomStream::new(0, Purpose::View, &[]));
        assert_eq!(view, View::whole([333, 500], 1024));
        assert!(!Augmentation::default().can_hide_objects());
    }
}
