//! Converts scientific images (16-bit, float, many channels) to the 8-bit RGB that SAM was trained on.
//!
//! 8-bit images are never changed. Deeper images need a rule, because none suits all: 12-bit microscopy, CT in
//! Hounsfield units and a 16-bit photograph look black, white or right under the same one. Rules apply per image, over
//! all used channels. Without a rule, 16-bit integers keep their high byte, as in [`sam_image::decode_rgb`], and floats
//! are accepted only if they already range from 0 to 255.
//!
//! Sources: micro-sam normalises by range; MedSAM clips to percentiles 0.5 to 99.5 and to CT windows (level 40, width
//! 400).

use std::path::PathBuf;

use image::{DynamicImage, RgbImage};
use serde::{Deserialize, Serialize};

use crate::error::DataError;
use crate::formats::gif::reject_animation;
use crate::formats::memory::{self, MemoryBudget, Taken};
use crate::formats::place::{FilePlace, ImageHeader};
use crate::formats::raster::{Meaning, Raster, RasterFormat, Samples};

/// Conversion of samples with more than 8 bits to 8 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Intensity {
    /// The high byte of 16-bit integers; floats only if from 0 to 255.
    #[default]
    AsIs,
    /// From percentile 1 (black) to percentile 99.8 (white).
    Percentile,
    /// From the smallest value (black) to the largest (white).
    MinMax,
    /// From `level - width / 2` (black) to `level + width / 2` (white), the radiologist's CT window.
    Window {
        /// Value of the middle grey.
        level: f32,
        /// Range from black to white; above 0.
        width: f32,
    },
}

const PERCENTILE_LOW: f64 = 1.0;
const PERCENTILE_HIGH: f64 = 99.8;

/// Value range of an image before conversion.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct PixelRange {
    pub(crate) is_float: bool,
    pub(crate) is_u16: bool,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// How an image file becomes RGB.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadRule<'a> {
    pub(crate) intensity: Intensity,
    pub(crate) channels: Option<&'a [usize]>,
    pub(crate) max_pixels: u64,
    /// What the threads that read share.
    pub(crate) memory: &'a MemoryBudget,
}

/// An image file that is not decoded yet.
#[derive(Debug)]
pub(crate) struct Encoded<'a> {
    pub(crate) bytes: Vec<u8>,
    pub(crate) header: ImageHeader,
    /// Includes what decoding it takes.
    _memory: Taken<'a>,
}

/// Reads an image file as upright RGB.
pub(crate) fn read_image(place: &FilePlace, rule: ReadRule<'_>) -> Result<(ImageHeader, RgbImage), DataError> {
    let encoded = read_encoded(place, rule)?;
    let image = decode_image(&encoded.bytes, &place.name(), &encoded.header, rule)?;
    Ok((encoded.header, image))
}

/// Reads an image file without decoding it. Its header is read first, so that a hostile one is never read as a whole.
pub(crate) fn read_encoded<'a>(place: &FilePlace, rule: ReadRule<'a>) -> Result<Encoded<'a>, DataError> {
    let header = place.image_header(rule.max_pixels)?;
    let memory = rule.memory.take(memory::cost(place, &header, rule.max_pixels)?);
    Ok(Encoded { bytes: place.read()?, header, _memory: memory })
}

/// Decodes a file to an upright RGB image.
pub(crate) fn decode_image(
    bytes: &[u8],
    name: &str,
    header: &ImageHeader,
    rule: ReadRule<'_>,
) -> Result<RgbImage, DataError> {
    reject_animation(bytes, name, rule.max_pixels)?;
    let ReadRule { intensity, channels, max_pixels, .. } = rule;
    let Some(raster) = scientific(bytes, name, channels, max_pixels)? else {
        return Ok(sam_image::decode_rgb_bytes(bytes, name, max_pixels)?);
    };
    let used = used_channels(&raster, name, channels)?;
    let (black, white) = black_and_white(&raster, &used, intensity, name)?;
    let [height, width] = raster.size_hw;
    let scale = if white > black { 255.0 / (white - black) } else { 0.0 };
    let mut rgb = RgbImage::new(width as u32, height as u32);
    for (pixel, out) in rgb.chunks_exact_mut(3).enumerate() {
        for (channel, out) in used.iter().zip(out) {
            let value = raster.sample(pixel * raster.n_channels + channel);
            // `as` saturates.
            *out = if intensity == Intensity::AsIs && !matches!(raster.samples, Samples::F32(_)) {
                (value / (white / 256.0)) as u8
            } else {
                ((value - black) * scale).round() as u8
            };
        }
    }
    drop(raster);
    let mut image = DynamicImage::ImageRgb8(rgb);
    image.apply_orientation(header.orientation);
    Ok(image.into_rgb8())
}

/// The value range of a deep image; `None` for an 8-bit one.
pub(crate) fn pixel_range(bytes: &[u8], name: &str, max_pixels: u64) -> Result<Option<PixelRange>, DataError> {
    let Some(raster) = scientific(bytes, name, None, max_pixels)? else {
        return Ok(None);
    };
    let (min, max) = extremes(&raster, &(0..raster.n_channels).collect::<Vec<_>>());
    Ok(raster.is_deep().then_some(PixelRange {
        is_float: matches!(raster.samples, Samples::F32(_)),
        is_u16: matches!(raster.samples, Samples::U16(_)),
        min,
        max,
    }))
}

/// The stored values of a file that the plain decoder reads wrongly or not at all; stacks are rejected.
fn scientific(
    bytes: &[u8],
    name: &str,
    channels: Option<&[usize]>,
    max_pixels: u64,
) -> Result<Option<Raster>, DataError> {
    /// Offset of the bit depth in a PNG header.
    const PNG_DEPTH_AT: usize = 24;
    match RasterFormat::of(bytes) {
        Some(RasterFormat::Png) if bytes.get(PNG_DEPTH_AT) == Some(&16) || channels.is_some() => {}
        Some(RasterFormat::Tiff) => {}
        _ => return Ok(None),
    }
    let raster = Raster::read(bytes, name, max_pixels);
    // Variants that only the plain decoder supports (such as JPEG in TIFF) are left to it.
    let raster = match raster {
        Err(error) if sam_image::decode_rgb_bytes(bytes, name, max_pixels).is_err() => return Err(error),
        Err(error @ DataError::Content { .. }) if is_stack(&error) => return Err(error),
        Err(_) => return Ok(None),
        Ok(raster) => raster,
    };
    reject_non_finite(&raster, name)?;
    let is_plain = !raster.is_deep()
        && channels.is_none()
        && match raster.meaning {
            Meaning::Palette => true,
            Meaning::Grey => raster.n_channels <= 2,
            Meaning::Rgb => matches!(raster.n_channels, 3 | 4),
            // Colour spaces such as CMYK and YCbCr; uncoloured channels come as 2 or more than 4.
            Meaning::Other => sam_image::decode_rgb_bytes(bytes, name, max_pixels).is_ok(),
        };
    Ok((!is_plain).then_some(raster))
}

/// NaN and infinite values have no grey level, and none may be invented.
fn reject_non_finite(raster: &Raster, name: &str) -> Result<(), DataError> {
    let Samples::F32(values) = &raster.samples else { return Ok(()) };
    let n_wrong = values.iter().filter(|value| !value.is_finite()).count();
    if n_wrong == 0 {
        return Ok(());
    }
    Err(DataError::Content {
        path: PathBuf::from(name),
        what: "pixels".to_owned(),
        expected: "finite numbers".to_owned(),
        got: format!("{n_wrong} of {} NaN or infinite", values.len()),
        fix: "replace them (by 0, or by their neighbours), or exclude the image".to_owned(),
    })
}

fn is_stack(error: &DataError) -> bool {
    matches!(error, DataError::Content { got, .. } if got.starts_with("a stack"))
}

/// The channels used as red, green and blue.
fn used_channels(raster: &Raster, name: &str, channels: Option<&[usize]>) -> Result<[usize; 3], DataError> {
    let n = raster.n_channels;
    let content = |expected: String, fix: &str| DataError::Content {
        path: PathBuf::from(name),
        what: "the image".to_owned(),
        expected,
        got: format!("{n} channels"),
        fix: fix.to_owned(),
    };
    match channels {
        Some(&[one]) if one < n => Ok([one; 3]),
        Some(&[r, g, b]) if r.max(g).max(b) < n => Ok([r, g, b]),
        Some(&[_]) | Some(&[_, _, _]) => Err(content(
            format!("an image of at least {} channels", channels.unwrap_or(&[]).iter().max().map_or(0, |m| m + 1)),
            "channels count from 0",
        )),
        Some(other) => Err(DataError::Option {
            key: "channels",
            expected: "one or three channel indices, from 0".to_owned(),
            got: format!("{other:?}"),
        }),
        None => match (n, raster.meaning) {
            (1, _) | (2, Meaning::Grey) => Ok([0; 3]),
            (3, _) | (4, Meaning::Rgb) => Ok([0, 1, 2]),
            _ => Err(content(
                "an image of 1 or 3 channels, or RGB with alpha".to_owned(),
                "select channels, such as channels = [0] or channels = [2, 1, 0]",
            )),
        },
    }
}

fn black_and_white(
    raster: &Raster,
    used: &[usize; 3],
    intensity: Intensity,
    name: &str,
) -> Result<(f64, f64), DataError> {
    if !raster.is_deep() {
        return Ok((0.0, if intensity == Intensity::AsIs { 256.0 } else { 255.0 }));
    }
    match intensity {
        Intensity::AsIs => {
            let (min, max) = extremes(raster, used);
            let is_float = matches!(raster.samples, Samples::F32(_));
            let is_u16 = matches!(raster.samples, Samples::U16(_));
            let problem = if is_u16 && is_dark(max) {
                "values that use the lowest bits of 16 only and would look black"
            } else if is_u16 {
                return Ok((0.0, 65536.0));
            } else if min < 0.0 {
                "negative values"
            } else if max > 255.0 {
                "values above 255"
            } else if is_float && max <= 1.0 && max > 0.0 {
                "values from 0 to 1, which look normalised"
            } else {
                return Ok((0.0, if is_float { 255.0 } else { 256.0 }));
            };
            Err(DataError::Content {
                path: PathBuf::from(name),
                what: "pixels".to_owned(),
                expected: "8-bit, 16-bit unsigned, or 0 to 255".to_owned(),
                got: format!("{problem} ({min} to {max})"),
                fix: "choose a rule: intensity = \"percentile\", \"min_max\", or { window = { level = 40, width = 400 } }".to_owned(),
            })
        }
        Intensity::MinMax => Ok(extremes(raster, used)),
        Intensity::Window { level, width } => {
            if width > 0.0 && level.is_finite() && width.is_finite() {
                return Ok((f64::from(level - width / 2.0), f64::from(level + width / 2.0)));
            }
            Err(DataError::Option {
                key: "intensity.window",
                expected: "a finite level and a width above 0".to_owned(),
                got: format!("level {level}, width {width}"),
            })
        }
        Intensity::Percentile => {
            let mut values = used_values(raster, used);
            Ok((percentile(&mut values, PERCENTILE_LOW), percentile(&mut values, PERCENTILE_HIGH)))
        }
    }
}

/// Whether 16-bit values up to `max` look black when only their high byte is kept: cameras of 10 to 12 bits store them so.
pub(crate) fn is_dark(max: f64) -> bool {
    const DARK_BELOW: f64 = 8192.0;
    max > 0.0 && max < DARK_BELOW
}

fn used_values(raster: &Raster, used: &[usize; 3]) -> Vec<f32> {
    let n_pixels = raster.size_hw[0] * raster.size_hw[1];
    let channels = if used[0] == used[1] { &used[..1] } else { &used[..] };
    (0..n_pixels)
        .flat_map(|pixel| channels.iter().map(move |channel| raster.sample(pixel * raster.n_channels + channel) as f32))
        .collect()
}

fn extremes(raster: &Raster, used: &[usize]) -> (f64, f64) {
    let n_pixels = raster.size_hw[0] * raster.size_hw[1];
    let mut range = (f64::INFINITY, f64::NEG_INFINITY);
    for pixel in 0..n_pixels {
        for channel in used {
            let value = raster.sample(pixel * raster.n_channels + channel);
            range = (range.0.min(value), range.1.max(value));
        }
    }
    range
}

/// As `numpy.percentile`: linear between the two nearest ranks.
fn percentile(values: &mut [f32], percent: f64) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    let rank = (values.len() - 1) as f64 * percent / 100.0;
    let (_, &mut low, above) = values.select_nth_unstable_by(rank as usize, f32::total_cmp);
    let high = above.iter().copied().min_by(f32::total_cmp).unwrap_or(low);
    f64::from(low) + (f64::from(high) - f64::from(low)) * rank.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_numpys() {
        let mut values = vec![4.0, 1.0, 3.0, 2.0];
        // np.percentile([4, 1, 3, 2], [0, 25, 50, 99.8, 100])
        for (percent, expected) in [(0.0, 1.0), (25.0, 1.75), (50.0, 2.5), (99.8, 3.994), (100.0, 4.0)] {
            assert!((percentile(&mut values, percent) - expected).abs() < 1e-12);
        }
    }
}
