//! What every source gives and every transform takes: an image with its objects.

use sam_image::{RgbImage, Rle};

/// An image with the masks of its objects, in pixels of that image (after EXIF rotation).
#[derive(Clone, Debug)]
pub struct Sample {
    /// Stable name within the data set, such as the path relative to its root: for messages, hashes and splits.
    pub name: String,
    /// 8-bit RGB.
    pub image: RgbImage,
    /// The objects; never empty masks.
    pub objects: Vec<ObjectMask>,
    /// Pixels that neither loss nor metric may count (void, crowd); of the image's size.
    pub ignore: Option<Rle>,
}

/// One object of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectMask {
    /// Where it is; decoded only when a sample needs its pixels.
    pub mask: Rle,
    /// Class, where the data set has classes: an index into the source's list of classes.
    pub class: Option<usize>,
    /// The data set's own id of the object, for messages and predictions.
    pub id: u64,
}
