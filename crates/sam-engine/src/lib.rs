//! The data engine: a person and the model label images together.
//!
//! A [`Project`] is a folder: one SA-1B JSON per image, replaced atomically ([`Store`]), a journal for statistics, and caches
//! that can be deleted. It is a data set at any moment, and the folder of images that it was made from is only ever read.
//! [`Inference`] encodes images ahead and answers clicks; [`Server`] shows both as a page on this machine's own address.
//!
//! The crate knows nothing of training: it hands out masks, and a program trains on the folder as on any other data set.

mod annotation;
mod error;
mod images;
mod inference;
mod journal;
mod operation;
mod project;
mod server;
mod store;

pub use annotation::{AnnotationFile, ImageRecord, ImageState, MaskRecord, MaskSource, PromptRecord, Segmentation};
pub use error::EngineError;
pub use images::{ImageId, ImageList};
pub use inference::Inference;
pub use operation::{Applied, Change, Identifier, NewMask, Operation, Outcome};
pub use project::{Project, Settings};
pub use server::{Server, ServerOptions};
pub use store::{SeenImage, Store, Summary};
