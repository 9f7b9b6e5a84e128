//! Labelme: one JSON file of shapes per image.
//!
//! Source: labelme's `LabelFile` and `labelme2coco.py`: shapes with the same label and `group_id` are one object, all
//! others are separate objects. Polygons, rectangles (two corners), circles (centre and a point of the edge) and masks
//! (two corners and a PNG) have an area; points and lines have none and are dropped and counted. As in labelme's
//! converters, `__ignore__` is an ignore region and `_background_` is not an object.
//!
//! A `description` that is not empty holds captions of the object, one a line.
//!
//! Differences from labelme2coco: circles and polygons are rasterised by COCO's rule, not PIL's. If the image file is
//! missing, the copy inside the JSON is used. Labelme shows images upright, so sizes refer to the upright image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use base64::Engine;
use sam_image::{DEFAULT_MAX_PIXELS, Mask, Rle};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::captions::add_caption;
use crate::formats::ellipse::Ellipse;
use crate::formats::files;
use crate::formats::names::Names;
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::raster::Raster;
use crate::formats::segmentation::polygon_mask;
use crate::formats::{Annotated, FormatReader, Listing, text};
use crate::sample::ObjectMask;
use crate::source_options::SourceOptions;

/// The label of an ignore region.
pub(crate) const IGNORE: &str = "__ignore__";
/// The label of what is no object.
pub(crate) const BACKGROUND: &str = "_background_";

/// A folder of JSON files.
#[derive(Debug)]
pub(crate) struct Labelme {
    root: PathBuf,
    jsons: Names,
    /// `imagePath` of each JSON file, relative to it.
    images: Names,
    splits: Vec<Option<&'static str>>,
    classes: Vec<String>,
    images_folder: Option<PathBuf>,
}

/// The fields needed for opening.
#[derive(Deserialize)]
struct HeadJson {
    #[serde(rename = "imagePath", default)]
    image_path: Option<String>,
    shapes: Vec<LabelJson>,
}

#[derive(Deserialize)]
struct LabelJson {
    label: String,
}

#[derive(Deserialize)]
struct FileJson {
    #[serde(rename = "imageHeight", default)]
    image_height: Option<usize>,
    #[serde(rename = "imageWidth", default)]
    image_width: Option<usize>,
    shapes: Vec<ShapeJson>,
    #[serde(rename = "imageData", default)]
    _image_data: IgnoredAny,
}

#[derive(Deserialize)]
struct ImageDataJson {
    #[serde(rename = "imageData", default)]
    image_data: Option<String>,
}

#[derive(Deserialize)]
struct ShapeJson {
    label: String,
    points: Vec<[f64; 2]>,
    #[serde(default)]
    group_id: Option<serde_json::Value>,
    #[serde(default)]
    shape_type: Option<String>,
    #[serde(default)]
    mask: Option<String>,
    #[serde(default)]
    description: serde_json::Value,
}

impl Labelme {
    pub(crate) fn open(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        let root =
            if path.is_file() { path.parent().unwrap_or(Path::new("")).to_path_buf() } else { path.to_path_buf() };
        let names = if path.is_file() {
            vec![path.file_name().unwrap_or_default().to_string_lossy().into_owned()]
        } else {
            files::list_files(&root)?
        };
        let mut all = Self {
            images_folder: options.images.as_ref().map(|images| root.join(images)),
            root,
            jsons: Names::default(),
            images: Names::default(),
            splits: Vec::new(),
            classes: Vec::new(),
        };
        let images_by_stem: BTreeMap<&str, &str> =
            names.iter().filter(|name| files::is_image(name)).map(|name| (files::stem(name), name.as_str())).collect();
        let mut classes = BTreeSet::new();
        let mut stems = BTreeSet::new();
        for name in names.iter().filter(|name| files::has_extension(name, "json")) {
            let split = name.split_once('/').and_then(|(top, _)| files::split_name(top));
            if options.split.is_some() && options.split.as_deref() != split {
                continue;
            }
            let at = all.root.join(name);
            let head: HeadJson = match read_labelme(&at)? {
                Ok(head) => head,
                Err(finding) => {
                    listing.findings.push(finding);
                    continue;
                }
            };
            stems.insert(files::stem(name).to_owned());
            classes.extend(head.shapes.into_iter().map(|shape| shape.label));
            all.jsons.push(name);
            let image = head.image_path.unwrap_or_default().replace('\\', "/");
            let image_stem = files::stem(&beside(name, &image)).to_owned();
            if image_stem != files::stem(name)
                && let Some(twin) = images_by_stem.get(files::stem(name))
                && names.binary_search(&beside(name, &image)).is_ok()
            {
                listing.findings.push(Finding::new(
                    ProblemKind::ImageNameDiffers,
                    at.display().to_string(),
                    format!("imagePath is {image}, but {twin} has the name of the JSON"),
                ));
            }
            stems.insert(image_stem);
            all.images.push(&image);
            all.splits.push(split);
        }
        for image in names.iter().filter(|name| files::is_image(name)) {
            let is_other_part = options.split.is_some()
                && image.split_once('/').and_then(|(top, _)| files::split_name(top)) != options.split.as_deref();
            if all.images_folder.is_none()
                && !is_other_part
                && !stems.contains(files::stem(image))
                && !is_in_image_folder(image, &stems)
            {
                listing.findings.push(Finding::new(
                    ProblemKind::ImageUnpaired,
                    all.root.join(image).display().to_string(),
                    "no .json with its stem",
                ));
            }
        }
        classes.remove(IGNORE);
        classes.remove(BACKGROUND);
        all.classes = classes.into_iter().collect();
        Ok(all)
    }

    fn json_path(&self, index: usize) -> PathBuf {
        self.root.join(self.jsons.get(index))
    }
}

/// Images and their JSON files may lie in separate folders and then share the file's stem.
fn is_in_image_folder(image: &str, stems: &BTreeSet<String>) -> bool {
    let file = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
    let wanted = file(files::stem(image));
    stems.iter().any(|stem| file(stem) == wanted)
}

/// A path relative to the JSON file, made relative to the data set.
fn beside(json: &str, image: &str) -> String {
    match json.rsplit_once('/') {
        Some((folder, _)) => format!("{folder}/{image}"),
        None => image.to_owned(),
    }
}

impl FormatReader for Labelme {
    fn len(&self) -> usize {
        self.jsons.len()
    }

    /// The JSON file's path with the image's extension, because several files may refer to one image.
    fn name(&self, index: usize) -> String {
        let extension = self.images.get(index).rsplit_once('.').map_or("png", |(_, extension)| extension);
        format!("{}.{extension}", files::stem(self.jsons.get(index)))
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        self.splits[index]
    }

    fn image_place(&self, index: usize) -> Result<FilePlace, Finding> {
        let json = self.json_path(index);
        let image = self.images.get(index);
        let file = image.rsplit('/').next().unwrap_or(image);
        let folder = json.parent().unwrap_or(Path::new("")).to_path_buf();
        let mut tried = vec![folder.join(image), folder.join(file), self.root.join("images").join(file)];
        if let Some(images) = &self.images_folder {
            tried.insert(0, images.join(file));
        }
        if let Some(path) = tried.iter().find(|path| !image.is_empty() && path.is_file()) {
            return Ok(FilePlace::Path(path.clone()));
        }
        if let Some(path) = files::find_normalised(&folder, file) {
            return Ok(FilePlace::Path(path));
        }
        let twin = files::find_stem(&folder, files::stem(files::base(self.jsons.get(index))));
        let hint = twin.map_or(String::new(), |twin| format!("; did you mean {}?", twin.display()));
        let missing =
            |detail: String| Finding::new(ProblemKind::ImageMissing, json.display().to_string(), detail + &hint);
        let data = text::read(&json)
            .ok()
            .and_then(|text| serde_json::from_str::<ImageDataJson>(&text).ok())
            .and_then(|json| json.image_data);
        let Some(data) = data else {
            return Err(missing(format!("imagePath {image} does not exist and imageData is null")));
        };
        let bytes = decode_base64(&data).map_err(|error| {
            missing(format!("imagePath {image} does not exist and imageData is not base64: {error}"))
        })?;
        Ok(FilePlace::Memory { name: format!("{}:imageData", json.display()), bytes })
    }

    fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        vec![self.json_path(index)]
    }

    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError> {
        let path = self.json_path(index);
        Ok(match read_labelme(&path)? {
            Ok(file) => annotated(file, &path.display().to_string(), header.upright_hw(), &self.classes),
            Err(finding) => Annotated { findings: vec![finding], ..Annotated::new(header.upright_hw()) },
        })
    }
}

/// Parses a file; one that cannot be parsed is a finding.
fn read_labelme<T: DeserializeOwned>(path: &Path) -> Result<Result<T, Finding>, DataError> {
    let unreadable =
        |detail: String| Ok(Err(Finding::new(ProblemKind::LabelUnreadable, path.display().to_string(), detail)));
    match text::read(path) {
        Ok(text) => {
            serde_json::from_str(&text).map(Ok).or_else(|error| unreadable(format!("must be a Labelme file: {error}")))
        }
        Err(error @ DataError::Io { .. }) => Err(error),
        Err(error) => unreadable(error.to_string()),
    }
}

/// The objects of one file.
fn annotated(file: FileJson, name: &str, image_hw: [usize; 2], classes: &[String]) -> Annotated {
    let frame_hw = match (file.image_height, file.image_width) {
        (Some(height), Some(width)) => [height, width],
        _ => image_hw,
    };
    let mut annotated = Annotated::new(frame_hw);
    if frame_hw != image_hw && frame_hw != [image_hw[1], image_hw[0]] {
        // The caller reports the mismatch of sizes; masks of a declared size must not be allocated before that.
        return annotated;
    }
    // Keyed by the first shape of the group, which keeps the order of the file.
    let mut objects: BTreeMap<usize, Parts> = BTreeMap::new();
    let mut group_at: BTreeMap<(String, String), usize> = BTreeMap::new();
    for (ordinal, shape) in file.shapes.into_iter().enumerate() {
        let place = format!("{name}, shape {} ({})", ordinal + 1, shape.label);
        if shape.label == BACKGROUND {
            continue;
        }
        match shape_mask(&shape, frame_hw, &place, &mut annotated.findings) {
            Ok(mask) if shape.label == IGNORE => annotated.ignore.push(mask),
            Ok(mask) => {
                let at = match shape.group_id {
                    Some(group) => *group_at.entry((shape.label.clone(), group.to_string())).or_insert(ordinal),
                    None => ordinal,
                };
                let parts = objects.entry(at).or_insert_with(|| Parts { label: shape.label, ..Parts::default() });
                parts.masks.push(mask);
                if let Err(detail) = add_description(&shape.description, &mut parts.captions) {
                    annotated.findings.push(Finding::new(ProblemKind::CaptionInvalid, place, detail));
                }
            }
            Err((kind, detail)) => annotated.findings.push(Finding::new(kind, place, detail)),
        }
    }
    for (ordinal, Parts { masks, label, captions }) in objects {
        match Rle::union(&masks) {
            Ok(mask) => annotated.objects.push(ObjectMask {
                mask,
                class: classes.iter().position(|class| *class == label),
                id: ordinal as u64 + 1,
                captions,
            }),
            Err(error) => {
                annotated.findings.push(Finding::new(ProblemKind::AnnotationUnreadable, name, error.to_string()))
            }
        }
    }
    annotated
}

/// The shapes of one object.
#[derive(Default)]
struct Parts {
    masks: Vec<Rle>,
    label: String,
    captions: Vec<String>,
}

/// Adds the lines of a shape's description.
fn add_description(description: &serde_json::Value, captions: &mut Vec<String>) -> Result<(), String> {
    match description {
        serde_json::Value::Null => Ok(()),
        serde_json::Value::String(lines) => {
            lines.lines().for_each(|line| add_caption(line, captions));
            Ok(())
        }
        other => Err(format!("description must be a text, got {other}")),
    }
}

fn shape_mask(
    shape: &ShapeJson,
    size_hw: [usize; 2],
    place: &str,
    findings: &mut Vec<Finding>,
) -> Result<Rle, (ProblemKind, String)> {
    let kind = shape.shape_type.as_deref().unwrap_or("polygon");
    let wrong_points = |n: usize| {
        (ProblemKind::AnnotationUnreadable, format!("a {kind} must have {n} points, got {}", shape.points.len()))
    };
    let flat: Vec<f64> = match (kind, shape.points.as_slice()) {
        ("polygon" | "oriented_rectangle" | "rotation", points) => points.concat(),
        ("rectangle", &[[x0, y0], [x1, y1]]) => vec![x0, y0, x1, y0, x1, y1, x0, y1],
        // X-AnyLabeling writes all corners.
        ("rectangle", points) if points.len() == 4 => points.concat(),
        ("rectangle", _) => return Err(wrong_points(2)),
        ("circle", &[[x, y], [edge_x, edge_y]]) => {
            let radius = (edge_x - x).hypot(edge_y - y);
            Ellipse { centre_xy_px: [x, y], radii_xy_px: [radius; 2], turned_rad: 0.0 }.corners_flat_px()
        }
        ("circle", _) => return Err(wrong_points(2)),
        ("mask", &[corner, _]) => return pasted_mask(shape, corner, size_hw),
        ("mask", _) => return Err(wrong_points(2)),
        _ => return Err((ProblemKind::NoMask, format!("a {kind} has no area"))),
    };
    polygon_mask(size_hw, &[flat], place, findings)
}

/// The mask of a shape that holds a PNG of its box.
fn pasted_mask(shape: &ShapeJson, [x, y]: [f64; 2], size_hw: [usize; 2]) -> Result<Rle, (ProblemKind, String)> {
    let wrong = |detail: String| (ProblemKind::AnnotationUnreadable, detail);
    let text = shape.mask.as_deref().ok_or_else(|| wrong("a mask shape must have a mask".to_owned()))?;
    let bytes = decode_base64(text).map_err(|error| wrong(format!("a mask must be base64: {error}")))?;
    // It must lie inside the image, whose size has been checked.
    let max_pixels = DEFAULT_MAX_PIXELS.max((size_hw[0] * size_hw[1]) as u64);
    let raster = Raster::read(&bytes, "the shape's mask", max_pixels).map_err(|error| wrong(error.to_string()))?;
    let [height, width] = raster.size_hw;
    let in_range = |corner: f64| (0.0..1e6).contains(&corner);
    if !in_range(x) || !in_range(y) || raster.n_channels != 1 {
        return Err(wrong(format!(
            "a mask must be one channel with a corner inside the image, got {} at {x}, {y}",
            raster.n_channels
        )));
    }
    // Labelme truncates the corner, as numpy's slice does.
    let (left, top) = (x as usize, y as usize);
    if left + width > size_hw[1] || top + height > size_hw[0] {
        return Err(wrong(format!(
            "a mask of {height} x {width} at {left}, {top} must lie in the image of {} x {}",
            size_hw[0], size_hw[1]
        )));
    }
    let mut mask = Mask::empty(size_hw);
    for row in 0..height {
        for column in 0..width {
            mask.pixels_mut()[(top + row) * size_hw[1] + left + column] = raster.sample(row * width + column) != 0.0;
        }
    }
    Ok(Rle::from_mask(&mask))
}

fn decode_base64(text: &str) -> Result<Vec<u8>, base64::DecodeError> {
    let text: String = text.split_ascii_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(text)
}
