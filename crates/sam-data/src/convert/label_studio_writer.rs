//! Label Studio: `tasks.json` of annotated tasks, `label_config.xml` for the project, and images in `images`.
//!
//! Source: Label Studio's guide on importing pre-annotated data, and `brush.py` of its converter. Masks are brush labels in
//! its own run lengths ([`brush_rle`]), so holes and parts survive. An image is named by an address that its local storage
//! serves, relative to the folder that is written.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;

use super::image_files::Written;
use super::markup::{colour, escaped};
use super::{NO_CLASS, brush_rle, no_class_note};
use crate::error::DataError;
use crate::formats::files;
use crate::source::ImageObjects;

/// The names of the tags in `label_config.xml`, to which the results refer.
const BRUSH_TAG: &str = "label";
const IMAGE_TAG: &str = "image";
/// Where the server of local files answers; the path follows.
const LOCAL_FILES: &str = "/data/local-files/?d=";
/// All but what is the same in every part of an address.
const ESCAPED: AsciiSet = NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'_').remove(b'.').remove(b'~');

#[derive(Serialize)]
struct ResultJson<'a> {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    from_name: &'static str,
    to_name: &'static str,
    original_width: usize,
    original_height: usize,
    image_rotation: u32,
    value: ValueJson<'a>,
}

#[derive(Serialize)]
struct ValueJson<'a> {
    format: &'static str,
    rle: Vec<u8>,
    brushlabels: [&'a str; 1],
}

#[derive(Serialize)]
struct DataJson<'a> {
    image: String,
    /// Label Studio keeps what else is in `data`, and filters by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    part: Option<&'a str>,
}

/// The results of an image as JSON, a line each.
pub(super) fn results(path: &Path, annotations: &ImageObjects, classes: &[String]) -> Result<String, DataError> {
    let [original_height, original_width] = annotations.size_hw;
    let mut text = String::new();
    for (at, object) in annotations.objects.iter().enumerate() {
        let label = object.class.map_or(NO_CLASS, |class| &classes[class]);
        let result = ResultJson {
            id: format!("mask-{}", at + 1),
            kind: "brushlabels",
            from_name: BRUSH_TAG,
            to_name: IMAGE_TAG,
            original_width,
            original_height,
            image_rotation: 0,
            value: ValueJson { format: "rle", rle: brush_rle::encode(&object.mask), brushlabels: [label] },
        };
        text.push_str(if at == 0 { "\n" } else { ",\n" });
        text.push_str(&json(path, &result)?);
    }
    Ok(text)
}

fn json(path: &Path, value: &impl Serialize) -> Result<String, DataError> {
    let error = |source| DataError::Json { path: path.to_path_buf(), what: "Label Studio", source };
    serde_json::to_string(value).map_err(error)
}

/// Writes a task per image.
pub(super) struct LabelStudioWriter {
    path: PathBuf,
    file: BufWriter<File>,
    classes: Vec<String>,
    n_images: u64,
    n_tiff: u64,
    n_without_class: u64,
    n_ignores: u64,
}

impl LabelStudioWriter {
    pub(super) fn new(folder: &Path, classes: &[String]) -> Result<Self, DataError> {
        let path = folder.join("tasks.json");
        let io = |error| DataError::io(&path, error);
        let mut file = BufWriter::new(File::create(&path).map_err(io)?);
        file.write_all(b"[\n").map_err(io)?;
        let classes = classes.to_vec();
        Ok(Self { path, file, classes, n_images: 0, n_tiff: 0, n_without_class: 0, n_ignores: 0 })
    }

    pub(super) fn add(&mut self, part: Option<&str>, written: &Written) -> Result<(), DataError> {
        let ImageObjects { objects, ignore, .. } = &written.annotations;
        let folder = part.map_or_else(|| "images".to_owned(), |part| format!("images/{part}"));
        let below = format!("{folder}/{}", written.name);
        let image = format!("{LOCAL_FILES}{}", utf8_percent_encode(&below, &ESCAPED));
        let data = json(&self.path, &DataJson { image, part })?;
        let comma = if self.n_images > 0 { ",\n" } else { "" };
        let task = format!("{comma}{{\"data\": {data}, \"annotations\": [{{\"result\": [{}]}}]}}", written.text);
        self.file.write_all(task.as_bytes()).map_err(|error| DataError::io(&self.path, error))?;
        self.n_images += 1;
        self.n_tiff += u64::from(["tif", "tiff"].iter().any(|tiff| files::has_extension(&written.name, tiff)));
        self.n_without_class += objects.iter().filter(|object| object.class.is_none()).count() as u64;
        self.n_ignores += u64::from(ignore.is_some());
        Ok(())
    }

    /// Completes the files. Returns what the format could not represent, one sentence each.
    pub(super) fn finish(mut self) -> Result<Vec<String>, DataError> {
        let n_classes = self.classes.len();
        if self.n_without_class > 0 || n_classes == 0 {
            self.classes.push(NO_CLASS.to_owned());
        }
        let written = self.file.write_all(b"\n]\n").and_then(|()| self.file.flush());
        written.map_err(|error| DataError::io(&self.path, error))?;
        let path = self.path.with_file_name("label_config.xml");
        std::fs::write(&path, label_config(&self.classes)).map_err(|error| DataError::io(&path, error))?;
        let mut notes: Vec<String> =
            no_class_note("Label Studio", self.n_without_class, n_classes).into_iter().collect();
        if self.n_ignores > 0 {
            notes.push(format!("Label Studio has no ignore regions: those of {} images were lost", self.n_ignores));
        }
        if self.n_tiff > 0 {
            notes.push(format!(
                "{} images are TIFF, which browsers do not show: convert them to PNG before",
                self.n_tiff
            ));
        }
        Ok(notes)
    }
}

/// How Label Studio finds the images.
pub(super) fn hint() -> String {
    "Label Studio: start it with LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED=true and LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT set to \
     this folder, give the project label_config.xml and the folder images as local storage, then import tasks.json"
        .to_owned()
}

fn label_config(classes: &[String]) -> String {
    let mut text = format!(
        "<View>\n  <Image name=\"{IMAGE_TAG}\" value=\"$image\" zoom=\"true\" zoomControl=\"true\"/>\n  <BrushLabels name=\"{BRUSH_TAG}\" \
         toName=\"{IMAGE_TAG}\">\n"
    );
    for (class, name) in classes.iter().enumerate() {
        let _ = writeln!(text, "    <Label value=\"{}\" background=\"{}\"/>", escaped(name), colour(class));
    }
    text.push_str("  </BrushLabels>\n</View>\n");
    text
}
