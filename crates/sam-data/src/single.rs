//! Single files, read by the rules of data sets: an image to predict on, and a mask as a prompt.

use std::io::Read;
use std::path::{Path, PathBuf};

use sam_image::{Mask, RgbImage};

use crate::error::DataError;
use crate::formats::intensity::read_image;
use crate::formats::label_map::LabelMap;
use crate::formats::memory::MemoryBudget;
use crate::formats::place::FilePlace;
use crate::formats::raster::RasterFormat;
use crate::source_options::SourceOptions;

/// Enough to recognise an image.
const HEAD_BYTES: u64 = 16;

/// Reads an image file as upright RGB, as a data set's images are: deep images need a rule, and a stack of pages or an
/// animation is an error.
///
/// # Errors
///
/// When it cannot be read, or needs another rule.
pub fn read_image_file(path: &Path, options: &SourceOptions) -> Result<RgbImage, DataError> {
    let memory = MemoryBudget::new(options.max_pixels);
    read_image(&FilePlace::Path(path.to_path_buf()), options.read_rule(&memory)).map(|(_, image)| image)
}

/// Reads a mask image (PNG, TIFF or GIF) of at most `max_pixels` with one object: 0 and one other value. A smoothed one is cut at half of its brightest
/// value. `None` when the file is of another kind.
///
/// # Errors
///
/// When it cannot be read, holds colours, or several objects.
pub fn read_mask_file(path: &Path, max_pixels: u64) -> Result<Option<Mask>, DataError> {
    let io = |error| DataError::io(path, error);
    let mut head = Vec::new();
    sam_files::open_regular(path).map_err(io)?.take(HEAD_BYTES).read_to_end(&mut head).map_err(io)?;
    if RasterFormat::of(&head).is_none() {
        return Ok(None);
    }
    let map = LabelMap::read_soft(path, max_pixels)?;
    let values: Vec<u32> = map.distinct().into_iter().filter(|&id| id != 0).collect();
    let brightest = values.last().copied();
    let threshold = match (values.as_slice(), brightest) {
        ([], _) | (_, None) => return Err(not_one(path, "none")),
        ([_], _) => 1,
        (_, Some(brightest)) if map.is_smoothed() => brightest.div_ceil(2),
        (several, _) => return Err(not_one(path, &format!("{} values beside 0", several.len()))),
    };
    let width = map.size_hw[1];
    Ok(Some(Mask::from_fn(map.size_hw, |row, column| map.ids[row * width + column] >= threshold)))
}

fn not_one(path: &Path, got: &str) -> DataError {
    DataError::Content {
        path: PathBuf::from(path),
        what: "a mask".to_owned(),
        expected: "of one object: 0, and one other value".to_owned(),
        got: got.to_owned(),
        fix: "save the mask of one object as black and white".to_owned(),
    }
}
