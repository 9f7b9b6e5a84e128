//! The two stages of a configuration: what a person typed becomes the checked plan of a run.
//!
//! - [`document`]: the TOML file with every `--set` applied; each value knows its line or its option.
//! - [`reader`]: typed values out of it, everything that is wrong told at once; [`suggestion`] says what was meant.
//! - [`train`]: the plan of a training run; its sections are in [`model`], [`data`], [`learning`] and [`run`].
//! - [`pretrain`]: the plan of a pre-training.
//! - [`resume`]: the plan of a run that goes on.
//!
//! A new section is a `read` in a file of its own, a field of the plan, and a line in [`TrainPlan::read`]. A new task
//! is a word in [`Task`] and a plan with a `read` like that one.

pub(crate) mod data;
pub(crate) mod data_source;
mod document;
mod learning;
pub(crate) mod model;
pub(crate) mod pretrain;
mod problems;
mod ranges;
mod reader;
mod resume;
pub(crate) mod run;
mod suggestion;
#[cfg(test)]
mod tests;
mod train;

pub(crate) use document::{Document, line_of};
pub(crate) use pretrain::PretrainPlan;
pub(crate) use problems::ConfigError;
pub(crate) use reader::Paths;
pub(crate) use resume::{ResumablePlan, check_resume};
pub(crate) use train::TrainPlan;

use reader::Reader;

/// What a configuration is for: the key `task` at its top.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Task {
    /// Promptable segmentation is learned.
    Train,
    /// A checkpoint is judged.
    Evaluate,
    /// An encoder is pre-trained.
    Pretrain,
}

impl Task {
    const ALL: [(&str, Task); 3] = [("train", Task::Train), ("evaluate", Task::Evaluate), ("pretrain", Task::Pretrain)];

    /// As it is typed.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, task)| *task == self).map_or("", |(name, _)| name)
    }

    /// What a configuration says it is for.
    ///
    /// # Errors
    ///
    /// When it is for nothing that there is.
    pub(crate) fn of(document: &Document) -> Result<Self, ConfigError> {
        let reader = Reader::new(document, Paths::MayBeMissing);
        let task = read_task(&reader);
        reader.finish_part()?;
        Ok(task)
    }
}

fn read_task(reader: &Reader<'_>) -> Task {
    reader.top().choice("task", Task::Train, &Task::ALL)
}
