//! Labelme: a JSON beside each image, with a shape of the type `mask` per object.
//!
//! Source: `_label_file.py` of labelme 6. A mask is a PNG of 0 and 1 in base64, of the pixels between two corners, both
//! inclusive, so holes and parts survive. An ignore region is a shape with the label `__ignore__`, as labelme's converters have
//! it. Captions are the lines of a shape's description.

use std::path::Path;

use base64::Engine;
use sam_image::Rle;
use serde::Serialize;

use super::image_files::Written;
use super::{NO_CLASS, no_class_note};
use crate::error::DataError;
use crate::formats::labelme::{BACKGROUND, IGNORE};
use crate::source::ImageObjects;

/// A version of labelme that writes these keys.
const VERSION: &str = "5.5.0";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FileJson<'a> {
    version: &'static str,
    flags: Empty,
    shapes: Vec<ShapeJson<'a>>,
    image_path: &'a str,
    /// Null: the image lies beside the JSON.
    image_data: Option<String>,
    image_height: usize,
    image_width: usize,
}

#[derive(Serialize)]
struct ShapeJson<'a> {
    label: &'a str,
    points: [[usize; 2]; 2],
    group_id: Option<u64>,
    description: String,
    shape_type: &'static str,
    flags: Empty,
    mask: String,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Default)]
pub(super) struct LabelmeWriter {
    n_without_class: u64,
    n_reserved: u64,
}

impl LabelmeWriter {
    pub(super) fn add(&mut self, written: &Written, classes: &[String]) {
        let is_reserved = |class: usize| [IGNORE, BACKGROUND].contains(&classes[class].as_str());
        for object in &written.annotations.objects {
            self.n_without_class += u64::from(object.class.is_none());
            self.n_reserved += u64::from(object.class.is_some_and(is_reserved));
        }
    }

    pub(super) fn notes(&self, n_classes: usize) -> Vec<String> {
        let mut notes: Vec<String> = no_class_note("Labelme", self.n_without_class, n_classes).into_iter().collect();
        if self.n_reserved > 0 {
            notes.push(format!(
                "{} objects have a class called {IGNORE} or {BACKGROUND}, which is no object for labelme's converters",
                self.n_reserved
            ));
        }
        notes
    }
}

/// How labelme opens it.
pub(super) fn hint() -> String {
    "labelme: open the folder that was written; a version of 2024 or newer shows masks".to_owned()
}

/// Writes the JSON beside an image.
pub(super) fn write_json(image_path: &Path, annotations: &ImageObjects, classes: &[String]) -> Result<(), DataError> {
    let path = image_path.with_extension("json");
    let [image_height, image_width] = annotations.size_hw;
    let objects = annotations.objects.iter().map(|object| {
        let label = object.class.map_or(NO_CLASS, |class| &classes[class]);
        // A line break within a caption would make two of it.
        let lines: Vec<String> = object.captions.iter().map(|caption| caption.replace(['\n', '\r'], " ")).collect();
        (label, &object.mask, lines.join("\n"))
    });
    let mut shapes = Vec::with_capacity(annotations.objects.len());
    let ignored = annotations.ignore.iter().map(|mask| (IGNORE, mask, String::new()));
    for (label, mask, description) in objects.chain(ignored) {
        shapes.extend(shape(&path, label, mask)?.map(|shape| ShapeJson { description, ..shape }));
    }
    let file = FileJson {
        version: VERSION,
        flags: Empty {},
        shapes,
        image_path: &image_path.file_name().unwrap_or_default().to_string_lossy(),
        image_data: None,
        image_height,
        image_width,
    };
    let json = |source| DataError::Json { path: path.clone(), what: "Labelme", source };
    let text = serde_json::to_vec(&file).map_err(json)?;
    sam_files::write_unsynced(&path, text).map_err(|error| DataError::io(&path, error))
}

/// `None` for a mask without pixels.
fn shape<'a>(path: &Path, label: &'a str, mask: &Rle) -> Result<Option<ShapeJson<'a>>, DataError> {
    let Some([x0, y0, x1, y1]) = mask.bounds_xyxy_px() else { return Ok(None) };
    let pixels = mask.to_mask();
    let inside: Vec<u8> =
        (y0..y1).flat_map(|row| pixels.row(row)[x0..x1].iter().map(|&is_set| u8::from(is_set))).collect();
    let png = encode_grey8([y1 - y0, x1 - x0], &inside);
    let png = png.map_err(|source| DataError::Encode { path: path.to_path_buf(), source: Box::new(source) })?;
    Ok(Some(ShapeJson {
        label,
        points: [[x0, y0], [x1 - 1, y1 - 1]],
        group_id: None,
        description: String::new(),
        shape_type: "mask",
        flags: Empty {},
        mask: base64::engine::general_purpose::STANDARD.encode(png),
    }))
}

fn encode_grey8([height, width]: [usize; 2], pixels: &[u8]) -> Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(bytes)
}
