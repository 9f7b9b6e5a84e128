//! Filters objects by size, as the SAM paper does, and counts those removed.
//!
//! Paper (Kirillov 2023, appendices A "Training algorithm" and B): masks covering more than 90 % of the image are
//! excluded from training. Small masks are measured at the model's scale, where the image's longest side is 1024 px:
//! the area times the square of the scale.

use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::sample::ObjectMask;

/// Size limits for objects; the default keeps all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MaskFilter {
    /// Masks covering more than this fraction of the image are dropped; 0.9 in the paper.
    pub max_image_share: f64,
    /// Masks with a smaller area at the model's scale are dropped, in pixels.
    pub min_area_model_px: f64,
    /// Longest side of the image at the model's scale.
    pub model_side_px: usize,
}

impl Default for MaskFilter {
    fn default() -> Self {
        Self { max_image_share: 1.0, min_area_model_px: 0.0, model_side_px: 1024 }
    }
}

/// Number of objects dropped by a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterCounts {
    /// Objects above `max_image_share`.
    pub too_large: u64,
    /// Objects below `min_area_model_px`.
    pub too_small: u64,
}

impl MaskFilter {
    pub(crate) fn validate(&self) -> Result<(), DataError> {
        let option =
            |key, expected: &str, got: String| Err(DataError::Option { key, expected: expected.to_owned(), got });
        if !(self.max_image_share > 0.0 && self.max_image_share <= 1.0) {
            return option("filter.max_image_share", "above 0 and at most 1", self.max_image_share.to_string());
        }
        if !(self.min_area_model_px >= 0.0 && self.min_area_model_px.is_finite()) {
            return option("filter.min_area_model_px", "0 or more", self.min_area_model_px.to_string());
        }
        if self.model_side_px == 0 {
            return option("filter.model_side_px", "at least 1", "0".to_owned());
        }
        Ok(())
    }

    /// Drops objects that are too large or too small.
    pub fn apply(&self, size_hw: [usize; 2], objects: &mut Vec<ObjectMask>) -> FilterCounts {
        let mut counts = FilterCounts::default();
        let image_px = (size_hw[0] * size_hw[1]) as f64;
        objects.retain(|object| {
            let area_px = object.mask.area_px() as f64;
            if area_px > self.max_image_share * image_px {
                counts.too_large += 1;
                return false;
            }
            if area_at_model_scale(area_px, size_hw, self.model_side_px) < self.min_area_model_px {
                counts.too_small += 1;
                return false;
            }
            true
        });
        counts
    }
}

/// Returns the area after resizing the image's longest side to `model_side_px`.
pub(crate) fn area_at_model_scale(area_px: f64, size_hw: [usize; 2], model_side_px: usize) -> f64 {
    let scale = model_side_px as f64 / size_hw[0].max(size_hw[1]).max(1) as f64;
    area_px * scale * scale
}

#[cfg(test)]
mod tests {
    use super::*;
    use sam_image::Rle;

    fn object(n_set: u32) -> ObjectMask {
        ObjectMask {
            mask: Rle::new([10, 20], &[0, n_set, 200 - n_set]).expect("valid"),
            class: None,
            id: u64::from(n_set),
            captions: Vec::new(),
        }
    }

    #[test]
    fn objects_are_dropped_by_fraction_and_by_area_at_scale() {
        // Longest side 20 -> 1024: one pixel is 51.2^2 = 2621.44.
        let filter = MaskFilter { max_image_share: 0.9, min_area_model_px: 2622.0, model_side_px: 1024 };
        let mut objects = vec![object(1), object(2), object(180), object(181)];
        assert_eq!(filter.apply([10, 20], &mut objects), FilterCounts { too_large: 1, too_small: 1 });
        assert_eq!(objects.iter().map(|o| o.id).collect::<Vec<_>>(), [2, 180]);
        assert!(MaskFilter { max_image_share: 0.0, ..MaskFilter::default() }.validate().is_err());
    }
}
