//! Samples (an image with its objects), and the interface of everything that provides them.

use std::sync::Arc;

use sam_files::Fingerprint;
use sam_image::{RgbImage, Rle};

use crate::shard_order::ShardOrder;

/// An image with the masks of its objects, in pixels of the upright image.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Stable name within the data set, such as the path relative to its root; used in messages, hashes and splits.
    pub name: String,
    /// 8-bit RGB.
    pub image: RgbImage,
    /// The objects; masks are never empty.
    pub objects: Vec<ObjectMask>,
    /// Pixels ignored by losses and metrics (void, crowd), in the image's size.
    pub ignore: Option<Rle>,
}

/// One object of an image.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectMask {
    /// The mask, decoded only when its pixels are needed.
    pub mask: Rle,
    /// Class, if the data set has classes: an index into the source's list of classes.
    pub class: Option<usize>,
    /// The data set's id of the object, for messages and predictions.
    pub id: u64,
    /// What people said about the object, such as "a man in a red coat"; empty if nothing.
    pub captions: Vec<String>,
}

/// An image that is not decoded, with the masks of its objects.
#[derive(Clone, Debug, PartialEq)]
pub struct Undecoded {
    /// As [`Sample::name`].
    pub name: String,
    /// Size of the upright image, `[height, width]`.
    pub size_hw: [usize; 2],
    /// As [`Sample::objects`].
    pub objects: Vec<ObjectMask>,
    /// As [`Sample::ignore`].
    pub ignore: Option<Rle>,
    /// Hash of everything that decides the pixels: the encoded file, and how it is converted.
    pub content: u64,
}

impl Undecoded {
    /// A sample without its pixels. The hash is that of the pixels.
    pub(crate) fn of_sample(sample: Sample) -> Self {
        let Sample { name, image, objects, ignore } = sample;
        let mut hash = Fingerprint::new(0);
        hash.add_word(u64::from(image.width()));
        hash.add_blocks(image.as_raw());
        let size_hw = [image.height() as usize, image.width() as usize];
        Self { name, size_hw, objects, ignore, content: hash.value() }
    }
}

/// The error of an unreadable sample, which names the file.
pub type SampleError = Box<dyn std::error::Error + Send + Sync>;

/// Random access to samples from several threads: a data set on disk, or synthetic scenes.
pub trait Samples: Send + Sync {
    /// Number of samples.
    fn n_samples(&self) -> usize;

    /// Returns the sample at an index; equal indices give equal samples.
    ///
    /// # Errors
    ///
    /// When the sample cannot be read or is invalid.
    fn sample(&self, index: usize) -> Result<Sample, SampleError>;

    /// Returns the sample at an index without its pixels, which a source that can need not decode: an image that only
    /// decoding shows to be damaged is then no error here.
    ///
    /// # Errors
    ///
    /// As [`Samples::sample`].
    fn undecoded(&self, index: usize) -> Result<Undecoded, SampleError> {
        self.sample(index).map(Undecoded::of_sample)
    }

    /// The shards that the samples come in, where reading them in any order is slow.
    fn shard_order(&self) -> Option<Arc<ShardOrder>> {
        None
    }

    /// Says what will be read: the shards of these samples now, and those of the others after them; of none, that nobody waits
    /// any more. Reading anything else stays possible.
    fn announce(&self, _now: &[usize], _next: &[usize]) {}

    /// Names of the classes that the objects of a sample refer to; empty without classes.
    fn class_names(&self, _index: usize) -> &[String] {
        &[]
    }
}

/// A subset of another set of samples, such as one split. Batches refer to samples by their position in `indices`.
///
/// It takes four bytes per sample, 44 MB for all of SA-1B.
#[derive(Clone)]
pub struct Subset {
    /// The whole set.
    pub samples: Arc<dyn Samples>,
    /// Indices of the subset's samples, in its order.
    pub indices: Vec<u32>,
}

impl Samples for Subset {
    fn n_samples(&self) -> usize {
        self.indices.len()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        self.samples.sample(self.indices[index] as usize)
    }

    fn undecoded(&self, index: usize) -> Result<Undecoded, SampleError> {
        self.samples.undecoded(self.indices[index] as usize)
    }

    fn shard_order(&self) -> Option<Arc<ShardOrder>> {
        self.samples.shard_order()?.of_subset(&self.indices).map(Arc::new)
    }

    fn announce(&self, now: &[usize], next: &[usize]) {
        let [now, next] =
            [now, next].map(|samples| Vec::from_iter(samples.iter().map(|&index| self.indices[index] as usize)));
        self.samples.announce(&now, &next);
    }

    fn class_names(&self, index: usize) -> &[String] {
        self.samples.class_names(self.indices[index] as usize)
    }
}
