//! The data sets of an evaluation. All annotations are read before anything is computed: errors show in seconds instead of
//! after an hour, and the number of objects is known for the progress bar.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{anyhow, bail};
use sam_data::loader::{SampleError, Samples};
use sam_data::random::RandomStream;
use sam_data::{ObjectMask, OnBad, Sample, Source, Split, Undecoded};
use sam_eval::{EvalError, EvalSet, SizeBucket};
use sam_image::Rle;

use crate::config::evaluate::{EvaluateDataPlan, SamplePlan};
use crate::config::files::SelectionPlan;
use crate::config::{EvaluatePlan, Plan};
use crate::failure::{BadInput, Failure};
use crate::names::unique;
use crate::progress::{Progress, Waiting};
use crate::survey::{DataLosses, DropOption, Purpose, SurveyedSource, lines};
use crate::train::{is_same_place, plan_of_run};

/// An open data set.
pub(crate) struct OpenSet {
    pub(crate) source: Arc<Source>,
    pub(crate) set: EvalSet,
    pub(crate) n_objects: usize,
    /// Dropped with `bad = "drop"`.
    pub(crate) n_wholly_ignored: usize,
    /// Sizes and classes that have an object, as in full names of metrics: `small`, `class:cat`.
    pub(crate) groups: BTreeSet<String>,
    /// `None` where no image is needed.
    pub(crate) losses: Option<DataLosses>,
}

/// Opens all of them, and prints to standard error what was detected and dropped.
pub(crate) fn open(plan: &EvaluatePlan) -> Result<Vec<OpenSet>, Failure> {
    let names = names(&plan.data);
    for note in trained_on(plan) {
        writeln!(crate::output::errors(), "note: {note}")?;
    }
    let mut sets = Vec::new();
    for (data, name) in plan.data.iter().zip(names) {
        let open = open_one(data, &name, if plan.uses_no_model() { Looks::AtAnnotations } else { Looks::AtAll })?;
        let mut err = crate::output::errors();
        for note in open.source.notes() {
            writeln!(err, "note: {name}: {note}")?;
        }
        for line in open.losses.iter().flat_map(|lost| lines(&name, &lost.losses)) {
            writeln!(err, "{line}")?;
        }
        if open.n_wholly_ignored > 0 {
            writeln!(err, "{name}: dropped {} objects that are wholly ignored", open.n_wholly_ignored)?;
        }
        sets.push(open);
    }
    Ok(sets)
}

/// Where a checkpoint is that of a run here, and the whole data set is asked for of which it was trained on a part.
fn trained_on(plan: &EvaluatePlan) -> Vec<String> {
    let mut notes = Vec::new();
    for checkpoint in &plan.model.checkpoints.checkpoint {
        let Some(Plan::Train(run)) = plan_of_run(checkpoint) else { continue };
        for data in plan.data.iter().filter(|data| data.selection.split_file.is_none()) {
            let is_whole = data.files.options.split.is_none();
            if is_whole && run.data.train.paths().into_iter().any(|path| is_same_place(path, &data.files.path)) {
                notes.push(format!(
                    "{} was trained on images of {}, which are measured, too: --part val has those of its own validation part, or \
                     --split FILE those of `sam-train data split`",
                    checkpoint.display(),
                    data.files.path.display()
                ));
            }
        }
    }
    notes
}

/// How much of a data set is looked at.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Looks {
    /// Given masks are scored: the images are not needed.
    AtAnnotations,
    AtAll,
}

fn open_one(data: &EvaluateDataPlan, name: &str, looks: Looks) -> Result<OpenSet, Failure> {
    let SelectionPlan { split_file, max_images } = &data.selection;
    let mut files = data.files.clone();
    // With a split file, the part is one of that file and not of the data set's own split.
    let part = if split_file.is_some() { files.options.split.take() } else { None };
    let waiting = Waiting::reading(&files.path);
    let source = files.open().map_err(|error| DropOption::Flag.advise(error)).bad_input()?;
    drop(waiting);
    let countable = Countable { source: Arc::clone(&source), bad: files.options.bad };
    let classes = source.classes().to_vec();
    let mut set = EvalSet::new(name, Arc::new(countable), &classes);
    if let Some(file) = split_file {
        set.indices = part_of(&source, file, part.as_deref().unwrap_or("val")).bad_input()?;
    }
    if let Some(sample) = &data.sample {
        let n_before = set.indices.len();
        let n_objects = draw(&source, &mut set.indices, sample);
        let n_drawn = set.indices.len();
        let of = format!("{n_drawn} of {n_before} images drawn at random, with {n_objects} objects");
        writeln!(crate::output::errors(), "{name}: {of}")?;
    }
    let mut set = set.at_most(max_images.unwrap_or(usize::MAX));
    let surveyed = match looks {
        Looks::AtAll => {
            Some(SurveyedSource::look_at(Arc::clone(&source), &set.indices, Purpose::Evaluation).bad_input()?)
        }
        Looks::AtAnnotations => None,
    };
    if let Some(surveyed) = &surveyed {
        surveyed.require_objects(&set.indices, "to evaluate on", "there is nothing to measure").bad_input()?;
        set.indices.retain(|&index| surveyed.survey.is_readable(index));
    }
    let Counts { n_objects, n_wholly_ignored, groups } = count(&source, &set).bad_input()?;
    let losses = surveyed.map(|surveyed| DataLosses { name: name.to_owned(), losses: surveyed.survey.losses });
    Ok(OpenSet { source, set, n_objects, n_wholly_ignored, groups, losses })
}

/// Keeps whole images at random until they have the wanted number of objects; returns how many they have. An image that cannot
/// be read has none here, and is reported with all others.
fn draw(source: &Source, indices: &mut Vec<usize>, sample: &SamplePlan) -> usize {
    RandomStream::named(sample.sample_seed, &[b"sample_objects"]).shuffle(indices);
    let mut progress = Progress::new("drawing objects", sample.sample_objects as u64);
    let (mut n_objects, mut n_images) = (0, 0);
    while n_objects < sample.sample_objects && n_images < indices.len() {
        n_objects += source.objects(indices[n_images]).map_or(0, |annotations| annotations.objects.len());
        n_images += 1;
        progress.set(n_objects as u64);
    }
    indices.truncate(n_images);
    indices.sort_unstable();
    n_objects
}

fn part_of(source: &Source, file: &Path, part: &str) -> anyhow::Result<Vec<usize>> {
    let split = Split::load(source, file)?;
    let indices = match part {
        "train" => split.train,
        "test" => split.test,
        _ => split.val,
    };
    if indices.is_empty() {
        bail!("{}: the part {part} has no image", file.display());
    }
    Ok(indices)
}

/// The beginnings of the full names of metrics: by data set, size and class.
pub(crate) fn places(sets: &[OpenSet]) -> BTreeSet<String> {
    let mut places = BTreeSet::new();
    for OpenSet { set, groups, .. } in sets {
        places.insert(set.name.to_string());
        for group in groups {
            places.insert(format!("{}/{group}", set.name));
            // Sizes have a mean over the data sets.
            if SizeBucket::ALL.iter().any(|size| size.name() == group) {
                places.insert(group.clone());
            }
        }
    }
    places
}

/// What a data set has to evaluate.
#[derive(Default)]
struct Counts {
    n_objects: usize,
    /// Dropped, because every pixel of them is ignored.
    n_wholly_ignored: usize,
    groups: BTreeSet<String>,
}

fn count(source: &Source, set: &EvalSet) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let mut progress = Progress::new("counting objects of images", set.indices.len() as u64);
    for (done, &index) in set.indices.iter().enumerate() {
        progress.set(done as u64);
        let annotations = source.objects(index).map_err(|error| DropOption::Flag.advise(error))?;
        for object in &annotations.objects {
            if !is_wholly_ignored(&object.mask, annotations.ignore.as_ref())? {
                counts.n_objects += 1;
                counts.groups.insert(SizeBucket::of(object.mask.area_px()).name().to_owned());
                if let Some(class) = object.class.and_then(|class| set.classes.get(class)) {
                    counts.groups.insert(format!("class:{class}"));
                }
            } else if source.options().bad == OnBad::Drop {
                counts.n_wholly_ignored += 1;
            } else {
                let (image, object_id) = (source.name(index), object.id);
                return Err(EvalError::EmptyObject { image, object_id, what: "wholly ignored" })
                    .map_err(|error| anyhow!("{error}; --drop-bad (data.bad = \"drop\") drops and counts them"));
            }
        }
    }
    if counts.n_objects == 0 {
        bail!("{}: {} images contain no object to evaluate", set.name, set.indices.len());
    }
    Ok(counts)
}

fn is_wholly_ignored(mask: &Rle, ignore: Option<&Rle>) -> Result<bool, sam_image::ImageError> {
    let Some(ignore) = ignore else { return Ok(false) };
    Ok(Rle::intersection(&[mask.clone(), ignore.clone()])?.area_px() == mask.area_px())
}

/// A source that drops wholly ignored objects, where bad data is dropped.
struct Countable {
    source: Arc<Source>,
    bad: OnBad,
}

impl Countable {
    fn countable(&self, objects: Vec<ObjectMask>, ignore: Option<&Rle>) -> Result<Vec<ObjectMask>, SampleError> {
        if self.bad != OnBad::Drop {
            return Ok(objects);
        }
        let mut countable = Vec::with_capacity(objects.len());
        for object in objects {
            if !is_wholly_ignored(&object.mask, ignore)? {
                countable.push(object);
            }
        }
        Ok(countable)
    }
}

impl Samples for Countable {
    fn n_samples(&self) -> usize {
        self.source.len()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        let sample = self.source.sample(index)?;
        let objects = self.countable(sample.objects, sample.ignore.as_ref())?;
        Ok(Sample { objects, ..sample })
    }

    fn undecoded(&self, index: usize) -> Result<Undecoded, SampleError> {
        let sample = self.source.undecoded(index)?;
        let objects = self.countable(sample.objects, sample.ignore.as_ref())?;
        Ok(Undecoded { objects, ..sample })
    }
}

/// Short, unique names: they are part of full names of metrics.
pub(super) fn names(data: &[EvaluateDataPlan]) -> Vec<String> {
    let path = |data: &EvaluateDataPlan| data.files.path.display().to_string();
    let short = |data: &EvaluateDataPlan| {
        let stem = data.files.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        data.name.clone().or(stem).unwrap_or_else(|| path(data))
    };
    unique(data.iter().map(short).collect(), data.iter().map(path).collect())
}
