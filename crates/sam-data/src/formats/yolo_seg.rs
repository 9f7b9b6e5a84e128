//! YOLO segmentation: one `.txt` per image, one line per object, coordinates as fractions of the image's size.
//!
//! Source: Ultralytics' `verify_image_label` and `img2label_paths` (the label path is the image path with the last
//! `/images/` replaced by `/labels/`). A line is `class x1 y1 x2 y2 ...` with at least three points. It is a single
//! polygon, so holes and parts can only be joined by thin bridges. A missing or empty file is a background image. As
//! there, sizes refer to the upright image.
//!
//! Differs from Ultralytics, which clips silently and drops images with a bad line: up to 1 % outside is clipped, more
//! is a finding; a line of four numbers is a box, which is not a mask, and is dropped and counted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::files::{self, Folder, FolderPair};
use crate::formats::pairing::{PairRule, Pairs, Unlabelled, folders_of};
use crate::formats::parts::Parts;
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::segmentation::polygon_mask;
use crate::formats::{Annotated, FormatReader, Listing, text};
use crate::sample::ObjectMask;
use crate::source_options::SourceOptions;

/// Tolerated distance outside the image, as a fraction of its side; exporters round.
const TOLERANCE: f64 = 0.01;

/// Folders of images and `.txt` labels.
#[derive(Debug)]
pub(crate) struct YoloSeg {
    pairs: Pairs,
    /// Lists of image files (`train.txt`) instead of folders.
    listed: Vec<ListedImage>,
    classes: Vec<String>,
}

#[derive(Debug)]
struct ListedImage {
    name: String,
    image: PathBuf,
    split: &'static str,
}

#[derive(Deserialize)]
struct DataYaml {
    #[serde(default)]
    path: Option<String>,
    #[serde(default)]
    train: Option<Paths>,
    #[serde(default, alias = "valid")]
    val: Option<Paths>,
    #[serde(default)]
    test: Option<Paths>,
    #[serde(default)]
    names: Option<Names>,
    #[serde(default)]
    nc: Option<usize>,
}

/// One path or several.
struct Paths(Vec<String>);

/// Names of classes by index.
struct Names(BTreeMap<usize, String>);

/// A scalar as it is written, whatever YAML takes it for: `no`, `02146`, `1.0` and `null` are names of classes, too.
struct Scalar(String);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(Self(text.unwrap_or_else(|| "null".to_owned())))
    }
}

impl<'de> Deserialize<'de> for Paths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathsVisitor;
        impl<'de> Visitor<'de> for PathsVisitor {
            type Value = Paths;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path or a list of paths")
            }

            fn visit_str<E: serde::de::Error>(self, path: &str) -> Result<Paths, E> {
                Ok(Paths(vec![path.to_owned()]))
            }

            fn visit_u64<E: serde::de::Error>(self, path: u64) -> Result<Paths, E> {
                Ok(Paths(vec![path.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut paths: A) -> Result<Paths, A::Error> {
                let mut all = Vec::new();
                while let Some(Scalar(path)) = paths.next_element()? {
                    all.push(path);
                }
                Ok(Paths(all))
            }
        }
        deserializer.deserialize_any(PathsVisitor)
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NamesVisitor;
        impl<'de> Visitor<'de> for NamesVisitor {
            type Value = Names;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a list of class names, or class names by index")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<Names, A::Error> {
                let mut all = BTreeMap::new();
                while let Some(Scalar(name)) = names.next_element()? {
                    all.insert(all.len(), name);
                }
                Ok(Names(all))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut names: A) -> Result<Names, A::Error> {
                let mut all = BTreeMap::new();
                while let Some((Scalar(index), Scalar(name))) = names.next_entry()? {
                    let index = index.parse().map_err(|_| {
                        serde::de::Error::custom(format!("the key of a name must be a class index, got {index}"))
                    })?;
                    all.insert(index, name);
                }
                Ok(Names(all))
            }
        }
        deserializer.deserialize_any(NamesVisitor)
    }
}

impl YoloSeg {
    pub(crate) fn open(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        let yaml = if path.is_file() { Some(path.to_path_buf()) } else { data_yaml(path)? };
        let mut folders = Vec::new();
        let mut listed = Vec::new();
        let mut classes = Vec::new();
        match yaml {
            Some(yaml) => {
                let data = read_yaml(&yaml)?;
                let base = yaml.parent().unwrap_or(Path::new("")).to_path_buf();
                let mut absent = None;
                for (split, paths) in [("train", &data.train), ("val", &data.val), ("test", &data.test)] {
                    let Some(Paths(paths)) = paths else { continue };
                    if options.split.as_deref().is_some_and(|wanted| wanted != split) {
                        continue;
                    }
                    for part in paths.iter().filter(|part| !part.is_empty()) {
                        // Roboflow names a test part that it does not export; nothing reads it unless asked to.
                        let at = match resolve(&base, data.path.as_deref(), part, &yaml, split) {
                            Err(error) if split == "test" && options.split.is_none() => {
                                absent = Some(error);
                                continue;
                            }
                            at => at?,
                        };
                        if at.is_file() {
                            listed.extend(read_list(&at, &base, split)?);
                        } else {
                            folders.push(FolderPair {
                                labels: label_folder(&at),
                                images: at,
                                split: Some(split.to_owned()),
                            });
                        }
                    }
                }
                classes = class_names(&data, &yaml)?;
                if let Some(error) = absent {
                    if folders.is_empty() && listed.is_empty() {
                        return Err(error);
                    }
                    listing.notes.push(format!("the part test is not there: {error}"));
                }
            }
            None => {
                folders.extend(folders_of(path, options.images.as_deref())?);
                if options.images.is_none() {
                    let labelled = folders.iter().filter_map(|pair| pair.split.as_deref()).collect();
                    let wanted = options.split.as_deref();
                    Parts { labelled, wanted, labels: "no folder labels beside them" }.report(path, listing)?;
                }
            }
        }
        let mut reported = Vec::new();
        for pair in &mut folders {
            // A part without any labels is all background, or the folder has another name.
            if !pair.labels.is_dir() {
                listing.findings.push(Finding::new(
                    ProblemKind::ImageUnpaired,
                    pair.images.display().to_string(),
                    format!("its labels must be in {}, which does not exist", pair.labels.display()),
                ));
                pair.labels = pair.images.clone();
                reported.extend(pair.split.clone());
            }
        }
        let is_label = |name: &str| {
            files::has_extension(name, "txt") && !matches!(files::stem(name), "classes" | "train" | "val" | "test")
        };
        let rule = PairRule {
            is_label: &is_label,
            unlabelled: Unlabelled::Background,
            allow_suffix: false,
            split: options.split.as_deref(),
        };
        let pairs = Pairs::find(folders, &rule, &mut listing.findings)?;
        report_parts_without_labels(&pairs, &reported, listing);
        if pairs.n_unlabelled() > 0 {
            listing.notes.push(format!("{} images have no label file and are background", pairs.n_unlabelled()));
        }
        if classes.is_empty() && path.is_dir() {
            classes = classes_txt(path)?;
        }
        report_unlabelled(&listed, listing);
        Ok(Self { pairs, listed, classes })
    }

    fn image_path(&self, index: usize) -> PathBuf {
        match index.checked_sub(self.pairs.len()) {
            Some(listed) => self.listed[listed].image.clone(),
            None => self.pairs.image_path(index),
        }
    }

    fn label_path(&self, index: usize) -> Option<PathBuf> {
        match index.checked_sub(self.pairs.len()) {
            Some(listed) => Some(label_path(&self.listed[listed].image)).filter(|path| path.is_file()),
            None => self.pairs.label_path(index),
        }
    }
}

impl FormatReader for YoloSeg {
    fn len(&self) -> usize {
        self.pairs.len() + self.listed.len()
    }

    fn name(&self, index: usize) -> String {
        match index.checked_sub(self.pairs.len()) {
            Some(listed) => self.listed[listed].name.clone(),
            None => self.pairs.name(index),
        }
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        match index.checked_sub(self.pairs.len()) {
            Some(listed) => Some(self.listed[listed].split),
            None => self.pairs.split(index),
        }
    }

    fn image_place(&self, index: usize) -> Result<FilePlace, Finding> {
        let path = self.image_path(index);
        if path.is_file() {
            return Ok(FilePlace::Path(path));
        }
        Err(Finding::new(ProblemKind::ImageMissing, self.name(index), format!("there is no {}", path.display())))
    }

    fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        self.label_path(index).into_iter().collect()
    }

    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError> {
        let Some(path) = self.label_path(index) else {
            return Ok(Annotated::new(header.upright_hw()));
        };
        // An empty file is an image without objects.
        Ok(read_lines(&text::read(&path)?, &path.display().to_string(), header.upright_hw(), self.classes.len()))
    }
}

/// Reports parts of which no image has a label file, while images of another part have some: a folder of labels that is empty or
/// of other images. `reported` are known already.
fn report_parts_without_labels(pairs: &Pairs, reported: &[String], listing: &mut Listing) {
    let mut labelled: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for index in 0..pairs.len() {
        if let Some(split) = pairs.split(index) {
            let (n_images, n_labelled) = labelled.entry(split).or_default();
            *n_images += 1;
            *n_labelled += usize::from(pairs.label_path(index).is_some());
        }
    }
    if labelled.values().all(|&(_, n_labelled)| n_labelled == 0) {
        return;
    }
    for (split, (n_images, _)) in labelled.into_iter().filter(|(_, (_, n_labelled))| *n_labelled == 0) {
        let is_known = reported.iter().any(|known| files::split_name(known) == Some(split));
        let first = (0..pairs.len()).find(|&index| pairs.split(index) == Some(split));
        if let (false, Some(first)) = (is_known, first) {
            let place = pairs.image_path(first).display().to_string();
            let detail =
                format!("none of the {n_images} images of the part {split} has a label file, such as this one");
            listing.findings.push(Finding::new(ProblemKind::ImageUnpaired, place, detail));
        }
    }
}

/// Reports listed images without a label file: a note if some have one, an error for a part in which none has.
fn report_unlabelled(listed: &[ListedImage], listing: &mut Listing) {
    for part in listed.chunk_by(|a, b| a.split == b.split) {
        let expected = |listed: &ListedImage| label_path(&listed.image);
        let missing: Vec<&ListedImage> = part.iter().filter(|listed| !expected(listed).is_file()).collect();
        let Some(first) = missing.first() else { continue };
        let (n_missing, n_all) = (missing.len(), part.len());
        let place = expected(first).display().to_string();
        if n_missing < n_all {
            listing.notes.push(format!(
                "{}: {n_missing} of {n_all} listed images have no label file and are background, such as {place}",
                first.split
            ));
        } else {
            let detail =
                format!("none of the {n_all} images listed for {} has its label file, such as this", first.split);
            listing.findings.push(Finding::new(ProblemKind::ImageUnpaired, place, detail));
        }
    }
}

/// The objects of one label file.
fn read_lines(text: &str, name: &str, size_hw: [usize; 2], n_classes: usize) -> Annotated {
    let mut annotated = Annotated::new(size_hw);
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_start_matches('\u{feff}').trim();
        if line.is_empty() {
            continue;
        }
        let place = format!("{name}, line {}", at + 1);
        match read_line(line, size_hw, n_classes, &place, &mut annotated.findings) {
            Ok((mask, class)) => {
                annotated.objects.push(ObjectMask { mask, class: Some(class), id: at as u64 + 1, captions: Vec::new() })
            }
            Err((kind, detail)) => annotated.findings.push(Finding::new(kind, place, detail)),
        }
    }
    annotated
}

fn read_line(
    line: &str,
    size_hw: [usize; 2],
    n_classes: usize,
    place: &str,
    findings: &mut Vec<Finding>,
) -> Result<(sam_image::Rle, usize), (ProblemKind, String)> {
    let unreadable = |detail: String| (ProblemKind::AnnotationUnreadable, detail);
    let numbers: Vec<f64> = line
        .split_ascii_whitespace()
        .map(|word| word.parse().map_err(|_| unreadable(format!("must be numbers, got {word}"))))
        .collect::<Result<_, _>>()?;
    let Some((&class, fractions)) = numbers.split_first() else {
        return Err(unreadable("must have a class and coordinates, got an empty line".to_owned()));
    };
    if class < 0.0 || class.fract() != 0.0 || class > f64::from(u32::MAX) {
        return Err(unreadable(format!("must start with a class index, got {class}")));
    }
    if n_classes > 0 && class >= n_classes as f64 {
        return Err((ProblemKind::CategoryUnknown, format!("class must be below {n_classes}, got {class}")));
    }
    if fractions.len() == 4 {
        return Err((ProblemKind::NoMask, "four numbers are a box, not an outline".to_owned()));
    }
    if !fractions.len().is_multiple_of(2) {
        let column = extra_column(fractions);
        return Err(unreadable(format!("must have an even number of coordinates, got {}{column}", fractions.len())));
    }
    if let Some(bad) = fractions.iter().find(|fraction| !fraction.is_finite()) {
        return Err((ProblemKind::PolygonNotFinite, format!("coordinates must be finite, got {bad}")));
    }
    if let Some(far) = fractions.iter().find(|&&fraction| !(-TOLERANCE..=1.0 + TOLERANCE).contains(&fraction)) {
        findings.push(Finding::new(
            ProblemKind::PolygonOutside,
            place,
            format!(
                "coordinates must be fractions from 0 to 1, got {far}{}",
                if *far > 2.0 { " (pixels?)" } else { "" }
            ),
        ));
        // Coordinates far outside have another unit; clipping them would produce a wrong mask.
        if far.abs() > 2.0 {
            return Err(unreadable(format!("coordinates must be fractions from 0 to 1, got {far}")));
        }
    }
    let scale = [size_hw[1] as f64, size_hw[0] as f64];
    // Not clamped: moving a vertex to the border would change the outline inside the image, too.
    let flat = fractions.iter().enumerate().map(|(at, fraction)| fraction * scale[at % 2]).collect();
    Ok((polygon_mask(size_hw, &[flat], place, findings)?, class as usize))
}

/// The `.yaml` file of a folder with the keys of a YOLO data set.
pub(crate) fn data_yaml(folder: &Path) -> Result<Option<PathBuf>, DataError> {
    let listing = Folder::list(folder)?;
    let mut names: Vec<_> = listing.with_extension("yaml").chain(listing.with_extension("yml")).collect();
    // `data.yaml` takes precedence over others, such as a model's configuration.
    names.sort_by_key(|name| (*name != "data.yaml", name.len()));
    for name in names {
        let path = folder.join(name);
        // In another encoding the keys still show; reading the file then names what is wrong.
        let bytes =
            sam_files::read_regular(&path, sam_files::MAX_TEXT_BYTES).map_err(|error| DataError::io(&path, error))?;
        let text = text::decode_utf16(&bytes).unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.trim_start_matches('\u{feff}');
        let has = |key: &str| text.lines().any(|line| line.starts_with(key));
        if has("names:") && (has("train:") || has("val:") || has("path:")) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// A guess which column an odd number of coordinates comes from.
fn extra_column(fractions: &[f64]) -> &'static str {
    let is_last_extra = fractions.last().is_some_and(|last| (0.0..=1.0).contains(last));
    match fractions.first() {
        Some(first) if first.fract() == 0.0 && *first >= 1.0 => " (an extra second column with the object's number?)",
        _ if is_last_extra => " (an extra last column with the confidence?)",
        _ => "",
    }
}

fn read_yaml(path: &Path) -> Result<DataYaml, DataError> {
    let text = text::read(path)?;
    serde_saphyr::from_str(&text)
        .map_err(|source| DataError::Yaml { path: path.to_path_buf(), source: Box::new(source) })
}

fn class_names(data: &DataYaml, yaml: &Path) -> Result<Vec<String>, DataError> {
    let placeholder = |class: usize| format!("class {class}");
    let names: Vec<String> = match &data.names {
        None => (0..data.nc.unwrap_or(0).min(1 << 16)).map(placeholder).collect(),
        Some(Names(names)) => {
            let n = names.keys().last().map_or(0, |last| last + 1).min(1 << 16);
            (0..n).map(|class| names.get(&class).cloned().unwrap_or_else(|| placeholder(class))).collect()
        }
    };
    match data.nc {
        Some(nc) if nc != names.len() => Err(DataError::Content {
            path: yaml.to_path_buf(),
            what: "nc".to_owned(),
            expected: format!("the number of names, {}", names.len()),
            got: nc.to_string(),
            fix: "correct nc or names".to_owned(),
        }),
        _ => Ok(names),
    }
}

/// `classes.txt`, as annotation tools write it beside the labels.
fn classes_txt(root: &Path) -> Result<Vec<String>, DataError> {
    for at in [root.to_path_buf(), root.join("labels")] {
        let path = at.join("classes.txt");
        if path.is_file() {
            let text = text::read(&path)?;
            return Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect());
        }
    }
    Ok(Vec::new())
}

/// Resolves a path of `data.yaml`. Ultralytics takes it relative to `path`, which is relative to its own data folder;
/// Roboflow writes `../train/images` and means `train/images`.
fn resolve(base: &Path, path: Option<&str>, part: &str, yaml: &Path, split: &str) -> Result<PathBuf, DataError> {
    let part = part.replace('\\', "/");
    let inner = part.trim_start_matches("../").trim_start_matches("./");
    let mut tried = Vec::new();
    if let Some(path) = path {
        tried.push(base.join(path).join(&part));
    }
    tried.extend([base.join(&part), base.join(inner)]);
    for at in &tried {
        if at.is_file() {
            return Ok(at.clone());
        }
        if at.is_dir() {
            // `train: train` refers to the folder that contains images and labels.
            let images = at.join("images");
            return Ok(if images.is_dir() && !at.ends_with("images") { images } else { at.clone() });
        }
    }
    Err(DataError::Content {
        path: yaml.to_path_buf(),
        what: split.to_owned(),
        expected: "a folder of images or a list file".to_owned(),
        got: format!(
            "{part}, which is none of {}",
            tried.iter().map(|at| at.display().to_string()).collect::<Vec<_>>().join(", ")
        ),
        fix: "correct `path` or the part's path".to_owned(),
    })
}

/// Replaces the last `images` folder of a path by `labels`.
fn label_folder(images: &Path) -> PathBuf {
    let parts: Vec<_> = images.components().collect();
    let last = parts.iter().rposition(|part| part.as_os_str() == "images");
    parts
        .iter()
        .enumerate()
        .map(|(at, part)| if Some(at) == last { std::ffi::OsStr::new("labels") } else { part.as_os_str() })
        .collect()
}

fn label_path(image: &Path) -> PathBuf {
    label_folder(image).with_extension("txt")
}

/// Reads a list of image paths, relative to the list's folder (`./images/a.jpg`) or to the data set.
fn read_list(list: &Path, base: &Path, split: &'static str) -> Result<Vec<ListedImage>, DataError> {
    let text = text::read(list)?;
    let beside = list.parent().unwrap_or(base);
    Ok(text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(|line| {
            let name = line.replace('\\', "/");
            let name = name.trim_start_matches("./").to_owned();
            let image = [beside.join(&name), base.join(&name)].into_iter().find(|path| path.is_file());
            ListedImage { image: image.unwrap_or_else(|| beside.join(&name)), name, split }
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_images_folder_becomes_labels() {
        assert_eq!(
            label_path(Path::new("/images/a/images/train/x.y.jpg")),
            Path::new("/images/a/labels/train/x.y.txt")
        );
        assert_eq!(label_path(Path::new("flat/x.jpg")), Path::new("flat/x.txt"));
    }

    #[test]
    fn every_kind_of_bad_line_is_reported() {
        for (line, kind) in [
            ("0 0.1 0.1 0.2 0.2", ProblemKind::NoMask),
            ("0 0.1 0.1 0.2 0.2 0.3", ProblemKind::AnnotationUnreadable),
            ("x 0.1 0.1 0.2 0.2 0.3 0.3", ProblemKind::AnnotationUnreadable),
            ("-1 0.1 0.1 0.2 0.2 0.3 0.3", ProblemKind::AnnotationUnreadable),
            ("7 0.1 0.1 0.2 0.2 0.3 0.3", ProblemKind::CategoryUnknown),
            ("0 nan 0.1 0.2 0.2 0.3 0.3", ProblemKind::PolygonNotFinite),
            ("0 0.1 0.1 0.2 1.2 0.3 0.3", ProblemKind::PolygonOutside),
            ("0 10 10 200 20 30 30", ProblemKind::PolygonOutside),
            ("0 0.1 0.1", ProblemKind::PolygonShort),
        ] {
            let found = read_lines(line, "t", [10, 10], 2).findings;
            assert_eq!(found.first().map(|finding| finding.kind), Some(kind), "{line}");
        }
        assert!(read_lines("0 0 0 1.005 0 1 1 -0.005 1\n\n", "t", [4, 4], 0).findings.is_empty());
    }
}
