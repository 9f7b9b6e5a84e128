//! The supported formats, one reader per file, and their common parts.

pub(crate) mod ade20k;
pub(crate) mod captions;
pub(crate) mod cityscapes;
pub(crate) mod class_folders;
pub(crate) mod coco;
pub(crate) mod coco_index;
pub(crate) mod cvat;
pub(crate) mod ellipse;
pub(crate) mod files;
pub(crate) mod gif;
pub(crate) mod ids;
pub(crate) mod images;
pub(crate) mod intensity;
pub(crate) mod json_cursor;
pub(crate) mod label_images;
pub(crate) mod label_map;
pub(crate) mod labelme;
pub(crate) mod mat;
pub(crate) mod memory;
pub(crate) mod names;
pub(crate) mod object_masks;
pub(crate) mod pairing;
pub(crate) mod parts;
pub(crate) mod place;
pub(crate) mod raster;
pub(crate) mod recognise;
pub(crate) mod sa1b;
pub(crate) mod sa1b_json;
pub(crate) mod segmentation;
pub(crate) mod signature;
pub(crate) mod tar_members;
pub(crate) mod text;
pub(crate) mod via;
pub(crate) mod yolo_seg;
pub(crate) mod youtube_vis;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sam_image::Rle;

use crate::cloud::is_cloud;
use crate::error::DataError;
use crate::finding::Finding;
use crate::sample::ObjectMask;
use crate::shard_order::ShardOrder;
use crate::source_options::{Format, SourceOptions};
use ade20k::Ade20k;
use cityscapes::Cityscapes;
use coco::Coco;
use cvat::Cvat;
use ids::CocoId;
use label_images::LabelImages;
use labelme::Labelme;
use object_masks::ObjectMasks;
use place::{FilePlace, ImageHeader};
use sa1b::Sa1b;
use via::Via;
use yolo_seg::YoloSeg;
use youtube_vis::YoutubeVis;

/// The annotations of an image as its reader returns them, in the frame that was annotated.
#[derive(Debug)]
pub(crate) struct Annotated {
    pub(crate) frame_hw: [usize; 2],
    pub(crate) objects: Vec<ObjectMask>,
    pub(crate) ignore: Vec<Rle>,
    pub(crate) findings: Vec<Finding>,
}

impl Annotated {
    pub(crate) fn new(frame_hw: [usize; 2]) -> Self {
        Self { frame_hw, objects: Vec::new(), ignore: Vec::new(), findings: Vec::new() }
    }
}

/// Notes and findings of opening a data set.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) notes: Vec<String>,
    pub(crate) findings: Vec<Finding>,
}

/// The reader of a format; indices are below `len`.
pub(crate) trait FormatReader: std::fmt::Debug + Send + Sync {
    fn len(&self) -> usize;
    fn name(&self, index: usize) -> String;
    fn classes(&self) -> &[String];
    fn given_split(&self, index: usize) -> Option<&str>;
    /// Returns whether object ids are unique over all images, as in a single COCO file.
    fn is_one_numbering(&self) -> bool {
        false
    }
    /// The image's id in the annotation file, in formats with such ids.
    fn image_id(&self, _index: usize) -> Option<CocoId> {
        None
    }
    /// The location of the image, or the finding that it is missing.
    fn image_place(&self, index: usize) -> Result<FilePlace, Finding>;
    /// The files with the annotations of an image, which may hold those of others too; none inside an archive.
    fn annotation_paths(&self, index: usize) -> Vec<PathBuf>;
    /// The shards that the images come in, where reading them in any order is slow.
    fn shard_order(&self) -> Option<Arc<ShardOrder>> {
        None
    }
    /// Says that the shards of these images will be read now, and those of the others after them.
    fn announce(&self, _now: &[usize], _next: &[usize]) {}
    /// The annotations of an image, in the frame that was annotated. Only problems of the whole file are errors; those
    /// of one image or object are findings.
    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError>;
}

/// Opens a data set with the reader of its format.
pub(crate) fn open(
    format: Format,
    path: &Path,
    options: &SourceOptions,
    listing: &mut Listing,
) -> Result<Box<dyn FormatReader>, DataError> {
    if is_cloud(path) && format != Format::Sa1b {
        return Err(DataError::Content {
            path: path.to_path_buf(),
            what: "a data set in the cloud".to_owned(),
            expected: "SA-1B's .tar shards".to_owned(),
            got: format!("format = \"{}\"", format.name()),
            fix: "convert it to sa1b and pack it into shards, or copy it to disk".to_owned(),
        });
    }
    Ok(match format {
        Format::Coco => Box::new(Coco::open(path, options, listing)?),
        Format::LabelImages => Box::new(LabelImages::open(path, options, listing)?),
        Format::Sa1b => Box::new(Sa1b::open(path, options, listing)?),
        Format::YoloSeg => Box::new(YoloSeg::open(path, options, listing)?),
        Format::Labelme => Box::new(Labelme::open(path, options, listing)?),
        Format::ObjectMasks => Box::new(ObjectMasks::open(path, options, listing)?),
        Format::Cityscapes => Box::new(Cityscapes::open(path, options, listing)?),
        Format::Via => Box::new(Via::open(path, options, listing)?),
        Format::YoutubeVis => Box::new(YoutubeVis::open(path, options, listing)?),
        Format::Cvat => Box::new(Cvat::open(path, options, listing)?),
        Format::Ade20k => Box::new(Ade20k::open(path, options, listing)?),
    })
}
