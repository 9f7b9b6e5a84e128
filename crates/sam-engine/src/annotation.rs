//! The annotation file of an image: SA-1B's dict with keys of our own, which its readers ignore.
//!
//! Keys that somebody else has added are kept. As in the data set, boxes come from inclusive indices: width and height are one
//! less than the mask's.

use std::path::Path;

use sam_image::Rle;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::EngineError;
use crate::operation::{Applied, Identifier};

/// A whole file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AnnotationFile {
    /// The image and the state of its annotation.
    pub image: ImageRecord,
    /// Its masks, in the order they were made.
    pub annotations: Vec<MaskRecord>,
    /// Keys of others.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// `image`: SA-1B's keys, then ours.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImageRecord {
    /// A number from the name's hash.
    pub image_id: u64,
    /// Width in pixels, upright.
    pub width: usize,
    /// Height in pixels, upright.
    pub height: usize,
    /// Relative to the folder of images.
    pub file_name: String,
    /// Counts the changes.
    pub revision: u64,
    /// How far the image is.
    pub state: ImageState,
    /// The hash of the image's pixels, 16 hexadecimal digits.
    pub fingerprint: String,
    /// What a person wants to say about the image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Proposals that must not come again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rejected: Vec<RejectedProposal>,
    /// The newest operations, so that one that is sent again is answered as before, even by a restarted server.
    #[serde(default)]
    pub recent: Vec<Applied>,
    /// Keys of others.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// How far an image is. It is a decision of a person: an image without objects may be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageState {
    /// Nobody has worked on it.
    #[default]
    Todo,
    /// Has masks, and may miss some.
    Open,
    /// Every object that counts has its mask.
    Done,
    /// Not to be annotated.
    Skipped,
}

/// A proposal that a person has looked at and does not want.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RejectedProposal {
    /// The proposal's id.
    pub uuid: Identifier,
    /// Its mask: another model may propose it under another id.
    pub segmentation: Segmentation,
}

/// An entry of `annotations`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MaskRecord {
    /// Number within the file.
    pub id: u64,
    /// The mask.
    pub segmentation: Segmentation,
    /// `[x, y, width - 1, height - 1]`, as in SA-1B.
    pub bbox: [usize; 4],
    /// Number of pixels.
    pub area: usize,
    /// What the model said; 1 without a model.
    pub predicted_iou: f64,
    /// 1: a person has seen it.
    pub stability_score: f64,
    /// The whole image.
    pub crop_box: [usize; 4],
    /// The first positive click, or the middle of the box.
    pub point_coords: Vec<[f64; 2]>,
    /// Made by the client.
    pub uuid: Identifier,
    /// The image's revision when the mask was last changed.
    pub revision: u64,
    /// Who made it.
    pub source: MaskSource,
    /// One of the project's classes.
    pub class: Option<String>,
    /// What was typed and clicked.
    pub prompts: PromptRecord,
    /// From the first prompt to the commit, without long pauses.
    pub seconds: f64,
    /// Fingerprint of the checkpoint that predicted it.
    pub model: Option<String>,
    /// Keys of others.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Who made a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MaskSource {
    /// A person, with the brush alone.
    Manual,
    /// A person's prompts and the model.
    Assisted,
    /// The model's proposal, accepted as it was.
    Accepted,
    /// The model's proposal or an imported mask, changed by a person.
    Corrected,
    /// Another data set's, and nobody has looked at it here.
    Imported,
    /// The model's, and nobody has looked at it.
    Automatic,
}

impl MaskSource {
    /// Whether a person has made or seen the mask: only such masks measure a model.
    #[must_use]
    pub fn is_human(self) -> bool {
        !matches!(self, Self::Automatic | Self::Imported)
    }
}

/// Clicks and a box in pixels of the image, and a text.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptRecord {
    /// `[x, y, 1]` on the object, `[x, y, 0]` not on it.
    #[serde(default)]
    pub points: Vec<[f64; 3]>,
    /// `[x0, y0, x1, y1]`.
    #[serde(default, rename = "box")]
    pub box_xyxy_px: Option<[f64; 4]>,
    /// Strokes of brush and eraser.
    #[serde(default)]
    pub strokes: u32,
    /// What the object is called, as it was typed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// The longest text of a prompt: CLIP takes 77 tokens, which are words or parts of them.
const MAX_TEXT_CHARS: usize = 1000;

impl PromptRecord {
    /// Checks the text.
    pub(crate) fn check(&self) -> Result<(), EngineError> {
        let Some(text) = &self.text else { return Ok(()) };
        match text.chars().count() {
            1..=MAX_TEXT_CHARS if !text.trim().is_empty() => Ok(()),
            length => Err(EngineError::Invalid(format!(
                "a text must have 1 to {MAX_TEXT_CHARS} letters and say what to look for, got {length}"
            ))),
        }
    }
}

/// COCO's run lengths: column-major, compressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segmentation {
    /// `[height, width]`.
    pub size: [usize; 2],
    /// COCO's string.
    pub counts: String,
}

impl Segmentation {
    /// The file's form of a mask.
    #[must_use]
    pub fn of(mask: &Rle) -> Self {
        Self { size: mask.size_hw(), counts: mask.to_coco_string() }
    }

    /// The mask.
    ///
    /// # Errors
    ///
    /// When the runs do not fill the size.
    pub fn to_rle(&self) -> Result<Rle, sam_image::ImageError> {
        Rle::from_coco_string(self.size, self.counts.as_bytes())
    }
}

impl AnnotationFile {
    /// Reads a file; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When it cannot be read or is something else.
    pub fn read(path: &Path) -> Result<Option<Self>, EngineError> {
        let bytes = match sam_files::read_regular(path, sam_files::MAX_TEXT_BYTES) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(EngineError::Io { path: path.to_owned(), source }),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|source| EngineError::Json { path: path.to_owned(), source })
    }

    /// Replaces the file atomically, and waits until the disk has it.
    ///
    /// # Errors
    ///
    /// When it cannot be written; the old one is then still there.
    pub fn write(&self, path: &Path) -> Result<(), EngineError> {
        sam_files::write_atomically(path, self.to_json(path)?).map(drop).map_err(EngineError::io(path))
    }

    /// As [`AnnotationFile::write`], without waiting for the disk: for a copy that can be made again.
    pub(crate) fn write_unsynced(&self, path: &Path) -> Result<(), EngineError> {
        sam_files::write_unsynced(path, self.to_json(path)?).map_err(EngineError::io(path))
    }

    fn to_json(&self, path: &Path) -> Result<Vec<u8>, EngineError> {
        serde_json::to_vec(self).map_err(|source| EngineError::Json { path: path.to_owned(), source })
    }
}
