//! A run around its loop, the same for every task: the saved state, the observers of its events, interruption and the end.

use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow};
use burn::train::Interrupter;
use sam_data::loader::{LoaderOptions, Samples};
use sam_learn::embeddings::FrozenEmbeddings;
use sam_learn::options::{LogOptions, RunOptions, ValidationOptions};
use sam_learn::ranks::{Statement, agree, gather};
use sam_learn::record::{CHECKPOINTS_FOLDER, Observer, RunEvent, SavedState, Saves};
use sam_learn::texts::TextVectors;
use sam_learn::{Ending, LearnError, Outcome, RunInputs};
use sam_model::bf16_products;

use crate::build;
use crate::cli::{RunArguments, Verbosity};
use crate::config::TrainPlan;
use crate::dashboard::{Dashboard, Heading};
use crate::embeddings::{Filled, Surroundings};
use crate::failure::{BadInput, Failure};
use crate::output::output;
use crate::survey::DataLosses;
use crate::team::Team;
use crate::train::cached;
use crate::train::console::{Console, Kind};
use crate::train::inputs::OpenedInputs;
use crate::train::lines::Lines;
use crate::train::report::{ReportWriter, date_and_time};
use crate::train::run_data::RunData;
use crate::train::run_folder::{EndingRecord, RunFolder, SessionStart, unix_time_s};
use crate::train::stop::StopSwitch;
use crate::train::summary::{self, Measure};
use crate::train::texts;

/// One run.
pub(super) struct RunSession<'a> {
    folder: RunFolder,
    sections: Sections<'a>,
    arguments: &'a RunArguments,
    team: &'a Team,
    resume: Option<SavedState>,
    console: Arc<Console>,
    lines: Arc<Lines>,
    report: ReportWriter,
    interrupter: Interrupter,
    switch: StopSwitch,
    /// What the data sets lose.
    losses: Vec<String>,
}

/// The sections of a plan that a session reads.
#[derive(Clone, Copy)]
pub(super) struct Sections<'a> {
    pub(super) run: &'a RunOptions,
    pub(super) log: &'a LogOptions,
    pub(super) validation: &'a ValidationOptions,
}

impl<'a> RunSession<'a> {
    /// Sets the number of threads, and finds the saved state of a resumed run.
    pub(super) fn new(
        folder: RunFolder,
        sections: Sections<'a>,
        arguments: &'a RunArguments,
        team: &'a Team,
    ) -> Result<Self, Failure> {
        use_threads(sections.run.threads)?;
        let console = match team.is_first() {
            true => Console::new(arguments.verbosity.level()),
            false => Console::mute(),
        };
        let console = Arc::new(console);
        let Saves { intact: resume, damaged } = match arguments.resume {
            Some(_) => SavedState::newest(&folder.checkpoints()).bad_input()?,
            None => Saves::default(),
        };
        if arguments.resume.is_some() && resume.is_none() {
            let checkpoints = folder.checkpoints();
            let text = format!("{} has no save; the run starts from its first step", checkpoints.display());
            console.print(Kind::Warning, &text);
        }
        for reason in damaged {
            console.print(Kind::Warning, &format!("a save is skipped because it is damaged: {reason}"));
        }
        let interrupter = team.interrupter.clone();
        let path = folder.path().to_owned();
        Ok(Self {
            switch: StopSwitch::new(interrupter.clone(), Arc::clone(&console), path, resume.is_some()),
            sections,
            arguments,
            team,
            resume,
            lines: Arc::new(Lines::new(Arc::clone(&console), sections.log.every_steps)),
            console,
            report: ReportWriter::new(folder.clone(), sections.run.name.clone()),
            interrupter,
            folder,
            losses: Vec::new(),
        })
    }

    /// Prints `notes` and changes of the data.
    pub(super) fn announce(&self, notes: &[String], data: &[RunData]) -> Result<(), Failure> {
        for change in self.folder.changed_data(data).bad_input()? {
            self.console.print(Kind::Warning, &change);
        }
        match (self.team.ranks.n(), self.sections.run.devices.len()) {
            (1, 0 | 1) => {}
            (1, n) => self.console.print(Kind::Progress, &format!("trains on {n} devices together")),
            (n, _) => self.console.print(Kind::Progress, &format!("trains in {n} processes together")),
        }
        for line in self.surroundings(data) {
            self.console.print(Kind::Detail, &line);
        }
        self.print_lines(notes);
        Ok(())
    }

    /// Checks that every rank has this plan and this data.
    fn check_ranks(&self, plan: &str, data: &[RunData]) -> Result<(), Failure> {
        let (n, devices) = (self.team.ranks.n(), &self.sections.run.devices);
        if n > 1 && devices.len() > 1 {
            let text =
                "run.devices: must name one device where several processes train together: each process has its own";
            return Err(anyhow!("{text}; got {} devices and {n} processes", devices.len())).bad_input();
        }
        let of_data =
            data.iter().map(|data| Statement::new(&format!("the data of {}", data.key), data.identity.text()));
        let products = if bf16_products() { "bf16" } else { "f32" };
        let of_machine = [Statement::new("the precision of products in use", products)];
        let statements: Vec<Statement> = plan_statements(plan)?.into_iter().chain(of_data).chain(of_machine).collect();
        match agree(&*self.team.ranks, &statements).map_err(LearnError::from)? {
            None => Ok(()),
            Some(difference) => Err(anyhow!("{difference}")).bad_input(),
        }
    }

    /// Says that nothing is left to do, where that is so.
    pub(super) fn announce_end(&self, steps: u64) {
        if self.first_step() >= steps {
            let text = format!(
                "the run is finished: all {steps} steps are made; --set schedule.steps=N with a larger N continues it"
            );
            self.console.print(Kind::Result, &text);
        }
    }

    /// Prints what a new run will take; a resumed one knows it from its first steps.
    pub(super) fn estimate(&self, lines: impl FnOnce() -> Result<Vec<String>, Failure>) -> Result<(), Failure> {
        // A step of several ranks is none that one of them could measure.
        if self.resume.is_none() && self.team.ranks.n() == 1 && self.sections.run.devices.len() < 2 {
            self.print_lines(&lines()?);
        }
        Ok(())
    }

    fn print_lines(&self, lines: &[String]) {
        for line in lines {
            let kind = if line.starts_with("warning: ") { Kind::Warning } else { Kind::Progress };
            self.console.print(kind, line);
        }
    }

    /// Creates the folder; from here on, Ctrl-C saves.
    pub(super) fn start(&mut self, plan: &str, data: &[RunData]) -> Result<(), Failure> {
        self.check_ranks(plan, data)?;
        if !self.team.is_first() {
            return self.switch.catch_signals();
        }
        let device = &self.sections.run.device;
        let start = SessionStart { plan_toml: plan, device, config: self.arguments.config.as_deref(), data };
        self.folder.write_start(&start).map_err(|error| {
            let is_held = matches!(error.downcast_ref(), Some(LearnError::InUse { .. }));
            if is_held { Failure::Input(error) } else { Failure::Run(error) }
        })?;
        let heading = format!("{}: {}", date_and_time(unix_time_s()), command());
        self.console.open_log(self.folder.path(), &heading);
        self.switch.catch_signals()
    }

    /// With `--verbose`: program, machine, threads, data.
    fn surroundings(&self, data: &[RunData]) -> Vec<String> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut lines = vec![
            program_line(),
            format!(
                "device: {}; {cores} cores, {} compute threads, {} shards in parallel",
                self.sections.run.device,
                rayon::current_num_threads(),
                self.sections.run.parallel
            ),
        ];
        lines.extend(data.iter().map(|data| format!("{}: {}", data.key, data.path.display())));
        lines
    }

    /// Keeps what the data sets lose for the report and the dashboard.
    pub(super) fn record_losses(&mut self, losses: &[DataLosses]) -> Result<(), Failure> {
        self.losses = losses.iter().filter_map(DataLosses::headline).collect();
        if !self.team.is_first() {
            return Ok(());
        }
        Ok(self.folder.write_losses(losses)?)
    }

    /// The number of steps that are done.
    pub(super) fn first_step(&self) -> u64 {
        self.resume.as_ref().map_or(0, |state| state.progress.step)
    }

    /// Fills a folder that all ranks read: the first rank does the work, and the others then find everything there.
    pub(super) fn in_turn<T>(
        &self,
        work: impl FnOnce() -> Result<ControlFlow<(), T>, Failure>,
    ) -> Result<ControlFlow<(), T>, Failure> {
        let ranks = &*self.team.ranks;
        if self.team.is_first() {
            let done = work();
            gather(ranks, &done.as_ref().is_ok_and(ControlFlow::is_continue)).map_err(LearnError::from)?;
            return done;
        }
        match gather(ranks, &true).map_err(LearnError::from)?.first() {
            Some(true) => work(),
            _ => Ok(ControlFlow::Break(())),
        }
    }

    /// Computes the embeddings that the run lacks, where there are several ranks each a part of them; `Break` when it is asked to stop
    /// meanwhile.
    pub(super) fn fill(
        &self,
        plan: &TrainPlan,
        inputs: &OpenedInputs,
    ) -> Result<ControlFlow<(), Arc<FrozenEmbeddings>>, Failure> {
        let ranks = &*self.team.ranks;
        // Opening removes what ended processes left unfinished, and on a shared disk another machine's process looks ended.
        let Some(embeddings) = self.together(cached::open(plan, inputs))? else { return Ok(ControlFlow::Break(())) };
        if ranks.n() > 1 {
            let part = self.fill_part(plan, inputs, &embeddings, (ranks.rank(), ranks.n()))?;
            let is_whole = gather(ranks, &part.is_continue()).map_err(LearnError::from)?.into_iter().all(|part| part);
            if !is_whole {
                return Ok(ControlFlow::Break(()));
            }
        }
        // What other ranks have computed is found.
        Ok(match self.fill_part(plan, inputs, &embeddings, (0, 1))? {
            ControlFlow::Continue(n) => {
                let dir = plan.cache.dir.display();
                let whose = if inputs.teacher.is_some() { "the teacher's encoder" } else { "the encoder" };
                let text = format!("embeddings: {n} in {dir}; {whose} does not run any more");
                self.console.print(Kind::Progress, &text);
                ControlFlow::Continue(Arc::new(embeddings))
            }
            ControlFlow::Break(()) => ControlFlow::Break(()),
        })
    }

    /// What this rank has, when all ranks have theirs; `None` when another has failed.
    fn together<T>(&self, own: Result<T, LearnError>) -> Result<Option<T>, Failure> {
        let have_all =
            gather(&*self.team.ranks, &own.is_ok()).map_err(LearnError::from)?.into_iter().all(|is_ok| is_ok);
        let own = own.map_err(|error| {
            self.record_state("failed", Some(advised(&error)));
            failed(error, self.folder())
        })?;
        Ok(have_all.then_some(own))
    }

    /// The number of embeddings that are there then.
    fn fill_part(
        &self,
        plan: &TrainPlan,
        inputs: &OpenedInputs,
        embeddings: &FrozenEmbeddings,
        rank_of: (usize, usize),
    ) -> Result<ControlFlow<(), usize>, Failure> {
        let is_stopped = || self.interrupter.should_stop();
        let say = |text: &str| self.console.print(Kind::Progress, text);
        let surroundings = Surroundings { say: &say, is_stopped: &is_stopped };
        let filled = cached::fill(plan, inputs, embeddings, self.first_step(), rank_of, &surroundings);
        let filled = filled.map_err(|error| {
            self.record_state("failed", Some(advised(&error)));
            failed(error, self.folder())
        })?;
        Ok(match filled {
            ControlFlow::Continue(Filled { n, .. }) => ControlFlow::Continue(n),
            ControlFlow::Break(Filled { n, of }) => {
                self.record_state("interrupted", None);
                let shown = self.folder().display();
                let kept = if of > 0 { format!(": {n} of {of} are kept") } else { String::new() };
                let text = format!("stopped while embedding images{kept}; resume with: sam-train --resume {shown}");
                self.console.print(Kind::Result, &text);
                ControlFlow::Break(())
            }
        })
    }

    /// Computes the vectors of texts that the run lacks; `Break` when it is asked to stop meanwhile.
    pub(super) fn fill_texts(
        &self,
        plan: &TrainPlan,
        inputs: &mut OpenedInputs,
    ) -> Result<ControlFlow<(), Option<Arc<TextVectors>>>, Failure> {
        let is_stopped = || self.interrupter.should_stop();
        let say = |text: &str| self.console.print(Kind::Progress, text);
        let surroundings = Surroundings { say: &say, is_stopped: &is_stopped };
        let first_step = self.resume.as_ref().map(|_| self.first_step());
        let filled = texts::fill(plan, inputs, first_step, &surroundings).map_err(|error| {
            let text = match error.downcast_ref::<LearnError>() {
                Some(error) => advised(error),
                None => format!("{error:#}"),
            };
            self.record_state("failed", Some(text.clone()));
            Failure::Run(anyhow!("{text}"))
        })?;
        Ok(match filled {
            ControlFlow::Continue(texts) => ControlFlow::Continue(texts),
            ControlFlow::Break(kept) => {
                self.record_state("interrupted", None);
                let shown = self.folder().display();
                let text =
                    format!("stopped while computing vectors of texts{kept}; resume with: sam-train --resume {shown}");
                self.console.print(Kind::Result, &text);
                ControlFlow::Break(())
            }
        })
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn console(&self) -> &Console {
        &self.console
    }

    /// The inputs of the run, with the program's observers.
    pub(super) fn inputs(&self, samples: Arc<dyn Samples>, loader: LoaderOptions) -> RunInputs {
        let (lines, switch) = (Arc::clone(&self.lines), self.switch.clone());
        let mut observers: Vec<Box<dyn Observer>> = Vec::new();
        let ranks = Arc::clone(&self.team.ranks);
        if !self.team.is_first() {
            return RunInputs { samples, loader, interrupter: self.interrupter.clone(), observers, ranks };
        }
        if self.has_dashboard() {
            let heading = Heading {
                name: self.sections.run.name.clone(),
                folder: self.folder().display().to_string(),
                losses: self.losses.clone(),
            };
            // First, so that the screen is open before a line could be printed.
            observers.push(Box::new(Dashboard::new(heading, self.switch.clone())));
        }
        observers.push(Box::new(move |event: &RunEvent| {
            if matches!(event, RunEvent::Saved { .. }) {
                switch.saved();
            }
            lines.show(event);
        }));
        observers.push(Box::new(self.report.clone()));
        RunInputs { samples, loader, interrupter: self.interrupter.clone(), observers, ranks }
    }

    /// On a terminal that can show it, unless lines are asked for.
    fn has_dashboard(&self) -> bool {
        let is_capable = std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let asks_for_lines = self.arguments.plain || self.arguments.verbosity.level() != Verbosity::Normal;
        std::io::stdout().is_terminal() && is_capable && !asks_for_lines
    }

    /// Trains, and prints the outcome; `finish` handles a finished run.
    pub(super) fn run(
        &self,
        learn: impl FnOnce(Option<&SavedState>) -> Result<Outcome, LearnError>,
        finish: impl FnOnce(&Outcome) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let folder = self.folder();
        if !self.team.is_first() {
            return learn(self.resume.as_ref()).map(drop).map_err(|error| failed(error, folder));
        }
        self.lines.start(folder, self.resume.as_ref().map(|state| &state.progress));
        let outcome = learn(self.resume.as_ref());
        self.console.release();
        let written = self.report.write();
        self.record_ending(&outcome);
        let outcome = outcome.map_err(|error| failed(error, folder))?;
        self.print_outcome(&outcome);
        match outcome.ending {
            Ending::Interrupted => {
                let (step, shown) = (outcome.progress.step, folder.display());
                let text = format!("stopped after step {step}; resume with: sam-train --resume {shown}");
                self.console.print(Kind::Result, &text);
            }
            Ending::Finished | Ending::EarlyStopped => finish(&outcome)?,
        }
        // Last, because everything else is more important.
        Ok(written?)
    }

    /// For lists of runs, and in the log; that it cannot be written changes nothing.
    fn record_ending(&self, outcome: &Result<Outcome, LearnError>) {
        let (state, error) = match outcome.as_ref().map(|outcome| outcome.ending) {
            Ok(Ending::Finished) => ("finished", None),
            Ok(Ending::EarlyStopped) => ("early_stopped", None),
            Ok(Ending::Interrupted) => ("interrupted", None),
            Err(error) => ("failed", Some(advised(error))),
        };
        self.record_state(state, error);
    }

    fn record_state(&self, state: &str, error: Option<String>) {
        if !self.team.is_first() {
            return;
        }
        if let Some(error) = &error {
            self.console.log(&format!("error: {error}"));
        }
        let record = EndingRecord { state: state.to_owned(), ended_unix_s: unix_time_s(), error };
        if let Err(error) = self.folder.write_ending(&record) {
            self.console.print(Kind::Warning, &format!("{error:#}"));
        }
    }

    /// Skipped images, the table of scores, and whether training helped.
    fn print_outcome(&self, outcome: &Outcome) {
        self.lines.print_skipped();
        let metric = &self.sections.validation.metric;
        let measure = Measure { metric, better: self.lines.better(metric) };
        if let Some(table) = summary::table(&outcome.progress, &measure) {
            self.console.print(Kind::Result, &format!("\n{table}\n"));
        }
        let forgotten = summary::forgetting(&outcome.progress, &measure);
        for warning in summary::warning(outcome, &measure).into_iter().chain(forgotten) {
            self.console.print(Kind::Warning, &warning);
        }
        self.console.print(Kind::Result, &format!("report:          {}", self.report.path().display()));
    }
}

/// Every key of a plan that decides a step, with its value.
fn plan_statements(plan: &str) -> Result<Vec<Statement>, Failure> {
    fn add(key: &str, value: &toml::Value, statements: &mut Vec<Statement>) {
        match value {
            // Each process has its own device.
            _ if matches!(key, "run.device" | "run.devices" | "run.threads" | "data.workers" | "data.prefetch") => {}
            toml::Value::Table(table) => table.iter().for_each(|(name, value)| {
                add(&if key.is_empty() { name.clone() } else { format!("{key}.{name}") }, value, statements);
            }),
            value => statements.push(Statement::new(key, value)),
        }
    }
    let mut statements = Vec::new();
    add("", &toml::Value::Table(toml::from_str(plan)?), &mut statements);
    Ok(statements)
}

/// The version of the program and the system.
pub(crate) fn program_line() -> String {
    format!("program: sam-train {}, {} on {}", build::VERSION, std::env::consts::OS, std::env::consts::ARCH)
}

/// The command line, as it was typed.
fn command() -> String {
    let words = std::env::args_os().map(|word| word.to_string_lossy().into_owned());
    words.collect::<Vec<_>>().join(" ")
}

pub(super) fn print_lines(lines: &[String]) -> std::io::Result<()> {
    let mut out = output();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// Compute threads; 0: one per core.
pub(super) fn use_threads(n_threads: usize) -> Result<(), Failure> {
    if n_threads > 0 {
        // Fails only when threads are already started, which would be a bug.
        rayon::ThreadPoolBuilder::new().num_threads(n_threads).build_global().context("run.threads")?;
    }
    Ok(())
}

/// The saved state is still valid, so the message says how to resume.
fn failed(error: LearnError, folder: &Path) -> Failure {
    let saved = SavedState::newest(&folder.join(CHECKPOINTS_FOLDER)).ok().and_then(|saves| saves.intact);
    let hint = saved.map(|state| {
        format!(". step {} is saved; resume with: sam-train --resume {}", state.progress.step, folder.display())
    });
    let text = anyhow!("{}{}", advised(&error), hint.unwrap_or_default());
    if matches!(error, LearnError::OutOfMemory { .. }) { Failure::OutOfMemory(text) } else { Failure::Run(text) }
}

/// An error of something that leaves no run.
pub(super) fn of_learning(error: LearnError) -> Failure {
    let text = anyhow!("{}", advised(&error));
    if matches!(error, LearnError::OutOfMemory { .. }) { Failure::OutOfMemory(text) } else { Failure::Run(text) }
}

/// The message of an error, with the configuration keys that it is about.
pub(super) fn advised(error: &LearnError) -> String {
    advice(error).map_or_else(|| error.to_string(), |advice| format!("{error}. {advice}"))
}

/// The configuration keys that an error of the library is about.
fn advice(error: &LearnError) -> Option<&'static str> {
    match error {
        LearnError::FreezesNothing { .. } | LearnError::NothingLearns => Some("Change optimiser.freeze"),
        LearnError::LearnsNothing { .. } => Some("Change optimiser.learn"),
        LearnError::AdaptsNothing { .. } | LearnError::AdaptedTwice { .. } => Some("Change lora.targets"),
        LearnError::RankTooLarge { .. } => Some("Change lora.rank"),
        LearnError::DropoutOutsideEncoder { .. } => Some("The keys are lora.dropout and lora.targets"),
        LearnError::OtherAdapters { .. } => Some("The keys are lora.targets and model.adapter"),
        LearnError::ShardsWithRunningStatistics { .. } => {
            Some("Set run.parallel = 1, or model.batch_norm = \"frozen\"")
        }
        LearnError::OtherTeacher { .. } => Some("The keys are model.image_size, model.sizes and distil.teacher"),
        LearnError::TaughtEncoderIsFrozen => Some(
            "Let it learn (optimiser.freeze), or learn masks alone: distil.embedding_steps = 0 and distil.embedding_weight = 0",
        ),
        LearnError::NoRunningStatistics => Some(
            "Set model.batch_norm = \"frozen\", or let the encoder learn: the keys are optimiser.freeze and [lora]",
        ),
        LearnError::OutOfMemory { .. } => Some(
            "Less memory: data.objects_per_step = \"auto\" takes as many as fit, optimiser.accumulation = 2 makes the same step of \
             halves; fewer data.images_per_step, run.activations = \"recompute\", a smaller model.image_size, adapters ([lora]) or \
             optimiser.freeze = [\"image_encoder\"]",
        ),
        LearnError::Cache(_) => {
            Some("The keys are cache.dir and cache.dtype; cache.embeddings = \"off\" needs no disk")
        }
        LearnError::Samples(_) | LearnError::EmbeddedImage { .. } | LearnError::PromptedImage { .. } => {
            Some("data.bad = \"drop\" drops and counts what cannot be read")
        }
        LearnError::NoThreads { .. } => Some("Lower run.parallel"),
        LearnError::BatchesOfRanks { .. } => Some(
            "The key is optimiser.accumulation: batches of a step, which the ranks divide (data.images_per_step counts all)",
        ),
        LearnError::RanksWithRunningStatistics { .. } => Some("Set model.batch_norm = \"frozen\""),
        LearnError::NotFinite { .. } => Some("The keys are optimiser.lr and optimiser.clip_norm"),
        LearnError::GradientNotFinite { .. } => Some("The key is optimiser.lr"),
        LearnError::NoSuchMetric { .. } => Some("Change validation.metric"),
        _ => None,
    }
}
