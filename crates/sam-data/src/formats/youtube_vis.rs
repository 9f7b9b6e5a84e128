//! YouTube-VIS: a JSON of `videos` with `file_names`, whose annotations have a segmentation for each frame, or null where the object is
//! not to be seen. OVIS has the same format.
//!
//! Every frame is an image. Frames lie below `JPEGImages` (or `images`) beside the JSON or in the folder of its part, as published:
//! `train.json` or `train/instances.json` with `train/JPEGImages/VIDEO/00000.jpg`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::files::{self, Folder};
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::recognise::file_format;
use crate::formats::segmentation::{SegmentationKind, segmentation_mask};
use crate::formats::{Annotated, FormatReader, Listing, text};
use crate::sample::ObjectMask;
use crate::source_options::{Crowd, Format, SourceOptions};

/// Folders of frames.
const FRAME_FOLDERS: [&str; 3] = ["JPEGImages", "images", ""];

/// The frames of one or several files.
#[derive(Debug)]
pub(crate) struct YoutubeVis {
    files: Vec<VideoFile>,
    frames: Vec<Frame>,
    classes: Vec<String>,
    images_folder: Option<PathBuf>,
    crowd: Crowd,
}

#[derive(Debug)]
struct VideoFile {
    path: PathBuf,
    split: Option<&'static str>,
    videos: Vec<Video>,
}

/// A frame by file, video and number.
#[derive(Clone, Copy, Debug)]
struct Frame {
    file: usize,
    video: usize,
    number: usize,
}

#[derive(Debug)]
struct Video {
    json: VideoJson,
    tracks: Vec<Track>,
}

/// An object in all frames of its video.
#[derive(Debug)]
struct Track {
    id: u64,
    class: Option<usize>,
    is_crowd: bool,
    segmentations: Vec<Box<RawValue>>,
}

#[derive(Debug, Deserialize)]
struct VideoJson {
    id: u64,
    height: usize,
    width: usize,
    file_names: Vec<String>,
}

#[derive(Deserialize)]
struct FileJson {
    videos: Vec<VideoJson>,
    /// Absent or null in files of a test part.
    #[serde(default)]
    annotations: Option<Vec<AnnotationJson>>,
    #[serde(default)]
    categories: Vec<CategoryJson>,
}

#[derive(Deserialize)]
struct AnnotationJson {
    id: u64,
    video_id: u64,
    #[serde(default)]
    category_id: Option<u64>,
    segmentations: Vec<Box<RawValue>>,
    #[serde(default)]
    iscrowd: u8,
}

#[derive(Deserialize)]
struct CategoryJson {
    id: u64,
    #[serde(default)]
    name: String,
}

impl YoutubeVis {
    pub(crate) fn open(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        let root = if path.is_file() { path.parent().unwrap_or(Path::new("")) } else { path };
        let mut all = Self {
            files: Vec::new(),
            frames: Vec::new(),
            classes: Vec::new(),
            images_folder: options.images.as_ref().map(|images| root.join(images)),
            crowd: options.crowd,
        };
        for (file, split) in annotation_files(path)? {
            if options.split.is_some() && options.split.as_deref() != split {
                continue;
            }
            let text = text::read_within(&file, sam_files::MAX_FILE_BYTES)?;
            let json: FileJson = serde_json::from_str(&text).map_err(|source| DataError::Json {
                path: file.clone(),
                what: "YouTube-VIS",
                source,
            })?;
            drop(text);
            if json.annotations.is_none() {
                listing.notes.push(format!("{} has no annotations and is not read", file.display()));
                continue;
            }
            all.add(file, split, json, listing);
        }
        Ok(all)
    }

    fn add(&mut self, path: PathBuf, split: Option<&'static str>, json: FileJson, listing: &mut Listing) {
        let shown = path.display().to_string();
        let mut class_of = std::collections::BTreeMap::new();
        for CategoryJson { id, name } in json.categories {
            let name = if name.is_empty() { format!("id {id}") } else { name };
            let class = self.classes.iter().position(|known| *known == name).unwrap_or_else(|| {
                self.classes.push(name);
                self.classes.len() - 1
            });
            class_of.insert(id, class);
        }
        let mut videos: Vec<Video> = json.videos.into_iter().map(|json| Video { json, tracks: Vec::new() }).collect();
        let place_of: std::collections::BTreeMap<u64, usize> =
            videos.iter().enumerate().map(|(at, video)| (video.json.id, at)).collect();
        for annotation in json.annotations.into_iter().flatten() {
            let AnnotationJson { id, video_id, category_id, segmentations, iscrowd } = annotation;
            let place = format!("{shown}, annotation {id}");
            let Some(&at) = place_of.get(&video_id) else {
                let detail = format!("its video {video_id} is not listed");
                listing.findings.push(Finding::new(ProblemKind::AnnotationOrphan, place, detail));
                continue;
            };
            let n_frames = videos[at].json.file_names.len();
            if segmentations.len() != n_frames {
                let detail = format!("its video has {n_frames} frames, got {} segmentations", segmentations.len());
                listing.findings.push(Finding::new(ProblemKind::AnnotationUnreadable, place, detail));
                continue;
            }
            let class = category_id.and_then(|category| class_of.get(&category).copied());
            if let (Some(category), None) = (category_id, class) {
                let detail = format!("category {category} is not listed");
                listing.findings.push(Finding::new(ProblemKind::CategoryUnknown, place, detail));
            }
            videos[at].tracks.push(Track { id, class, is_crowd: iscrowd != 0, segmentations });
        }
        let file = self.files.len();
        for (video, Video { json, .. }) in videos.iter().enumerate() {
            self.frames.extend((0..json.file_names.len()).map(|number| Frame { file, video, number }));
        }
        self.files.push(VideoFile { path, split, videos });
    }

    fn video(&self, frame: Frame) -> &Video {
        &self.files[frame.file].videos[frame.video]
    }

    fn file_name(&self, index: usize) -> &str {
        let frame = self.frames[index];
        &self.video(frame).json.file_names[frame.number]
    }
}

/// The files of a data set, each with its part: those of the folder, of `annotations`, and of the folders of a split.
fn annotation_files(path: &Path) -> Result<Vec<(PathBuf, Option<&'static str>)>, DataError> {
    let part_of_file = |name: &str| files::split_name(files::stem(name));
    if path.is_file() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned();
        return Ok(vec![(path.to_path_buf(), part_of_file(&name).or_else(|| files::split_name(&folder)))]);
    }
    let mut found = Vec::new();
    for at in annotation_folders(path)? {
        let part = at.strip_prefix(path).ok().and_then(|below| files::split_name(&below.to_string_lossy()));
        for name in Folder::list(&at)?.with_extension("json") {
            let file = at.join(name);
            if file_format(&file)? == Some(Format::YoutubeVis) {
                found.push((file, part_of_file(name).or(part)));
            }
        }
    }
    Ok(found)
}

/// Where annotation files are looked for.
pub(crate) fn annotation_folders(root: &Path) -> Result<Vec<PathBuf>, DataError> {
    let is_one = |name: &&String| name.as_str() == "annotations" || files::split_name(name).is_some();
    let folders = Folder::list(root)?.folders;
    Ok(std::iter::once(root.to_path_buf()).chain(folders.iter().filter(is_one).map(|name| root.join(name))).collect())
}

impl FormatReader for YoutubeVis {
    fn len(&self) -> usize {
        self.frames.len()
    }

    /// The frame's path, behind its part where there are several files.
    fn name(&self, index: usize) -> String {
        let VideoFile { path, split, .. } = &self.files[self.frames[index].file];
        let stem = || path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match self.files.len() {
            1 => self.file_name(index).to_owned(),
            _ => format!("{}/{}", split.map_or_else(stem, str::to_owned), self.file_name(index)),
        }
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        self.files[self.frames[index].file].split
    }

    fn image_place(&self, index: usize) -> Result<FilePlace, Finding> {
        let VideoFile { path, split, .. } = &self.files[self.frames[index].file];
        let name = self.file_name(index);
        let beside = path.parent().unwrap_or(Path::new(""));
        let homes = [Some(beside), beside.parent()];
        let homes = homes.into_iter().flatten();
        let stem = path.file_stem().unwrap_or_default();
        let homes = homes.flat_map(|home| {
            let part = split.map_or_else(|| home.to_path_buf(), |split| home.join(split));
            [part, home.to_path_buf(), home.join(stem)]
        });
        let tried: Vec<PathBuf> = self
            .images_folder
            .iter()
            .map(|images| images.join(name))
            .chain(homes.flat_map(|home| FRAME_FOLDERS.map(|folder| home.join(folder).join(name))))
            .collect();
        match tried.iter().find(|path| path.is_file()) {
            Some(path) => Ok(FilePlace::Path(path.clone())),
            None => {
                let detail = format!("{name} is not below {} in JPEGImages or images", beside.display());
                Err(Finding::new(ProblemKind::ImageMissing, self.name(index), detail))
            }
        }
    }

    fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        vec![self.files[self.frames[index].file].path.clone()]
    }

    fn read(&self, index: usize, _header: &ImageHeader) -> Result<Annotated, DataError> {
        let frame = self.frames[index];
        let video = self.video(frame);
        let size_hw = [video.json.height, video.json.width];
        let mut annotated = Annotated::new(size_hw);
        for track in &video.tracks {
            let text = track.segmentations[frame.number].get().trim_start();
            let kind = match text.as_bytes().first() {
                Some(b'[') => SegmentationKind::Polygons,
                Some(b'{') => SegmentationKind::Rle,
                _ => continue,
            };
            let place = format!("{}, annotation {}", self.name(index), track.id);
            let Some(mask) = segmentation_mask(size_hw, kind, text.as_bytes(), &place, &mut annotated.findings) else {
                continue;
            };
            match (track.is_crowd, self.crowd) {
                (true, Crowd::Drop) => {
                    let detail = "a crowd region, dropped on request";
                    annotated.findings.push(Finding::new(ProblemKind::CrowdLeftOut, place, detail));
                }
                (true, Crowd::Auto | Crowd::Ignore) => annotated.ignore.push(mask),
                _ => {
                    annotated.objects.push(ObjectMask { mask, class: track.class, id: track.id, captions: Vec::new() })
                }
            }
        }
        Ok(annotated)
    }
}
