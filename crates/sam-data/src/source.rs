//! A data set on disk as numbered samples, whatever its format.
//!
//! Opening lists images and says where their annotations are; nothing is decoded. Workers share one `Source`: reading takes
//! `&self` and keeps nothing but counters. Masks are in pixels of the upright image. An annotation of the stored pixels of an
//! EXIF-rotated image (its size is the swapped one) is turned with the image.
//!
//! Nothing is left out in silence. A bad object stops the sample with its place and its fix; under [`OnBad::Drop`] it is left
//! out and counted. What cannot be an object in any case (an empty mask, a box without a mask) is left out and counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sam_image::Rle;

use crate::coco::Coco;
use crate::error::DataError;
use crate::filter::FilterCounts;
use crate::finding::{Finding, ProblemKind};
use crate::intensity::decode_image;
use crate::label_images::LabelImages;
use crate::labelme::Labelme;
use crate::layout;
use crate::place::{FilePlace, ImageHeader};
use crate::sa1b::Sa1b;
use crate::sample::{ObjectMask, Sample};
pub use crate::source_options::{Crowd, Format, LabelKind, OnBad, SourceOptions, Void};
use crate::tally::Tally;
use crate::yolo_seg::YoloSeg;

/// The annotations of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageObjects {
    /// Size of the upright image and of all masks.
    pub size_hw: [usize; 2],
    /// The objects; never empty masks.
    pub objects: Vec<ObjectMask>,
    /// Pixels that neither loss nor metric may count.
    pub ignore: Option<Rle>,
    /// What was noticed, in warnings too; objects that were left out are among it.
    pub findings: Vec<Finding>,
    /// What the size filter left out.
    pub filtered: FilterCounts,
}

/// What a format's reader gives, in the frame that the annotation was made in.
#[derive(Debug)]
pub(crate) struct Annotated {
    pub(crate) frame_hw: [usize; 2],
    pub(crate) objects: Vec<ObjectMask>,
    pub(crate) ignore: Vec<Rle>,
    pub(crate) findings: Vec<Finding>,
}

impl Annotated {
    pub(crate) fn new(frame_hw: [usize; 2]) -> Self {
        Self { frame_hw, objects: Vec::new(), ignore: Vec::new(), findings: Vec::new() }
    }
}

/// What a format's reader found out while listing.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) notes: Vec<String>,
    pub(crate) findings: Vec<Finding>,
}

/// A data set.
#[derive(Debug)]
pub struct Source {
    root: PathBuf,
    options: SourceOptions,
    format: Format,
    reader: Box<dyn FormatReader>,
    notes: Vec<String>,
    tally: Tally,
}

/// What each format's reader does; indices are below `len`.
pub(crate) trait FormatReader: std::fmt::Debug + Send + Sync {
    fn len(&self) -> usize;
    fn name(&self, index: usize) -> String;
    fn classes(&self) -> &[String];
    fn given_split(&self, index: usize) -> Option<&str>;
    /// Whether ids of objects are unique over all images.
    fn is_one_numbering(&self) -> bool {
        false
    }
    /// The id that its annotation file gives the image, where there is one file with such ids.
    fn image_id(&self, _index: usize) -> Option<u64> {
        None
    }
    /// Where the image is, or the finding that it is missing.
    fn image_place(&self, index: usize) -> Result<FilePlace, Finding>;
    /// The annotations of an image with this header, in the frame they were made in. Only what concerns the whole file is an
    /// error; what is wrong with one image or object is a finding.
    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError>;
}

impl Source {
    /// Opens a data set: a folder, a COCO `.json`, a `data.yaml`, or an SA-1B `.tar`.
    ///
    /// # Errors
    ///
    /// When the format cannot be told, a file cannot be read, there is no image, or annotations and images do not fit together
    /// (the latter not under [`OnBad::Drop`]).
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Self, DataError> {
        let (source, findings) = Self::open_lenient(path, options)?;
        let errors: Vec<_> = findings.iter().filter(|finding| finding.is_error()).cloned().collect();
        if !errors.is_empty() && options.bad == OnBad::Refuse {
            return Err(DataError::Findings { path: path.to_path_buf(), findings: errors });
        }
        source.tally.add(&findings);
        Ok(source)
    }

    /// As [`Source::open`], with what is wrong handed out and not refused: for `data check`.
    pub(crate) fn open_lenient(path: &Path, options: &SourceOptions) -> Result<(Self, Vec<Finding>), DataError> {
        options.filter.validate()?;
        let format = match options.format {
            Some(format) => format,
            None => layout::recognise(path)?,
        };
        let mut listing = Listing::default();
        let reader: Box<dyn FormatReader> = match format {
            Format::Coco => Box::new(Coco::open(path, options, &mut listing)?),
            Format::LabelImages => Box::new(LabelImages::open(path, options, &mut listing)?),
            Format::Sa1b => Box::new(Sa1b::open(path, options, &mut listing)?),
            Format::YoloSeg => Box::new(YoloSeg::open(path, options, &mut listing)?),
            Format::Labelme => Box::new(Labelme::open(path, options, &mut listing)?),
        };
        let mut source = Self {
            root: path.to_path_buf(),
            options: options.clone(),
            format,
            reader,
            notes: listing.notes,
            tally: Tally::default(),
        };
        source.tally = Tally::new(source.len());
        if source.is_empty() && listing.findings.is_empty() {
            return Err(DataError::Content {
                path: path.to_path_buf(),
                what: format!("a {} data set", format.name()),
                expected: "of at least one image".to_owned(),
                got: "none".to_owned(),
                fix: match &options.split {
                    Some(split) => format!("is split = \"{split}\" right?"),
                    None => "is it the right folder?".to_owned(),
                },
            });
        }
        Ok((source, listing.findings))
    }

    /// The path it was opened with.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The format that was found or named.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// How it is read.
    #[must_use]
    pub fn options(&self) -> &SourceOptions {
        &self.options
    }

    /// What was decided while opening, one sentence each, for the user to read.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How many images there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reader.len()
    }

    /// Whether there is no image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of image `index`: stable, unique, with `/` on every system.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        self.reader.name(index)
    }

    /// The id that a COCO file gives image `index`, as files of detections name it; unique within one annotation file.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn image_id(&self, index: usize) -> Option<u64> {
        self.reader.image_id(index)
    }

    /// Names of the classes; empty when the data set has none.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        self.reader.classes()
    }

    /// The part (`train`, `val`, `test`) that the data set itself puts image `index` in.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn given_split(&self, index: usize) -> Option<&str> {
        self.reader.given_split(index)
    }

    /// Image `index` with its objects.
    ///
    /// # Errors
    ///
    /// When the image or its annotations cannot be read or do not fit together, with what to do about it.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    pub fn sample(&self, index: usize) -> Result<Sample, DataError> {
        let place = self.image_place(index)?;
        let bytes = place.read()?;
        let name = place.name();
        let header = ImageHeader::read(std::io::Cursor::new(&bytes), &name)?;
        let image = decode_image(&bytes, &name, &header, self.options.intensity, self.options.channels.as_deref())?;
        let annotations = self.judged(index, self.annotations(index, &header)?)?;
        Ok(Sample { name: self.name(index), image, objects: annotations.objects, ignore: annotations.ignore })
    }

    /// The objects of image `index`, with no more than the header of the image read.
    ///
    /// # Errors
    ///
    /// As [`Source::sample`], as far as it shows without decoding.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    pub fn objects(&self, index: usize) -> Result<ImageObjects, DataError> {
        let header = self.image_place(index)?.image_header()?;
        self.judged(index, self.annotations(index, &header)?)
    }

    /// What was left out or found odd so far, by kind; each image counts once however often it is read.
    #[must_use]
    pub fn tally(&self) -> BTreeMap<ProblemKind, u64> {
        self.tally.counts()
    }

    /// What the size filter left out so far; each image counts once.
    #[must_use]
    pub fn filtered(&self) -> FilterCounts {
        self.tally.filtered()
    }

    /// Whether ids of objects are unique over all images, as in a single COCO file.
    pub(crate) fn is_one_numbering(&self) -> bool {
        self.reader.is_one_numbering()
    }

    /// Where the image is; the error lists where it was looked for.
    pub(crate) fn image_place(&self, index: usize) -> Result<FilePlace, DataError> {
        self.reader
            .image_place(index)
            .map_err(|finding| DataError::Findings { path: self.root.clone(), findings: vec![finding] })
    }

    /// The annotations in the frame of the upright image, errors and all.
    pub(crate) fn annotations(&self, index: usize, header: &ImageHeader) -> Result<ImageObjects, DataError> {
        let annotated = self.reader.read(index, header)?;
        let Annotated { frame_hw, mut objects, mut ignore, mut findings } = annotated;
        let size_hw = header.upright_hw();
        let name = self.name(index);
        if frame_hw != size_hw {
            let sizes = format!(
                "the image is {} x {} (height x width), its annotation {} x {}",
                size_hw[0], size_hw[1], frame_hw[0], frame_hw[1]
            );
            if frame_hw == header.stored_hw {
                for mask in objects.iter_mut().map(|object| &mut object.mask).chain(&mut ignore) {
                    *mask = header.upright(mask);
                }
                findings.push(Finding::new(
                    ProblemKind::ExifSwapped,
                    name.clone(),
                    format!("{sizes}, as before its EXIF rotation; masks are rotated"),
                ));
            } else {
                objects.clear();
                ignore.clear();
                findings.push(Finding::new(ProblemKind::SizeMismatch, name.clone(), sizes));
            }
        }
        objects.retain(|object| {
            if object.mask.is_empty() {
                findings.push(Finding::new(
                    ProblemKind::MaskEmpty,
                    format!("{name}, object {}", object.id),
                    "the mask has no pixel",
                ));
            }
            !object.mask.is_empty()
        });
        ignore.retain(|mask| !mask.is_empty());
        let filtered = self.options.filter.apply(size_hw, &mut objects);
        Ok(ImageObjects {
            size_hw,
            objects,
            ignore: if ignore.is_empty() { None } else { Some(Rle::union(&ignore)?) },
            findings,
            filtered,
        })
    }

    fn judged(&self, index: usize, annotations: ImageObjects) -> Result<ImageObjects, DataError> {
        if self.options.bad == OnBad::Refuse {
            let errors: Vec<_> = annotations.findings.iter().filter(|finding| finding.is_error()).cloned().collect();
            if !errors.is_empty() {
                return Err(DataError::Findings { path: self.root.clone(), findings: errors });
            }
        }
        if self.tally.is_first_visit(index) {
            self.tally.add(&annotations.findings);
            self.tally.add_filtered(annotations.filtered);
        }
        Ok(annotations)
    }
}
