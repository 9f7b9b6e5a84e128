//! `sam-train doctor`: what this build can do on this machine, as text to paste into a report.
//!
//! Every device of the build is opened and tested as before a training. Something broken is exit code 1: a device of the build
//! that cannot be used, a folder that cannot be written, a checkpoint that is not what its name says.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use sam_infer::{DeviceError, DeviceName};
use serde::Serialize;

use crate::build;
use crate::cli::DoctorArguments;
use crate::disk;
use crate::failure::{BadInput, Failure};
use crate::machine::{Machine, without_home};
use crate::output::output;
use crate::published::{self, Check};
use crate::train::open_device;

/// More devices of one kind than any machine has.
const DEVICES_MAX: usize = 64;

/// What is found; as JSON for programs.
#[derive(Debug, Serialize)]
struct Report {
    version: &'static str,
    commit: Option<&'static str>,
    features: &'static str,
    profile: &'static str,
    target: &'static str,
    machine: Machine,
    devices: Vec<Device>,
    folder: Folder,
    #[serde(skip_serializing_if = "Option::is_none")]
    checkpoint: Option<CheckedFile>,
    /// What is broken, one sentence each.
    problems: Vec<String>,
}

/// A kind of device, or one of them.
#[derive(Debug, Serialize)]
struct Device {
    name: String,
    state: State,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It opens, and computes what the CPU does, forward and backward.
    Usable,
    /// The build lacks it; with the command that adds it.
    NotBuilt(String),
    /// Why it cannot be used.
    Broken(String),
}

#[derive(Debug, Serialize)]
struct Folder {
    path: PathBuf,
    /// Why nothing can be written there.
    #[serde(skip_serializing_if = "Option::is_none")]
    not_writable: Option<String>,
    /// Bytes that can be written, where the system says.
    available_bytes: Option<u64>,
}

#[derive(Debug, Serialize)]
struct CheckedFile {
    path: PathBuf,
    sha256: String,
    meaning: String,
}

pub(crate) fn run(arguments: &DoctorArguments) -> Result<(), Failure> {
    let folder = Folder::look(&arguments.dir).bad_input()?;
    let mut problems: Vec<String> = folder.not_writable.iter().cloned().collect();
    let devices = devices();
    for device in &devices {
        if let State::Broken(reason) = &device.state {
            problems.push(format!("device {}: {reason}", device.name));
        }
    }
    let checkpoint = match &arguments.checkpoint {
        None => None,
        Some(path) => {
            // A file that is not there is bad input; one that is damaged is what this command looks for.
            std::fs::metadata(path).with_context(|| format!("--checkpoint {}", path.display())).bad_input()?;
            CheckedFile::look(path).map_err(|error| problems.push(error.to_string())).ok()
        }
    };
    let report = Report {
        version: build::NUMBER,
        commit: Some(build::COMMIT).filter(|commit| !commit.is_empty()),
        features: build::FEATURES,
        profile: build::PROFILE,
        target: build::TARGET,
        machine: Machine::look(),
        devices,
        folder,
        checkpoint,
        problems,
    };
    match arguments.json {
        true => writeln!(output(), "{}", serde_json::to_string_pretty(&report)?)?,
        false => report.print(&mut output())?,
    }
    match &report.problems[..] {
        [] => Ok(()),
        problems => Err(Failure::Run(anyhow!("{}", problems.join("; ")))),
    }
}

/// Every kind of device; of several GPUs, each.
fn devices() -> Vec<Device> {
    let mut all = vec![Device::look(DeviceName::Cpu)];
    for index in 0..DEVICES_MAX {
        let cuda = Device::look(DeviceName::Cuda(index));
        let is_usable = matches!(cuda.state, State::Usable);
        // The one after the last is absent.
        if is_usable || index == 0 {
            all.push(cuda);
        }
        if !is_usable {
            break;
        }
    }
    all.extend([DeviceName::Vulkan, DeviceName::Wgpu].map(Device::look));
    all
}

impl Device {
    fn look(name: DeviceName) -> Self {
        let name = name.to_string();
        let state = match open_device(&name) {
            Ok(_) => State::Usable,
            Err(error) => match error.downcast_ref() {
                Some(DeviceError::NotBuilt { feature, .. }) => {
                    State::NotBuilt(format!("cargo build --release --features {feature}"))
                }
                _ => State::Broken(error.to_string()),
            },
        };
        Self { name, state }
    }
}

impl Folder {
    fn look(folder: &Path) -> anyhow::Result<Self> {
        let named = || format!("--dir {}", folder.display());
        if !std::fs::metadata(folder).with_context(named)?.is_dir() {
            return Err(anyhow!("{} is a file; it must be a folder", named()));
        }
        let shown = without_home(&std::path::absolute(folder)?);
        let probe = folder.join(format!(".sam-train-doctor-{}", std::process::id()));
        let written = std::fs::write(&probe, b"").and_then(|()| std::fs::remove_file(&probe));
        let not_writable = written.err().map(|error| format!("{}: nothing can be written: {error}", shown.display()));
        Ok(Self { path: shown, not_writable, available_bytes: disk::free_bytes(folder) })
    }
}

impl CheckedFile {
    fn look(path: &Path) -> anyhow::Result<Self> {
        let (sha256, check) = published::check_file(path)?;
        let meaning = match check {
            Check::Published(published) => format!("the published {}", published.name),
            Check::AsNamed => "as its name says".to_owned(),
            Check::Unknown => "not a published file that is known here".to_owned(),
        };
        Ok(Self { path: without_home(path), sha256, meaning })
    }
}

impl Report {
    fn print(&self, out: &mut impl Write) -> Result<(), Failure> {
        let machine = &self.machine;
        writeln!(out, "sam-train   {}", build::VERSION)?;
        writeln!(out, "system      {}", machine.os)?;
        let cores = machine.cores.map_or_else(String::new, |cores| format!("{cores} cores, "));
        let processor = if machine.processor.is_empty() { std::env::consts::ARCH } else { &machine.processor };
        writeln!(out, "processor   {processor}: {cores}{} threads, SIMD: {}", machine.threads, machine.simd)?;
        let [total, available] = [machine.memory_bytes, machine.available_bytes].map(disk::size);
        writeln!(out, "memory      {total}, {available} available")?;
        let Folder { path, available_bytes, not_writable } = &self.folder;
        let available = available_bytes.map_or_else(|| "unknown".to_owned(), disk::size);
        writeln!(out, "disk        {}: {available} available", path.display())?;
        if let Some(reason) = not_writable {
            writeln!(out, "            {reason}")?;
        }
        for Device { name, state } in &self.devices {
            let state = match state {
                State::Usable if name == "cpu" => "usable".to_owned(),
                State::Usable => "usable: gives the results of the CPU, forward and backward".to_owned(),
                State::NotBuilt(command) => format!("not in this build ({command})"),
                State::Broken(reason) => format!("BROKEN: {reason}"),
            };
            writeln!(out, "device      {name}: {state}")?;
        }
        if let Some(CheckedFile { path, sha256, meaning }) = &self.checkpoint {
            writeln!(out, "checkpoint  {}: {meaning}", path.display())?;
            writeln!(out, "sha256      {sha256}")?;
        }
        Ok(())
    }
}
