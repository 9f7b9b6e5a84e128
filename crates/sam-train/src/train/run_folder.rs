//! The folder of a run: it documents itself, and it is replaced only on request.
//!
//! ```text
//! config.toml        as typed            metrics.jsonl   a line per step and validation
//! plan.toml          with every default  tensorboard/    the same for TensorBoard
//! environment.json   device and program   previews/       images at each validation
//! best.safetensors   official keys       checkpoints/    everything to resume
//! last.safetensors   official keys       report.html     curves, tables, previews (report.md: tables)
//! ```

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sam_learn::record::CHECKPOINTS_FOLDER;

const CONFIG: &str = "config.toml";
const PLAN: &str = "plan.toml";
const ENVIRONMENT: &str = "environment.json";

/// A run folder, which may not exist yet.
#[derive(Clone, Debug)]
pub(crate) struct RunFolder {
    path: PathBuf,
    /// Whether an earlier run in it is deleted.
    replaces: bool,
}

impl RunFolder {
    /// The folder of a new run.
    pub(crate) fn to_create(path: &Path, force: bool) -> Result<Self> {
        let is_there = path.symlink_metadata().is_ok();
        let is_empty = path.read_dir().is_ok_and(|mut entries| entries.next().is_none());
        if !is_there || is_empty {
            return Ok(Self { path: path.to_owned(), replaces: false });
        }
        let shown = path.display();
        if !path.join(PLAN).is_file() {
            bail!("run.dir: {shown} exists but is not a run folder; choose another folder");
        }
        if !force {
            bail!(
                "run.dir: {shown} contains a run; resume it with `sam-train --resume {shown}`, choose another folder, \
                 or use --force to replace it"
            );
        }
        Ok(Self { path: path.to_owned(), replaces: true })
    }

    /// The folder of a run to resume.
    pub(crate) fn to_resume(path: &Path) -> Result<Self> {
        if !path.join(PLAN).is_file() {
            bail!("--resume {}: must be a run folder; there is no {PLAN} in it", path.display());
        }
        Ok(Self { path: path.to_owned(), replaces: false })
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
            .filter_map(|(what, name)| Some((what, std::fs::read_to_string(self.path.join(name)).ok()?)))
            .collect()
    }

    /// Device and program, as [`RunFolder::write_start`] writes them.
    pub(crate) fn environment(&self) -> serde_json::Value {
        let text = std::fs::read_to_string(self.path.join(ENVIRONMENT)).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    }

    /// Creates the folder and writes configuration, plan and environment; a resumed run overwrites them.
    pub(crate) fn write_start(&self, plan_toml: &str, device: &str, config: Option<&Path>) -> Result<()> {
        let failed = || format!("{}: the run folder cannot be written", self.path.display());
        if self.replaces {
            std::fs::remove_dir_all(&self.path).with_context(failed)?;
        }
        std::fs::create_dir_all(&self.path).with_context(failed)?;
        if let Some(config) = config {
            std::fs::copy(config, self.path.join(CONFIG)).with_context(failed)?;
        }
        std::fs::write(self.plan_path(), plan_toml).with_context(failed)?;
        let environment = serde_json::json!({
            "program": env!("CARGO_PKG_VERSION"),
            "command": std::env::args().collect::<Vec<_>>(),
            "os": std::env::consts::OS,
            "architecture": std::env::consts::ARCH,
            "processors": std::thread::available_parallelism().map_or(1, usize::from),
            "device": device,
            "started_unix_s": std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
        });
        let text = serde_json::to_string_pretty(&environment)?;
        std::fs::write(self.path.join(ENVIRONMENT), text + "\n").with_context(failed)?;
        Ok(())
    }
}
