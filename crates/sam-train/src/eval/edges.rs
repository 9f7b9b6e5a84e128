//! Edges on data sets in the layout of BSDS500: edge maps of checkpoints, or given ones, against the boundaries of people.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, anyhow};
use sam_data::{BoundarySet, OnBad, SourceOptions};
use sam_eval::{EdgeCounts, EdgeMap, EdgeTolerance, Metrics, Results, count_edges, edge_map, edge_metrics};
use sam_image::save_grey_png;
use sam_infer::Predictor;

use super::files::{self, ModelOutcome};
use super::{Finished, LoadedModel, finish, load_model, open_checkpoints, open_gate};
use crate::cli::{RunArguments, Verbosity};
use crate::config::EvaluatePlan;
use crate::config::zero_shot::EdgesPlan;
use crate::failure::{BadInput, Failure};
use crate::mask_files::write_image;
use crate::names;
use crate::output::errors;
use crate::progress::Progress;
use crate::survey::DropOption;

/// A data set of boundaries.
struct OpenBoundaries {
    name: String,
    set: BoundarySet,
    /// Of the images that are used.
    indices: Vec<usize>,
}

/// Runs an evaluation of edges. Every boundary is read before the first edge map is made.
pub(super) fn run_plan(plan: &EvaluatePlan, edges: &EdgesPlan, arguments: &RunArguments) -> Result<(), Failure> {
    let started = Instant::now();
    files::check_out(plan, arguments.force).bad_input()?;
    let gate = open_gate(plan).bad_input()?;
    let sets = open(plan)?;
    if let Some(gate) = &gate {
        gate.check_names(&plan.metric_names().bad_input()?).bad_input()?;
        gate.check_places(&sets.iter().map(|set| set.name.clone()).collect()).bad_input()?;
    }
    writeln!(errors(), "edges: {}", description(edges))?;
    let mut outcomes = Vec::new();
    if let Some(maps) = &edges.maps {
        let maps = GivenMaps::find(maps, &sets).bad_input()?;
        let name = maps.folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let about = [("edge maps", maps.folder.display().to_string())];
        outcomes.push(score(plan, edges, &sets, Model { name, about: &about, maps: Maps::Given(&maps) })?);
    }
    let is_quiet = arguments.verbosity.level() == Verbosity::Quiet;
    let checkpoints = open_checkpoints(plan).bad_input()?;
    let device = plan.run.measure.open_device().bad_input()?;
    let names = names::of_checkpoints(&plan.model.checkpoints.checkpoint);
    for ((checkpoint, name), path) in checkpoints.iter().zip(names).zip(&plan.model.checkpoints.checkpoint) {
        if checkpoints.len() > 1 && !is_quiet {
            writeln!(errors(), "evaluating {}", path.display())?;
        }
        let LoadedModel { sam, adapters } = load_model(plan, checkpoint, &device, is_quiet)?;
        let about = [("checkpoint", path.display().to_string()), ("model", checkpoint.description())];
        let about: Vec<_> = about.into_iter().chain(adapters).collect();
        let folder = plan.run.measure.out.as_deref().map(|out| match checkpoints.len() {
            1 => out.join(MAPS),
            _ => out.join(files::folder_name(&name)).join(MAPS),
        });
        let predictor = Predictor::new(&sam);
        let maps = Maps::Made { predictor: &predictor, folder: folder.as_deref() };
        outcomes.push(score(plan, edges, &sets, Model { name, about: &about, maps })?);
    }
    finish(plan, Finished { outcomes: &outcomes, tables: &[], started }, gate.as_ref())
}

/// The folder of edge maps in the folder of results.
const MAPS: &str = "edge_maps";

/// What a number depends on.
fn description(plan: &EdgesPlan) -> String {
    let made = plan.made.as_ref().map_or_else(
        || "given maps".to_owned(),
        |made| {
            format!(
                "outer boundary of masks, {0} x {0} points, box NMS {1}, suppression {2}",
                made.points_per_side,
                made.box_nms,
                made.suppression.name()
            )
        },
    );
    format!("{made}; matched within {} of the diagonal", plan.tolerance)
}

fn open(plan: &EvaluatePlan) -> Result<Vec<OpenBoundaries>, Failure> {
    let names = super::data::names(&plan.data);
    let mut sets = Vec::new();
    for (data, name) in plan.data.iter().zip(names) {
        let set = BoundarySet::open(&data.files.path, &data.files.options);
        let set = set.map_err(|error| DropOption::Flag.advise(error)).bad_input()?;
        for finding in set.without_truth() {
            writeln!(errors(), "{name}: dropped {finding}")?;
        }
        let n_used = data.selection.max_images.unwrap_or(usize::MAX).min(set.len());
        let chosen = (0..n_used).map(|at| at * set.len() / n_used);
        let mut progress = Progress::new("reading boundaries of images", n_used as u64);
        let mut indices = Vec::new();
        for (done, index) in chosen.enumerate() {
            progress.set(done as u64);
            match set.people(index) {
                Ok(_) => indices.push(index),
                Err(error) if data.files.options.bad == OnBad::Drop => {
                    writeln!(errors(), "{name}: dropped {}: {error}", set.name(index))?;
                }
                Err(error) => {
                    let advice = "--drop-bad (data.bad = \"drop\") drops and names such images";
                    return Err(anyhow!("{}: {error}. {advice}", set.name(index))).bad_input();
                }
            }
        }
        drop(progress);
        if indices.is_empty() {
            return Err(anyhow!("{name}: no image with boundaries that can be read")).bad_input();
        }
        sets.push(OpenBoundaries { name, set, indices });
    }
    Ok(sets)
}

/// Edge maps that somebody made.
struct GivenMaps {
    folder: PathBuf,
    /// By data set and place in its indices.
    paths: Vec<Vec<PathBuf>>,
}

impl GivenMaps {
    /// Finds the map of every image: in the folder of its data set or in the folder itself, named as the image.
    fn find(folder: &Path, sets: &[OpenBoundaries]) -> anyhow::Result<Self> {
        let mut paths = Vec::new();
        for OpenBoundaries { name, set, indices } in sets {
            let mut of_set = Vec::new();
            for &index in indices {
                let image = Path::new(set.name(index)).with_extension("png");
                let file = image.file_name().map(PathBuf::from).unwrap_or_default();
                let tried = [folder.join(name).join(&image), folder.join(&image), folder.join(&file)];
                let found = tried.iter().find(|path| path.is_file()).with_context(|| {
                    format!(
                        "{}: must hold the edge map of every image, got none called {}",
                        folder.display(),
                        image.display()
                    )
                })?;
                of_set.push(found.clone());
            }
            paths.push(of_set);
        }
        Ok(Self { folder: folder.to_path_buf(), paths })
    }
}

/// Where edge maps come from.
#[derive(Clone, Copy)]
enum Maps<'a> {
    Given(&'a GivenMaps),
    Made { predictor: &'a Predictor, folder: Option<&'a Path> },
}

struct Model<'a> {
    name: String,
    about: &'a [(&'a str, String)],
    maps: Maps<'a>,
}

/// The scores of one model on all data sets.
fn score(
    plan: &EvaluatePlan,
    edges: &EdgesPlan,
    sets: &[OpenBoundaries],
    model: Model<'_>,
) -> Result<ModelOutcome, Failure> {
    let started = Instant::now();
    let n_images: usize = sets.iter().map(|set| set.indices.len()).sum();
    let mut progress = Progress::new("edges of images", n_images as u64);
    let mut done = 0;
    let mut metrics: Vec<(String, Metrics)> = Vec::new();
    for (at, OpenBoundaries { name, set, indices }) in sets.iter().enumerate() {
        let mut counts: Vec<EdgeCounts> = Vec::new();
        for (place, &index) in indices.iter().enumerate() {
            let image = set.name(index);
            let (map, people) = match model.maps {
                Maps::Given(given) => (read_map(&given.paths[at][place]).bad_input()?, set.people(index).bad_input()?),
                Maps::Made { predictor, folder } => {
                    let sample = set.sample(index).bad_input()?;
                    let options = edges.made.as_ref().map(|made| made.options()).unwrap_or_default();
                    let map = edge_map(predictor, image, &sample.image, &options).map_err(Failure::of_evaluation)?;
                    if let Some(folder) = folder {
                        let path = folder.join(name).join(Path::new(image).with_extension("png"));
                        write_image(path, |temporary| save_grey_png(map.strength(), map.size_hw(), temporary))?;
                    }
                    (map, sample.people)
                }
            };
            let tolerance = EdgeTolerance(edges.tolerance);
            counts.push(count_edges(image, &map, &people, tolerance).map_err(Failure::of_evaluation)?);
            done += 1;
            progress.set(done);
        }
        metrics.push((name.clone(), edge_metrics(&counts).map_err(Failure::of_evaluation)?));
    }
    drop(progress);
    let results = Results::new(about(plan, edges, sets, model.about), Vec::new(), &metrics);
    let results = results.map_err(Failure::of_evaluation)?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(ModelOutcome { name: model.name, results, galleries: Vec::new(), segmentations: None, seconds })
}

/// The origin of the results.
fn about(
    plan: &EvaluatePlan,
    edges: &EdgesPlan,
    sets: &[OpenBoundaries],
    model: &[(&str, String)],
) -> BTreeMap<String, String> {
    let mut about = super::about(plan, &[], model);
    let of_set = |(set, data): (&OpenBoundaries, &crate::config::evaluate::EvaluateDataPlan)| {
        format!("{}: {}, {} images with boundaries", set.name, data.files.path.display(), set.indices.len())
    };
    let data: Vec<String> = sets.iter().zip(&plan.data).map(of_set).collect();
    about.insert("data".to_owned(), data.join("; "));
    about.insert("edges".to_owned(), description(edges));
    about
}

/// Reads a grey image.
fn read_map(path: &Path) -> anyhow::Result<EdgeMap> {
    let image = sam_data::read_image_file(path, &SourceOptions::default())?;
    if let Some(colour) = image.pixels().find(|pixel| pixel.0 != [pixel.0[0]; 3]) {
        return Err(anyhow!("{}: an edge map must be grey, got the colour {:?}", path.display(), colour.0));
    }
    let size_hw = [image.height() as usize, image.width() as usize];
    Ok(EdgeMap::new(size_hw, image.pixels().map(|pixel| pixel.0[0]).collect()))
}
