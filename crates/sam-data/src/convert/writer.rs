//! The writer of each format: what belongs to all images together, and the notes.

use std::path::Path;

use super::coco_writer::{CocoWriter, ImageEntry};
use super::cvat_writer::{self, CvatWriter};
use super::image_files::Written;
use super::label_studio_writer::{self, LabelStudioWriter};
use super::labelme_writer::{self, LabelmeWriter};
use super::labels_writer::LabelsWriter;
use super::sa1b_writer::Sa1bWriter;
use super::yolo_writer::YoloWriter;
use super::{ConvertTo, coco_writer};
use crate::error::DataError;
use crate::source::Source;

pub(super) enum Writer {
    Coco(CocoWriter),
    Sa1b(Sa1bWriter),
    Labels(LabelsWriter),
    Yolo(YoloWriter),
    Cvat(CvatWriter),
    LabelStudio(LabelStudioWriter),
    Labelme(LabelmeWriter),
}

impl Writer {
    pub(super) fn new(source: &Source, to: ConvertTo, folder: &Path) -> Result<Self, DataError> {
        let classes = source.classes();
        Ok(match to {
            ConvertTo::Coco => Self::Coco(CocoWriter::new(folder, classes, source.is_one_numbering())?),
            ConvertTo::Sa1b => Self::Sa1b(Sa1bWriter::default()),
            ConvertTo::Labels => Self::Labels(LabelsWriter::default()),
            ConvertTo::Yolo => Self::Yolo(YoloWriter::new(classes)),
            ConvertTo::Cvat => Self::Cvat(CvatWriter::new(folder, classes)?),
            ConvertTo::LabelStudio => Self::LabelStudio(LabelStudioWriter::new(folder, classes)?),
            ConvertTo::Labelme => Self::Labelme(LabelmeWriter::default()),
        })
    }

    pub(super) fn add(&mut self, source: &Source, written: &Written) -> Result<(), DataError> {
        let part = source.given_split(written.index);
        match self {
            Self::Coco(writer) => {
                let id = written.index as u64 + 1;
                // CVAT and datumaro open no file without a part.
                let part = part.unwrap_or(coco_writer::NO_PART);
                let image = ImageEntry { part, id, file_name: &written.name };
                writer.add(&image, &written.annotations)?;
            }
            Self::Sa1b(writer) => writer.add(written),
            Self::Labels(writer) => writer.add(written),
            Self::Yolo(writer) => writer.add(part, written),
            Self::Cvat(writer) => writer.add(part, written)?,
            Self::LabelStudio(writer) => writer.add(part, written)?,
            Self::Labelme(writer) => writer.add(written, source.classes()),
        }
        Ok(())
    }

    /// Completes the files. Returns what the format could not represent, one sentence each.
    pub(super) fn finish(self, source: &Source, folder: &Path) -> Result<Vec<String>, DataError> {
        match self {
            Self::Coco(writer) => writer.finish(),
            Self::Sa1b(writer) => Ok(writer.notes()),
            Self::Labels(writer) => Ok(writer.notes()),
            Self::Yolo(writer) => writer.finish(folder),
            Self::Cvat(writer) => writer.finish(),
            Self::LabelStudio(writer) => writer.finish(),
            Self::Labelme(writer) => Ok(writer.notes(source.classes().len())),
        }
    }

    /// How the program that the format belongs to opens the folder.
    pub(super) fn hint(to: ConvertTo) -> Option<String> {
        match to {
            ConvertTo::Coco | ConvertTo::Sa1b | ConvertTo::Labels | ConvertTo::Yolo => None,
            ConvertTo::Cvat => Some(cvat_writer::hint()),
            ConvertTo::LabelStudio => Some(label_studio_writer::hint()),
            ConvertTo::Labelme => Some(labelme_writer::hint()),
        }
    }
}
