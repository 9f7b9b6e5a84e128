//! `sam-train data preview`: contact sheets of a data set, one row per image: the image with its masks and boxes, then
//! augmented views.

use std::io::Write;

use anyhow::anyhow;
use sam_data::Sample;
use sam_data::Source;
use sam_data::random::{Purpose, RandomStream};
use sam_data::transforms::{Augmentation, ColourJitter, MaskSampler, ScaleJitter};
use sam_image::{Mask, Overlay, RgbImage, Rle, contact_sheet, overlay, paste, save_rgb_png};

use crate::cli::PreviewArguments;
use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::progress::{Progress, Waiting};
use crate::survey::DropOption;

/// Rows per sheet.
const ROWS: usize = 6;

/// A sheet and its cells, each of three bytes.
const MAX_SHEET_PIXELS: usize = 200_000_000;

/// Brightness factor of ignored pixels.
const IGNORED_BRIGHTNESS: f32 = 0.35;

pub(crate) fn run(arguments: &PreviewArguments) -> Result<(), Failure> {
    let options = arguments.source.options().bad_input()?;
    let waiting = Waiting::reading(&arguments.path);
    let source = Source::open(&arguments.path, &options);
    let source = source.map_err(|error| DropOption::Flag.advise(error)).bad_input()?;
    drop(waiting);
    let sheet_pixels = arguments.count.min(ROWS) * (arguments.views + 1) * arguments.cell * arguments.cell;
    if sheet_pixels > MAX_SHEET_PIXELS {
        let megapixels = sheet_pixels.div_ceil(1_000_000);
        return Err(anyhow!("--views and --cell must give sheets of at most 200 megapixels, got {megapixels}"))
            .bad_input();
    }
    let first = arguments.out.join(sheet_name(0));
    if first.exists() && !arguments.force {
        return Err(anyhow!("{} exists; give another --out, or --force to replace it", first.display())).bad_input();
    }
    std::fs::create_dir_all(&arguments.out)?;
    let mut out = output();
    for note in source.notes() {
        writeln!(out, "note: {note}")?;
    }
    // Spread over the whole set, as neighbours are often alike.
    let count = arguments.count.min(source.len()).max(1);
    let chosen: Vec<usize> = (0..count).map(|row| row * source.len() / count).collect();
    let mut progress = Progress::new("rendering sheets", count as u64);
    for (number, rows) in chosen.chunks(ROWS).enumerate() {
        let path = arguments.out.join(sheet_name(number));
        let mut cells = Vec::with_capacity(rows.len());
        for (row, &index) in rows.iter().enumerate() {
            let sample = source.sample(index).map_err(|error| DropOption::Flag.advise(error)).bad_input()?;
            let (width, height) = sample.image.dimensions();
            writeln!(
                out,
                "{} row {}: {} ({width} x {height}), {} objects{}",
                path.display(),
                row + 1,
                sample.name,
                sample.objects.len(),
                if sample.ignore.is_some() { ", ignore regions darkened" } else { "" }
            )?;
            cells.push(row_of(&sample, index, arguments));
            progress.set((number * ROWS + row + 1) as u64);
        }
        save_rgb_png(&contact_sheet(&cells, arguments.cell as u32), &path)?;
    }
    Ok(())
}

fn sheet_name(number: usize) -> String {
    format!("sheet_{number:03}.png")
}

/// All augmentations that training offers.
fn augmentation() -> Augmentation {
    Augmentation {
        horizontal_flip_chance: 0.5,
        scale_jitter: Some(ScaleJitter::default()),
        colour: Some(ColourJitter::default()),
        ..Augmentation::default()
    }
}

fn row_of(sample: &Sample, index: usize, arguments: &PreviewArguments) -> Vec<RgbImage> {
    let plain = Augmentation::default();
    let jittered = augmentation();
    let mut cells = Vec::with_capacity(arguments.views + 1);
    for view in 0..=arguments.views {
        let augmentation = if view == 0 { &plain } else { &jittered };
        cells.push(cell_of(sample, augmentation, arguments, &[index as u64, view as u64]));
    }
    cells
}

fn cell_of(sample: &Sample, augmentation: &Augmentation, arguments: &PreviewArguments, keys: &[u64]) -> RgbImage {
    let size_hw = [sample.image.height() as usize, sample.image.width() as usize];
    let mut stream = RandomStream::new(arguments.seed, Purpose::View, keys);
    let view = augmentation.draw_view(size_hw, arguments.cell, &mut stream);
    let mut image = view.render(&sample.image);
    if let Some(colour) = &augmentation.colour {
        colour.apply(&mut image, &mut RandomStream::new(arguments.seed, Purpose::Colour, keys));
    }
    let sampler = MaskSampler::new(&view, arguments.cell);
    let visible = |rle: &Rle| {
        let mut pixels = vec![0u8; arguments.cell * arguments.cell];
        sampler.paint(rle, &mut pixels);
        Mask::new([arguments.cell; 2], pixels.iter().map(|&pixel| pixel != 0).collect()).ok()
    };
    let mut canvas = RgbImage::new(arguments.cell as u32, arguments.cell as u32);
    paste(&mut canvas, &image, 0, 0);
    let mut image = canvas;
    if let Some(ignored) = sample.ignore.as_ref().and_then(visible) {
        for (pixel, &ignored) in image.pixels_mut().zip(ignored.pixels()) {
            if ignored {
                pixel.0 = pixel.0.map(|level| (f32::from(level) * IGNORED_BRIGHTNESS) as u8);
            }
        }
    }
    // Large ones first, or a whole would cover its parts; sorted by the original, so that an object keeps its colour in
    // every view.
    let mut objects: Vec<&Rle> = sample.objects.iter().map(|object| &object.mask).collect();
    objects.sort_by_key(|mask| std::cmp::Reverse(mask.area_px()));
    let masks: Vec<Mask> = objects.into_iter().filter_map(visible).collect();
    let outside = [-1.0; 4];
    let bounds = |mask: &Mask| mask.bounds_xyxy_px().map_or(outside, |bounds| bounds.map(|edge| edge as f32));
    let boxes: Vec<[f32; 4]> = masks.iter().map(bounds).collect();
    overlay(&image, &Overlay { masks: &masks, boxes_xyxy_px: &boxes, points_xy_px: &[] })
}
