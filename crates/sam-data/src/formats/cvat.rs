//! CVAT for images 1.1: one XML file, `annotations.xml`, and images in `images`, by subset if there are several.
//!
//! Source: CVAT's `cvat.py` of its dataset manager. Masks, polygons and ellipses have an area; boxes, lines, points and
//! skeletons have none and are dropped and counted. Shapes with the same label and the same group are one object, as in
//! CVAT's own COCO export. A mask is row-major run lengths inside its box, unset first.
//!
//! Videos (`<track>`) are another format, whose shapes are interpolated between key frames.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesStart, Event};
use sam_image::{Mask, Rle};

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

/// Images of one or several files.
#[derive(Debug)]
pub(crate) struct Cvat {
    files: Vec<XmlFile>,
    images: Vec<CvatImage>,
    classes: Vec<String>,
    images_folder: Option<PathBuf>,
}

#[derive(Debug)]
struct XmlFile {
    path: PathBuf,
    text: String,
}

#[derive(Debug)]
struct CvatImage {
    /// Index of its file.
    file: usize,
    name: String,
    subset: Option<String>,
    size_hw: [usize; 2],
    /// Its shapes in the text of the file.
    shapes: Range<usize>,
}

/// The attributes of an element.
type Attributes = HashMap<String, String>;
type Wrong = (ProblemKind, String);

impl Cvat {
    pub(crate) fn open(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        let root = if path.is_file() { path.parent().unwrap_or(Path::new("")) } else { path };
        let images_folder = options.images.as_ref().map(|images| root.join(images));
        let mut all = Self { files: Vec::new(), images: Vec::new(), classes: Vec::new(), images_folder };
        for file in annotation_files(path)? {
            let text = text::read(&file)?;
            all.files.push(XmlFile { path: file, text });
            all.index_last_file(options)?;
        }
        let Self { files, images, .. } = &mut all;
        let mut first_at = HashMap::new();
        images.retain(|image| {
            let first =
                *first_at.entry((image.subset.clone(), image.name.clone())).or_insert((image.file, image.shapes.start));
            let is_first = first == (image.file, image.shapes.start);
            if !is_first {
                let detail = format!("{} lists it again", files[image.file].path.display());
                listing.findings.push(Finding::new(ProblemKind::ImageListedTwice, image.name.clone(), detail));
            }
            is_first
        });
        Ok(all)
    }

    /// Finds the images and labels of the file that was added last.
    fn index_last_file(&mut self, options: &SourceOptions) -> Result<(), DataError> {
        let number = self.files.len() - 1;
        let XmlFile { path, text } = &self.files[number];
        let wrong = |got: String| invalid(path, got);
        let mut reader = Reader::from_str(text);
        let mut is_in_label = false;
        loop {
            let event = reader.read_event().map_err(|error| wrong(error.to_string()))?;
            let end = reader.buffer_position() as usize;
            let (tag, is_empty) = match &event {
                Event::Start(tag) => (tag, false),
                Event::Empty(tag) => (tag, true),
                Event::Eof => return Ok(()),
                _ => continue,
            };
            match tag.name().as_ref() {
                "label" => is_in_label = true,
                // Attributes of a label have names, too.
                "attributes" => is_in_label = false,
                "name" if is_in_label && !is_empty => {
                    let name = reader.read_text(tag.name()).map_err(|error| wrong(error.to_string()))?;
                    let name = unescape(&name).map_err(|error| wrong(error.to_string()))?.trim().to_owned();
                    is_in_label = false;
                    if !name.is_empty() && !self.classes.contains(&name) {
                        self.classes.push(name);
                    }
                }
                "track" => return Err(wrong("tracks of a video; export it as CVAT for images or as COCO".to_owned())),
                "image" => {
                    let attributes = attributes_of(tag).map_err(wrong)?;
                    let shapes = match is_empty {
                        true => end..end,
                        false => {
                            let span = reader.read_to_end(tag.name()).map_err(|error| wrong(error.to_string()))?;
                            span.start as usize..span.end as usize
                        }
                    };
                    let image = CvatImage::new(number, &attributes, shapes).map_err(wrong)?;
                    let part = image.part();
                    if options.split.is_none() || options.split.as_deref() == part {
                        self.images.push(image);
                    }
                }
                _ => {}
            }
        }
    }

    fn folder(&self, index: usize) -> &Path {
        self.files[self.images[index].file].path.parent().unwrap_or(Path::new(""))
    }
}

impl CvatImage {
    fn new(file: usize, attributes: &Attributes, shapes: Range<usize>) -> Result<Self, String> {
        let name = attributes.get("name").filter(|name| !name.is_empty()).ok_or("an image without a name")?;
        let side = |side: &str| match attributes.get(side).map(|text| text.parse::<usize>()) {
            Some(Ok(length)) => Ok(length),
            _ => Err(format!("the image {name} without a {side} in pixels")),
        };
        let size_hw = [side("height")?, side("width")?];
        let subset = attributes.get("subset").filter(|subset| !subset.is_empty()).cloned();
        Ok(Self { file, name: name.replace('\\', "/"), subset, size_hw, shapes })
    }

    fn part(&self) -> Option<&'static str> {
        self.subset.as_deref().and_then(files::split_name)
    }
}

/// The files of a data set.
fn annotation_files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut found = Vec::new();
    for name in Folder::list(path)?.with_extension("xml") {
        if file_format(&path.join(name))? == Some(Format::Cvat) {
            found.push(path.join(name));
        }
    }
    Ok(found)
}

fn invalid(path: &Path, got: String) -> DataError {
    DataError::Content {
        path: path.to_path_buf(),
        what: "the file".to_owned(),
        expected: "XML as CVAT for images 1.1 has it".to_owned(),
        got,
        fix: "export it again".to_owned(),
    }
}

fn attributes_of(tag: &BytesStart<'_>) -> Result<Attributes, String> {
    let mut all = Attributes::new();
    for attribute in tag.attributes() {
        let attribute = attribute.map_err(|error| error.to_string())?;
        let value = unescape(&attribute.value).map_err(|error| error.to_string())?.into_owned();
        all.insert(attribute.key.as_ref().to_owned(), value);
    }
    Ok(all)
}

impl FormatReader for Cvat {
    fn len(&self) -> usize {
        self.images.len()
    }

    /// The image's name, behind its subset if it has one, and its file if there are several.
    fn name(&self, index: usize) -> String {
        let CvatImage { file, name, subset, .. } = &self.images[index];
        let stem = self.files[*file].path.file_stem().unwrap_or_default().to_string_lossy();
        let file = if self.files.len() > 1 { format!("{stem}/") } else { String::new() };
        let subset = subset.as_ref().map_or(String::new(), |subset| format!("{subset}/"));
        format!("{file}{subset}{name}")
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        self.images[index].part()
    }

    fn image_place(&self, index: usize) -> Result<FilePlace, Finding> {
        let CvatImage { name, subset, .. } = &self.images[index];
        let folder = self.folder(index);
        let mut folders: Vec<PathBuf> = self.images_folder.iter().cloned().collect();
        folders.extend([folder.join("images"), folder.to_path_buf()]);
        for at in &folders {
            let of_subset = subset.as_ref().map(|subset| at.join(subset).join(name));
            let tried = of_subset.into_iter().chain([at.join(name), at.join(files::base(name))]);
            if let Some(path) = tried.into_iter().find(|path| path.is_file()) {
                return Ok(FilePlace::Path(path));
            }
            if let Some(path) = files::find_normalised(at, files::base(name)) {
                return Ok(FilePlace::Path(path));
            }
        }
        let detail = format!("{name} is neither in {} nor in its folder images", folder.display());
        Err(Finding::new(ProblemKind::ImageMissing, self.name(index), detail))
    }

    fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        vec![self.files[self.images[index].file].path.clone()]
    }

    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError> {
        let CvatImage { file, size_hw, shapes, .. } = &self.images[index];
        let mut annotated = Annotated::new(*size_hw);
        if *size_hw != header.upright_hw() && *size_hw != header.stored_hw {
            // The caller reports the mismatch of sizes; masks of a declared size must not be allocated before that.
            return Ok(annotated);
        }
        let name = self.name(index);
        if let Err(detail) = read_shapes(&self.files[*file].text[shapes.clone()], &name, &self.classes, &mut annotated)
        {
            annotated.findings.push(Finding::new(ProblemKind::LabelUnreadable, name, detail));
        }
        Ok(annotated)
    }
}

/// The objects of one image. An error is of the XML itself.
fn read_shapes(text: &str, name: &str, classes: &[String], annotated: &mut Annotated) -> Result<(), String> {
    let mut reader = Reader::from_str(text);
    // By the first shape of the group, which keeps the order of the file.
    let mut objects: BTreeMap<usize, (Vec<Rle>, String)> = BTreeMap::new();
    let mut group_at: HashMap<(String, String), usize> = HashMap::new();
    let mut ordinal = 0;
    loop {
        let event = reader.read_event().map_err(|error| error.to_string())?;
        let tag = match &event {
            Event::Start(tag) => {
                // What is inside: attributes, and the points of a skeleton.
                reader.read_to_end(tag.name()).map_err(|error| error.to_string())?;
                tag
            }
            Event::Empty(tag) => tag,
            Event::Eof => break,
            _ => continue,
        };
        let kind = tag.name().as_ref().to_owned();
        if kind == "tag" {
            continue;
        }
        ordinal += 1;
        let mut attributes = attributes_of(tag)?;
        let label = attributes.remove("label").unwrap_or_default();
        let place = format!("{name}, shape {ordinal} ({label})");
        match shape_mask(&kind, &attributes, annotated.frame_hw, &place, &mut annotated.findings) {
            Ok(mask) => {
                let group = attributes.remove("group_id").filter(|group| !group.is_empty() && group != "0");
                let at = group.map_or(ordinal, |group| *group_at.entry((label.clone(), group)).or_insert(ordinal));
                objects.entry(at).or_insert_with(|| (Vec::new(), label)).0.push(mask);
            }
            Err((kind, detail)) => annotated.findings.push(Finding::new(kind, place, detail)),
        }
    }
    for (ordinal, (parts, label)) in objects {
        let mask = Rle::union(&parts).map_err(|error| error.to_string())?;
        let class = classes.iter().position(|class| *class == label.trim());
        if class.is_none() {
            let detail = format!("its label {label:?} is not among the labels of the file");
            annotated.findings.push(Finding::new(ProblemKind::CategoryUnknown, name, detail));
            continue;
        }
        annotated.objects.push(ObjectMask { mask, class, id: ordinal as u64, captions: Vec::new() });
    }
    Ok(())
}

fn shape_mask(
    kind: &str,
    attributes: &Attributes,
    size_hw: [usize; 2],
    place: &str,
    findings: &mut Vec<Finding>,
) -> Result<Rle, Wrong> {
    let unreadable = |detail: String| (ProblemKind::AnnotationUnreadable, detail);
    let number = |name: &str| match attributes.get(name).map(|text| text.trim().parse::<f64>()) {
        Some(Ok(number)) => Ok(number),
        _ => Err(unreadable(format!("a {kind} must have a number {name}"))),
    };
    let flat: Vec<f64> = match kind {
        "mask" => return boxed_mask(attributes, size_hw),
        "polygon" => {
            let points = attributes.get("points").map_or("", String::as_str);
            let numbers: Result<Vec<f64>, _> = points.split([';', ',']).map(|number| number.trim().parse()).collect();
            numbers.map_err(|_| unreadable(format!("points must be x,y;x,y;.., got {points:?}")))?
        }
        "ellipse" => Ellipse {
            centre_xy_px: [number("cx")?, number("cy")?],
            radii_xy_px: [number("rx")?, number("ry")?],
            turned_rad: number("rotation").unwrap_or(0.0).to_radians(),
        }
        .corners_flat_px(),
        other => return Err((ProblemKind::NoMask, format!("a {other} is no outline"))),
    };
    if flat.len() < 6 {
        let detail = format!("a polygon must have at least 3 points, got {}", flat.len() / 2);
        return Err((ProblemKind::PolygonShort, detail));
    }
    polygon_mask(size_hw, &[flat], place, findings)
}

/// A mask by its box and the row-major runs in it.
fn boxed_mask(attributes: &Attributes, size_hw: [usize; 2]) -> Result<Rle, Wrong> {
    let wrong = |detail: String| (ProblemKind::RleInvalid, detail);
    let number = |name: &str| match attributes.get(name).map(|text| text.trim().parse::<usize>()) {
        Some(Ok(number)) => Ok(number),
        _ => Err(wrong(format!("a mask must have a whole number {name}"))),
    };
    let [left, top, width, height] = [number("left")?, number("top")?, number("width")?, number("height")?];
    let ends_within =
        |start: usize, length: usize, side: usize| start.checked_add(length).is_some_and(|end| end <= side);
    if !ends_within(left, width, size_hw[1]) || !ends_within(top, height, size_hw[0]) {
        return Err(wrong(format!(
            "a mask of {height} x {width} at {left}, {top} must lie in the image of {} x {} (height x width)",
            size_hw[0], size_hw[1]
        )));
    }
    let runs = attributes.get("rle").map_or("", String::as_str);
    let mut mask = Mask::empty(size_hw);
    let (mut at, mut is_set) = (0, false);
    for run in runs.split(',') {
        let run: usize = run.trim().parse().map_err(|_| wrong(format!("runs must be whole numbers, got {run:?}")))?;
        if run > width * height - at {
            return Err(wrong(format!("runs must fill {height} x {width} pixels, got more")));
        }
        if is_set {
            for pixel in at..at + run {
                mask.pixels_mut()[(top + pixel / width) * size_hw[1] + left + pixel % width] = true;
            }
        }
        at += run;
        is_set = !is_set;
    }
    if at < width * height {
        return Err(wrong(format!("runs must fill {height} x {width} pixels, got {at}")));
    }
    Ok(Rle::from_mask(&mask))
}
