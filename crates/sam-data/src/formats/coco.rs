//! COCO instances, LVIS, and the layout of Roboflow's exports.
//!
//! Source: <https://cocodataset.org/#format-data> and pycocotools' `annToRLE`. The JSON type of a `segmentation`
//! decides: a list holds polygons whose union is one object, a dict holds run lengths as numbers or as a compressed
//! string.
//!
//! Differences from pycocotools: run lengths must fill the image; a missing class, image or file is reported, not
//! skipped; the file's `area` and `bbox` are not read, as many tools write other values there.
//!
//! Captions are read from the keys `caption`, `captions` and those of RefCOCO (see `captions.rs`).
//!
//! **Crowd.** Officially, `iscrowd = 1` marks a region of many objects. CVAT and others set it on every mask stored as
//! run lengths. In the official files, too, exactly the run lengths are crowd, so that alone does not decide. `auto`
//! treats crowd as instances if all run lengths are crowd and either every annotation is, or more than a tenth are
//! (officially 1.2 %) and one image has two of one class (officially these are one region). The decision is reported in
//! the notes.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::coco_index::{AnnotationRow, CocoIndex, NO_CATEGORY};
use crate::formats::files::{self, Folder};
use crate::formats::ids::CocoId;
use crate::formats::parts::Parts;
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::recognise::{ROBOFLOW_JSON, file_format};
use crate::formats::segmentation::{SegmentationKind, segmentation_mask};
use crate::formats::{Annotated, FormatReader, Listing};
use crate::sample::ObjectMask;
use crate::source_options::{Crowd, Format, SourceOptions};

/// Fraction of crowd annotations above which "one region per class and image" is tested; the official files have 1.2 %.
const CROWD_FRACTION: f64 = 0.1;

/// One or more COCO files as one data set.
#[derive(Debug)]
pub(crate) struct Coco {
    files: Vec<CocoFile>,
    /// Index of each file's first image.
    starts: Vec<usize>,
    classes: Vec<String>,
    crowd: Crowd,
}

#[derive(Debug)]
struct CocoFile {
    index: CocoIndex,
    split: Option<String>,
    /// Folders searched for images, most likely first.
    folders: Vec<PathBuf>,
    /// Class of each category, shared by all files.
    class_of: Vec<usize>,
    /// Prefix of names, so that two parts may contain files of the same name.
    prefix: String,
    normalised: OnceLock<HashMap<String, PathBuf>>,
}

impl Coco {
    pub(crate) fn open(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        let mut parts = annotation_files(path)?;
        // Elsewhere a folder of images has no annotations of its own: LVIS takes its images from all of COCO's folders.
        let is_roboflow = parts.iter().all(|(json, _)| json.ends_with(ROBOFLOW_JSON));
        if path.is_dir() && options.images.is_none() && is_roboflow {
            let labelled = parts.iter().filter_map(|(_, split)| split.as_deref()).collect();
            let labels = format!("no {ROBOFLOW_JSON}");
            Parts { labelled, wanted: options.split.as_deref(), labels: &labels }.report(path, listing)?;
        }
        if let Some(wanted) = &options.split {
            let given: Vec<_> = parts.iter().filter_map(|(_, split)| split.clone()).collect();
            parts.retain(|(_, split)| split.as_ref() == Some(wanted));
            if parts.is_empty() {
                return Err(DataError::Option {
                    key: "split",
                    expected: format!("one of the parts of {} ({})", path.display(), given.join(", ")),
                    got: wanted.clone(),
                });
            }
        }
        let is_one = parts.len() == 1;
        let mut files = Vec::new();
        let mut classes: Vec<String> = Vec::new();
        for (json, split) in parts {
            let index = CocoIndex::read(&json, listing)?;
            let class_of = index
                .categories
                .iter()
                .map(|name| {
                    classes.iter().position(|class| class == name).unwrap_or_else(|| {
                        classes.push(name.clone());
                        classes.len() - 1
                    })
                })
                .collect();
            let folders = image_folders(path, &json, split.as_deref(), options)?;
            let prefix = match &split {
                Some(split) if !is_one => format!("{split}/"),
                _ => String::new(),
            };
            let file = CocoFile { index, split, folders, class_of, prefix, normalised: OnceLock::new() };
            file.check_ids(&mut listing.findings);
            files.push(file);
        }
        let mut starts = vec![0];
        for file in &files {
            starts.push(starts[starts.len() - 1] + file.index.images.len());
        }
        reject_without_masks(path, &files)?;
        let crowd = match options.crowd {
            Crowd::Auto => crowd_of(&files, listing),
            given => given,
        };
        let all = Self { files, starts, classes, crowd };
        all.check_shared_files(&mut listing.findings);
        Ok(all)
    }

    /// Reports images of different entries that are one file: the frames of two tasks unpacked into one folder have
    /// replaced one another.
    fn check_shared_files(&self, findings: &mut Vec<Finding>) {
        let names = || (0..self.len()).map(|index| self.locate(index)).map(|(file, image)| file.index.names.get(image));
        let mut n_of_base: HashMap<&str, u32> = HashMap::with_capacity(self.len());
        for name in names() {
            *n_of_base.entry(files::base(name)).or_default() += 1;
        }
        let mut first_of: HashMap<PathBuf, usize> = HashMap::new();
        for (index, name) in names().enumerate().filter(|(_, name)| n_of_base[files::base(name)] > 1) {
            let Ok(path) = self.locate(index).0.image_path(name) else { continue };
            let shown = path.display().to_string();
            let first = *first_of.entry(path).or_insert(index);
            let (name, other) = (self.name(index), self.name(first));
            if name != other {
                let detail = format!("its file is {shown}, which is also that of {other}");
                findings.push(Finding::new(ProblemKind::ImageListedTwice, name, detail));
            }
        }
    }

    /// The file that lists image `index`, and its index there.
    fn locate(&self, index: usize) -> (&CocoFile, usize) {
        assert!(index < self.len(), "image {index} of {}", self.len());
        let file = self.starts.partition_point(|&start| start <= index) - 1;
        (&self.files[file], index - self.starts[file])
    }
}

impl FormatReader for Coco {
    fn len(&self) -> usize {
        self.starts[self.starts.len() - 1]
    }

    fn name(&self, index: usize) -> String {
        let (file, image) = self.locate(index);
        format!("{}{}", file.prefix, file.index.names.get(image))
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        self.locate(index).0.split.as_deref()
    }

    fn is_one_numbering(&self) -> bool {
        self.files.len() == 1
    }

    fn image_id(&self, index: usize) -> Option<CocoId> {
        let (file, image) = self.locate(index);
        Some(file.index.images[image].id.clone())
    }

    fn image_place(&self, index: usize) -> Result<FilePlace, Finding> {
        let (file, image) = self.locate(index);
        file.image_path(file.index.names.get(image)).map(FilePlace::Path)
    }

    fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        vec![self.locate(index).0.index.path.clone()]
    }

    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError> {
        let (file, image) = self.locate(index);
        let declared_hw = file.index.images[image].size_hw.map(|side| side as usize);
        let frame_hw = if declared_hw == [0, 0] { header.upright_hw() } else { declared_hw };
        let mut annotated = Annotated::new(frame_hw);
        let rows = file.index.annotations_of(image);
        let mut texts = file.index.open()?;
        for row in rows {
            let place = file.index.place_of(row);
            if row.kind == SegmentationKind::None {
                annotated.findings.push(Finding::new(ProblemKind::NoMask, place, "it has no segmentation"));
                continue;
            }
            if row.is_crowd && self.crowd == Crowd::Drop {
                annotated.findings.push(Finding::new(ProblemKind::CrowdLeftOut, place, "it is marked iscrowd = 1"));
                continue;
            }
            let text = texts.segmentation(row)?;
            let Some(mask) = segmentation_mask(frame_hw, row.kind, &text, &place, &mut annotated.findings) else {
                continue;
            };
            if row.is_crowd && self.crowd == Crowd::Ignore {
                annotated.ignore.push(mask);
            } else {
                annotated.objects.push(ObjectMask {
                    mask,
                    captions: file.index.captions_of(row, &mut texts, &mut annotated.findings)?,
                    class: (row.category != NO_CATEGORY).then(|| file.class_of[row.category as usize]),
                    id: row.id,
                });
            }
        }
        Ok(annotated)
    }
}

impl CocoFile {
    /// The first existing path. Exporters write bare names, relative paths, absolute ones and addresses. A full path that
    /// exists wins over a file of the same base name, which may be another camera's or part's.
    fn image_path(&self, name: &str) -> Result<PathBuf, Finding> {
        let spellings = files::spellings(name);
        let bases = spellings.iter().map(|spelling| files::base(spelling));
        let candidates = spellings.iter().map(AsRef::as_ref).chain(bases);
        let found = candidates.flat_map(|name| self.folders.iter().map(move |folder| folder.join(name)));
        if let Some(path) = found.into_iter().find(|path| path.is_file()) {
            return Ok(path);
        }
        let base = files::base(name);
        if !name.is_ascii()
            && let Some(path) = self.normalised_paths().get(&files::normalised(base))
        {
            return Ok(path.clone());
        }
        let mut detail = format!(
            "not found in {}",
            self.folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(", ")
        );
        let below = name.rsplit_once('/').map_or("", |(below, _)| below);
        let places = self.folders.iter().flat_map(|folder| [folder.join(below), folder.clone()]);
        if let Some(near) = places.into_iter().find_map(|folder| files::find_stem(&folder, files::stem(base))) {
            detail.push_str(&format!("; did you mean {}?", near.display()));
        }
        Err(Finding::new(ProblemKind::ImageMissing, name, detail))
    }

    /// Files in all folders by normalised name: macOS decomposes accents and annotations compose them.
    fn normalised_paths(&self) -> &HashMap<String, PathBuf> {
        self.normalised.get_or_init(|| {
            let listings = self.folders.iter().filter_map(|folder| Some((folder, Folder::list(folder).ok()?)));
            listings
                .flat_map(|(folder, listing)| {
                    listing.files.into_iter().map(move |file| (files::normalised(&file), folder.join(file)))
                })
                .collect()
        })
    }

    /// Reports images listed twice by name and annotations that share an id.
    fn check_ids(&self, findings: &mut Vec<Finding>) {
        let mut names = HashSet::with_capacity(self.index.images.len());
        for image in 0..self.index.images.len() {
            let name = self.index.names.get(image);
            if !names.insert(name) {
                findings.push(Finding::new(
                    ProblemKind::ImageListedTwice,
                    format!("{}, {name}", self.index.path.display()),
                    "its file_name is listed twice",
                ));
            }
        }
        let mut ids: Vec<u64> = self.index.annotations.iter().map(|row| row.id).collect();
        ids.sort_unstable();
        for pair in ids.windows(2).filter(|pair| pair[0] == pair[1]) {
            findings.push(Finding::new(
                ProblemKind::AnnotationIdTwice,
                format!("{}, annotation {}", self.index.path.display(), pair[0]),
                "its id is used twice",
            ));
        }
    }
}

/// The annotation files of a data set, each with its part of the split.
fn annotation_files(path: &Path) -> Result<Vec<(PathBuf, Option<String>)>, DataError> {
    if path.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        return Ok(vec![(path.to_path_buf(), files::split_name(&name).map(str::to_owned))]);
    }
    let folder = Folder::list(path)?;
    let mut parts = Vec::new();
    for child in &folder.folders {
        let file = path.join(child).join(ROBOFLOW_JSON);
        if file.is_file() {
            parts.push((file, Some(files::split_name(child).unwrap_or(child).to_owned())));
        }
    }
    if !parts.is_empty() {
        return Ok(parts);
    }
    let mut files = Vec::new();
    for below in std::iter::once("").chain(folder.folders.iter().map(String::as_str)) {
        let at = path.join(below);
        for name in Folder::list(&at)?.with_extension("json") {
            if file_format(&at.join(name))? == Some(Format::Coco) {
                files.push((below.to_owned(), name.to_owned()));
            }
        }
    }
    // Official downloads have captions and keypoints of the same images in the same folder.
    if files.iter().any(|(_, name)| name.starts_with("instances")) {
        files.retain(|(_, name)| name.starts_with("instances"));
    }
    let is_single = files.len() == 1;
    let mut seen = HashMap::new();
    for (below, name) in files {
        let split = files::split_name(&name).or_else(|| files::split_name(&below)).map(str::to_owned);
        if !is_single && let Some(other) = seen.insert(split.clone(), name.clone()) {
            return Err(DataError::Content {
                path: path.to_path_buf(),
                what: "annotations".to_owned(),
                expected: "one COCO file, or one for each of train, val and test".to_owned(),
                got: format!("{other} and {name}"),
                fix: "give the path of one of them".to_owned(),
            });
        }
        parts.push((path.join(below).join(name), split));
    }
    if parts.is_empty() {
        return Err(DataError::Content {
            path: path.to_path_buf(),
            what: "a COCO data set".to_owned(),
            expected: format!(
                "a .json with \"images\" and \"annotations\", or {ROBOFLOW_JSON} in train, valid or test"
            ),
            got: "neither".to_owned(),
            fix: "give the path of the .json".to_owned(),
        });
    }
    Ok(parts)
}

/// Folders in which exporters put images, relative to their annotations.
fn image_folders(
    root: &Path,
    json: &Path,
    split: Option<&str>,
    options: &SourceOptions,
) -> Result<Vec<PathBuf>, DataError> {
    let beside = json.parent().unwrap_or(Path::new("")).to_path_buf();
    let base = if root.is_file() { beside.clone() } else { root.to_path_buf() };
    if let Some(images) = &options.images {
        return Ok(vec![files::given_folder(&base, images)?]);
    }
    let mut folders = vec![beside.clone()];
    let mut around = vec![beside.clone(), base];
    around.extend(beside.parent().map(Path::to_path_buf));
    for at in around {
        let Ok(listing) = Folder::list(&at) else {
            continue;
        };
        // Datumaro and CVAT choose any name for a part: instances_NAME.json with images/NAME.
        let stem = json.file_stem().unwrap_or_default().to_string_lossy();
        let of_split = |name: &String| {
            split.is_some() && files::split_name(name) == split || stem.strip_prefix("instances_") == Some(name)
        };
        for images in ["images", "JPEGImages", "data", "imgs"] {
            let folder = at.join(images);
            if let Ok(below) = Folder::list(&folder) {
                folders.extend(below.folders.iter().filter(|name| of_split(name)).map(|name| folder.join(name)));
                folders.push(folder);
            }
        }
        folders.extend(listing.folders.iter().filter(|name| of_split(name)).map(|name| at.join(name)));
        folders.push(at);
    }
    let mut seen = HashSet::new();
    folders.retain(|folder| seen.insert(folder.clone()));
    Ok(folders)
}

fn reject_without_masks(path: &Path, files: &[CocoFile]) -> Result<(), DataError> {
    let rows = || files.iter().flat_map(|file| &file.index.annotations);
    if rows().next().is_some() && rows().all(|row| row.kind == SegmentationKind::None) {
        return Err(DataError::Content {
            path: path.to_path_buf(),
            what: "annotations".to_owned(),
            expected: "with a segmentation".to_owned(),
            got: "boxes only".to_owned(),
            fix: ProblemKind::NoMask.fix().to_owned(),
        });
    }
    Ok(())
}

/// Decides the meaning of `iscrowd`; see the module's documentation.
fn crowd_of(files: &[CocoFile], listing: &mut Listing) -> Crowd {
    let rows =
        || files.iter().enumerate().flat_map(|(at, file)| file.index.annotations.iter().map(move |row| (at, row)));
    let n_crowd = rows().filter(|(_, row)| row.is_crowd).count();
    let n_all = rows().filter(|(_, row)| row.kind != SegmentationKind::None).count();
    if n_crowd == 0 {
        return Crowd::Ignore;
    }
    let all_rle_crowd = rows().all(|(_, row)| row.kind != SegmentationKind::Rle || row.is_crowd);
    let is_pair = |(at, row): (usize, &AnnotationRow)| row.is_crowd.then_some((at, row.image, row.category));
    let mut pairs = HashSet::new();
    let has_two_of_a_class = rows().filter_map(is_pair).any(|pair| !pairs.insert(pair));
    let is_all = n_crowd == n_all;
    let is_much = n_crowd as f64 > CROWD_FRACTION * n_all as f64;
    let sign = format!("{n_crowd} of {n_all} annotations are marked iscrowd = 1");
    if all_rle_crowd && (is_all || is_much && has_two_of_a_class) {
        listing.notes.push(format!(
            "{sign}, all run-length masks among them: read as objects (crowd = \"ignore\" reads them as ignore regions)"
        ));
        if is_all {
            let place = files.first().map_or(String::new(), |file| file.index.path.display().to_string());
            listing.findings.push(Finding::new(ProblemKind::AllCrowd, place, sign));
        }
        return Crowd::Instances;
    }
    listing.notes.push(format!("{sign}: read as ignore regions (crowd = \"instances\" reads them as objects)"));
    Crowd::Ignore
}
