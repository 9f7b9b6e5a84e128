//! YOLO segmentation: `images/PART`, `labels/PART` with a `.txt` per image, and `data.yaml`.
//!
//! A line is one polygon. The parts of an object are joined by bridges of no width, as Ultralytics' converter does, so that
//! filling it again (even-odd) restores every pixel; a hole is filled, as no other program would read it, and counted. Vertices
//! lie on pixel edges, as fractions of the image's size.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use sam_image::{Mask, Outline, outlines, polygons_to_rle};

use super::NO_CLASS;
use super::image_files::Written;
use crate::error::DataError;
use crate::source::ImageObjects;

/// The part of images that have none, or one that `data.yaml` cannot name.
const NO_PART: &str = "train";

/// The parts that a `data.yaml` names, in its order.
const PARTS: [&str; 3] = ["train", "val", "test"];

/// The part of an image in the output.
pub(super) fn part_of(split: Option<&str>) -> &'static str {
    PARTS.into_iter().find(|part| Some(*part) == split).unwrap_or(NO_PART)
}

/// Decimals of a coordinate: a hundredth of a pixel in the largest image.
const DECIMALS: usize = 7;

/// Pairs of vertices that are compared for the shortest bridge; beyond that, any bridge will do.
const PAIRS_COMPARED: usize = 1 << 22;

/// What the label file of one image does not hold.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Polygons {
    n_holes: u64,
    n_with_holes: u64,
    n_joined: u64,
    n_empty: u64,
    n_without_class: u64,
}

pub(super) struct YoloWriter {
    classes: Vec<String>,
    parts: BTreeSet<&'static str>,
    n_without_part: u64,
    n_ignores: u64,
    all: Polygons,
}

impl YoloWriter {
    pub(super) fn new(classes: &[String]) -> Self {
        let classes = classes.to_vec();
        Self { classes, parts: BTreeSet::new(), n_without_part: 0, n_ignores: 0, all: Polygons::default() }
    }

    pub(super) fn add(&mut self, split: Option<&str>, written: &Written) {
        let Polygons { n_holes, n_with_holes, n_joined, n_empty, n_without_class } = written.polygons;
        self.all.n_holes += n_holes;
        self.all.n_with_holes += n_with_holes;
        self.all.n_joined += n_joined;
        self.all.n_empty += n_empty;
        self.all.n_without_class += n_without_class;
        self.n_ignores += u64::from(written.annotations.ignore.is_some());
        self.n_without_part += u64::from(Some(part_of(split)) != split);
        self.parts.insert(part_of(split));
    }

    /// Writes `data.yaml`. Returns what the format could not represent, one sentence each.
    pub(super) fn finish(mut self, folder: &Path) -> Result<Vec<String>, DataError> {
        if self.all.n_without_class > 0 || self.classes.is_empty() {
            self.classes.push(NO_CLASS.to_owned());
        }
        let mut yaml = "# Written by sam-train; paths are relative to this file.\n".to_owned();
        for part in PARTS.into_iter().filter(|part| self.parts.contains(part)) {
            let _ = writeln!(yaml, "{part}: images/{part}");
        }
        yaml.push_str("names:\n");
        for (class, name) in self.classes.iter().enumerate() {
            let path = folder.join("data.yaml");
            // A text of JSON is one of YAML.
            let name = serde_json::to_string(name).map_err(|source| DataError::Json { path, what: "YOLO", source })?;
            let _ = writeln!(yaml, "  {class}: {name}");
        }
        let path = folder.join("data.yaml");
        std::fs::write(&path, yaml).map_err(|error| DataError::io(&path, error))?;
        Ok(self.notes())
    }

    fn notes(&self) -> Vec<String> {
        let Polygons { n_holes, n_with_holes, n_joined, n_empty, n_without_class } = self.all;
        let class = self.classes.len() - 1;
        [
            (n_holes, format!("YOLO has no holes: {n_holes} holes of {n_with_holes} objects were filled")),
            (
                n_joined,
                format!("{n_joined} objects of several parts became one polygon each, joined by bridges of no width"),
            ),
            (n_empty, format!("{n_empty} objects without a pixel were lost")),
            (
                n_without_class,
                format!("{n_without_class} objects without a class got the class {class}, \"{NO_CLASS}\""),
            ),
            (self.n_ignores, format!("YOLO has no ignore regions: those of {} images were lost", self.n_ignores)),
            (self.n_without_part, format!("{} images belong to no part and are in {NO_PART}", self.n_without_part)),
            (
                u64::from(!self.parts.contains("val")),
                "there is no part val, which Ultralytics needs: add `val:` to data.yaml".to_owned(),
            ),
        ]
        .into_iter()
        .filter_map(|(count, note)| (count > 0).then_some(note))
        .collect()
    }
}

/// Writes the label file of one image; objects without a class have that after the last.
pub(super) fn write_labels(path: &Path, annotations: &ImageObjects, no_class: usize) -> Result<Polygons, DataError> {
    let mut found = Polygons::default();
    let mut text = String::new();
    let [height, width] = annotations.size_hw.map(|side| side as f64);
    for object in &annotations.objects {
        let Some(polygon_xy_px) = polygon(&object.mask.to_mask(), &mut found)? else {
            found.n_empty += 1;
            continue;
        };
        found.n_without_class += u64::from(object.class.is_none());
        let _ = write!(text, "{}", object.class.unwrap_or(no_class));
        for [x, y] in polygon_xy_px {
            let _ = write!(text, " {} {}", fraction(f64::from(x) / width), fraction(f64::from(y) / height));
        }
        text.push('\n');
    }
    sam_files::write_unsynced(path, text).map_err(|error| DataError::io(path, error))?;
    Ok(found)
}

/// One polygon for a mask; `None` for an empty one.
fn polygon(mask: &Mask, found: &mut Polygons) -> Result<Option<Vec<[u32; 2]>>, sam_image::ImageError> {
    let mut parts = outlines(mask);
    let n_holes: usize = parts.iter().map(|part| part.holes_xy_px.len()).sum();
    if n_holes > 0 {
        found.n_holes += n_holes as u64;
        found.n_with_holes += 1;
        // Parts in a hole vanish with it; filled even-odd, they would become new holes.
        let exteriors: Vec<Vec<f64>> = parts.iter().map(Outline::exterior_flat_px).collect();
        parts = outlines(&polygons_to_rle(mask.size_hw(), &exteriors)?.to_mask());
    }
    let mut exteriors = parts.into_iter().map(|part| part.exterior_xy_px);
    let Some(mut polygon) = exteriors.next() else { return Ok(None) };
    found.n_joined += u64::from(exteriors.len() > 0);
    for exterior in exteriors {
        polygon = bridged(&polygon, &exterior);
    }
    Ok(Some(polygon))
}

/// Both polygons as one: there and back over the shortest bridge between two vertices.
fn bridged(polygon: &[[u32; 2]], other: &[[u32; 2]]) -> Vec<[u32; 2]> {
    let distance = |a: [u32; 2], b: [u32; 2]| {
        let [dx, dy] = [0, 1].map(|axis| u64::from(a[axis].abs_diff(b[axis])));
        dx * dx + dy * dy
    };
    let is_compared = polygon.len().saturating_mul(other.len()) <= PAIRS_COMPARED;
    let pairs = (0..polygon.len()).flat_map(|at| (0..other.len()).map(move |to| (at, to)));
    let nearest = pairs.min_by_key(|&(at, to)| distance(polygon[at], other[to])).filter(|_| is_compared);
    let (at, to) = nearest.unwrap_or_default();
    [&polygon[..=at], &other[to..], &other[..=to], &polygon[at..]].concat()
}

/// A fraction without zeros at its end.
fn fraction(value: f64) -> String {
    let text = format!("{value:.DECIMALS$}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use sam_image::{Rle, polygon_to_rle, rle_iou};

    use super::*;

    /// Drawn with `#`.
    fn drawn(rows: &[&str]) -> Mask {
        let size_hw = [rows.len(), rows[0].len()];
        Mask::from_fn(size_hw, |row, column| rows[row].as_bytes()[column] == b'#')
    }

    fn back(mask: &Mask, found: &mut Polygons) -> Rle {
        let polygon = polygon(mask, found).expect("drawn").expect("not empty");
        let flat: Vec<f64> = polygon.iter().flatten().map(|&value| f64::from(value)).collect();
        polygon_to_rle(mask.size_hw(), &flat).expect("drawn")
    }

    #[test]
    fn parts_are_joined_without_a_trace() {
        let mut found = Polygons::default();
        for rows in [
            &["#....", ".##..", ".##..", "....#"][..],
            &["#.#.#.#", ".......", "#.#.#.#", "......."],
            &["##..", "##..", "..##", "..##"],
            &["..........", ".#........", "..........", "........##"],
        ] {
            let mask = drawn(rows);
            assert_eq!(back(&mask, &mut found), Rle::from_mask(&mask), "{rows:?}");
        }
        assert_eq!((found.n_joined, found.n_holes), (4, 0));
    }

    #[test]
    fn holes_are_filled_with_what_is_in_them() {
        let mask = drawn(&["#######", "#.....#", "#.#.#.#", "#.....#", "#######"]);
        let mut found = Polygons::default();
        assert_eq!(back(&mask, &mut found).area_px(), 35);
        assert_eq!((found.n_holes, found.n_with_holes, found.n_joined), (1, 1, 0));
        assert!(polygon(&Mask::empty([3, 3]), &mut found).expect("drawn").is_none());
    }

    #[test]
    fn random_masks_are_restored() {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state >> 16
        };
        for _ in 0..40 {
            let size_hw = [1 + next() as usize % 24, 1 + next() as usize % 24];
            let mask = Mask::from_fn(size_hw, |_, _| next() % 3 == 0);
            if mask.area_px() == 0 {
                continue;
            }
            let mut found = Polygons::default();
            let back = back(&mask, &mut found);
            match found.n_holes {
                0 => assert_eq!(back, Rle::from_mask(&mask), "{mask:?}"),
                _ => assert!(
                    back.area_px() > mask.area_px() && rle_iou(&back, &Rle::from_mask(&mask)).expect("sizes") > 0.3
                ),
            }
        }
    }

    #[test]
    fn fractions_are_short() {
        assert_eq!([0.0, 1.0, 0.5, 1.0 / 3.0].map(fraction), ["0", "1", "0.5", "0.3333333"]);
    }
}
