//! Learning: losses, simulated prompts, optimiser groups, and the loop over burn-train.
//!
//! The way of a step: a batch becomes a [`scene::Scene`], [`prompts`] decide what the annotator does, [`step::learn`] runs
//! the passes and gives gradients, [`optimiser`] makes a step of them.

pub mod error;
pub mod losses;
pub mod optimiser;
pub mod options;
pub mod prompts;
pub mod scene;
pub mod schedule;
pub mod step;
mod walk;

pub use error::LearnError;
