//! The data engine: a person and the model label images together.
//!
//! A [`Project`] is a folder: one SA-1B JSON per image, replaced atomically ([`Store`]), a journal for statistics, and caches
//! that can be deleted. It is a data set at any moment, and the folder of images that it was made from is only ever read.
//! [`Inference`] encodes images ahead and answers clicks; [`Server`] shows both as a page on this machine's own address.
//!
//! A [`Round`] of the loop is a folder of its own: the masks as they were, and the decision whether a new model is better. The crate
//! knows nothing of training: a program trains on the round's data as on any other data set, and evaluates.

mod annotation;
mod client;
mod error;
mod export;
mod images;
mod import;
mod inference;
mod journal;
mod operation;
mod project;
mod review;
mod rounds;
mod server;
mod simulation;
mod store;

pub use annotation::{AnnotationFile, ImageRecord, ImageState, MaskRecord, MaskSource, PromptRecord, Segmentation};
pub use client::{Answer, Client};
pub use error::EngineError;
pub use export::{Chosen, ExportFilter, LeftOut};
pub use images::{ImageId, ImageList};
pub use import::{Import, ImportReport};
pub use inference::{Inference, Model, Texts, file_fingerprint};
pub use operation::{Applied, Change, Identifier, NewMask, Operation, Outcome};
pub use project::{Learns, ModelInUse, Project, RoundSettings, Settings, SplitBy};
pub use review::{LIMIT_IOU, Review, ReviewItem, ReviewVerdict, Share};
pub use rounds::{
    Collected, Decision, Gain, MaskCounts, Phase, Progress, Round, Rounds, Statistics, Verdict, collect, decide,
    mask_counts,
};
pub use server::{Server, ServerOptions};
pub use simulation::{Annotator, Simulated, Truth};
pub use store::{SeenImage, Store, Summary};
