//! Data sets of images and masks, from disk to batches. Independent of any model.
//!
//! A [`Source`] reads a data set of any supported [`Format`] as [`Sample`]s; [`loader::Loader`] turns samples into batches.
//! [`check`] reports the problems of a data set, [`convert`] writes it in another format, and [`synth`] generates scenes.
//!
//! ```
//! use std::sync::Arc;
//!
//! use sam_data::loader::{Loader, LoaderOptions};
//! use sam_data::synth::{SynthOptions, SynthScenes, class_names, write_coco};
//! use sam_data::{Source, SourceOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let scenes = SynthScenes { seed: 1, first_index: 0, n_scenes: 2, options: SynthOptions::default() };
//! write_coco(folder.path(), "train", (0..2).map(|index| Ok(scenes.scene(index)?.sample)), &class_names())?;
//!
//! let source = Source::open(folder.path(), &SourceOptions::default())?;
//! for index in 0..source.len() {
//!     let sample = source.sample(index)?;
//!     println!("{}: {} objects", sample.name, sample.objects.len());
//! }
//!
//! let mut loader = Loader::new(Arc::new(source), LoaderOptions::default(), 0);
//! let batch = loader.next_batch().expect("training is endless")?;
//! assert_eq!(batch.pixels.len(), 1024 * 1024 * 3);
//! # Ok(())
//! # }
//! ```

mod boundaries;
mod check;
mod cloud;
mod convert;
mod counterparts;
mod error;
mod filter;
mod finding;
mod formats;
mod identity;
mod mixture;
mod permutation;
mod sample;
mod shard_order;
mod single;
mod source;
mod source_options;
mod split;
mod tally;

pub mod loader;
pub mod random;
pub mod synth;
pub mod transforms;

pub use boundaries::{BoundarySample, BoundarySet};
pub use check::{CheckReport, Losses, Problem, Survey, check, survey};
pub use cloud::{CLOUD_CACHE_GIB, default_cloud_cache, has_cloud, is_cloud};
pub use convert::{
    Conversion, ConvertProgress, ConvertReport, ConvertTo, OutsideImages, Selection, convert, convert_selection,
};
pub use counterparts::{Counterpart, NamedFile};
pub use error::DataError;
pub use filter::{FilterCounts, MaskFilter};
pub use finding::{Finding, ProblemKind, Severity};
pub use formats::class_folders::ClassFolders;
pub use formats::ids::{CocoId, IdTypes};
pub use formats::images::ImageTree;
pub use formats::intensity::Intensity;
pub use formats::text::read_within as read_text;
pub use identity::DataIdentity;
pub use loader::batch::{BatchImage, BatchObject};
pub use loader::device::DeviceBatch;
pub use mixture::{Joined, Share};
pub use sample::{ObjectMask, Sample, Undecoded};
pub use shard_order::ShardOrder;
pub use single::{read_image_file, read_mask_file};
pub use source::{ImageObjects, Source};
pub use source_options::{Crowd, Format, LabelKind, OnBad, SourceOptions, Void};
pub use split::{GroupKey, Split, SplitOrigin, SplitRule};
