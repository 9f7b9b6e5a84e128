//! Masks that share no pixel, for formats and programs that want one object per pixel. Not part of SAM: its masks are parts and
//! wholes.

use sam_image::{ImageError, Rle};

use super::candidates::inclusive_box;
use super::generate::{AutomaticMask, Generated};

impl Generated {
    /// Leaves each pixel to the smallest mask that covers it; of masks of one size to the first. Masks without a pixel of
    /// their own are removed, the others keep their order.
    ///
    /// # Errors
    ///
    /// When masks are of different sizes, which those of one image never are.
    pub fn without_overlap(self) -> Result<Self, ImageError> {
        let Self { masks, mut removed } = self;
        let mut order: Vec<usize> = (0..masks.len()).collect();
        order.sort_by_key(|&index| masks[index].rle.area_px());
        let mut own: Vec<Option<Rle>> = vec![None; masks.len()];
        let mut taken: Option<Rle> = None;
        for index in order {
            let mask = &masks[index].rle;
            let (left, all) = match taken {
                Some(taken) => (mask.without(&taken)?, Rle::union(&[mask.clone(), taken])?),
                None => (mask.clone(), mask.clone()),
            };
            own[index] = (!left.is_empty()).then_some(left);
            taken = Some(all);
        }
        let n = masks.len();
        let masks: Vec<AutomaticMask> = masks
            .into_iter()
            .zip(own)
            .filter_map(|(mask, rle)| {
                let rle = rle?;
                Some(AutomaticMask { box_xyxy_px: inclusive_box(&rle, mask.crop_xyxy_px), rle, ..mask })
            })
            .collect();
        removed.covered += n - masks.len();
        Ok(Self { masks, removed })
    }
}
