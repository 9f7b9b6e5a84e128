//! Learning: losses, simulated prompts, optimiser groups, and the loop over burn-train.
//!
//! Two things are learned by one loop: promptable segmentation ([`training`]) and, before it, to fill in removed patches
//! ([`pretraining`]).
//!
//! What a frozen encoder knows already, [`probe`] says.
//!
//! The way of a step: a batch becomes a [`scene::Scene`], [`prompts`] decide what the annotator does, [`step::learn`] runs
//! the passes and gives gradients, [`optimiser`] makes a step of them.

mod courier;
pub mod error;
pub mod events;
pub mod losses;
mod metrics;
pub mod optimiser;
pub mod options;
pub mod parts;
pub mod pretraining;
mod previews;
pub mod probe;
pub mod prompts;
mod recompute;
mod run_curves;
pub mod run_log;
mod run_loop;
pub mod run_report;
pub mod saved_state;
pub mod scene;
pub mod schedule;
mod silent_renderer;
pub mod step;
mod student;
pub mod trainee;
pub mod training;
mod walk;

pub use error::LearnError;
pub use events::{RunEvent, SegmentationTerms, StepRecord, ValidationRecord};
pub use pretraining::{HeldOut, Pretraining, pretrain};
pub use run_log::RunHistory;
pub use run_report::RunReport;
pub use saved_state::{Progress, SavedState, Scores};
pub use training::{Ending, Outcome, Training, Validation, train};
