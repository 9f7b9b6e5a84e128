//! VIA (VGG Image Annotator 1 and 2): a JSON of all images, `via_region_data.json` or a project, beside the images.
//!
//! Source: VIA's manual and its exports. An image has regions, as a list or (VIA 1) as an object of numbers; polygons, rectangles,
//! circles and ellipses have an area; points and lines have none and are dropped and counted. A project has the same under
//! `_via_img_metadata`. Classes are the values of the region attribute that looks like one (`class`, `label`, `type`, `name`, ..), or
//! of the only one that there is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sam_image::Rle;
use serde::Deserialize;
use serde_json::Value;

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::ellipse::Ellipse;
use crate::formats::files::{self, Folder};
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::recognise::file_format;
use crate::formats::segmentation::polygon_mask;
use crate::formats::{Annotated, FormatReader, Listing, text};
use crate::sample::ObjectMask;
use crate::source_options::{Format, SourceOptions};

/// Attributes that hold classes, the best first.
const CLASS_ATTRIBUTES: [&str; 8] = ["class", "label", "type", "name", "category", "object", "species", "kind"];

/// Images of one or several files.
#[derive(Debug)]
pub(crate) struct Via {
    /// The annotation files.
    files: Vec<PathBuf>,
    images: Vec<ViaImage>,
    classes: Vec<String>,
    attribute: Option<String>,
    images_folder: Option<PathBuf>,
}

#[derive(Debug)]
struct ViaImage {
    /// Index of its file.
    file: usize,
    split: Option<&'static str>,
    entry: Entry,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum FileJson {
    Project {
        #[serde(rename = "_via_img_metadata")]
        entries: BTreeMap<String, Entry>,
    },
    Export(BTreeMap<String, Entry>),
}

#[derive(Debug, Deserialize)]
struct Entry {
    filename: String,
    #[serde(default)]
    regions: Regions,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Regions {
    List(Vec<Region>),
    /// VIA 1.
    Numbered(BTreeMap<String, Region>),
}

impl Default for Regions {
    fn default() -> Self {
        Self::List(Vec::new())
    }
}

#[derive(Debug, Deserialize)]
struct Region {
    shape_attributes: ShapeJson,
    #[serde(default)]
    region_attributes: Value,
}

#[derive(Debug, Deserialize)]
struct ShapeJson {
    name: String,
    #[serde(default)]
    all_points_x: Vec<f64>,
    #[serde(default)]
    all_points_y: Vec<f64>,
    #[serde(flatten)]
    numbers: BTreeMap<String, Value>,
}

impl Regions {
    /// In the order of their numbers.
    fn all(&self) -> Vec<&Region> {
        match self {
            Self::List(regions) => regions.iter().collect(),
            Self::Numbered(regions) => {
                let mut regions: Vec<(usize, &Region)> =
                    regions.iter().map(|(key, region)| (key.parse().unwrap_or(usize::MAX), region)).collect();
                regions.sort_by_key(|(number, _)| *number);
                regions.into_iter().map(|(_, region)| region).collect()
            }
        }
    }
}

impl Region {
    fn attribute(&self, name: &str) -> Option<&str> {
        self.region_attributes.get(name)?.as_str().filter(|value| !value.is_empty())
    }
}

impl Via {
    pub(crate) fn open(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        let root = if path.is_file() { path.parent().unwrap_or(Path::new("")) } else { path };
        let images_folder = options.images.as_ref().map(|images| root.join(images));
        let mut all =
            Self { files: Vec::new(), images: Vec::new(), classes: Vec::new(), attribute: None, images_folder };
        let mut seen = BTreeSet::new();
        for (file, split) in annotation_files(path)? {
            if options.split.is_some() && options.split.as_deref() != split {
                continue;
            }
            let json: Result<FileJson, _> = serde_json::from_str(&text::read(&file)?);
            let (FileJson::Project { entries } | FileJson::Export(entries)) =
                json.map_err(|source| DataError::Json { path: file.clone(), what: "VIA", source })?;
            let folder = file.parent().unwrap_or(Path::new("")).to_path_buf();
            for entry in entries.into_values() {
                if seen.insert((folder.clone(), entry.filename.clone())) {
                    all.images.push(ViaImage { file: all.files.len(), split, entry });
                } else {
                    let detail = format!("{} lists it again", file.display());
                    listing.findings.push(Finding::new(ProblemKind::ImageListedTwice, entry.filename, detail));
                }
            }
            all.files.push(file);
        }
        all.find_classes();
        if let Some(attribute) = &all.attribute {
            listing.notes.push(format!("classes are the values of the region attribute {attribute}"));
        }
        Ok(all)
    }

    /// The attribute with the classes, and its values.
    fn find_classes(&mut self) {
        let regions = || self.images.iter().flat_map(|image| image.entry.regions.all());
        let names: BTreeSet<&String> =
            regions().filter_map(|region| region.region_attributes.as_object()).flat_map(|of| of.keys()).collect();
        let is_there = |name: &&str| names.iter().any(|other| other.as_str() == *name);
        let known = CLASS_ATTRIBUTES.iter().copied().find(is_there).map(str::to_owned);
        let only = || (names.len() == 1).then(|| names.iter().next().map(|name| (*name).clone())).flatten();
        let attribute = known.or_else(only);
        let values = attribute.iter().flat_map(|name| regions().filter_map(|region| region.attribute(name)));
        let classes: BTreeSet<String> = values.map(str::to_owned).collect();
        self.attribute = attribute.filter(|_| !classes.is_empty());
        self.classes = classes.into_iter().collect();
    }

    fn folder(&self, index: usize) -> &Path {
        self.files[self.images[index].file].parent().unwrap_or(Path::new(""))
    }
}

/// The files of a data set, each with its part: those of the folder, or of the folders of a split.
fn annotation_files(path: &Path) -> Result<Vec<(PathBuf, Option<&'static str>)>, DataError> {
    let part_of_file = |name: &str| files::split_name(files::stem(name));
    if path.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        return Ok(vec![(path.to_path_buf(), part_of_file(&name))]);
    }
    let mut found = Vec::new();
    let folder = Folder::list(path)?;
    let parts = folder.folders.iter().filter_map(|child| Some((path.join(child), files::split_name(child)?)));
    let parts: Vec<(PathBuf, Option<&'static str>)> =
        std::iter::once((path.to_path_buf(), None)).chain(parts.map(|(at, part)| (at, Some(part)))).collect();
    for (at, part) in parts {
        let listing = Folder::list(&at)?;
        for name in listing.with_extension("json") {
            let file = at.join(name);
            if file_format(&file)? == Some(Format::Via) {
                found.push((file, part.or_else(|| part_of_file(name))));
            }
        }
    }
    Ok(found)
}

impl FormatReader for Via {
    fn len(&self) -> usize {
        self.images.len()
    }

    /// The image's name, behind its part where there are several files.
    fn name(&self, index: usize) -> String {
        let ViaImage { file, entry, .. } = &self.images[index];
        match self.files.len() {
            1 => entry.filename.clone(),
            _ => {
                let folder = self.folder(index).file_name().unwrap_or_default().to_string_lossy().into_owned();
                let is_shared =
                    self.files.iter().filter(|other| other.parent() == self.files[*file].parent()).count() > 1;
                let stem = self.files[*file].file_stem().unwrap_or_default().to_string_lossy().into_owned();
                format!("{}/{}", if is_shared { stem } else { folder }, entry.filename)
            }
        }
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        self.images[index].split
    }

    fn image_place(&self, index: usize) -> Result<FilePlace, Finding> {
        let name = self.images[index].entry.filename.replace('\\', "/");
        let folder = self.folder(index);
        let mut tried = vec![folder.join(&name), folder.join(files::base(&name)), folder.join("images").join(&name)];
        if let Some(images) = &self.images_folder {
            tried.insert(0, images.join(&name));
        }
        if let Some(path) = tried.iter().find(|path| !name.is_empty() && path.is_file()) {
            return Ok(FilePlace::Path(path.clone()));
        }
        if let Some(path) = files::find_normalised(folder, files::base(&name)) {
            return Ok(FilePlace::Path(path));
        }
        let detail = format!("{name} is neither in {} nor in its folder images", folder.display());
        Err(Finding::new(ProblemKind::ImageMissing, self.name(index), detail))
    }

    fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        vec![self.files[self.images[index].file].clone()]
    }

    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError> {
        let mut annotated = Annotated::new(header.upright_hw());
        let name = self.name(index);
        for (at, region) in self.images[index].entry.regions.all().into_iter().enumerate() {
            let place = format!("{name}, region {}", at + 1);
            let mask = region_mask(&region.shape_attributes, annotated.frame_hw, &place, &mut annotated.findings);
            match mask {
                Ok(mask) => {
                    let class = self.attribute.as_ref().and_then(|name| region.attribute(name));
                    let class = class.and_then(|class| self.classes.iter().position(|known| known == class));
                    annotated.objects.push(ObjectMask { mask, class, id: at as u64 + 1, captions: Vec::new() });
                }
                Err((kind, detail)) => annotated.findings.push(Finding::new(kind, place, detail)),
            }
        }
        Ok(annotated)
    }
}

fn region_mask(
    shape: &ShapeJson,
    size_hw: [usize; 2],
    place: &str,
    findings: &mut Vec<Finding>,
) -> Result<Rle, (ProblemKind, String)> {
    let number = |name: &str| {
        let value = shape.numbers.get(name).and_then(Value::as_f64);
        let wrong = || format!("a {} must have a number {name}", shape.name);
        value.ok_or_else(|| (ProblemKind::AnnotationUnreadable, wrong()))
    };
    let ellipse = |cx: f64, cy: f64, rx: f64, ry: f64, turned_rad: f64| {
        Ellipse { centre_xy_px: [cx, cy], radii_xy_px: [rx, ry], turned_rad }.corners_flat_px()
    };
    let flat: Vec<f64> = match shape.name.as_str() {
        "polygon" if shape.all_points_x.len() != shape.all_points_y.len() => {
            let [across, down] = [shape.all_points_x.len(), shape.all_points_y.len()];
            let detail = format!("a polygon must have as many x as y, got {across} and {down}");
            return Err((ProblemKind::AnnotationUnreadable, detail));
        }
        "polygon" => shape.all_points_x.iter().zip(&shape.all_points_y).flat_map(|(&x, &y)| [x, y]).collect(),
        "rect" => {
            let [x, y, width, height] = [number("x")?, number("y")?, number("width")?, number("height")?];
            vec![x, y, x + width, y, x + width, y + height, x, y + height]
        }
        "circle" => {
            let radius = number("r")?;
            ellipse(number("cx")?, number("cy")?, radius, radius, 0.0)
        }
        "ellipse" => {
            let turned = number("theta").unwrap_or(0.0);
            ellipse(number("cx")?, number("cy")?, number("rx")?, number("ry")?, turned)
        }
        other => return Err((ProblemKind::NoMask, format!("a {other} has no area"))),
    };
    if flat.len() < 6 {
        let detail = format!("a polygon must have at least 3 points, got {}", flat.len() / 2);
        return Err((ProblemKind::PolygonShort, detail));
    }
    polygon_mask(size_hw, &[flat], place, findings)
}
