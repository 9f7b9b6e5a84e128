//! A data set on disk as indexed samples, whatever its format.
//!
//! Opening lists the images and locates their annotations; nothing is decoded. Worker threads share one `Source`:
//! reading takes `&self` and changes only counters. Masks are in pixels of the upright image. An annotation of the
//! stored pixels of an EXIF-rotated image (recognised by the swapped size) is rotated with the image.
//!
//! Nothing is dropped silently. A bad object stops the sample with its place and fix; under [`OnBad::Drop`] it is
//! dropped and counted. Annotations that can never be objects (an empty mask, a box without a mask) are always dropped
//! and counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sam_files::Fingerprint;
use sam_image::Rle;

use crate::cloud::is_cloud;
use crate::error::DataError;
use crate::filter::FilterCounts;
use crate::finding::{Finding, ProblemKind};
use crate::formats::ids::CocoId;
use crate::formats::intensity::{ReadRule, read_encoded, read_image};
use crate::formats::memory::MemoryBudget;
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::recognise::recognise;
use crate::formats::{self, Annotated, FormatReader, Listing, files};
use crate::sample::{ObjectMask, Sample, SampleError, Samples, Undecoded};
use crate::shard_order::ShardOrder;
use crate::source_options::{Format, OnBad, SourceOptions};
use crate::tally::Tally;

/// The annotations of one image.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageObjects {
    /// Size of the upright image and of all masks.
    pub size_hw: [usize; 2],
    /// The objects; masks are never empty.
    pub objects: Vec<ObjectMask>,
    /// Pixels ignored by losses and metrics.
    pub ignore: Option<Rle>,
    /// All findings, including warnings and dropped objects.
    pub findings: Vec<Finding>,
    /// Objects dropped by the size filter.
    pub filtered: FilterCounts,
}

/// A data set.
#[derive(Debug)]
pub struct Source {
    root: PathBuf,
    options: SourceOptions,
    format: Format,
    reader: Box<dyn FormatReader>,
    notes: Vec<String>,
    /// Findings of opening.
    listing: Vec<Finding>,
    tally: Tally,
    memory: MemoryBudget,
    /// The folders in which its files are expected, without links.
    folders: Vec<PathBuf>,
}

impl Source {
    /// Opens a data set: a folder, a COCO `.json`, a `data.yaml`, an SA-1B `.tar`, or an address of such shards in the cloud
    /// (feature `cloud`).
    ///
    /// # Errors
    ///
    /// When the format is not recognised, a file cannot be read, there is no image, or annotations and images do not
    /// match (the latter not under [`OnBad::Drop`]).
    pub fn open(path: &Path, options: &SourceOptions) -> Result<Self, DataError> {
        let (mut source, findings) = Self::open_lenient(path, options)?;
        let errors: Vec<_> = findings.iter().filter(|finding| finding.is_error()).cloned().collect();
        if !errors.is_empty() && options.bad == OnBad::Refuse {
            let (path, count) = (path.to_path_buf(), errors.len() as u64);
            return Err(DataError::Findings { path, count, findings: errors });
        }
        source.tally.add(&findings);
        source.listing = findings;
        Ok(source)
    }

    /// As [`Source::open`], but returns the findings instead of failing; for `data check`.
    pub(crate) fn open_lenient(path: &Path, options: &SourceOptions) -> Result<(Self, Vec<Finding>), DataError> {
        options.filter.validate()?;
        let format = match options.format {
            Some(format) => format,
            None => recognise(path)?,
        };
        let mut listing = Listing::default();
        let reader = formats::open(format, path, options, &mut listing)?;
        let mut source = Self {
            root: path.to_path_buf(),
            options: options.clone(),
            format,
            reader,
            notes: listing.notes,
            listing: Vec::new(),
            tally: Tally::default(),
            memory: MemoryBudget::new(options.max_pixels),
            folders: if is_cloud(path) { Vec::new() } else { files::own_folders(path, options.images.as_deref()) },
        };
        source.tally = Tally::new(source.len());
        if source.is_empty() && listing.findings.is_empty() {
            return Err(DataError::Content {
                path: path.to_path_buf(),
                what: format!("the number of images of the {} data set", format.name()),
                expected: "at least 1".to_owned(),
                got: "0".to_owned(),
                fix: match &options.split {
                    Some(split) => format!("is split = \"{split}\" right?"),
                    None => "is it the right folder?".to_owned(),
                },
            });
        }
        Ok((source, listing.findings))
    }

    /// Returns the path it was opened with.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The format, recognised or given.
    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    /// Returns the options it was opened with.
    #[must_use]
    pub fn options(&self) -> &SourceOptions {
        &self.options
    }

    /// How its image files become RGB.
    pub(crate) fn read_rule(&self) -> ReadRule<'_> {
        self.options.read_rule(&self.memory)
    }

    /// Returns the decisions made while opening, one sentence each, for the user to read.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The findings of opening, without those of single images.
    pub(crate) fn listing(&self) -> &[Finding] {
        &self.listing
    }

    /// Returns the number of images.
    #[must_use]
    pub fn len(&self) -> usize {
        self.reader.len()
    }

    /// Returns whether there are no images.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the file of its first image is missing, as where annotations were exported without images.
    #[must_use]
    pub fn lacks_images(&self) -> bool {
        !self.is_empty() && self.reader.image_place(0).is_err()
    }

    /// Returns the name of image `index`: stable, unique, with `/` on every system.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn name(&self, index: usize) -> String {
        self.reader.name(index)
    }

    /// Returns the id of image `index` in its COCO file, as files of detections refer to it; unique within one
    /// annotation file.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn image_id(&self, index: usize) -> Option<CocoId> {
        self.reader.image_id(index)
    }

    /// Returns the names of the classes; empty if the data set has none.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        self.reader.classes()
    }

    /// Returns the part (`train`, `val`, `test`) of image `index` in the data set's own split.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn given_split(&self, index: usize) -> Option<&str> {
        self.reader.given_split(index)
    }

    /// Reads image `index` with its objects.
    ///
    /// # Errors
    ///
    /// When the image or its annotations cannot be read or do not match, with the fix.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    pub fn sample(&self, index: usize) -> Result<Sample, DataError> {
        let place = self.image_place(index)?;
        let (header, image) = read_image(&place, self.read_rule())?;
        let annotations = self.accepted(index, self.annotations(index, &header)?)?;
        Ok(Sample { name: self.name(index), image, objects: annotations.objects, ignore: annotations.ignore })
    }

    /// Reads image `index` with its objects without decoding it. A changed file has another hash.
    ///
    /// # Errors
    ///
    /// As [`Source::sample`], except for errors that only decoding shows.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    pub fn undecoded(&self, index: usize) -> Result<Undecoded, DataError> {
        let place = self.image_place(index)?;
        let encoded = read_encoded(&place, self.read_rule())?;
        let annotations = self.accepted(index, self.annotations(index, &encoded.header)?)?;
        let mut hash = Fingerprint::new(0);
        hash.add_bytes(format!("{:?} {:?}", self.options.intensity, self.options.channels).as_bytes());
        hash.add_blocks(&encoded.bytes);
        let ImageObjects { size_hw, objects, ignore, .. } = annotations;
        Ok(Undecoded { name: self.name(index), size_hw, objects, ignore, content: hash.value() })
    }

    /// Reads the objects of image `index`; of the image, only the header is read.
    ///
    /// # Errors
    ///
    /// As [`Source::sample`], except for errors that only decoding shows.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    pub fn objects(&self, index: usize) -> Result<ImageObjects, DataError> {
        let header = self.image_place(index)?.image_header(self.options.max_pixels)?;
        self.accepted(index, self.annotations(index, &header)?)
    }

    /// Returns the findings so far by kind; each image counts once however often it is read.
    #[must_use]
    pub fn tally(&self) -> BTreeMap<ProblemKind, u64> {
        self.tally.counts()
    }

    /// Returns the objects dropped by the size filter so far; each image counts once.
    #[must_use]
    pub fn filtered(&self) -> FilterCounts {
        self.tally.filtered()
    }

    /// Returns whether object ids are unique over all images, as in a single COCO file.
    pub(crate) fn is_one_numbering(&self) -> bool {
        self.reader.is_one_numbering()
    }

    /// Locates the image; the error lists the places searched.
    pub(crate) fn image_place(&self, index: usize) -> Result<FilePlace, DataError> {
        self.reader.image_place(index).map_err(|finding| DataError::Findings {
            path: self.root.clone(),
            count: 1,
            findings: vec![finding],
        })
    }

    /// The files with the annotations of image `index`; none inside an archive.
    pub(crate) fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        self.reader.annotation_paths(index)
    }

    /// Where the image really lies, if that is outside the folders of the data set: annotations can name any file of the
    /// machine, and links lead to any.
    pub(crate) fn outside(&self, place: &FilePlace) -> Option<PathBuf> {
        let (FilePlace::Path(path) | FilePlace::Within { archive: path, .. }) = place else { return None };
        let real = path.canonicalize().ok()?;
        (!self.folders.iter().any(|folder| real.starts_with(folder))).then_some(real)
    }

    /// The annotations in the frame of the upright image, including those with errors.
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
                    format!("{sizes}, as before EXIF rotation; masks are rotated"),
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
                    "the mask has no pixels",
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

    fn accepted(&self, index: usize, annotations: ImageObjects) -> Result<ImageObjects, DataError> {
        if self.options.bad == OnBad::Refuse {
            let errors: Vec<_> = annotations.findings.iter().filter(|finding| finding.is_error()).cloned().collect();
            if !errors.is_empty() {
                let (path, count) = (self.root.clone(), errors.len() as u64);
                return Err(DataError::Findings { path, count, findings: errors });
            }
        }
        if self.tally.is_first_visit(index) {
            self.tally.add(&annotations.findings);
            self.tally.add_filtered(annotations.filtered);
        }
        Ok(annotations)
    }
}

impl Samples for Source {
    fn n_samples(&self) -> usize {
        self.len()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        Ok(Source::sample(self, index)?)
    }

    fn undecoded(&self, index: usize) -> Result<Undecoded, SampleError> {
        Ok(Source::undecoded(self, index)?)
    }

    fn shard_order(&self) -> Option<Arc<ShardOrder>> {
        self.reader.shard_order()
    }

    fn announce(&self, now: &[usize], next: &[usize]) {
        self.reader.announce(now, next);
    }

    fn class_names(&self, _index: usize) -> &[String] {
        self.classes()
    }
}
