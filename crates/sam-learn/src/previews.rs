//! What the model does, drawn at each validation: a row per image, first what is true, then what was found from each of the
//! protocols' prompts.

use std::path::{Path, PathBuf};

use sam_data::Sample;
use sam_data::transforms::{MaskSampler, View};
use sam_eval::{EvalSet, Evaluation, ObjectRecord, RoundPrompt};
use sam_image::{Mask, Overlay, PointLabel, RgbImage, Rle, contact_sheet, overlay, save_rgb_png};

use crate::error::LearnError;
use crate::trainee::ValidationPass;

/// Side of one view.
const CELL_PX: usize = 256;

/// Folder of the pictures in a run folder.
const FOLDER: &str = "previews";

/// Names of the pictures, with the step between.
const PREFIX: &str = "step-";
const ENDING: &str = ".png";

/// A sheet of up to `n_images` images, spread over the first set; `None` when there is nothing to draw.
pub(crate) fn draw(pass: &ValidationPass, evaluation: &Evaluation, n_images: usize) -> Option<RgbImage> {
    let set = pass.sets.first()?;
    let n = n_images.min(set.indices.len());
    let rows: Vec<Vec<RgbImage>> = (0..n)
        .filter_map(|row| {
            // What could not be read was said by the validation itself.
            let sample = set.samples.sample(set.indices[row * set.indices.len() / n]).ok()?;
            Some(row_of(set, &sample, evaluation))
        })
        .collect();
    (!rows.is_empty()).then(|| contact_sheet(&rows, CELL_PX as u32))
}

/// Writes a sheet into the run folder.
pub(crate) fn write(picture: &RgbImage, folder: &Path, step: u64) -> Result<PathBuf, LearnError> {
    let folder = folder.join(FOLDER);
    std::fs::create_dir_all(&folder).map_err(|source| LearnError::Write { path: folder.clone(), source })?;
    let path = folder.join(format!("{PREFIX}{step:08}{ENDING}"));
    save_rgb_png(picture, &path)
        .map_err(|error| LearnError::Write { path: path.clone(), source: std::io::Error::other(error.to_string()) })?;
    Ok(path)
}

/// The sheets in a run folder with their steps, in order.
pub(crate) fn drawn(folder: &Path) -> Result<Vec<(u64, PathBuf)>, LearnError> {
    let folder = folder.join(FOLDER);
    let read_error = |error: std::io::Error| LearnError::Read { path: folder.clone(), reason: error.to_string() };
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read_error(error)),
    };
    let mut sheets = Vec::new();
    for entry in entries {
        let path = entry.map_err(read_error)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let step =
            name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(ENDING)).and_then(|step| step.parse().ok());
        sheets.extend(step.map(|step| (step, path)));
    }
    sheets.sort();
    Ok(sheets)
}

fn row_of(set: &EvalSet, sample: &Sample, evaluation: &Evaluation) -> Vec<RgbImage> {
    let view = View::whole([sample.image.height() as usize, sample.image.width() as usize], CELL_PX);
    let picture = view.render(&sample.image);
    // Large ones first, or a whole would cover its parts; every view in the same order, so that colours agree.
    let mut objects: Vec<(u64, &Rle)> = sample.objects.iter().map(|object| (object.id, &object.mask)).collect();
    objects.sort_by_key(|(id, mask)| (std::cmp::Reverse(mask.area_px()), *id));
    let truth: Vec<&Rle> = objects.iter().map(|&(_, mask)| mask).collect();
    let mut row = vec![cell(&picture, &view, &truth, &[], &[])];
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
            true => truth
                .iter()
                .filter_map(|mask| mask.bounds_xyxy_px())
                .map(|b| view.box_to_model(b.map(|e| e as f32)))
                .collect(),
            false => Vec::new(),
        };
        row.push(cell(&picture, &view, &masks, &boxes, &points));
    }
    row
}

fn cell(
    picture: &RgbImage,
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
    overlay(picture, &Overlay { masks: &masks, boxes_xyxy_px, points_xy_px })
}
