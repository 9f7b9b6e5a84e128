//! The plan of any task.

use std::path::{Path, PathBuf};

use sam_data::SourceOptions;
use sam_learn::options::{LogOptions, RunOptions, ScheduleOptions, ValidationOptions};
use serde::Serialize;

use super::also::ALSO;
use super::data_source::{DataSource, Validation, WeightedSource};
use super::distil::TEACHER;
use super::document::Document;
use super::evaluate::EvaluatePlan;
use super::pretrain::{HeldOutPlan, PretrainPlan};
use super::probe::ProbePlan;
use super::problems::ConfigError;
use super::reader::{Paths, Reader, Recorded};
use super::train::TrainPlan;

/// Key of the training data.
pub(crate) const TRAIN: &str = "data.train";
/// Key of data to validate on.
pub(crate) const VALIDATION: &str = "data.validation";
/// Key of the CLIP of text prompts.
pub(crate) const CLIP: &str = "prompts.text.clip";
/// Key of a split's file.
const SPLIT_FILE: &str = "data.split.file";

/// A checked configuration with every default and every derived number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Plan {
    /// Promptable segmentation is trained, perhaps with a teacher.
    Train(Box<TrainPlan>),
    /// An encoder is pre-trained.
    Pretrain(Box<PretrainPlan>),
    /// Checkpoints are evaluated on data sets.
    Evaluate(Box<EvaluatePlan>),
    /// Classifiers are fitted to the features of encoders.
    Probe(Box<ProbePlan>),
}

/// The key `task` at the top of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    Train,
    Distil,
    Pretrain,
    Evaluate,
    Probe,
}

impl Task {
    pub(super) const ALL: [(&str, Task); 5] = [
        ("train", Task::Train),
        ("distil", Task::Distil),
        ("pretrain", Task::Pretrain),
        ("evaluate", Task::Evaluate),
        ("probe", Task::Probe),
    ];

    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, task)| *task == self).map_or("", |(name, _)| name)
    }

    /// A plan of this task, as it is printed and saved.
    ///
    /// # Errors
    ///
    /// When a number does not fit into TOML.
    pub(crate) fn to_toml(self, plan: &impl Serialize) -> Result<String, toml::ser::Error> {
        Ok(format!("task = \"{}\"\n\n{}", self.name(), toml::to_string(plan)?))
    }
}

/// The sections that every run with steps has, and what can change in them on resume.
pub(super) struct RunSections<'p> {
    pub(super) run: &'p mut RunOptions,
    /// `data.workers`
    pub(super) workers: &'p mut usize,
    /// `data.prefetch`
    pub(super) prefetch: &'p mut usize,
    /// How the data sets on disk are read.
    pub(super) options: Vec<&'p mut SourceOptions>,
    pub(super) schedule: &'p mut ScheduleOptions,
    pub(super) validation: &'p mut ValidationOptions,
    pub(super) log: &'p mut LogOptions,
}

impl Plan {
    /// The plan of a configuration.
    ///
    /// # Errors
    ///
    /// With all errors, each with its line or option.
    pub(crate) fn read(document: &Document, paths: Paths) -> Result<Self, ConfigError> {
        Ok(Self::read_resolved(document, paths)?.0)
    }

    /// As [`Plan::read`], and the configuration with every default, which has the same plan.
    ///
    /// # Errors
    ///
    /// As [`Plan::read`].
    pub(crate) fn read_resolved(document: &Document, paths: Paths) -> Result<(Self, String), ConfigError> {
        let reader = Reader::new(document, paths);
        let task = reader.top().choice("task", Task::Train, &Task::ALL);
        // With the keys of another task, all others would be unknown.
        reader.finish_part()?;
        let plan = match task {
            Task::Train | Task::Distil => Self::Train(Box::new(TrainPlan::read(&reader, task))),
            Task::Pretrain => Self::Pretrain(Box::new(PretrainPlan::read(&reader))),
            Task::Evaluate => Self::Evaluate(Box::new(EvaluatePlan::read(&reader))),
            Task::Probe => Self::Probe(Box::new(ProbePlan::read(&reader))),
        };
        plan.check_memory(&reader);
        let resolved = reader.resolved();
        reader.finish()?;
        Ok((plan, resolved))
    }

    /// What reading a document of this task asks for, whatever else is wrong with it.
    pub(super) fn record(task: Task, document: &Document) -> Recorded {
        let reader = Reader::new(document, Paths::MayBeMissing);
        reader.top().choice("task", Task::Train, &Task::ALL);
        match task {
            Task::Train | Task::Distil => drop(TrainPlan::read(&reader, task)),
            Task::Pretrain => drop(PretrainPlan::read(&reader)),
            Task::Evaluate => drop(EvaluatePlan::read(&reader)),
            Task::Probe => drop(ProbePlan::read(&reader)),
        }
        reader.into_recorded()
    }

    /// Reports sizes that together take more memory than any machine has for them.
    pub(super) fn check_memory(&self, reader: &Reader<'_>) {
        match self {
            Self::Train(plan) => plan.check_memory(reader),
            Self::Pretrain(plan) => plan.check_memory(reader),
            Self::Evaluate(_) | Self::Probe(_) => {}
        }
    }

    pub(crate) fn task(&self) -> Task {
        match self {
            Self::Train(plan) => plan.task(),
            Self::Pretrain(_) => Task::Pretrain,
            Self::Evaluate(_) => Task::Evaluate,
            Self::Probe(_) => Task::Probe,
        }
    }

    /// See [`Task::to_toml`]. The plan of an evaluation or a probe is a configuration again.
    ///
    /// # Errors
    ///
    /// When a number does not fit into TOML.
    pub(crate) fn to_toml(&self) -> Result<String, toml::ser::Error> {
        match self {
            Self::Train(plan) => self.task().to_toml(plan),
            Self::Pretrain(plan) => self.task().to_toml(plan),
            Self::Evaluate(plan) => self.task().to_toml(plan),
            Self::Probe(plan) => self.task().to_toml(plan),
        }
    }

    /// Sets the folder of a run, which may have been moved.
    pub(crate) fn set_folder(&mut self, folder: &Path) {
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        if let Self::Train(plan) = self {
            plan.cache.follow(&plan.run.dir, &folder);
        }
        if let Some(sections) = self.run_sections() {
            sections.run.dir = folder;
        }
    }

    /// The data sets and files of a run, by the key that names each: on resume they may be at another place.
    pub(super) fn input_paths(&mut self) -> Vec<(String, &mut PathBuf)> {
        let mut paths = Vec::new();
        let train = match self {
            Self::Train(plan) => {
                match &mut plan.data.validation {
                    Validation::Files(files) => paths.push((VALIDATION.to_owned(), &mut files.path)),
                    Validation::SplitFile(path) => paths.push((SPLIT_FILE.to_owned(), path)),
                    Validation::Nothing
                    | Validation::Synth(_)
                    | Validation::Auto
                    | Validation::Given
                    | Validation::Rule(_)
                    | Validation::OfSources => {}
                }
                for (at, also) in plan.also.iter_mut().enumerate() {
                    paths.push((format!("{ALSO}[{at}].path"), &mut also.files.path));
                }
                if let Some(distil) = &mut plan.distil {
                    paths.push((TEACHER.to_owned(), &mut distil.teacher));
                }
                if let Some(text) = &mut plan.prompts.text {
                    paths.push((CLIP.to_owned(), &mut text.clip));
                }
                &mut plan.data.train
            }
            Self::Pretrain(plan) => {
                if let HeldOutPlan::Images(path) = &mut plan.data.held_out {
                    paths.push((VALIDATION.to_owned(), path));
                }
                &mut plan.data.train
            }
            Self::Evaluate(_) | Self::Probe(_) => return paths,
        };
        match train {
            DataSource::Synth(_) => {}
            DataSource::Files(files) => paths.push((TRAIN.to_owned(), &mut files.path)),
            DataSource::Several(sources) => {
                for (at, WeightedSource { files, split, .. }) in sources.iter_mut().enumerate() {
                    paths.push((format!("data.sources[{at}].path"), &mut files.path));
                    if let Some(Validation::SplitFile(path)) = split {
                        paths.push((format!("data.sources[{at}].split.file"), path));
                    }
                }
            }
        }
        paths
    }

    pub(super) fn run_sections(&mut self) -> Option<RunSections<'_>> {
        match self {
            Self::Train(plan) => Some(RunSections {
                run: &mut plan.run,
                workers: &mut plan.data.workers,
                prefetch: &mut plan.data.prefetch,
                options: {
                    let own = plan.data.train.options_mut().into_iter().chain(plan.data.validation.options_mut());
                    own.chain(plan.also.iter_mut().map(|also| &mut also.files.options)).collect()
                },
                schedule: &mut plan.schedule,
                validation: &mut plan.validation,
                log: &mut plan.log,
            }),
            Self::Pretrain(plan) => Some(RunSections {
                run: &mut plan.run,
                workers: &mut plan.data.workers,
                prefetch: &mut plan.data.prefetch,
                options: plan.data.train.options_mut().into_iter().collect(),
                schedule: &mut plan.schedule,
                validation: &mut plan.validation,
                log: &mut plan.log,
            }),
            Self::Evaluate(_) | Self::Probe(_) => None,
        }
    }
}
