//! Ground truth and detections in the JSON formats of COCO and LVIS: reading, validation, writing.
//!
//! Sources: `COCO.loadRes` and `annToRLE` of pycocotools 2.0.11, `LVISResults` of lvis 0.5.3. The JSON type determines the
//! kind of a segmentation: a list is polygons, an object holds run lengths, compressed (text) or not (list). As in the
//! reference, the *first* detection decides for all: if it has a box, areas come from the boxes (also for masks; that is why
//! detectron2 omits the boxes from mask results, and why [`Detections::to_json`] does), otherwise from the masks.
//!
//! Differs: input that the packages silently ignore or crash on is an error here: detections of unknown images or
//! categories, duplicate ids, non-finite scores, masks whose size is not the image's.

use std::collections::{HashMap, HashSet};

use sam_data::{CocoId, IdTypes};
use sam_image::{Rle, bbox_to_rle, polygons_to_rle};
use serde::{Deserialize, Deserializer, Serialize};

use crate::error::EvalError;

/// The ground truth: a file of annotations.
#[derive(Clone, Debug)]
pub struct GroundTruth {
    /// Path or name, for error messages.
    pub name: String,
    /// All images, by id.
    pub images: Vec<CocoImage>,
    /// All categories, by id.
    pub categories: Vec<CocoCategory>,
    /// All annotations, in the order of the file.
    pub objects: Vec<CocoAnnotation>,
    pub(crate) image_index: HashMap<CocoId, usize>,
    pub(crate) category_index: HashMap<CocoId, usize>,
}

/// An image entry.
#[derive(Clone, Debug, Deserialize)]
pub struct CocoImage {
    /// The id.
    pub id: CocoId,
    /// Height in pixels.
    #[serde(deserialize_with = "whole")]
    pub height: usize,
    /// Width in pixels.
    #[serde(deserialize_with = "whole")]
    pub width: usize,
    /// LVIS: categories verified to be absent.
    pub neg_category_ids: Option<Vec<CocoId>>,
    /// LVIS: categories that are not exhaustively annotated.
    pub not_exhaustive_category_ids: Option<Vec<CocoId>>,
}

/// A category entry.
#[derive(Clone, Debug, Deserialize)]
pub struct CocoCategory {
    /// The id.
    pub id: CocoId,
    /// The name.
    #[serde(default)]
    pub name: String,
    /// LVIS: r, c or f.
    pub frequency: Option<String>,
}

/// An annotated object.
#[derive(Clone, Debug, Deserialize)]
pub struct CocoAnnotation {
    /// The id.
    pub id: CocoId,
    /// Id of the image.
    pub image_id: CocoId,
    /// Id of the category.
    pub category_id: CocoId,
    /// `[x, y, width, height]`
    #[serde(rename = "bbox")]
    pub box_xywh_px: Option<[f64; 4]>,
    /// Area as given in the file; may differ from the mask's.
    #[serde(rename = "area")]
    pub area_px2: f64,
    /// 1 for a region with several objects: detections in it are ignored.
    #[serde(default, deserialize_with = "flag")]
    pub iscrowd: u8,
    /// Used by LVIS; COCO overwrites it with `iscrowd`.
    #[serde(default, deserialize_with = "flag")]
    pub ignore: u8,
    /// The mask.
    pub segmentation: Option<Segmentation>,
}

/// A mask in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Segmentation {
    /// Polygons `[x, y, x, y, ..]`; the mask is their union.
    Polygons(Vec<Vec<f64>>),
    /// Column-major run lengths.
    Runs {
        /// `[height, width]`
        size: [usize; 2],
        /// The run lengths.
        counts: Counts,
    },
}

/// Run lengths of a mask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Counts {
    /// COCO's compressed text.
    Compressed(String),
    /// Plain numbers.
    Plain(Vec<u32>),
}

/// The detections: a file of results.
#[derive(Clone, Debug)]
pub struct Detections {
    /// Path or name, for error messages.
    pub name: String,
    /// In the order of the file, which decides ties between scores.
    pub all: Vec<Detection>,
}

/// A detection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Id of the image.
    pub image_id: CocoId,
    /// Id of the category; optional in class-agnostic evaluation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category_id: Option<CocoId>,
    /// The confidence.
    pub score: f64,
    /// `[x, y, width, height]`, or empty.
    #[serde(rename = "bbox", default, skip_serializing_if = "Vec::is_empty")]
    pub box_xywh_px: Vec<f64>,
    /// The mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segmentation: Option<Segmentation>,
}

/// Whether evaluation is per class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Categories {
    /// Detections match annotations of their class; means are over classes.
    PerClass,
    /// Classes are ignored.
    Agnostic,
}

#[derive(Deserialize)]
struct AnnotationFile {
    images: Vec<CocoImage>,
    annotations: Vec<CocoAnnotation>,
    categories: Vec<CocoCategory>,
}

impl GroundTruth {
    /// Parses a file of annotations; `name` is for error messages.
    ///
    /// # Errors
    ///
    /// When the format is another, or ids do not match.
    pub fn from_json(name: &str, text: &str) -> Result<Self, EvalError> {
        let expected = "a COCO or LVIS annotation file (images, annotations, categories)";
        let file: AnnotationFile =
            serde_json::from_str(text).map_err(|source| EvalError::Json { name: name.to_owned(), expected, source })?;
        Self::new(name, file.images, file.categories, file.annotations)
    }

    /// Creates a ground truth from its entries.
    ///
    /// # Errors
    ///
    /// When ids do not match or occur twice, or a number is not finite.
    pub fn new(
        name: &str,
        mut images: Vec<CocoImage>,
        mut categories: Vec<CocoCategory>,
        objects: Vec<CocoAnnotation>,
    ) -> Result<Self, EvalError> {
        images.sort_by(|a, b| a.id.cmp(&b.id));
        categories.sort_by(|a, b| a.id.cmp(&b.id));
        let duplicate = |what: &str, id: &CocoId| EvalError::Duplicate { what: format!("{name}: {what} {id}") };
        let mut image_index = HashMap::new();
        for (at, image) in images.iter().enumerate() {
            if image_index.insert(image.id.clone(), at).is_some() {
                return Err(duplicate("image id", &image.id));
            }
        }
        let mut category_index = HashMap::new();
        for (at, category) in categories.iter().enumerate() {
            if category_index.insert(category.id.clone(), at).is_some() {
                return Err(duplicate("category id", &category.id));
            }
        }
        let mut ids = HashSet::new();
        for object in &objects {
            let what = format!("annotation {}", object.id);
            if !ids.insert(&object.id) {
                return Err(duplicate("annotation id", &object.id));
            }
            known(name, &what, "image", &object.image_id, &image_index)?;
            known(name, &what, "category", &object.category_id, &category_index)?;
            finite(name, &format!("{what}: area"), &[object.area_px2])?;
            finite(name, &format!("{what}: bbox"), object.box_xywh_px.as_ref().map_or(&[], |b| b.as_slice()))?;
        }
        Ok(Self { name: name.to_owned(), images, categories, objects, image_index, category_index })
    }

    /// Keeps only some of the images, with their annotations.
    ///
    /// # Errors
    ///
    /// Never in practice: a subset of a valid ground truth is valid.
    pub fn of_images(self, is_kept: impl Fn(&CocoId) -> bool) -> Result<Self, EvalError> {
        let images = self.images.into_iter().filter(|image| is_kept(&image.id)).collect();
        let objects = self.objects.into_iter().filter(|object| is_kept(&object.image_id)).collect();
        Self::new(&self.name, images, self.categories, objects)
    }

    /// Whether the file has the LVIS-specific fields.
    #[must_use]
    pub fn is_lvis(&self) -> bool {
        !self.categories.is_empty()
            && self.categories.iter().all(|category| category.frequency.is_some())
            && self.images.iter().all(|image| image.neg_category_ids.is_some())
    }
}

impl Detections {
    /// Parses a file of results; `name` is for error messages.
    ///
    /// # Errors
    ///
    /// When the format is another.
    pub fn from_json(name: &str, text: &str) -> Result<Self, EvalError> {
        let expected = "a COCO results file: a list of {image_id, category_id, score, bbox or segmentation}";
        let all =
            serde_json::from_str(text).map_err(|source| EvalError::Json { name: name.to_owned(), expected, source })?;
        Ok(Self { name: name.to_owned(), all })
    }

    /// The results file of masks, without boxes, so that areas are taken from the masks (see above).
    ///
    /// # Errors
    ///
    /// When a detection has no mask.
    pub fn to_json(&self) -> Result<String, EvalError> {
        let mut without_boxes = self.all.clone();
        for (at, detection) in without_boxes.iter_mut().enumerate() {
            detection.box_xywh_px.clear();
            if detection.segmentation.is_none() {
                return Err(content(&self.name, format!("detection {at}"), "with a segmentation", "one without"));
            }
        }
        let expected = "writable as JSON";
        serde_json::to_string(&without_boxes).map_err(|source| EvalError::Json {
            name: self.name.clone(),
            expected,
            source,
        })
    }

    /// Checks that every detection can be evaluated against this ground truth: known images and categories, finite numbers,
    /// and boxes or masks for all.
    ///
    /// # Errors
    ///
    /// Names the first invalid detection.
    pub fn check_against(&self, ground_truth: &GroundTruth, categories: Categories) -> Result<(), EvalError> {
        let have_boxes = self.have_boxes();
        for (at, detection) in self.all.iter().enumerate() {
            let what = format!("detection {at} (from 0)");
            known(&self.name, &what, "image", &detection.image_id, &ground_truth.image_index)?;
            match &detection.category_id {
                Some(id) => known(&self.name, &what, "category", id, &ground_truth.category_index)?,
                None if categories == Categories::PerClass => {
                    return Err(content(
                        &self.name,
                        what,
                        "with a category_id when AP is taken per class",
                        "one without",
                    ));
                }
                None => {}
            }
            finite(&self.name, &format!("{what}: score"), &[detection.score])?;
            finite(&self.name, &format!("{what}: bbox"), &detection.box_xywh_px)?;
            if have_boxes && detection.box_xywh_px.len() != 4 {
                let got = format!("{} numbers", detection.box_xywh_px.len());
                return Err(content(&self.name, what, "with a bbox of 4 numbers, as the first one", &got));
            }
            if !have_boxes && detection.segmentation.is_none() {
                return Err(content(&self.name, what, "with a segmentation, as none has a bbox", "one without"));
            }
        }
        Ok(())
    }

    /// What the user should know about ids that are text here and integers in the ground truth, or the reverse.
    #[must_use]
    pub fn note_of_ids(&self, ground_truth: &GroundTruth) -> Option<String> {
        let listed: IdTypes = ground_truth.images.iter().map(|image| &image.id).collect();
        let used: IdTypes = self.all.iter().map(|detection| &detection.image_id).collect();
        let listed_categories: IdTypes = ground_truth.categories.iter().map(|category| &category.id).collect();
        let used_categories: IdTypes = self.all.iter().filter_map(|detection| detection.category_id.as_ref()).collect();
        let differ = [("image", listed.differ(used)), ("category", listed_categories.differ(used_categories))];
        let differ: Vec<&str> = differ.into_iter().filter(|(_, differs)| *differs).map(|(what, _)| what).collect();
        (!differ.is_empty()).then(|| {
            format!(
                "{} ids are text in one of {} and {}, and integers in the other; equal digits are taken as equal ids",
                differ.join(" and "),
                ground_truth.name,
                self.name
            )
        })
    }

    /// Whether the areas of all detections come from their boxes.
    pub(crate) fn have_boxes(&self) -> bool {
        self.all.first().is_some_and(|first| !first.box_xywh_px.is_empty())
    }
}

impl Detection {
    /// The box, if any.
    pub(crate) fn box_of_four(&self) -> Option<[f64; 4]> {
        self.box_xywh_px.as_slice().try_into().ok()
    }

    /// The mask, or the box as a mask, as in `loadRes`.
    pub(crate) fn mask(&self, file: &str, size_hw: [usize; 2]) -> Result<Rle, EvalError> {
        match (&self.segmentation, self.box_of_four()) {
            (Some(segmentation), _) => segmentation.to_rle(file, "a detection", &self.image_id, size_hw),
            (None, Some(box_xywh_px)) => bbox_to_rle(size_hw, box_xywh_px).map_err(EvalError::Image),
            (None, None) => Err(content(file, "a detection".to_owned(), "with a segmentation or a bbox", "neither")),
        }
    }
}

impl Segmentation {
    /// The compressed form, as in results files.
    #[must_use]
    pub fn from_rle(mask: &Rle) -> Self {
        Self::Runs { size: mask.size_hw(), counts: Counts::Compressed(mask.to_coco_string()) }
    }

    /// The mask in the size of its image.
    pub(crate) fn to_rle(
        &self,
        file: &str,
        what: &str,
        image_id: &CocoId,
        size_hw: [usize; 2],
    ) -> Result<Rle, EvalError> {
        let rle = match self {
            Self::Polygons(parts) => polygons_to_rle(size_hw, parts),
            Self::Runs { size, .. } if *size != size_hw => {
                return Err(EvalError::Size {
                    image: format!("{image_id} of {file}"),
                    what: format!("the mask of {what}"),
                    expected_hw: size_hw,
                    got_hw: *size,
                });
            }
            Self::Runs { size, counts: Counts::Compressed(text) } => Rle::from_coco_string(*size, text.as_bytes()),
            Self::Runs { size, counts: Counts::Plain(counts) } => Rle::new(*size, counts),
        };
        let what = format!("image {image_id}, {what}");
        rle.map_err(|source| EvalError::Mask { name: file.to_owned(), what, source })
    }
}

/// A side in pixels; pandas writes 640 as 640.0.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    let side = f64::deserialize(deserializer)?;
    match side.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&side) {
        true => Ok(side as usize),
        false => Err(serde::de::Error::custom(format!("a side in pixels must be a whole number, got {side}"))),
    }
}

/// 0 or 1, which some tools write as false or true.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u8, D::Error> {
    let value = serde_json::Value::deserialize(deserializer)?;
    match value.as_bool().or_else(|| value.as_f64().map(|number| number != 0.0)) {
        Some(is_set) => Ok(u8::from(is_set)),
        None => Err(serde::de::Error::custom(format!("must be 0 or 1, got {value}"))),
    }
}

pub(crate) fn content(name: &str, what: String, expected: &str, got: &str) -> EvalError {
    EvalError::Content { name: name.to_owned(), what, expected: expected.to_owned(), got: got.to_owned() }
}

fn known(name: &str, what: &str, kind: &str, id: &CocoId, index: &HashMap<CocoId, usize>) -> Result<(), EvalError> {
    if index.contains_key(id) {
        return Ok(());
    }
    let expected = format!("of one of the {} {} ids of the annotation file", index.len(), kind);
    Err(EvalError::Content { name: name.to_owned(), what: what.to_owned(), expected, got: format!("{kind}_id {id}") })
}

fn finite(name: &str, what: &str, numbers: &[f64]) -> Result<(), EvalError> {
    match numbers.iter().find(|number| !number.is_finite()) {
        None => Ok(()),
        Some(number) => Err(content(name, what.to_owned(), "finite", &number.to_string())),
    }
}
