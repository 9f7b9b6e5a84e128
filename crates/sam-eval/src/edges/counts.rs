//! The counts of one image at 99 thresholds: boundary pixels that were found, edge pixels that are right.
//!
//! Source: the definition of the benchmark of BSDS500. Recall counts the boundary pixels of all people; an edge pixel is right
//! when it is matched with the boundary of anybody.

use rayon::prelude::*;
use sam_image::Mask;
use serde::{Deserialize, Serialize};

use crate::edges::edge_map::EdgeMap;
use crate::edges::matching::Boundary;
use crate::edges::thinning::thin;
use crate::error::EvalError;

/// Number of thresholds: 0.01, 0.02 to 0.99.
pub const N_THRESHOLDS: usize = 99;

/// The largest distance of a matched pair, as a fraction of the image's diagonal.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EdgeTolerance(pub f64);

impl Default for EdgeTolerance {
    /// That of BSDS500: 4.3 px of an image of 321 x 481. NYUDv2 has 0.011.
    fn default() -> Self {
        Self(0.0075)
    }
}

/// The counts at one threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThresholdCounts {
    /// Boundary pixels of all people that were matched.
    pub n_found: u64,
    /// Boundary pixels of all people.
    pub n_boundary: u64,
    /// Edge pixels that were matched with the boundary of anybody.
    pub n_right: u64,
    /// Edge pixels.
    pub n_edge: u64,
}

impl ThresholdCounts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.n_found += other.n_found;
        self.n_boundary += other.n_boundary;
        self.n_right += other.n_right;
        self.n_edge += other.n_edge;
    }
}

/// The counts of one image, by threshold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeCounts(pub Vec<ThresholdCounts>);

/// Counts one image; `name` is for errors. Thresholds run in parallel, and the result does not depend on that.
///
/// # Errors
///
/// When nobody marked boundaries, or one of the marked maps has another size than the edge map.
pub fn count_edges(
    name: &str,
    edges: &EdgeMap,
    people: &[Mask],
    tolerance: EdgeTolerance,
) -> Result<EdgeCounts, EvalError> {
    if people.is_empty() {
        return Err(EvalError::Nothing { metric: format!("image {name}: the boundaries of people") });
    }
    for (person, marked) in people.iter().enumerate() {
        if marked.size_hw() != edges.size_hw() {
            return Err(EvalError::Size {
                image: name.to_owned(),
                what: format!("the boundaries of person {person} (from 0)"),
                expected_hw: edges.size_hw(),
                got_hw: marked.size_hw(),
            });
        }
    }
    let [height, width] = edges.size_hw();
    let radius_px = tolerance.0 * (height as f64).hypot(width as f64);
    let boundaries: Vec<Boundary> = people.iter().map(|marked| Boundary::new(marked, radius_px)).collect();
    // The smallest strength at or above each threshold; equal ones have equal maps, and so have those between two strengths.
    let lowest: Vec<u8> = (1..=N_THRESHOLDS).map(|percent| (percent * 255).div_ceil(100) as u8).collect();
    let mut is_present = [false; 256];
    edges.strength().iter().for_each(|&strength| is_present[strength as usize] = true);
    let next_present = |from: u8| (from..=u8::MAX).find(|&strength| is_present[strength as usize]);
    let wanted: Vec<Option<u8>> = lowest.into_iter().map(next_present).collect();
    let mut distinct: Vec<u8> = wanted.iter().copied().flatten().collect();
    distinct.dedup();
    let counted: Vec<ThresholdCounts> =
        distinct.par_iter().map(|&strength| count(&thin(&edges.at_least(strength)), &boundaries)).collect();
    let nothing = count(&Mask::empty(edges.size_hw()), &boundaries);
    let at = |strength: Option<u8>| match strength.map(|strength| distinct.binary_search(&strength)) {
        Some(Ok(place)) => counted[place],
        _ => nothing,
    };
    Ok(EdgeCounts(wanted.into_iter().map(at).collect()))
}

/// Counts a thinned map.
fn count(thinned: &Mask, boundaries: &[Boundary]) -> ThresholdCounts {
    let pixels: Vec<usize> = (0..thinned.pixels().len()).filter(|&at| thinned.pixels()[at]).collect();
    let mut is_right = vec![false; pixels.len()];
    let mut counts = ThresholdCounts { n_edge: pixels.len() as u64, ..ThresholdCounts::default() };
    for boundary in boundaries {
        let matched = boundary.matched(&pixels);
        counts.n_boundary += boundary.n_pixels() as u64;
        counts.n_found += matched.iter().filter(|&&is_matched| is_matched).count() as u64;
        is_right.iter_mut().zip(matched).for_each(|(is_right, is_matched)| *is_right |= is_matched);
    }
    counts.n_right = is_right.into_iter().filter(|&is_right| is_right).count() as u64;
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_of_all_people_and_of_anybody() {
        // Two people marked columns 5 and 20 of 40 x 40; the edge map has column 6 (weak) and column 30 (strong).
        let column = |wanted: usize| Mask::from_fn([40, 40], |_, column| column == wanted);
        let strength = (0..1600).map(|at| match at % 40 {
            6 => 100,
            30 => 255,
            _ => 0,
        });
        let edges = EdgeMap::new([40, 40], strength.collect());
        // 0.03 of the diagonal is 1.7 px.
        let people = [column(5), column(20)];
        let EdgeCounts(counts) = count_edges("a", &edges, &people, EdgeTolerance(0.03)).expect("counted");
        let at = |n_found, n_right, n_edge| ThresholdCounts { n_found, n_boundary: 80, n_right, n_edge };
        // 100 / 255 = 0.392
        assert_eq!(counts.len(), N_THRESHOLDS);
        assert_eq!(counts[0], at(40, 40, 80));
        assert_eq!(counts[38], at(40, 40, 80));
        assert_eq!(counts[39], at(0, 0, 40));
        assert_eq!(counts[98], at(0, 0, 40));
        let one = [column(5), column(5)];
        let EdgeCounts(counts) = count_edges("a", &edges, &one, EdgeTolerance(0.03)).expect("counted");
        assert_eq!(counts[0], at(80, 40, 80));
    }

    #[test]
    fn an_empty_map_finds_nothing_and_other_sizes_are_errors() {
        let edges = EdgeMap::new([4, 5], vec![0; 20]);
        let all = Mask::from_fn([4, 5], |_, _| true);
        let EdgeCounts(counts) = count_edges("a", &edges, &[all], EdgeTolerance::default()).expect("counted");
        assert!(counts.iter().all(|at| *at == ThresholdCounts { n_boundary: 20, ..ThresholdCounts::default() }));
        let other = Mask::empty([5, 4]);
        let error = count_edges("x/1.jpg", &edges, &[other], EdgeTolerance::default()).expect_err("another size");
        assert!(error.to_string().contains("x/1.jpg") && error.to_string().contains("5 x 4"), "{error}");
        assert!(count_edges("x/1.jpg", &edges, &[], EdgeTolerance::default()).is_err());
    }
}
