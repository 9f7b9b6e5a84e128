//! COCO: `annotations/instances_PART.json` with compressed run lengths, images in a folder per part.
//!
//! As CVAT and datumaro open it: ids from 1, `iscrowd` on every annotation, `file_name` with `/`, the name `instances_PART.json`
//! also without a split, and images in `images/PART` or `images` (which is where conversions put them).
//!
//! Annotations are streamed, so memory does not grow with the data set; only the short image entries are held until the
//! end.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use sam_image::Rle;
use serde::Serialize;

use super::{NO_CLASS, no_class_note};
use crate::error::DataError;
use crate::sample::ObjectMask;
use crate::source::ImageObjects;

/// The part of images that have none, as CVAT calls it.
pub(crate) const NO_PART: &str = "default";

#[derive(Serialize)]
struct ImageJson<'a> {
    id: u64,
    file_name: &'a str,
    height: usize,
    width: usize,
}

#[derive(Serialize)]
struct AnnotationJson<'a> {
    id: u64,
    image_id: u64,
    category_id: usize,
    iscrowd: u8,
    area: usize,
    bbox: [usize; 4],
    segmentation: RleJson,
    /// The only caption, as the official files of captions have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    caption: Option<&'a str>,
    /// Several captions.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    captions: &'a [String],
}

#[derive(Serialize)]
pub(super) struct RleJson {
    size: [usize; 2],
    counts: String,
}

impl RleJson {
    pub(super) fn of(mask: &Rle) -> Self {
        Self { size: mask.size_hw(), counts: mask.to_coco_string() }
    }
}

#[derive(Serialize)]
struct CategoryJson<'a> {
    id: usize,
    name: &'a str,
}

/// Writes one annotation file per part of the split.
pub(crate) struct CocoWriter {
    folder: PathBuf,
    classes: Vec<String>,
    files: BTreeMap<String, PartFile>,
    /// Whether the objects' ids are unique over all images and are written as they are.
    keeps_ids: bool,
    last_id: u64,
    n_without_class: u64,
}

/// The entry of an image under `images`.
pub(crate) struct ImageEntry<'a> {
    /// The part of the split, which has a file of its own.
    pub(crate) part: &'a str,
    pub(crate) id: u64,
    /// Relative to the part's folder.
    pub(crate) file_name: &'a str,
}

struct PartFile {
    path: PathBuf,
    file: BufWriter<File>,
    images: String,
    n_annotations: u64,
    /// Ignore regions are written last, when all object ids are known.
    ignores: Vec<(u64, Rle)>,
}

impl CocoWriter {
    pub(crate) fn new(out: &Path, classes: &[String], keeps_ids: bool) -> Result<Self, DataError> {
        let folder = out.join("annotations");
        std::fs::create_dir_all(&folder).map_err(|error| DataError::io(&folder, error))?;
        let classes = classes.to_vec();
        Ok(Self { folder, classes, files: BTreeMap::new(), keeps_ids, last_id: 0, n_without_class: 0 })
    }

    pub(crate) fn add(&mut self, image: &ImageEntry<'_>, annotations: &ImageObjects) -> Result<(), DataError> {
        let file = match self.files.entry(image.part.to_owned()) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let file = PartFile::new(&self.folder, image.part)?;
                entry.insert(file)
            }
        };
        let [height, width] = annotations.size_hw;
        let entry = ImageJson { id: image.id, file_name: image.file_name, height, width };
        if !file.images.is_empty() {
            file.images.push_str(",\n");
        }
        file.images.push_str(&file.json(&entry)?);
        for object in &annotations.objects {
            let id = if self.keeps_ids { object.id } else { self.last_id + 1 };
            self.last_id = self.last_id.max(id);
            self.n_without_class += u64::from(object.class.is_none());
            file.write(&annotation(object, id, image.id, self.classes.len() + 1))?;
        }
        if let Some(ignore) = &annotations.ignore {
            file.ignores.push((image.id, ignore.clone()));
        }
        Ok(())
    }

    /// Completes the files. Returns what the format could not represent, one sentence each.
    pub(crate) fn finish(mut self) -> Result<Vec<String>, DataError> {
        let mut categories: Vec<_> =
            self.classes.iter().enumerate().map(|(class, name)| CategoryJson { id: class + 1, name }).collect();
        let has_ignores = self.files.values().any(|file| !file.ignores.is_empty());
        if self.n_without_class > 0 || has_ignores && categories.is_empty() {
            categories.push(CategoryJson { id: categories.len() + 1, name: NO_CLASS });
        }
        let mut notes: Vec<String> =
            no_class_note("COCO", self.n_without_class, self.classes.len()).into_iter().collect();
        if has_ignores {
            notes.push(
                "ignore regions were written as one crowd annotation per image; their classes were not known"
                    .to_owned(),
            );
        }
        if !self.keeps_ids {
            notes.push("objects were renumbered because COCO ids are unique over all images".to_owned());
        }
        for file in self.files.values_mut() {
            for (image_id, mask) in std::mem::take(&mut file.ignores) {
                self.last_id += 1;
                file.write(&AnnotationJson {
                    id: self.last_id,
                    image_id,
                    category_id: categories.last().map_or(1, |category| category.id),
                    iscrowd: 1,
                    area: mask.area_px(),
                    bbox: mask.bbox_xywh_px(),
                    segmentation: RleJson::of(&mask),
                    caption: None,
                    captions: &[],
                })?;
            }
            let categories = file.json(&categories)?;
            let images = std::mem::take(&mut file.images);
            let io = |error| DataError::io(&file.path, error);
            write!(file.file, "\n],\n\"images\": [\n{images}\n],\n\"categories\": {categories}}}\n").map_err(io)?;
            file.file.flush().map_err(io)?;
        }
        Ok(notes)
    }
}

impl PartFile {
    fn new(folder: &Path, part: &str) -> Result<Self, DataError> {
        let path = folder.join(format!("instances_{part}.json"));
        let io = |error| DataError::io(&path, error);
        let mut file = BufWriter::new(File::create(&path).map_err(io)?);
        file.write_all(b"{\"info\": {\"description\": \"written by sam-train\"},\n\"annotations\": [\n").map_err(io)?;
        Ok(Self { path, file, images: String::new(), n_annotations: 0, ignores: Vec::new() })
    }

    fn write(&mut self, annotation: &AnnotationJson<'_>) -> Result<(), DataError> {
        let line = self.json(annotation)?;
        let comma = if self.n_annotations > 0 { ",\n" } else { "" };
        self.n_annotations += 1;
        write!(self.file, "{comma}{line}").map_err(|error| DataError::io(&self.path, error))
    }

    fn json(&self, value: &impl Serialize) -> Result<String, DataError> {
        serde_json::to_string(value).map_err(|source| DataError::Json { path: self.path.clone(), what: "COCO", source })
    }
}

fn annotation(object: &ObjectMask, id: u64, image_id: u64, no_class: usize) -> AnnotationJson<'_> {
    let (caption, captions) = match object.captions.as_slice() {
        [caption] => (Some(caption.as_str()), &[][..]),
        captions => (None, captions),
    };
    AnnotationJson {
        id,
        image_id,
        category_id: object.class.map_or(no_class, |class| class + 1),
        iscrowd: 0,
        area: object.mask.area_px(),
        bbox: object.mask.bbox_xywh_px(),
        segmentation: RleJson::of(&object.mask),
        caption,
        captions,
    }
}
