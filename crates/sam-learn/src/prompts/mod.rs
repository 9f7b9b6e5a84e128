//! Simulated annotators: the prompts of each decoder pass of a step (Kirillov 2023, arXiv 2304.02643, appendix A, "Training
//! algorithm").
//!
//! The host draws once per step, before the first pass: box or point, the noise of the box, and for every click which of the
//! pixels of the error region it takes ([`PromptDraws`]). The device finds that pixel ([`ClickSimulator`]), so no pass waits
//! for a round trip, and a click is still a pure function of (seed, draw, object).

mod draws;
mod simulator;

pub use draws::{DrawnObject, PassKind, PromptDraws};
pub use simulator::ClickSimulator;
