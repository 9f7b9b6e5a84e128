//! Connected components, and the two clean-ups of SAM's automatic masks: fill small holes, remove small islands.
//!
//! Source: `remove_small_regions` of segment_anything's `utils/amg.py`, which is `cv2.connectedComponentsWithStats`
//! with 8-connectivity. Components are numbered in OpenCV's order, which decides which of two equally large islands is
//! "the largest". A hole is any unset component, including one that touches the image border, as in the reference.
//!
//! The algorithm works on row runs: two runs in neighbouring rows are connected when their columns overlap.

use crate::mask::{Mask, row_runs};

/// Pixel connectivity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Connectivity {
    /// Left, right, above, below.
    Four,
    /// Also the diagonal neighbours.
    Eight,
}

/// The connected components of the set pixels of a mask.
#[derive(Debug, Clone)]
pub struct Components {
    size_hw: [usize; 2],
    runs: Vec<Run>,
    areas_px: Vec<usize>,
}

/// A run of pixels in one row; `component` counts from 0.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    pub(crate) row: u32,
    pub(crate) start: u32,
    pub(crate) end: u32,
    pub(crate) component: u32,
}

impl Components {
    /// Finds the components of the set pixels.
    #[must_use]
    pub fn new(mask: &Mask, connectivity: Connectivity) -> Self {
        Self::of_value(mask, true, connectivity)
    }

    fn of_value(mask: &Mask, value: bool, connectivity: Connectivity) -> Self {
        let (mut runs, parents) = linked_runs(mask, value, connectivity);
        let (order, n_components) = numbering(&runs, &parents, connectivity);
        let mut areas_px = vec![0; n_components];
        for run in &mut runs {
            run.component = order[parents[run.component as usize] as usize];
            areas_px[run.component as usize] += (run.end - run.start) as usize;
        }
        Self { size_hw: mask.size_hw(), runs, areas_px }
    }

    /// The number of set pixels of each component.
    #[must_use]
    pub fn areas_px(&self) -> &[usize] {
        &self.areas_px
    }

    /// Number of components.
    #[must_use]
    pub fn len(&self) -> usize {
        self.areas_px.len()
    }

    /// Whether no pixel is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.areas_px.is_empty()
    }

    /// The component with the most pixels, the first of several; `None` when no pixel is set.
    #[must_use]
    pub fn largest(&self) -> Option<usize> {
        let most_px = *self.areas_px.iter().max()?;
        self.areas_px.iter().position(|&area_px| area_px == most_px)
    }

    /// One component as a mask of the same size.
    #[must_use]
    pub fn mask_of(&self, component: usize) -> Mask {
        let mut mask = Mask::empty(self.size_hw);
        self.paint(&mut mask, true, |other| other == component);
        mask
    }

    /// Row-major labels as OpenCV writes them: 0 where nothing is set, elsewhere 1 + the component.
    #[must_use]
    pub fn labels(&self) -> Vec<u32> {
        let width = self.size_hw[1];
        let mut labels = vec![0; self.size_hw[0] * width];
        for run in &self.runs {
            let row = run.row as usize * width;
            labels[row + run.start as usize..row + run.end as usize].fill(run.component + 1);
        }
        labels
    }

    /// The component of a set pixel, `None` for an unset one.
    #[must_use]
    pub fn at(&self, row: usize, column: usize) -> Option<usize> {
        let key = |run: &Run| (run.row as usize, run.start as usize);
        let after = self.runs.partition_point(|run| key(run) <= (row, column));
        let run = self.runs.get(after.checked_sub(1)?)?;
        (run.row as usize == row && column < run.end as usize).then_some(run.component as usize)
    }

    fn paint(&self, mask: &mut Mask, value: bool, is_painted: impl Fn(usize) -> bool) {
        let width = self.size_hw[1];
        for run in self.runs.iter().filter(|run| is_painted(run.component as usize)) {
            let row = run.row as usize * width;
            mask.pixels_mut()[row + run.start as usize..row + run.end as usize].fill(value);
        }
    }
}

/// Sets every unset region (8-connected) with fewer than `area_min_px` pixels. Returns whether there was any.
pub fn fill_small_holes(mask: &mut Mask, area_min_px: usize) -> bool {
    let holes = Components::of_value(mask, false, Connectivity::Eight);
    let is_small = |hole: usize| holes.areas_px[hole] < area_min_px;
    holes.paint(mask, true, is_small);
    (0..holes.len()).any(is_small)
}

/// Clears every island (8-connected) with fewer than `area_min_px` pixels; if all are that small, the largest stays.
///
/// Returns whether there was a small island, even if it was the only one and stayed, as the reference does.
pub fn remove_small_islands(mask: &mut Mask, area_min_px: usize) -> bool {
    let islands = Components::new(mask, Connectivity::Eight);
    let is_small = |island: usize| islands.areas_px[island] < area_min_px;
    let survivor = if (0..islands.len()).all(is_small) { islands.largest() } else { None };
    islands.paint(mask, false, |island| is_small(island) && Some(island) != survivor);
    (0..islands.len()).any(is_small)
}

/// All runs from top to bottom, and for each the first run that it is connected to (`component` is the run's own
/// index).
fn linked_runs(mask: &Mask, value: bool, connectivity: Connectivity) -> (Vec<Run>, Vec<u32>) {
    let mut linker = Linker::new(connectivity);
    for row in 0..mask.height() {
        linker.next_line();
        for (start, end) in row_runs(mask.row(row), value) {
            linker.add(Run { row: row as u32, start: start as u32, end: end as u32, component: 0 });
        }
    }
    linker.finish()
}

/// Links the runs of lines that come one after the other, each from its start; the lines are rows here, and columns of run
/// lengths elsewhere.
pub(crate) struct Linker {
    reach: u32,
    runs: Vec<Run>,
    parents: Vec<u32>,
    /// The runs of the line before, from the first that may still touch a run to come.
    above: std::ops::Range<usize>,
    /// The first run of this line.
    first: usize,
}

impl Linker {
    pub(crate) fn new(connectivity: Connectivity) -> Self {
        let reach = match connectivity {
            Connectivity::Four => 0,
            Connectivity::Eight => 1,
        };
        Self { reach, runs: Vec::new(), parents: Vec::new(), above: 0..0, first: 0 }
    }

    pub(crate) fn next_line(&mut self) {
        self.above = self.first..self.runs.len();
        self.first = self.runs.len();
    }

    /// Adds the next run of the line.
    pub(crate) fn add(&mut self, run: Run) {
        let index = self.runs.len() as u32;
        self.parents.push(index);
        while !self.above.is_empty() && self.runs[self.above.start].end + self.reach <= run.start {
            self.above.start += 1;
        }
        for other in self.above.clone() {
            if self.runs[other].start >= run.end + self.reach {
                break;
            }
            join(&mut self.parents, index, self.runs[other].component);
        }
        self.runs.push(Run { component: index, ..run });
    }

    /// The runs, and for each the first run of its component.
    pub(crate) fn finish(mut self) -> (Vec<Run>, Vec<u32>) {
        for index in 0..self.parents.len() {
            // Parents precede their children, so their root is final.
            self.parents[index] = self.parents[self.parents[index] as usize];
        }
        (self.runs, self.parents)
    }
}

fn join(parents: &mut [u32], a: u32, b: u32) {
    let (a, b) = (root(parents, a), root(parents, b));
    // The smaller index wins, so every run points to an earlier one.
    parents[a.max(b) as usize] = a.min(b);
}

fn root(parents: &mut [u32], mut index: u32) -> u32 {
    while parents[index as usize] != index {
        // Path halving: the grandparent becomes the parent.
        parents[index as usize] = parents[parents[index as usize] as usize];
        index = parents[index as usize];
    }
    index
}

/// The component index of each root. OpenCV scans blocks of 2 x 2 pixels with eight neighbours and single pixels with
/// four, and numbers components in the order of the scan.
fn numbering(runs: &[Run], parents: &[u32], connectivity: Connectivity) -> (Vec<u32>, usize) {
    let block = match connectivity {
        Connectivity::Four => 1,
        Connectivity::Eight => 2,
    };
    let mut first_block = vec![(u32::MAX, u32::MAX); runs.len()];
    for (run, &root) in runs.iter().zip(parents) {
        let first = &mut first_block[root as usize];
        *first = (*first).min((run.row / block, run.start / block));
    }
    let mut roots: Vec<u32> = (0..runs.len() as u32).filter(|&index| parents[index as usize] == index).collect();
    roots.sort_unstable_by_key(|&root| first_block[root as usize]);
    let mut order = vec![0; runs.len()];
    for (number, &root) in roots.iter().enumerate() {
        order[root as usize] = number as u32;
    }
    (order, roots.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn diagonals_connect_only_with_eight() {
        let mask = Mask::drawn(&["#..#", ".##.", "#..#"]);
        assert_eq!(Components::new(&mask, Connectivity::Eight).areas_px(), [6]);
        let four = Components::new(&mask, Connectivity::Four);
        assert_eq!(four.areas_px(), [1, 1, 2, 1, 1]);
        assert_eq!(four.labels(), [1, 0, 0, 2, 0, 3, 3, 0, 4, 0, 0, 5]);
        assert_eq!((four.at(1, 2), four.at(1, 3), four.at(0, 0)), (Some(2), None, Some(0)));
        assert_eq!(four.largest(), Some(2));
        assert_eq!(four.mask_of(2).area_px(), 2);
    }

    /// A comb joins runs that were numbered apart.
    #[test]
    fn late_joins_are_found() {
        let mask = Mask::drawn(&["#.#.#", "#.#.#", "#####", "....#", "#.###"]);
        assert_eq!(Components::new(&mask, Connectivity::Four).areas_px(), [15, 1]);
    }

    #[test]
    fn a_lone_small_island_stays_and_is_reported() {
        let mut lone = Mask::drawn(&["....", ".#..", "...."]);
        let before = lone.clone();
        assert!(remove_small_islands(&mut lone, 10));
        assert_eq!(lone, before);
        assert!(!remove_small_islands(&mut Mask::empty([3, 3]), 10));
    }

    #[test]
    fn holes_at_the_border_are_filled_too() {
        let mut holes = Mask::drawn(&["####.", "#.##.", "#####"]);
        assert!(fill_small_holes(&mut holes, 2));
        assert_eq!(holes, Mask::drawn(&["####.", "####.", "#####"]));
        assert!(fill_small_holes(&mut holes, 3));
        assert_eq!(holes.area_px(), 15);
        assert!(!fill_small_holes(&mut holes, 3));
    }
}
