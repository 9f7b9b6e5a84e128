//! Images in one folder per class, as in `torchvision.datasets.ImageFolder`: `root/CLASS/IMAGE`, or with a split above,
//! `root/train/CLASS/IMAGE` and `root/val/CLASS/IMAGE`.
//!
//! Top folders are parts of a split only if all of them have such names (train, val, valid, validation, test ..);
//! otherwise a folder `train` is a class. Folders below a class have no meaning.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::formats::files;
use crate::formats::intensity::read_image;
use crate::formats::memory::MemoryBudget;
use crate::formats::names::Names;
use crate::formats::place::FilePlace;
use crate::sample::Sample;
use crate::sample::{SampleError, Samples};
use crate::source_options::SourceOptions;

/// Images with one class each.
#[derive(Debug)]
pub struct ClassFolders {
    root: PathBuf,
    classes: Vec<String>,
    names: Names,
    /// For each image, an index into `classes`.
    class_of: Vec<usize>,
    part_of: Vec<Option<&'static str>>,
    without_class: Vec<String>,
    options: SourceOptions,
    memory: MemoryBudget,
}

impl ClassFolders {
    /// Lists a folder. Of the options, the part, the intensity, the channels and the limit of pixels count.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read, no image has a class, or the part is empty.
    pub fn open(root: &Path, options: &SourceOptions) -> Result<Self, DataError> {
        let part = options.split.as_deref();
        let images: Vec<String> = files::list_files(root)?.into_iter().filter(|name| files::is_image(name)).collect();
        let tops: BTreeSet<&str> = images.iter().filter_map(|name| Some(name.split_once('/')?.0)).collect();
        let has_parts = !tops.is_empty() && tops.iter().all(|top| files::split_name(top).is_some());
        let placed = |name: &str| -> Option<(Option<&'static str>, String)> {
            let (top, rest) = name.split_once('/')?;
            match has_parts {
                true => Some((files::split_name(top), rest.split_once('/')?.0.to_owned())),
                false => Some((None, top.to_owned())),
            }
        };
        let classes: BTreeSet<String> = images.iter().filter_map(|name| Some(placed(name)?.1)).collect();
        let mut folders = Self {
            root: root.to_path_buf(),
            classes: classes.into_iter().collect(),
            names: Names::default(),
            class_of: Vec::new(),
            part_of: Vec::new(),
            without_class: Vec::new(),
            options: options.clone(),
            memory: MemoryBudget::new(options.max_pixels),
        };
        for name in &images {
            let Some((of_part, class)) = placed(name) else {
                folders.without_class.push(name.clone());
                continue;
            };
            if part.is_none() || of_part == part {
                folders.names.push(name);
                folders.class_of.extend(folders.classes.binary_search(&class));
                folders.part_of.push(of_part);
            }
        }
        if folders.class_of.is_empty() {
            let got = match part {
                Some(part) => format!("{} images, none of them in the part {part}", images.len()),
                None => format!("{} images, none of them in a folder of a class", images.len()),
            };
            return Err(DataError::Content {
                path: root.to_path_buf(),
                what: "a folder of labelled images".to_owned(),
                expected: "CLASS/IMAGE, or train/CLASS/IMAGE and val/CLASS/IMAGE".to_owned(),
                got,
                fix: "put the images of each class into a folder with its name".to_owned(),
            });
        }
        Ok(folders)
    }

    /// Number of images; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty one cannot be opened")]
    pub fn len(&self) -> usize {
        self.class_of.len()
    }

    /// Path relative to the root.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn name(&self, index: usize) -> &str {
        self.names.get(index)
    }

    /// Names of the classes, sorted.
    #[must_use]
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// Class of an image, as an index into [`ClassFolders::classes`].
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn class(&self, index: usize) -> usize {
        self.class_of[index]
    }

    /// The part (`train`, `val`, `test`) given by the top folder.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn given_split(&self, index: usize) -> Option<&'static str> {
        self.part_of[index]
    }

    /// Images outside the class folders, which are excluded.
    #[must_use]
    pub fn without_class(&self) -> &[String] {
        &self.without_class
    }

    /// Checks that an image's header can be read.
    ///
    /// # Errors
    ///
    /// When it cannot.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    pub fn check_header(&self, index: usize) -> Result<(), DataError> {
        self.place(index).image_header(self.options.max_pixels).map(drop)
    }

    fn place(&self, index: usize) -> FilePlace {
        FilePlace::Path(self.root.join(self.name(index)))
    }
}

impl Samples for ClassFolders {
    fn n_samples(&self) -> usize {
        self.len()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        let (_, image) = read_image(&self.place(index), self.options.read_rule(&self.memory))?;
        Ok(Sample { name: self.name(index).to_owned(), image, objects: Vec::new(), ignore: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::RgbImage;

    fn folder(images: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (value, name) in images.iter().enumerate() {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            RgbImage::from_pixel(3, 2, image::Rgb([value as u8; 3])).save(path).expect("written");
        }
        folder
    }

    fn open(folder: &tempfile::TempDir, part: Option<&str>) -> Result<ClassFolders, DataError> {
        ClassFolders::open(folder.path(), &SourceOptions { split: part.map(str::to_owned), ..SourceOptions::default() })
    }

    #[test]
    fn a_folder_is_a_class() {
        let folder = folder(&["dog/b.png", "cat/deep/a.png", "cat/train/c.png", "train/d.png", "stray.png"]);
        std::fs::write(folder.path().join("cat/notes.txt"), "no image").expect("written");
        let images = open(&folder, None).expect("opens");
        assert_eq!(images.classes(), ["cat", "dog", "train"]);
        let all: Vec<(&str, usize, Option<&str>)> =
            (0..images.len()).map(|at| (images.name(at), images.class(at), images.given_split(at))).collect();
        let expected = [
            ("cat/deep/a.png", 0, None),
            ("cat/train/c.png", 0, None),
            ("dog/b.png", 1, None),
            ("train/d.png", 2, None),
        ];
        assert_eq!(all, expected);
        assert_eq!(images.without_class(), ["stray.png"]);
        assert_eq!(images.sample(2).expect("sound").image.get_pixel(0, 0)[0], 0);
        std::fs::write(folder.path().join("dog/b.png"), "not an image").expect("written");
        assert!(images.check_header(0).is_ok());
        let error = images.check_header(2).expect_err("not an image").to_string();
        assert!(error.contains("dog/b.png"), "{error}");
    }

    #[test]
    fn parts_above_the_classes_are_a_split() {
        let folder = folder(&["train/cat/a.png", "train/dog/b.png", "valid/dog/c.png", "train/stray.png"]);
        let images = open(&folder, None).expect("opens");
        assert_eq!(images.classes(), ["cat", "dog"]);
        let parts: Vec<Option<&str>> = (0..images.len()).map(|at| images.given_split(at)).collect();
        assert_eq!(parts, [Some("train"), Some("train"), Some("val")]);
        assert_eq!(images.without_class(), ["train/stray.png"]);
        // Class indices do not depend on the part.
        let val = open(&folder, Some("val")).expect("opens");
        assert_eq!((val.len(), val.class(0), val.classes().len()), (1, 1, 2));
        let error = open(&folder, Some("test")).expect_err("no such part").to_string();
        assert!(error.contains("4 images, none of them in the part test"), "{error}");
    }

    #[test]
    fn a_folder_without_classes_is_an_error_with_the_expected_layout() {
        let error = open(&folder(&["a.png", "b.png"]), None).expect_err("no class").to_string();
        assert!(error.contains("train/CLASS/IMAGE") && error.contains("2 images"), "{error}");
    }
}
