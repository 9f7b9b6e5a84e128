//! The masks of an image on disk, as in SA-1B, with the keys in its order.
//!
//! Boxes are one less in width and height than COCO's, since they come from inclusive indices. Scores are those of the
//! network, not rounded.

use std::path::Path;

use anyhow::Context;
use sam_image::Rle;
use sam_infer::automatic::AutomaticMask;
use serde::{Deserialize, Serialize};

use super::texts::TextLabel;
use crate::mask_files::Segmentation;

/// The JSON of an image.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) image: RecordImage,
    pub(crate) annotations: Vec<RecordMask>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RecordImage {
    pub(crate) image_id: u64,
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) file_name: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RecordMask {
    /// `[x, y, width, height]`.
    pub(crate) bbox: [usize; 4],
    pub(crate) area: usize,
    pub(crate) segmentation: Segmentation,
    pub(crate) predicted_iou: f64,
    pub(crate) point_coords: [[f64; 2]; 1],
    /// `[x, y, width, height]`.
    pub(crate) crop_box: [usize; 4],
    pub(crate) id: u64,
    pub(crate) stability_score: f64,
    /// The text that describes it best, under the key that this program's data sets have for classes.
    #[serde(default, rename = "class", skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// Its cosine with the mask in CLIP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text_score: Option<f64>,
    /// Of all texts, in the order in which they were given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) text_scores: Option<Vec<f64>>,
}

/// Masks of an image have ids in a range of their own.
const IDS_PER_IMAGE: u64 = 100_000;

impl Record {
    /// The id of an image comes from its name, so that it is the same in every run.
    /// `labels` says what texts are of a mask.
    pub(crate) fn new(
        name: &str,
        [height, width]: [usize; 2],
        masks: &[AutomaticMask],
        labels: &dyn Fn(&AutomaticMask) -> Option<TextLabel>,
    ) -> Self {
        let mut hash = sam_files::Fingerprint::new(0);
        hash.add_bytes(name.as_bytes());
        let image_id = hash.value() >> 32;
        let record = |index: usize, mask: &AutomaticMask| RecordMask {
            bbox: mask.box_xywh_px(),
            area: mask.rle.area_px(),
            segmentation: Segmentation::of(&mask.rle),
            predicted_iou: f64::from(mask.predicted_iou),
            point_coords: [mask.point_xy_px],
            crop_box: mask.crop_xywh_px(),
            id: image_id * IDS_PER_IMAGE + index as u64,
            // JSON has no NaN, the score of masks that are empty even at the lower level.
            stability_score: if mask.stability.is_nan() { 0.0 } else { f64::from(mask.stability) },
            text: None,
            text_score: None,
            text_scores: None,
        };
        let labelled = |(index, mask): (usize, &AutomaticMask)| match labels(mask) {
            None => record(index, mask),
            Some(TextLabel { text, score, scores }) => RecordMask {
                text: Some(text),
                text_score: Some(score),
                text_scores: Some(scores),
                ..record(index, mask)
            },
        };
        let image = RecordImage { image_id, width, height, file_name: name.to_owned() };
        Self { image, annotations: masks.iter().enumerate().map(labelled).collect() }
    }

    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = sam_data::read_text(path, sam_files::MAX_FILE_BYTES)?;
        serde_json::from_str(&text).with_context(|| format!("{} is not a record of masks", path.display()))
    }

    /// The masks; an error when they are damaged.
    pub(crate) fn masks(&self) -> anyhow::Result<Vec<Rle>> {
        let size_hw = [self.image.height, self.image.width];
        let mask = |mask: &RecordMask| Rle::from_coco_string(size_hw, mask.segmentation.counts.as_bytes());
        Ok(self.annotations.iter().map(mask).collect::<Result<_, _>>()?)
    }
}
