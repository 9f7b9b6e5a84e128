//! What is known of one object after a protocol: every round with its IoU. All click metrics derive from these records.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::clicks::Click;
use crate::error::EvalError;

/// COCO's limit between small and medium (`Params.areaRng` of pycocotools).
pub(crate) const MEDIUM_FROM_PX2: f64 = 1024.0;
/// COCO's limit between medium and large.
pub(crate) const LARGE_FROM_PX2: f64 = 9216.0;

/// Objects by COCO's areas. On the limits themselves an object belongs to the larger bucket, to one only; in COCO's AP it
/// belongs to both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SizeBucket {
    /// Below 32 x 32 pixels.
    Small,
    /// Below 96 x 96 pixels.
    Medium,
    /// The rest.
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

    /// As in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Medium => "medium",
            Self::Large => "large",
        }
    }
}

/// What was new in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RoundPrompt {
    /// The object's box.
    Box,
    /// One more click.
    Click(Click),
    /// Nothing but the mask of the round before.
    Refinement,
}

/// One answer of the segmenter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// What was new.
    pub prompt: RoundPrompt,
    /// Of the chosen mask.
    pub iou: f64,
    /// The segmenter's own estimate of it.
    pub predicted_iou: f64,
    /// The highest IoU among the masks of an ambiguous prompt, where they were all looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oracle_iou: Option<f64>,
    /// IoU of the boundaries, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boundary_iou: Option<f64>,
}

/// The course of one object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObjectRecord {
    /// Name of the data set.
    pub data_set: String,
    /// Name of the image within it.
    pub image: String,
    /// The data set's own id of the object.
    pub object_id: u64,
    /// Name of its class, where there are classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Pixels of its mask, ignored ones included.
    pub area_px: usize,
    /// By area.
    pub size: SizeBucket,
    /// In order of time.
    pub rounds: Vec<Round>,
}

impl ObjectRecord {
    /// The rounds that brought a click, in order; the first is click 1.
    pub fn clicks(&self) -> impl Iterator<Item = &Round> {
        self.rounds.iter().filter(|round| matches!(round.prompt, RoundPrompt::Click(_)))
    }

    /// The round of the box.
    #[must_use]
    pub fn box_round(&self) -> Option<&Round> {
        self.rounds.iter().find(|round| round.prompt == RoundPrompt::Box)
    }

    /// The last round that repeated the first prompt with its own mask.
    #[must_use]
    pub fn refined(&self) -> Option<&Round> {
        self.rounds.iter().rfind(|round| round.prompt == RoundPrompt::Refinement)
    }

    /// The one order in which every sum is taken: by data set, image and object.
    #[must_use]
    pub fn by_name(a: &Self, b: &Self) -> Ordering {
        (&a.data_set, &a.image, a.object_id).cmp(&(&b.data_set, &b.image, b.object_id))
    }

    /// For messages.
    #[must_use]
    pub fn place(&self) -> String {
        format!("data set {}, image {}, object {}", self.data_set, self.image, self.object_id)
    }
}

/// Sorts records by name, and refuses an object that occurs twice.
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
