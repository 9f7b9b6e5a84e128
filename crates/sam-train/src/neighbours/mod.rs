//! `sam-train neighbours`: which masks are close to one another in the latent space of a segmenter, and in CLIP's.
//!
//! The appendix of SAM's paper shows such neighbours as a sign of what the encoder learned without any label (Kirillov 2023,
//! arXiv 2304.02643 §D.6). Beside the pictures, the fraction of neighbours of the same class says the same in a number, with
//! chance beside it.

mod page;
mod space;

use std::io::Write;
use std::path::Path;

use anyhow::{Context, anyhow};
use sam_data::Source;
use sam_image::{Mask, Overlay, RgbImage, Rle, overlay};
use sam_infer::Predictor;
use sam_infer::clip::{Background, Clip, MaskCrop};
use sam_model::weights::Checkpoint;

use crate::cli::{NeighboursArguments, Within};
use crate::failure::{BadInput, Failure};
use crate::output::{aligned, errors, output};
use crate::progress::{Progress, Waiting};
use crate::survey::DropOption;
use crate::target::check_results;
use crate::train::checkpoint_file;

use space::Space;

const PAGE: &str = "neighbours.html";
const RESULTS: &str = "neighbours.json";

/// Side of a picture of an object.
const THUMBNAIL_PX: usize = 112;

/// Side of a crop, as a multiple of the longer side of the mask's box.
const CROP_SCALE: f64 = 1.5;

/// An object of the data set.
pub(super) struct Found {
    pub(super) image: String,
    pub(super) id: u64,
    pub(super) class: Option<String>,
    /// Its surroundings, with its mask.
    pub(super) thumbnail: RgbImage,
}

pub(crate) fn run(arguments: &NeighboursArguments) -> Result<(), Failure> {
    let NeighboursArguments { out, force, neighbours, .. } = arguments;
    check_results(out, &[PAGE, RESULTS], *force).bad_input()?;
    let options = arguments.source.options().bad_input()?;
    let waiting = Waiting::reading(&arguments.data);
    let source = Source::open(&arguments.data, &options).map_err(|error| DropOption::Flag.advise(error)).bad_input()?;
    drop(waiting);
    for note in source.notes() {
        writeln!(errors(), "note: {note}")?;
    }
    let device = arguments.device.open().bad_input()?;
    let checkpoint = Checkpoint::open(&checkpoint_file(&arguments.checkpoint)).bad_input()?;
    let (sam, _) = checkpoint.load(&device).bad_input()?;
    let predictor = Predictor::new(&sam);
    drop(sam);
    let clip = arguments.clip.as_deref().map(|path| Clip::open(path, &device).context("--clip"));
    let clip = clip.transpose().bad_input()?;

    let (objects, spaces) = embed(arguments, &source, &predictor, clip.as_ref())?;
    if objects.len() < 2 {
        return Err(anyhow!("{}: neighbours need at least 2 objects, got {}", arguments.data.display(), objects.len()))
            .bad_input();
    }
    let is_candidate = |a: usize, b: usize| arguments.within == Within::Data || objects[a].image == objects[b].image;
    let ranked: Vec<Vec<Vec<(usize, f32)>>> =
        spaces.iter().map(|space| space.nearest(*neighbours, &is_candidate)).collect();
    let scores = space::scores(&objects, &spaces, &ranked, &is_candidate);
    let queries = spread(objects.len(), arguments.queries);
    let shown = page::Shown { objects: &objects, spaces: &spaces, ranked: &ranked, scores: &scores, queries: &queries };
    write(out, &shown, arguments, &checkpoint.description())?;
    print(&shown, &out.join(PAGE))
}

/// So many indices, spread over all.
fn spread(n_all: usize, n: usize) -> Vec<usize> {
    let n = n.min(n_all);
    (0..n).map(|at| at * n_all / n).collect()
}

/// All objects of images that are spread over the data set, with their vectors.
fn embed(
    arguments: &NeighboursArguments,
    source: &Source,
    predictor: &Predictor,
    clip: Option<&Clip>,
) -> Result<(Vec<Found>, Vec<Space>), Failure> {
    let mut n_objects = 0;
    let mut chosen = Vec::new();
    // In an order in which every beginning is spread over the set.
    let stride = (source.len() as f64 * 0.618_033_988_75).ceil().max(1.0) as usize;
    let stride = (stride..).find(|&stride| gcd(stride, source.len()) == 1).unwrap_or(1);
    for at in 0..source.len() {
        if n_objects >= arguments.max_objects {
            break;
        }
        let index = at * stride % source.len();
        n_objects += source.objects(index).map_err(|error| DropOption::Flag.advise(error)).bad_input()?.objects.len();
        chosen.push(index);
    }
    chosen.sort_unstable();
    n_objects = n_objects.min(arguments.max_objects);
    let mut progress = Progress::new("embedding objects", n_objects as u64);
    let mut objects = Vec::new();
    let mut spaces = vec![Space::new("segmenter")];
    spaces.extend(clip.map(|_| Space::new("CLIP")));
    for index in chosen {
        let sample = source.sample(index).map_err(|error| DropOption::Flag.advise(error)).bad_input()?;
        for object in sample.objects {
            if objects.len() == n_objects {
                break;
            }
            spaces[0].vectors.push(predictor.mask_latent(&sample.image, &object.mask));
            if let Some(clip) = clip {
                let (side_px, patch_px) = (clip.side_px(), clip.patch_px());
                let crop = MaskCrop::new(&sample.image, &object.mask, CROP_SCALE, Background::Kept, side_px, patch_px);
                spaces[1].vectors.extend(clip.crops(&[crop]));
            }
            objects.push(Found {
                image: sample.name.clone(),
                id: object.id,
                class: object.class.and_then(|class| source.classes().get(class)).cloned(),
                thumbnail: thumbnail(&sample.image, &object.mask),
            });
            progress.set(objects.len() as u64);
        }
    }
    Ok((objects, spaces))
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

fn thumbnail(image: &RgbImage, mask: &Rle) -> RgbImage {
    // With patches of one pixel, they are the mask.
    let crop = MaskCrop::new(image, mask, CROP_SCALE, Background::Kept, THUMBNAIL_PX, 1);
    let shown = Mask::from_fn([THUMBNAIL_PX; 2], |row, column| crop.patches()[row * THUMBNAIL_PX + column]);
    overlay(crop.image(), &Overlay { masks: &[shown], boxes_xyxy_px: &[], points_xy_px: &[] })
}

fn write(out: &Path, shown: &page::Shown<'_>, arguments: &NeighboursArguments, model: &str) -> Result<(), Failure> {
    std::fs::create_dir_all(out).with_context(|| format!("making {}", out.display()))?;
    let save = |name: &str, text: String| {
        let path = out.join(name);
        sam_files::write_atomically(&path, text).map(drop).with_context(|| path.display().to_string())
    };
    let of = format!("{} ({model}) on {}", arguments.checkpoint.display(), arguments.data.display());
    save(PAGE, shown.page(&format!("Neighbours: {of}"))?.html()?)?;
    save(RESULTS, shown.json(&of)? + "\n")?;
    Ok(())
}

fn print(shown: &page::Shown<'_>, page: &Path) -> Result<(), Failure> {
    let mut out = output();
    writeln!(out, "{} objects", shown.objects.len())?;
    writeln!(out, "{}", aligned(&shown.table()).trim_end())?;
    writeln!(out, "pictures: {}", page.display())?;
    Ok(())
}
