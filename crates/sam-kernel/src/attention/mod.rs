//! Attention that never holds all scores: in tiles, with a running softmax (Milakov 2018, arXiv 1805.02867; Dao 2022, arXiv
//! 2205.14135), and with the decomposed relative positions of SAM's encoder inside.
//!
//! Only the output and one number per query are kept for the way back; scores are computed again there.
//!
//! [`SelfAttention`] is the encoder's, over a grid or its windows; [`CrossAttention`] is everything else. Both hand the rows
//! of one head at a time to `head`, which does the work.

mod cross;
mod grid;
mod head;

pub use cross::{CrossAttention, CrossGrads, CrossInputs};
pub use grid::{SelfAttention, SelfGrads, Tables};

#[cfg(test)]
mod tests;
