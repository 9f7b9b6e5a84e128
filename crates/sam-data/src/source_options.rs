//! How a data set is read, as it is typed in a config.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::filter::MaskFilter;
use crate::intensity::Intensity;

/// The formats that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// COCO instances, LVIS, Roboflow's COCO layout.
    Coco,
    /// Images with label images.
    LabelImages,
    /// SA-1B: a JSON file per image, in folders or tar shards.
    Sa1b,
    /// YOLO segmentation.
    YoloSeg,
    /// Labelme.
    Labelme,
}

impl Format {
    /// As it is typed in a config.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Coco => "coco",
            Self::LabelImages => "label_images",
            Self::Sa1b => "sa1b",
            Self::YoloSeg => "yolo_seg",
            Self::Labelme => "labelme",
        }
    }
}

/// What `iscrowd = 1` means in a COCO file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crowd {
    /// Found out from the file, and said in [`crate::Source::notes`].
    #[default]
    Auto,
    /// A region of many objects: neither loss nor metric counts its pixels.
    Ignore,
    /// An object like others; some tools mark all run-length masks as crowd.
    Instances,
    /// Left out and counted; its pixels are background.
    Drop,
}

/// What the numbers of a label image mean.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelKind {
    /// Found out from the files, and said in [`crate::Source::notes`].
    #[default]
    Auto,
    /// Each id is an object.
    Instance,
    /// Each id is a class; its 8-connected components are objects.
    Semantic,
    /// Everything but 0 is foreground; its 8-connected components are objects.
    Binary,
}

/// Which id of a label image is void: pixels that count neither as object nor as background.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Void {
    /// 255 in palette images and in 8-bit class maps; none elsewhere.
    #[default]
    Auto,
    /// No id.
    None,
    /// This id.
    Id(u32),
}

/// What to do about data that is wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBad {
    /// Stop with an error.
    #[default]
    Refuse,
    /// Leave it out and count it.
    Drop,
}

/// How to read a data set; the defaults suit most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceOptions {
    /// The format; found out when not given.
    pub format: Option<Format>,
    /// Folder of the images, when it is not beside the annotations; relative to the data set.
    pub images: Option<PathBuf>,
    /// Only this part of the split that the data set comes with: `train`, `val` or `test`.
    pub split: Option<String>,
    /// COCO: what crowd means.
    pub crowd: Crowd,
    /// Label images: what ids mean.
    pub labels: LabelKind,
    /// Label images: which id is void.
    pub void: Void,
    /// Semantic label images: names of the classes, id 1 first.
    pub classes: Vec<String>,
    /// How images of more than 8 bits become 8-bit.
    pub intensity: Intensity,
    /// Which channels become red, green and blue (three numbers), or grey (one).
    pub channels: Option<Vec<usize>>,
    /// What to do about bad data.
    pub bad: OnBad,
    /// Objects that are left out by size.
    pub filter: MaskFilter,
}
