//! Label images as arrays of ids, and ids as masks.
//!
//! Palette PNGs yield their **indices** (VOC, DAVIS); 16- and 32-bit ids keep their value. Colours other than grey,
//! fractions, and lossy files are rejected: no rule turns them back into ids.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use sam_image::{Components, Connectivity, ImageError, Mask, Rle};

use crate::error::DataError;
use crate::formats::raster::{Meaning, Raster, Samples};

/// Limit of ids in one image; a photograph read as labels has a million.
const MAX_IDS: usize = 100_000;

/// One id per pixel, row-major.
#[derive(Debug)]
pub(crate) struct LabelMap {
    pub(crate) size_hw: [usize; 2],
    pub(crate) ids: Vec<u32>,
    /// Whether the ids are indices into a palette of at most 256 colours.
    pub(crate) is_palette: bool,
    /// Whether they were stored in 8 bits or fewer.
    pub(crate) is_narrow: bool,
    /// A value that is no integer, where [`LabelMap::read_soft`] read floats as levels of 8 bits.
    pub(crate) fraction: Option<f32>,
}

/// A value that is no integer, and the factor to 256 levels; an error says what cannot be an id: a negative number, a fraction
/// above 255, or what is too large for a float to be exact.
fn levels_of(raster: &Raster) -> Result<(Option<f32>, f64), String> {
    /// Largest integer up to which f32 is exact.
    const EXACT: f32 = 16_777_216.0;
    match &raster.samples {
        Samples::I32(v) if v.iter().any(|&x| x < 0) => Err("negative numbers".to_owned()),
        Samples::F32(v) => {
            let fraction = v.iter().copied().find(|x| x.fract() != 0.0);
            let max = v.iter().copied().fold(0.0, f32::max);
            let scale = match fraction {
                Some(_) if max <= 1.0 => 255.0,
                Some(x) if max > 255.0 => return Err(format!("the float {x}")),
                _ => 1.0,
            };
            match v.iter().find(|&&x| !(0.0..=EXACT).contains(&x)) {
                Some(x) => Err(format!("the float {x}")),
                None => Ok((fraction, scale)),
            }
        }
        _ => Ok((None, 1.0)),
    }
}

impl LabelMap {
    /// Reads a PNG, TIFF or GIF file of at most `max_pixels`.
    pub(crate) fn read(path: &Path, max_pixels: u64) -> Result<Self, DataError> {
        let map = Self::read_soft(path, max_pixels)?;
        match map.fraction {
            None => Ok(map),
            Some(fraction) => Err(map.not_ids(&path.display().to_string(), fraction)),
        }
    }

    /// The error for floats that are no ids.
    pub(crate) fn not_ids(&self, name: &str, fraction: f32) -> DataError {
        not_ids(name, &format!("the float {fraction}"))
    }

    /// As [`LabelMap::read`], but fractions from 0 to 1 or 0 to 255 become 256 levels, as a mask that was smoothed and saved as
    /// float has them.
    pub(crate) fn read_soft(path: &Path, max_pixels: u64) -> Result<Self, DataError> {
        let raster = Raster::open(path, max_pixels)?;
        let not_ids = |got: &str| not_ids(&path.display().to_string(), got);
        let is_narrow = !raster.is_deep();
        let (fraction, scale) = levels_of(&raster).map_err(|got| not_ids(&got))?;
        let (n, n_pixels) = (raster.n_channels, raster.size_hw[0] * raster.size_hw[1]);
        match (n, raster.meaning) {
            (1, _) => {}
            (2, Meaning::Grey) | (3 | 4, Meaning::Rgb) => {
                let n_colours = if n == 2 { 1 } else { 3 };
                let colours = |pixel: usize| (0..n_colours).map(move |at| pixel * n + at);
                let is_grey = |&pixel: &usize| {
                    colours(pixel).all(|at| raster.sample(at).total_cmp(&raster.sample(pixel * n)).is_eq())
                };
                if let Some(pixel) = (0..n_pixels).find(|pixel| !is_grey(pixel)) {
                    let colour: Vec<String> = colours(pixel).map(|at| raster.sample(at).to_string()).collect();
                    return Err(not_ids(&format!("colours, such as [{}]", colour.join(", "))));
                }
                let differs = |channel: usize, pixel: usize| {
                    !raster.sample(pixel * n + channel).total_cmp(&raster.sample(channel)).is_eq()
                };
                let has_shape = |channel: usize| (0..n_pixels).any(|pixel| differs(channel, pixel));
                if n > n_colours && !has_shape(0) && has_shape(n - 1) {
                    return Err(not_ids(
                        "a single colour, with the shapes in the alpha channel (save that one as grey)",
                    ));
                }
            }
            (n, _) => return Err(not_ids(&format!("{n} channels"))),
        }
        let (size_hw, is_palette) = (raster.size_hw, raster.meaning == Meaning::Palette);
        let ids = match raster.samples {
            Samples::U32(ids) if n == 1 => ids,
            _ => (0..n_pixels).map(|pixel| (raster.sample(pixel * n) * scale).round() as u32).collect(),
        };
        Ok(Self { size_hw, ids, is_palette, is_narrow, fraction })
    }

    /// Whether the image was resized with smoothing, so that edges hold the values between their sides.
    ///
    /// Such values form thin lines along other ids. Objects do not: nearly all have a block of 2 x 2 pixels somewhere, and
    /// specks without one lie on the background.
    pub(crate) fn is_smoothed(&self) -> bool {
        const MIN_EDGE_IDS: usize = 3;
        if self.is_palette || self.distinct().len() <= MIN_EDGE_IDS {
            return false;
        }
        let [height, width] = self.size_hw;
        // By id: whether it has a block, and whether it touches another.
        let mut seen: HashMap<u32, (bool, bool)> = HashMap::new();
        for row in 0..height {
            for column in 0..width {
                let id = self.ids[row * width + column];
                if id == 0 {
                    continue;
                }
                let rows = row.saturating_sub(1)..(row + 2).min(height);
                let columns = column.saturating_sub(1)..(column + 2).min(width);
                let entry = seen.entry(id).or_default();
                entry.0 |= row + 1 < height
                    && column + 1 < width
                    && [(0, 1), (1, 0), (1, 1)].iter().all(|(y, x)| self.ids[(row + y) * width + column + x] == id);
                entry.1 = entry.1
                    || rows.flat_map(|row| self.ids[row * width..][columns.clone()].iter()).any(|&x| x != 0 && x != id);
            }
        }
        let n_blocks = seen.values().filter(|(has_block, _)| *has_block).count();
        let n_edges = seen.values().filter(|(has_block, touches)| !has_block && *touches).count();
        n_edges >= MIN_EDGE_IDS.max(n_blocks)
    }

    /// The distinct ids in ascending order.
    pub(crate) fn distinct(&self) -> Vec<u32> {
        let mut distinct = Vec::new();
        let mut is_seen = [false; 256];
        let mut last = None;
        for &id in &self.ids {
            if Some(id) == last {
                continue;
            }
            last = Some(id);
            match is_seen.get_mut(id as usize) {
                Some(seen) => *seen = true,
                None => distinct.push(id),
            }
            if distinct.len() > 1 << 16 {
                distinct.sort_unstable();
                distinct.dedup();
                if distinct.len() > MAX_IDS {
                    break;
                }
            }
        }
        distinct.extend((0..256u32).filter(|&id| is_seen[id as usize]));
        distinct.sort_unstable();
        distinct.dedup();
        distinct
    }

    /// The mask of every id except 0, in ascending order of ids.
    pub(crate) fn masks(&self, name: &str) -> Result<Vec<(u32, Rle)>, DataError> {
        let [height, width] = self.size_hw;
        // Ends of runs in column-major order, per id: start, end, start, end.
        let mut runs: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        let mut last = 0;
        for column in 0..width {
            for row in 0..height {
                let id = self.ids[row * width + column];
                if id == last {
                    continue;
                }
                let at = (column * height + row) as u32;
                if last != 0 {
                    runs.entry(last).or_default().push(at);
                }
                if id != 0 {
                    runs.entry(id).or_default().push(at);
                    if runs.len() > MAX_IDS {
                        return Err(DataError::Content {
                            path: PathBuf::from(name),
                            what: "a label image".to_owned(),
                            expected: format!("at most {MAX_IDS} ids"),
                            got: "more".to_owned(),
                            fix: "is this the image instead of its labels?".to_owned(),
                        });
                    }
                }
                last = id;
            }
        }
        let n_pixels = (height * width) as u32;
        runs.into_iter()
            .map(|(id, mut ends)| {
                if ends.len() % 2 == 1 {
                    ends.push(n_pixels);
                }
                Ok((id, rle_from_ends(self.size_hw, &ends)?))
            })
            .collect()
    }

    /// The 8-connected components of every id except 0, each with its id.
    pub(crate) fn components(&self, name: &str) -> Result<Vec<(u32, Rle)>, DataError> {
        let mut all = Vec::new();
        for (id, mask) in self.masks(name)? {
            let components = Components::new(&mask.to_mask(), Connectivity::Eight);
            let labels = Self {
                size_hw: self.size_hw,
                ids: components.labels(),
                is_palette: false,
                is_narrow: false,
                fraction: None,
            };
            all.extend(labels.masks(name)?.into_iter().map(|(_, part)| (id, part)));
        }
        Ok(all)
    }

    /// The most frequent id under a mask, except 0 and `void`: the class of a VOC instance.
    pub(crate) fn majority(&self, mask: &Mask, void: Option<u32>) -> Option<u32> {
        let mut votes: BTreeMap<u32, usize> = BTreeMap::new();
        for (&id, &is_set) in self.ids.iter().zip(mask.pixels()) {
            if is_set && id != 0 && Some(id) != void {
                *votes.entry(id).or_default() += 1;
            }
        }
        votes.into_iter().max_by_key(|&(id, n)| (n, std::cmp::Reverse(id))).map(|(id, _)| id)
    }
}

fn not_ids(name: &str, got: &str) -> DataError {
    DataError::Content {
        path: PathBuf::from(name),
        what: "a label image".to_owned(),
        expected: "one channel of non-negative integers".to_owned(),
        got: got.to_owned(),
        fix: "save ids as 8- or 16-bit grey or as a palette PNG".to_owned(),
    }
}

fn rle_from_ends(size_hw: [usize; 2], ends: &[u32]) -> Result<Rle, ImageError> {
    let n_pixels = (size_hw[0] * size_hw[1]) as u32;
    let mut counts = Vec::with_capacity(ends.len() + 1);
    let mut last = 0;
    for &end in ends {
        counts.push(end - last);
        last = end;
    }
    counts.push(n_pixels - last);
    Rle::new(size_hw, &counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(size_hw: [usize; 2], ids: &[u32]) -> LabelMap {
        LabelMap { size_hw, ids: ids.to_vec(), is_palette: false, is_narrow: true, fraction: None }
    }

    #[test]
    fn every_id_becomes_its_mask() {
        let labels = map([3, 4], &[0, 1, 1, 70_000, 0, 1, 255, 70_000, 255, 0, 255, 70_000]);
        assert_eq!(labels.distinct(), [0, 1, 255, 70_000]);
        for (id, rle) in labels.masks("t").expect("masks") {
            let expected: Vec<bool> = labels.ids.iter().map(|&x| x == id).collect();
            assert_eq!(rle.to_mask().pixels(), expected, "id {id}");
        }
        assert_eq!(labels.masks("t").expect("masks").len(), 3);
    }

    #[test]
    fn diagonal_neighbours_are_one_component() {
        let labels = map([3, 4], &[2, 0, 0, 1, 0, 2, 0, 0, 0, 0, 0, 1]);
        let areas: Vec<_> =
            labels.components("t").expect("components").iter().map(|(id, m)| (*id, m.area_px())).collect();
        assert_eq!(areas, [(1, 1), (1, 1), (2, 2)]);
    }
}
