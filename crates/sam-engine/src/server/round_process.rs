//! Rounds as the page sees them: those that have ended, and the process that works on one, which is one of its own with a low
//! priority, so that clicks are answered meanwhile.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use serde_json::{Value, json};

use crate::error::EngineError;
use crate::rounds::{Collected, Decision, Phase, Round, Rounds, now_unix_s};

/// What the process prints goes there.
const LOG: &str = "log.txt";

/// The round that is worked on, whoever has begun it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Running {
    round: u32,
    phase: Phase,
    /// The newest line of the training.
    detail: String,
    /// Of the steps of the training.
    fraction: Option<f64>,
    /// Since the phase began.
    seconds: f64,
    eta_seconds: Option<f64>,
}

/// The rounds of the project that is served.
#[derive(Debug)]
pub(super) struct RoundProcess {
    rounds: Rounds,
    log: PathBuf,
    command: Vec<OsString>,
    child: Mutex<Option<Child>>,
}

impl RoundProcess {
    pub(super) fn new(project: &Path, command: Vec<OsString>) -> Self {
        let rounds = Rounds::of(project);
        Self { log: project.join("rounds").join(LOG), rounds, command, child: Mutex::default() }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a round, or resumes one that was stopped. `Err`: why it cannot.
    pub(super) fn start(&self) -> Result<(), String> {
        let mut child = self.child();
        if self.rounds.is_running() || child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
            return Err("a round is running".to_owned());
        }
        let Some((program, arguments)) = self.command.split_first() else {
            return Err("this server cannot train".to_owned());
        };
        let folder = self.log.parent().unwrap_or(Path::new("."));
        let open = || -> std::io::Result<(File, File)> {
            std::fs::create_dir_all(folder)?;
            let log = File::create(&self.log)?;
            Ok((log.try_clone()?, log))
        };
        let (out, errors) = open().map_err(|error| format!("{}: {error}", self.log.display()))?;
        let command = &mut Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(out).stderr(errors);
        let spawned = command.spawn();
        *child = Some(spawned.map_err(|error| format!("the training cannot be started: {error}"))?);
        Ok(())
    }

    /// Asks the process to save and end. A round that somebody has begun elsewhere is left alone.
    pub(super) fn stop(&self) {
        let mut child = self.child();
        let Some(running) = child.as_mut() else { return };
        if !matches!(running.try_wait(), Ok(None)) {
            return;
        }
        // As Ctrl-C; where there is no such signal, the last save is what is left.
        let pid = running.id().to_string();
        let asked =
            cfg!(unix) && Command::new("kill").args(["-INT", &pid]).status().is_ok_and(|status| status.success());
        if !asked {
            let _ = running.kill();
        }
    }

    /// The round that a process works on.
    pub(super) fn running(&self) -> Option<Running> {
        // A child that has ended is awaited, so that no zombie is left.
        let is_child = self.child().as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)));
        if !is_child && !self.rounds.is_running() {
            return None;
        }
        let round = self.rounds.current();
        let progress = round.progress();
        let phase = progress.map_or(Phase::Collect, |progress| progress.phase);
        let seconds = progress.map_or(0.0, |progress| (now_unix_s() - progress.since_unix_s).max(0.0));
        let steps = if phase == Phase::Train { steps(&round) } else { None };
        let fraction = steps.map(|(done, all)| done / all.max(1.0));
        let eta_seconds =
            fraction.filter(|fraction| *fraction > 0.02).map(|fraction| seconds * (1.0 - fraction) / fraction);
        let detail = match steps {
            Some((done, all)) => format!("step {done} of {all}"),
            None => String::new(),
        };
        Some(Running { round: round.number, phase, detail, fraction, seconds, eta_seconds })
    }

    /// The rounds that have ended, the first one first; the last one may have been stopped.
    pub(super) fn finished(&self) -> Result<Vec<Value>, EngineError> {
        let is_running = self.running().is_some();
        let mut finished = Vec::new();
        for round in self.rounds.all() {
            let (collected, decision) = (round.collected()?, round.decision()?);
            if decision.is_none() && is_running {
                continue;
            }
            finished.push(self.record(&round, collected.as_ref(), decision.as_ref()));
        }
        Ok(finished)
    }

    fn record(&self, round: &Round, collected: Option<&Collected>, decision: Option<&Decision>) -> Value {
        let gain = decision.and_then(|decision| decision.gain.as_ref());
        let reasons = match decision {
            Some(decision) => decision.reasons.clone(),
            None => {
                vec![last_line(&self.log).unwrap_or_else(|| "it was stopped; the next start resumes it".to_owned())]
            }
        };
        json!({
            "round": round.number,
            // Milliseconds, as JavaScript has times.
            "finished": decision.map(|decision| 1000 * decision.finished_unix_s),
            "decision": match decision {
                Some(decision) => json!(decision.verdict),
                None => json!("stopped"),
            },
            "reasons": reasons,
            "masks": collected.map(|collected| collected.masks.train),
            "validation_masks": collected.map(|collected| collected.masks.validation),
            "new_masks": collected.map(|collected| collected.statistics.masks),
            "accepted": collected.map(|collected| collected.statistics.accepted),
            "seconds_per_mask": collected.and_then(|collected| collected.statistics.seconds_per_mask),
            "clicks_per_mask": collected.and_then(|collected| collected.statistics.clicks_per_mask),
            "miou_before": gain.map(|gain| gain.before),
            "miou_after": gain.map(|gain| gain.after),
            "difference": gain.map(|gain| gain.difference),
        })
    }
}

/// The newest step of a training, and the number of all.
fn steps(round: &Round) -> Option<(f64, f64)> {
    let run = round.path().join("run");
    let plan = sam_files::read_text(&run.join("plan.toml"), sam_files::MAX_TEXT_BYTES).ok()?;
    let plan: toml::Table = plan.parse().ok()?;
    let all = plan.get("schedule")?.get("steps")?.as_integer()? as f64;
    let newest: Value = serde_json::from_str(&last_line(&run.join("metrics.jsonl"))?).ok()?;
    Some((newest.get("step")?.as_f64()?, all))
}

/// The last whole line of a file that grows.
fn last_line(path: &Path) -> Option<String> {
    const TAIL: u64 = 16 << 10;
    let mut file = sam_files::open_regular(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    text.lines().rfind(|line| !line.trim().is_empty()).map(str::to_owned)
}
