//! Which images of a data set are images that somebody else has, such as those of an annotation project.
//!
//! In this order: the same file; the same path without its ending; the same file name without its ending, where both sides
//! have it once. Never by order or number: masks on the wrong image look plausible.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::formats::files::{base, normalised, stem};
use crate::formats::place::FilePlace;
use crate::source::Source;

/// An image file that somebody else names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedFile {
    /// Its path relative to some folder, with `/`.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
}

/// What an image of a data set is among other images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counterpart {
    /// This one.
    At(usize),
    /// None of them.
    Absent,
    /// One of several of the same name.
    Ambiguous,
}

impl Source {
    /// The counterpart of each image of the data set among other images.
    #[must_use]
    pub fn counterparts(&self, others: &[NamedFile]) -> Vec<Counterpart> {
        let real = |path: &Path| path.canonicalize().ok();
        let by_file: HashMap<PathBuf, usize> =
            others.iter().enumerate().filter_map(|(at, other)| Some((real(&other.path)?, at))).collect();
        let by_stem: HashMap<String, usize> =
            others.iter().enumerate().map(|(at, other)| (normalised(stem(&other.name)), at)).collect();
        let mut by_base: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, other) in others.iter().enumerate() {
            by_base.entry(base_stem(&other.name)).or_default().push(at);
        }
        let names: Vec<String> = (0..self.len()).map(|index| self.name(index)).collect();
        let mut n_of_base: HashMap<String, usize> = HashMap::new();
        names.iter().for_each(|name| *n_of_base.entry(base_stem(name)).or_default() += 1);
        let of = |(index, name): (usize, &String)| {
            let same_file = match self.image_place(index) {
                Ok(FilePlace::Path(path)) => real(&path).and_then(|path| by_file.get(&path).copied()),
                _ => None,
            };
            if let Some(at) = same_file.or_else(|| by_stem.get(&normalised(stem(name))).copied()) {
                return Counterpart::At(at);
            }
            let base = base_stem(name);
            match (by_base.get(&base).map(Vec::as_slice), n_of_base.get(&base)) {
                (None, _) => Counterpart::Absent,
                (Some([at]), Some(1)) => Counterpart::At(*at),
                _ => Counterpart::Ambiguous,
            }
        };
        names.iter().enumerate().map(of).collect()
    }
}

fn base_stem(name: &str) -> String {
    normalised(base(stem(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source_options::SourceOptions;

    /// Label images: `images/x/a.png`, `images/y/a.png` and so on, with a label each.
    fn labelled(names: &[&str]) -> (tempfile::TempDir, Source) {
        let folder = tempfile::tempdir().expect("a folder");
        for (below, value) in [("images", 9u8), ("masks", 1)] {
            for name in names {
                let path = folder.path().join(below).join(name);
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
                image::GrayImage::from_pixel(2, 2, image::Luma([value])).save(path).expect("saved");
            }
        }
        let source = Source::open(folder.path(), &SourceOptions::default()).expect("a data set");
        (folder, source)
    }

    fn counterparts(source: &Source, folder: &Path, names: &[&str]) -> Vec<Counterpart> {
        let named = |name: &&str| NamedFile { name: (*name).to_owned(), path: folder.join(name) };
        source.counterparts(&names.iter().map(named).collect::<Vec<_>>())
    }

    #[test]
    fn images_are_found_by_file_then_by_path_then_by_name() {
        use Counterpart::{Absent, Ambiguous, At};
        let (folder, source) = labelled(&["a.png", "x/b.png", "y/b.png", "z/c.png"]);
        // A project of the data set's own folder sees the labels as images, too.
        let own = ["images/a.png", "images/x/b.png", "images/y/b.png", "masks/a.png", "masks/x/b.png"];
        assert_eq!(counterparts(&source, folder.path(), &own), [At(0), At(1), At(2), Absent]);
        // Copies elsewhere, in other formats and folders.
        let nowhere = Path::new("nowhere");
        let copies = ["x/b.jpg", "c.tif", "new/y/b.jpg", "d/a.jpg", "e/a.jpg"];
        assert_eq!(counterparts(&source, nowhere, &copies), [Ambiguous, At(0), Ambiguous, At(1)]);
        // The same letter in two Unicode forms.
        let (_folder, source) = labelled(&["caf\u{e9}.png"]);
        assert_eq!(counterparts(&source, nowhere, &["cafe\u{301}.jpg"]), [At(0)]);
    }
}
