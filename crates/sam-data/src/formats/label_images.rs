//! Images with label images: instance ids, class maps, binary masks, and VOC's palettes.
//!
//! Sources: the VOC devkit (`SegmentationObject`: palette indices, 0 background, 1..N objects, 255 void); MedSAM,
//! sam-hq and micro-sam for common variants. Differs from RITM's reader: palettes are read as indices, so void is 255
//! and not the grey level 220 of its colour. Images and labels are paired by stem.
//!
//! By default, ids are instances if the files have palettes, more than 8 bits or several ids, and masks are binary if
//! all inspected files have one value beside 0. The decision is reported in the notes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sam_image::Rle;

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::files;
use crate::formats::label_map::LabelMap;
use crate::formats::memory::MemoryBudget;
use crate::formats::pairing::{PairRule, Pairs, Unlabelled, folders_of};
use crate::formats::parts::Parts;
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::raster::Raster;
use crate::formats::{Annotated, FormatReader, Listing, text};
use crate::sample::ObjectMask;
use crate::source_options::{LabelKind, SourceOptions, Void};

/// VOC's id of ignored pixels.
const VOC_VOID: u32 = 255;
/// Number of label files inspected to determine their kind, spread over the data set.
const N_INSPECTED: usize = 16;
/// An object with more components than this and no dominant one is probably a class.
const SCATTERED_PARTS: usize = 8;

/// VOC's classes, index 1 first: VOCdevkit's `VOCinit.m`.
const VOC_CLASSES: [&str; 20] = [
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
];

/// Folders of images and label images.
#[derive(Debug)]
pub(crate) struct LabelImages {
    pairs: Pairs,
    kind: LabelKind,
    void: Option<u32>,
    classes: Vec<String>,
    /// VOC stores the classes of its objects in a second folder.
    class_folder: Option<PathBuf>,
    max_pixels: u64,
    memory: MemoryBudget,
}

impl LabelImages {
    pub(crate) fn open(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        let folders = folders_of(path, options.images.as_deref())?;
        let voc_folder =
            |name: &str| folders.len() == 1 && folders[0].labels.file_name().is_some_and(|folder| folder == name);
        let (is_voc_objects, is_voc_classes) = (voc_folder("SegmentationObject"), voc_folder("SegmentationClass"));
        let is_voc = is_voc_objects || is_voc_classes;
        let rule = PairRule {
            is_label: &files::is_image,
            unlabelled: if is_voc { Unlabelled::Excluded } else { Unlabelled::Error },
            allow_suffix: true,
            split: if is_voc { None } else { options.split.as_deref() },
        };
        if options.images.is_none() && !is_voc {
            let labelled = folders.iter().filter_map(|pair| pair.split.as_deref()).collect();
            let labels = "no folder of label images (masks, labels, ..) beside them";
            Parts { labelled, wanted: options.split.as_deref(), labels }.report(path, listing)?;
        }
        let mut pairs = Pairs::find(folders, &rule, &mut listing.findings)?;
        if is_voc {
            read_voc_lists(path, &mut pairs)?;
            if let Some(split) = &options.split {
                pairs.retain_split(split);
            }
        }
        if pairs.n_unlabelled() > 0 {
            listing.notes.push(format!(
                "{} images have no label image and are not part of the data set, as in VOC",
                pairs.n_unlabelled()
            ));
        }
        let look = Look::at(&pairs, options.max_pixels)?;
        let kind = match options.labels {
            LabelKind::Auto if is_voc_classes => LabelKind::Semantic,
            LabelKind::Auto => look.kind(listing),
            given => given,
        };
        let void = match options.void {
            Void::Id(id) => Some(id),
            Void::None => None,
            // By convention, 255 is not a class in 8-bit class maps.
            Void::Auto => {
                (is_voc || look.is_palette || kind == LabelKind::Semantic && look.is_narrow).then_some(VOC_VOID)
            }
        };
        let class_folder = is_voc.then(|| path.join("SegmentationClass")).filter(|folder| folder.is_dir());
        let classes = if !options.classes.is_empty() {
            options.classes.clone()
        } else if let Some(folder) = &class_folder {
            voc_classes(path, folder, options.max_pixels)?
        } else if kind == LabelKind::Semantic {
            unnamed_classes(VOC_VOID - 1)
        } else {
            Vec::new()
        };
        let class_folder = class_folder.filter(|_| is_voc_objects);
        Ok(Self {
            pairs,
            kind,
            void,
            classes,
            class_folder,
            max_pixels: options.max_pixels,
            memory: MemoryBudget::new(options.max_pixels),
        })
    }

    fn class_of(&self, id: u32) -> Option<usize> {
        (id as usize).checked_sub(1).filter(|&class| class < self.classes.len())
    }

    /// The class map of a VOC image, if it exists and has the right size.
    fn class_map(&self, label_path: &Path, size_hw: [usize; 2]) -> Result<Option<LabelMap>, DataError> {
        let Some(folder) = &self.class_folder else {
            return Ok(None);
        };
        let path = folder.join(label_path.file_name().unwrap_or_default());
        if !path.is_file() {
            return Ok(None);
        }
        let map = LabelMap::read(&path, self.max_pixels)?;
        Ok((map.size_hw == size_hw).then_some(map))
    }
}

impl FormatReader for LabelImages {
    fn len(&self) -> usize {
        self.pairs.len()
    }

    fn name(&self, index: usize) -> String {
        self.pairs.name(index)
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        self.pairs.split(index)
    }

    fn image_place(&self, index: usize) -> Result<FilePlace, Finding> {
        Ok(FilePlace::Path(self.pairs.image_path(index)))
    }

    fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        self.pairs.label_paths(index)
    }

    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError> {
        match self.pairs.label_paths(index).as_slice() {
            [] => Ok(Annotated::new(header.upright_hw())),
            [path] => self.read_labels(path, header),
            several => self.read_masks(several, header),
        }
    }
}

impl LabelImages {
    /// The objects of one label image.
    fn read_labels(&self, path: &Path, header: &ImageHeader) -> Result<Annotated, DataError> {
        let place = path.display().to_string();
        // Unreadable headers are reported below.
        let label = FilePlace::Path(path.to_path_buf());
        let cost = label.image_header(self.max_pixels).and_then(|header| label_cost(&label, &header));
        let _memory = self.memory.take(cost.unwrap_or(0));
        let mut map = match read_soft(path, self.max_pixels) {
            Ok(map) => map,
            Err(error @ DataError::Io { .. }) => return Err(error),
            Err(error) => {
                let mut annotated = Annotated::new(header.upright_hw());
                let is_colours = matches!(&error, DataError::Content { what, .. } if what == "a label image");
                let kind = if is_colours { ProblemKind::LabelNotIds } else { ProblemKind::LabelUnreadable };
                annotated.findings.push(Finding::new(kind, place, error.to_string()));
                return Ok(annotated);
            }
        };
        let mut annotated = Annotated::new(map.size_hw);
        if self.kind == LabelKind::Binary {
            // A smoothed mask is cut at half of its brightest value.
            let min = if map.is_smoothed() { map.ids.iter().max().map_or(1, |max| max.div_ceil(2)) } else { 1 };
            for id in &mut map.ids {
                *id = if Some(*id) == self.void { *id } else { u32::from(*id >= min) };
            }
        } else if map.is_smoothed() {
            let detail = "its edges hold the values between their sides, as resizing with smoothing leaves them";
            annotated.findings.push(Finding::new(ProblemKind::LabelSmoothed, place, detail));
            return Ok(annotated);
        }
        let masks = match self.kind {
            LabelKind::Semantic | LabelKind::Binary => map.components(&place),
            LabelKind::Instance | LabelKind::Auto => map.masks(&place),
        };
        let masks = match masks {
            Ok(masks) => masks,
            Err(error) => {
                annotated.findings.push(Finding::new(ProblemKind::LabelNotIds, place, error.to_string()));
                return Ok(annotated);
            }
        };
        let class_map = self.class_map(path, map.size_hw)?;
        for (id, mask) in masks {
            if Some(id) == self.void {
                annotated.ignore.push(mask);
                continue;
            }
            let (class, number) = match self.kind {
                LabelKind::Semantic => (self.class_of(id), annotated.objects.len() as u64 + 1),
                LabelKind::Binary => (None, annotated.objects.len() as u64 + 1),
                _ => {
                    let class = class_map.as_ref().and_then(|map| map.majority(&mask.to_mask(), self.void));
                    (class.and_then(|class| self.class_of(class)), u64::from(id))
                }
            };
            annotated.objects.push(ObjectMask { mask, class, id: number, captions: Vec::new() });
        }
        if self.kind == LabelKind::Instance {
            note_scattered(&annotated.objects, &place, &mut annotated.findings);
        }
        Ok(annotated)
    }
}

/// Fractions are allowed where they are edges of smoothed masks, and nowhere else.
fn read_soft(path: &Path, max_pixels: u64) -> Result<LabelMap, DataError> {
    let map = LabelMap::read_soft(path, max_pixels)?;
    match map.fraction {
        Some(fraction) if !map.is_smoothed() => Err(map.not_ids(&path.display().to_string(), fraction)),
        _ => Ok(map),
    }
}

impl LabelImages {
    /// The objects of an image whose masks are one file each.
    fn read_masks(&self, paths: &[PathBuf], header: &ImageHeader) -> Result<Annotated, DataError> {
        let mut all = Annotated::new(header.upright_hw());
        for (at, path) in paths.iter().enumerate() {
            let one = self.read_labels(path, header)?;
            all.findings.extend(one.findings);
            if at == 0 {
                all.frame_hw = one.frame_hw;
            } else if one.frame_hw != all.frame_hw {
                let [height, width] = one.frame_hw;
                let detail = format!("it is {height} x {width} (height x width), and another mask of its image is not");
                let place = path.display().to_string();
                all.findings.push(Finding::new(ProblemKind::SizeMismatch, place, detail));
                continue;
            }
            all.ignore.extend(one.ignore);
            // The parts of a binary mask are one object here; ids in a file remain apart.
            let masks: Vec<Rle> = one.objects.into_iter().map(|object| object.mask).collect();
            let masks = match self.kind {
                LabelKind::Binary if !masks.is_empty() => vec![Rle::union(&masks)?],
                _ => masks,
            };
            for mask in masks {
                all.objects.push(ObjectMask {
                    mask,
                    class: None,
                    id: all.objects.len() as u64 + 1,
                    captions: Vec::new(),
                });
            }
        }
        Ok(all)
    }
}

/// Reports ids with many components and no dominant one: they are usually classes.
fn note_scattered(objects: &[ObjectMask], place: &str, findings: &mut Vec<Finding>) {
    for object in objects {
        // The number of runs is a cheap upper bound of the number of components.
        if object.mask.counts().len() / 2 <= SCATTERED_PARTS {
            continue;
        }
        let components = sam_image::Components::new(&object.mask.to_mask(), sam_image::Connectivity::Eight);
        let largest = components.areas_px().iter().max().copied().unwrap_or(0);
        if components.len() > SCATTERED_PARTS && largest * 2 < object.mask.area_px() {
            let detail = format!(
                "it has {} components, the largest with {largest} of {} px",
                components.len(),
                object.mask.area_px()
            );
            findings.push(Finding::new(ProblemKind::InstanceScattered, format!("{place}, id {}", object.id), detail));
        }
    }
}

/// Properties of the inspected label files.
struct Look {
    is_palette: bool,
    is_narrow: bool,
    /// Distinct values other than 0 in all inspected files.
    values: Vec<u32>,
    /// Whether every file has at most one value other than 0.
    is_binary: bool,
    example: String,
}

impl Look {
    fn at(pairs: &Pairs, max_pixels: u64) -> Result<Self, DataError> {
        let mut look =
            Self { is_palette: false, is_narrow: true, values: Vec::new(), is_binary: true, example: String::new() };
        let step = pairs.len().div_ceil(N_INSPECTED).max(1);
        for index in (0..pairs.len()).step_by(step) {
            let Some(path) = pairs.label_path(index) else {
                continue;
            };
            // Unreadable files are reported with their sample.
            let Ok(map) = read_soft(&path, max_pixels) else {
                continue;
            };
            if look.example.is_empty() {
                look.example = path.display().to_string();
            }
            look.is_palette |= map.is_palette;
            look.is_narrow &= map.is_narrow;
            let values: Vec<u32> = map.distinct().into_iter().filter(|&id| id != 0).collect();
            look.is_binary &= values.len() <= 1;
            look.values.extend(values);
            look.values.sort_unstable();
            look.values.dedup();
        }
        Ok(look)
    }

    fn kind(&self, listing: &mut Listing) -> LabelKind {
        // Deep files and palettes hold ids even if each has only one.
        let is_mask = self.is_binary && self.values.len() == 1 && !self.is_palette && self.is_narrow;
        if is_mask {
            listing.notes.push(format!(
                "label images have only the values 0 and {}: read as binary masks, whose 8-connected components are objects (labels = \"instance\" or \"semantic\" reads them otherwise)",
                self.values[0]
            ));
            return LabelKind::Binary;
        }
        listing.notes.push(format!(
            "label images are read as instance ids, {} (labels = \"semantic\" or \"binary\" reads them otherwise)",
            if self.is_palette { "by palette index, 255 is void" } else { "0 is background" }
        ));
        LabelKind::Instance
    }
}

/// What reading a label image and its masks takes.
pub(crate) fn label_cost(label: &FilePlace, header: &ImageHeader) -> Result<u64, DataError> {
    /// Samples of 16 bits, ids of 32, and a mask with its components.
    const BYTES_PER_PIXEL: u64 = 2 + 4 + 9;
    let n_pixels = header.stored_hw[0] as u64 * header.stored_hw[1] as u64;
    Ok(label.n_bytes()?.saturating_add(n_pixels.saturating_mul(BYTES_PER_PIXEL)))
}

/// Names for ids that no file names.
fn unnamed_classes(n: u32) -> Vec<String> {
    (1..=n).map(|id| format!("id {id}")).collect()
}

/// The classes of a data set in VOC's folders: those of CVAT's `labelmap.txt`, VOC's own if the label images have VOC's
/// palette, and otherwise none that are known.
fn voc_classes(root: &Path, class_folder: &Path, max_pixels: u64) -> Result<Vec<String>, DataError> {
    let palette = palette_of(class_folder, max_pixels)?;
    let labelmap = root.join("labelmap.txt");
    if !labelmap.is_file() {
        let is_voc = palette.as_ref().is_some_and(|palette| {
            palette.len() > VOC_CLASSES.len() && (0..=VOC_CLASSES.len()).all(|id| palette[id] == voc_colour(id))
        });
        return Ok(if is_voc { VOC_CLASSES.map(str::to_owned).to_vec() } else { unnamed_classes(VOC_VOID - 1) });
    }
    let text = text::read(&labelmap)?;
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let mut names = BTreeMap::new();
    for (order, line) in lines.enumerate() {
        // label:color_rgb:parts:actions
        let mut fields = line.split(':');
        let (name, colour) = (fields.next().unwrap_or_default().trim(), fields.next().unwrap_or_default());
        let colour: Vec<u8> = colour.split(',').filter_map(|level| level.trim().parse().ok()).collect();
        let by_colour = palette.as_ref().and_then(|palette| palette.iter().position(|entry| entry[..] == colour[..]));
        let id = by_colour.unwrap_or(order);
        if id > 0 && name != "background" {
            names.insert(id as u32, name.to_owned());
        }
    }
    let n = names.keys().last().copied().unwrap_or(0);
    Ok(unnamed_classes(n).into_iter().zip(1..).map(|(unnamed, id)| names.remove(&id).unwrap_or(unnamed)).collect())
}

/// The palette of the first label image of a folder.
fn palette_of(folder: &Path, max_pixels: u64) -> Result<Option<Vec<[u8; 3]>>, DataError> {
    let Some(file) = files::Folder::list(folder)?.files.into_iter().find(|name| files::has_extension(name, "png"))
    else {
        return Ok(None);
    };
    let path = folder.join(file);
    Ok(Raster::open(&path, max_pixels).ok().and_then(|raster| raster.palette))
}

/// Colour of an id in VOC's palette (VOCdevkit's `VOClabelcolormap.m`): the bits of the id, dealt out from the top.
fn voc_colour(id: usize) -> [u8; 3] {
    let mut colour = [0u8; 3];
    for bit in 0..8 {
        for (channel, level) in colour.iter_mut().enumerate() {
            *level |= ((id >> (3 * bit + channel) & 1) as u8) << (7 - bit);
        }
    }
    colour
}

/// `ImageSets/Segmentation/train.txt` and `val.txt`.
fn read_voc_lists(root: &Path, pairs: &mut Pairs) -> Result<(), DataError> {
    let mut split_of = std::collections::HashMap::new();
    for split in ["train", "val", "test"] {
        let path = root.join("ImageSets/Segmentation").join(format!("{split}.txt"));
        if !path.is_file() {
            continue;
        }
        let text = text::read(&path)?;
        for stem in text.split_whitespace() {
            split_of.insert(stem.to_owned(), split);
        }
    }
    pairs.set_splits(|image| split_of.get(files::stem(image)).copied());
    Ok(())
}
