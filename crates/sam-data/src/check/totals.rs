//! The running totals of a check: findings, counts per class and part, sizes, and duplicates.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use image::metadata::Orientation;
use sam_image::{RgbImage, rle_iou};

use super::losses::{ImageState, Losses, is_loss};
use super::report::{CheckReport, ClassCount, Problem, SizeBin};
use crate::error::DataError;
use crate::filter::{FilterCounts, area_at_model_scale};
use crate::finding::{Finding, ProblemKind};
use crate::formats::intensity::{Intensity, decode_image, is_dark, pixel_range, read_encoded};
use crate::formats::place::ImageHeader;
use crate::sample::ObjectMask;
use crate::source::Source;
use crate::source_options::{Format, LabelKind};

/// Places shown for each kind.
const MAX_EXAMPLES: usize = 5;
/// A mask covering more than this fraction of its image is probably the background.
const HUGE_FRACTION: f64 = 0.95;
/// Two masks with a larger IoU are one object drawn twice.
const TWICE_IOU: f64 = 0.95;
/// Edges of the histogram of object sizes, as sides of squares of equal area at model scale.
const SIZE_EDGES_PX: [u32; 9] = [0, 4, 8, 16, 32, 64, 128, 256, 512];
/// Minimum number of rectangles for them to count as a pattern.
const MIN_RECTANGLES: u64 = 4;

/// Sizes that the check depends on.
pub(super) struct Rule {
    pub(super) tiny_area_model_px: f64,
    pub(super) model_side_px: usize,
}

/// Running totals; merging keeps the order of images, so the examples are the same on any number of cores.
#[derive(Default)]
pub(super) struct Totals {
    problems: BTreeMap<ProblemKind, (u64, Vec<String>)>,
    n_objects: u64,
    n_captioned: u64,
    n_captions: u64,
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
    pixel_hashes: Vec<(u64, usize)>,
    /// The first distinct object ids.
    ids: BTreeSet<u64>,
    /// Images that were looked at.
    states: Vec<(usize, ImageState)>,
    /// Number of the findings that stop reading, and the first.
    stopping: (u64, Vec<Finding>),
    filtered: FilterCounts,
}

impl Totals {
    pub(super) fn note(&mut self, finding: Finding) {
        let (count, examples) = self.problems.entry(finding.kind).or_default();
        *count += 1;
        if examples.len() < MAX_EXAMPLES {
            examples.push(finding.to_string());
        }
    }

    /// As [`Totals::note`], for a finding that stops reading where bad data is not dropped.
    fn note_stopping(&mut self, finding: Finding) {
        self.stopping.0 += 1;
        if self.stopping.1.len() < MAX_EXAMPLES {
            self.stopping.1.push(finding.clone());
        }
        self.note(finding);
    }

    /// Notes why an image cannot be read.
    fn note_unreadable(&mut self, index: usize, finding: Finding) {
        self.n_unreadable += 1;
        self.states.push((index, ImageState::Unreadable));
        self.note_stopping(finding);
    }

    pub(super) fn take_states(&mut self) -> Vec<(usize, ImageState)> {
        std::mem::take(&mut self.states)
    }

    pub(super) fn take_stopping(&mut self) -> (u64, Vec<Finding>) {
        std::mem::take(&mut self.stopping)
    }

    pub(super) fn merged(mut self, other: Self) -> Self {
        for (kind, (count, examples)) in other.problems {
            let mine = self.problems.entry(kind).or_default();
            mine.0 += count;
            mine.1.extend(examples);
            mine.1.truncate(MAX_EXAMPLES);
        }
        self.n_objects += other.n_objects;
        self.n_captioned += other.n_captioned;
        self.n_captions += other.n_captions;
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
        self.pixel_hashes.extend(other.pixel_hashes);
        self.ids.extend(other.ids);
        self.states.extend(other.states);
        self.stopping.0 += other.stopping.0;
        self.stopping.1.extend(other.stopping.1);
        self.stopping.1.truncate(MAX_EXAMPLES);
        self.filtered.too_large += other.filtered.too_large;
        self.filtered.too_small += other.filtered.too_small;
        self
    }

    pub(super) fn add_image(&mut self, source: &Source, index: usize, rule: &Rule) {
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
        let header = match self.add_pixels(source, index, &name) {
            Ok(header) => header,
            Err(finding) => return self.note_unreadable(index, finding),
        };
        let annotations = match source.annotations(index, &header) {
            Ok(annotations) => annotations,
            Err(error) => {
                let finding = Finding::new(ProblemKind::LabelUnreadable, name, error.to_string());
                return self.note_unreadable(index, finding);
            }
        };
        self.states.push((index, ImageState::Objects(annotations.objects.len() as u32)));
        self.filtered.too_large += annotations.filtered.too_large;
        self.filtered.too_small += annotations.filtered.too_small;
        let is_unreadable =
            |finding: &Finding| matches!(finding.kind, ProblemKind::LabelUnreadable | ProblemKind::LabelNotIds);
        if annotations.findings.iter().any(is_unreadable) {
            self.n_unreadable += 1;
        }
        let is_reported = annotations.findings.iter().any(|finding| finding.kind == ProblemKind::ExifSwapped);
        if header.orientation != Orientation::NoTransforms && !is_reported {
            let detail = format!(
                "the EXIF orientation is {:?}; annotations are assumed to refer to the upright image",
                header.orientation
            );
            self.note(Finding::new(ProblemKind::ExifRotated, name.clone(), detail));
        }
        for finding in annotations.findings {
            match finding.is_error() {
                true => self.note_stopping(finding),
                false => self.note(finding),
            }
        }
        self.sizes_hw.insert(annotations.size_hw);
        self.keep_extreme_sizes();
        self.n_without_objects += u64::from(annotations.objects.is_empty());
        self.n_with_ignore += u64::from(annotations.ignore.is_some());
        self.add_objects(&annotations.objects, annotations.size_hw, &name, &part, rule);
    }

    /// Decodes the image; the finding if that fails.
    fn add_pixels(&mut self, source: &Source, index: usize, name: &str) -> Result<ImageHeader, Finding> {
        let place = source.image_place(index).map_err(|error| match error {
            DataError::Findings { mut findings, .. } if findings.len() == 1 => findings.remove(0),
            error => Finding::new(ProblemKind::ImageMissing, name, error.to_string()),
        })?;
        let unreadable = |error: DataError| Finding::new(ProblemKind::ImageUnreadable, name, error.to_string());
        let shown = place.name();
        if let Some(real) = source.outside(&place) {
            let detail = format!("its file is {}, outside the data set", real.display());
            self.note(Finding::new(ProblemKind::ImageOutside, name, detail));
        }
        let rule = source.read_rule();
        let encoded = read_encoded(&place, rule).map_err(unreadable)?;
        let (bytes, header) = (&encoded.bytes, &encoded.header);
        if let Ok(Some(range)) = pixel_range(bytes, &shown, rule.max_pixels)
            && rule.intensity == Intensity::AsIs
        {
            let values = format!("its values are {} to {}", range.min, range.max);
            if range.is_float && range.min >= 0.0 && range.max > 0.0 && range.max <= 1.0 {
                let detail = format!("{values}, which look normalised");
                return Err(Finding::new(ProblemKind::PixelsNormalised, name, detail));
            }
            if range.is_u16 && is_dark(range.max) {
                let detail = format!("{values}, the lowest bits of 16 only, and would look black");
                return Err(Finding::new(ProblemKind::PixelsDark, name, detail));
            }
            if !range.is_float {
                self.note(Finding::new(ProblemKind::PixelsDeep, name, format!("{values}, of which 8 bits are kept")));
            }
        }
        let image = decode_image(bytes, &shown, header, rule).map_err(unreadable)?;
        if image.iter().max() == Some(&1) {
            self.note(Finding::new(ProblemKind::PixelsNormalised, name, "its brightest value is 1 of 255"));
        }
        self.pixel_hashes.push((pixel_hash(&image), index));
        Ok(*header)
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
                let detail = format!("{area_px} px, {area_model_px:.1} px at the model's scale");
                self.note(Finding::new(ProblemKind::MaskTiny, place(), detail));
            }
            if area_px as f64 > HUGE_FRACTION * image_px {
                let detail = format!("it covers {:.1} % of the image", 100.0 * area_px as f64 / image_px);
                self.note(Finding::new(ProblemKind::MaskHuge, place(), detail));
            }
            let [_, _, width, height] = object.mask.bbox_xywh_px();
            // A mask of a few pixels is always a rectangle.
            self.n_rectangles += u64::from(area_px == width * height && width.min(height) > 2);
            self.n_captioned += u64::from(!object.captions.is_empty());
            self.n_captions += object.captions.len() as u64;
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
        self.note_duplicates(&measured, name);
    }

    /// Nearly equal masks. The ratio of the areas bounds the IoU, so only neighbours in area are compared.
    fn note_duplicates(&mut self, by_area: &[(usize, &ObjectMask)], name: &str) {
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

    pub(super) fn note_copies(&mut self, source: &Source) {
        let mut pixel_hashes = std::mem::take(&mut self.pixel_hashes);
        pixel_hashes.sort_unstable();
        for copies in pixel_hashes.chunk_by(|a, b| a.0 == b.0).filter(|copies| copies.len() > 1) {
            let first = copies[0].1;
            for &(_, copy) in &copies[1..] {
                let (a, b) = (source.given_split(first), source.given_split(copy));
                let kind = if a == b { ProblemKind::SameImage } else { ProblemKind::SameImageAcrossSplits };
                let detail = match (a, b) {
                    (Some(a), Some(b)) if a != b => {
                        format!("same pixels as {}; {b} and {a}", source.name(first))
                    }
                    _ => format!("same pixels as {}", source.name(first)),
                };
                self.note(Finding::new(kind, source.name(copy), detail));
            }
        }
    }

    pub(super) fn note_classes(&mut self, source: &Source) {
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
                    format!("{part} has no object of it"),
                ));
            }
        }
    }

    /// Problems that only the whole data set shows.
    pub(super) fn note_patterns(&mut self, source: &Source) {
        if self.n_objects == 0 {
            let detail = format!("none of its {} images has an object", source.len());
            self.note(Finding::new(ProblemKind::NoObjects, source.root().display().to_string(), detail));
        }
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

    /// Drops all but the smallest and the largest, the only ones reported.
    fn keep_extreme_sizes(&mut self) {
        if self.sizes_hw.len() > 2 {
            let area = |size_hw: &&[usize; 2]| size_hw[0] * size_hw[1];
            let ends = [self.sizes_hw.iter().min_by_key(area), self.sizes_hw.iter().max_by_key(area)];
            self.sizes_hw = ends.into_iter().flatten().copied().collect();
        }
    }

    /// Those of `n_read` of `n_images`.
    pub(super) fn losses(self, n_images: usize, n_read: usize) -> Losses {
        let losing = self.problems.into_iter().filter(|(kind, _)| is_loss(*kind)).collect();
        Losses {
            images: n_images as u64,
            images_read: n_read as u64,
            unreadable_images: self.n_unreadable,
            objects: self.n_objects,
            problems: problems(losing),
            filtered: self.filtered,
        }
    }

    pub(super) fn report(self, source: &Source, rule: &Rule) -> CheckReport {
        let classes = source.classes().iter().enumerate().map(|(class, name)| {
            let of_class = self.classes.range((class, String::new())..(class + 1, String::new()));
            let by_part: BTreeMap<String, u64> = of_class.map(|((_, part), &count)| (part.clone(), count)).collect();
            ClassCount {
                name: name.clone(),
                objects: by_part.values().sum(),
                by_part: by_part.into_iter().filter(|(part, _)| !part.is_empty()).collect(),
            }
        });
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
            objects_with_captions: self.n_captioned,
            captions: self.n_captions,
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
            problems: problems(self.problems),
        }
    }
}

/// Errors first, then the most frequent.
fn problems(by_kind: BTreeMap<ProblemKind, (u64, Vec<String>)>) -> Vec<Problem> {
    let problem = |(kind, (count, examples)): (ProblemKind, (u64, Vec<String>))| Problem {
        kind,
        severity: kind.severity(),
        count,
        examples,
        fix: kind.fix().to_owned(),
    };
    let mut problems: Vec<Problem> = by_kind.into_iter().map(problem).collect();
    problems.sort_by_key(|problem| std::cmp::Reverse((problem.severity, problem.count)));
    problems
}

fn meet(a: Option<[usize; 4]>, b: Option<[usize; 4]>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3],
        _ => false,
    }
}

fn pixel_hash(image: &RgbImage) -> u64 {
    let mut hasher = DefaultHasher::new();
    image.dimensions().hash(&mut hasher);
    hasher.write(image.as_raw());
    hasher.finish()
}
