//! Images with the objects to be segmented in them, and the outcome of each object.

use sam_image::{RgbImage, Rle};
use serde::{Deserialize, Serialize};

use crate::protocol::object_record::ObjectRecord;

/// An image with the objects to be segmented.
#[derive(Clone, Copy, Debug)]
pub struct ImageTask<'a> {
    /// Name of the data set.
    pub data_set: &'a str,
    /// Name of the image within it.
    pub name: &'a str,
    /// The pixels.
    pub image: &'a RgbImage,
    /// The objects; masks have the image's size.
    pub objects: &'a [Target<'a>],
    /// Pixels excluded from evaluation; the mask has the image's size.
    pub ignore: Option<&'a Rle>,
}

impl ImageTask<'_> {
    /// `[height, width]`.
    #[must_use]
    pub fn size_hw(&self) -> [usize; 2] {
        [self.image.height() as usize, self.image.width() as usize]
    }
}

/// An object to be segmented.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Id in the data set.
    pub id: u64,
    /// The ground-truth mask.
    pub mask: &'a Rle,
    /// Class name, if the data set has classes.
    pub class: Option<&'a str>,
}

/// The result for one object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// The record of its rounds.
    pub record: ObjectRecord,
    /// The mask of the last round.
    #[serde(with = "runs")]
    pub final_mask: Rle,
}

/// A mask as its size and run lengths.
pub(super) mod runs {
    use sam_image::Rle;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub(crate) fn serialize<S: Serializer>(mask: &Rle, serializer: S) -> Result<S::Ok, S::Error> {
        (mask.size_hw(), mask.counts()).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Rle, D::Error> {
        let (size_hw, counts) = <([usize; 2], Vec<u32>)>::deserialize(deserializer)?;
        Rle::new(size_hw, &counts).map_err(D::Error::custom)
    }
}
