//! Candidates as data, so that thresholds can be moved later: masks as COCO's compressed run lengths.
//!
//! The form is for `serde`; which file it goes to, and in which format, is for the program to decide. What is read is checked:
//! masks fill the image, and candidates come crop by crop.

use sam_image::Rle;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::candidates::{Candidate, Candidates, Seen};
use super::error::AutomaticError;
use super::options::Options;

#[derive(Serialize, Deserialize)]
struct Stored {
    image_hw: [usize; 2],
    options: Options,
    seen: Seen,
    crops_xyxy_px: Vec<[usize; 4]>,
    candidates: Vec<StoredCandidate>,
}

#[derive(Serialize, Deserialize)]
struct StoredCandidate {
    /// COCO's string.
    counts: String,
    predicted_iou: f32,
    certain_px: usize,
    possible_px: usize,
    point_xy_px: [f64; 2],
    crop: usize,
}

impl Serialize for Candidates {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let candidates = self.candidates.iter().map(|candidate| StoredCandidate {
            counts: candidate.rle.to_coco_string(),
            predicted_iou: candidate.predicted_iou,
            certain_px: candidate.certain_px,
            possible_px: candidate.possible_px,
            point_xy_px: candidate.point_xy_px,
            crop: candidate.crop,
        });
        let stored = Stored {
            image_hw: self.image_hw,
            options: self.options.clone(),
            seen: self.seen,
            crops_xyxy_px: self.crops_xyxy_px.clone(),
            candidates: candidates.collect(),
        };
        stored.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Candidates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Stored::deserialize(deserializer)?.restore().map_err(serde::de::Error::custom)
    }
}

impl Stored {
    fn restore(self) -> Result<Candidates, AutomaticError> {
        self.options.check()?;
        let damaged = |problem: String| AutomaticError::Stored(problem);
        let [height, width] = self.image_hw;
        let is_inside = |&[x0, y0, x1, y1]: &[usize; 4]| x0 < x1 && y0 < y1 && x1 <= width && y1 <= height;
        if let Some(crop) = self.crops_xyxy_px.iter().find(|crop| !is_inside(crop)) {
            return Err(damaged(format!("the crop {crop:?} does not lie in the image of {height} x {width}")));
        }
        let mut candidates: Vec<Candidate> = Vec::with_capacity(self.candidates.len());
        for stored in self.candidates {
            let last = candidates.last().map_or(0, |last| last.crop);
            if stored.crop >= self.crops_xyxy_px.len() || stored.crop < last {
                return Err(damaged(format!("crop {} of {} after {last}", stored.crop, self.crops_xyxy_px.len())));
            }
            if !stored.predicted_iou.is_finite() {
                return Err(AutomaticError::NotFinite(stored.predicted_iou));
            }
            candidates.push(Candidate {
                rle: Rle::from_coco_string(self.image_hw, stored.counts.as_bytes())?,
                predicted_iou: stored.predicted_iou,
                certain_px: stored.certain_px,
                possible_px: stored.possible_px,
                point_xy_px: stored.point_xy_px,
                crop: stored.crop,
            });
        }
        Ok(Candidates {
            image_hw: self.image_hw,
            candidates,
            crops_xyxy_px: self.crops_xyxy_px,
            options: self.options,
            seen: self.seen,
        })
    }
}
