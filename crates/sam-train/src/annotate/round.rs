//! `sam-train annotate round`: collect, train, evaluate, decide. Each phase ends with a file, so a round that was stopped or killed
//! is resumed.
//!
//! Every round starts from the model in use and learns from all masks so far, with the loss and the learning rate that fit the
//! project's first checkpoint.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, anyhow};
use sam_engine::{
    Collected, Decision, EngineError, Learns, ModelInUse, Phase, Project, Round, Rounds, Statistics, Verdict, collect,
    decide, mask_counts,
};
use sam_eval::Results;
use sam_files::{MAX_TEXT_BYTES, read_text, write_atomically, write_atomically_with};
use sam_infer::Predictor;
use sam_learn::record::BEST_FILE;
use sam_model::weights::text_prompt_beside;

use super::serve::embeddings;
use super::status::decision_lines;
use crate::cli::{InitArguments, Preset, RoundArguments, RunArguments, SourceArguments, Verbosity};
use crate::config::Document;
use crate::failure::{BadInput, Failure};
use crate::init::configuration;
use crate::interruption::INTERRUPTED;
use crate::output::output;
use crate::progress;
use crate::run::{run as run_training, run_document};
use crate::team::Team;
use crate::train::{EndingRecord, PLAN_FILE, checkpoint_file};

/// How often new masks are counted.
const COUNT_EVERY: Duration = Duration::from_secs(2);

pub(super) fn run(arguments: &RoundArguments) -> Result<(), Failure> {
    match arguments.auto {
        None => one(arguments),
        Some(n) => forever(arguments, n),
    }
}

/// Makes a round whenever there are so many new masks; each in a process of its own.
fn forever(arguments: &RoundArguments, n: usize) -> Result<(), Failure> {
    let project = Project::read(&arguments.project).bad_input()?;
    let program = std::env::current_exe().context("this program's own file")?;
    writeln!(output(), "waiting for {n} new masks; Ctrl-C ends")?;
    loop {
        let is_begun = Rounds::of(project.folder()).current().collected()?.is_some();
        let has_enough = || -> Result<bool, EngineError> {
            let (statistics, _) = Statistics::since_last_round(project.folder())?;
            Ok(statistics.masks >= n && mask_counts(&project)?.missing(&project).is_none())
        };
        if !(is_begun || has_enough()?) {
            std::thread::sleep(COUNT_EVERY);
            continue;
        }
        let mut command = Command::new(&program);
        command.args(["annotate", "round", "--device", &arguments.device.to_string()]);
        command.args(arguments.set.iter().flat_map(|set| [OsString::from("--set"), set.into()]));
        if arguments.verbosity.level() == Verbosity::Quiet {
            command.arg("--quiet");
        }
        let status = command.arg(&arguments.project).status().context("a round cannot be started")?;
        match status.code() {
            Some(0) => {}
            Some(code) if code == i32::from(INTERRUPTED) => {
                return Err(Failure::Stopped("stopped; the same command resumes the round".to_owned()));
            }
            _ => {
                return Err(anyhow!(
                    "the round has failed ({status}); its folder is in {}",
                    project.folder().display()
                )
                .into());
            }
        }
    }
}

/// A round, or the rest of one.
fn one(arguments: &RoundArguments) -> Result<(), Failure> {
    if arguments.verbosity.level() == Verbosity::Quiet {
        progress::silence();
    }
    let project = Project::read(&arguments.project).bad_input()?;
    let rounds = Rounds::of(project.folder());
    let _lock = rounds.lock().bad_input()?;
    let round = rounds.current();
    let work = Work { arguments, project: &project, round: &round };
    round.begin(Phase::Collect)?;
    let collected = collect(&project, &round).bad_input()?;
    let masks = collected.masks;
    work.say(&format!(
        "round {}: {} masks in {} images to learn from, {} in {} images for validation",
        round.number, masks.train, masks.train_images, masks.validation, masks.validation_images
    ))?;
    round.begin(Phase::Train)?;
    let in_use = checkpoint_file(&project.folder().join(&collected.checkpoint));
    let decision = match work.train(&in_use) {
        Ok(()) => {
            round.begin(Phase::Evaluate)?;
            let before = work.evaluate("before", &in_use)?;
            let after = work.evaluate("after", &work.trained())?;
            round.begin(Phase::Decide)?;
            let decision = decide(&before, &after, project.settings().round.max_drop, unix_s())?;
            if decision.verdict == Verdict::Promoted {
                work.promote()?;
            }
            decision
        }
        // It would fail again: the next round begins anew.
        Err(Failure::Run(error)) => Decision {
            finished_unix_s: unix_s(),
            verdict: Verdict::Failed,
            reasons: vec![format!("{error:#}")],
            gain: None,
        },
        Err(other) => return Err(other),
    };
    round.write_decision(&decision)?;
    work.report(&collected, &decision)
}

struct Work<'a> {
    arguments: &'a RoundArguments,
    project: &'a Project,
    round: &'a Round,
}

impl Work<'_> {
    fn say(&self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(output(), "{text}")?)
    }

    fn run_folder(&self) -> PathBuf {
        self.round.path().join("run")
    }

    /// The checkpoint of the training.
    fn trained(&self) -> PathBuf {
        self.run_folder().join(BEST_FILE)
    }

    /// Trains, or resumes a training that was stopped.
    fn train(&self, in_use: &Path) -> Result<(), Failure> {
        let (run_folder, config) = (self.run_folder(), self.round.path().join("config.toml"));
        let verbosity = self.arguments.verbosity;
        if has_ended(&run_folder) && self.trained().is_file() {
            return Ok(());
        }
        if has_saves(&run_folder) {
            let resumed = RunArguments { resume: Some(run_folder), verbosity, plain: true, ..RunArguments::default() };
            return run_training(&resumed, &Team::alone());
        }
        let text = configuration(&InitArguments {
            data: self.round.train_data(),
            validation: Some(self.round.validation_data()),
            preset: match self.project.settings().round.learns {
                Learns::Decoder => Preset::Laptop,
                Learns::Everything => Preset::Full,
            },
            checkpoint: Some(self.project.first_checkpoint()),
            run: Some(run_folder),
            out: None,
            force: false,
            source: SourceArguments::default(),
        })?;
        write_atomically(&config, text).with_context(|| config.display().to_string())?;
        let settings = self.project.settings();
        let mut set = vec![
            format!("model.checkpoint={}", quoted(&in_use.display().to_string())),
            format!("run.device={}", quoted(&self.arguments.device.to_string())),
        ];
        if settings.round.learns == Learns::Decoder {
            set.push(format!("cache.dir={}", quoted(&embeddings(self.project.folder()).display().to_string())));
            set.push(format!("cache.max_gib={}", settings.embeddings_gib.max(0.001)));
        }
        set.extend(settings.round.set.iter().chain(&self.arguments.set).cloned());
        let new =
            RunArguments { config: Some(config), set, force: true, verbosity, plain: true, ..RunArguments::default() };
        run_training(&new, &Team::alone())
    }

    /// Measures a checkpoint on the validation masks, unless that was done before.
    fn evaluate(&self, name: &str, checkpoint: &Path) -> Result<Results, Failure> {
        let out = self.round.path().join("eval").join(name);
        let results = out.join("results.json");
        if !results.is_file() {
            let config = self.round.path().join(format!("evaluate-{name}.toml"));
            let path = |path: &Path| quoted(&path.display().to_string());
            let text = format!(
                "task = \"evaluate\"\n\n[model]\ncheckpoint = {}\n\n[data]\npath = {}\nname = \"validation\"\n\n\
                 [protocol]\nkind = \"both\"\nclicks = 3\n\n[cache]\ndir = {}\nmax_gib = {}\n\n\
                 [run]\nout = {}\ndevice = {}\n",
                path(checkpoint),
                path(&self.round.validation_data()),
                path(&embeddings(self.project.folder())),
                self.project.settings().embeddings_gib.max(0.001),
                path(&out),
                quoted(&self.arguments.device.to_string()),
            );
            write_atomically(&config, text).with_context(|| config.display().to_string())?;
            let arguments =
                RunArguments { force: true, verbosity: self.arguments.verbosity, ..RunArguments::default() };
            run_document(&Document::load(&config, &[])?, &arguments, &Team::alone())?;
        }
        let text = read_text(&results, MAX_TEXT_BYTES).with_context(|| results.display().to_string())?;
        Ok(Results::from_json(&results.display().to_string(), &text)?)
    }

    /// Puts the new model in use once its file was read back.
    fn promote(&self) -> Result<(), Failure> {
        let (from, to) = (self.trained(), self.round.path().join("model.safetensors"));
        let copied = write_atomically_with(&to, |error| error, |inside| std::fs::copy(&from, inside).map(drop));
        copied.with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
        let [text, text_to] = [text_prompt_beside(&from), text_prompt_beside(&to)];
        if text.is_file() {
            std::fs::copy(&text, &text_to).with_context(|| format!("copying {}", text.display()))?;
        }
        let device = self.arguments.device.open().bad_input()?;
        let weights = |path: &Path| -> Result<u64, Failure> {
            Ok(Predictor::from_checkpoint(path, &device)?.0.weights_fingerprint())
        };
        if weights(&from)? != weights(&to)? {
            return Err(anyhow!("{}: reads back with other weights; is the disk sound?", to.display()).into());
        }
        let checkpoint = to.strip_prefix(self.project.folder()).unwrap_or(&to).to_owned();
        Ok(self.project.use_model(&ModelInUse { round: self.round.number, checkpoint })?)
    }

    fn report(&self, collected: &Collected, decision: &Decision) -> Result<(), Failure> {
        for line in decision_lines(self.round.number, collected, decision) {
            self.say(&line)?;
        }
        if decision.verdict == Verdict::Failed {
            return Err(anyhow!("the training of round {} has failed", self.round.number).into());
        }
        Ok(())
    }
}

/// Whether a training is at its end.
fn has_ended(run: &Path) -> bool {
    let text = read_text(&run.join("ending.json"), MAX_TEXT_BYTES).unwrap_or_default();
    let ending: Option<EndingRecord> = serde_json::from_str(&text).ok();
    ending.is_some_and(|ending| matches!(ending.state.as_str(), "finished" | "early_stopped"))
}

fn has_saves(run: &Path) -> bool {
    let is_there = run.join("checkpoints").read_dir().is_ok_and(|mut entries| entries.next().is_some());
    is_there && run.join(PLAN_FILE).is_file()
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

fn unix_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |time| time.as_secs())
}
