//! Zero-shot edge detection (SAM paper, section 7.2 and appendix D.2): edge maps from masks, and the benchmark of BSDS500.
//!
//! From masks to an edge map: the Sobel magnitude of each mask's probabilities, kept on the mask's outer boundary; the maximum
//! over masks; a linear scale to 0 .. 1; suppression of pixels that are no maximum across the edge.
//!
//! The benchmark: at 99 thresholds the edge map is binarised, thinned, and matched with the boundaries that each person
//! marked, one to one within a tolerance. From the counts come ODS, OIS, AP and R50.

mod assignment;
mod automatic;
mod benchmark;
mod counts;
mod edge_map;
mod matching;
mod probabilities;
mod suppression;
#[cfg(test)]
mod tests;
mod thinning;

pub use automatic::{EdgeOptions, edge_map};
pub use benchmark::{EdgeScores, edge_metrics};
pub use counts::{EdgeCounts, EdgeTolerance, N_THRESHOLDS, ThresholdCounts, count_edges};
pub use edge_map::EdgeMap;
pub use probabilities::{MaskEdge, MaskEdges};
pub use suppression::EdgeSuppression;
pub use thinning::thin;
