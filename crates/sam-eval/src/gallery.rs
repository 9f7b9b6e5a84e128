//! Pictures for a report: what was found beside what was to be found, with every prompt, close enough to be seen.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::crop_imm;
use image::{ExtendedColorType, ImageEncoder};
use sam_image::{Mask, ModelFrame, Overlay, PointLabel, RgbImage, Rle, overlay, resize_rgb};

use crate::clicks::tight_box_xyxy_px;
use crate::error::EvalError;
use crate::object_record::{ObjectRecord, RoundPrompt};
use crate::page::GalleryItem;
use crate::results::Run;

/// Longer side of each of the two views.
const SIDE_PX: usize = 280;

/// Between the views.
const GAP_PX: u32 = 4;

/// Of JPEG; a report with dozens of pictures stays below a few megabytes.
const QUALITY: u8 = 82;

/// What is shown around the object, as a share of its size.
const MARGIN: f64 = 0.25;

/// Places of records, by IoU after the last round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extremes {
    /// The lowest, the worst one first.
    pub worst: Vec<usize>,
    /// The highest, the best one first.
    pub best: Vec<usize>,
}

impl Extremes {
    /// Up to so many of each; no record is both.
    #[must_use]
    pub fn of(run: &Run, count: usize) -> Self {
        let iou = |&at: &usize| run.records[at].rounds.last().map_or(0.0, |round| round.iou);
        let mut places: Vec<usize> = (0..run.records.len()).collect();
        // Stable: of equals the first by name.
        places.sort_by(|a, b| iou(a).total_cmp(&iou(b)));
        let n_worst = count.min(places.len().div_ceil(2));
        let worst = places.drain(..n_worst).collect();
        places.sort_by(|a, b| iou(b).total_cmp(&iou(a)));
        places.truncate(count);
        Self { worst, best: places }
    }
}

/// One object: on the left what was found, with the prompts; on the right what was to be found.
///
/// # Errors
///
/// When the picture cannot be encoded.
///
/// # Panics
///
/// When a mask is not of the image's size.
pub fn picture(image: &RgbImage, truth: &Rle, found: &Rle, record: &ObjectRecord) -> Result<GalleryItem, EvalError> {
    let size_hw = [image.height() as usize, image.width() as usize];
    assert!(truth.size_hw() == size_hw && found.size_hw() == size_hw, "masks must be of their image's size");
    let window = Window::around(size_hw, truth, found, record);
    let small = window.view(image);
    let points: Vec<([f32; 2], PointLabel)> = record
        .clicks()
        .filter_map(|round| match round.prompt {
            RoundPrompt::Click(click) => Some(click),
            RoundPrompt::Box | RoundPrompt::Refinement => None,
        })
        .map(|click| {
            let label = if click.is_positive { PointLabel::Positive } else { PointLabel::Negative };
            // The middle of the pixel.
            (window.place(click.xy_px().map(|edge| edge + 0.5)), label)
        })
        .collect();
    let boxes: Vec<[f32; 4]> = match (record.box_round(), tight_box_xyxy_px(truth)) {
        (Some(_), Some([x0, y0, x1, y1])) => {
            let ([x0, y0], [x1, y1]) = (window.place([x0, y0]), window.place([x1, y1]));
            vec![[x0, y0, x1, y1]]
        }
        _ => Vec::new(),
    };
    let views = [(found, boxes.as_slice(), points.as_slice()), (truth, &[], &[])].map(|(mask, boxes, points)| {
        let masks = [window.mask(&mask.to_mask())];
        overlay(&small, &Overlay { masks: &masks, boxes_xyxy_px: boxes, points_xy_px: points })
    });
    Ok(GalleryItem { caption: caption(record), data_uri: data_uri(&beside(&views), &record.image)? })
}

fn caption(record: &ObjectRecord) -> String {
    let class = record.class.as_ref().map_or_else(String::new, |class| format!(" ({class})"));
    let n_clicks = record.clicks().count();
    let prompts = match (record.box_round().is_some(), n_clicks) {
        (true, 0) => "a box".to_owned(),
        (true, n) => format!("a box and {n} clicks"),
        (false, 1) => "1 click".to_owned(),
        (false, n) => format!("{n} clicks"),
    };
    let [iou, predicted] =
        record.rounds.last().map_or([0.0; 2], |round| [round.iou, round.predicted_iou]).map(|iou| format!("{iou:.3}"));
    format!("{}, object {}{class}: IoU {iou} after {prompts}, predicted {predicted}", record.image, record.object_id)
}

/// The part of an image that is shown, and its size on the page.
struct Window {
    /// `[x0, y0, x1, y1]`
    bounds_xyxy_px: [usize; 4],
    shown_hw: [usize; 2],
}

impl Window {
    /// Everything that has to do with the object.
    fn around(size_hw: [usize; 2], truth: &Rle, found: &Rle, record: &ObjectRecord) -> Self {
        let [height, width] = size_hw;
        let mut bounds = [width, height, 0, 0];
        let clicks = record.clicks().filter_map(|round| match round.prompt {
            RoundPrompt::Click(click) => {
                let [x, y] = [click.column as usize, click.row as usize];
                Some([x, y, x + 1, y + 1])
            }
            RoundPrompt::Box | RoundPrompt::Refinement => None,
        });
        for part in truth.bounds_xyxy_px().into_iter().chain(found.bounds_xyxy_px()).chain(clicks) {
            let [x0, y0, x1, y1] = bounds;
            bounds = [x0.min(part[0]), y0.min(part[1]), x1.max(part[2]), y1.max(part[3])];
        }
        let [x0, y0, x1, y1] = bounds;
        if x0 >= x1 || y0 >= y1 {
            bounds = [0, 0, width, height];
        }
        let [x0, y0, x1, y1] = bounds;
        let margin = ((x1 - x0).max(y1 - y0) as f64 * MARGIN).ceil() as usize;
        let bounds_xyxy_px =
            [x0.saturating_sub(margin), y0.saturating_sub(margin), (x1 + margin).min(width), (y1 + margin).min(height)];
        let [x0, y0, x1, y1] = bounds_xyxy_px;
        Self { bounds_xyxy_px, shown_hw: ModelFrame::new([y1 - y0, x1 - x0], SIDE_PX).resized_hw }
    }

    fn view(&self, image: &RgbImage) -> RgbImage {
        let [x0, y0, x1, y1] = self.bounds_xyxy_px.map(|edge| edge as u32);
        resize_rgb(&crop_imm(image, x0, y0, x1 - x0, y1 - y0).to_image(), self.shown_hw)
    }

    /// Nearest pixels: an edge is to be seen where it is.
    fn mask(&self, mask: &Mask) -> Mask {
        let [x0, y0, x1, y1] = self.bounds_xyxy_px;
        let [height, width] = self.shown_hw;
        Mask::from_fn(self.shown_hw, |row, column| {
            mask.get(y0 + row * (y1 - y0) / height, x0 + column * (x1 - x0) / width)
        })
    }

    fn place(&self, [x, y]: [f32; 2]) -> [f32; 2] {
        let [x0, y0, x1, y1] = self.bounds_xyxy_px.map(|edge| edge as f32);
        let [height, width] = self.shown_hw.map(|side| side as f32);
        [(x - x0) / (x1 - x0) * width, (y - y0) / (y1 - y0) * height]
    }
}

/// Two pictures of one size, side by side.
fn beside([left, right]: &[RgbImage; 2]) -> RgbImage {
    let (width, height) = left.dimensions();
    let mut both = RgbImage::from_pixel(2 * width + GAP_PX, height, image::Rgb([255; 3]));
    for (picture, from) in [(left, 0), (right, width + GAP_PX)] {
        for (x, y, pixel) in picture.enumerate_pixels() {
            both.put_pixel(from + x, y, *pixel);
        }
    }
    both
}

/// A picture as JPEG inside its own address; `name` is for the message when that fails.
///
/// # Errors
///
/// When the picture cannot be encoded.
pub fn data_uri(picture: &RgbImage, name: &str) -> Result<String, EvalError> {
    let mut jpeg = Vec::new();
    let (width, height) = picture.dimensions();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .write_image(picture, width, height, ExtendedColorType::Rgb8)
        .map_err(|source| EvalError::Picture { image: name.to_owned(), source: Box::new(source) })?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)))
}
