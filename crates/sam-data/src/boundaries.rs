//! Images with the boundaries that people marked, in the layout of BSDS500: `images/test/100.jpg` with
//! `groundTruth/test/100.mat`, whose variable `groundTruth` is a cell with a struct for each person; its field `Boundaries` is 1
//! on boundary pixels. Both folders may lie in a folder `data`, as in the published archive, and may be without parts.

use std::path::{Path, PathBuf};

use sam_image::{Mask, RgbImage};

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::files;
use crate::formats::intensity::read_image;
use crate::formats::mat::{MatArray, MatContent, MatFile};
use crate::formats::memory::MemoryBudget;
use crate::formats::place::FilePlace;
use crate::source_options::{OnBad, SourceOptions};

const IMAGES: &str = "images";
const TRUTH: &str = "groundTruth";
/// The layout, for messages.
const LAYOUT: &str = "the layout of BSDS500: images/test/NAME.jpg with groundTruth/test/NAME.mat";

/// A data set of boundaries.
#[derive(Debug)]
pub struct BoundarySet {
    images: PathBuf,
    truth: PathBuf,
    /// Relative to both folders, with `/`.
    names: Vec<String>,
    without_truth: Vec<Finding>,
    options: SourceOptions,
    memory: MemoryBudget,
}

/// An image with its boundaries.
#[derive(Clone, Debug)]
pub struct BoundarySample {
    /// Path relative to the folder of images, such as `test/100.jpg`.
    pub name: String,
    /// 8-bit RGB.
    pub image: RgbImage,
    /// What each person marked, in the image's size; at least one.
    pub people: Vec<Mask>,
}

impl BoundarySet {
    /// Lists a data set. Of the options, the part, what is done with bad data, the intensity, the channels and the limit of
    /// pixels count.
    ///
    /// # Errors
    ///
    /// When the layout is another, the part is empty, or an image has no truth (not under [`OnBad::Drop`]).
    pub fn open(root: &Path, options: &SourceOptions) -> Result<Self, DataError> {
        let layout = |got: String, fix: &str| DataError::Content {
            path: root.to_path_buf(),
            what: "a data set of boundaries".to_owned(),
            expected: LAYOUT.to_owned(),
            got,
            fix: fix.to_owned(),
        };
        let homes = [root.to_path_buf(), root.join("data"), root.join("BSDS500/data")];
        let Some(home) = homes.iter().find(|home| home.join(IMAGES).is_dir() && home.join(TRUTH).is_dir()) else {
            return Err(layout(format!("no folders {IMAGES} and {TRUTH}"), "give the folder that holds both"));
        };
        let mut set = Self {
            images: home.join(IMAGES),
            truth: home.join(TRUTH),
            names: Vec::new(),
            without_truth: Vec::new(),
            options: options.clone(),
            memory: MemoryBudget::new(options.max_pixels),
        };
        let part = options.split.as_deref();
        let all: Vec<String> =
            files::list_files(&set.images)?.into_iter().filter(|name| files::is_image(name)).collect();
        for name in &all {
            let of_part = name.split_once('/').and_then(|(folder, _)| files::split_name(folder));
            if part.is_some() && of_part != part {
                continue;
            }
            let truth = set.truth_path(name);
            if truth.is_file() {
                set.names.push(name.clone());
                continue;
            }
            let shown = truth.strip_prefix(home).unwrap_or(&truth).display();
            let detail = format!("no boundaries: {shown} does not exist");
            set.without_truth.push(Finding::new(ProblemKind::ImageUnpaired, name.clone(), detail));
        }
        if !set.without_truth.is_empty() && options.bad == OnBad::Refuse {
            let (path, count) = (root.to_path_buf(), set.without_truth.len() as u64);
            return Err(DataError::Findings { path, count, findings: set.without_truth });
        }
        if set.names.is_empty() {
            let of_part = part.map_or_else(String::new, |part| format!(" in the part {part}"));
            return Err(layout(
                format!("{} images, none with boundaries{of_part}", all.len()),
                "is it the right part?",
            ));
        }
        Ok(set)
    }

    /// Number of images; at least one.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty one cannot be opened")]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Name of an image: its path relative to the folder of images.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    #[must_use]
    pub fn name(&self, index: usize) -> &str {
        &self.names[index]
    }

    /// Images without boundaries, which are left out under [`OnBad::Drop`].
    #[must_use]
    pub fn without_truth(&self) -> &[Finding] {
        &self.without_truth
    }

    /// Reads an image with its boundaries.
    ///
    /// # Errors
    ///
    /// When one of both cannot be read, or boundaries have another size than the image.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    pub fn sample(&self, index: usize) -> Result<BoundarySample, DataError> {
        let name = self.names[index].clone();
        let (_, image) = read_image(&FilePlace::Path(self.images.join(&name)), self.options.read_rule(&self.memory))?;
        let people = self.people_of(&name, [image.height() as usize, image.width() as usize])?;
        Ok(BoundarySample { name, image, people })
    }

    /// Reads the boundaries of an image; of the image, only the header is read.
    ///
    /// # Errors
    ///
    /// As [`BoundarySet::sample`], except for errors that only decoding shows.
    ///
    /// # Panics
    ///
    /// When there is no such image.
    pub fn people(&self, index: usize) -> Result<Vec<Mask>, DataError> {
        let name = &self.names[index];
        let header = FilePlace::Path(self.images.join(name)).image_header(self.options.max_pixels)?;
        self.people_of(name, header.upright_hw())
    }

    fn truth_path(&self, name: &str) -> PathBuf {
        self.truth.join(format!("{}.mat", files::stem(name)))
    }

    fn people_of(&self, name: &str, size_hw: [usize; 2]) -> Result<Vec<Mask>, DataError> {
        let path = self.truth_path(name);
        let file = MatFile::open(&path)?;
        let truth = file.variable(TRUTH)?;
        let MatContent::Cells(cells) = &truth.content else {
            return Err(wrong(&path, TRUTH.to_owned(), "a cell with a struct for each person", truth.describe()));
        };
        if cells.is_empty() {
            return Err(wrong(&path, TRUTH.to_owned(), "a cell with at least one person", truth.describe()));
        }
        cells.iter().enumerate().map(|(at, cell)| boundaries(cell, at, &path, size_hw)).collect()
    }
}

/// The boundaries of one person.
fn boundaries(cell: &MatArray<'_>, at: usize, path: &Path, [height, width]: [usize; 2]) -> Result<Mask, DataError> {
    let what = format!("person {} of groundTruth", at + 1);
    let Some(marked) = cell.field("Boundaries") else {
        return Err(wrong(path, what, "a struct with the field Boundaries", cell.describe()));
    };
    let expected = format!("with Boundaries of the image's size, {height} x {width} (height x width)");
    match &marked.content {
        MatContent::Numbers(numbers) if marked.sizes == [height, width] => {
            Ok(Mask::from_fn([height, width], |row, column| numbers.get(column * height + row) != 0.0))
        }
        _ => Err(wrong(path, what, &expected, marked.describe())),
    }
}

fn wrong(path: &Path, what: String, expected: &str, got: String) -> DataError {
    DataError::Content {
        path: path.to_path_buf(),
        what,
        expected: expected.to_owned(),
        got,
        fix: "download image and truth again; both must be of one release".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/edges")
    }

    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("made");
        std::fs::copy(from, to).expect("copied");
    }

    /// A data set of one image with this truth.
    fn data_set(truth: &[u8]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        copy(&fixture().join("bsds/images/test/100.png"), &folder.path().join("data/images/test/100.png"));
        let path = folder.path().join("data/groundTruth/test/100.mat");
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, truth).expect("written");
        folder
    }

    fn error_of(truth: &[u8]) -> String {
        let folder = data_set(truth);
        let set = BoundarySet::open(folder.path(), &SourceOptions::default()).expect("listed");
        set.sample(0).expect_err("a bad truth").to_string()
    }

    #[test]
    fn people_are_read_as_scipy_wrote_them() {
        let set = BoundarySet::open(&fixture().join("bsds"), &SourceOptions::default()).expect("listed");
        assert_eq!((set.len(), set.name(1)), (3, "test/101.png"));
        let found: Vec<(usize, [usize; 2])> = (0..3)
            .map(|at| set.sample(at).expect("read"))
            .map(|sample| (sample.people.len(), sample.people[0].size_hw()))
            .collect();
        assert_eq!(found, [(2, [48, 64]), (3, [64, 48]), (4, [56, 56])]);
        // The same boundaries, not compressed and as doubles, of a part of the first image.
        let plain = MatFile::open(&fixture().join("plain.mat")).expect("read");
        let MatContent::Cells(cells) = plain.variable(TRUTH).expect("there").content else { panic!("a cell") };
        for (cell, whole) in cells.iter().zip(set.people(0).expect("read")) {
            let segments = cell.field("Segmentation").expect("a field");
            assert_eq!(segments.sizes, [12, 16]);
            let part = boundaries(cell, 0, Path::new("plain.mat"), [12, 16]).expect("read");
            // Thinning sees other surroundings at the edge of a part.
            let inner = |mask: &Mask, top: usize, left: usize| {
                (3..9)
                    .flat_map(|row| (3..13).map(move |column| (row, column)))
                    .map(|(row, column)| mask.get(top + row, left + column))
                    .collect::<Vec<_>>()
            };
            assert_eq!(inner(&part, 0, 0), inner(&whole, 20, 24));
        }
    }

    #[test]
    fn a_bad_truth_is_an_error_with_its_reason() {
        let whole = std::fs::read(fixture().join("bsds/groundTruth/test/100.mat")).expect("read");
        for n_bytes in [0, 60, 128, 132, 200, whole.len() - 1] {
            let error = error_of(&whole[..n_bytes]);
            assert!(
                error.contains("100.mat") && (error.contains("download it again") || error.contains("none")),
                "{n_bytes}: {error}"
            );
        }
        let mut damaged = whole.clone();
        damaged[140..180].iter_mut().for_each(|byte| *byte ^= 0x55);
        assert!(error_of(&damaged).contains("100.mat"));
        let other = std::fs::read(fixture().join("bsds/groundTruth/test/101.mat")).expect("read");
        let error = error_of(&other);
        assert!(error.contains("48 x 64 (height x width)") && error.contains("64 x 48"), "{error}");
        let hdf5 = error_of(b"MATLAB 7.3 MAT-file, Platform: GLNXA64");
        assert!(hdf5.contains("'-v7'"), "{hdf5}");
        let mut signature = whole;
        signature[126] = b'x';
        assert!(error_of(&signature).contains("signature"));
    }

    #[test]
    fn an_image_without_truth_is_named() {
        let folder = data_set(b"");
        copy(&fixture().join("bsds/images/test/101.png"), &folder.path().join("data/images/test/101.png"));
        let error = BoundarySet::open(folder.path(), &SourceOptions::default()).expect_err("no truth").to_string();
        assert!(error.contains("groundTruth/test/101.mat does not exist"), "{error}");
        let drop = SourceOptions { bad: OnBad::Drop, ..SourceOptions::default() };
        let set = BoundarySet::open(folder.path(), &drop).expect("listed");
        assert_eq!((set.len(), set.without_truth().len()), (1, 1));
        let val = SourceOptions { split: Some("val".to_owned()), ..drop };
        let error = BoundarySet::open(folder.path(), &val).expect_err("no such part").to_string();
        assert!(error.contains("2 images, none with boundaries in the part val"), "{error}");
        let error =
            BoundarySet::open(&fixture().join("maps"), &SourceOptions::default()).expect_err("other").to_string();
        assert!(error.contains("groundTruth/test/NAME.mat"), "{error}");
    }

    #[test]
    fn nested_and_endless_files_end() {
        // Every prefix and every changed byte is an answer, not a panic.
        let plain = std::fs::read(fixture().join("plain.mat")).expect("read");
        for at in (0..plain.len()).step_by(3) {
            let mut changed = plain.clone();
            changed[at] ^= 0xFF;
            for bytes in [&changed[..], &plain[..at]] {
                if let Ok(file) = MatFile::parse(bytes, Path::new("x.mat"))
                    && let Ok(array) = file.variable(TRUTH)
                {
                    array.describe();
                }
            }
        }
    }
}
