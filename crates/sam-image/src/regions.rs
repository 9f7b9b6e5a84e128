//! Small holes and islands of a mask in run lengths, as [`crate::fill_small_holes`] and then
//! [`crate::remove_small_islands`] treat those of its bitmap, without decoding it.
//!
//! Source: `postprocess_small_regions` of segment_anything's `automatic_mask_generator.py`. A mask of a photograph has some
//! thousand runs and some million pixels.

use crate::components::{Connectivity, Linker, Run};
use crate::rle::Rle;

/// A mask without small regions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// The mask.
    pub rle: Rle,
    /// Whether there was a small region. A mask that is one small island stays, and counts as changed, as in the reference.
    pub is_changed: bool,
}

/// Sets every unset region (8-connected) with fewer than `area_min_px` pixels, then clears every island of fewer; if all
/// islands are that small, the largest stays, and of several the first in OpenCV's order.
#[must_use]
pub fn clean_small_regions(mask: &Rle, area_min_px: usize) -> Cleaned {
    let holes = Regions::new(&mask.complement());
    let small_hole = |hole: usize| holes.areas_px[hole] < area_min_px;
    let has_holes = (0..holes.areas_px.len()).any(small_hole);
    let filled = match has_holes {
        true => holes.without(small_hole).complement(),
        false => mask.clone(),
    };
    let islands = Regions::new(&filled);
    let small_island = |island: usize| islands.areas_px[island] < area_min_px;
    let n_islands = islands.areas_px.len();
    if !(0..n_islands).any(small_island) {
        return Cleaned { rle: filled, is_changed: has_holes };
    }
    let survivor = if (0..n_islands).all(small_island) { islands.first_largest() } else { None };
    let rle = islands.without(|island| small_island(island) && Some(island) != survivor);
    Cleaned { rle, is_changed: true }
}

/// The components of the set pixels of a mask; runs lie in columns.
struct Regions {
    size_hw: [usize; 2],
    runs: Vec<Run>,
    areas_px: Vec<usize>,
    /// The first of the reference's blocks of 2 x 2 pixels that a component touches, in reading order.
    first_blocks: Vec<(u32, u32)>,
}

impl Regions {
    fn new(mask: &Rle) -> Self {
        let size_hw = mask.size_hw();
        let height = size_hw[0] as u32;
        let mut linker = Linker::new(Connectivity::Eight);
        linker.next_line();
        let mut line = 0;
        for (start, end) in mask.spans() {
            let mut at = start;
            while at < end {
                let column = at / height;
                // An empty column between separates components: two lines without a run in the first do that.
                while line < column {
                    linker.next_line();
                    line += 1;
                }
                let stop = end.min((column + 1) * height);
                linker.add(Run { row: column, start: at - column * height, end: stop - column * height, component: 0 });
                at = stop;
            }
        }
        let (mut runs, parents) = linker.finish();
        let mut numbers = vec![usize::MAX; runs.len()];
        let (mut areas_px, mut first_blocks) = (Vec::new(), Vec::new());
        for (run, &parent) in runs.iter_mut().zip(&parents) {
            let number = &mut numbers[parent as usize];
            if *number == usize::MAX {
                *number = areas_px.len();
                areas_px.push(0);
                first_blocks.push((u32::MAX, u32::MAX));
            }
            areas_px[*number] += (run.end - run.start) as usize;
            // The topmost block row of a component begins one of its runs.
            first_blocks[*number] = first_blocks[*number].min((run.start / 2, run.row / 2));
            run.component = *number as u32;
        }
        Self { size_hw, runs, areas_px, first_blocks }
    }

    fn first_largest(&self) -> Option<usize> {
        let most_px = *self.areas_px.iter().max()?;
        let largest = (0..self.areas_px.len()).filter(|&region| self.areas_px[region] == most_px);
        largest.min_by_key(|&region| self.first_blocks[region])
    }

    /// The pixels of all other regions.
    fn without(&self, is_removed: impl Fn(usize) -> bool) -> Rle {
        let height = self.size_hw[0] as u32;
        let mut transitions: Vec<u32> = Vec::new();
        for run in self.runs.iter().filter(|run| !is_removed(run.component as usize)) {
            let (start, end) = (run.row * height + run.start, run.row * height + run.end);
            match transitions.last_mut() {
                Some(last) if *last == start => *last = end,
                _ => transitions.extend([start, end]),
            }
        }
        Rle::from_transitions(self.size_hw, self.size_hw[0] * self.size_hw[1], &transitions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::{fill_small_holes, remove_small_islands};
    use crate::mask::{Mask, random_below};

    fn of_bitmap(mask: &Mask, area_min_px: usize) -> Cleaned {
        let mut mask = mask.clone();
        let has_holes = fill_small_holes(&mut mask, area_min_px);
        let has_islands = remove_small_islands(&mut mask, area_min_px);
        Cleaned { rle: Rle::from_mask(&mask), is_changed: has_holes || has_islands }
    }

    #[test]
    fn runs_and_bitmaps_agree() {
        let mut random = random_below(5);
        for round in 0..3000 {
            let size_hw = [1 + random(14) as usize, 1 + random(14) as usize];
            let one_in = [2, 3, 5, 12][round % 4];
            let inverse = round % 3 == 0;
            let mask = Mask::from_fn(size_hw, |_, _| (random(one_in) == 0) != inverse);
            let area_min_px = random(20) as usize;
            let expected = of_bitmap(&mask, area_min_px);
            assert_eq!(clean_small_regions(&Rle::from_mask(&mask), area_min_px), expected, "{mask:?} {area_min_px}");
        }
    }

    /// Numbers of `remove_small_regions` for a mask of 6 x 8 pixels: a block with a hole, and one pixel in a corner.
    #[test]
    fn limits_as_in_the_reference() {
        let mask = Mask::from_fn([6, 8], |row, column| {
            let is_block = (1..=4).contains(&row) && (1..=4).contains(&column);
            (is_block && (row, column) != (2, 2)) || (row, column) == (0, 7)
        });
        let rle = Rle::from_mask(&mask);
        assert_eq!(rle.area_px(), 16);
        let cleaned = |limit| clean_small_regions(&rle, limit);
        assert_eq!((cleaned(1).rle.area_px(), cleaned(1).is_changed), (16, false));
        for limit in [2, 3] {
            // The hole is filled and the single pixel is gone.
            assert_eq!((cleaned(limit).rle.area_px(), cleaned(limit).is_changed), (16, true));
            assert!(cleaned(limit).rle.to_mask().get(2, 2) && !cleaned(limit).rle.to_mask().get(0, 7));
        }
        assert_eq!(cleaned(100).rle.area_px(), 48, "the background is a small hole, too");
        let empty = Rle::empty([3, 3]).expect("small");
        assert_eq!(clean_small_regions(&empty, 5), Cleaned { rle: empty, is_changed: false });
    }
}
