//! COCO: `annotations/instances_PART.json` with compressed run lengths, images in a folder per part.
//!
//! Annotations are written as they come, so a large data set needs no memory; only the short entries of images wait for the end.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use sam_image::Rle;
use serde::Serialize;

use super::Written;
use crate::error::DataError;
use crate::sample::ObjectMask;
use crate::source::Source;

/// What objects without a class are called, as COCO wants a class for each.
const NO_CLASS: &str = "object";

#[derive(Serialize)]
struct ImageJson<'a> {
    id: u64,
    file_name: &'a str,
    height: usize,
    width: usize,
}

#[derive(Serialize)]
struct AnnotationJson {
    id: u64,
    image_id: u64,
    category_id: usize,
    iscrowd: u8,
    area: usize,
    bbox: [usize; 4],
    segmentation: RleJson,
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

pub(super) struct CocoWriter {
    folder: PathBuf,
    files: BTreeMap<Option<String>, PartFile>,
    /// Whether ids of the source are unique over all images and stay.
    keeps_ids: bool,
    last_id: u64,
    n_without_class: u64,
    has_classes: bool,
}

struct PartFile {
    path: PathBuf,
    file: BufWriter<File>,
    images: String,
    n_annotations: u64,
    /// Ignore regions wait until all ids of objects are known.
    ignores: Vec<(u64, Rle)>,
}

impl CocoWriter {
    pub(super) fn new(source: &Source, out: &Path) -> Result<Self, DataError> {
        let folder = out.join("annotations");
        std::fs::create_dir_all(&folder).map_err(|error| DataError::io(&folder, error))?;
        Ok(Self {
            folder,
            files: BTreeMap::new(),
            keeps_ids: source.is_one_numbering(),
            last_id: 0,
            n_without_class: 0,
            has_classes: !source.classes().is_empty(),
        })
    }

    pub(super) fn add(&mut self, source: &Source, written: &Written) -> Result<(), DataError> {
        let part = source.given_split(written.index).map(str::to_owned);
        let image_id = written.index as u64 + 1;
        let no_class = source.classes().len() + 1;
        let mut lines = Vec::with_capacity(written.annotations.objects.len());
        for object in &written.annotations.objects {
            let id = if self.keeps_ids { object.id } else { self.last_id + 1 };
            self.last_id = self.last_id.max(id);
            self.n_without_class += u64::from(object.class.is_none());
            lines.push(annotation(object, id, image_id, no_class));
        }
        let folder = &self.folder;
        let file = match self.files.entry(part) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => {
                let file = PartFile::new(folder, entry.key().as_deref())?;
                entry.insert(file)
            }
        };
        let [height, width] = written.annotations.size_hw;
        let image = ImageJson { id: image_id, file_name: &written.name, height, width };
        if !file.images.is_empty() {
            file.images.push_str(",\n");
        }
        file.images.push_str(&file.json(&image)?);
        for line in lines {
            file.write(&line)?;
        }
        if let Some(ignore) = &written.annotations.ignore {
            file.ignores.push((image_id, ignore.clone()));
        }
        Ok(())
    }

    pub(super) fn finish(mut self, source: &Source) -> Result<Vec<String>, DataError> {
        let mut categories: Vec<_> =
            source.classes().iter().enumerate().map(|(class, name)| CategoryJson { id: class + 1, name }).collect();
        let has_ignores = self.files.values().any(|file| !file.ignores.is_empty());
        if self.n_without_class > 0 || has_ignores && categories.is_empty() {
            categories.push(CategoryJson { id: categories.len() + 1, name: NO_CLASS });
        }
        let mut notes = Vec::new();
        if self.n_without_class > 0 && self.has_classes {
            notes.push(format!("{} objects without a class got the class \"{NO_CLASS}\"", self.n_without_class));
        } else if self.n_without_class > 0 {
            notes.push(format!("COCO needs a class: all objects got the class \"{NO_CLASS}\""));
        }
        if has_ignores {
            notes.push(
                "ignore regions were written as one crowd annotation per image; their classes were not known"
                    .to_owned(),
            );
        }
        if !self.keeps_ids {
            notes.push("objects were numbered anew, because COCO's ids are unique over all images".to_owned());
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
    fn new(folder: &Path, part: Option<&str>) -> Result<Self, DataError> {
        let path =
            folder.join(part.map_or_else(|| "instances.json".to_owned(), |part| format!("instances_{part}.json")));
        let io = |error| DataError::io(&path, error);
        let mut file = BufWriter::new(File::create(&path).map_err(io)?);
        file.write_all(b"{\"info\": {\"description\": \"converted by sam-train\"},\n\"annotations\": [\n")
            .map_err(io)?;
        Ok(Self { path, file, images: String::new(), n_annotations: 0, ignores: Vec::new() })
    }

    fn write(&mut self, annotation: &AnnotationJson) -> Result<(), DataError> {
        let line = self.json(annotation)?;
        let comma = if self.n_annotations > 0 { ",\n" } else { "" };
        self.n_annotations += 1;
        write!(self.file, "{comma}{line}").map_err(|error| DataError::io(&self.path, error))
    }

    fn json(&self, value: &impl Serialize) -> Result<String, DataError> {
        serde_json::to_string(value).map_err(|source| DataError::Json { path: self.path.clone(), what: "COCO", source })
    }
}

fn annotation(object: &ObjectMask, id: u64, image_id: u64, no_class: usize) -> AnnotationJson {
    AnnotationJson {
        id,
        image_id,
        category_id: object.class.map_or(no_class, |class| class + 1),
        iscrowd: 0,
        area: object.mask.area_px(),
        bbox: object.mask.bbox_xywh_px(),
        segmentation: RleJson::of(&object.mask),
    }
}
