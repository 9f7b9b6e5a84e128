//! Training and validation data of a probe, checked before any image is encoded: classes, parts, and images whose header
//! cannot be read.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use anyhow::{anyhow, bail};
use sam_data::loader::Samples;
use sam_data::{ClassFolders, DataError, OnBad, Source, Split, SplitRule};
use sam_learn::probe::{Labels, ProbeSet};

use crate::config::ProbePlan;
use crate::config::files::FilesPlan;
use crate::config::probe::Subject;
use crate::progress::Waiting;
use crate::survey::{DropOption, Purpose, SurveyedSource, lines};

/// The fraction that is held out by default.
const HOLD_OUT: f64 = 0.2;

/// Names that a message lists; the rest is counted.
const SPELT_OUT: usize = 5;

/// Classes and both parts.
pub(crate) struct ProbeData {
    pub(crate) subject: Subject,
    pub(crate) classes: Vec<ClassCount>,
    pub(crate) train: ProbeSet,
    pub(crate) val: ProbeSet,
    /// What was excluded, a sentence each.
    pub(crate) excluded: Vec<String>,
}

/// The samples of a class.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub(crate) struct ClassCount {
    pub(crate) name: String,
    /// Training samples.
    pub(crate) n_train: usize,
    /// Validation samples.
    pub(crate) n_val: usize,
}

/// A set of images, with classes of either kind.
enum Set {
    Images(Arc<ClassFolders>),
    Objects(Arc<Source>),
}

impl ProbeData {
    pub(crate) fn open(plan: &ProbePlan) -> anyhow::Result<Self> {
        let files = &plan.data.files;
        let set = Set::open(files, plan.probe.of)?;
        let subject = set.subject();
        let (mut train, mut val) = match &plan.data.validation {
            Some(path) => {
                let validation = Set::open(&FilesPlan { path: path.clone(), ..files.clone() }, Some(subject))?;
                (Part::of(&set, (0..set.len()).collect()), Part::of(&validation, (0..validation.len()).collect()))
            }
            None => {
                let (train, val) = set.parts(plan)?;
                (Part::of(&set, train), Part::of(&set, val))
            }
        };
        let bad = files.options.bad;
        let mut excluded = set.excluded(bad)?;
        for part in [&mut train, &mut val] {
            if let Some(n) = plan.data.selection.max_images {
                part.keep_at_most(n);
            }
            excluded.extend(part.look_at_all()?);
            excluded.extend(part.read_classes(bad)?);
        }
        let counts = count(&train, &val)?;
        let classes = select(counts, plan.data.min_samples, subject, &mut excluded)?;
        let names: Vec<&str> = classes.iter().map(|class| class.name.as_str()).collect();
        Ok(Self { subject, train: train.labelled(&names), val: val.labelled(&names), excluded, classes })
    }

    /// "6 classes; trained on 159 objects of 24 images, ..".
    pub(crate) fn print(&self, out: &mut impl Write) -> std::io::Result<()> {
        let sum = |count: fn(&ClassCount) -> usize| self.classes.iter().map(count).sum::<usize>();
        let of = |n_samples: usize, part: &ProbeSet| match self.subject {
            Subject::Images => counted(n_samples, "image"),
            Subject::Objects => {
                format!("{} of {}", counted(n_samples, "object"), counted(part.indices.len(), "image"))
            }
        };
        let (train, val) = (of(sum(|c| c.n_train), &self.train), of(sum(|c| c.n_val), &self.val));
        writeln!(out, "{}; trained on {train}, validated on {val}", counted(self.classes.len(), "class"))?;
        self.excluded.iter().try_for_each(|what| writeln!(out, "excluded: {what}"))
    }
}

impl Clone for Set {
    fn clone(&self) -> Self {
        match self {
            Self::Images(folders) => Self::Images(Arc::clone(folders)),
            Self::Objects(source) => Self::Objects(Arc::clone(source)),
        }
    }
}

impl Set {
    fn open(files: &FilesPlan, subject: Option<Subject>) -> anyhow::Result<Self> {
        let FilesPlan { path, options } = files;
        let _waiting = Waiting::reading(path);
        let images = || ClassFolders::open(path, options);
        match subject {
            Some(Subject::Images) => Ok(Self::Images(Arc::new(images()?))),
            Some(Subject::Objects) => Ok(Self::Objects(files.open().map_err(|error| DropOption::Flag.advise(error))?)),
            None => match files.open() {
                Ok(source) => Ok(Self::Objects(source)),
                // Only a folder without a known format of objects may be one of images by class.
                Err(unknown @ DataError::UnknownFormat { .. }) if path.is_dir() => match images() {
                    Ok(folders) => Ok(Self::Images(Arc::new(folders))),
                    Err(no_images) => Err(anyhow!("{no_images}. As a data set of objects: {unknown}")),
                },
                Err(error) => Err(DropOption::Flag.advise(error)),
            },
        }
    }

    fn subject(&self) -> Subject {
        match self {
            Self::Images(_) => Subject::Images,
            Self::Objects(_) => Subject::Objects,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Images(folders) => folders.len(),
            Self::Objects(source) => source.len(),
        }
    }

    fn name(&self, index: usize) -> String {
        match self {
            Self::Images(folders) => folders.name(index).to_owned(),
            Self::Objects(source) => source.name(index),
        }
    }

    fn classes(&self) -> &[String] {
        match self {
            Self::Images(folders) => folders.classes(),
            Self::Objects(source) => source.classes(),
        }
    }

    fn given_split(&self, index: usize) -> Option<&str> {
        match self {
            Self::Images(folders) => folders.given_split(index),
            Self::Objects(source) => source.given_split(index),
        }
    }

    fn samples(&self) -> Arc<dyn Samples> {
        match self {
            Self::Images(folders) => folders.clone(),
            Self::Objects(source) => source.clone(),
        }
    }

    /// The classes of the samples of an image, without decoding it.
    fn classes_of(&self, index: usize) -> Result<Vec<Option<usize>>, DataError> {
        match self {
            Self::Images(folders) => folders.check_header(index).map(|()| vec![Some(folders.class(index))]),
            Self::Objects(source) => Ok(source.objects(index)?.objects.iter().map(|object| object.class).collect()),
        }
    }

    /// Images without a class.
    fn excluded(&self, bad: OnBad) -> anyhow::Result<Vec<String>> {
        match self {
            Self::Objects(source) => {
                let mut err = crate::output::errors();
                source.notes().iter().try_for_each(|note| writeln!(err, "note: {note}"))?;
                Ok(Vec::new())
            }
            Self::Images(folders) => {
                let stray = folders.without_class();
                let n = counted(stray.len(), "image");
                let what = format!("{n} beside the folders of classes: {}", listed(stray));
                match (stray.is_empty(), bad) {
                    (true, _) => Ok(Vec::new()),
                    (false, OnBad::Drop) => Ok(vec![what]),
                    (false, OnBad::Refuse) => {
                        bail!("{what}; move them, or skip them with --drop-bad (data.bad = \"drop\")")
                    }
                }
            }
        }
    }

    /// Training and validation images: of a split file, of the data set's own split, or by a hash of the names.
    fn parts(&self, plan: &ProbePlan) -> anyhow::Result<(Vec<usize>, Vec<usize>)> {
        if let Some(file) = &plan.data.selection.split_file {
            let Self::Objects(source) = self else {
                bail!(
                    "data.split_file (--split) is for a data set of objects; put images into folders train and val, or use \
                     data.hold_out (--hold-out)"
                );
            };
            let split = Split::load(source, file)?;
            if split.train.is_empty() || split.val.is_empty() {
                bail!("{}: the parts train and val must have images", file.display());
            }
            return Ok((split.train, split.val));
        }
        let of_part = |part: &str| -> Vec<usize> {
            (0..self.len()).filter(|&index| self.given_split(index) == Some(part)).collect()
        };
        if plan.data.hold_out.is_none() {
            let train = of_part("train");
            let val = ["val", "test"].map(of_part).into_iter().find(|part| !part.is_empty());
            if let Some(val) = val.filter(|_| !train.is_empty()) {
                return Ok((train, val));
            }
        }
        let names: Vec<String> = (0..self.len()).map(|index| self.name(index)).collect();
        let val = plan.data.hold_out.unwrap_or(HOLD_OUT);
        let split = Split::of_names(&names, &SplitRule { val, seed: plan.run.seed, ..SplitRule::default() });
        let split = split.map_err(|error| anyhow!("data.hold_out = {val}: {error}"))?;
        Ok((split.train, split.val))
    }
}

/// Some images of a set.
struct Part {
    set: Set,
    indices: Vec<usize>,
    /// The classes of the samples of each image, once they are read.
    classes: Vec<Vec<Option<usize>>>,
}

impl Part {
    fn of(set: &Set, indices: Vec<usize>) -> Self {
        Self { set: set.clone(), indices, classes: Vec::new() }
    }

    /// Spread evenly, because neighbouring images are often similar and of one class.
    fn keep_at_most(&mut self, n_images: usize) {
        let n = self.indices.len();
        if n_images < n {
            self.indices = (0..n_images).map(|at| self.indices[at * n / n_images]).collect();
        }
    }

    /// Looks at all images of a data set of objects, and excludes those that cannot be read; what is lost, line by line.
    fn look_at_all(&mut self) -> anyhow::Result<Vec<String>> {
        let Set::Objects(source) = &self.set else { return Ok(Vec::new()) };
        let surveyed = SurveyedSource::look_at(Arc::clone(source), &self.indices, Purpose::Evaluation)?;
        self.indices.retain(|&index| surveyed.survey.is_readable(index));
        Ok(lines(&source.root().display().to_string(), &surveyed.survey.losses))
    }

    /// Reads the classes; counts and names images whose header or annotations cannot be read.
    fn read_classes(&mut self, bad: OnBad) -> anyhow::Result<Option<String>> {
        let mut wrong = Vec::new();
        let (set, classes) = (&self.set, &mut self.classes);
        self.indices.retain(|&index| match set.classes_of(index) {
            Ok(found) => {
                classes.push(found);
                true
            }
            Err(error) => {
                wrong.push(error.to_string());
                false
            }
        });
        let what = format!("{} that cannot be read: {}", counted(wrong.len(), "image"), listed(&wrong));
        match (wrong.is_empty(), bad) {
            (true, _) => Ok(None),
            (false, OnBad::Drop) => Ok(Some(what)),
            (false, OnBad::Refuse) => bail!("{what}; repair them, or skip them with --drop-bad (data.bad = \"drop\")"),
        }
    }

    /// With labels as indices into the classes of the probe.
    fn labelled(self, classes: &[&str]) -> ProbeSet {
        let index = |name: &String| classes.iter().position(|class| class == name);
        let of_set: Vec<Option<usize>> = self.set.classes().iter().map(index).collect();
        let labels = match &self.set {
            Set::Objects(_) => Labels::Objects(of_set),
            Set::Images(folders) => {
                Labels::Images((0..folders.len()).map(|index| of_set[folders.class(index)]).collect())
            }
        };
        let mut indices = self.indices;
        if let Labels::Images(classes) = &labels {
            indices.retain(|&index| classes[index].is_some());
        }
        ProbeSet { samples: self.set.samples(), indices, labels }
    }

    /// Samples of each class by name, and the number without a class.
    fn count(&self) -> (BTreeMap<&str, usize>, usize) {
        let (mut counts, mut without) = (BTreeMap::new(), 0);
        for class in self.classes.iter().flatten() {
            match class.and_then(|class| self.set.classes().get(class)) {
                Some(name) => *counts.entry(name.as_str()).or_default() += 1,
                None => without += 1,
            }
        }
        (counts, without)
    }
}

fn count(train: &Part, val: &Part) -> anyhow::Result<Vec<ClassCount>> {
    let ((n_train, without_train), (n_val, without_val)) = (train.count(), val.count());
    let names: BTreeSet<&str> = n_train.keys().chain(n_val.keys()).copied().collect();
    let of = |counts: &BTreeMap<&str, usize>, name: &str| counts.get(name).copied().unwrap_or_default();
    let counts: Vec<ClassCount> = names
        .into_iter()
        .map(|name| ClassCount { name: name.to_owned(), n_train: of(&n_train, name), n_val: of(&n_val, name) })
        .collect();
    if counts.is_empty() {
        let found = match without_train + without_val {
            0 => "no object at all".to_owned(),
            n => format!("{} without a class", counted(n, "object")),
        };
        bail!("a probe needs classes, got {found}; SA-1B and instance label images have none");
    }
    Ok(counts)
}

/// The classes that are classified; an error when there are not enough.
fn select(
    counts: Vec<ClassCount>,
    min_samples: Option<usize>,
    subject: Subject,
    excluded: &mut Vec<String>,
) -> anyhow::Result<Vec<ClassCount>> {
    let kind = match subject {
        Subject::Images => "image",
        Subject::Objects => "object",
    };
    let classes = match min_samples {
        Some(n) => {
            let is_enough = |class: &ClassCount| class.n_train >= n && class.n_val > 0;
            let (kept, rare): (Vec<ClassCount>, Vec<ClassCount>) = counts.into_iter().partition(is_enough);
            if !rare.is_empty() {
                let names: Vec<String> = rare.into_iter().map(|class| class.name).collect();
                excluded.push(format!("{} with few {kind}s: {}", counted(names.len(), "class"), listed(&names)));
            }
            kept
        }
        None => {
            let unknown: Vec<String> = counts
                .iter()
                .filter(|class| class.n_train == 0)
                .map(|class| format!("{} ({})", class.name, counted(class.n_val, kind)))
                .collect();
            if !unknown.is_empty() {
                bail!(
                    "{} without a training sample: {}; use another --seed (run.seed) or a smaller --hold-out (data.hold_out), \
                     or exclude rare classes with --min-samples 1 (data.min_samples)",
                    counted(unknown.len(), "class"),
                    listed(&unknown)
                );
            }
            counts
        }
    };
    if classes.len() < 2 {
        let got = classes.first().map_or_else(|| "none".to_owned(), |class| format!("{} alone", class.name));
        bail!("a probe needs at least two classes, got {got}");
    }
    let n_val: usize = classes.iter().map(|class| class.n_val).sum();
    if n_val == 0 {
        bail!("there is no {kind} for validation; use --val (data.validation), or a larger --hold-out (data.hold_out)");
    }
    Ok(classes)
}

/// "1 image", "2 images", "3 classes".
pub(crate) fn counted(n: usize, what: &str) -> String {
    let ending = match n {
        1 => "",
        _ if what.ends_with('s') => "es",
        _ => "s",
    };
    format!("{n} {what}{ending}")
}

/// The first few.
pub(crate) fn listed(names: &[String]) -> String {
    let shown = names.iter().take(SPELT_OUT).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > SPELT_OUT { format!("{shown}, ..") } else { shown }
}
