//! Learning: losses, simulated prompts, optimiser groups, the training loop, run folders.
//!
//! Two tasks share one loop: promptable segmentation ([`train`]) and, before it, masked autoencoding ([`pretrain`]).
//! [`probe`] measures what a frozen encoder has learned.
//!
//! A step: a batch becomes a [`task::TrainingBatch`], [`prompts`] simulate the annotator, a [`task::SegmentationStep`] runs
//! the decoder passes and returns gradients, [`optim`] updates the weights; whoever watches receives [`record::RunEvent`]s.

mod device_memory;
mod device_reads;
pub mod embeddings;
mod error;
pub mod optim;
pub mod options;
mod pairwise;
mod phases;
mod pretraining;
pub mod probe;
pub mod prompts;
pub mod ranks;
pub mod record;
mod target;
pub mod task;
mod teacher;
pub mod texts;
mod training;
mod training_loop;

pub use device_memory::{DeviceMemory, out_of_memory};
pub use device_reads::n_device_reads;
pub use error::LearnError;
pub use phases::Phase;
pub use pretraining::{Pretraining, measure_pretraining, pretrain, pretrain_on, profile_pretraining};
pub use target::Target;
pub use teacher::{Distillation, TeacherMasks};
pub use training::{Training, freezes_encoder, measure_training, profile_training, train, train_on};
pub use training_loop::{Ending, Measured, Outcome, Profile, ProfiledStep, RunInputs};
