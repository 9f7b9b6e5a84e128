//! Converts a data set, or a selection of it, to the formats of trainers and labelling programs.
//!
//! Masks are written as run lengths or bitmaps where the format has them, so holes and parts survive. [`ConvertReport::notes`]
//! lists what a format cannot represent and how much of it there was. Image files are copied byte for byte; images with
//! EXIF rotation are written upright as PNG, because readers disagree about such files. The output is written to a
//! temporary folder beside the target and renamed at the end, so it is complete or absent.

mod brush_rle;
pub(crate) mod coco_writer;
mod cvat_writer;
mod image_files;
mod label_studio_writer;
mod labelme_writer;
mod labels_writer;
mod markup;
mod row_runs;
pub(crate) mod sa1b_writer;
mod writer;
mod yolo_writer;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;
use sam_files::{sweep_unfinished, write_folder_atomically};
use serde::{Deserialize, Serialize};

use crate::check::{Losses, survey};
use crate::error::DataError;
use crate::sample::ObjectMask;
use crate::source::Source;
use crate::source_options::OnBad;
use image_files::{ImageFiles, Written, output_names};
use writer::Writer;

/// Images processed at a time; their annotations are in memory together.
const BATCH: usize = 64;

/// Class name for objects without a class, in formats that require one.
const NO_CLASS: &str = "object";

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
    /// CVAT for images 1.1: one XML file.
    Cvat,
    /// Label Studio: a file of annotated tasks, and the project's configuration.
    LabelStudio,
    /// Labelme: a JSON file beside each image.
    Labelme,
}

impl ConvertTo {
    /// Whether objects keep their captions.
    fn holds_captions(self) -> bool {
        matches!(self, Self::Coco | Self::Labelme)
    }
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

/// The part of a data set that is converted.
#[derive(Clone, Copy)]
pub struct Selection<'a> {
    /// Indices of its images.
    pub images: &'a [usize],
    /// Whether an object of an image is written, by the image's index.
    pub keeps: &'a (dyn Fn(usize, &ObjectMask) -> bool + Sync),
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
    /// How the program that the format belongs to opens the folder; empty for formats that need no word.
    #[serde(default)]
    pub hints: Vec<String>,
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
    let images: Vec<usize> = (0..source.len()).collect();
    convert_selection(source, out, conversion, Selection { images: &images, keeps: &|_, _| true }, progress)
}

/// As [`convert`], of some images and objects.
///
/// # Errors
///
/// As [`convert`].
///
/// # Panics
///
/// When there is no such image.
pub fn convert_selection(
    source: &Source,
    out: &Path,
    conversion: Conversion,
    selection: Selection<'_>,
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
        reject_outside(source, selection.images)?;
    }
    let (losses, readable) = look_at(source, selection.images, progress)?;
    if let Some(parent) = out.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::create_dir_all(parent).map_err(io)?;
        // Of conversions that were killed.
        sweep_unfinished(parent);
    }
    let mut report = ConvertReport { losses, ..ConvertReport::default() };
    let work = Work { source, selection, readable: &readable, to, progress };
    write_folder_atomically(out, io, |folder| work.write(folder, &mut report))?;
    Ok(report)
}

/// Reads everything once: what is lost, and the images that can be read.
fn look_at(
    source: &Source,
    images: &[usize],
    progress: &ConvertProgress<'_>,
) -> Result<(Losses, Vec<usize>), DataError> {
    let is_stopped = AtomicBool::new(false);
    let survey = survey(source, images, &|done, _| {
        if progress(done, 2 * images.len()).is_break() {
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
    let readable: Vec<usize> = images.iter().copied().filter(|&index| survey.is_readable(index)).collect();
    if readable.is_empty() {
        return Err(DataError::Content {
            path: source.root().to_path_buf(),
            what: "the data set".to_owned(),
            expected: "at least 1 image that can be read".to_owned(),
            got: format!("{} that cannot", images.len()),
            fix: "`data check` lists the reasons".to_owned(),
        });
    }
    Ok((survey.losses, readable))
}

/// What is to be written.
struct Work<'a> {
    source: &'a Source,
    selection: Selection<'a>,
    readable: &'a [usize],
    to: ConvertTo,
    progress: &'a ConvertProgress<'a>,
}

impl Work<'_> {
    fn write(&self, folder: &Path, report: &mut ConvertReport) -> Result<(), DataError> {
        let Self { source, selection, readable, to, progress } = *self;
        let names = output_names(source, readable, to)?;
        let files = ImageFiles { source, to, keeps: selection.keeps, out: folder };
        let mut writer = Writer::new(source, to, folder)?;
        let n_read = selection.images.len();
        let (mut n_upright, mut n_captioned) = (0, 0);
        let all: Vec<(usize, &String)> = readable.iter().copied().zip(&names).collect();
        for batch in all.chunks(BATCH) {
            let n_done = n_read + report.images as usize;
            let batch: Vec<Written> = batch
                .par_iter()
                .map(|&(index, name)| {
                    let written = files.write(index, name)?;
                    match progress(n_done, 2 * n_read) {
                        ControlFlow::Continue(()) => Ok(written),
                        ControlFlow::Break(()) => Err(DataError::Stopped),
                    }
                })
                .collect::<Result<_, _>>()?;
            for written in batch {
                report.images += 1;
                report.objects += written.annotations.objects.len() as u64;
                n_upright += usize::from(written.is_upright_copy);
                n_captioned += written.annotations.objects.iter().filter(|object| !object.captions.is_empty()).count();
                writer.add(source, &written)?;
            }
            let _ = progress(n_read + report.images as usize, 2 * n_read);
        }
        report.notes = writer.finish(source, folder)?;
        if n_captioned > 0 && !to.holds_captions() {
            report
                .notes
                .push(format!("the captions of {n_captioned} objects were left out: only COCO and Labelme hold them"));
        }
        report.hints = Writer::hint(to).into_iter().collect();
        if n_upright > 0 {
            report.notes.push(format!("{n_upright} images with EXIF rotation were written upright, as PNG"));
        }
        Ok(())
    }
}

/// Somebody else's annotations must not collect private files into a data set that is then given away.
fn reject_outside(source: &Source, images: &[usize]) -> Result<(), DataError> {
    let outside = |&index: &usize| source.image_place(index).ok().and_then(|place| source.outside(&place));
    let found: Vec<PathBuf> = images.par_iter().filter_map(outside).collect();
    let Some(first) = found.first() else { return Ok(()) };
    Err(DataError::Content {
        path: source.root().to_path_buf(),
        what: "images".to_owned(),
        expected: "inside the folder of the data set".to_owned(),
        got: format!("{} outside, such as {}", found.len(), first.display()),
        fix: "look at them with `data check`; then allow copying them (--copy-outside), or put them inside".to_owned(),
    })
}

/// What is said where a format requires classes and objects have none; `None` when all have one.
fn no_class_note(program: &str, n_without_class: u64, n_classes: usize) -> Option<String> {
    match (n_without_class, n_classes) {
        (0, _) => None,
        (_, 0) => Some(format!("{program} needs a class: all objects got the class \"{NO_CLASS}\"")),
        (n, _) => Some(format!("{n} objects without a class got the class \"{NO_CLASS}\"")),
    }
}
