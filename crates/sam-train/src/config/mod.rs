//! The two stages of a configuration: what a person typed becomes the checked plan of a run.
//!
//! - [`document`]: the TOML file with every `--set` applied ([`precedence`]), or the [`options`] of a command; each value has its line or its
//!   option.
//! - [`reader`]: typed values from it, with all errors reported together; [`suggestion`] finds the nearest key.
//! - [`plan`]: the plan of any task: [`train`], [`pretrain`], [`evaluate`] (with [`zero_shot`]) or [`probe`].
//! - Their sections: [`evaluate_text`], [`model`] and [`model_sizes`], [`data`] and [`files`], [`cache`], [`learning`], [`distil`], [`run`],
//!   [`also`], [`measure`].
//! - [`resume`]: the plan of a run that is resumed.
//! - `schema.rs`: the JSON Schema of all configurations, from the [`shape`]s that reading records and the [`sentences`] on the keys.
//!
//! A new section is a `read` in a file of its own, a field of the plan, and a line in the plan's `read`. A new task is a
//! variant of [`Plan`].

pub(crate) mod also;
pub(crate) mod cache;
pub(crate) mod data;
pub(crate) mod data_source;
pub(crate) mod distil;
mod document;
pub(crate) mod evaluate;
pub(crate) mod evaluate_text;
pub(crate) mod files;
pub(crate) mod gate;
mod learning;
mod limits;
mod lora;
mod measure;
pub(crate) mod model;
mod model_sizes;
mod options;
mod plan;
mod precedence;
pub(crate) mod pretrain;
pub(crate) mod probe;
mod problems;
mod ranges;
mod reader;
mod resume;
pub(crate) mod run;
mod schema;
mod sentences;
mod shape;
mod suggestion;
#[cfg(test)]
mod tests;
mod text;
pub(crate) mod train;
pub(crate) mod zero_shot;

pub(crate) use distil::TEACHER;
pub(crate) use document::Document;
pub(crate) use evaluate::EvaluatePlan;
pub(crate) use options::Options;
pub(crate) use plan::{CLIP, Plan, TRAIN, Task, VALIDATION};
pub(crate) use pretrain::PretrainPlan;
pub(crate) use probe::ProbePlan;
pub(crate) use problems::ConfigError;
pub(crate) use reader::Paths;
pub(crate) use resume::check_resume;
pub(crate) use schema::schema;
pub(crate) use train::TrainPlan;
