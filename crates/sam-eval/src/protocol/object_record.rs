//! The record of one object: every round with its IoU. All click metrics derive from these records.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::protocol::clicks::Click;

/// COCO's limit between small and medium (`Params.areaRng` of pycocotools).
pub(crate) const MEDIUM_FROM_PX2: f64 = 1024.0;
/// COCO's limit between medium and large.
pub(crate) const LARGE_FROM_PX2: f64 = 9216.0;

/// COCO's size buckets. An object on a limit belongs to the larger bucket only; in COCO's AP it belongs to both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SizeBucket {
    /// Below 32 x 32 pixels.
    Small,
    /// Below 96 x 96 pixels.
    Medium,
    /// From 96 x 96 pixels.
    Large,
}

impl SizeBucket {
    /// All buckets, by size.
    pub const ALL: [Self; 3] = [Self::Small, Self::Medium, Self::Large];

    /// The bucket of an area.
    #[must_use]
    pub fn of(area_px: usize) -> Self {
        match area_px as f64 {
            area if area < MEDIUM_FROM_PX2 => Self::Small,
            area if area < LARGE_FROM_PX2 => Self::Medium,
            _ => Self::Large,
        }
    }

    /// The name used in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }
}

/// The new prompt of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoundPrompt {
    /// The ground-truth box.
    Box,
    /// An additional click.
    Click(Click),
    /// No new prompt, only the previous mask.
    Refinement,
}

/// One round: a prompt and the segmenter's answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// The new prompt.
    pub prompt: RoundPrompt,
    /// IoU of the selected mask.
    pub iou: f64,
    /// Predicted IoU of the selected mask.
    pub predicted_iou: f64,
    /// Highest IoU among the masks of an ambiguous prompt, if all were requested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oracle_iou: Option<f64>,
    /// Boundary IoU, if measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary_iou: Option<f64>,
}

/// All rounds of one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Name of the data set.
    pub data_set: String,
    /// Name of the image within it.
    pub image: String,
    /// Id in the data set.
    pub object_id: u64,
    /// Class name, if the data set has classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Area of the ground-truth mask, including ignored pixels.
    pub area_px: usize,
    /// Size bucket.
    pub size: SizeBucket,
    /// Whether the mask of the first prompt has a higher IoU with this object than with any other of its image; `None` where
    /// it is the only one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_selective: Option<bool>,
    /// In order.
    pub rounds: Vec<Round>,
}

impl ObjectRecord {
    /// The rounds with a click, in order; the first is click 1.
    pub fn clicks(&self) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(|round| matches!(round.prompt, RoundPrompt::Click(_)))
    }

    /// The round of the box.
    #[must_use]
    pub fn box_round(&self) -> Option<&Round> {
        self.rounds.iter().find(|round| round.prompt == RoundPrompt::Box)
    }

    /// The last refinement round.
    #[must_use]
    pub fn refined(&self) -> Option<&Round> {
        self.rounds.iter().rfind(|round| round.prompt == RoundPrompt::Refinement)
    }

    /// The order in which all sums are taken: by data set, image and object.
    #[must_use]
    pub fn by_name(a: &Self, b: &Self) -> Ordering {
        (&a.data_set, &a.image, a.object_id).cmp(&(&b.data_set, &b.image, b.object_id))
    }

    /// Data set, image and object, for error messages.
    #[must_use]
    pub fn place(&self) -> String {
        format!("data set {}, image {}, object {}", self.data_set, self.image, self.object_id)
    }
}

/// Sorts records by name and rejects duplicates.
pub(crate) fn sort_records(records: &mut [ObjectRecord]) -> Result<(), EvalError> {
    records.sort_by(ObjectRecord::by_name);
    for pair in records.windows(2) {
        if ObjectRecord::by_name(&pair[0], &pair[1]) == Ordering::Equal {
            return Err(EvalError::Duplicate { what: pair[0].place() });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_have_cocos_limits() {
        let of = |area_px| SizeBucket::of(area_px);
        assert_eq!(
            [of(1023), of(1024), of(9215), of(9216)],
            [SizeBucket::Small, SizeBucket::Medium, SizeBucket::Medium, SizeBucket::Large]
        );
    }
}
