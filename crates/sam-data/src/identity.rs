//! Recognises a data set again: whether a resumed run still has the data that it began with.
//!
//! Names, annotation files and samples of the image files are hashed, relative to the data set, so that a copy at another
//! place is the same data. It detects accidents and does not resist attackers.

use std::collections::hash_map::{Entry, HashMap};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use sam_files::Fingerprint;
use serde::{Deserialize, Serialize};

use crate::formats::images::ImageTree;
use crate::formats::place::FilePlace;
use crate::source::Source;

/// Images whose files are looked at, evenly spaced over the data set.
const MAX_IMAGES: usize = 20_000;

/// Bytes that are hashed from the middle of an image file.
const IMAGE_BYTES: u64 = 1024;

/// Bytes that are hashed from the beginning of an annotation file.
const ANNOTATION_BYTES: u64 = 256 << 20;

/// The identity of the images of a data set that a run uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataIdentity {
    /// Number of images.
    pub images: usize,
    /// Hash of their names, in order.
    pub names: u64,
    /// Hash of their annotations, and of samples of their files.
    pub contents: u64,
}

impl DataIdentity {
    /// The difference from the identity `earlier`, as a sentence without a subject; `None` if there is none.
    #[must_use]
    pub fn difference(&self, earlier: &Self) -> Option<String> {
        if self.images != earlier.images {
            return Some(format!("has {} images, and had {}", self.images, earlier.images));
        }
        if self.names != earlier.names {
            return Some(format!("has {} images as before, but some under other names", self.images));
        }
        (self.contents != earlier.contents)
            .then(|| "has images of the same names, but some images or annotations have other contents".to_owned())
    }
}

impl Source {
    /// The identity of some of its images. Files that cannot be read are part of it as such.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn identity(&self, indices: &[usize]) -> DataIdentity {
        let place = |index| self.image_place(index).ok();
        identity(indices, |index| self.name(index), place, |index| self.annotation_paths(index))
    }
}

impl ImageTree {
    /// The identity of all its images.
    #[must_use]
    pub fn identity(&self) -> DataIdentity {
        let indices: Vec<usize> = (0..self.len()).collect();
        identity(&indices, |index| self.name(index).to_owned(), |index| Some(self.place(index)), |_| Vec::new())
    }
}

fn identity(
    indices: &[usize],
    name: impl Fn(usize) -> String,
    place: impl Fn(usize) -> Option<FilePlace>,
    annotations: impl Fn(usize) -> Vec<PathBuf>,
) -> DataIdentity {
    let (mut names, mut contents) = (Fingerprint::new(0), Fingerprint::new(0));
    for &index in indices {
        names.add_bytes(name(index).as_bytes());
        names.add_bytes(b"\n");
    }
    // One file may hold the annotations of many images.
    let mut hashed: HashMap<PathBuf, u64> = HashMap::new();
    let every = indices.len().div_ceil(MAX_IMAGES).max(1);
    for &index in indices.iter().step_by(every) {
        contents.add_word(place(index).map_or(0, |place| image_hash(&place)));
        for path in annotations(index) {
            contents.add_word(match hashed.entry(path) {
                Entry::Occupied(entry) => *entry.get(),
                Entry::Vacant(entry) => {
                    let hash = hash_of_file(entry.key(), |_| (0, ANNOTATION_BYTES));
                    *entry.insert(hash)
                }
            });
        }
    }
    DataIdentity { images: indices.len(), names: names.value(), contents: contents.value() }
}

fn image_hash(place: &FilePlace) -> u64 {
    match place {
        FilePlace::Path(path) => hash_of_file(path, |len| (len / 2, IMAGE_BYTES)),
        FilePlace::Within { archive, at, len, .. } => hash_of_file(archive, |_| (at + len / 2, IMAGE_BYTES)),
        // Its place in a shard of that size: a request for each of thousands of images would take minutes.
        FilePlace::Cloud { shards, shard, at, len, .. } => {
            let mut hash = Fingerprint::new(0);
            [shards.bytes(*shard), *at, *len].into_iter().for_each(|word| hash.add_word(word));
            hash.value()
        }
        FilePlace::Memory { bytes, .. } => {
            let mut hash = Fingerprint::new(0);
            hash.add_bytes(bytes);
            hash.value()
        }
    }
}

/// Hash of a file's length and of a range of it, as offset and length; 0 if it cannot be read.
fn hash_of_file(path: &Path, range: impl Fn(u64) -> (u64, u64)) -> u64 {
    let read = || -> std::io::Result<(u64, Vec<u8>)> {
        let mut file = sam_files::open_regular(path)?;
        let len = file.metadata()?.len();
        let (at, n_bytes) = range(len);
        file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        file.take(n_bytes).read_to_end(&mut bytes)?;
        Ok((len, bytes))
    };
    read().map_or(0, |(len, bytes)| {
        let mut hash = Fingerprint::new(0);
        hash.add_word(len);
        hash.add_bytes(&bytes);
        hash.value()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use image::GrayImage;

    use super::*;
    use crate::source_options::SourceOptions;

    /// A YOLO data set of two images.
    fn write(folder: &Path, label: &str) {
        for part in ["images", "labels"] {
            fs::create_dir_all(folder.join(part)).expect("a folder");
        }
        fs::write(folder.join("data.yaml"), "names: [thing]\n").expect("written");
        for name in ["a", "b"] {
            GrayImage::new(32, 32).save(folder.join(format!("images/{name}.png"))).expect("written");
            fs::write(folder.join(format!("labels/{name}.txt")), label).expect("written");
        }
    }

    fn identity_of(folder: &Path) -> DataIdentity {
        let source = Source::open(folder, &SourceOptions::default()).expect("a data set");
        source.identity(&(0..source.len()).collect::<Vec<_>>())
    }

    #[test]
    fn a_copy_is_the_same_and_any_change_is_noticed() {
        const LABEL: &str = "0 0.1 0.1 0.9 0.1 0.9 0.9\n";
        let (one, other) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        write(one.path(), LABEL);
        write(other.path(), LABEL);
        let before = identity_of(one.path());
        assert_eq!(before.difference(&identity_of(other.path())), None);

        // As long as before.
        fs::write(other.path().join("labels/a.txt"), LABEL.replace("0.9\n", "0.8\n")).expect("written");
        let difference = identity_of(other.path()).difference(&before).expect("other labels");
        assert!(difference.contains("other contents"), "{difference}");

        write(other.path(), LABEL);
        GrayImage::from_pixel(32, 32, image::Luma([9])).save(other.path().join("images/b.png")).expect("written");
        assert!(identity_of(other.path()).difference(&before).is_some(), "another image");

        write(other.path(), LABEL);
        for (part, ending) in [("images", "png"), ("labels", "txt")] {
            let [from, to] = ["b", "c"].map(|name| other.path().join(part).join(format!("{name}.{ending}")));
            fs::rename(from, to).expect("renamed");
        }
        let difference = identity_of(other.path()).difference(&before).expect("another name");
        assert!(difference.contains("other names"), "{difference}");

        write(other.path(), LABEL);
        let difference = identity_of(other.path()).difference(&before).expect("one more");
        assert_eq!(difference, "has 3 images, and had 2");
    }
}
