//! `task = "train"`: a configuration as it is typed becomes the plan of a run, with every default and every derived
//! number.

use sam_learn::options::{
    LogOptions, LossOptions, OptimiserOptions, PromptOptions, RunOptions, ScheduleOptions, ValidationOptions,
};
use serde::{Deserialize, Serialize};

use super::data::DataPlan;
use super::document::Document;
use super::learning::{read_loss, read_optimiser, read_prompts, read_schedule};
use super::model::ModelPlan;
use super::problems::ConfigError;
use super::reader::{Paths, Reader};
use super::run::{ResultPlan, read_log, read_run, read_validation};
use super::{Task, read_task};

/// Everything that decides a run. It is printed before the run, saved with it, and read again to go on with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TrainPlan {
    /// Where it happens.
    pub(crate) run: RunOptions,
    /// Which network, from which weights.
    pub(crate) model: ModelPlan,
    /// What is learned from and validated on.
    pub(crate) data: DataPlan,
    /// How the annotator is simulated.
    pub(crate) prompts: PromptOptions,
    /// What is minimised.
    pub(crate) loss: LossOptions,
    /// How gradients become steps.
    pub(crate) optimiser: OptimiserOptions,
    /// How many steps, at which rates.
    pub(crate) schedule: ScheduleOptions,
    /// What it is judged by.
    pub(crate) validation: ValidationOptions,
    /// What it says on the way.
    pub(crate) log: LogOptions,
    /// What it leaves behind.
    pub(crate) result: ResultPlan,
}

impl TrainPlan {
    /// The plan of a configuration.
    ///
    /// # Errors
    ///
    /// With everything that is wrong, each with its line.
    pub(crate) fn read(document: &Document, paths: Paths) -> Result<Self, ConfigError> {
        let reader = Reader::new(document, paths);
        let task = read_task(&reader);
        if task != Task::Train {
            // The keys of another task would all be unknown, and only this is to blame.
            let message = format!("task must be \"train\" for a training run, got \"{}\"", task.name());
            return Err(reader.end_with("task", message));
        }
        let optimiser = read_optimiser(&reader);
        let schedule = read_schedule(&reader);
        let model = ModelPlan::read(&reader);
        let plan = Self {
            run: read_run(&reader),
            data: DataPlan::read(&reader, optimiser.accumulation),
            prompts: read_prompts(&reader),
            loss: read_loss(&reader),
            validation: read_validation(&reader, schedule.steps),
            log: read_log(&reader),
            result: ResultPlan::read(&reader, model.image_size()),
            model,
            optimiser,
            schedule,
        };
        reader.finish()?;
        Ok(plan)
    }

    /// As it is printed and saved; [`super::ResumablePlan::resumed`] reads it again.
    ///
    /// # Errors
    ///
    /// When a number does not fit into TOML, which [`TrainPlan::read`] makes sure of.
    pub(crate) fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }
}
