//! The masks of everything in an image, without a prompt from anybody: "segment everything".
//!
//! Source: `segment_anything/automatic_mask_generator.py` and `utils/amg.py`, with the same masks in the same order, and the
//! rules of the paper's appendix B that the published code lacks ([`Preset::Sa1b`]).
//!
//! There are two parts. [`Candidates::find`] asks the network, once; [`Candidates::generate`] chooses from its answers by
//! [`Thresholds`], in a fraction of a second, so thresholds can be tried. Candidates are data that a program can store.
//!
//! Different from the reference: masks are streamed into run lengths one by one, so the memory does not grow with the size of
//! the image; an image that is too small for a layer of crops gets fewer layers, which [`Seen`] counts; rows are counted in more than
//! 16 bits.
//!
//! ```
//! use std::ops::ControlFlow;
//! use sam_infer::automatic::{Candidates, Options, Thresholds};
//! use sam_infer::{DeviceName, Predictor};
//! # use std::path::Path;
//! # use sam_image::RgbImage;
//! # let checkpoint = Path::new("../../tests/fixtures/tiny_sam.safetensors");
//! # let image = RgbImage::new(60, 40);
//!
//! let device = DeviceName::Cpu.open()?;
//! let (predictor, _report) = Predictor::from_checkpoint(checkpoint, &device)?;
//! // Kept with open thresholds, so that they can be moved.
//! let thresholds = Thresholds { predicted_iou: 0.0, stability: 0.0, ..Thresholds::default() };
//! let options = Options { points_per_side: 4, floors: thresholds.floors(), ..Options::default() };
//! let found = Candidates::find(&predictor, &image, &options, &mut |_| ControlFlow::Continue(()))?;
//! let ControlFlow::Continue(candidates) = found else { unreachable!("nobody stops it") };
//!
//! for thresholds in [thresholds.clone(), Thresholds { stability: 0.9, ..thresholds }] {
//!     let generated = candidates.generate(&thresholds)?;
//!     println!("{} masks, removed: {}", generated.masks.len(), generated.removed.describe());
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod candidates;
mod crops;
mod error;
mod explanation;
mod generate;
mod options;
mod overlap;
mod stored;
mod suppression;
#[cfg(test)]
mod tests;
mod texts;

pub use candidates::{Candidate, CandidateLogits, Candidates, PointsDone, Seen, Watch};
pub use error::AutomaticError;
pub use generate::{AutomaticMask, Generated, Removed};
pub use options::{Floors, MasksPerPoint, Options, Preset, SmallMasks, Thresholds};
pub use texts::{Described, TextMatch};
