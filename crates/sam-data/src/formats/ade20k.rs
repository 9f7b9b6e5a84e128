//! ADE20K, the full data set: `ADE_val_00000001.jpg` beside `ADE_val_00000001_seg.png`, whose parts are in
//! `ADE_val_00000001_parts_1.png` (or `_parts_1_seg.png`) and so on.
//!
//! Source: the data set's `loadAde20K`: the class is `red / 10 * 256 + green`, the blue channel numbers the objects of an image, 0 is
//! nothing. Every object and every part is an object here, as in the 23 sets of the SAM paper. An id that two classes share is two
//! objects. Class names are in an index file of the release and are not read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sam_image::Rle;

use crate::error::DataError;
use crate::finding::{Finding, ProblemKind};
use crate::formats::files;
use crate::formats::label_images::label_cost;
use crate::formats::label_map::LabelMap;
use crate::formats::memory::MemoryBudget;
use crate::formats::names::Names;
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::raster::{Meaning, Raster, Samples};
use crate::formats::{Annotated, FormatReader, Listing};
use crate::sample::ObjectMask;
use crate::source_options::SourceOptions;

const SEGMENTS: &str = "_seg.png";
/// More levels of parts do not exist.
const MAX_LEVELS: usize = 8;

/// Images with segments beside them.
#[derive(Debug)]
pub(crate) struct Ade20k {
    root: PathBuf,
    /// Paths without extension, relative to the root.
    stems: Names,
    splits: Vec<Option<&'static str>>,
    max_pixels: u64,
    memory: MemoryBudget,
}

/// Whether this is the name of a file with the objects of an image.
pub(crate) fn is_segments(name: &str) -> bool {
    let base = files::base(name);
    base.starts_with("ADE_") && base.ends_with(SEGMENTS) && !base.contains("_parts_")
}

impl Ade20k {
    pub(crate) fn open(path: &Path, options: &SourceOptions, listing: &mut Listing) -> Result<Self, DataError> {
        let mut all = Self {
            root: path.to_path_buf(),
            stems: Names::default(),
            splits: Vec::new(),
            max_pixels: options.max_pixels,
            memory: MemoryBudget::new(options.max_pixels),
        };
        let names = files::list_files(path)?;
        for name in names.iter().filter(|name| is_segments(name)) {
            let stem = name.strip_suffix(SEGMENTS).unwrap_or(name);
            // The folder, or the name itself: ADE_train_00000001.
            let part = name.split('/').find_map(files::split_name);
            if options.split.is_some() && options.split.as_deref() != part {
                continue;
            }
            if names.binary_search(&format!("{stem}.jpg")).is_err() {
                let detail = format!("its image {stem}.jpg does not exist");
                listing.findings.push(Finding::new(ProblemKind::LabelUnpaired, name.clone(), detail));
                continue;
            }
            all.stems.push(stem);
            all.splits.push(part);
        }
        Ok(all)
    }

    /// The objects of one file, as an id and a mask each.
    fn objects(&self, path: &Path) -> Result<([usize; 2], Vec<Rle>), DataError> {
        let place = FilePlace::Path(path.to_path_buf());
        let cost = place.image_header(self.max_pixels).and_then(|header| label_cost(&place, &header));
        let _memory = self.memory.take(cost.unwrap_or(0));
        let raster = Raster::open(path, self.max_pixels)?;
        let (n, Samples::U8(samples), Meaning::Rgb) = (raster.n_channels, &raster.samples, raster.meaning) else {
            return Err(DataError::Content {
                path: path.to_path_buf(),
                what: "the segments".to_owned(),
                expected: "of 8-bit red, green and blue: class and number of the object".to_owned(),
                got: format!("{} channels of another kind", raster.n_channels),
                fix: "use the file of the published data set".to_owned(),
            });
        };
        // By number and class; 0 is the background of a label map.
        let mut ids: BTreeMap<(u8, u32), u32> = BTreeMap::new();
        let keys = || {
            samples.chunks_exact(n).map(|pixel| {
                let class = u32::from(pixel[0]) / 10 * 256 + u32::from(pixel[1]);
                (pixel[2] > 0).then_some((pixel[2], class))
            })
        };
        keys().flatten().for_each(|key| {
            ids.entry(key).or_default();
        });
        ids.values_mut().zip(1..).for_each(|(id, number)| *id = number);
        let map = LabelMap {
            size_hw: raster.size_hw,
            ids: keys().map(|key| key.map_or(0, |key| ids[&key])).collect(),
            is_palette: false,
            is_narrow: false,
            fraction: None,
        };
        let masks = map.masks(&path.display().to_string())?;
        Ok((map.size_hw, masks.into_iter().map(|(_, mask)| mask).collect()))
    }
}

impl FormatReader for Ade20k {
    fn len(&self) -> usize {
        self.stems.len()
    }

    fn name(&self, index: usize) -> String {
        format!("{}.jpg", self.stems.get(index))
    }

    fn classes(&self) -> &[String] {
        &[]
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        self.splits[index]
    }

    fn image_place(&self, index: usize) -> Result<FilePlace, Finding> {
        Ok(FilePlace::Path(self.root.join(self.name(index))))
    }

    fn annotation_paths(&self, index: usize) -> Vec<PathBuf> {
        let stem = self.stems.get(index);
        let mut paths = vec![self.root.join(format!("{stem}{SEGMENTS}"))];
        for level in 1..=MAX_LEVELS {
            let names = [format!("{stem}_parts_{level}.png"), format!("{stem}_parts_{level}{SEGMENTS}")];
            match names.iter().map(|name| self.root.join(name)).find(|path| path.is_file()) {
                Some(path) => paths.push(path),
                None => break,
            }
        }
        paths
    }

    fn read(&self, index: usize, header: &ImageHeader) -> Result<Annotated, DataError> {
        let mut annotated = Annotated::new(header.upright_hw());
        for (level, path) in self.annotation_paths(index).iter().enumerate() {
            let place = path.display().to_string();
            match self.objects(path) {
                Ok((size_hw, masks)) => {
                    if level == 0 {
                        annotated.frame_hw = size_hw;
                    } else if size_hw != annotated.frame_hw {
                        let detail = "the parts have another size than the objects";
                        annotated.findings.push(Finding::new(ProblemKind::SizeMismatch, place, detail));
                        continue;
                    }
                    for mask in masks {
                        let id = annotated.objects.len() as u64 + 1;
                        annotated.objects.push(ObjectMask { mask, class: None, id, captions: Vec::new() });
                    }
                }
                Err(error @ DataError::Io { .. }) => return Err(error),
                Err(error) => {
                    annotated.findings.push(Finding::new(ProblemKind::LabelUnreadable, place, error.to_string()));
                }
            }
        }
        Ok(annotated)
    }
}
