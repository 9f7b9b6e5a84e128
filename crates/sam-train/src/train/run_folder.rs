//! The folder of a run: it documents itself, one process at a time works in it, and it is replaced only on request.
//!
//! ```text
//! config.toml        as typed             metrics.jsonl   a line per step and validation
//! plan.toml          with every default   tensorboard/    the same for TensorBoard
//! environment.json   device and program   previews/       images at each validation
//! best.safetensors   official keys        checkpoints/    everything to resume
//! last.safetensors   official keys        report.html     curves, tables, previews (report.md: tables)
//! checksums.json     of both              run.lock        which process works here
//! data.json          what the data loses   log.txt         the lines of all sessions
//! ending.json        how the last session ended   validation/   every object of the baseline and the best
//! adapter/           with [lora]: of the best checkpoint (adapter-last/: of the last)
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use sam_files::{UNFINISHED_PREFIX, write_atomically};
use sam_learn::LearnError;
use sam_learn::record::{ADAPTER_FOLDER, CHECKPOINTS_FOLDER, LAST_ADAPTER_FOLDER, LOCK_FILE, RunLock};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::console::LOG;
use super::run_data::{self, DATA, RunData};
use crate::survey::DataLosses;

const CONFIG: &str = "config.toml";
pub(crate) const PLAN: &str = "plan.toml";
const ENVIRONMENT: &str = "environment.json";
const LOSSES: &str = "data.json";
const ENDING: &str = "ending.json";
const RESUMED: &str = "resumed";

/// Files that a run writes, beside those of [`FOLDERS`].
const FILES: [&str; 20] = [
    LOSSES,
    LOG,
    ENDING,
    CONFIG,
    PLAN,
    ENVIRONMENT,
    LOCK_FILE,
    "metrics.jsonl",
    "best.safetensors",
    "last.safetensors",
    "best.text.safetensors",
    "last.text.safetensors",
    "export.text.safetensors",
    "export-1024.text.safetensors",
    "checksums.json",
    "report.html",
    "report.md",
    "encoder.pth",
    "export.pth",
    "export-1024.safetensors",
];

/// Files of a folder of adapters.
const ADAPTER_FILES: [&str; 2] = ["adapter_config.json", "adapter_model.safetensors"];

/// Folders that a run writes, with what the names in them begin with.
const FOLDERS: [(&str, &[&str]); 7] = [
    ("validation", &["baseline.json", "best.json", "last.json"]),
    (CHECKPOINTS_FOLDER, &["step-"]),
    ("previews", &["step-"]),
    (ADAPTER_FOLDER, &ADAPTER_FILES),
    (LAST_ADAPTER_FOLDER, &ADAPTER_FILES),
    ("tensorboard", &["events.out.tfevents."]),
    (
        "export-huggingface",
        &["config.json", "model.safetensors", "preprocessor_config.json", "text-prompt.safetensors"],
    ),
];

/// What a session of a run begins with.
pub(crate) struct SessionStart<'a> {
    pub(crate) plan_toml: &'a str,
    pub(crate) device: &'a str,
    /// The configuration as typed, if a file was given.
    pub(crate) config: Option<&'a Path>,
    pub(crate) data: &'a [RunData],
}

/// How a session ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EndingRecord {
    /// `finished`, `early_stopped`, `interrupted` or `failed`.
    pub(crate) state: String,
    pub(crate) ended_unix_s: u64,
    /// The message of a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// A run folder, which may not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    start: Start,
    /// `None` until the folder exists.
    lock: Option<Arc<RunLock>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// There is no run in the folder.
    New,
    /// The run in it is deleted.
    Replace,
    /// The run in it is resumed.
    Resume,
}

impl RunFolder {
    /// The folder of a new run; a run that ended before its first save may be in it.
    pub(crate) fn to_create(path: &Path, force: bool) -> Result<Self> {
        if !path.is_dir() && path.symlink_metadata().is_err() {
            return Ok(Self { path: path.to_owned(), start: Start::New, lock: None });
        }
        let shown = path.display();
        let Ok(entries) = path.read_dir() else {
            bail!("run.dir: {shown} exists but is not a folder; choose another one");
        };
        let names: Vec<String> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        let is_run = path.join(PLAN).is_file();
        if !is_run && !names.iter().all(|name| comes_before_the_plan(name)) {
            bail!("run.dir: {shown} exists but is not a run folder; choose another folder");
        }
        let lock = Some(Arc::new(RunLock::acquire(path)?));
        if is_run && has_saves(path) && !force {
            bail!(
                "run.dir: {shown} contains a run; resume it with `sam-train --resume {shown}`, choose another folder, \
                 or use --force to replace it"
            );
        }
        let start = if is_run { Start::Replace } else { Start::New };
        Ok(Self { path: path.to_owned(), start, lock })
    }

    /// The folder of a run that is only read, by other processes than its own.
    pub(crate) fn to_read(path: &Path) -> Self {
        Self { path: path.to_owned(), start: Start::Resume, lock: None }
    }

    /// The folder of a run to resume.
    pub(crate) fn to_resume(path: &Path) -> Result<Self> {
        if !path.join(PLAN).is_file() {
            bail!("--resume {}: must be a run folder; there is no {PLAN} in it", path.display());
        }
        let lock = Some(Arc::new(RunLock::acquire(path)?));
        Ok(Self { path: path.to_owned(), start: Start::Resume, lock })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn plan_path(&self) -> PathBuf {
        self.path.join(PLAN)
    }

    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.path.join(CHECKPOINTS_FOLDER)
    }

    /// The texts of the configuration and the plan, with their titles; those that exist.
    pub(crate) fn texts(&self) -> Vec<(&'static str, String)> {
        [("Configuration, as typed", CONFIG), ("Plan, with every default", PLAN)]
            .into_iter()
            .filter_map(|(what, name)| {
                let bytes = sam_files::read_regular(&self.path.join(name), sam_files::MAX_TEXT_BYTES).ok()?;
                Some((what, String::from_utf8_lossy(&bytes).into_owned()))
            })
            .collect()
    }

    /// Device and program, as [`RunFolder::write_start`] writes them.
    pub(crate) fn environment(&self) -> Value {
        let text = sam_files::read_regular(&self.path.join(ENVIRONMENT), sam_files::MAX_TEXT_BYTES).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Creates the folder, or clears it of the run that is replaced, and writes configuration, environment and plan. A
    /// resume changes only what differs.
    pub(crate) fn write_start(&mut self, session: &SessionStart<'_>) -> Result<()> {
        let SessionStart { plan_toml, config, .. } = *session;
        let failed = || format!("{}: the run folder cannot be written", self.path.display());
        std::fs::create_dir_all(&self.path).with_context(failed)?;
        if self.lock.is_none() {
            self.lock = Some(Arc::new(RunLock::acquire(&self.path)?));
            if self.plan_path().exists() {
                let holder = "just begun".to_owned();
                return Err(LearnError::InUse { folder: self.path.clone(), holder }.into());
            }
        }
        // Read before anything is removed, because it may be in the folder.
        let typed = config
            .map(|path| {
                sam_files::read_regular(path, sam_files::MAX_TEXT_BYTES).with_context(|| format!("{}", path.display()))
            })
            .transpose()?;
        if self.start == Start::Replace {
            self.remove_run().with_context(failed)?;
        }
        if let Some(typed) = typed {
            self.replace(CONFIG, &typed).with_context(failed)?;
        }
        match std::fs::remove_file(self.path.join(ENDING)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).with_context(failed),
            _ => {}
        }
        let environment = self.environment_of_session(session);
        self.replace(ENVIRONMENT, format!("{environment:#}\n").as_bytes()).with_context(failed)?;
        // Last: a folder with a plan is a run.
        self.replace(PLAN, plan_toml.as_bytes()).with_context(failed)
    }

    /// Keeps how a session ended.
    pub(crate) fn write_ending(&self, ending: &EndingRecord) -> Result<()> {
        let text = serde_json::to_string_pretty(ending)? + "\n";
        self.replace(ENDING, text.as_bytes()).with_context(|| format!("{}: cannot be written", self.path.display()))
    }

    /// How the last session ended; `None` while one works in the folder, and after one that was killed.
    pub(crate) fn ending(&self) -> Option<EndingRecord> {
        let text = sam_files::read_regular(&self.path.join(ENDING), sam_files::MAX_TEXT_BYTES).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Whether there is a save or a best checkpoint.
    pub(crate) fn has_saves(&self) -> bool {
        has_saves(&self.path)
    }

    /// Keeps what the data sets lose.
    pub(crate) fn write_losses(&self, losses: &[DataLosses]) -> Result<()> {
        let text = serde_json::to_string_pretty(losses)? + "\n";
        self.replace(LOSSES, text.as_bytes()).with_context(|| format!("{}: cannot be written", self.path.display()))
    }

    /// As [`RunFolder::write_losses`] wrote them.
    pub(crate) fn losses(&self) -> Vec<DataLosses> {
        let text = sam_files::read_regular(&self.path.join(LOSSES), sam_files::MAX_TEXT_BYTES).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// The environment of a new run; for a resumed run the recorded one with this session added.
    fn environment_of_session(&self, start: &SessionStart<'_>) -> Value {
        let session = json!({
            "program": env!("CARGO_PKG_VERSION"),
            "command": std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>(),
            "os": std::env::consts::OS,
            "architecture": std::env::consts::ARCH,
            "processors": std::thread::available_parallelism().map_or(1, usize::from),
            "device": start.device,
            DATA: run_data::record(start.data),
            "started_unix_s": unix_time_s(),
        });
        let mut environment = match self.start {
            Start::New | Start::Replace => return session,
            Start::Resume => self.environment(),
        };
        let Some(first) = environment.as_object_mut() else { return session };
        // Runs of earlier versions have none.
        first.entry(DATA).or_insert_with(|| session[DATA].clone());
        match first.entry(RESUMED).or_insert_with(|| json!([])).as_array_mut() {
            Some(sessions) => sessions.push(session),
            None => return session,
        }
        environment
    }

    /// See [`run_data::changes`]; for a run that is not resumed there are none.
    pub(crate) fn changed_data(&self, data: &[RunData]) -> Result<Vec<String>> {
        if self.start != Start::Resume {
            return Ok(Vec::new());
        }
        let environment = self.environment();
        let sessions = environment[RESUMED].as_array().map_or(&[][..], Vec::as_slice);
        let last = sessions.iter().rev().map(|session| &session[DATA]).find(|data| data.is_object());
        run_data::changes(data, &environment[DATA], last.unwrap_or(&environment[DATA]))
    }

    fn replace(&self, name: &str, content: &[u8]) -> std::io::Result<()> {
        let path = self.path.join(name);
        if sam_files::read_regular(&path, sam_files::MAX_TEXT_BYTES).is_ok_and(|old| old == content) {
            return Ok(());
        }
        write_atomically(&path, content).map(drop)
    }

    /// Removes the files of a run, and nothing else. The plan stays until the new one replaces it: if this is interrupted, the
    /// folder is still a run folder and can be replaced again.
    fn remove_run(&self) -> std::io::Result<()> {
        for entry in self.path.read_dir()? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if ![LOCK_FILE, PLAN].contains(&name.as_str()) && is_file_of_a_run(&name) {
                std::fs::remove_file(entry.path())?;
            }
        }
        for (name, prefixes) in FOLDERS {
            let folder = self.path.join(name);
            let Ok(entries) = folder.read_dir() else { continue };
            for entry in entries {
                let entry = entry?;
                let inside = entry.file_name().to_string_lossy().into_owned();
                if !prefixes.iter().any(|prefix| inside.starts_with(prefix)) {
                    continue;
                }
                match entry.file_type()?.is_dir() {
                    true => std::fs::remove_dir_all(entry.path())?,
                    false => std::fs::remove_file(entry.path())?,
                }
            }
            // Fails, as it should, if other files are left in it.
            let _ = std::fs::remove_dir(&folder);
        }
        Ok(())
    }
}

/// The present time.
pub(super) fn unix_time_s() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// Whether a run writes this file before its plan; a run that was killed that early has no other files.
fn comes_before_the_plan(name: &str) -> bool {
    [CONFIG, ENVIRONMENT, LOCK_FILE].contains(&name) || name.starts_with(UNFINISHED_PREFIX)
}

fn is_file_of_a_run(name: &str) -> bool {
    let is_export = name.strip_prefix("export-").is_some_and(|size| {
        size.strip_suffix(".safetensors").is_some_and(|size| size.bytes().all(|byte| byte.is_ascii_digit()))
    });
    is_export || FILES.contains(&name)
}

/// Whether there is a save or a best checkpoint.
fn has_saves(folder: &Path) -> bool {
    if folder.join("best.safetensors").exists() {
        return true;
    }
    let Ok(mut entries) = folder.join(CHECKPOINTS_FOLDER).read_dir() else { return false };
    entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("step-")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for name in names {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            std::fs::write(path, "x").expect("written");
        }
        folder
    }

    fn start<'a>(plan_toml: &'a str, device: &'a str) -> SessionStart<'a> {
        SessionStart { plan_toml, device, config: None, data: &[] }
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = (folder.read_dir().expect("readable").flatten())
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn force_removes_only_what_a_run_writes() {
        let folder = with(&[
            "plan.toml",
            "best.safetensors",
            "notes.txt",
            "export-64.safetensors",
            "export-notes.safetensors",
            "previews/step-00000001.png",
            "previews/mine.png",
            "checkpoints/step-00000001/model.bpk",
        ]);
        assert!(RunFolder::to_create(folder.path(), false).is_err(), "it holds a run");
        let mut run = RunFolder::to_create(folder.path(), true).expect("forced");
        run.write_start(&start("plan", "cpu")).expect("written");
        let left = ["environment.json", "export-notes.safetensors", "notes.txt", "plan.toml", "previews", "run.lock"];
        assert_eq!(names(folder.path()), left);
        assert_eq!(names(&folder.path().join("previews")), ["mine.png"]);
        drop(run);
        let run = RunFolder::to_create(folder.path(), false).expect("no saves");
        run.remove_run().expect("removed");
        drop(run);
        RunFolder::to_create(folder.path(), false).expect("an interrupted removal leaves a run folder");
    }

    #[test]
    fn a_folder_that_is_not_a_run_is_never_changed() {
        let folder = with(&["thesis.tex"]);
        for force in [false, true] {
            assert!(RunFolder::to_create(folder.path(), force).is_err());
        }
        assert_eq!(names(folder.path()), ["thesis.tex"]);
    }

    #[test]
    fn a_run_without_a_save_can_be_started_again() {
        for left in [&["config.toml", ".writing-1-a/plan.toml"][..], &["plan.toml", "metrics.jsonl", "run.lock"]] {
            let folder = with(left);
            let mut run = RunFolder::to_create(folder.path(), false).expect("nothing to lose");
            run.write_start(&start("new", "cpu")).expect("written");
            assert_eq!(std::fs::read_to_string(folder.path().join(PLAN)).expect("there"), "new");
            assert!(!folder.path().join("metrics.jsonl").exists());
        }
    }

    #[test]
    fn a_resume_keeps_the_first_command() {
        let folder = with(&[]);
        let mut run = RunFolder::to_create(&folder.path().join("run"), false).expect("new");
        run.write_start(&start("plan", "cpu")).expect("written");
        drop(run);
        let mut run = RunFolder::to_resume(&folder.path().join("run")).expect("a run");
        run.write_start(&start("plan", "cuda")).expect("written");
        let environment = run.environment();
        assert_eq!(
            (environment["device"].as_str(), environment[RESUMED][0]["device"].as_str()),
            (Some("cpu"), Some("cuda"))
        );
        assert!(RunFolder::to_resume(&folder.path().join("run")).is_err(), "it is in use");
    }
}
