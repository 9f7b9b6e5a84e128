//! The files of one image: its image file, copied or written upright, and its own label file; and their names.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use image::metadata::Orientation;
use sam_image::RgbImage;

use super::labels_writer::{self, Overlaps};
use super::yolo_writer::{self, Polygons};
use super::{ConvertTo, cvat_writer, label_studio_writer, labelme_writer, sa1b_writer};
use crate::error::DataError;
use crate::formats::files;
use crate::formats::intensity::{decode_image, read_encoded};
use crate::sample::ObjectMask;
use crate::source::{ImageObjects, Source};

/// An image whose image file and own label file have been written.
pub(super) struct Written {
    pub(super) index: usize,
    /// File name relative to the folder of images.
    pub(super) name: String,
    pub(super) annotations: ImageObjects,
    pub(super) is_upright_copy: bool,
    pub(super) overlaps: Overlaps,
    pub(super) polygons: Polygons,
    /// The masks as text, for formats with one file of all images: CVAT and Label Studio.
    pub(super) text: String,
}

/// Writes the files of images into a folder.
pub(super) struct ImageFiles<'a> {
    pub(super) source: &'a Source,
    pub(super) to: ConvertTo,
    /// Whether an object of an image is written.
    pub(super) keeps: &'a (dyn Fn(usize, &ObjectMask) -> bool + Sync),
    pub(super) out: &'a Path,
}

impl ImageFiles<'_> {
    pub(super) fn write(&self, index: usize, name: &str) -> Result<Written, DataError> {
        let mut annotations = self.source.objects(index)?;
        annotations.objects.retain(|object| (self.keeps)(index, object));
        let (path, name, is_upright_copy) = self.write_image(index, name)?;
        let (overlaps, polygons, text) = (Overlaps::default(), Polygons::default(), String::new());
        let mut written = Written { index, name, annotations, is_upright_copy, overlaps, polygons, text };
        self.write_labels(&path, &mut written)?;
        Ok(written)
    }

    /// Copies the image, or writes it upright. Returns its path, its name relative to the folder of images, and whether it was
    /// written upright.
    fn write_image(&self, index: usize, name: &str) -> Result<(PathBuf, String, bool), DataError> {
        let place = self.source.image_place(index)?;
        let rule = self.source.read_rule();
        let encoded = read_encoded(&place, rule)?;
        let (bytes, header) = (&encoded.bytes, &encoded.header);
        let is_upright_copy = header.orientation != Orientation::NoTransforms;
        let name = if is_upright_copy { format!("{}.png", files::stem(name)) } else { name.to_owned() };
        let path = self.out.join(self.folder_of_images(index)).join(&name);
        make_folder_of(&path)?;
        if is_upright_copy {
            let image = decode_image(bytes, &place.name(), header, rule)?;
            save_png(&image, &path)?;
        } else {
            std::fs::write(&path, bytes).map_err(|error| DataError::io(&path, error))?;
        }
        Ok((path, name, is_upright_copy))
    }

    fn folder_of_images(&self, index: usize) -> String {
        let part = self.source.given_split(index);
        match self.to {
            ConvertTo::Coco | ConvertTo::Cvat | ConvertTo::LabelStudio => {
                part.map_or_else(|| "images".to_owned(), |part| format!("images/{part}"))
            }
            // Images and JSON files are side by side.
            ConvertTo::Sa1b | ConvertTo::Labelme => part.unwrap_or("").to_owned(),
            ConvertTo::Labels => part.map_or_else(|| "images".to_owned(), |part| format!("{part}/images")),
            ConvertTo::Yolo => format!("images/{}", yolo_writer::part_of(part)),
        }
    }

    /// Writes the image's own label file, or the text of its masks.
    fn write_labels(&self, image_path: &Path, written: &mut Written) -> Result<(), DataError> {
        let Written { index, annotations, .. } = written;
        let (part, classes) = (self.source.given_split(*index), self.source.classes());
        match self.to {
            ConvertTo::Coco => {}
            ConvertTo::Sa1b => sa1b_writer::write_json(image_path, *index as u64 + 1, annotations, classes)?,
            ConvertTo::Labelme => labelme_writer::write_json(image_path, annotations, classes)?,
            ConvertTo::Cvat => written.text = cvat_writer::masks(annotations, classes),
            ConvertTo::LabelStudio => written.text = label_studio_writer::results(image_path, annotations, classes)?,
            ConvertTo::Labels => {
                let masks = part.map_or_else(|| "masks".to_owned(), |part| format!("{part}/masks"));
                let path = self.out.join(masks).join(format!("{}.png", files::stem(&written.name)));
                make_folder_of(&path)?;
                written.overlaps = labels_writer::write_labels(&path, annotations)?;
            }
            ConvertTo::Yolo => {
                let labels = self.out.join("labels").join(yolo_writer::part_of(part));
                let path = labels.join(format!("{}.txt", files::stem(&written.name)));
                make_folder_of(&path)?;
                written.polygons = yolo_writer::write_labels(&path, annotations, classes.len())?;
            }
        }
        Ok(())
    }
}

/// Image names without the part's prefix, safe to join, and with distinct stems.
pub(super) fn output_names(source: &Source, images: &[usize], to: ConvertTo) -> Result<Vec<String>, DataError> {
    let mut stems = HashSet::with_capacity(images.len());
    let mut names = Vec::with_capacity(images.len());
    for &index in images {
        let name = source.name(index);
        let split = source.given_split(index);
        // Data sets call the part `train`, `valid` or `val2017`; the output has a folder for it anyway.
        let own = match name.split_once('/') {
            Some((top, rest)) if split.is_some() && files::split_name(top) == split => rest,
            _ => &name,
        };
        let safe: PathBuf = Path::new(own).components().filter(|part| matches!(part, Component::Normal(_))).collect();
        let safe = safe.to_string_lossy().replace('\\', "/");
        let folder = if to == ConvertTo::Yolo { Some(yolo_writer::part_of(split)) } else { split };
        if !stems.insert((folder.map(str::to_owned), files::stem(&safe).to_owned())) {
            return Err(DataError::Content {
                path: source.root().to_path_buf(),
                what: "image names".to_owned(),
                expected: "with distinct stems".to_owned(),
                got: format!("{safe} twice"),
                fix: "rename one of the images".to_owned(),
            });
        }
        names.push(safe);
    }
    Ok(names)
}

fn make_folder_of(path: &Path) -> Result<(), DataError> {
    match path.parent() {
        Some(folder) => std::fs::create_dir_all(folder).map_err(|error| DataError::io(folder, error)),
        None => Ok(()),
    }
}

fn save_png(image: &RgbImage, path: &Path) -> Result<(), DataError> {
    image
        .save_with_format(path, image::ImageFormat::Png)
        .map_err(|source| DataError::Encode { path: path.to_path_buf(), source: Box::new(source) })
}
