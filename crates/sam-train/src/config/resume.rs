//! Resuming a run: its plan comes from its folder, and few keys may change.
//!
//! A resumed run continues as if it had never stopped, so whatever decides a step is fixed. The number of steps, the device
//! and the output may change, and data may be at another place (the session checks that it is the same data).

use std::fmt;
use std::path::{Path, PathBuf};

use sam_data::is_cloud;
use serde::Deserialize;
use toml::de::{DeTable, Deserializer};

use super::data::{change_loading, change_reading};
use super::document::{Document, Override, line_of};
use super::limits::impossible_numbers;
use super::plan::{Plan, RunSections, Task};
use super::problems::{ConfigError, Place, Problem};
use super::reader::{Paths, Reader};
use super::run::{change_log, change_run, change_validation, check_validation};

/// Keys that may change on resume; a section stands for all its keys.
pub(super) const CHANGEABLE: [&str; 24] = [
    "run.name",
    "run.device",
    "run.devices",
    "run.threads",
    "data.workers",
    "data.prefetch",
    "data.max_pixels",
    // As a plan has it.
    "data.train.files.options.max_pixels",
    "data.train.several.files.options.max_pixels",
    "data.validation.files.options.max_pixels",
    "validation_also.files.options.max_pixels",
    "data.cloud_cache_dir",
    "data.train.files.options.cloud_cache_dir",
    "data.train.several.files.options.cloud_cache_dir",
    "data.validation.files.options.cloud_cache_dir",
    "validation_also.files.options.cloud_cache_dir",
    "cache.dir",
    "cache.max_gib",
    "schedule.steps",
    "validation.every_steps",
    "validation.patience",
    "validation.baseline",
    "log",
    "result",
];

const SAME_NUMBERS: &str = "sums would be rounded differently or random draws come in another order";
const SAME_SCORES: &str = "scores before and after could not be compared, and the best checkpoint could not be chosen";
const SAME_BATCHES: &str = "the next batches would not be those of the run";
const SAME_OBJECTIVE: &str = "the run would continue with another objective";

/// Why other keys are fixed, by key or section. The first that matches counts.
const REASONS: [(&str, &str); 22] = [
    ("task", "a run keeps its task"),
    ("run.dir", "the folder is that of the resumed run"),
    ("run.seed", "all random draws of the run depend on it"),
    ("run.parallel", SAME_NUMBERS),
    ("run.activations", SAME_NUMBERS),
    ("run.precision", SAME_NUMBERS),
    ("model", "the weights of the run started from it and have these sizes"),
    ("cache", "rounded embeddings give other numbers than exact ones"),
    ("data.validation", SAME_SCORES),
    ("data.validation_synth", SAME_SCORES),
    ("data.held_out", SAME_SCORES),
    ("data", SAME_BATCHES),
    ("images_per_step", SAME_BATCHES),
    ("prompts", SAME_OBJECTIVE),
    ("loss", SAME_OBJECTIVE),
    ("mae", SAME_OBJECTIVE),
    ("distil", SAME_OBJECTIVE),
    ("lora", "the adapters of the run have this shape"),
    ("optimiser", "the optimiser's moments belong to it"),
    ("schedule", "the learning rates of the finished steps follow from it"),
    ("validation", SAME_SCORES),
    ("validation_also", SAME_SCORES),
];

impl Plan {
    /// The plan that was saved with a run, for the run in `folder`, changed by `--set`.
    ///
    /// # Errors
    ///
    /// When the text is not a plan, or an override has a wrong value or sets a key that is fixed.
    pub(crate) fn resumed(saved: &Path, folder: &Path, sets: &[String]) -> Result<Self, ConfigError> {
        let mut plan = read_saved(saved)?;
        plan.set_folder(folder);
        let document = Document::parse("--set", PathBuf::new(), "", sets)?;
        let movable: Vec<String> = plan.input_paths().into_iter().map(|(key, _)| key).collect();
        reject_fixed(&document, &movable)?;
        let reader = Reader::new(&document, Paths::MustExist);
        plan.change(&reader);
        reader.finish()?;
        Ok(plan)
    }

    /// What to say of data that is not where it was.
    pub(crate) fn missing_data(&self) -> Option<String> {
        let mut plan = self.clone();
        let missing = plan.input_paths().into_iter().find(|(_, path)| !is_cloud(path) && !path.exists());
        missing.map(|(key, path)| {
            let path = path.display();
            format!("{key}: {path} does not exist; give the place of this data with --set {key}=PATH")
        })
    }

    fn change(&mut self, reader: &Reader<'_>) {
        let top = reader.top();
        for (key, path) in self.input_paths() {
            // An element of a list is a section here: there is no list that it could be an element of.
            let (section, name) = key.rsplit_once('.').unwrap_or_default();
            let section = section.split('.').fold(reader.top(), |section, name| section.section(name));
            if let Some(new) = section.input_path_if_given(name) {
                *path = new;
            }
        }
        if let Some(sections) = self.run_sections() {
            let RunSections { run, workers, prefetch, options, schedule, validation, log } = sections;
            change_run(run, &top.section("run"));
            let data = top.section("data");
            change_loading(workers, prefetch, &data);
            change_reading(options, &data);
            schedule.steps = top.section("schedule").integer("steps", schedule.steps, schedule.steps..);
            change_validation(validation, &top.section("validation"));
            check_validation(validation, reader, schedule.steps);
            change_log(log, &top.section("log"));
        }
        self.check_memory(reader);
        if let Self::Train(plan) = self {
            plan.cache.change(&top.section("cache"));
            plan.result.change(&top.section("result"));
            plan.result.check(reader, plan.model.image_size());
        }
    }

    fn steps(&self) -> Option<u64> {
        match self {
            Self::Train(plan) => Some(plan.schedule.steps),
            Self::Pretrain(plan) => Some(plan.schedule.steps),
            Self::Evaluate(_) | Self::Probe(_) => None,
        }
    }
}

/// A key with another value than the run has, which is fixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FixedKey {
    /// The key of the plan, with its sections.
    pub(crate) key: String,
    /// The value of the run, as TOML.
    pub(crate) saved: String,
    /// The other value, as TOML.
    pub(crate) asked: String,
    /// Why it is fixed.
    pub(crate) reason: &'static str,
}

impl fmt::Display for FixedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, saved, asked, reason } = self;
        write!(f, "{key} cannot change on resume: saved {saved}, got {asked}: {reason}")
    }
}

/// The keys of `new` with which the run of the plan `old` cannot be resumed. `run.dir` is not compared, because `--resume`
/// names the folder, nor are paths of data, which may have moved.
///
/// # Errors
///
/// When a plan does not fit into TOML.
pub(crate) fn check_resume(old: &Plan, new: &Plan) -> Result<Vec<FixedKey>, toml::ser::Error> {
    let mut fixed = Vec::new();
    if old.task() != new.task() {
        // All other keys are those of another task.
        let [old, new] = [old, new].map(|plan| format!("\"{}\"", plan.task().name()));
        return Ok(vec![fixed_key("task", old, new)]);
    }
    let value = |plan: &Plan| match plan {
        Plan::Train(plan) => toml::Value::try_from(plan),
        Plan::Pretrain(plan) => toml::Value::try_from(plan),
        Plan::Evaluate(plan) => toml::Value::try_from(plan),
        Plan::Probe(plan) => toml::Value::try_from(plan),
    };
    let mut old_moved = old.clone();
    let mut new_paths = new.clone();
    let new_paths = new_paths.input_paths();
    for (key, path) in old_moved.input_paths() {
        if let Some((_, new_path)) = new_paths.iter().find(|(new_key, _)| *new_key == key) {
            path.clone_from(new_path);
        }
    }
    compare("", &value(&old_moved)?, &value(new)?, &mut fixed);
    if let (Some(saved), Some(asked)) = (old.steps(), new.steps())
        && asked < saved
    {
        fixed.push(FixedKey {
            key: "schedule.steps".to_owned(),
            saved: saved.to_string(),
            asked: asked.to_string(),
            reason: "a run can only be extended; to end it sooner, stop it and export its checkpoint",
        });
    }
    Ok(fixed)
}

impl Plan {
    /// The plan that a run saved, as it stands there.
    ///
    /// # Errors
    ///
    /// When the file is not a plan.
    pub(crate) fn saved(path: &Path) -> Result<Self, ConfigError> {
        read_saved(path)
    }
}

fn read_saved(saved: &Path) -> Result<Plan, ConfigError> {
    let file = saved.display().to_string();
    let text = sam_files::read_text(saved, sam_files::MAX_TEXT_BYTES)
        .map_err(|error| ConfigError::of_file(&file, format!("must be the plan of a run: {error}")))?;
    // Plans of trainings that were saved before the key existed have no task.
    let mut task = Task::Train;
    let mut parse = || {
        let mut table = DeTable::parse(&text)?;
        if let Some(name) = table.get_mut().remove("task") {
            let name = name.get_ref().as_str();
            task = Task::ALL.iter().find(|(known, _)| Some(*known) == name).map_or(Task::Train, |(_, task)| *task);
        }
        let plan = Deserializer::from(table);
        match task {
            Task::Pretrain => Deserialize::deserialize(plan).map(Plan::Pretrain),
            _ => Deserialize::deserialize(plan).map(Plan::Train),
        }
    };
    let plan = parse().map_err(|error: toml::de::Error| {
        let place = error.span().map_or(Place::File, |span| Place::Line(line_of(&text, span.start)));
        let weights = if task == Task::Pretrain { "model.mae" } else { "model.checkpoint" };
        let message = format!(
            "must be the plan of a run, as this version writes it: {}; to start a new run from the weights of this one, use \
             one of its checkpoints as {weights}",
            error.message()
        );
        ConfigError::new(&file, &[], vec![Problem { place, key: String::new(), message }])
    })?;
    let problems = match &plan {
        Plan::Train(plan) => impossible_numbers(plan),
        Plan::Pretrain(plan) => impossible_numbers(plan),
        Plan::Evaluate(_) | Plan::Probe(_) => Vec::new(),
    };
    if problems.is_empty() { Ok(plan) } else { Err(ConfigError::new(&file, &[], problems)) }
}

/// Rejects keys that exist but are fixed; the reader reports unknown ones.
fn reject_fixed(document: &Document, movable: &[String]) -> Result<(), ConfigError> {
    let problem = |(index, option): (usize, &Override)| {
        let key = option.key.as_str();
        let reason = reason(key).filter(|_| !is_changeable(key) && !movable.iter().any(|path| path == key))?;
        let message = format!("{key} cannot change on resume: {reason}");
        Some(Problem { place: Place::Override(index), key: key.to_owned(), message })
    };
    let problems: Vec<Problem> = document.overrides.iter().enumerate().filter_map(problem).collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(ConfigError::new(&document.file, &document.overrides, problems))
}

fn compare(key: &str, old: &toml::Value, new: &toml::Value, fixed: &mut Vec<FixedKey>) {
    if key == "run.dir" || is_changeable(key) {
        return;
    }
    // A list of data sets.
    if let (toml::Value::Array(old), toml::Value::Array(new)) = (old, new)
        && old.len() == new.len()
        && old.iter().all(toml::Value::is_table)
    {
        return old.iter().zip(new).for_each(|(old, new)| compare(key, old, new, fixed));
    }
    let (toml::Value::Table(old_table), toml::Value::Table(new_table)) = (old, new) else {
        if old != new {
            fixed.push(fixed_key(key, old.to_string(), new.to_string()));
        }
        return;
    };
    let mut names: Vec<&String> = old_table.keys().chain(new_table.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        match (old_table.get(name), new_table.get(name)) {
            (Some(old), Some(new)) => compare(&inner, old, new, fixed),
            (old, new) if !is_changeable(&inner) => {
                let shown = |value: Option<&toml::Value>| value.map_or("unset".to_owned(), toml::Value::to_string);
                fixed.push(fixed_key(&inner, shown(old), shown(new)));
            }
            _ => {}
        }
    }
}

fn fixed_key(key: &str, saved: String, asked: String) -> FixedKey {
    FixedKey { key: key.to_owned(), saved, asked, reason: reason(key).unwrap_or("the run depends on it") }
}

fn reason(key: &str) -> Option<&'static str> {
    REASONS.iter().find(|(section, _)| is_within(key, section)).map(|(_, reason)| *reason)
}

fn is_changeable(key: &str) -> bool {
    CHANGEABLE.iter().any(|changeable| is_within(key, changeable))
}

fn is_within(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
