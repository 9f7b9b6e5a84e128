//! Data sets of images and masks, from disk to batches. Never knows a model.

mod coco;
mod coco_index;
mod json_cursor;
mod label_images;
mod label_map;
mod labelme;
mod layout;
mod names;
mod output_file;
mod pairing;
mod place;
mod raster;
mod sa1b;
mod segmentation;
mod tally;
mod yolo_seg;

pub mod check;
pub mod convert;
pub mod epochs;
pub mod error;
pub mod filter;
pub mod finding;
pub mod intensity;
pub mod loader;
pub mod permutation;
pub mod random;
pub mod sample;
pub mod source;
pub mod source_options;
pub mod split;
pub mod synth;
pub mod transforms;

pub use check::{CheckReport, check};
pub use convert::{ConvertReport, ConvertTo, convert};
pub use epochs::{DeviceBatch, EpochLoader};
pub use error::DataError;
pub use filter::{FilterCounts, MaskFilter, area_at_model_scale};
pub use finding::{Finding, ProblemKind, Severity};
pub use intensity::Intensity;
pub use loader::{BatchImage, BatchObject};
pub use sample::{ObjectMask, Sample};
pub use source::{ImageObjects, Source};
pub use source_options::{Crowd, Format, LabelKind, OnBad, SourceOptions, Void};
pub use split::{GroupKey, Split, SplitRule};
