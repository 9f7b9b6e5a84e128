//! Which format a folder or file has: names first, then the first keys of a JSON file.
//!
//! No format is guessed from a sign that two formats share: if two formats fit, the error names both.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use crate::cloud::is_cloud;
use crate::error::DataError;
use crate::formats::ade20k::is_segments;
use crate::formats::cityscapes;
use crate::formats::files::{
    Folder, LABEL_FOLDERS, MAX_DEPTH, any_file, folder_pairs, has_extension, list_files, numbered_stem, split_name,
    unsuffixed_stem,
};
use crate::formats::json_cursor::JsonCursor;
use crate::formats::object_masks::is_object_masks;
use crate::formats::text;
use crate::formats::yolo_seg::data_yaml;
use crate::formats::youtube_vis;
use crate::source_options::Format;

/// Number of subfolders inspected; SA-1B has a thousand.
const MAX_FOLDERS_INSPECTED: usize = 16;

/// The files each format is recognised by, for the error message.
const RECOGNISED_BY: &str = "COCO (a .json with \"images\" and \"annotations\"; _annotations.coco.json in train, valid, test), \
     SA-1B (.tar shards, or a .json with \"image\" and \"annotations\" beside each .jpg), YOLO (data.yaml, or images and labels folders with .txt), \
     Labelme (a .json with \"shapes\" for each image), label images (folders such as images and masks, or JPEGImages and SegmentationObject, \
     with .png or .tif of the same stem; or x_mask.png beside x.png), object masks (ID/images/ID.png and ID/masks/*.png, or \
     images/NAME.png and masks/NAME/*.png), Cityscapes (gtFine with *_instanceIds.png), VIA (a .json of images with \"regions\"), \
     YouTube-VIS (a .json with \"videos\" and \"annotations\"), ADE20K (ADE_*_seg.png beside ADE_*.jpg), CVAT for images (an .xml of <annotations>)";

/// Recognises the format; more than one candidate is an error.
pub(crate) fn recognise(path: &Path) -> Result<Format, DataError> {
    // Whatever else there may be in a bucket, shards are what is read of it.
    if is_cloud(path) {
        return Ok(Format::Sa1b);
    }
    let found = candidates(path)?;
    let mut formats: BTreeMap<&'static str, (Format, String)> = BTreeMap::new();
    for (format, sign) in found {
        formats.entry(format.name()).or_insert((format, sign));
    }
    match formats.len() {
        1 => Ok(formats.into_values().next().map_or(Format::Coco, |(format, _)| format)),
        0 => Err(DataError::UnknownFormat {
            path: path.to_path_buf(),
            recognised_by: RECOGNISED_BY.to_owned(),
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
        // A few files suffice: per-image files in a folder have one format, and a COCO file stands out by its keys.
        for name in folder.with_extension("json").take(4).chain([json]) {
            if let Some(format) = file_format(&path.join(name))? {
                found.push((format, name.to_owned()));
            }
        }
    }
    for name in folder.with_extension("xml").take(4) {
        found.extend(file_format(&path.join(name))?.map(|format| (format, name.to_owned())));
    }
    if let Some(tar) = folder.with_extension("tar").next() {
        found.push((Format::Sa1b, tar.to_owned()));
    }
    // The first folders suffice; SA-1B has a thousand.
    for child in folder.folders.iter().take(MAX_FOLDERS_INSPECTED) {
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
    let of_folders = of_folders(path)?;
    let has_object_masks = of_folders.iter().any(|(format, _)| *format == Format::ObjectMasks);
    found.extend(of_folders);
    for pair in folder_pairs(path)? {
        let sign = format!("{} and {}", shown(path, &pair.images), shown(path, &pair.labels));
        if pair.has("txt")? {
            found.push((Format::YoloSeg, sign));
        } else if pair.has("json")? {
            if let Some(json) = list_files(&pair.labels)?.iter().find(|name| has_extension(name, "json")) {
                found.extend(file_format(&pair.labels.join(json))?.map(|format| (format, sign)));
            }
        } else if pair.has_label_images()? && !has_object_masks {
            found.push((Format::LabelImages, sign));
        }
    }
    // Listing all files is slow, and these have names of their own.
    if found.is_empty() && any_file(path, MAX_DEPTH, &is_segments)? {
        found.push((Format::Ade20k, "ADE_*_seg.png".to_owned()));
    }
    if found.is_empty()
        && folder.files.iter().any(|name| {
            let stems = [unsuffixed_stem(name), numbered_stem(name)];
            stems.into_iter().flatten().any(|stem| folder.has_stem(stem))
        })
    {
        found.push((Format::LabelImages, "labels beside images".to_owned()));
    }
    Ok(found)
}

/// Formats that folders tell: one mask per object, Cityscapes, and JSON files of YouTube-VIS and VIA in folders of a split.
fn of_folders(path: &Path) -> Result<Vec<(Format, String)>, DataError> {
    let mut found = Vec::new();
    if let Some(truth) = cityscapes::truth_folder(path)? {
        found.push((Format::Cityscapes, shown(path, &truth)));
    }
    let parts = Folder::list(path)?.folders.into_iter().filter(|name| split_name(name).is_some());
    for at in std::iter::once(path.to_path_buf()).chain(parts.map(|name| path.join(name))) {
        if is_object_masks(&at, MAX_FOLDERS_INSPECTED)? {
            found.push((Format::ObjectMasks, format!("folders of masks in {}", at.display())));
        }
    }
    for at in youtube_vis::annotation_folders(path)?.iter().skip(1) {
        for name in Folder::list(at)?.with_extension("json").take(4) {
            let format = file_format(&at.join(name))?;
            if let Some(format @ (Format::YoutubeVis | Format::Via)) = format {
                found.push((format, shown(path, &at.join(name))));
            }
        }
    }
    Ok(found)
}

/// Roboflow's file name for the annotations of one part.
pub(crate) const ROBOFLOW_JSON: &str = "_annotations.coco.json";

/// The format of a file, from its content.
pub(crate) fn file_format(path: &Path) -> Result<Option<Format>, DataError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    if has_extension(&name, "tar") {
        return Ok(Some(Format::Sa1b));
    }
    if has_extension(&name, "yaml") || has_extension(&name, "yml") {
        return Ok(Some(Format::YoloSeg));
    }
    if has_extension(&name, "xml") {
        return Ok(is_cvat(path)?.then_some(Format::Cvat));
    }
    if !has_extension(&name, "json") {
        return Ok(None);
    }
    // The reader of its format reports a damaged file.
    Ok(json_format(path).unwrap_or(None))
}

/// Whether the root of an XML file is CVAT's; that of VOC's boxes is `<annotation>`.
fn is_cvat(path: &Path) -> Result<bool, DataError> {
    /// Enough for the declaration and comments.
    const HEAD_BYTES: u64 = 4096;
    let io = |error| DataError::io(path, error);
    let mut head = Vec::new();
    sam_files::open_regular(path).map_err(io)?.take(HEAD_BYTES).read_to_end(&mut head).map_err(io)?;
    let head = text::decode_utf16(&head).unwrap_or_else(|| String::from_utf8_lossy(&head).into_owned());
    let mut elements =
        head.split('<').skip(1).filter(|element| element.starts_with(|first: char| first.is_alphabetic()));
    let is_root =
        |element: &str| element.split(|end: char| end.is_whitespace() || end == '>').next() == Some("annotations");
    Ok(elements.next().is_some_and(is_root))
}

fn json_format(path: &Path) -> Result<Option<Format>, DataError> {
    match text::read_utf16(path)? {
        Some(text) => format_of(JsonCursor::new(text.as_bytes(), path)?),
        None => {
            let file = sam_files::open_regular(path).map_err(|error| DataError::io(path, error))?;
            format_of(JsonCursor::new(file, path)?)
        }
    }
}

fn format_of(mut cursor: JsonCursor<impl Read>) -> Result<Option<Format>, DataError> {
    let mut key = Vec::new();
    if cursor.peek()? == Some(b'[') {
        // SA-1B's scripts write a bare list; entries of COCO results lists have image_id.
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
    let mut is_first = true;
    while cursor.next_key(&mut key)? {
        let first = cursor.peek()?;
        let is_first_key = std::mem::take(&mut is_first);
        match (key.as_slice(), first) {
            (b"images", Some(b'[')) => return Ok(Some(Format::Coco)),
            (b"videos", Some(b'[')) => return Ok(Some(Format::YoutubeVis)),
            (b"_via_img_metadata", Some(b'{')) => return Ok(Some(Format::Via)),
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
            // An export of VIA has nothing but images; the first one tells.
            (_, Some(b'{')) if is_first_key => {
                if is_via_entry(&mut cursor)? {
                    return Ok(Some(Format::Via));
                }
            }
            _ => {
                cursor.skip()?;
            }
        }
    }
    Ok(None)
}

/// Reads over an object; returns whether it is an image of VIA.
fn is_via_entry(cursor: &mut JsonCursor<impl Read>) -> Result<bool, DataError> {
    let mut key = Vec::new();
    let (mut has_name, mut has_regions) = (false, false);
    cursor.enter(b'{')?;
    while cursor.next_key(&mut key)? {
        has_name |= key == b"filename";
        has_regions |= key == b"regions";
        cursor.skip()?;
    }
    Ok(has_name && has_regions)
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// Lists a few of the files found.
fn describe(path: &Path) -> Result<String, DataError> {
    if !path.exists() {
        return Ok("no such file or folder".to_owned());
    }
    if path.is_file() {
        return Ok("a file of an unknown format".to_owned());
    }
    let folder = Folder::list(path)?;
    let mut names: Vec<String> = folder.folders.iter().take(6).map(|name| format!("{name}/")).collect();
    names.extend(folder.files.iter().take(6).cloned());
    Ok(match names.len() {
        0 => "an empty folder".to_owned(),
        _ => format!("{} folders and {} files ({})", folder.folders.len(), folder.files.len(), names.join(", ")),
    })
}
