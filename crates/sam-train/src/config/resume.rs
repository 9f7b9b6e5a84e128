//! Going on with a run: the plan comes from its folder, and little of it may be another.
//!
//! A resumed run is the run, so whatever decides a step stays. What may change is how long it goes on, what it runs on, and
//! what it tells.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::document::{Document, line_of};
use super::pretrain::{self, PretrainPlan};
use super::problems::{ConfigError, Place, Problem};
use super::reader::{Paths, Reader};
use super::run::{change_log, change_run, change_validation, check_validation};
use super::train::TrainPlan;

/// A plan that a run is gone on with.
pub(crate) trait ResumablePlan: Serialize + DeserializeOwned {
    /// Keys that may be another when a run goes on; a section stands for all that is in it.
    const CHANGEABLE: &'static [&'static str];

    /// Why the others may not, by section. The first that fits counts.
    const REASONS: &'static [(&'static str, &'static str)];

    /// The key under which a new run takes the weights of one whose plan another version wrote.
    const ANEW: &'static str;

    /// How many steps the run has.
    fn steps(&self) -> u64;

    /// Where the run is now, as it may have moved.
    fn set_folder(&mut self, folder: PathBuf);

    /// Reads what may be another.
    fn read_changeable(&mut self, reader: &Reader<'_>);

    /// The plan that was saved with a run, for the run in `folder`, with what `--set` changes.
    ///
    /// # Errors
    ///
    /// When the text is no plan, or an override is none of [`ResumablePlan::CHANGEABLE`] or has a wrong value.
    fn resumed(saved: &Path, folder: &Path, overrides: &[String]) -> Result<Self, ConfigError> {
        let mut plan: Self = read_saved(saved)?;
        plan.set_folder(std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf()));
        let document = Document::parse("--set", PathBuf::new(), "", overrides)?;
        refuse_fixed::<Self>(&document)?;
        let reader = Reader::new(&document, Paths::MustExist);
        plan.read_changeable(&reader);
        reader.finish()?;
        Ok(plan)
    }
}

const SAME_RANDOMNESS: &str = "everything random in the run follows from it";
const SAME_BEGINNING: &str = "the weights of the run began there and have these sizes";
const SAME_SCALE: &str = "figures before and after could not be compared";
const SAME_JUDGE: &str = "figures before and after could not be compared, nor the best be told";
const SAME_BATCHES: &str = "the batches that come would not be those of the run";
const SAME_OBJECTIVE: &str = "the run would go on with another objective";
const SAME_MOMENTS: &str = "the moments that the optimiser keeps belong to it";
const SAME_RATES: &str = "the rates of the steps that are done follow from it";
const SAME_DRAWS: &str = "what drops paths would be drawn in another order";
const SAME_ROUNDING: &str = "sums in other parts are rounded otherwise, and the run would not be the same";

impl ResumablePlan for TrainPlan {
    const CHANGEABLE: &'static [&'static str] = &[
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

    const REASONS: &'static [(&'static str, &'static str)] = &[
        ("run.seed", SAME_RANDOMNESS),
        ("run.parallel", SAME_ROUNDING),
        ("run.activations", SAME_DRAWS),
        ("model", SAME_BEGINNING),
        ("data.validation", SAME_SCALE),
        ("data", SAME_BATCHES),
        ("prompts", SAME_OBJECTIVE),
        ("loss", SAME_OBJECTIVE),
        ("optimiser", SAME_MOMENTS),
        ("schedule", SAME_RATES),
        ("validation", SAME_JUDGE),
    ];

    const ANEW: &'static str = "model.checkpoint";

    fn steps(&self) -> u64 {
        self.schedule.steps
    }

    fn set_folder(&mut self, folder: PathBuf) {
        self.run.dir = folder;
    }

    fn read_changeable(&mut self, reader: &Reader<'_>) {
        let top = reader.top();
        change_run(&mut self.run, &top.section("run"));
        self.data.read_changeable(&top.section("data"));
        self.schedule.steps = top.section("schedule").integer("steps", self.schedule.steps, self.schedule.steps..);
        change_validation(&mut self.validation, &top.section("validation"));
        check_validation(&self.validation, reader, self.schedule.steps);
        change_log(&mut self.log, &top.section("log"));
        self.result.read_changeable(&top.section("result"));
        self.result.check(reader, self.model.image_size());
    }
}

impl ResumablePlan for PretrainPlan {
    const CHANGEABLE: &'static [&'static str] = &[
        "run.name",
        "run.device",
        "run.threads",
        "data.workers",
        "data.prefetch",
        "schedule.steps",
        "validation.every_steps",
        "validation.patience",
        "log",
    ];

    const REASONS: &'static [(&'static str, &'static str)] = &[
        ("run.seed", SAME_RANDOMNESS),
        ("run.parallel", SAME_ROUNDING),
        ("run.activations", SAME_ROUNDING),
        ("model", SAME_BEGINNING),
        ("data.validation", SAME_SCALE),
        ("data.validation_synth", SAME_SCALE),
        ("data.hold_out", SAME_BATCHES),
        ("data.held_out", SAME_SCALE),
        ("data", SAME_BATCHES),
        ("images_per_step", SAME_BATCHES),
        ("mae", SAME_OBJECTIVE),
        ("optimiser", SAME_MOMENTS),
        ("schedule", SAME_RATES),
        ("validation", SAME_JUDGE),
    ];

    const ANEW: &'static str = "model.mae";

    fn steps(&self) -> u64 {
        self.schedule.steps
    }

    fn set_folder(&mut self, folder: PathBuf) {
        self.run.dir = folder;
    }

    fn read_changeable(&mut self, reader: &Reader<'_>) {
        let top = reader.top();
        change_run(&mut self.run, &top.section("run"));
        self.data.read_changeable(&top.section("data"));
        self.schedule.steps = top.section("schedule").integer("steps", self.schedule.steps, self.schedule.steps..);
        pretrain::change_validation(&mut self.validation, &top.section("validation"));
        check_validation(&self.validation, reader, self.schedule.steps);
        change_log(&mut self.log, &top.section("log"));
    }
}

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
pub(crate) fn check_resume<P: ResumablePlan>(old: &P, new: &P) -> Result<Vec<Refusal>, toml::ser::Error> {
    let mut refusals = Vec::new();
    compare::<P>("", &toml::Value::try_from(old)?, &toml::Value::try_from(new)?, &mut refusals);
    if new.steps() < old.steps() {
        refusals.push(Refusal {
            key: "schedule.steps".to_owned(),
            saved: format!("at least {}", old.steps()),
            asked: new.steps().to_string(),
            reason: "a run may grow; to end it sooner, stop it and export its checkpoint",
        });
    }
    Ok(refusals)
}

fn read_saved<P: ResumablePlan>(saved: &Path) -> Result<P, ConfigError> {
    let file = saved.display().to_string();
    let text = std::fs::read_to_string(saved)
        .map_err(|error| ConfigError::of_file(&file, format!("must be the plan of a run: {error}")))?;
    toml::from_str(&text).map_err(|error| {
        let place = error.span().map_or(Place::File, |span| Place::Line(line_of(&text, span.start)));
        let message = format!(
            "must be the plan of a run, as this version writes it: {}; to begin anew from the weights of the run, give \
             one of its checkpoints as {}",
            error.message(),
            P::ANEW
        );
        ConfigError::new(&file, &[], vec![Problem { place, key: String::new(), message }])
    })
}

/// Keys that exist but must stay get their reason; what does not exist at all, the reader tells.
fn refuse_fixed<P: ResumablePlan>(document: &Document) -> Result<(), ConfigError> {
    let problem = |(index, typed): (usize, &String)| {
        let key = typed.split('=').next().unwrap_or_default().trim();
        let reason = match key {
            "run.dir" => "the folder is the one that is gone on with",
            "task" => "a run stays what it was begun as",
            _ if is_changeable::<P>(key) => return None,
            _ => reason::<P>(key)?,
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

fn compare<P: ResumablePlan>(key: &str, old: &toml::Value, new: &toml::Value, refusals: &mut Vec<Refusal>) {
    if key == "run.dir" || is_changeable::<P>(key) {
        return;
    }
    let (toml::Value::Table(old_table), toml::Value::Table(new_table)) = (old, new) else {
        if old != new {
            refusals.push(refusal::<P>(key, old.to_string(), new.to_string()));
        }
        return;
    };
    let mut keys: Vec<&String> = old_table.keys().chain(new_table.keys()).collect();
    keys.sort_unstable();
    keys.dedup();
    for name in keys {
        let inner = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
        match (old_table.get(name), new_table.get(name)) {
            (Some(old), Some(new)) => compare::<P>(&inner, old, new, refusals),
            (old, new) if !is_changeable::<P>(&inner) => {
                let shown = |value: Option<&toml::Value>| value.map_or("unset".to_owned(), toml::Value::to_string);
                refusals.push(refusal::<P>(&inner, shown(old), shown(new)));
            }
            _ => {}
        }
    }
}

fn refusal<P: ResumablePlan>(key: &str, saved: String, asked: String) -> Refusal {
    Refusal { key: key.to_owned(), saved, asked, reason: reason::<P>(key).unwrap_or("it decides what the run is") }
}

fn reason<P: ResumablePlan>(key: &str) -> Option<&'static str> {
    P::REASONS.iter().find(|(section, _)| is_within(key, section)).map(|(_, reason)| *reason)
}

fn is_changeable<P: ResumablePlan>(key: &str) -> bool {
    P::CHANGEABLE.iter().any(|changeable| is_within(key, changeable))
}

fn is_within(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
