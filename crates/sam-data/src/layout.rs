//! Which format a folder or file is of, by looking at it: names first, then the first keys of a JSON file.
//!
//! Nothing is guessed from one sign alone that two formats share: two formats that fit are an error that names both.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::DataError;
use crate::json_cursor::JsonCursor;
use crate::source_options::Format;

/// File endings of images that are read.
const IMAGE_EXTENSIONS: [&str; 7] = ["jpg", "jpeg", "png", "tif", "tiff", "bmp", "webp"];
const IMAGE_FOLDERS: [&str; 6] = ["images", "image", "imgs", "img", "jpegimages", "imagestr"];
/// In the order of choice: VOC has instances and classes side by side.
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
/// What annotators append to a stem when labels lie beside images.
pub(crate) const LABEL_SUFFIXES: [&str; 7] = ["_masks", "_mask", "_labels", "_label", "_seg", "_gt", "_cp_masks"];
/// Folders below folders below this are nobody's data set.
const MAX_DEPTH: usize = 8;
const FOLDERS_LOOKED_INTO: usize = 16;

/// What each format is known by, for the message when nothing fits.
const LOOKED_FOR: &str = "COCO (a .json with \"images\" and \"annotations\"; _annotations.coco.json in train, valid, test), \
     SA-1B (.tar shards, or a .json with \"image\" and \"annotations\" beside each .jpg), YOLO (data.yaml, or images and labels folders with .txt), \
     Labelme (a .json with \"shapes\" for each image), label images (folders such as images and masks, or JPEGImages and SegmentationObject, \
     with .png or .tif of the same stem; or x_mask.png beside x.png)";

/// The one format that fits.
pub(crate) fn recognise(path: &Path) -> Result<Format, DataError> {
    let found = candidates(path)?;
    let mut formats: BTreeMap<&'static str, (Format, String)> = BTreeMap::new();
    for (format, sign) in found {
        formats.entry(format.name()).or_insert((format, sign));
    }
    match formats.len() {
        1 => Ok(formats.into_values().next().map_or(Format::Coco, |(format, _)| format)),
        0 => Err(DataError::UnknownFormat {
            path: path.to_path_buf(),
            looked_for: LOOKED_FOR.to_owned(),
            found: describe(path)?,
        }),
        _ => Err(DataError::AmbiguousFormat {
            path: path.to_path_buf(),
            formats: formats
                .iter()
                .map(|(name, (_, sign))| format!("{name} ({sign})"))
                .collect::<Vec<_>>()
                .join(" and "),
        }),
    }
}

fn candidates(path: &Path) -> Result<Vec<(Format, String)>, DataError> {
    if path.is_file() {
        return Ok(file_format(path)?.map(|format| (format, "the file's content".to_owned())).into_iter().collect());
    }
    let folder = Folder::list(path)?;
    let mut found = Vec::new();
    for child in folder.folders.iter().map(String::as_str).chain([""]) {
        let file = path.join(child).join(ROBOFLOW_JSON);
        if file.is_file() {
            found.push((Format::Coco, shown(path, &file)));
        }
    }
    if let Some(yaml) = data_yaml(path)? {
        found.push((Format::YoloSeg, shown(path, &yaml)));
    }
    if let Some(json) = folder.with_extension("json").next() {
        // One file tells: a folder of per-image files is of one kind, and a COCO file stands out by its keys.
        for name in folder.with_extension("json").take(4).chain([json]) {
            if let Some(format) = file_format(&path.join(name))? {
                found.push((format, name.to_owned()));
            }
        }
    }
    if let Some(tar) = folder.with_extension("tar").next() {
        found.push((Format::Sa1b, tar.to_owned()));
    }
    // The first folders tell; SA-1B has a thousand.
    for child in folder.folders.iter().take(FOLDERS_LOOKED_INTO) {
        let below = Folder::list(&path.join(child))?;
        let is_labels = LABEL_FOLDERS.contains(&child.to_lowercase().as_str());
        let is_split = split_name(child).is_some();
        if let Some(tar) = below.with_extension("tar").next() {
            found.push((Format::Sa1b, format!("{child}/{tar}")));
        }
        let Some(json) = below.with_extension("json").next() else {
            continue;
        };
        if (is_labels || is_split || below.has_images())
            && let Some(format) = file_format(&path.join(child).join(json))?
        {
            found.push((format, format!("{child}/{json}")));
        }
    }
    for pair in folder_pairs(path)? {
        let sign = format!("{} and {}", shown(path, &pair.images), shown(path, &pair.labels));
        if pair.has("txt")? {
            found.push((Format::YoloSeg, sign));
        } else if pair.has("json")? {
            if let Some(json) = list_files(&pair.labels)?.iter().find(|name| has_extension(name, "json")) {
                found.extend(file_format(&pair.labels.join(json))?.map(|format| (format, sign)));
            }
        } else if pair.has_label_images()? {
            found.push((Format::LabelImages, sign));
        }
    }
    if found.is_empty()
        && folder.files.iter().any(|name| unsuffixed_stem(name).is_some_and(|stem| folder.has_stem(stem)))
    {
        found.push((Format::LabelImages, "labels beside images".to_owned()));
    }
    Ok(found)
}

/// Roboflow's name for the annotations of one part.
pub(crate) const ROBOFLOW_JSON: &str = "_annotations.coco.json";

/// The format of one file, by content.
pub(crate) fn file_format(path: &Path) -> Result<Option<Format>, DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if has_extension(&name, "tar") {
        return Ok(Some(Format::Sa1b));
    }
    if has_extension(&name, "yaml") || has_extension(&name, "yml") {
        return Ok(Some(Format::YoloSeg));
    }
    if !has_extension(&name, "json") {
        return Ok(None);
    }
    // A damaged file is reported by the reader of its format, not while looking around.
    Ok(json_format(path).unwrap_or(None))
}

fn json_format(path: &Path) -> Result<Option<Format>, DataError> {
    let file = File::open(path).map_err(|error| DataError::io(path, error))?;
    let mut cursor = JsonCursor::new(file, path)?;
    let mut key = Vec::new();
    if cursor.peek()? == Some(b'[') {
        // The bare list of SA-1B's scripts; COCO results lists have image_id.
        cursor.enter(b'[')?;
        if !cursor.next_item()? || cursor.peek()? != Some(b'{') {
            return Ok(None);
        }
        cursor.enter(b'{')?;
        let mut format = None;
        while cursor.next_key(&mut key)? {
            match key.as_slice() {
                b"image_id" => return Ok(None),
                b"segmentation" => format = Some(Format::Sa1b),
                _ => {}
            }
            cursor.skip()?;
        }
        return Ok(format);
    }
    cursor.enter(b'{')?;
    while cursor.next_key(&mut key)? {
        let first = cursor.peek()?;
        match (key.as_slice(), first) {
            (b"images", Some(b'[')) => return Ok(Some(Format::Coco)),
            (b"image", Some(b'{')) => return Ok(Some(Format::Sa1b)),
            (b"shapes" | b"imagePath", _) => return Ok(Some(Format::Labelme)),
            (b"annotations", Some(b'[')) => {
                cursor.enter(b'[')?;
                let mut is_first = true;
                while cursor.next_item()? {
                    if is_first && cursor.peek()? == Some(b'{') {
                        cursor.enter(b'{')?;
                        while cursor.next_key(&mut key)? {
                            if key == b"image_id" {
                                return Ok(Some(Format::Coco));
                            }
                            cursor.skip()?;
                        }
                    } else {
                        cursor.skip()?;
                    }
                    is_first = false;
                }
            }
            _ => {
                cursor.skip()?;
            }
        }
    }
    Ok(None)
}

/// A `.yaml` of the folder that has the keys of a YOLO data set.
pub(crate) fn data_yaml(folder: &Path) -> Result<Option<PathBuf>, DataError> {
    let listing = Folder::list(folder)?;
    let mut names: Vec<_> = listing.with_extension("yaml").chain(listing.with_extension("yml")).collect();
    // `data.yaml` before others, such as a model's config.
    names.sort_by_key(|name| (*name != "data.yaml", name.len()));
    for name in names {
        let path = folder.join(name);
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let has = |key: &str| text.lines().any(|line| line.starts_with(key));
        if has("names:") && (has("train:") || has("val:") || has("path:")) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// A folder of images with the folder of their labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FolderPair {
    pub(crate) images: PathBuf,
    pub(crate) labels: PathBuf,
    /// The part of the split that the folders above them name.
    pub(crate) split: Option<String>,
}

impl FolderPair {
    fn has(&self, extension: &str) -> Result<bool, DataError> {
        any_file(&self.labels, MAX_DEPTH, &|name| has_extension(name, extension))
    }

    fn has_label_images(&self) -> Result<bool, DataError> {
        any_file(&self.labels, MAX_DEPTH, &|name| is_image(name))
    }
}

/// Pairs of folders at the root and in the folders of a split.
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

/// `train`, `val` or `test`, when a folder or file name says so: `valid`, `val2017`, `instances_train2017.json`.
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

/// The direct content of a folder, sorted.
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
            // Resource forks and hidden files of macOS look like images and are none.
            if name.starts_with('.') || name == "__MACOSX" {
                continue;
            }
            // Follows links, as data sets are often linked together.
            let is_folder = match entry.file_type().map_err(io)? {
                kind if kind.is_symlink() => entry.path().is_dir(),
                kind => kind.is_dir(),
            };
            if is_folder { folders.push(name) } else { files.push(name) }
        }
        files.sort_unstable();
        folders.sort_unstable();
        Ok(Self { files, folders })
    }

    pub(crate) fn with_extension(&self, extension: &'static str) -> impl Iterator<Item = &str> {
        self.files.iter().map(String::as_str).filter(move |name| has_extension(name, extension))
    }

    fn has_images(&self) -> bool {
        self.files.iter().any(|name| is_image(name))
    }

    fn has_stem(&self, wanted: &str) -> bool {
        self.files.iter().any(|name| is_image(name) && stem(name) == wanted)
    }
}

/// All files below a folder, as paths relative to it with `/`, sorted.
pub(crate) fn list_files(root: &Path) -> Result<Vec<String>, DataError> {
    let mut files = Vec::new();
    walk(root, "", MAX_DEPTH, &mut |file| {
        files.push(file);
        false
    })?;
    files.sort_unstable();
    Ok(files)
}

fn any_file(root: &Path, depth: usize, is_wanted: &dyn Fn(&str) -> bool) -> Result<bool, DataError> {
    walk(root, "", depth, &mut |file| is_wanted(&file))
}

/// Visits files until told to stop; true when it was.
fn walk(root: &Path, below: &str, depth: usize, visit: &mut dyn FnMut(String) -> bool) -> Result<bool, DataError> {
    let folder = Folder::list(&root.join(below))?;
    let joined = |name: &str| if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
    for name in &folder.files {
        if visit(joined(name)) {
            return Ok(true);
        }
    }
    for name in &folder.folders {
        if depth > 0 && walk(root, &joined(name), depth - 1, visit)? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(crate) fn has_extension(name: &str, extension: &str) -> bool {
    name.rsplit_once('.').is_some_and(|(_, end)| end.eq_ignore_ascii_case(extension))
}

pub(crate) fn is_image(name: &str) -> bool {
    IMAGE_EXTENSIONS.iter().any(|extension| has_extension(name, extension))
}

/// A relative path without its extension.
pub(crate) fn stem(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((stem, extension)) if !extension.contains('/') && !stem.is_empty() => stem,
        _ => name,
    }
}

/// The stem of a label file that lies beside its image, without what annotators append.
pub(crate) fn unsuffixed_stem(name: &str) -> Option<&str> {
    let stem = stem(name);
    LABEL_SUFFIXES
        .iter()
        .filter_map(|suffix| stem.strip_suffix(suffix))
        .min_by_key(|rest| rest.len())
        .filter(|rest| !rest.is_empty())
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// A few names of what is there.
fn describe(path: &Path) -> Result<String, DataError> {
    if !path.exists() {
        return Ok("no such file or folder".to_owned());
    }
    if path.is_file() {
        return Ok("a file of another kind".to_owned());
    }
    let folder = Folder::list(path)?;
    let mut names: Vec<String> = folder.folders.iter().take(6).map(|name| format!("{name}/")).collect();
    names.extend(folder.files.iter().take(6).cloned());
    Ok(match names.len() {
        0 => "an empty folder".to_owned(),
        _ => format!("{} folders and {} files ({})", folder.folders.len(), folder.files.len(), names.join(", ")),
    })
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
    }
}
