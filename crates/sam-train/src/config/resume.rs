//! Going on with a run: the plan comes from its folder, and little of it may be another.
//!
//! A resumed run is the run, so whatever decides a step stays. What may change is how long it goes on, what it runs on, and
//! what it tells.

use std::fmt;
use std::path::{Path, PathBuf};

use super::document::{Document, line_of};
use super::problems::{ConfigError, Place, Problem};
use super::reader::{Paths, Reader};
use super::train::TrainPlan;

/// Keys of a plan that may be another when a run goes on; a section stands for all that is in it.
pub(crate) const CHANGEABLE: [&str; 11] = [
    "run.name",
    "run.device",
    "run.threads",
    "data.workers",
    "data.prefetch",
    "schedule.steps",
    "validation.every_steps",
    "validation.patience",
    "validation.baseline",
    "log",
    "result",
];

/// Why the others may not. The first that fits counts.
const REASONS: [(&str, &str); 11] = [
    ("run.seed", "everything random in the run follows from it"),
    ("run.parallel", "sums in other parts are rounded otherwise, and the run would not be the same"),
    ("run.activations", "what drops paths would be drawn in another order"),
    ("model", "the weights of the run began there and have these sizes"),
    ("data.validation", "figures before and after could not be compared"),
    ("data", "the batches that come would not be those of the run"),
    ("prompts", "the run would go on with another objective"),
    ("loss", "the run would go on with another objective"),
    ("optimiser", "the moments that the optimiser keeps belong to it"),
    ("schedule", "the rates of the steps that are done follow from it"),
    ("validation", "figures before and after could not be compared, nor the best be told"),
];

/// A key that would be another, and must not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Of the plan, with its sections.
    pub(crate) key: String,
    /// What the run has, as TOML.
    pub(crate) saved: String,
    /// What was asked for, as TOML.
    pub(crate) asked: String,
    /// Why not.
    pub(crate) reason: &'static str,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, saved, asked, reason } = self;
        write!(f, "{key} must stay {saved} when a run goes on, got {asked}: {reason}")
    }
}

/// What of `new` the run that was planned as `old` cannot go on with. Where the run is, `--resume` says; `run.dir` is not
/// compared.
///
/// # Errors
///
/// When a plan does not fit into TOML.
pub(crate) fn check_resume(old: &TrainPlan, new: &TrainPlan) -> Result<Vec<Refusal>, toml::ser::Error> {
    let mut refusals = Vec::new();
    compare("", &toml::Value::try_from(old)?, &toml::Value::try_from(new)?, &mut refusals);
    if new.schedule.steps < old.schedule.steps {
        refusals.push(Refusal {
            key: "schedule.steps".to_owned(),
            saved: format!("at least {}", old.schedule.steps),
            asked: new.schedule.steps.to_string(),
            reason: "a run may grow; to end it sooner, stop it and export its checkpoint",
        });
    }
    Ok(refusals)
}

impl TrainPlan {
    /// The plan that was saved with a run, for the run in `folder`, which may have moved, with what `--set` changes.
    ///
    /// # Errors
    ///
    /// When the text is no plan, or an override is none of [`CHANGEABLE`] or has a wrong value.
    pub(crate) fn resumed(saved: &Path, folder: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let file = saved.display().to_string();
        let text = std::fs::read_to_string(saved)
            .map_err(|error| ConfigError::of_file(&file, format!("must be the plan of a run: {error}")))?;
        let mut plan: Self = toml::from_str(&text).map_err(|error| not_a_plan(&file, &text, &error))?;
        plan.run.dir = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());

        let document = Document::parse("--set", PathBuf::new(), "", overrides)?;
        refuse_fixed(&document)?;
        let reader = Reader::new(&document, Paths::MustExist);
        let top = reader.top();
        plan.run.read_changeable(&top.section("run"));
        plan.data.read_changeable(&top.section("data"));
        plan.schedule.steps = top.section("schedule").integer("steps", plan.schedule.steps, plan.schedule.steps..);
        plan.validation.read_changeable(&top.section("validation"));
        plan.validation.check(&reader, plan.schedule.steps);
        plan.log.read_changeable(&top.section("log"));
        plan.result.read_changeable(&top.section("result"));
        plan.result.check(&reader, plan.model.image_size());
        reader.finish()?;
        Ok(plan)
    }
}

fn not_a_plan(file: &str, text: &str, error: &toml::de::Error) -> ConfigError {
    let place = error.span().map_or(Place::File, |span| Place::Line(line_of(text, span.start)));
    let message = format!(
        "must be the plan of a run, as this version writes it: {}; to begin anew from the weights of the run, \
         give one of its checkpoints as model.checkpoint",
        error.message()
    );
    ConfigError::new(file, &[], vec![Problem { place, key: String::new(), message }])
}

/// Keys that exist but must stay get their reason; what does not exist at all, the reader tells.
fn refuse_fixed(document: &Document) -> Result<(), ConfigError> {
    let problem = |(index, typed): (usize, &String)| {
        let key = typed.split('=').next().unwrap_or_default().trim();
        let reason = match key {
            "run.dir" => "the folder is the one that is gone on with",
            _ if is_changeable(key) => return None,
            _ => reason(key)?,
        };
        let message = format!("{key} cannot be another when a run goes on: {reason}");
        Some(Problem { place: Place::Override(index), key: key.to_owned(), message })
    };
    let problems: Vec<Problem> = document.overrides.iter().enumerate().filter_map(problem).collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(ConfigError::new(&document.file, &document.overrides, problems))
}

fn compare(key: &str, old: &toml::Value, new: &toml::Value, refusals: &mut Vec<Refusal>) {
    if key == "run.dir" || is_changeable(key) {
        return;
    }
    let (toml::Value::Table(old_table), toml::Value::Table(new_table)) = (old, new) else {
        if old != new {
            refusals.push(refusal(key, old.to_string(), new.to_string()));
        }
        return;
    };
    let mut keys: Vec<&String> = old_table.keys().chain(new_table.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for name in keys {
        let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        match (old_table.get(name), new_table.get(name)) {
            (Some(old), Some(new)) => compare(&inner, old, new, refusals),
            (old, new) if !is_changeable(&inner) => {
                let shown = |value: Option<&toml::Value>| value.map_or("unset".to_owned(), toml::Value::to_string);
                refusals.push(refusal(&inner, shown(old), shown(new)));
            }
            _ => {}
        }
    }
}

fn refusal(key: &str, saved: String, asked: String) -> Refusal {
    Refusal { key: key.to_owned(), saved, asked, reason: reason(key).unwrap_or("it decides what the run is") }
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
