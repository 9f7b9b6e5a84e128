//! A review of automatic masks: a random sample is looked at and corrected, and the share that was right is reported.
//!
//! Source: the paper's check of SA-1B (arXiv 2304.02643, section 5): 500 images, people correct every mask, 94 % of the pairs have
//! an IoU above 0.90. Masks below 24 x 24 px are left out as in its appendix E. Here masks are drawn, not images, so the interval is
//! that of a share of independent masks (Wilson 1927).

use std::path::{Path, PathBuf};

use sam_data::random::RandomStream;
use sam_image::{Rle, rle_iou};
use serde::{Deserialize, Serialize};

use crate::annotation::{MaskSource, Segmentation};
use crate::error::EngineError;
use crate::images::ImageId;
use crate::operation::Identifier;
use crate::project::Project;
use crate::rounds::{now_unix_s, read_json, write_json};

/// A corrected mask with a higher IoU was right.
pub const LIMIT_IOU: f64 = 0.9;
/// Sides of the box of the smallest masks that are drawn.
const MIN_SIDE_PX: usize = 24;
/// The most masks of a sample.
const MAX_SAMPLE: usize = 2000;

/// `review.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Review {
    /// When the sample was drawn, which is also the seed. Seconds since 1970.
    pub drawn_unix_s: u64,
    /// Automatic masks that it was drawn from.
    pub n_automatic: usize,
    /// The sample.
    pub items: Vec<ReviewItem>,
}

/// A mask of the sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReviewItem {
    /// The image's name.
    pub image: String,
    /// The mask's id.
    pub uuid: Identifier,
    /// As in SA-1B.
    pub bbox: [usize; 4],
    /// The mask when it was drawn.
    pub segmentation: Segmentation,
    /// With the mask after a person has looked at it; 0 when it was deleted. `None`: not yet judged.
    pub iou: Option<f64>,
    /// What the person did.
    pub verdict: Option<ReviewVerdict>,
}

/// What a person did with a mask of the sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReviewVerdict {
    /// Nothing.
    Good,
    /// It has other pixels now.
    Corrected,
    /// It is no object.
    Deleted,
}

/// The share of masks that were right, with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Judged masks.
    pub n_judged: usize,
    /// Of these, the part with an IoU above [`LIMIT_IOU`].
    pub share: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Review {
    /// The review of a project; `None` when none was begun.
    ///
    /// # Errors
    ///
    /// When its file is damaged.
    pub fn read(project: &Path) -> Result<Option<Self>, EngineError> {
        read_json(&path(project))
    }

    /// Draws `n` of the automatic masks and begins a review of them.
    ///
    /// # Errors
    ///
    /// When there are none, a file is damaged, or the disk fails.
    pub fn begin(project: &Project, n: usize) -> Result<Self, EngineError> {
        let mut all = Vec::new();
        for index in 0..project.images().len() {
            let Some(file) = project.annotations(index)? else { continue };
            let is_drawn = |mask: &&crate::MaskRecord| {
                mask.source == MaskSource::Automatic
                    && mask.bbox[2] + 1 >= MIN_SIDE_PX
                    && mask.bbox[3] + 1 >= MIN_SIDE_PX
            };
            all.extend(file.annotations.iter().filter(is_drawn).map(|mask| ReviewItem {
                image: project.images().name(index).to_owned(),
                uuid: mask.uuid.clone(),
                bbox: mask.bbox,
                segmentation: mask.segmentation.clone(),
                iou: None,
                verdict: None,
            }));
        }
        if all.is_empty() {
            let problem = format!("there are no automatic masks of {MIN_SIDE_PX} x {MIN_SIDE_PX} px or more to review");
            return Err(EngineError::Invalid(problem));
        }
        let n_automatic = all.len();
        let drawn_unix_s = now_unix_s() as u64;
        RandomStream::named(drawn_unix_s, &[b"review"]).shuffle(&mut all);
        all.truncate(n.clamp(1, MAX_SAMPLE));
        // Masks of one image follow one another: it is encoded once.
        all.sort_by(|a, b| a.image.cmp(&b.image));
        let review = Self { drawn_unix_s, n_automatic, items: all };
        review.write(project.folder())?;
        Ok(review)
    }

    fn write(&self, project: &Path) -> Result<(), EngineError> {
        write_json(&path(project), self)
    }

    /// Measures a mask of the sample as it is now.
    ///
    /// # Errors
    ///
    /// When it is not in the sample, a file is damaged, or the disk fails.
    pub fn judge(&mut self, project: &Project, index: usize, uuid: &Identifier) -> Result<(), EngineError> {
        let name = project.images().name(index);
        let item = self.items.iter_mut().find(|item| item.image == name && item.uuid == *uuid);
        let item = item.ok_or_else(|| EngineError::Invalid("this mask is not in the sample".to_owned()))?;
        let file = project.annotations(index)?;
        let now = file.and_then(|file| file.annotations.into_iter().find(|mask| mask.uuid == *uuid));
        let (iou, verdict) = match now {
            None => (0.0, ReviewVerdict::Deleted),
            Some(mask) if mask.segmentation == item.segmentation => (1.0, ReviewVerdict::Good),
            Some(mask) => (iou(&item.segmentation, &mask.segmentation)?, ReviewVerdict::Corrected),
        };
        (item.iou, item.verdict) = (Some(iou), Some(verdict));
        self.write(project.folder())
    }

    /// The share of the judged masks that were right; `None` before the first.
    #[must_use]
    pub fn share(&self) -> Option<Share> {
        let ious: Vec<f64> = self.items.iter().filter_map(|item| item.iou).collect();
        let n_right = ious.iter().filter(|iou| **iou > LIMIT_IOU).count();
        (!ious.is_empty()).then(|| wilson(n_right, ious.len()))
    }

    /// The id of an item's image.
    #[must_use]
    pub fn image_id(item: &ReviewItem) -> ImageId {
        ImageId::of(&item.image)
    }
}

fn path(project: &Path) -> PathBuf {
    project.join("review.json")
}

fn iou(a: &Segmentation, b: &Segmentation) -> Result<f64, EngineError> {
    let mask = |segmentation: &Segmentation| -> Result<Rle, EngineError> {
        segmentation.to_rle().map_err(|error| EngineError::Invalid(error.to_string()))
    };
    rle_iou(&mask(a)?, &mask(b)?).map_err(|error| EngineError::Invalid(error.to_string()))
}

/// Wilson's score interval of a share (Wilson 1927), which holds for few masks and for shares near 1.
fn wilson(n_right: usize, n: usize) -> Share {
    /// Of 95 %.
    const Z: f64 = 1.959_963_984_540_054;
    let (share, n_f) = (n_right as f64 / n as f64, n as f64);
    let scale = 1.0 / (1.0 + Z * Z / n_f);
    let centre = scale * (share + Z * Z / (2.0 * n_f));
    let half = scale * Z * (share * (1.0 - share) / n_f + Z * Z / (4.0 * n_f * n_f)).sqrt();
    Share { n_judged: n, share, low: (centre - half).max(0.0), high: (centre + half).min(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of the formula in higher precision.
    #[test]
    fn the_interval_is_wilsons() {
        let close = |got: f64, expected: f64| assert!((got - expected).abs() < 1e-6, "{got} and {expected}");
        let Share { share, low, high, .. } = wilson(47, 50);
        close(share, 0.94);
        close(low, 0.837_829_1);
        close(high, 0.979_385_0);
        let Share { low, high, .. } = wilson(10, 10);
        close(low, 0.722_467_2);
        close(high, 1.0);
    }
}
