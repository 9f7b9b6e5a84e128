//! Ground truth and detections as COCO and LVIS have them in JSON files: read, checked, written.
//!
//! Sources: `COCO.loadRes` and `annToRLE` of pycocotools 2.0.11, `LVISResults` of lvis 0.5.3. A segmentation is told by its
//! JSON type: a list is polygons, an object holds run lengths, compressed (text) or not (list). As there, the *first*
//! detection decides for all: when it has a box, areas come from the boxes (also for masks; that is why detectron2 leaves
//! the boxes out of mask results, and why [`Detections::to_json`] does), otherwise from the masks.
//!
//! Differs: what the packages pass over in silence or die of without a word is an error here: detections of unknown images
//! or categories, ids that occur twice, scores that are no numbers, masks of another size than the image.

use std::collections::{HashMap, HashSet};

use sam_image::{Rle, bbox_to_rle, polygons_to_rle};
use serde::{Deserialize, Serialize};

use crate::coco_ap::Categories;
use crate::error::EvalError;

/// What is to be found: the file of annotations.
#[derive(Clone, Debug)]
pub struct Truth {
    /// Path or name, for messages.
    pub name: String,
    /// All images, in the order of their ids.
    pub images: Vec<TruthImage>,
    /// All categories, in the order of their ids.
    pub categories: Vec<TruthCategory>,
    /// All objects, in the order of the file.
    pub objects: Vec<TruthObject>,
    pub(crate) image_index: HashMap<u64, usize>,
    pub(crate) category_index: HashMap<u64, usize>,
}

/// An image of the file.
#[derive(Clone, Debug, Deserialize)]
pub struct TruthImage {
    /// Its id.
    pub id: u64,
    /// Its height in pixels.
    pub height: usize,
    /// Its width in pixels.
    pub width: usize,
    /// LVIS: categories that were looked for and are not there.
    pub neg_category_ids: Option<Vec<u64>>,
    /// LVIS: categories of which not every object is annotated.
    pub not_exhaustive_category_ids: Option<Vec<u64>>,
}

/// A category of the file.
#[derive(Clone, Debug, Deserialize)]
pub struct TruthCategory {
    /// Its id.
    pub id: u64,
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// LVIS: r, c or f.
    pub frequency: Option<String>,
}

/// An annotated object.
#[derive(Clone, Debug, Deserialize)]
pub struct TruthObject {
    /// Its id.
    pub id: u64,
    /// Where it is.
    pub image_id: u64,
    /// What it is.
    pub category_id: u64,
    /// `[x, y, width, height]`
    #[serde(rename = "bbox")]
    pub box_xywh_px: Option<[f64; 4]>,
    /// As the file says, which need not be the mask's.
    #[serde(rename = "area")]
    pub area_px2: f64,
    /// 1 for a region with several objects: nothing that lies in it is wrong.
    #[serde(default)]
    pub iscrowd: u8,
    /// LVIS honours it; COCO overwrites it with `iscrowd`.
    #[serde(default)]
    pub ignore: u8,
    /// Its mask.
    pub segmentation: Option<Segmentation>,
}

/// A mask as it stands in a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Segmentation {
    /// Outlines `[x, y, x, y, ..]`; the object is their union.
    Polygons(Vec<Vec<f64>>),
    /// Column-major run lengths.
    Runs {
        /// `[height, width]`
        size: [usize; 2],
        /// Compressed or not.
        counts: Counts,
    },
}

/// Run lengths.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Counts {
    /// COCO's text form.
    Compressed(String),
    /// Plain.
    Plain(Vec<u32>),
}

/// What was found: the file of results.
#[derive(Clone, Debug)]
pub struct Detections {
    /// Path or name, for messages.
    pub name: String,
    /// In the order of the file, which decides between equal scores.
    pub all: Vec<Detection>,
}

/// One find.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Where.
    pub image_id: u64,
    /// What; may be absent when categories do not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category_id: Option<u64>,
    /// How sure.
    pub score: f64,
    /// `[x, y, width, height]`; COCO also writes an empty list for none.
    #[serde(rename = "bbox", default, skip_serializing_if = "Vec::is_empty")]
    pub box_xywh_px: Vec<f64>,
    /// Its mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub segmentation: Option<Segmentation>,
}

#[derive(Deserialize)]
struct TruthFile {
    images: Vec<TruthImage>,
    annotations: Vec<TruthObject>,
    categories: Vec<TruthCategory>,
}

impl Truth {
    /// Reads a file of annotations; `name` is for messages.
    ///
    /// # Errors
    ///
    /// When it is no such file, or its ids do not match.
    pub fn from_json(name: &str, text: &str) -> Result<Self, EvalError> {
        let expected = "a COCO or LVIS annotation file (images, annotations, categories)";
        let file: TruthFile =
            serde_json::from_str(text).map_err(|source| EvalError::Json { name: name.to_owned(), expected, source })?;
        Self::new(name, file.images, file.categories, file.annotations)
    }

    /// From parts made elsewhere.
    ///
    /// # Errors
    ///
    /// When ids do not match or occur twice, or a number is not finite.
    pub fn new(
        name: &str,
        mut images: Vec<TruthImage>,
        mut categories: Vec<TruthCategory>,
        objects: Vec<TruthObject>,
    ) -> Result<Self, EvalError> {
        images.sort_by_key(|image| image.id);
        categories.sort_by_key(|category| category.id);
        let duplicate = |what: &str, id: u64| EvalError::Duplicate { what: format!("{name}: {what} {id}") };
        let mut image_index = HashMap::new();
        for (at, image) in images.iter().enumerate() {
            if image_index.insert(image.id, at).is_some() {
                return Err(duplicate("image id", image.id));
            }
        }
        let mut category_index = HashMap::new();
        for (at, category) in categories.iter().enumerate() {
            if category_index.insert(category.id, at).is_some() {
                return Err(duplicate("category id", category.id));
            }
        }
        let mut ids = HashSet::new();
        for object in &objects {
            let what = format!("annotation {}", object.id);
            if !ids.insert(object.id) {
                return Err(duplicate("annotation id", object.id));
            }
            known(name, &what, "image", object.image_id, &image_index)?;
            known(name, &what, "category", object.category_id, &category_index)?;
            finite(name, &format!("{what}: area"), &[object.area_px2])?;
            finite(name, &format!("{what}: bbox"), object.box_xywh_px.as_ref().map_or(&[], |b| b.as_slice()))?;
        }
        Ok(Self { name: name.to_owned(), images, categories, objects, image_index, category_index })
    }

    /// Only these of its images, with what is in them.
    ///
    /// # Errors
    ///
    /// Never in practice; a part of what holds together does.
    pub fn of_images(self, is_kept: impl Fn(u64) -> bool) -> Result<Self, EvalError> {
        let images = self.images.into_iter().filter(|image| is_kept(image.id)).collect();
        let objects = self.objects.into_iter().filter(|object| is_kept(object.image_id)).collect();
        Self::new(&self.name, images, self.categories, objects)
    }

    /// Whether it has what only LVIS has.
    #[must_use]
    pub fn is_lvis(&self) -> bool {
        !self.categories.is_empty()
            && self.categories.iter().all(|category| category.frequency.is_some())
            && self.images.iter().all(|image| image.neg_category_ids.is_some())
    }
}

impl Detections {
    /// Reads a file of results; `name` is for messages.
    ///
    /// # Errors
    ///
    /// When it is no such file.
    pub fn from_json(name: &str, text: &str) -> Result<Self, EvalError> {
        let expected = "a COCO results file: a list of {image_id, category_id, score, bbox or segmentation}";
        let all =
            serde_json::from_str(text).map_err(|source| EvalError::Json { name: name.to_owned(), expected, source })?;
        Ok(Self { name: name.to_owned(), all })
    }

    /// As a results file of masks: boxes are left out, so that areas are the masks' (see above).
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

    /// Whether every detection can be evaluated against this truth: known images and categories, finite numbers, and boxes
    /// or masks for all.
    ///
    /// # Errors
    ///
    /// With the first detection that cannot.
    pub fn check_against(&self, truth: &Truth, categories: Categories) -> Result<(), EvalError> {
        self.check(truth, categories == Categories::PerClass)
    }

    /// Whether boxes say how large a detection is, for all of them.
    pub(crate) fn have_boxes(&self) -> bool {
        self.all.first().is_some_and(|first| !first.box_xywh_px.is_empty())
    }

    /// Whether every detection can be evaluated against this truth.
    pub(crate) fn check(&self, truth: &Truth, category_is_needed: bool) -> Result<(), EvalError> {
        let have_boxes = self.have_boxes();
        for (at, detection) in self.all.iter().enumerate() {
            let what = format!("detection {at} (from 0)");
            known(&self.name, &what, "image", detection.image_id, &truth.image_index)?;
            match detection.category_id {
                Some(id) => known(&self.name, &what, "category", id, &truth.category_index)?,
                None if category_is_needed => {
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
}

impl Detection {
    /// The box, where there is one.
    pub(crate) fn box_of_four(&self) -> Option<[f64; 4]> {
        self.box_xywh_px.as_slice().try_into().ok()
    }

    /// The mask; from the box when there is nothing else, as `loadRes` does.
    pub(crate) fn mask(&self, file: &str, size_hw: [usize; 2]) -> Result<Rle, EvalError> {
        match (&self.segmentation, self.box_of_four()) {
            (Some(segmentation), _) => segmentation.to_rle(file, "a detection", self.image_id, size_hw),
            (None, Some(box_xywh_px)) => bbox_to_rle(size_hw, box_xywh_px).map_err(EvalError::Image),
            (None, None) => Err(content(file, "a detection".to_owned(), "with a segmentation or a bbox", "neither")),
        }
    }
}

impl Segmentation {
    /// Compressed, as result files have it.
    #[must_use]
    pub fn from_rle(mask: &Rle) -> Self {
        Self::Runs { size: mask.size_hw(), counts: Counts::Compressed(mask.to_coco_string()) }
    }

    /// The mask, of the size of its image.
    pub(crate) fn to_rle(&self, file: &str, what: &str, image_id: u64, size_hw: [usize; 2]) -> Result<Rle, EvalError> {
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

pub(crate) fn content(name: &str, what: String, expected: &str, got: &str) -> EvalError {
    EvalError::Content { name: name.to_owned(), what, expected: expected.to_owned(), got: got.to_owned() }
}

fn known(name: &str, what: &str, kind: &str, id: u64, index: &HashMap<u64, usize>) -> Result<(), EvalError> {
    if index.contains_key(&id) {
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
