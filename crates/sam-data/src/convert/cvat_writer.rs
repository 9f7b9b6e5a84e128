//! CVAT: `annotations.xml` in the format "CVAT for images 1.1", and images in `images`, by part if there are several.
//!
//! Source: CVAT's `cvat.py` of its dataset manager, and the reader of datumaro. A mask is row-major run lengths inside its
//! box, unset first, so holes and parts survive. A data set with parts is a project, in which each part is a subset, another
//! one is a task.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::image_files::Written;
use super::markup::{colour, escaped};
use super::{NO_CLASS, no_class_note, row_runs};
use crate::error::DataError;
use crate::source::ImageObjects;

/// The subset of images that have no part, as CVAT calls it.
const NO_PART: &str = "default";

/// The `<mask>` elements of an image.
pub(super) fn masks(annotations: &ImageObjects, classes: &[String]) -> String {
    let mut text = String::new();
    for object in &annotations.objects {
        let Some(([left, top, width, height], runs)) = row_runs::in_box(&object.mask) else { continue };
        let label = object.class.map_or(NO_CLASS, |class| &classes[class]);
        let _ = write!(text, "    <mask label=\"{}\" source=\"manual\" occluded=\"0\" rle=\"", escaped(label));
        for (at, run) in runs.iter().enumerate() {
            let _ = write!(text, "{}{run}", if at == 0 { "" } else { ", " });
        }
        let _ = writeln!(
            text,
            "\" left=\"{left}\" top=\"{top}\" width=\"{width}\" height=\"{height}\" z_order=\"0\"></mask>"
        );
    }
    text
}

/// Images are appended to a file of their own first: CVAT's labels and subsets stand before them.
pub(super) struct CvatWriter {
    path: PathBuf,
    images_path: PathBuf,
    images: BufWriter<File>,
    classes: Vec<String>,
    /// The parts of the images so far.
    parts: BTreeSet<Option<String>>,
    n_images: u64,
    n_without_class: u64,
    n_ignores: u64,
}

impl CvatWriter {
    pub(super) fn new(folder: &Path, classes: &[String]) -> Result<Self, DataError> {
        let images_path = folder.join("images.xml.part");
        let file = File::create(&images_path).map_err(|error| DataError::io(&images_path, error))?;
        Ok(Self {
            path: folder.join("annotations.xml"),
            images_path,
            images: BufWriter::new(file),
            classes: classes.to_vec(),
            parts: BTreeSet::new(),
            n_images: 0,
            n_without_class: 0,
            n_ignores: 0,
        })
    }

    pub(super) fn add(&mut self, part: Option<&str>, written: &Written) -> Result<(), DataError> {
        let ImageObjects { size_hw: [height, width], objects, ignore, .. } = &written.annotations;
        let subset = part.map_or(String::new(), |part| format!(" subset=\"{}\"", escaped(part)));
        let name = escaped(&written.name);
        let (id, masks) = (self.n_images, &written.text);
        let image = format!("  <image id=\"{id}\" name=\"{name}\"{subset} width=\"{width}\" height=\"{height}\">\n");
        let written = writeln!(self.images, "{image}{masks}  </image>");
        written.map_err(|error| DataError::io(&self.images_path, error))?;
        self.parts.insert(part.map(str::to_owned));
        self.n_images += 1;
        self.n_without_class += objects.iter().filter(|object| object.class.is_none()).count() as u64;
        self.n_ignores += u64::from(ignore.is_some());
        Ok(())
    }

    /// Completes the file. Returns what the format could not represent, one sentence each.
    pub(super) fn finish(mut self) -> Result<Vec<String>, DataError> {
        let n_classes = self.classes.len();
        if self.n_without_class > 0 || n_classes == 0 {
            self.classes.push(NO_CLASS.to_owned());
        }
        self.images.flush().map_err(|error| DataError::io(&self.images_path, error))?;
        drop(self.images);
        let io = |error| DataError::io(&self.path, error);
        let mut file = BufWriter::new(File::create(&self.path).map_err(io)?);
        let meta = meta(&self.classes, &self.parts, self.n_images);
        write!(file, "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<annotations>\n{meta}").map_err(io)?;
        let mut images = sam_files::open_regular(&self.images_path).map_err(io)?;
        std::io::copy(&mut images, &mut file).map_err(io)?;
        file.write_all(b"</annotations>\n").and_then(|()| file.flush()).map_err(io)?;
        std::fs::remove_file(&self.images_path).map_err(io)?;
        let mut notes: Vec<String> = no_class_note("CVAT", self.n_without_class, n_classes).into_iter().collect();
        if self.n_ignores > 0 {
            notes.push(format!("CVAT has no ignore regions: those of {} images were lost", self.n_ignores));
        }
        Ok(notes)
    }
}

/// How CVAT opens it.
pub(super) fn hint() -> String {
    "CVAT: make a task of the folder images with the labels of annotations.xml, then upload that as \"CVAT 1.1\""
        .to_owned()
}

/// Version and `<meta>`: the labels, and the subsets where there are parts.
fn meta(classes: &[String], parts: &BTreeSet<Option<String>>, n_images: u64) -> String {
    let has_parts = parts.iter().any(Option::is_some);
    let of = if has_parts { "project" } else { "task" };
    let mut text = format!("  <version>1.1</version>\n  <meta>\n    <{of}>\n      <name>sam-train</name>\n");
    if !has_parts {
        let _ = writeln!(text, "      <size>{n_images}</size>\n      <mode>annotation</mode>");
    }
    text.push_str("      <labels>\n");
    for (class, name) in classes.iter().enumerate() {
        let _ = writeln!(
            text,
            "        <label>\n          <name>{}</name>\n          <color>{}</color>\n          <type>any</type>\n          \
             <attributes></attributes>\n        </label>",
            escaped(name),
            colour(class)
        );
    }
    text.push_str("      </labels>\n");
    if has_parts {
        text.push_str("      <tasks>\n");
        for part in parts {
            let part = escaped(part.as_deref().unwrap_or(NO_PART)).into_owned();
            let _ = writeln!(
                text,
                "        <task>\n          <name>{part}</name>\n          <subset>{part}</subset>\n        </task>"
            );
        }
        text.push_str("      </tasks>\n");
    }
    let _ = writeln!(text, "    </{of}>\n  </meta>");
    text
}
