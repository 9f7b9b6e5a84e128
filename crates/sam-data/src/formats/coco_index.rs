//! Index of a COCO file: images, classes, and the byte range of every annotation's `segmentation`.
//!
//! One pass with one window of the file in memory. An annotation costs 32 bytes; its polygons and captions stay in the file
//! and are parsed when a sample needs them, so a million annotations open in seconds and tens of megabytes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::captions::{CAPTION_KEYS, add_captions};
use crate::formats::ids::{CocoId, IdTypes};
use crate::formats::json_cursor::{JsonCursor, Span};
use crate::formats::names::Names;
use crate::formats::place::read_open_range;
use crate::formats::segmentation::SegmentationKind;
use crate::formats::{Listing, text};

/// A cursor over the file, or over its decoded text.
type Cursor<'a> = JsonCursor<Box<dyn Read + 'a>>;

/// One `.json` file, indexed.
#[derive(Debug)]
pub(crate) struct CocoIndex {
    pub(crate) path: PathBuf,
    pub(crate) names: Names,
    pub(crate) images: Vec<ImageRow>,
    /// Sorted by image; those of image `i` are `first[i]..first[i + 1]`.
    pub(crate) annotations: Vec<AnnotationRow>,
    pub(crate) first: Vec<u32>,
    /// Names of classes in the order of the file.
    pub(crate) categories: Vec<String>,
    /// Of annotations with a segmentation, in the order of the file.
    captions: Vec<CaptionRow>,
    /// The text of a file in UTF-16, which byte ranges refer to.
    decoded: Option<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct ImageRow {
    pub(crate) id: CocoId,
    /// 0 x 0 if the file does not state it.
    pub(crate) size_hw: [u32; 2],
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct AnnotationRow {
    pub(crate) id: u64,
    pub(crate) at: u64,
    pub(crate) len: u32,
    pub(crate) image: u32,
    /// Index into the categories.
    pub(crate) category: u32,
    pub(crate) kind: SegmentationKind,
    pub(crate) is_crowd: bool,
}

/// Where a caption of an annotation is. Those of one annotation are in the order of [`CAPTION_KEYS`].
#[derive(Clone, Copy, Debug)]
struct CaptionRow {
    /// Start of the annotation's segmentation, which no other one has.
    segmentation_at: u64,
    at: u64,
    len: u32,
    /// Index into [`CAPTION_KEYS`].
    key: u8,
}

/// Largest text of one annotation's captions that is read.
const MAX_CAPTION_BYTES: u32 = 1 << 20;

/// Marks an annotation without a listed class.
pub(crate) const NO_CATEGORY: u32 = u32::MAX;

#[derive(Deserialize)]
struct ImageJson {
    id: CocoId,
    #[serde(default)]
    file_name: Option<String>,
    #[serde(default)]
    coco_url: Option<String>,
    #[serde(default)]
    height: Option<f64>,
    #[serde(default)]
    width: Option<f64>,
}

#[derive(Deserialize)]
struct CategoryJson {
    id: CocoId,
    name: String,
}

/// An annotation before all images and classes are known.
struct Pending {
    row: AnnotationRow,
    image_key: u32,
    category_key: u32,
}

/// Maps ids to consecutive numbers.
#[derive(Default)]
struct Keys {
    keys: HashMap<CocoId, u32>,
}

impl Keys {
    fn key(&mut self, id: CocoId) -> u32 {
        let next = self.keys.len() as u32;
        *self.keys.entry(id).or_insert(next)
    }
}

impl CocoIndex {
    /// Indexes a file. Problems of single entries are added to the findings.
    pub(crate) fn read(path: &Path, listing: &mut Listing) -> Result<Self, DataError> {
        let decoded = text::read_utf16(path)?;
        let reader: Box<dyn Read + '_> = match &decoded {
            Some(text) => Box::new(text.as_bytes()),
            None => Box::new(sam_files::open_regular(path).map_err(|error| DataError::io(path, error))?),
        };
        let mut cursor = JsonCursor::new(reader, path)?;
        let mut scan = Scan::new(path);
        let mut key = Vec::new();
        let findings = &mut listing.findings;
        cursor.enter(b'{')?;
        while cursor.next_key(&mut key)? {
            match (key.as_slice(), cursor.peek()?) {
                (b"images", Some(b'[')) => scan.images(&mut cursor, findings)?,
                (b"annotations", Some(b'[')) => scan.annotations(&mut cursor, findings)?,
                (b"categories", Some(b'[')) => scan.categories(&mut cursor)?,
                _ => {
                    cursor.skip()?;
                }
            }
        }
        drop(cursor);
        scan.finish(decoded, listing)
    }

    /// Opens the file, to read the segmentations and captions of annotations.
    pub(crate) fn open(&self) -> Result<Texts<'_>, DataError> {
        Ok(match &self.decoded {
            Some(text) => Texts::Decoded(text.as_bytes()),
            None => Texts::File(
                sam_files::open_regular(&self.path).map_err(|error| DataError::io(&self.path, error))?,
                &self.path,
            ),
        })
    }

    pub(crate) fn annotations_of(&self, image: usize) -> &[AnnotationRow] {
        &self.annotations[self.first[image] as usize..self.first[image + 1] as usize]
    }

    /// The captions of an annotation, in the order of [`CAPTION_KEYS`].
    pub(crate) fn captions_of(
        &self,
        row: &AnnotationRow,
        texts: &mut Texts<'_>,
        findings: &mut Vec<Finding>,
    ) -> Result<Vec<String>, DataError> {
        let first = self.captions.partition_point(|caption| caption.segmentation_at < row.at);
        let of_row = self.captions[first..].iter().take_while(|caption| caption.segmentation_at == row.at);
        let mut captions = Vec::new();
        for caption in of_row {
            let key = CAPTION_KEYS[usize::from(caption.key)];
            if key == "raw" && !captions.is_empty() {
                // What was typed for the sentence that has been read.
                continue;
            }
            let added = if caption.len > MAX_CAPTION_BYTES {
                Err(format!("{key} must be at most {MAX_CAPTION_BYTES} bytes long, got {}", caption.len))
            } else {
                let text = texts.get(caption.at, caption.len)?;
                serde_json::from_slice(&text)
                    .map_err(|error| format!("{key} must be JSON: {error}"))
                    .and_then(|value| add_captions(key, &value, &mut captions))
            };
            if let Err(detail) = added {
                findings.push(Finding::new(ProblemKind::CaptionInvalid, self.place_of(row), detail));
            }
        }
        Ok(captions)
    }

    /// For messages: `instances.json, annotation 17`.
    pub(crate) fn place_of(&self, annotation: &AnnotationRow) -> String {
        format!("{}, annotation {}", self.path.display(), annotation.id)
    }
}

/// Where the text of segmentations and captions is read from.
pub(crate) enum Texts<'a> {
    File(File, &'a Path),
    Decoded(&'a [u8]),
}

impl Texts<'_> {
    pub(crate) fn segmentation(&mut self, row: &AnnotationRow) -> Result<Cow<'_, [u8]>, DataError> {
        self.get(row.at, row.len)
    }

    fn get(&mut self, at: u64, len: u32) -> Result<Cow<'_, [u8]>, DataError> {
        match self {
            Self::File(file, path) => read_open_range(file, path, at, u64::from(len)).map(Cow::Owned),
            Self::Decoded(text) => Ok(Cow::Borrowed(&text[at as usize..][..len as usize])),
        }
    }
}

struct Scan {
    path: PathBuf,
    names: Names,
    images: Vec<ImageRow>,
    pending: Vec<Pending>,
    captions: Vec<CaptionRow>,
    categories: Vec<String>,
    has_categories: bool,
    image_keys: Keys,
    /// Image by key; `u32::MAX` for an id that only annotations use.
    image_by_key: Vec<u32>,
    category_keys: Keys,
    category_by_key: Vec<u32>,
    /// Types of the ids under "images", of those that annotations refer to, and the same for categories.
    image_types: [IdTypes; 2],
    category_types: [IdTypes; 2],
}

impl Scan {
    fn new(path: &Path) -> Self {
        Self {
            path: path.to_path_buf(),
            names: Names::default(),
            images: Vec::new(),
            pending: Vec::new(),
            captions: Vec::new(),
            categories: Vec::new(),
            has_categories: false,
            image_keys: Keys::default(),
            image_by_key: Vec::new(),
            category_keys: Keys::default(),
            category_by_key: Vec::new(),
            image_types: Default::default(),
            category_types: Default::default(),
        }
    }

    /// Parses the next value of the cursor.
    fn parse<T: DeserializeOwned>(&self, cursor: &mut Cursor<'_>, raw: &mut Vec<u8>) -> Result<T, DataError> {
        let span = cursor.take_raw(raw)?;
        if let Err(error) = std::str::from_utf8(raw) {
            return Err(text::invalid_at(&self.path, span.at + error.valid_up_to() as u64));
        }
        serde_json::from_slice(raw).map_err(|source| DataError::Json { path: self.path.clone(), what: "COCO", source })
    }

    fn images(&mut self, cursor: &mut Cursor<'_>, findings: &mut Vec<Finding>) -> Result<(), DataError> {
        let mut raw = Vec::new();
        cursor.enter(b'[')?;
        while cursor.next_item()? {
            let image: ImageJson = self.parse(cursor, &mut raw)?;
            let id = image.id;
            self.image_types[0].note(&id);
            let place = || format!("{}, image {id}", self.path.display());
            let name = image
                .file_name
                .filter(|name| !name.is_empty())
                .or_else(|| image.coco_url.as_deref().and_then(name_of_url));
            let Some(name) = name else {
                findings.push(Finding::new(
                    ProblemKind::ImageMissing,
                    place(),
                    "neither file_name nor coco_url is given",
                ));
                continue;
            };
            let key = self.image_keys.key(id.clone());
            set_key(&mut self.image_by_key, key, |at| {
                if *at != u32::MAX {
                    findings.push(Finding::new(ProblemKind::ImageListedTwice, place(), "its id is listed twice"));
                }
                *at = self.images.len() as u32;
            });
            let side =
                |side: Option<f64>| side.filter(|&x| x >= 1.0 && x <= f64::from(u32::MAX)).map_or(0, |x| x as u32);
            let size_hw = [side(image.height), side(image.width)];
            self.images.push(ImageRow { id, size_hw: if size_hw.contains(&0) { [0, 0] } else { size_hw } });
            self.names.push(&name.replace('\\', "/"));
        }
        Ok(())
    }

    fn categories(&mut self, cursor: &mut Cursor<'_>) -> Result<(), DataError> {
        let mut raw = Vec::new();
        cursor.enter(b'[')?;
        while cursor.next_item()? {
            let category: CategoryJson = self.parse(cursor, &mut raw)?;
            self.category_types[0].note(&category.id);
            let key = self.category_keys.key(category.id);
            set_key(&mut self.category_by_key, key, |at| *at = self.categories.len() as u32);
            self.categories.push(category.name);
            self.has_categories = true;
        }
        Ok(())
    }

    fn annotations(&mut self, cursor: &mut Cursor<'_>, findings: &mut Vec<Finding>) -> Result<(), DataError> {
        let (mut key, mut raw) = (Vec::new(), Vec::new());
        let mut captions: Vec<(usize, Span)> = Vec::new();
        cursor.enter(b'[')?;
        while cursor.next_item()? {
            captions.clear();
            let mut id = None;
            let mut image = None;
            let mut category = None;
            let mut is_crowd = false;
            let mut segmentation = (SegmentationKind::None, Span { at: 0, len: 0 });
            cursor.enter(b'{')?;
            while cursor.next_key(&mut key)? {
                match key.as_slice() {
                    b"id" => {
                        cursor.take_raw(&mut raw)?;
                        id = CocoId::parse(&raw);
                    }
                    b"image_id" => {
                        cursor.take_raw(&mut raw)?;
                        image = CocoId::parse(&raw);
                    }
                    b"category_id" => {
                        cursor.take_raw(&mut raw)?;
                        category = CocoId::parse(&raw);
                    }
                    b"iscrowd" => {
                        cursor.take_raw(&mut raw)?;
                        is_crowd = matches!(raw.as_slice(), b"1" | b"true" | b"1.0");
                    }
                    b"segmentation" => {
                        let kind = match cursor.peek()? {
                            Some(b'[') => SegmentationKind::Polygons,
                            Some(b'{') => SegmentationKind::Rle,
                            _ => SegmentationKind::None,
                        };
                        segmentation = (kind, cursor.skip()?);
                    }
                    key => {
                        let span = cursor.skip()?;
                        let of_caption = CAPTION_KEYS.iter().position(|known| known.as_bytes() == key);
                        captions.extend(of_caption.map(|key| (key, span)));
                    }
                }
            }
            let ordinal = self.pending.len() as u64 + 1;
            let id = id.and_then(|id| id.as_u64()).unwrap_or(ordinal);
            let Some(image) = image else {
                findings.push(Finding::new(
                    ProblemKind::AnnotationOrphan,
                    format!("{}, annotation {id}", self.path.display()),
                    "it has no image_id",
                ));
                continue;
            };
            self.image_types[1].note(&image);
            category.iter().for_each(|category| self.category_types[1].note(category));
            let (kind, span) = segmentation;
            // Box-only tools write "[]".
            let kind = if span.len <= 2 { SegmentationKind::None } else { kind };
            if kind != SegmentationKind::None {
                // Without a mask there is no object to describe: the official files of captions have a million of these.
                captions.sort_unstable_by_key(|(key, _)| *key);
                self.captions.extend(captions.iter().map(|&(key, caption)| CaptionRow {
                    segmentation_at: span.at,
                    at: caption.at,
                    len: u32::try_from(caption.len).unwrap_or(u32::MAX),
                    key: key as u8,
                }));
            }
            self.pending.push(Pending {
                row: AnnotationRow {
                    id,
                    at: span.at,
                    len: u32::try_from(span.len).unwrap_or(u32::MAX),
                    image: 0,
                    category: NO_CATEGORY,
                    kind,
                    is_crowd,
                },
                image_key: self.image_keys.key(image),
                category_key: category.map_or(u32::MAX, |category| self.category_keys.key(category)),
            });
        }
        Ok(())
    }

    fn finish(self, decoded: Option<String>, listing: &mut Listing) -> Result<CocoIndex, DataError> {
        for (what, [listed, used]) in [("image", self.image_types), ("category", self.category_types)] {
            if listed.differ(used) {
                listing.notes.push(format!(
                    "{}: {what} ids are text in one place and integers in another; equal digits are taken as equal ids",
                    self.path.display()
                ));
            }
        }
        let findings = &mut listing.findings;
        let n_images = self.images.len();
        let mut first = vec![0u32; n_images + 1];
        let mut rows = Vec::with_capacity(self.pending.len());
        for Pending { mut row, image_key, category_key } in self.pending {
            let place = || format!("{}, annotation {}", self.path.display(), row.id);
            let Some(&image) = self.image_by_key.get(image_key as usize).filter(|&&image| image != u32::MAX) else {
                findings.push(Finding::new(
                    ProblemKind::AnnotationOrphan,
                    place(),
                    "its image_id is not listed under \"images\"",
                ));
                continue;
            };
            if category_key != u32::MAX && self.has_categories {
                row.category = self.category_by_key.get(category_key as usize).copied().unwrap_or(NO_CATEGORY);
                if row.category == NO_CATEGORY {
                    findings.push(Finding::new(
                        ProblemKind::CategoryUnknown,
                        place(),
                        "its category_id is not listed under \"categories\"",
                    ));
                    continue;
                }
            }
            row.image = image;
            first[image as usize + 1] += 1;
            rows.push(row);
        }
        for image in 0..n_images {
            first[image + 1] += first[image];
        }
        // Stable, so that objects keep the order of the file.
        rows.sort_by_key(|row| row.image);
        Ok(CocoIndex {
            path: self.path,
            names: self.names,
            images: self.images,
            annotations: rows,
            first,
            categories: self.categories,
            captions: self.captions,
            decoded,
        })
    }
}

fn set_key(by_key: &mut Vec<u32>, key: u32, set: impl FnOnce(&mut u32)) {
    let key = key as usize;
    if by_key.len() <= key {
        by_key.resize(key + 1, u32::MAX);
    }
    set(&mut by_key[key]);
}

/// LVIS mixes the folders train2017 and val2017, and identifies files by URL only.
fn name_of_url(url: &str) -> Option<String> {
    let mut parts = url.rsplit('/');
    let (file, folder) = (parts.next()?, parts.next()?);
    (!file.is_empty() && !folder.is_empty()).then(|| format!("{folder}/{file}"))
}
