//! Images for a report: prediction and ground truth side by side, with all prompts, cropped to the object.

use std::collections::BTreeSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::imageops::crop_imm;
use image::{ExtendedColorType, ImageEncoder};
use sam_data::Sample;
use sam_image::{Mask, ModelFrame, Overlay, PointLabel, RgbImage, Rle, overlay, paste, resize_rgb};

use crate::error::EvalError;
use crate::eval_set::EvalSet;
use crate::evaluate::Evaluation;
use crate::metrics::results::Run;
use crate::protocol::clicks::{Click, tight_box_xyxy_px};
use crate::protocol::object_record::{ObjectRecord, RoundPrompt};
use crate::protocol::settings::Start;
use crate::protocol::text_record::{TextRecord, TextRun};
use crate::report::page::{Gallery, GalleryItem};

/// Longer side of each view.
const SIDE_PX: usize = 280;

/// Gap between the views.
const GAP_PX: u32 = 4;

/// JPEG quality; a report with dozens of images stays below a few megabytes.
const QUALITY: u8 = 82;

/// Margin around the object, as a fraction of its size.
const MARGIN: f64 = 0.25;

/// Indices of the records with the lowest and highest IoU after the last round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extremes {
    /// Worst first.
    pub worst: Vec<usize>,
    /// Best first.
    pub best: Vec<usize>,
}

impl Extremes {
    /// At most `count` records of each kind; no record is both.
    #[must_use]
    pub fn of(run: &Run, count: usize) -> Self {
        let ious: Vec<f64> =
            run.records.iter().map(|record| record.rounds.last().map_or(0.0, |round| round.iou)).collect();
        Self::of_ious(&ious, count)
    }

    /// An object that has several texts is shown with one of them.
    fn of_texts(run: &TextRun, count: usize) -> Self {
        let ious: Vec<f64> = run.records.iter().map(|record| record.iou).collect();
        let mut extremes = Self::of_ious(&ious, run.records.len());
        for places in [&mut extremes.worst, &mut extremes.best] {
            let mut seen = BTreeSet::new();
            places.retain(|&at| {
                let record = &run.records[at];
                seen.insert((&record.data_set, &record.image, record.object_id))
            });
            places.truncate(count);
        }
        extremes
    }

    fn of_ious(ious: &[f64], count: usize) -> Self {
        let mut places: Vec<usize> = (0..ious.len()).collect();
        // The sort is stable, so ties are in the order of names.
        places.sort_by(|&a, &b| ious[a].total_cmp(&ious[b]));
        let n_worst = count.min(places.len().div_ceil(2));
        let worst = places.drain(..n_worst).collect();
        places.sort_by(|&a, &b| ious[b].total_cmp(&ious[a]));
        places.truncate(count);
        Self { worst, best: places }
    }
}

/// The worst and the best objects of each protocol and the worst and the best texts, at most `count` of each.
///
/// # Errors
///
/// When a sample of `sets` cannot be read any more, or an image cannot be encoded.
pub fn galleries(evaluation: &Evaluation, sets: &[EvalSet], count: usize) -> Result<Vec<Gallery>, EvalError> {
    let mut galleries = Vec::new();
    for (run, masks) in evaluation.results.runs.iter().zip(&evaluation.final_masks) {
        let extremes = Extremes::of(run, count);
        for (which, chosen) in [("Worst", extremes.worst), ("Best", extremes.best)] {
            let title = format!("{which} {}: prediction with prompts (left), ground truth (right)", moment(run));
            let records = chosen.into_iter().map(|at| (&run.records[at], &masks[at]));
            let items = records.map(|(record, found)| {
                let place = place_of(evaluation, sets, &record.data_set, &record.image);
                place.map(|place| item_of(place, record, found)).transpose()
            });
            galleries.push(Gallery { title, items: items.filter_map(Result::transpose).collect::<Result<_, _>>()? });
        }
    }
    if let Some(run) = &evaluation.results.texts {
        let extremes = Extremes::of_texts(run, count);
        for (which, chosen) in [("Worst", extremes.worst), ("Best", extremes.best)] {
            let title = format!("{which} with a text alone: prediction (left), ground truth (right)");
            let records = chosen.into_iter().map(|at| (&run.records[at], &evaluation.text_masks[at]));
            let items = records.map(|(record, found)| {
                let place = place_of(evaluation, sets, &record.data_set, &record.image);
                place.map(|place| item_of_text(place, record, found)).transpose()
            });
            galleries.push(Gallery { title, items: items.filter_map(Result::transpose).collect::<Result<_, _>>()? });
        }
    }
    galleries.retain(|gallery| !gallery.items.is_empty());
    Ok(galleries)
}

/// The set and index of an image; `None` when the sets no longer have it.
fn place_of<'a>(
    evaluation: &Evaluation,
    sets: &'a [EvalSet],
    data_set: &str,
    image: &str,
) -> Option<(&'a EvalSet, usize)> {
    let index = evaluation.places.get(&(data_set.to_owned(), image.to_owned()))?;
    Some((sets.iter().find(|set| *set.name == *data_set)?, *index))
}

fn moment(run: &Run) -> String {
    match (run.protocol.start, run.protocol.n_clicks) {
        (Start::Box, 0) => "with a box".to_owned(),
        (Start::Box, n) => format!("with a box and {n} clicks"),
        (Start::Click, 1) => "after 1 click".to_owned(),
        (Start::Click, n) => format!("after {n} clicks"),
    }
}

fn item_of((set, index): (&EvalSet, usize), record: &ObjectRecord, found: &Rle) -> Result<GalleryItem, EvalError> {
    let (sample, target) = read_object(set, index, record.object_id)?;
    gallery_item(&sample.image, &target, found, record)
}

fn item_of_text((set, index): (&EvalSet, usize), record: &TextRecord, found: &Rle) -> Result<GalleryItem, EvalError> {
    let (sample, target) = read_object(set, index, record.object_id)?;
    let TextRecord { image, text, object_id, iou, predicted_iou, .. } = record;
    let several = if record.n_targets > 1 { format!(" (of {} that it says)", record.n_targets) } else { String::new() };
    let caption =
        format!("\"{text}\" in {image}: IoU {iou:.3} with object {object_id}{several}, predicted {predicted_iou:.3}");
    let pair = Pair { image: &sample.image, target: &target, predicted: found };
    Ok(GalleryItem { caption, data_uri: pair.render(&[], false, image)? })
}

/// A sample, and the mask of one of its objects.
fn read_object(set: &EvalSet, index: usize, object_id: u64) -> Result<(Sample, Rle), EvalError> {
    let failed = |source| EvalError::Sample { data_set: set.name.to_string(), index, source };
    let sample = set.samples.sample(index).map_err(failed)?;
    let object = sample.objects.iter().find(|object| object.id == object_id);
    let object = object.ok_or_else(|| failed(format!("object {object_id} no longer exists").into()))?;
    let target = object.mask.clone();
    Ok((sample, target))
}

/// Renders one object: the prediction with its prompts on the left, the ground truth on the right.
///
/// # Errors
///
/// When the image cannot be encoded.
///
/// # Panics
///
/// When a mask does not have the image's size.
pub fn gallery_item(
    image: &RgbImage,
    target: &Rle,
    predicted: &Rle,
    record: &ObjectRecord,
) -> Result<GalleryItem, EvalError> {
    let clicks = record.clicks().filter_map(|round| match round.prompt {
        RoundPrompt::Click(click) => Some(click),
        RoundPrompt::Box | RoundPrompt::Refinement => None,
    });
    let clicks: Vec<Click> = clicks.collect();
    let pair = Pair { image, target, predicted };
    let data_uri = pair.render(&clicks, record.box_round().is_some(), &record.image)?;
    Ok(GalleryItem { caption: caption(record), data_uri })
}

/// A prediction and its ground truth.
struct Pair<'a> {
    image: &'a RgbImage,
    target: &'a Rle,
    predicted: &'a Rle,
}

impl Pair<'_> {
    /// The prediction with its prompts on the left, the ground truth on the right, as a data URI.
    fn render(&self, clicks: &[Click], has_box: bool, name: &str) -> Result<String, EvalError> {
        let &Self { image, target, predicted } = self;
        let size_hw = [image.height() as usize, image.width() as usize];
        assert!(target.size_hw() == size_hw && predicted.size_hw() == size_hw, "masks must have the image's size");
        let window = Window::around(size_hw, target, predicted, clicks);
        let small = window.view(image);
        let point = |click: &Click| {
            let label = if click.is_positive { PointLabel::Positive } else { PointLabel::Negative };
            // The centre of the pixel.
            (window.place(click.xy_px().map(|edge| edge + 0.5)), label)
        };
        let points: Vec<([f32; 2], PointLabel)> = clicks.iter().map(point).collect();
        let boxes: Vec<[f32; 4]> = match tight_box_xyxy_px(target).filter(|_| has_box) {
            Some([x0, y0, x1, y1]) => {
                let ([x0, y0], [x1, y1]) = (window.place([x0, y0]), window.place([x1, y1]));
                vec![[x0, y0, x1, y1]]
            }
            None => Vec::new(),
        };
        let views =
            [(predicted, boxes.as_slice(), points.as_slice()), (target, &[], &[])].map(|(mask, boxes, points)| {
                let masks = [window.mask(&mask.to_mask())];
                overlay(&small, &Overlay { masks: &masks, boxes_xyxy_px: boxes, points_xy_px: points })
            });
        jpeg_data_uri(&side_by_side(&views), name)
    }
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

/// The visible part of an image and its size on the page.
struct Window {
    /// `[x0, y0, x1, y1]`
    bounds_xyxy_px: [usize; 4],
    shown_hw: [usize; 2],
}

impl Window {
    /// The region that contains both masks and all clicks.
    fn around(size_hw: [usize; 2], target: &Rle, predicted: &Rle, clicks: &[Click]) -> Self {
        let [height, width] = size_hw;
        let mut bounds = [width, height, 0, 0];
        let clicks = clicks.iter().map(|click| {
            let [x, y] = [click.column as usize, click.row as usize];
            [x, y, x + 1, y + 1]
        });
        for part in target.bounds_xyxy_px().into_iter().chain(predicted.bounds_xyxy_px()).chain(clicks) {
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

    /// Nearest-neighbour, so that edges stay sharp.
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

/// Two images of the same size, side by side.
fn side_by_side([left, right]: &[RgbImage; 2]) -> RgbImage {
    let (width, height) = left.dimensions();
    let mut both = RgbImage::from_pixel(2 * width + GAP_PX, height, image::Rgb([255; 3]));
    paste(&mut both, left, 0, 0);
    paste(&mut both, right, width + GAP_PX, 0);
    both
}

/// An image as the data URI of a JPEG; `name` is for error messages.
///
/// # Errors
///
/// When the image cannot be encoded.
pub fn jpeg_data_uri(image: &RgbImage, name: &str) -> Result<String, EvalError> {
    let mut jpeg = Vec::new();
    let (width, height) = image.dimensions();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .write_image(image, width, height, ExtendedColorType::Rgb8)
        .map_err(|source| EvalError::Encode { image: name.to_owned(), source: Box::new(source) })?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg)))
}
