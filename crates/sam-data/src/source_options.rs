//! Options for reading a data set, as in a configuration.

use std::path::PathBuf;

use sam_image::DEFAULT_MAX_PIXELS;
use serde::{Deserialize, Serialize};

use crate::cloud::CLOUD_CACHE_GIB;
use crate::filter::MaskFilter;
use crate::formats::intensity::{Intensity, ReadRule};
use crate::formats::memory::MemoryBudget;

/// The supported formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// COCO instances, LVIS, or Roboflow's COCO layout.
    Coco,
    /// Images with label images.
    LabelImages,
    /// SA-1B: one JSON file per image, in folders or tar shards.
    Sa1b,
    /// YOLO segmentation.
    YoloSeg,
    /// Labelme.
    Labelme,
    /// One image file per object, in a folder for each image.
    ObjectMasks,
    /// Cityscapes: ids of 16 bits.
    Cityscapes,
    /// VIA (VGG Image Annotator).
    Via,
    /// YouTube-VIS: videos with a segmentation for each frame.
    YoutubeVis,
    /// ADE20K: ids in colour channels.
    Ade20k,
    /// CVAT for images 1.1: an XML file.
    Cvat,
}

impl Format {
    /// All formats.
    pub const ALL: [Self; 11] = [
        Self::Coco,
        Self::LabelImages,
        Self::Sa1b,
        Self::YoloSeg,
        Self::Labelme,
        Self::ObjectMasks,
        Self::Cityscapes,
        Self::Via,
        Self::YoutubeVis,
        Self::Ade20k,
        Self::Cvat,
    ];

    /// The name used in a configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Coco => "coco",
            Self::LabelImages => "label_images",
            Self::Sa1b => "sa1b",
            Self::YoloSeg => "yolo_seg",
            Self::Labelme => "labelme",
            Self::ObjectMasks => "object_masks",
            Self::Cityscapes => "cityscapes",
            Self::Via => "via",
            Self::YoutubeVis => "youtube_vis",
            Self::Ade20k => "ade20k",
            Self::Cvat => "cvat",
        }
    }
}

/// Meaning of `iscrowd = 1` in a COCO file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Crowd {
    /// Determined from the file and reported in [`crate::Source::notes`].
    #[default]
    Auto,
    /// A region of many objects, whose pixels are ignored by losses and metrics.
    Ignore,
    /// An object like any other; some tools mark all run-length masks as crowd.
    Instances,
    /// Dropped and counted; its pixels are background.
    Drop,
}

/// Meaning of the values of a label image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LabelKind {
    /// Determined from the files and reported in [`crate::Source::notes`].
    #[default]
    Auto,
    /// Each id is an object.
    Instance,
    /// Each id is a class; its 8-connected components are objects.
    Semantic,
    /// Every value except 0 is foreground; its 8-connected components are objects.
    Binary,
}

/// The void id of a label image: pixels that count neither as object nor as background.
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

/// Handling of bad data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnBad {
    /// Stop with an error.
    #[default]
    Refuse,
    /// Drop it and count it.
    Drop,
}

/// Options for reading a data set; the defaults suit most.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SourceOptions {
    /// The format; recognised if not given.
    pub format: Option<Format>,
    /// Folder of the images, if not beside the annotations; relative to the data set.
    pub images: Option<PathBuf>,
    /// Restricts to this part of the data set's own split: `train`, `val` or `test`.
    #[serde(rename = "part", alias = "split")]
    pub split: Option<String>,
    /// COCO: meaning of crowd annotations.
    pub crowd: Crowd,
    /// Label images: meaning of the ids.
    pub labels: LabelKind,
    /// Label images: the void id.
    pub void: Void,
    /// Semantic label images: names of the classes, id 1 first. SA-1B with classes: those that come first, in this order.
    pub classes: Vec<String>,
    /// Conversion of images with more than 8 bits.
    pub intensity: Intensity,
    /// Channels used as red, green and blue (three indices), or as grey (one).
    pub channels: Option<Vec<usize>>,
    /// Handling of bad data.
    pub bad: OnBad,
    /// Size limits for objects.
    pub filter: MaskFilter,
    /// An image or label image that declares more pixels is rejected before it is decoded; at most
    /// [`sam_image::MAX_PIXELS`].
    pub max_pixels: u64,
    /// Data in the cloud: the folder in which shards are kept; that of [`crate::default_cloud_cache`] if not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_cache_dir: Option<PathBuf>,
    /// Data in the cloud: the largest size in GiB of the shards of this data set that are kept. How many of them are drawn from
    /// at a time follows from it, and with that the order.
    #[serde(skip_serializing_if = "is_default_cache")]
    pub cloud_cache_gib: f64,
}

/// Whether it need not be saved: runs on disk have no such thing.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_default_cache(gib: &f64) -> bool {
    *gib == CLOUD_CACHE_GIB
}

impl Default for SourceOptions {
    fn default() -> Self {
        Self {
            format: None,
            images: None,
            split: None,
            crowd: Crowd::default(),
            labels: LabelKind::default(),
            void: Void::default(),
            classes: Vec::new(),
            intensity: Intensity::default(),
            channels: None,
            bad: OnBad::default(),
            filter: MaskFilter::default(),
            max_pixels: DEFAULT_MAX_PIXELS,
            cloud_cache_dir: None,
            cloud_cache_gib: CLOUD_CACHE_GIB,
        }
    }
}

impl SourceOptions {
    pub(crate) fn read_rule<'a>(&'a self, memory: &'a MemoryBudget) -> ReadRule<'a> {
        let Self { intensity, max_pixels, .. } = *self;
        ReadRule { intensity, channels: self.channels.as_deref(), max_pixels, memory }
    }
}
