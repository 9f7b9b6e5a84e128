//! Embeddings kept on disk, shared by all runs and evaluations of one encoder.
//!
//! A folder holds the entries of any number of encoders, each in a folder named by its *signature*: a hash of the encoder's
//! weights and sizes, the type of the values and the version of the format. An entry is one embedding of one image, named by
//! the hash of the image's pixels and by how it is mirrored; whatever else could change the embedding is in the signature.
//! So nothing stale is ever found: another encoder or another image has another name. What is damaged does not match its
//! checksum and counts as missing.
//!
//! Entries appear complete or not at all, and two processes that compute the same one write the same bytes, so a run may be
//! killed at any time and any number of runs may share a folder. `room.rs` removes what has not been used for the longest time.
//!
//! Shapes: `C` channels, `G` side length of the embedding in patches.

mod entry;
mod images;
mod room;

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use burn::tensor::{Device, Tensor, TensorData};
use sam_files::{Fingerprint, sweep_unfinished, write_atomically, write_unsynced};
use sam_model::{ImageEncoder, ImageEncoderConfig, TinyVitConfig, VitConfig};

use crate::device::is_cpu;
use crate::embedding::EncoderIdentity;
use crate::precision::Precision;

pub use entry::CacheDtype;
pub use images::ImageIndex;
pub use room::{MadeRoom, Protected};

/// Changes when the same encoder and image give other numbers, or when an entry is laid out differently.
const FORMAT: u64 = 1;

/// Tells backup programs that the folder can be made again (<https://bford.info/cachedir/>).
const TAG_FILE: &str = "CACHEDIR.TAG";
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# Embeddings of images, computed again when they are \
                   missing. This folder may be deleted while nothing uses it.\n";

/// Locked by every process that uses the entries of a signature.
const LOCK_FILE: &str = "in-use.lock";

/// For people: what the signature stands for.
const ABOUT_FILE: &str = "about.txt";

/// The time of its last use is noted once an hour.
const USE_EVERY: Duration = Duration::from_secs(3600);

/// An embedding of a cache: of an image as it is, or mirrored inside its own area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryKey {
    /// [`crate::image_fingerprint`] of the image.
    pub image: u64,
    /// Mirrored in x, and in y.
    pub mirrored: [bool; 2],
}

impl EntryKey {
    /// The image as it is.
    #[must_use]
    pub fn plain(image: u64) -> Self {
        Self { image, mirrored: [false, false] }
    }

    fn file_name(self) -> String {
        let variant = match self.mirrored {
            [false, false] => "",
            [true, false] => "-x",
            [false, true] => "-y",
            [true, true] => "-xy",
        };
        format!("{:016x}{variant}.{}", self.image, entry::EXTENSION)
    }
}

/// An error of a cache.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// A file or folder cannot be written.
    #[error(
        "the embedding cache {}: cannot be written: {source}; what is in it stays valid. {}",
        path.display(),
        remedy(source)
    )]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// A value is NaN or infinite, or beyond the range of f16.
    #[error("an embedding contains {value} as {dtype}; {}", if value.is_finite() { "keep embeddings as f32" } else { "the \
             checkpoint's training has diverged" })]
    NotFinite {
        /// The value before it was rounded.
        value: f32,
        /// The type of the entries.
        dtype: CacheDtype,
    },
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "Free some space, or keep the cache on another disk"
        }
        _ => "Is the folder yours?",
    }
}

/// The entries of one encoder in a folder of embeddings.
#[derive(Debug)]
pub struct EmbeddingCache {
    /// The folder of all encoders.
    root: PathBuf,
    /// That of this one.
    folder: PathBuf,
    signature: u64,
    /// `[C, G, G]`.
    shape: [usize; 3],
    dtype: CacheDtype,
    encoder: Arc<EncoderIdentity>,
    /// Shared; it ends with the process, however that ends.
    _in_use: File,
}

impl EmbeddingCache {
    /// Opens the entries of an encoder in the folder `root`, which is made when it is missing.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written.
    pub fn open(
        root: &Path,
        encoder: &ImageEncoder,
        config: &ImageEncoderConfig,
        dtype: CacheDtype,
    ) -> Result<Self, CacheError> {
        let identity = Arc::new(EncoderIdentity::new(encoder));
        let device = encoder.device();
        let signature = signature(identity.fingerprint(), config, dtype, &device);
        let folder = root.join(format!("{signature:016x}"));
        let write = |path: PathBuf| move |source| CacheError::Write { path, source };
        std::fs::create_dir_all(&folder).map_err(write(folder.clone()))?;
        let tag = root.join(TAG_FILE);
        if !tag.exists() {
            write_atomically(&tag, TAG).map_err(write(tag.clone()))?;
        }
        let lock_path = folder.join(LOCK_FILE);
        let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&lock_path);
        let in_use = options.map_err(write(lock_path.clone()))?;
        // Where a file system has no locks, others may remove entries; they are then computed again.
        let _ = in_use.lock_shared();
        sweep_unfinished(&folder);
        let grid = config.grid_size();
        let cache = Self {
            root: root.to_owned(),
            signature,
            shape: [config.out_chans(), grid, grid],
            dtype,
            encoder: identity,
            _in_use: in_use,
            folder,
        };
        cache.describe(config)?;
        Ok(cache)
    }

    fn describe(&self, config: &ImageEncoderConfig) -> Result<(), CacheError> {
        let path = self.folder.join(ABOUT_FILE);
        if path.exists() {
            return Ok(());
        }
        let [channels, grid, _] = self.shape;
        let text = format!(
            "Embeddings of images by one encoder, {} MiB each at most.\nencoder      {:016x}\nimage size   {} px\nembedding    \
             {channels} x {grid} x {grid}, {}\nformat       {FORMAT}\n",
            self.entry_bytes().div_ceil(1 << 20),
            self.encoder.fingerprint(),
            config.image_size(),
            self.dtype,
        );
        write_unsynced(&path, text).map_err(|source| CacheError::Write { path, source })
    }

    /// The folder of all encoders.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Type of the values.
    #[must_use]
    pub fn dtype(&self) -> CacheDtype {
        self.dtype
    }

    /// Size of an entry's file.
    #[must_use]
    pub fn entry_bytes(&self) -> u64 {
        entry::n_bytes(self.shape, self.dtype)
    }

    /// Whether the entries are those of this encoder.
    pub(crate) fn is_of(&self, encoder: &Arc<EncoderIdentity>) -> bool {
        self.encoder.matches(encoder)
    }

    /// Whether there is an entry; what is in it is seen when it is read.
    #[must_use]
    pub fn has(&self, key: EntryKey) -> bool {
        let metadata = std::fs::metadata(self.path_of(key));
        metadata.is_ok_and(|metadata| metadata.is_file() && metadata.len() == self.entry_bytes())
    }

    /// Reads an embedding, `[1, C, G, G]`; `None` when it is missing or damaged.
    #[must_use]
    pub fn load(&self, key: EntryKey, device: &Device) -> Option<Tensor<4>> {
        let path = self.path_of(key);
        let bytes = sam_files::read_regular(&path, self.entry_bytes()).ok()?;
        let values = entry::decode(&bytes, self.head(key))?;
        self.note_use(&path);
        Some(self.tensor(values, device))
    }

    /// Writes an embedding, and returns it as it is read again: rounded to the type of the entries. What a computation gives
    /// must not depend on who filled the cache.
    ///
    /// # Errors
    ///
    /// When it cannot be written, or has a value that the type cannot hold.
    ///
    /// # Panics
    ///
    /// When it has not the shape of this encoder's embeddings.
    pub fn store(&self, key: EntryKey, embedding: &Tensor<4>) -> Result<Tensor<4>, CacheError> {
        let [channels, height, width] = self.shape;
        assert_eq!(embedding.dims(), [1, channels, height, width], "one embedding of the encoder of this cache");
        let values = sam_model::weights::host_values(embedding);
        let bytes = entry::encode(&values, self.head(key))?;
        let path = self.path_of(key);
        write_unsynced(&path, &bytes).map_err(|source| CacheError::Write { path, source })?;
        let stored = entry::decode(&bytes, self.head(key)).unwrap_or(values);
        Ok(self.tensor(stored, &embedding.device()))
    }

    /// Notes that these entries are used, so that others are removed first.
    pub fn note_uses<'k>(&self, keys: impl IntoIterator<Item = &'k EntryKey>) {
        keys.into_iter().for_each(|&key| self.note_use(&self.path_of(key)));
    }

    /// Nothing depends on it but the order in which entries are removed, so a failure is ignored.
    fn note_use(&self, path: &Path) {
        let Ok(file) = sam_files::open_regular(path) else { return };
        let used = file.metadata().and_then(|metadata| metadata.modified());
        let is_old = used.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > USE_EVERY));
        if is_old {
            let _ = file.set_modified(SystemTime::now());
        }
    }

    fn head(&self, key: EntryKey) -> entry::Head {
        entry::Head { signature: self.signature, key, dtype: self.dtype, shape: self.shape }
    }

    fn path_of(&self, key: EntryKey) -> PathBuf {
        self.folder.join(key.file_name())
    }

    fn tensor(&self, values: Vec<f32>, device: &Device) -> Tensor<4> {
        let [channels, height, width] = self.shape;
        Tensor::from_data(TensorData::new(values, [1, channels, height, width]), device)
    }
}

/// Size of an entry's file, for an encoder of these sizes.
#[must_use]
pub fn entry_bytes(config: &ImageEncoderConfig, dtype: CacheDtype) -> u64 {
    entry::n_bytes([config.out_chans(), config.grid_size(), config.grid_size()], dtype)
}

/// The hash of everything but the image that decides an embedding and its bytes.
fn signature(encoder: u64, config: &ImageEncoderConfig, dtype: CacheDtype, device: &Device) -> u64 {
    let mut hash = Fingerprint::new(FORMAT);
    hash.add_word(encoder);
    let sizes = match config {
        ImageEncoderConfig::Vit(vit) => sizes_of_vit(vit),
        ImageEncoderConfig::TinyVit(tiny) => sizes_of_tiny_vit(tiny),
    };
    sizes.into_iter().for_each(|size| hash.add_word(size as u64));
    // A GPU rounds otherwise, and a run on the CPU is reproducible bit for bit.
    hash.add_word(u64::from(is_cpu(device)));
    hash.add_word(dtype.n_bytes() as u64);
    match Precision::in_use() {
        Precision::F32 | Precision::Auto => {}
        Precision::Bf16 => hash.add_word(1),
        Precision::Int8 => hash.add_word(2),
    }
    hash.value()
}

// Drop path and the batch norms of a training act in training only, and a frozen encoder never trains.

fn sizes_of_vit(config: &VitConfig) -> Vec<usize> {
    let VitConfig {
        image_size,
        patch_size,
        embed_dim,
        depth,
        num_heads,
        mlp_dim,
        out_chans,
        window_size,
        global_attn_indexes,
        drop_path_rate: _,
    } = config;
    let sizes = [image_size, patch_size, embed_dim, depth, num_heads, mlp_dim, out_chans, window_size];
    sizes.into_iter().chain(global_attn_indexes).copied().collect()
}

fn sizes_of_tiny_vit(config: &TinyVitConfig) -> Vec<usize> {
    let TinyVitConfig {
        image_size,
        embed_dims,
        depths,
        num_heads,
        window_sizes,
        mbconv_ratio,
        mlp_ratio,
        out_chans,
        drop_path_rate: _,
        batch_norm: _,
    } = config;
    let layers = embed_dims.iter().chain(depths).chain(num_heads).chain(window_sizes);
    [image_size, mbconv_ratio, mlp_ratio, out_chans].into_iter().chain(layers).copied().collect()
}

/// Appends to a file that others append to as well.
fn append(path: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().append(true).create(true).open(path)?;
    file.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests;
