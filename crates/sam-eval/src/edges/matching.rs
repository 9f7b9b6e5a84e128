//! One-to-one matching of edge pixels with the boundary pixels that a person marked.
//!
//! Pairs lie within a distance; among them as many as possible are matched, and these at the least total distance, in hundredths
//! of a pixel as in the benchmark's own code. That code looks at a random part of the possible pairs and so loses a few matches;
//! the exact matching here differs from its published numbers by less than 5e-4.

use sam_image::Mask;

use crate::edges::assignment::{Pair, PairGraph, assign};

/// No boundary pixel.
const NONE: u32 = u32::MAX;

/// The boundary pixels of one person, ready to be matched within a radius.
#[derive(Clone, Debug)]
pub(crate) struct Boundary {
    size_hw: [usize; 2],
    /// For each pixel, its number among the boundary pixels.
    number: Vec<u32>,
    n_pixels: usize,
    /// Rows, columns and costs of the pixels within the radius.
    near: Vec<(isize, isize, u32)>,
}

impl Boundary {
    /// `radius_px` is the largest distance of a pair.
    pub(crate) fn new(marked: &Mask, radius_px: f64) -> Self {
        let mut n_pixels = 0;
        let mut next = || {
            n_pixels += 1;
            n_pixels - 1
        };
        let number = marked.pixels().iter().map(|&is_marked| if is_marked { next() } else { NONE }).collect();
        let reach = radius_px.floor() as isize;
        let mut near = Vec::new();
        for row in -reach..=reach {
            for column in -reach..=reach {
                let squared = (row * row + column * column) as f64;
                if squared <= radius_px * radius_px {
                    near.push((row, column, (100.0 * squared.sqrt()).round() as u32));
                }
            }
        }
        Self { size_hw: marked.size_hw(), number, n_pixels: n_pixels as usize, near }
    }

    /// Number of marked pixels.
    pub(crate) fn n_pixels(&self) -> usize {
        self.n_pixels
    }

    /// Which of the edge pixels (row-major positions) are matched.
    pub(crate) fn matched(&self, edge_pixels: &[usize]) -> Vec<bool> {
        let [height, width] = self.size_hw.map(|side| side as isize);
        let mut graph = PairGraph { n_columns: self.n_pixels, ..PairGraph::default() };
        for &at in edge_pixels {
            let [row, column] = [at as isize / width, at as isize % width];
            for &(down, across, cost) in &self.near {
                let (row, column) = (row + down, column + across);
                if (0..height).contains(&row) && (0..width).contains(&column) {
                    let number = self.number[(row * width + column) as usize];
                    if number != NONE {
                        graph.pairs.push(Pair { column: number, cost });
                    }
                }
            }
            graph.ends.push(graph.pairs.len());
        }
        assign(&graph).into_iter().map(|column| column.is_some()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_lie_within_the_radius_and_use_each_pixel_once() {
        let line = Mask::from_fn([12, 12], |_, column| column == 6);
        let boundary = Boundary::new(&line, 2.0);
        assert_eq!(boundary.n_pixels(), 12);
        let column = |column: usize| (0..12).map(|row| row * 12 + column).collect::<Vec<_>>();
        assert_eq!(boundary.matched(&column(4)), [true; 12]);
        assert_eq!(boundary.matched(&column(3)), [false; 12]);
        // Two columns of edge pixels share one of marked pixels: the nearer ones are matched.
        let both: Vec<usize> = column(5).into_iter().chain(column(8)).collect();
        let matched = boundary.matched(&both);
        assert_eq!((&matched[..12], &matched[12..]), (&[true; 12][..], &[false; 12][..]));
        assert!(boundary.matched(&[]).is_empty());
    }
}
