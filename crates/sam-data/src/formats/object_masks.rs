//! One image file per object, in a folder for each image: BBBC038 (`ID/images/ID.png` with `ID/masks/*.png`), or `images/NAME.png`
//! with `masks/NAME/*.png`. Either may lie in folders of a split.
//!
//! Every mask file is one object, whatever its components: the pixels that are not 0, or in a smoothed mask those of at least half
//! of its brightest value. Objects are numbered by the order of the file names.

use std::path::{Path, PathBuf};

use sam_image::{Mask, Rle};

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::files::{self, Folder};
use crate::formats::label_images::label_cost;
use crate::formats::label_map::LabelMap;
use crate::formats::memory::MemoryBudget;
use crate::formats::names::Names;
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::{Annotated, FormatReader, Listing};
use crate::sample::ObjectMask;
use crate::source_options::SourceOptions;

const IMAGES: &str = "images";
const MASKS: &str = "masks";

/// Folders of masks.
#[derive(Debug)]
pub(crate) struct ObjectMasks {
    root: PathBuf,
    /// Relative to the root.
    images: Names,
    masks: Names,
    splits: Vec<Option<&'static str>>,
    max_pixels: u64,
    memory: MemoryBudget,
}

/// An image and the folder of its masks, relative to the root.
struct ImageMasks {
    image: String,
    masks: String,
}

impl ObjectMasks {
    pub(crate) fn open(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        let mut all = Self {
            root: path.to_path_buf(),
            images: Names::default(),
            masks: Names::default(),
            splits: Vec::new(),
            max_pixels: options.max_pixels,
            memory: MemoryBudget::new(options.max_pixels),
        };
        let parts = Folder::list(path)?.folders;
        let parts = parts.iter().filter_map(|folder| Some((folder.as_str(), files::split_name(folder)?)));
        for (folder, split) in [("", None)].into_iter().chain(parts.map(|(folder, split)| (folder, Some(split)))) {
            if options.split.is_some() && options.split.as_deref() != split {
                continue;
            }
            for ImageMasks { image, masks } in list(path, folder, &mut listing.findings)? {
                all.images.push(&image);
                all.masks.push(&masks);
                all.splits.push(split);
            }
        }
        Ok(all)
    }

    /// One mask file; an unreadable one is a finding.
    fn mask(&self, path: &Path) -> Result<Result<Rle, Finding>, DataError> {
        let place = FilePlace::Path(path.to_path_buf());
        let cost = place.image_header(self.max_pixels).and_then(|header| label_cost(&place, &header));
        let _memory = self.memory.take(cost.unwrap_or(0));
        let map = match LabelMap::read_soft(path, self.max_pixels) {
            Ok(map) => map,
            Err(error @ DataError::Io { .. }) => return Err(error),
            Err(error) => {
                let place = path.display().to_string();
                return Ok(Err(Finding::new(ProblemKind::LabelUnreadable, place, error.to_string())));
            }
        };
        let brightest = map.ids.iter().copied().max().unwrap_or(0);
        let lowest = if map.is_smoothed() { brightest.div_ceil(2) } else { 1 };
        let width = map.size_hw[1];
        let mask = Mask::from_fn(map.size_hw, |row, column| map.ids[row * width + column] >= lowest);
        Ok(Ok(Rle::from_mask(&mask)))
    }
}

/// Whether a folder has the layout, by its first folders.
pub(crate) fn is_object_masks(root: &Path, n_inspected: usize) -> Result<bool, DataError> {
    let folder = Folder::list(root)?;
    for child in folder.folders.iter().take(n_inspected) {
        if files::split_name(child).is_none() && image_and_masks(&root.join(child))?.is_some() {
            return Ok(true);
        }
    }
    has_folder_per_image(root)
}

/// Whether there are images and a folder of masks for at least one of them, and no mask beside these folders.
fn has_folder_per_image(root: &Path) -> Result<bool, DataError> {
    let [images, masks] = [IMAGES, MASKS].map(|name| root.join(name));
    if !images.is_dir() || !masks.is_dir() {
        return Ok(false);
    }
    let masks = Folder::list(&masks)?;
    if masks.has_images() {
        return Ok(false);
    }
    let images = Folder::list(&images)?;
    Ok(images
        .files
        .iter()
        .any(|image| files::is_image(image) && masks.folders.iter().any(|at| at == files::stem(image))))
}

/// The images of a folder `ID/images` beside `ID/masks`; `None` where both are not there.
fn image_and_masks(at: &Path) -> Result<Option<Vec<String>>, DataError> {
    if !at.join(IMAGES).is_dir() || !at.join(MASKS).is_dir() {
        return Ok(None);
    }
    Ok(Some(Folder::list(&at.join(IMAGES))?.files.into_iter().filter(|name| files::is_image(name)).collect()))
}

/// The images below a folder in both layouts.
fn list(root: &Path, below: &str, findings: &mut Vec<Finding>) -> Result<Vec<ImageMasks>, DataError> {
    let joined = |parts: &[&str]| {
        let parts: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty()).collect();
        parts.join("/")
    };
    let at = root.join(below);
    let mut found = Vec::new();
    if has_folder_per_image(&at)? {
        let folders = Folder::list(&at.join(MASKS))?.folders;
        let images: Vec<String> =
            Folder::list(&at.join(IMAGES))?.files.into_iter().filter(|name| files::is_image(name)).collect();
        for image in &images {
            let masks = joined(&[below, MASKS, files::stem(image)]);
            let name = joined(&[below, IMAGES, image]);
            if folders.iter().any(|folder| folder == files::stem(image)) {
                found.push(ImageMasks { image: name, masks });
            } else {
                let detail = format!("no folder of masks: {masks} does not exist");
                findings.push(Finding::new(ProblemKind::ImageUnpaired, name, detail));
            }
        }
        for folder in folders.iter().filter(|folder| !images.iter().any(|image| files::stem(image) == *folder)) {
            let place = joined(&[below, MASKS, folder]);
            findings.push(Finding::new(ProblemKind::LabelUnpaired, place, "no image of this name"));
        }
        return Ok(found);
    }
    for child in &Folder::list(&at)?.folders {
        if below.is_empty() && files::split_name(child).is_some() {
            continue;
        }
        let Some(images) = image_and_masks(&at.join(child))? else { continue };
        let place = joined(&[below, child, IMAGES]);
        match images.as_slice() {
            [image] => {
                let masks = joined(&[below, child, MASKS]);
                found.push(ImageMasks { image: joined(&[&place, image]), masks });
            }
            [] => findings.push(Finding::new(ProblemKind::ImageMissing, place, "no image in this folder")),
            several => {
                let detail =
                    format!("{} images in this folder, and nothing says whose masks are beside it", several.len());
                findings.push(Finding::new(ProblemKind::ImageUnpaired, place, detail));
            }
        }
    }
    Ok(found)
}

impl FormatReader for ObjectMasks {
    fn len(&self) -> usize {
        self.images.len()
    }

    fn name(&self, index: usize) -> String {
        self.images.get(index).to_owned()
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        self.splits[index]
    }

    fn image_place(&self, index: usize) -> Result<FilePlace, Finding> {
        Ok(FilePlace::Path(self.root.join(self.images.get(index))))
    }

    fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        let folder = self.root.join(self.masks.get(index));
        let names = Folder::list(&folder).map(|folder| folder.files).unwrap_or_default();
        names.iter().filter(|name| files::is_image(name)).map(|name| folder.join(name)).collect()
    }

    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError> {
        // Read again, as the paths above are for a list that must not fail.
        let folder = self.root.join(self.masks.get(index));
        Folder::list(&folder)?;
        let mut annotated = Annotated::new(header.upright_hw());
        let mut is_first = true;
        for (at, path) in self.annotation_paths(index).iter().enumerate() {
            let mask = match self.mask(path)? {
                Ok(mask) => mask,
                Err(finding) => {
                    annotated.findings.push(finding);
                    continue;
                }
            };
            if std::mem::take(&mut is_first) {
                annotated.frame_hw = mask.size_hw();
            } else if mask.size_hw() != annotated.frame_hw {
                let [height, width] = mask.size_hw();
                let detail = format!("it is {height} x {width} (height x width), and another mask of its image is not");
                annotated.findings.push(Finding::new(ProblemKind::SizeMismatch, path.display().to_string(), detail));
                continue;
            }
            annotated.objects.push(ObjectMask { mask, class: None, id: at as u64 + 1, captions: Vec::new() });
        }
        Ok(annotated)
    }
}
