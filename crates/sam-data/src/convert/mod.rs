//! Converts a data set to COCO, SA-1B, YOLO, or label images.
//!
//! Masks are written as run lengths where the format has them, so holes and parts survive. [`ConvertReport::notes`]
//! lists what a format cannot represent and how much of it there was. Image files are copied byte for byte; images with
//! EXIF rotation are written upright as PNG, because readers disagree about such files. The output is written to a
//! temporary folder beside the target and renamed at the end, so it is complete or absent.

pub(crate) mod coco_writer;
mod labels_writer;
pub(crate) mod sa1b_writer;
mod yolo_writer;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use image::metadata::Orientation;
use rayon::prelude::*;
use sam_files::{sweep_unfinished, write_folder_atomically};
use sam_image::RgbImage;
use serde::{Deserialize, Serialize};

use crate::check::{Losses, survey};
use crate::convert::coco_writer::{CocoWriter, ImageEntry};
use crate::error::DataError;
use crate::formats::files;
use crate::formats::intensity::{decode_image, read_encoded};
use crate::source::{ImageObjects, Source};
use crate::source_options::OnBad;

/// Images processed at a time; their annotations are in memory together.
const BATCH: usize = 64;

/// The format to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConvertTo {
    /// COCO instances with compressed run lengths; one file per part of the split.
    Coco,
    /// A JSON file beside each image.
    Sa1b,
    /// 16-bit PNGs of instance ids.
    Labels,
    /// A text file of polygons per image.
    Yolo,
}

/// Handling of images outside the folder of the data set, which annotations or links can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutsideImages {
    /// Stop with an error before anything is written.
    #[default]
    Refuse,
    /// Copy them like others.
    Copy,
}

/// A conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conversion {
    /// The format to write.
    pub to: ConvertTo,
    /// Handling of images outside the folder of the data set.
    pub outside: OutsideImages,
}

/// Called from all threads with the number of written images and the total; a break ends the conversion with
/// [`DataError::Stopped`], and nothing is left of it.
pub type ConvertProgress<'a> = dyn Fn(usize, usize) -> ControlFlow<()> + Sync + 'a;

/// Summary of a conversion.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConvertReport {
    /// Images written.
    pub images: u64,
    /// Number of objects.
    pub objects: u64,
    /// What the format could not represent or what changed, one sentence each; empty if nothing was lost.
    pub notes: Vec<String>,
    /// What was lost while reading.
    pub losses: Losses,
}

/// Writes a data set in another format into a new folder. Images are read once before, and again when they are written.
///
/// # Errors
///
/// When the folder is not empty, bad data is not dropped ([`OnBad::Drop`]), a file cannot be written, or an image lies outside
/// the folder of the data set (see [`OutsideImages`]).
pub fn convert(
    source: &Source,
    out: &Path,
    conversion: Conversion,
    progress: &ConvertProgress<'_>,
) -> Result<ConvertReport, DataError> {
    let io = |error| DataError::io(out, error);
    if out.exists() && (!out.is_dir() || std::fs::read_dir(out).map_err(io)?.next().is_some()) {
        return Err(DataError::Option {
            key: "out",
            expected: "a new or empty folder".to_owned(),
            got: out.display().to_string(),
        });
    }
    let Conversion { to, outside } = conversion;
    if outside == OutsideImages::Refuse {
        reject_outside(source)?;
    }
    let n_both = 2 * source.len();
    let all: Vec<usize> = (0..source.len()).collect();
    let is_stopped = AtomicBool::new(false);
    let survey = survey(source, &all, &|done, _| {
        if progress(done, n_both).is_break() {
            is_stopped.store(true, Ordering::Relaxed);
        }
    });
    if is_stopped.into_inner() {
        return Err(DataError::Stopped);
    }
    if source.options().bad == OnBad::Refuse
        && let Some(error) = survey.refusal(source)
    {
        return Err(error);
    }
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(io)?;
        // Of conversions that were killed.
        sweep_unfinished(parent);
    }
    let readable: Vec<usize> = all.into_iter().filter(|&index| survey.is_readable(index)).collect();
    if readable.is_empty() {
        return Err(DataError::Content {
            path: source.root().to_path_buf(),
            what: "the data set".to_owned(),
            expected: "at least 1 image that can be read".to_owned(),
            got: format!("{} that cannot", source.len()),
            fix: "`data check` lists the reasons".to_owned(),
        });
    }
    let mut report = ConvertReport { losses: survey.losses, ..ConvertReport::default() };
    let work = Work { source, readable: &readable, to, progress };
    write_folder_atomically(out, io, |folder| work.write(folder, &mut report))?;
    Ok(report)
}

/// What is to be written.
struct Work<'a> {
    source: &'a Source,
    readable: &'a [usize],
    to: ConvertTo,
    progress: &'a ConvertProgress<'a>,
}

impl Work<'_> {
    fn write(&self, folder: &Path, report: &mut ConvertReport) -> Result<(), DataError> {
        let Self { source, readable, to, progress } = *self;
        let names = output_names(source, to)?;
        let mut writer = match to {
            ConvertTo::Coco => Writer::Coco(CocoWriter::new(folder, source.classes(), source.is_one_numbering())?),
            ConvertTo::Sa1b => Writer::Sa1b(sa1b_writer::Sa1bWriter::default()),
            ConvertTo::Labels => Writer::Labels(labels_writer::LabelsWriter::default()),
            ConvertTo::Yolo => Writer::Yolo(yolo_writer::YoloWriter::new(source.classes())),
        };
        let mut n_upright = 0;
        for batch in readable.chunks(BATCH) {
            let n_read = source.len() + report.images as usize;
            let batch: Vec<Written> = batch
                .par_iter()
                .map(|&index| {
                    let written = write_one(source, index, &names[index], to, folder)?;
                    match progress(n_read, 2 * source.len()) {
                        ControlFlow::Continue(()) => Ok(written),
                        ControlFlow::Break(()) => Err(DataError::Stopped),
                    }
                })
                .collect::<Result<_, _>>()?;
            for written in batch {
                report.images += 1;
                report.objects += written.annotations.objects.len() as u64;
                n_upright += usize::from(written.is_upright_copy);
                writer.add(source, &written)?;
            }
            let _ = progress(source.len() + report.images as usize, 2 * source.len());
        }
        report.notes = writer.finish(folder)?;
        if n_upright > 0 {
            report.notes.push(format!("{n_upright} images with EXIF rotation were written upright, as PNG"));
        }
        Ok(())
    }
}

/// Somebody else's annotations must not collect private files into a data set that is then given away.
fn reject_outside(source: &Source) -> Result<(), DataError> {
    let outside = |index: usize| source.image_place(index).ok().and_then(|place| source.outside(&place));
    let found: Vec<PathBuf> = (0..source.len()).into_par_iter().filter_map(outside).collect();
    let Some(first) = found.first() else { return Ok(()) };
    Err(DataError::Content {
        path: source.root().to_path_buf(),
        what: "images".to_owned(),
        expected: "inside the folder of the data set".to_owned(),
        got: format!("{} outside, such as {}", found.len(), first.display()),
        fix: "look at them with `data check`; then allow copying them (--copy-outside), or put them inside".to_owned(),
    })
}

enum Writer {
    Coco(CocoWriter),
    Sa1b(sa1b_writer::Sa1bWriter),
    Labels(labels_writer::LabelsWriter),
    Yolo(yolo_writer::YoloWriter),
}

impl Writer {
    fn add(&mut self, source: &Source, written: &Written) -> Result<(), DataError> {
        match self {
            Self::Coco(writer) => {
                let id = written.index as u64 + 1;
                let image = ImageEntry { part: source.given_split(written.index), id, file_name: &written.name };
                writer.add(&image, &written.annotations)
            }
            Self::Sa1b(writer) => {
                writer.add(written);
                Ok(())
            }
            Self::Labels(writer) => {
                writer.add(written);
                Ok(())
            }
            Self::Yolo(writer) => {
                writer.add(source.given_split(written.index), written);
                Ok(())
            }
        }
    }

    fn finish(self, folder: &Path) -> Result<Vec<String>, DataError> {
        match self {
            Self::Coco(writer) => writer.finish(),
            Self::Sa1b(writer) => Ok(writer.notes()),
            Self::Labels(writer) => Ok(writer.notes()),
            Self::Yolo(writer) => writer.finish(folder),
        }
    }
}

/// An image whose image file and own label file have been written.
struct Written {
    index: usize,
    /// File name relative to the folder of images.
    name: String,
    annotations: ImageObjects,
    is_upright_copy: bool,
    overlaps: labels_writer::Overlaps,
    polygons: yolo_writer::Polygons,
}

fn write_one(source: &Source, index: usize, name: &str, to: ConvertTo, out: &Path) -> Result<Written, DataError> {
    let annotations = source.objects(index)?;
    let place = source.image_place(index)?;
    let rule = source.read_rule();
    let encoded = read_encoded(&place, rule)?;
    let (bytes, header) = (&encoded.bytes, &encoded.header);
    let is_upright_copy = header.orientation != Orientation::NoTransforms;
    let name = if is_upright_copy { format!("{}.png", files::stem(name)) } else { name.to_owned() };
    let folder = match to {
        ConvertTo::Coco => source.given_split(index).unwrap_or("images").to_owned(),
        // SA-1B has images and JSON files side by side.
        ConvertTo::Sa1b => source.given_split(index).unwrap_or("").to_owned(),
        ConvertTo::Labels => match source.given_split(index) {
            Some(split) => format!("{split}/images"),
            None => "images".to_owned(),
        },
        ConvertTo::Yolo => format!("images/{}", yolo_part(source, index)),
    };
    let path = out.join(folder).join(&name);
    make_folder_of(&path)?;
    if is_upright_copy {
        let image = decode_image(bytes, &place.name(), header, rule)?;
        save_png(&image, &path)?;
    } else {
        std::fs::write(&path, bytes).map_err(|error| DataError::io(&path, error))?;
    }
    let mut overlaps = labels_writer::Overlaps::default();
    let mut polygons = yolo_writer::Polygons::default();
    match to {
        ConvertTo::Coco => {}
        ConvertTo::Sa1b => sa1b_writer::write_json(&path, index as u64 + 1, &annotations)?,
        ConvertTo::Labels => {
            let masks = match source.given_split(index) {
                Some(split) => format!("{split}/masks"),
                None => "masks".to_owned(),
            };
            let path = out.join(masks).join(format!("{}.png", files::stem(&name)));
            make_folder_of(&path)?;
            overlaps = labels_writer::write_labels(&path, &annotations)?;
        }
        ConvertTo::Yolo => {
            let labels = out.join("labels").join(yolo_part(source, index));
            let path = labels.join(format!("{}.txt", files::stem(&name)));
            make_folder_of(&path)?;
            polygons = yolo_writer::write_labels(&path, &annotations, source.classes().len())?;
        }
    }
    Ok(Written { index, name, annotations, is_upright_copy, overlaps, polygons })
}

fn yolo_part(source: &Source, index: usize) -> &'static str {
    yolo_writer::part_of(source.given_split(index))
}

/// Image names without the part's prefix, safe to join, and with distinct stems.
fn output_names(source: &Source, to: ConvertTo) -> Result<Vec<String>, DataError> {
    let mut stems = HashSet::with_capacity(source.len());
    let mut names = Vec::with_capacity(source.len());
    for index in 0..source.len() {
        let name = source.name(index);
        let split = source.given_split(index);
        // Data sets call the part `train`, `valid` or `val2017`; the output has a folder for it anyway.
        let own = match name.split_once('/') {
            Some((top, rest)) if split.is_some() && files::split_name(top) == split => rest,
            _ => &name,
        };
        let safe: PathBuf =
            Path::new(own).components().filter(|part| matches!(part, std::path::Component::Normal(_))).collect();
        let safe = safe.to_string_lossy().replace('\\', "/");
        let folder = if to == ConvertTo::Yolo { Some(yolo_part(source, index)) } else { split };
        if !stems.insert((folder.map(str::to_owned), files::stem(&safe).to_owned())) {
            return Err(DataError::Content {
                path: source.root().to_path_buf(),
                what: "image names".to_owned(),
                expected: "with distinct stems".to_owned(),
                got: format!("{safe} twice"),
                fix: "rename one of the images".to_owned(),
            });
        }
        names.push(safe);
    }
    Ok(names)
}

fn make_folder_of(path: &Path) -> Result<(), DataError> {
    match path.parent() {
        Some(folder) => std::fs::create_dir_all(folder).map_err(|error| DataError::io(folder, error)),
        None => Ok(()),
    }
}

fn save_png(image: &RgbImage, path: &Path) -> Result<(), DataError> {
    image
        .save_with_format(path, image::ImageFormat::Png)
        .map_err(|source| DataError::Encode { path: path.to_path_buf(), source: Box::new(source) })
}
