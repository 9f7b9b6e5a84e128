//! What is wrong with a data set, all at once and before training: every failure that cost somebody days.
//!
//! Every image is decoded and every mask is made, on all cores. Nothing stops at the first problem; the report counts each kind,
//! shows up to five places, and says what to do. The list of kinds is [`ProblemKind`]. The result does not depend on the number of
//! cores.

mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::metadata::Orientation;
use rayon::prelude::*;
use sam_image::{RgbImage, rle_iou};

pub use report::{CheckReport, ClassCount, Problem, SizeBin};

use crate::error::DataError;
use crate::filter::{MaskFilter, area_at_model_scale};
use crate::finding::{Finding, ProblemKind};
use crate::intensity::{Intensity, decode_image, pixel_range};
use crate::place::ImageHeader;
use crate::sample::ObjectMask;
use crate::source::Source;
use crate::source_options::{Format, LabelKind, SourceOptions};

/// Places that are shown of each kind.
const MAX_EXAMPLES: usize = 5;
/// A mask of more than this share of its image is probably the background.
const HUGE_SHARE: f64 = 0.95;
/// Smallest area at model scale when the filter has none: one pixel of SAM's mask output, which is a quarter of the input.
const TINY_AREA_MODEL_PX: f64 = 16.0;
/// Two masks that overlap more are one object drawn twice.
const TWICE_IOU: f64 = 0.95;
/// Edges of the histogram of object sizes, as sides of squares of equal area at model scale.
const SIZE_EDGES_PX: [u32; 9] = [0, 4, 8, 16, 32, 64, 128, 256, 512];
/// Fewer rectangles than this are no pattern.
const MIN_RECTANGLES: u64 = 4;

/// Checks a data set. `progress` is called from all threads with images done and images in all.
///
/// # Errors
///
/// When it cannot be opened at all. What is wrong inside is in the report.
pub fn check(
    path: &Path,
    options: &SourceOptions,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<CheckReport, DataError> {
    // Objects that training would filter out are still to be checked.
    let unfiltered = SourceOptions { filter: MaskFilter::default(), ..options.clone() };
    let (source, findings) = Source::open_lenient(path, &unfiltered)?;
    let rule = Rule {
        tiny_area_model_px: if options.filter.min_area_model_px > 0.0 {
            options.filter.min_area_model_px
        } else {
            TINY_AREA_MODEL_PX
        },
        model_side_px: options.filter.model_side_px,
    };
    let n_done = AtomicUsize::new(0);
    let seen = (0..source.len())
        .into_par_iter()
        .fold(Totals::default, |mut totals, index| {
            totals.add_image(&source, index, &rule);
            progress(n_done.fetch_add(1, Ordering::Relaxed) + 1, source.len());
            totals
        })
        .reduce(Totals::default, Totals::merged);
    let mut all = Totals::default();
    for finding in findings {
        all.note(finding);
    }
    let mut all = all.merged(seen);
    all.note_copies(&source);
    all.note_classes(&source);
    all.note_patterns(&source);
    Ok(all.report(&source, &rule))
}

struct Rule {
    tiny_area_model_px: f64,
    model_side_px: usize,
}

/// What has been seen; merging keeps the order of images, so examples are the same on any number of cores.
#[derive(Default)]
struct Totals {
    problems: BTreeMap<ProblemKind, (u64, Vec<String>)>,
    n_objects: u64,
    n_rectangles: u64,
    n_without_objects: u64,
    n_with_ignore: u64,
    n_unreadable: u64,
    parts: BTreeMap<String, u64>,
    /// By class and part.
    classes: BTreeMap<(usize, String), u64>,
    sizes: [u64; SIZE_EDGES_PX.len()],
    sizes_hw: BTreeSet<[usize; 2]>,
    /// Hash of the pixels, and the image.
    pictures: Vec<(u64, usize)>,
    /// Ids of label images, while few.
    ids: BTreeSet<u64>,
}

impl Totals {
    fn note(&mut self, finding: Finding) {
        let (count, examples) = self.problems.entry(finding.kind).or_default();
        *count += 1;
        if examples.len() < MAX_EXAMPLES {
            examples.push(finding.to_string());
        }
    }

    fn merged(mut self, other: Self) -> Self {
        for (kind, (count, examples)) in other.problems {
            let mine = self.problems.entry(kind).or_default();
            mine.0 += count;
            mine.1.extend(examples);
            mine.1.truncate(MAX_EXAMPLES);
        }
        self.n_objects += other.n_objects;
        self.n_rectangles += other.n_rectangles;
        self.n_without_objects += other.n_without_objects;
        self.n_with_ignore += other.n_with_ignore;
        self.n_unreadable += other.n_unreadable;
        for (part, count) in other.parts {
            *self.parts.entry(part).or_default() += count;
        }
        for (class, count) in other.classes {
            *self.classes.entry(class).or_default() += count;
        }
        for (mine, theirs) in self.sizes.iter_mut().zip(other.sizes) {
            *mine += theirs;
        }
        self.sizes_hw.extend(other.sizes_hw);
        self.keep_extreme_sizes();
        self.pictures.extend(other.pictures);
        self.ids.extend(other.ids);
        self
    }

    fn add_image(&mut self, source: &Source, index: usize, rule: &Rule) {
        let name = source.name(index);
        let part = source.given_split(index).unwrap_or_default().to_owned();
        if !part.is_empty() {
            *self.parts.entry(part.clone()).or_default() += 1;
        }
        if let Some((_, extension)) = name.rsplit_once('.')
            && extension.chars().any(char::is_uppercase)
        {
            self.note(Finding::new(ProblemKind::ExtensionCase, name.clone(), format!("its extension is .{extension}")));
        }
        let Some(header) = self.add_picture(source, index, &name) else {
            self.n_unreadable += 1;
            return;
        };
        let annotations = match source.annotations(index, &header) {
            Ok(annotations) => annotations,
            Err(error) => {
                self.n_unreadable += 1;
                self.note(Finding::new(ProblemKind::LabelUnreadable, name, error.to_string()));
                return;
            }
        };
        let is_unreadable =
            |finding: &Finding| matches!(finding.kind, ProblemKind::LabelUnreadable | ProblemKind::LabelNotIds);
        if annotations.findings.iter().any(is_unreadable) {
            self.n_unreadable += 1;
        }
        let is_told = annotations.findings.iter().any(|finding| finding.kind == ProblemKind::ExifSwapped);
        if header.orientation != Orientation::NoTransforms && !is_told {
            let detail =
                format!("EXIF says {:?}; annotations are taken to be of the upright image", header.orientation);
            self.note(Finding::new(ProblemKind::ExifRotated, name.clone(), detail));
        }
        for finding in annotations.findings {
            self.note(finding);
        }
        self.sizes_hw.insert(annotations.size_hw);
        self.keep_extreme_sizes();
        self.n_without_objects += u64::from(annotations.objects.is_empty());
        self.n_with_ignore += u64::from(annotations.ignore.is_some());
        self.add_objects(&annotations.objects, annotations.size_hw, &name, &part, rule);
    }

    /// Decodes the image; `None` when that is impossible.
    fn add_picture(&mut self, source: &Source, index: usize, name: &str) -> Option<ImageHeader> {
        let place = match source.image_place(index) {
            Ok(place) => place,
            Err(DataError::Findings { findings, .. }) => {
                findings.into_iter().for_each(|finding| self.note(finding));
                return None;
            }
            Err(error) => {
                self.note(Finding::new(ProblemKind::ImageMissing, name, error.to_string()));
                return None;
            }
        };
        let shown = place.name();
        let options = source.options();
        let read = || -> Result<(Vec<u8>, ImageHeader), DataError> {
            let bytes = place.read()?;
            let header = ImageHeader::read(std::io::Cursor::new(&bytes), &shown)?;
            Ok((bytes, header))
        };
        let (bytes, header) = match read() {
            Ok(read) => read,
            Err(error) => {
                self.note(Finding::new(ProblemKind::ImageUnreadable, name, error.to_string()));
                return None;
            }
        };
        if let Ok(Some(range)) = pixel_range(&bytes, &shown)
            && options.intensity == Intensity::AsIs
        {
            let values = format!("its values are {} to {}", range.min, range.max);
            if range.is_float && range.min >= 0.0 && range.max > 0.0 && range.max <= 1.0 {
                self.note(Finding::new(ProblemKind::PixelsNormalised, name, values));
                return None;
            }
            if !range.is_float {
                self.note(Finding::new(
                    ProblemKind::PixelsDeep,
                    name,
                    format!("{values}, and 8 of their bits are kept"),
                ));
            }
        }
        let image = match decode_image(&bytes, &shown, &header, options.intensity, options.channels.as_deref()) {
            Ok(image) => image,
            Err(error) => {
                self.note(Finding::new(ProblemKind::ImageUnreadable, name, error.to_string()));
                return None;
            }
        };
        if image.iter().max() == Some(&1) {
            self.note(Finding::new(ProblemKind::PixelsNormalised, name, "its brightest value is 1 of 255"));
        }
        self.pictures.push((picture_hash(&image), index));
        Some(header)
    }

    fn add_objects(&mut self, objects: &[ObjectMask], size_hw: [usize; 2], name: &str, part: &str, rule: &Rule) {
        let image_px = (size_hw[0] * size_hw[1]) as f64;
        let mut measured = Vec::with_capacity(objects.len());
        for object in objects {
            let area_px = object.mask.area_px();
            let place = || format!("{name}, object {}", object.id);
            let area_model_px = area_at_model_scale(area_px as f64, size_hw, rule.model_side_px);
            let side_px = area_model_px.sqrt();
            let bin = SIZE_EDGES_PX.partition_point(|&edge| f64::from(edge) <= side_px) - 1;
            self.sizes[bin] += 1;
            if area_model_px < rule.tiny_area_model_px {
                let detail = format!("{area_px} px are {area_model_px:.1} px at the model's scale");
                self.note(Finding::new(ProblemKind::MaskTiny, place(), detail));
            }
            if area_px as f64 > HUGE_SHARE * image_px {
                let detail = format!("it covers {:.1} % of the image", 100.0 * area_px as f64 / image_px);
                self.note(Finding::new(ProblemKind::MaskHuge, place(), detail));
            }
            let [_, _, width, height] = object.mask.bbox_xywh_px();
            // A few pixels are always a rectangle.
            self.n_rectangles += u64::from(area_px == width * height && width.min(height) > 2);
            if let Some(class) = object.class {
                *self.classes.entry((class, part.to_owned())).or_default() += 1;
            }
            if self.ids.len() < 3 {
                self.ids.insert(object.id);
            }
            measured.push((area_px, object));
        }
        self.n_objects += objects.len() as u64;
        measured.sort_by_key(|&(area_px, object)| (area_px, object.id));
        self.note_twins(&measured, name);
    }

    /// Masks that are nearly one. The smaller area bounds the IoU, so only neighbours in area are compared.
    fn note_twins(&mut self, by_area: &[(usize, &ObjectMask)], name: &str) {
        for (at, (area_px, object)) in by_area.iter().enumerate() {
            let bounds = object.mask.bounds_xyxy_px();
            let twin = by_area[at + 1..]
                .iter()
                .take_while(|(other_px, _)| *area_px as f64 >= TWICE_IOU * *other_px as f64)
                .filter(|(_, other)| meet(bounds, other.mask.bounds_xyxy_px()))
                .find(|(_, other)| rle_iou(&object.mask, &other.mask).is_ok_and(|iou| iou > TWICE_IOU));
            if let Some((_, twin)) = twin {
                let detail = format!("it overlaps with object {} by more than {TWICE_IOU}", twin.id);
                self.note(Finding::new(ProblemKind::MaskTwice, format!("{name}, object {}", object.id), detail));
            }
        }
    }

    fn note_copies(&mut self, source: &Source) {
        let mut pictures = std::mem::take(&mut self.pictures);
        pictures.sort_unstable();
        for copies in pictures.chunk_by(|a, b| a.0 == b.0).filter(|copies| copies.len() > 1) {
            let first = copies[0].1;
            for &(_, copy) in &copies[1..] {
                let (a, b) = (source.given_split(first), source.given_split(copy));
                let kind = if a == b { ProblemKind::SameImage } else { ProblemKind::SameImageAcrossSplits };
                let detail = match (a, b) {
                    (Some(a), Some(b)) if a != b => {
                        format!("its pixels are those of {}; {b} and {a}", source.name(first))
                    }
                    _ => format!("its pixels are those of {}", source.name(first)),
                };
                self.note(Finding::new(kind, source.name(copy), detail));
            }
        }
    }

    fn note_classes(&mut self, source: &Source) {
        let parts: Vec<String> = self.parts.keys().cloned().collect();
        if parts.len() < 2 {
            return;
        }
        for (class, name) in source.classes().iter().enumerate() {
            let count = |part: &String| self.classes.get(&(class, part.clone())).copied().unwrap_or(0);
            if parts.iter().all(|part| count(part) == 0) {
                continue;
            }
            let absent: Vec<String> = parts.iter().filter(|part| count(part) == 0).cloned().collect();
            for part in absent {
                self.note(Finding::new(
                    ProblemKind::ClassAbsent,
                    format!("class {name}"),
                    format!("{part} has none of it"),
                ));
            }
        }
    }

    /// What only the whole shows.
    fn note_patterns(&mut self, source: &Source) {
        if self.n_rectangles >= MIN_RECTANGLES && self.n_rectangles * 2 > self.n_objects {
            let detail = format!("{} of {} masks are rectangles", self.n_rectangles, self.n_objects);
            self.note(Finding::new(ProblemKind::PolygonIsBox, source.root().display().to_string(), detail));
        }
        let one_id = self.ids.len() == 1 && (self.ids.contains(&1) || self.ids.contains(&255));
        if source.format() == Format::LabelImages && source.options().labels == LabelKind::Instance && one_id {
            let detail = "label images have one value beside 0, so each image has one object".to_owned();
            self.note(Finding::new(ProblemKind::BinaryAsInstance, source.root().display().to_string(), detail));
        }
    }

    /// Only the smallest and the largest area are reported.
    fn keep_extreme_sizes(&mut self) {
        if self.sizes_hw.len() > 2 {
            let area = |size_hw: &&[usize; 2]| size_hw[0] * size_hw[1];
            let ends = [self.sizes_hw.iter().min_by_key(area), self.sizes_hw.iter().max_by_key(area)];
            self.sizes_hw = ends.into_iter().flatten().copied().collect();
        }
    }

    fn report(self, source: &Source, rule: &Rule) -> CheckReport {
        let classes = source.classes().iter().enumerate().map(|(class, name)| {
            let of_class = self.classes.range((class, String::new())..(class + 1, String::new()));
            let by_part: BTreeMap<String, u64> = of_class.map(|((_, part), &count)| (part.clone(), count)).collect();
            ClassCount {
                name: name.clone(),
                objects: by_part.values().sum(),
                by_part: by_part.into_iter().filter(|(part, _)| !part.is_empty()).collect(),
            }
        });
        let mut problems: Vec<Problem> = self
            .problems
            .into_iter()
            .map(|(kind, (count, examples))| Problem {
                kind,
                severity: kind.severity(),
                count,
                examples,
                fix: kind.fix().to_owned(),
            })
            .collect();
        problems.sort_by_key(|problem| std::cmp::Reverse((problem.severity, problem.count)));
        let area = |size_hw: &&[usize; 2]| size_hw[0] * size_hw[1];
        let smallest = self.sizes_hw.iter().min_by_key(area).copied();
        let largest = self.sizes_hw.iter().max_by_key(area).copied();
        let n_images = source.len() as u64;
        CheckReport {
            path: source.root().display().to_string(),
            format: source.format(),
            notes: source.notes().to_vec(),
            images: n_images,
            images_without_objects: self.n_without_objects,
            objects: self.n_objects,
            images_with_ignore: self.n_with_ignore,
            parts: self.parts,
            classes: classes.collect(),
            sizes: SIZE_EDGES_PX
                .iter()
                .enumerate()
                .map(|(bin, &from_px)| SizeBin {
                    from_px,
                    to_px: SIZE_EDGES_PX.get(bin + 1).copied(),
                    objects: self.sizes[bin],
                })
                .collect(),
            model_side_px: rule.model_side_px,
            image_sizes_hw: smallest.zip(largest).map(|(smallest, largest)| [smallest, largest]),
            unreadable_images: self.n_unreadable,
            unreadable_percent: 100.0 * self.n_unreadable as f64 / n_images.max(1) as f64,
            problems,
        }
    }
}

fn meet(a: Option<[usize; 4]>, b: Option<[usize; 4]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3],
        _ => false,
    }
}

fn picture_hash(image: &RgbImage) -> u64 {
    let mut hasher = DefaultHasher::new();
    image.dimensions().hash(&mut hasher);
    hasher.write(image.as_raw());
    hasher.finish()
}
