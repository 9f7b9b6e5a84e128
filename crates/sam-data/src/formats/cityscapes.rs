//! Cityscapes: `leftImg8bit/val/CITY/NAME_leftImg8bit.png` with `gtFine/val/CITY/NAME_gtFine_instanceIds.png` (or `gtCoarse`).
//!
//! Ids of 16 bits: from 1000 on an object, `class * 1000 + number`; below, all pixels of a class. As cityscapesScripts make panoptic
//! truth of them (`createPanopticImgs.py`): a class without instances (road, sky) is one object; pixels of a class with instances
//! that no object has are a crowd, and so are ignored; classes that are not evaluated are ignored, too.

use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::files;
use crate::formats::label_images::label_cost;
use crate::formats::label_map::LabelMap;
use crate::formats::memory::MemoryBudget;
use crate::formats::names::Names;
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::{Annotated, FormatReader, Listing};
use crate::sample::ObjectMask;
use crate::source_options::SourceOptions;

const IMAGES: &str = "leftImg8bit";
const IDS: &str = "_instanceIds.png";
/// Objects have an id of the class times this, plus a number.
const PER_CLASS: u32 = 1000;

/// The evaluated classes by id, and whether they have instances (cityscapesScripts, `labels.py`).
const CLASSES: [(u32, &str, bool); 19] = [
    (7, "road", false),
    (8, "sidewalk", false),
    (11, "building", false),
    (12, "wall", false),
    (13, "fence", false),
    (17, "pole", false),
    (19, "traffic light", false),
    (20, "traffic sign", false),
    (21, "vegetation", false),
    (22, "terrain", false),
    (23, "sky", false),
    (24, "person", true),
    (25, "rider", true),
    (26, "car", true),
    (27, "truck", true),
    (28, "bus", true),
    (31, "train", true),
    (32, "motorcycle", true),
    (33, "bicycle", true),
];

/// Folders of images and ids.
#[derive(Debug)]
pub(crate) struct Cityscapes {
    images: PathBuf,
    truth: PathBuf,
    /// Relative to the folder of the truth, such as `val/frankfurt/frankfurt_000000_000294_gtFine_instanceIds.png`.
    ids: Names,
    splits: Vec<Option<&'static str>>,
    classes: Vec<String>,
    max_pixels: u64,
    memory: MemoryBudget,
}

/// The folder of the truth, if there is one with ids.
pub(crate) fn truth_folder(root: &Path) -> Result<Option<PathBuf>, DataError> {
    for name in ["gtFine", "gtCoarse"] {
        let folder = root.join(name);
        if folder.is_dir() && files::any_file(&folder, files::MAX_DEPTH, &|name| name.ends_with(IDS))? {
            return Ok(Some(folder));
        }
    }
    Ok(None)
}

impl Cityscapes {
    pub(crate) fn open(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        let Some(truth) = truth_folder(path)? else {
            return Err(DataError::Content {
                path: path.to_path_buf(),
                what: "a Cityscapes folder".to_owned(),
                expected: format!("with gtFine or gtCoarse, and in it files *{IDS}"),
                got: "neither".to_owned(),
                fix: "give the folder that holds gtFine and leftImg8bit".to_owned(),
            });
        };
        let images = match &options.images {
            Some(images) => files::given_folder(path, images)?,
            None => path.join(IMAGES),
        };
        let mut all = Self {
            images,
            truth,
            ids: Names::default(),
            splits: Vec::new(),
            classes: CLASSES.map(|(_, name, _)| name.to_owned()).to_vec(),
            max_pixels: options.max_pixels,
            memory: MemoryBudget::new(options.max_pixels),
        };
        let part_of = |name: &str| name.split_once('/').and_then(|(folder, _)| files::split_name(folder));
        let is_wanted = |part: Option<&str>| options.split.is_none() || options.split.as_deref() == part;
        for name in files::list_files(&all.truth)?.iter().filter(|name| name.ends_with(IDS)) {
            let part = part_of(name);
            if is_wanted(part) {
                all.ids.push(name);
                all.splits.push(part);
            }
        }
        let with_ids: std::collections::HashSet<String> =
            (0..all.ids.len()).map(|index| all.image_name(index)).collect();
        let has_images = all.images.is_dir();
        for image in if has_images { files::list_files(&all.images)? } else { Vec::new() } {
            if files::is_image(&image) && is_wanted(part_of(&image)) && !with_ids.contains(&image) {
                let detail = format!("no file *{IDS} of it below {}", all.truth.display());
                listing.findings.push(Finding::new(ProblemKind::ImageUnpaired, image, detail));
            }
        }
        Ok(all)
    }

    /// Relative to the folder of images.
    fn image_name(&self, index: usize) -> String {
        let ids = self.ids.get(index);
        let stem = ids.strip_suffix(IDS).unwrap_or(ids);
        // `_gtFine` or `_gtCoarse`.
        let stem = stem.rsplit_once('_').map_or(stem, |(stem, _)| stem);
        format!("{stem}_{IMAGES}.png")
    }
}

impl FormatReader for Cityscapes {
    fn len(&self) -> usize {
        self.ids.len()
    }

    fn name(&self, index: usize) -> String {
        self.image_name(index)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        self.splits[index]
    }

    fn image_place(&self, index: usize) -> Result<FilePlace, Finding> {
        let path = self.images.join(self.image_name(index));
        match path.is_file() {
            true => Ok(FilePlace::Path(path)),
            false => {
                let detail = format!("its image {} does not exist", path.display());
                Err(Finding::new(ProblemKind::ImageMissing, self.ids.get(index), detail))
            }
        }
    }

    fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        vec![self.truth.join(self.ids.get(index))]
    }

    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError> {
        let path = self.truth.join(self.ids.get(index));
        let place = FilePlace::Path(path.clone());
        let cost = place.image_header(self.max_pixels).and_then(|header| label_cost(&place, &header));
        let _memory = self.memory.take(cost.unwrap_or(0));
        let mut annotated = Annotated::new(header.upright_hw());
        let shown = path.display().to_string();
        let masks = LabelMap::read(&path, self.max_pixels).and_then(|mut map| {
            annotated.frame_hw = map.size_hw;
            // Id 0 is a class, too ("unlabelled"), and in a label map it is not.
            map.ids.iter_mut().for_each(|id| *id = id.saturating_add(1));
            map.masks(&shown)
        });
        let masks = match masks {
            Ok(masks) => masks,
            Err(error @ DataError::Io { .. }) => return Err(error),
            Err(error) => {
                annotated.findings.push(Finding::new(ProblemKind::LabelUnreadable, shown, error.to_string()));
                return Ok(annotated);
            }
        };
        for (number, mask) in masks {
            let id = number - 1;
            let class_id = if id < PER_CLASS { id } else { id / PER_CLASS };
            match CLASSES.iter().position(|(known, ..)| *known == class_id) {
                Some(class) if id >= PER_CLASS || !CLASSES[class].2 => {
                    annotated.objects.push(ObjectMask {
                        mask,
                        class: Some(class),
                        id: u64::from(id),
                        captions: Vec::new(),
                    });
                }
                _ => annotated.ignore.push(mask),
            }
        }
        Ok(annotated)
    }
}
