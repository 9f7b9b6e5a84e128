//! Data sets on disk: the keys that say where one is and how it is read, the same for every task and for the options of the
//! command line.

use std::path::PathBuf;
use std::sync::Arc;

use sam_data::{Crowd, DataError, Format, Intensity, LabelKind, MaskFilter, OnBad, Source, SourceOptions, Void};
use serde::{Deserialize, Serialize, Serializer};

use super::document::{Content, Document, Node};
use super::problems::ConfigError;
use super::ranges::{MAX_PIXELS, POSITIVE, SHARE_ABOVE_0, integer_of};
use super::reader::{Expected, Paths, Reader, Section};
use super::shape::Shape;

/// The keys of [`read_options`].
pub(crate) const OPTION_KEYS: [&str; 14] = [
    "format",
    "images",
    "part",
    "crowd",
    "labels",
    "void",
    "classes",
    "intensity",
    "channels",
    "bad",
    "filter",
    "max_pixels",
    "cloud_cache_dir",
    "cloud_cache_gib",
];

/// The parts of a split.
const PARTS: [(&str, &str); 3] = [("train", "train"), ("val", "val"), ("test", "test")];

/// A data set on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FilesPlan {
    /// Folder, COCO `.json`, YOLO `data.yaml`, SA-1B `.tar`, or an address of such shards.
    pub(crate) path: PathBuf,
    /// How it is read.
    pub(crate) options: SourceOptions,
}

impl FilesPlan {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// See [`Source::open`].
    pub(crate) fn open(&self) -> Result<Arc<Source>, DataError> {
        Source::open(&self.path, &self.options).map(Arc::new)
    }

    /// With the options beside the path, as they are typed; for `serialize_with` of a flattened field.
    pub(crate) fn serialize_as_typed<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Typed<'a> {
            path: &'a PathBuf,
            #[serde(flatten)]
            options: &'a SourceOptions,
        }
        Typed { path: &self.path, options: &self.options }.serialize(serializer)
    }
}

/// Which images of a data set are used.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct SelectionPlan {
    /// A file of `sam-train data split`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) split_file: Option<PathBuf>,
    /// At most this many images of each part, spread over it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) max_images: Option<usize>,
}

/// The options in `[data]` of a document that holds nothing else.
///
/// # Errors
///
/// With all errors of the section.
pub(crate) fn load_options(document: &Document) -> Result<SourceOptions, ConfigError> {
    let reader = Reader::new(document, Paths::MustExist);
    let options = read_options(&reader.top().section("data"), &SourceOptions::default());
    reader.finish()?;
    Ok(options)
}

/// `path`, the options, `split_file` and `max_images` in `[data]` of a task that measures.
pub(super) fn read_selection(data: &Section<'_>) -> (FilesPlan, SelectionPlan) {
    let what = "a folder, COCO .json, YOLO data.yaml or SA-1B .tar (--data PATH)";
    let path = data.required("path", what, data.local_path_if_given("path"), PathBuf::new());
    data.replaced("options", |key| format!("`{}`", data.path_of(if key == "split" { "part" } else { key })));
    let files = FilesPlan { path, options: read_options(data, &SourceOptions::default()) };
    let split_file = data.local_path_if_given("split_file");
    (files, SelectionPlan { split_file, max_images: data.integer_if_given("max_images", 1..) })
}

/// The options in `section`, with `default` for those that are missing.
pub(crate) fn read_options(section: &Section<'_>, default: &SourceOptions) -> SourceOptions {
    let crowds =
        [("auto", Crowd::Auto), ("ignore", Crowd::Ignore), ("instances", Crowd::Instances), ("drop", Crowd::Drop)];
    let labels = [
        ("auto", LabelKind::Auto),
        ("instance", LabelKind::Instance),
        ("semantic", LabelKind::Semantic),
        ("binary", LabelKind::Binary),
    ];
    let format = section.choice_if_given("format", &Format::ALL.map(|format| (format.name(), format)));
    // Relative to the data set, so it is looked for when that is opened.
    let images = section.text_if_given("images").map(PathBuf::from);
    SourceOptions {
        format: format.or(default.format),
        images: images.or_else(|| default.images.clone()),
        split: section.choice_if_given("part", &PARTS).map(str::to_owned).or_else(|| default.split.clone()),
        crowd: section.choice("crowd", default.crowd, &crowds),
        labels: section.choice("labels", default.labels, &labels),
        void: read_void(section).unwrap_or(default.void),
        classes: section.texts_if_given("classes", |_| None).unwrap_or_else(|| default.classes.clone()),
        intensity: read_intensity(section).unwrap_or(default.intensity),
        channels: section.integers_if_given("channels", 0..).or_else(|| default.channels.clone()),
        bad: section.choice("bad", default.bad, &[("refuse", OnBad::Refuse), ("drop", OnBad::Drop)]),
        filter: read_filter(&section.section("filter"), &default.filter),
        max_pixels: read_max_pixels(section, default.max_pixels),
        cloud_cache_dir: read_cloud_cache_dir(section).or_else(|| default.cloud_cache_dir.clone()),
        cloud_cache_gib: section.float("cloud_cache_gib", default.cloud_cache_gib, POSITIVE),
    }
}

/// The folder of shards from the cloud, which may change on resume; relative to the working folder, as all output is.
pub(super) fn read_cloud_cache_dir(section: &Section<'_>) -> Option<PathBuf> {
    let dir = section.text_if_given("cloud_cache_dir")?;
    Some(std::path::absolute(&dir).unwrap_or_else(|_| dir.into()))
}

/// The limit of an image's pixels, which may change on resume.
pub(super) fn read_max_pixels(section: &Section<'_>, default: u64) -> u64 {
    section.integer("max_pixels", default, MAX_PIXELS)
}

fn read_void(section: &Section<'_>) -> Option<Void> {
    let id = Shape::integer::<u32>("id", &..);
    let shapes = vec![Shape::of_words(&["auto", "none"]), id.clone(), Shape::Table(vec![("id", id)])];
    let words = "\"auto\", \"none\" or the number of an id";
    section.read("void", Expected { default: "\"auto\"", words, shapes }, |node| match (&node.content, node.text()) {
        (Content::Integer(id), _) => u32::try_from((*id)?).ok().map(Void::Id),
        // As a plan is printed.
        (Content::Table(table), _) if table.len() == 1 => integer_of(table.get("id")?, &..).map(Void::Id),
        (_, Some("auto")) => Some(Void::Auto),
        (_, Some("none")) => Some(Void::None),
        _ => None,
    })
}

fn read_intensity(section: &Section<'_>) -> Option<Intensity> {
    let words = "\"as_is\", \"percentile\", \"min_max\" or { window = { level = 40, width = 400 } }";
    let window = [("level", Shape::number("level", &..)), ("width", Shape::number("width", &POSITIVE))];
    let shapes = vec![
        Shape::of_words(&["as_is", "percentile", "min_max"]),
        Shape::Table(vec![("window", Shape::Table(window.into()))]),
    ];
    section.read("intensity", Expected { default: "\"as_is\"", words, shapes }, |node| {
        match (node.text(), node.table()) {
            (Some("as_is"), _) => Some(Intensity::AsIs),
            (Some("percentile"), _) => Some(Intensity::Percentile),
            (Some("min_max"), _) => Some(Intensity::MinMax),
            (_, Some(table)) if table.len() == 1 => {
                let window = table.get("window")?.table().filter(|window| window.len() == 2)?;
                let number = |key: &str| window.get(key).and_then(Node::number).map(|number| number as f32);
                let (level, width) = (number("level")?, number("width")?);
                (width > 0.0).then_some(Intensity::Window { level, width })
            }
            _ => None,
        }
    })
}

fn read_filter(section: &Section<'_>, default: &MaskFilter) -> MaskFilter {
    MaskFilter {
        max_image_share: section.float("max_image_share", default.max_image_share, SHARE_ABOVE_0),
        min_area_model_px: section.float("min_area_model_px", default.min_area_model_px, 0.0..),
        model_side_px: section.integer("model_side_px", default.model_side_px, 1..),
    }
}
