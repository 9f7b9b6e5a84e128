//! The images of a project: files below the user's folder, known by the hash of their name.
//!
//! A client names an image by that hash and never by a path, and the hash stays when images are added or removed.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};

use sam_data::{ImageTree, NamedFile, SourceOptions};
use sam_files::Fingerprint;
use serde::{Deserialize, Serialize};

use crate::error::EngineError;

/// The hash of an image's name relative to the folder of images; 16 hexadecimal digits in JSON and addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(u64);

impl ImageId {
    /// The id of a name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let mut hash = Fingerprint::new(0);
        hash.add_bytes(name.as_bytes());
        Self(hash.value())
    }

    /// A number for readers of SA-1B, which expect one; it fits the integers of every language.
    pub(crate) fn number(self) -> u64 {
        self.0 & 0xffff_ffff
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        let is_id = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        is_id.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl TryFrom<String> for ImageId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| "an image's id must have 16 hexadecimal digits".to_owned())
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> Self {
        id.to_string()
    }
}

/// The images of a folder, sorted by name.
#[derive(Debug)]
pub struct ImageList {
    /// Without links.
    root: PathBuf,
    names: Vec<String>,
    by_id: HashMap<ImageId, usize>,
    left_out: Vec<String>,
}

impl ImageList {
    /// Lists the images at any depth below a folder.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read or has no images.
    pub fn open(folder: &Path) -> Result<Self, EngineError> {
        let root = folder.canonicalize().map_err(EngineError::io(folder))?;
        let tree = ImageTree::open(&root, &SourceOptions::default())?;
        let (mut names, mut left_out, mut stems) = (Vec::new(), Vec::new(), HashSet::new());
        for name in (0..tree.len()).map(|index| tree.name(index).to_owned()) {
            // What is inside a `.tar` shard has no file of its own.
            if !root.join(&name).is_file() {
                left_out.push(format!("{name}: is no file of its own; unpack it first"));
            } else if inside(&root, &name).is_none() {
                left_out.push(EngineError::ImageOutside { name }.to_string());
            } else if !stems.insert(stem(&name).to_owned()) {
                left_out.push(format!("{name}: another image has the same name but for its ending; rename one"));
            } else {
                names.push(name);
            }
        }
        if names.is_empty() {
            let problem = format!("must hold images, got none that can be annotated:\n{}", left_out.join("\n"));
            return Err(EngineError::Project { path: folder.to_owned(), problem });
        }
        let by_id: HashMap<ImageId, usize> =
            names.iter().enumerate().map(|(index, name)| (ImageId::of(name), index)).collect();
        assert_eq!(by_id.len(), names.len(), "two names have one hash of 64 bits");
        Ok(Self { root, names, by_id, left_out })
    }

    /// Number of images; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty one cannot be opened")]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Name relative to the folder, with `/`.
    #[must_use]
    pub fn name(&self, index: usize) -> &str {
        &self.names[index]
    }

    /// The index of an id, which comes from a client.
    #[must_use]
    pub fn find(&self, id: ImageId) -> Option<usize> {
        self.by_id.get(&id).copied()
    }

    /// Lines on the images that cannot be annotated.
    #[must_use]
    pub fn left_out(&self) -> &[String] {
        &self.left_out
    }

    /// All files with their names, for the counterparts in a data set.
    ///
    /// # Errors
    ///
    /// As [`ImageList::path`].
    pub fn named_files(&self) -> Result<Vec<NamedFile>, EngineError> {
        (0..self.len())
            .map(|index| Ok(NamedFile { name: self.name(index).to_owned(), path: self.path(index)? }))
            .collect()
    }

    /// The file of an image, without links.
    ///
    /// # Errors
    ///
    /// When it is gone, or has become a link out of the folder.
    pub fn path(&self, index: usize) -> Result<PathBuf, EngineError> {
        let name = self.name(index);
        inside(&self.root, name).ok_or_else(|| match self.root.join(name).metadata() {
            Err(source) => EngineError::Io { path: self.root.join(name), source },
            Ok(_) => EngineError::ImageOutside { name: name.to_owned() },
        })
    }
}

/// The real path of a file, if that is below the root.
fn inside(root: &Path, name: &str) -> Option<PathBuf> {
    root.join(name).canonicalize().ok().filter(|real| real.starts_with(root))
}

/// The name without its ending; annotation files are named by it.
pub(crate) fn stem(name: &str) -> &str {
    name.rsplit_once('.').map_or(name, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_16_digits_and_nothing_else() {
        let id = ImageId::of("a/b.jpg");
        assert_eq!(ImageId::parse(&id.to_string()), Some(id));
        for wrong in ["", "..", "../../etc/passwd", "0123456789ABCDEF", "0123456789abcde", "+123456789abcdef"] {
            assert_eq!(ImageId::parse(wrong), None, "{wrong}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_out_of_the_folder_and_equal_stems_are_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, secret) = (folder.path().join("photos"), folder.path().join("secret.png"));
        std::fs::create_dir_all(root.join("day 1")).expect("made");
        for path in [root.join("day 1/a.png"), root.join("b.jpg"), root.join("b.png"), secret.clone()] {
            std::fs::write(path, "an image").expect("written");
        }
        std::os::unix::fs::symlink(&secret, root.join("c.png")).expect("linked");
        std::os::unix::fs::symlink(root.join("b.jpg"), root.join("d.jpg")).expect("linked");
        let list = ImageList::open(&root).expect("opens");
        let names: Vec<&str> = (0..list.len()).map(|index| list.name(index)).collect();
        assert_eq!(names, ["b.jpg", "d.jpg", "day 1/a.png"]);
        assert_eq!(list.left_out().len(), 2, "{:?}", list.left_out());
        assert_eq!(list.find(ImageId::of("day 1/a.png")), Some(2));
        assert_eq!(list.find(ImageId::of("c.png")), None);
        // A file that becomes a link later is not followed, either.
        std::fs::remove_file(root.join("b.jpg")).expect("removed");
        std::os::unix::fs::symlink(&secret, root.join("b.jpg")).expect("linked");
        assert!(matches!(list.path(0), Err(EngineError::ImageOutside { .. })));
    }
}
