//! Previews of the model's predictions at each validation: a row per image, first the ground truth, then the prediction from
//! the prompts of each protocol.

use std::path::{Path, PathBuf};

use sam_data::Sample;
use sam_data::transforms::{MaskSampler, View};
use sam_eval::{EvalSet, Evaluation, ObjectRecord, RoundPrompt};
use sam_image::{Mask, Overlay, PointLabel, RgbImage, Rle, contact_sheet, overlay, save_rgb_png};

use crate::error::LearnError;

/// Side of an image in a preview.
const CELL_PX: usize = 256;

/// Folder of previews in a run folder.
pub(crate) const PREVIEWS_FOLDER: &str = "previews";

/// Before and after the step in the name of a preview.
const PREFIX: &str = "step-";
const ENDING: &str = ".png";

/// The preview of up to `n_images` images, spread over a set; `None` when there is nothing to draw.
pub(crate) fn draw(set: &EvalSet, evaluation: &Evaluation, n_images: usize) -> Option<RgbImage> {
    let n = n_images.min(set.indices.len());
    let rows: Vec<Vec<RgbImage>> = (0..n)
        .filter_map(|row| {
            // The validation has reported samples that cannot be read.
            let sample = set.samples.sample(set.indices[row * set.indices.len() / n]).ok()?;
            Some(row_of(set, &sample, evaluation))
        })
        .collect();
    (!rows.is_empty()).then(|| contact_sheet(&rows, CELL_PX as u32))
}

/// Writes a preview into the run folder.
pub(crate) fn write(image: &RgbImage, folder: &Path, step: u64) -> Result<PathBuf, LearnError> {
    let folder = folder.join(PREVIEWS_FOLDER);
    std::fs::create_dir_all(&folder).map_err(|source| LearnError::Write { path: folder.clone(), source })?;
    let path = folder.join(format!("{PREFIX}{step:08}{ENDING}"));
    save_rgb_png(image, &path)
        .map_err(|error| LearnError::Write { path: path.clone(), source: std::io::Error::other(error.to_string()) })?;
    Ok(path)
}

/// The previews in a run folder with their steps, in order.
pub(super) fn written(folder: &Path) -> Result<Vec<(u64, PathBuf)>, LearnError> {
    let folder = folder.join(PREVIEWS_FOLDER);
    let read_error = |error: std::io::Error| LearnError::Read { path: folder.clone(), reason: error.to_string() };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read_error(error)),
    };
    let mut previews = Vec::new();
    for entry in entries {
        let path = entry.map_err(read_error)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let step =
            name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(ENDING)).and_then(|step| step.parse().ok());
        previews.extend(step.map(|step| (step, path)));
    }
    previews.sort();
    Ok(previews)
}

fn row_of(set: &EvalSet, sample: &Sample, evaluation: &Evaluation) -> Vec<RgbImage> {
    let view = View::whole([sample.image.height() as usize, sample.image.width() as usize], CELL_PX);
    let image = view.render(&sample.image);
    // Large objects first, or a whole would cover its parts; the same order in every cell, so that colours agree.
    let mut objects: Vec<(u64, &Rle)> = sample.objects.iter().map(|object| (object.id, &object.mask)).collect();
    objects.sort_by_key(|(id, mask)| (std::cmp::Reverse(mask.area_px()), *id));
    let ground_truth: Vec<&Rle> = objects.iter().map(|&(_, mask)| mask).collect();
    let mut row = vec![cell(&image, &view, &ground_truth, &[], &[])];
    for (run, masks) in evaluation.results.runs.iter().zip(&evaluation.final_masks) {
        let found = |id: u64| {
            let is_it = |record: &ObjectRecord| {
                record.object_id == id && record.image == sample.name && record.data_set == *set.name
            };
            let place = run.records.iter().position(is_it)?;
            Some((&run.records[place], masks.get(place)?))
        };
        let found: Vec<(&ObjectRecord, &Rle)> = objects.iter().filter_map(|&(id, _)| found(id)).collect();
        let masks: Vec<&Rle> = found.iter().map(|&(_, mask)| mask).collect();
        let points = found.iter().flat_map(|(record, _)| record.clicks()).filter_map(|round| match round.prompt {
            RoundPrompt::Click(click) => {
                let label = if click.is_positive { PointLabel::Positive } else { PointLabel::Negative };
                Some((view.point_to_model(click.xy_px().map(|edge| edge + 0.5)), label))
            }
            RoundPrompt::Box | RoundPrompt::Refinement => None,
        });
        let points: Vec<([f32; 2], PointLabel)> = points.collect();
        let is_box = found.iter().any(|(record, _)| record.box_round().is_some());
        let boxes: Vec<[f32; 4]> = match is_box {
            true => ground_truth
                .iter()
                .filter_map(|mask| mask.bounds_xyxy_px())
                .map(|b| view.box_to_model(b.map(|e| e as f32)))
                .collect(),
            false => Vec::new(),
        };
        row.push(cell(&image, &view, &masks, &boxes, &points));
    }
    row
}

fn cell(
    image: &RgbImage,
    view: &View,
    masks: &[&Rle],
    boxes_xyxy_px: &[[f32; 4]],
    points_xy_px: &[([f32; 2], PointLabel)],
) -> RgbImage {
    let sampler = MaskSampler::new(view, CELL_PX);
    let masks: Vec<Mask> = masks
        .iter()
        .map(|rle| {
            let mut pixels = vec![0u8; CELL_PX * CELL_PX];
            sampler.paint(rle, &mut pixels);
            Mask::from_fn([CELL_PX; 2], |row, column| pixels[row * CELL_PX + column] != 0)
        })
        .collect();
    overlay(image, &Overlay { masks: &masks, boxes_xyxy_px, points_xy_px })
}
