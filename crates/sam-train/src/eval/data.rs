//! The data sets of an evaluation, looked through before anything is computed: bad annotations show in seconds and not after
//! an hour, and progress knows how much there is to do.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{anyhow, bail};
use sam_data::loader::{SampleError, Samples};
use sam_data::{OnBad, Sample, Source, SourceOptions, Split};
use sam_eval::{EvalError, EvalSet};
use sam_image::Rle;

use super::plan::{DataPlan, EvalPlan};
use crate::failure::{BadInput, Failure};
use crate::names::unique;

/// A data set, open.
pub(crate) struct OpenSet {
    pub(crate) source: Arc<Source>,
    pub(crate) set: EvalSet,
    pub(crate) n_objects: usize,
    /// Left out under `--drop-bad`.
    pub(crate) n_wholly_ignored: usize,
}

/// Opens all of them, and says on standard error what was decided and left out.
pub(crate) fn open(plan: &EvalPlan) -> Result<Vec<OpenSet>, Failure> {
    let names = names(&plan.data);
    let mut sets = Vec::new();
    for (data, name) in plan.data.iter().zip(names) {
        let open = open_one(data, &name)?;
        let mut err = std::io::stderr();
        for note in open.source.notes() {
            writeln!(err, "note: {name}: {note}")?;
        }
        for (kind, count) in open.source.tally() {
            writeln!(err, "{name}: {count} x {}", serde_json::json!(kind).as_str().unwrap_or_default())?;
        }
        if open.n_wholly_ignored > 0 {
            writeln!(err, "{name}: left out {} objects that are wholly ignored", open.n_wholly_ignored)?;
        }
        sets.push(open);
    }
    Ok(sets)
}

fn open_one(data: &DataPlan, name: &str) -> Result<OpenSet, Failure> {
    let mut options = data.options.clone();
    // A part of a split file is no part of the data set's own split.
    let part = if data.split_file.is_some() { options.split.take() } else { None };
    let source = Arc::new(Source::open(&data.path, &options).bad_input()?);
    let countable = Countable { source: Arc::clone(&source), options };
    let classes = source.classes().to_vec();
    let mut set = EvalSet::new(name, Arc::new(countable), &classes);
    if let Some(file) = &data.split_file {
        set.indices = part_of(&source, file, part.as_deref()).bad_input()?;
    }
    let set = set.at_most(data.max_images.unwrap_or(usize::MAX));
    let (n_objects, n_wholly_ignored) = count(&source, &set).bad_input()?;
    Ok(OpenSet { source, set, n_objects, n_wholly_ignored })
}

fn part_of(source: &Source, file: &Path, part: Option<&str>) -> anyhow::Result<Vec<usize>> {
    let split = Split::load(source, file)?;
    let indices = match part.unwrap_or("val") {
        "train" => split.train,
        "val" => split.val,
        "test" => split.test,
        other => bail!("part must be train, val or test of {}, got {other}", file.display()),
    };
    if indices.is_empty() {
        bail!("{}: the part {} has no image", file.display(), part.unwrap_or("val"));
    }
    Ok(indices)
}

/// How many objects count, and how many do not because every pixel of them is ignored.
fn count(source: &Source, set: &EvalSet) -> anyhow::Result<(usize, usize)> {
    let (mut n_objects, mut n_wholly_ignored) = (0, 0);
    for &index in &set.indices {
        let annotations = source.objects(index)?;
        for object in &annotations.objects {
            if !is_wholly_ignored(&object.mask, annotations.ignore.as_ref())? {
                n_objects += 1;
            } else if source.options().bad == OnBad::Drop {
                n_wholly_ignored += 1;
            } else {
                let (image, object_id) = (source.name(index), object.id);
                return Err(EvalError::EmptyObject { image, object_id, what: "wholly ignored" })
                    .map_err(|error| anyhow!("{error}; --drop-bad leaves them out and counts them"));
            }
        }
    }
    if n_objects == 0 {
        bail!("{}: {} images hold no object to be evaluated", set.name, set.indices.len());
    }
    Ok((n_objects, n_wholly_ignored))
}

fn is_wholly_ignored(mask: &Rle, ignore: Option<&Rle>) -> Result<bool, sam_image::ImageError> {
    let Some(ignore) = ignore else { return Ok(false) };
    Ok(Rle::intersection(&[mask.clone(), ignore.clone()])?.area_px() == mask.area_px())
}

/// A source without the objects that nothing can be said of, where it may leave out what is bad.
struct Countable {
    source: Arc<Source>,
    options: SourceOptions,
}

impl Samples for Countable {
    fn n_samples(&self) -> usize {
        self.source.len()
    }

    fn sample(&self, index: usize) -> Result<Sample, SampleError> {
        let mut sample = self.source.sample(index)?;
        if self.options.bad == OnBad::Drop {
            let mut objects = Vec::with_capacity(sample.objects.len());
            for object in sample.objects {
                if !is_wholly_ignored(&object.mask, sample.ignore.as_ref())? {
                    objects.push(object);
                }
            }
            sample.objects = objects;
        }
        Ok(sample)
    }
}

/// Short names, all different: they are in full names of metrics.
fn names(data: &[DataPlan]) -> Vec<String> {
    let short = |data: &DataPlan| {
        let stem = data.path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        data.name.clone().or(stem).unwrap_or_else(|| data.path.display().to_string())
    };
    unique(data.iter().map(short).collect(), data.iter().map(|data| data.path.display().to_string()).collect())
}
