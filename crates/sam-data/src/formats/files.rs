//! File and folder names of data sets: listing, extensions, stems, and pairs of image and label folders.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use percent_encoding::percent_decode_str;
use unicode_normalization::UnicodeNormalization;

use crate::error::DataError;

/// Extensions of supported image files.
const IMAGE_EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "tif", "tiff", "bmp", "webp", "gif"];
const IMAGE_FOLDERS: [&str; 6] = ["images", "image", "imgs", "img", "jpegimages", "imagestr"];
/// In order of preference: VOC has instances and classes side by side.
pub(crate) const LABEL_FOLDERS: [&str; 12] = [
    "segmentationobject",
    "labels",
    "label",
    "masks",
    "mask",
    "annotations",
    "annotation",
    "gt",
    "labelstr",
    "segmentationclass",
    "jsons",
    "json",
];
/// Suffixes that annotation tools append when labels lie beside images.
const LABEL_SUFFIXES: [&str; 8] = ["_masks", "_mask", "_labels", "_label", "_seg", "_gt", "_cp_masks", "_segmentation"];
/// CamVid's suffix of labels, which among images may as well mean "left".
const CAMVID_SUFFIX: &str = "_L";
/// Maximum folder depth.
pub(crate) const MAX_DEPTH: usize = 8;

/// A folder of images and the folder of their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FolderPair {
    pub(crate) images: PathBuf,
    pub(crate) labels: PathBuf,
    /// The part of the split, from the parent folder's name.
    pub(crate) split: Option<String>,
}

impl FolderPair {
    pub(crate) fn has(&self, extension: &str) -> Result<bool, DataError> {
        any_file(&self.labels, MAX_DEPTH, &|name| has_extension(name, extension))
    }

    pub(crate) fn has_label_images(&self) -> Result<bool, DataError> {
        any_file(&self.labels, MAX_DEPTH, &|name| is_image(name))
    }
}

/// Folder pairs at the root and in the folders of a split.
pub(crate) fn folder_pairs(root: &Path) -> Result<Vec<FolderPair>, DataError> {
    let mut pairs = Vec::new();
    let folder = Folder::list(root)?;
    if let Some((images, labels)) = pair_of(root, &folder)? {
        pairs.push(FolderPair { images, labels, split: None });
    }
    for child in &folder.folders {
        let Some(split) = split_name(child) else {
            continue;
        };
        let at = root.join(child);
        if let Some((images, labels)) = pair_of(&at, &Folder::list(&at)?)? {
            pairs.push(FolderPair { images, labels, split: Some(split.to_owned()) });
        }
    }
    Ok(pairs)
}

fn pair_of(root: &Path, folder: &Folder) -> Result<Option<(PathBuf, PathBuf)>, DataError> {
    let named =
        |wanted: &str| folder.folders.iter().find(|name| name.to_lowercase() == wanted).map(|name| root.join(name));
    let Some(images) = IMAGE_FOLDERS.iter().find_map(|name| named(name)) else {
        return Ok(None);
    };
    for name in LABEL_FOLDERS {
        if let Some(labels) = named(name) {
            let is_label = |file: &str| is_image(file) || has_extension(file, "txt") || has_extension(file, "json");
            if any_file(&labels, MAX_DEPTH, &is_label)? {
                return Ok(Some((images, labels)));
            }
        }
    }
    Ok(None)
}

/// `train`, `val` or `test` if a folder or file name contains it: `valid`, `val2017`, `instances_train2017.json`.
pub(crate) fn split_name(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    let words = name.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    let mut found = None;
    for word in words {
        let split = match word {
            "train" | "training" => "train",
            "val" | "valid" | "validation" | "minival" => "val",
            "test" | "testing" => "test",
            _ => continue,
        };
        if found.is_some_and(|other| other != split) {
            return None;
        }
        found = Some(split);
    }
    found
}

/// The folder of images named by the options.
pub(crate) fn given_folder(root: &Path, images: &Path) -> Result<PathBuf, DataError> {
    let folder = root.join(images);
    if folder.is_dir() {
        return Ok(folder);
    }
    let got = folder.display().to_string();
    Err(DataError::Option { key: "images", expected: "a folder".to_owned(), got })
}

/// Files and subfolders of a folder, sorted.
pub(crate) struct Folder {
    pub(crate) files: Vec<String>,
    pub(crate) folders: Vec<String>,
}

impl Folder {
    pub(crate) fn list(path: &Path) -> Result<Self, DataError> {
        let io = |error| DataError::io(path, error);
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(path).map_err(io)? {
            let entry = entry.map_err(io)?;
            let Ok(name) = entry.file_name().into_string() else {
                return Err(DataError::Content {
                    path: entry.path(),
                    what: "a file name".to_owned(),
                    expected: "UTF-8".to_owned(),
                    got: "other bytes".to_owned(),
                    fix: "rename it".to_owned(),
                });
            };
            // Resource forks and hidden files of macOS have the names of images but are none.
            if name.starts_with('.') || name == "__MACOSX" {
                continue;
            }
            // Follows links, as data sets are often assembled from links.
            let (is_folder, is_file) = match entry.file_type().map_err(io)? {
                // A link to nowhere is a file that will be missed.
                kind if kind.is_symlink() => {
                    std::fs::metadata(entry.path()).map_or((false, true), |target| (target.is_dir(), target.is_file()))
                }
                kind => (kind.is_dir(), kind.is_file()),
            };
            // Pipes and devices are neither; reading one may never end.
            if is_folder {
                folders.push(name);
            } else if is_file {
                files.push(name);
            }
        }
        files.sort_unstable();
        folders.sort_unstable();
        Ok(Self { files, folders })
    }

    pub(crate) fn with_extension(&self, extension: &'static str) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str).filter(move |name| has_extension(name, extension))
    }

    pub(crate) fn has_images(&self) -> bool {
        self.files.iter().any(|name| is_image(name))
    }

    pub(crate) fn has_stem(&self, wanted: &str) -> bool {
        self.files.iter().any(|name| is_image(name) && stem(name) == wanted)
    }
}

/// All files below a folder, as paths relative to it with `/`, sorted.
pub(crate) fn list_files(root: &Path) -> Result<Vec<String>, DataError> {
    let mut files = Vec::new();
    walk(root, MAX_DEPTH, &mut |file| {
        files.push(file);
        false
    })?;
    files.sort_unstable();
    Ok(files)
}

pub(crate) fn any_file(root: &Path, depth: usize, is_wanted: &dyn Fn(&str) -> bool) -> Result<bool, DataError> {
    walk(root, depth, &mut |file| is_wanted(&file))
}

/// A visit of all files below a folder.
struct Walk<'a> {
    root: &'a Path,
    /// Called with paths relative to the root, until it returns true.
    visit: &'a mut dyn FnMut(String) -> bool,
    /// The real paths of the folders that the visit is in: a link to one of them would never end.
    above: Vec<PathBuf>,
}

impl Walk<'_> {
    /// Visits a folder; returns whether a visit returned true.
    fn enter(&mut self, below: &str, depth: usize) -> Result<bool, DataError> {
        let at = self.root.join(below);
        let real = at.canonicalize().map_err(|error| DataError::io(&at, error))?;
        if self.above.contains(&real) {
            return Ok(false);
        }
        let Folder { files, folders } = Folder::list(&at)?;
        let joined = |name: String| if below.is_empty() { name } else { format!("{below}/{name}") };
        if files.into_iter().any(|name| (self.visit)(joined(name))) {
            return Ok(true);
        }
        self.above.push(real);
        for name in folders {
            if depth > 0 && self.enter(&joined(name), depth - 1)? {
                return Ok(true);
            }
        }
        self.above.pop();
        Ok(false)
    }
}

fn walk(root: &Path, depth: usize, visit: &mut dyn FnMut(String) -> bool) -> Result<bool, DataError> {
    Walk { root, visit, above: Vec::new() }.enter("", depth)
}

pub(crate) fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case(extension))
}

pub(crate) fn is_image(name: &str) -> bool {
    IMAGE_EXTENSIONS.iter().any(|extension| has_extension(name, extension))
}

/// The last component of a path.
pub(crate) fn base(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The spellings of a listed path: as written, the path of a Label Studio address (`?d=`), and with `%20` and the like
/// decoded.
pub(crate) fn spellings(name: &str) -> Vec<Cow<'_, str>> {
    let mut spellings = vec![Cow::Borrowed(name)];
    if let Some((_, path)) = name.rsplit_once("?d=") {
        spellings.push(Cow::Borrowed(path));
    }
    for at in 0..spellings.len() {
        if spellings[at].contains('%') {
            spellings.push(Cow::Owned(percent_decode_str(&spellings[at]).decode_utf8_lossy().into_owned()));
        }
    }
    spellings
}

/// A name in Unicode's composed form, in which names that look equal are equal.
pub(crate) fn normalised(name: &str) -> String {
    if name.is_ascii() { name.to_owned() } else { name.nfc().collect() }
}

/// A file of a folder whose name differs only in its Unicode form.
pub(crate) fn find_normalised(folder: &Path, name: &str) -> Option<PathBuf> {
    if name.is_ascii() {
        return None;
    }
    let wanted = normalised(name);
    let file = Folder::list(folder).ok()?.files.into_iter().find(|file| normalised(file) == wanted)?;
    Some(folder.join(file))
}

/// The folders in which the files of a data set are expected, without links: its own, or that of its annotation file and,
/// where that is called "annotations" or so, the one above; and the folder of images that the user names.
pub(crate) fn own_folders(root: &Path, images: Option<&Path>) -> Vec<PathBuf> {
    let mut own = match root.is_file() {
        false => root.to_path_buf(),
        true => root.canonicalize().ok().and_then(|file| file.parent().map(Path::to_path_buf)).unwrap_or_default(),
    };
    let name = own.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if root.is_file() && LABEL_FOLDERS.contains(&name.as_str()) {
        own.pop();
    }
    let named = images.map(|images| own.join(images));
    std::iter::once(own).chain(named).filter_map(|folder| folder.canonicalize().ok()).collect()
}

/// An image of a folder with this stem, in any case.
pub(crate) fn find_stem(folder: &Path, wanted: &str) -> Option<PathBuf> {
    let wanted = wanted.to_lowercase();
    let listing = Folder::list(folder).ok()?;
    let file = listing.files.into_iter().find(|file| is_image(file) && stem(file).to_lowercase() == wanted)?;
    Some(folder.join(file))
}

/// A relative path without its extension.
pub(crate) fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension)) if !extension.contains('/') && !stem.is_empty() => stem,
        _ => name,
    }
}

/// The stem of a label file in a folder of its own, without the tool's suffix.
pub(crate) fn unsuffixed_stem_of_label(name: &str) -> Option<&str> {
    unsuffixed_stem(name).or_else(|| stem(name).strip_suffix(CAMVID_SUFFIX))
}

/// The stem of a label file that holds one of several masks of its image (`x_mask0`, `x_mask_1`), without suffix and number.
pub(crate) fn numbered_stem(name: &str) -> Option<&str> {
    let stem = stem(name);
    let suffixed = stem.trim_end_matches(|letter: char| letter.is_ascii_digit());
    let suffixed = (suffixed.len() < stem.len()).then_some(suffixed)?.trim_end_matches(['_', '-']);
    let lower = suffixed.to_ascii_lowercase();
    let rests = LABEL_SUFFIXES.iter().filter_map(|suffix| lower.strip_suffix(suffix));
    rests.map(str::len).min().filter(|&len| len > 0).map(|len| &stem[..len])
}

/// The stem of a label file without the tool's suffix, in any case.
pub(crate) fn unsuffixed_stem(name: &str) -> Option<&str> {
    let stem = stem(name);
    let lower = stem.to_ascii_lowercase();
    let rests = LABEL_SUFFIXES.iter().filter_map(|suffix| lower.strip_suffix(suffix));
    rests.map(str::len).min().filter(|&len| len > 0).map(|len| &stem[..len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_split_are_read_from_names() {
        for (name, split) in [
            ("valid", Some("val")),
            ("val2017", Some("val")),
            ("instances_train2017.json", Some("train")),
            ("lvis_v1_val.json", Some("val")),
            ("Test", Some("test")),
            ("trains", None),
            ("train_val", None),
            ("photos", None),
        ] {
            assert_eq!(split_name(name), split, "{name}");
        }
    }

    #[test]
    fn stems_keep_folders_and_dots() {
        assert_eq!(stem("a/b.c.png"), "a/b.c");
        assert_eq!(stem("a.b/c"), "a.b/c");
        assert_eq!(unsuffixed_stem("x_cp_masks.png"), Some("x"));
        assert_eq!(unsuffixed_stem("x_mask.png"), Some("x"));
        assert_eq!(unsuffixed_stem("x.png"), None);
        for name in ["x_mask0.png", "x_mask_1.png", "x_Mask-001.png", "x_mask12.gif"] {
            assert_eq!(numbered_stem(name), Some("x"), "{name}");
        }
        for name in ["x_mask.png", "x_1.png", "_mask1.png", "mask_1.png"] {
            assert_eq!(numbered_stem(name), None, "{name}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_to_folders_above_end_and_pipes_are_skipped() {
        let root = tempfile::tempdir().expect("a folder");
        std::fs::create_dir_all(root.path().join("a/b")).expect("made");
        std::fs::write(root.path().join("a/b/x.png"), "").expect("written");
        for (link, target) in [("a/b/up", ".."), ("a/b/top", "../.."), ("a/self", "."), ("again", "a")] {
            std::os::unix::fs::symlink(target, root.path().join(link)).expect("linked");
        }
        // A folder that is linked from beside is read once for each name, as data sets are assembled from links.
        assert_eq!(list_files(root.path()).expect("listed"), ["a/b/x.png", "again/b/x.png"]);
        let socket = std::os::unix::net::UnixListener::bind(root.path().join("socket.png")).expect("bound");
        assert_eq!(list_files(root.path()).expect("listed").len(), 2);
        drop(socket);
    }
}
