//! `data.objects_per_step = "auto"`: as many objects as the memory holds.
//!
//! After a failed allocation neither a GPU's context nor this process can be trusted, and the system ends a process that takes
//! too much without a word. So the training is made by a process of its own; when that has no memory left, the next one goes
//! on where it was saved, with half the objects.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitStatus};

use anyhow::Context;

use super::run_folder::PLAN;
use crate::cli::RunArguments;
use crate::config::TrainPlan;
use crate::failure::{Failure, OUT_OF_MEMORY};
use crate::output::errors;

/// The largest number of objects of a step, for the process that trains.
const VARIABLE: &str = "SAM_TRAIN_OBJECTS_PER_STEP";

/// The plan with the number of objects that the process found which watches this one, and a note where that is a smaller
/// number. `None` where no process watches, and this one must.
pub(super) fn with_objects_that_fit(plan: &TrainPlan) -> Option<(TrainPlan, Option<String>)> {
    let mut fitting = plan.clone();
    if !plan.data.halves_objects {
        return Some((fitting, None));
    }
    let n = std::env::var(VARIABLE).ok()?.parse::<usize>().ok()?;
    let accumulation = plan.optimiser.accumulation.max(1);
    let fewest = plan.data.images_per_batch.get();
    fitting.data.objects_per_batch = plan.data.objects_per_batch.min(n / accumulation).max(fewest);
    let is_less = fitting.data.objects_per_batch < plan.data.objects_per_batch;
    let note = is_less.then(|| format!("data.objects_per_step = \"auto\": {n}, as the memory did not hold more"));
    Some((fitting, note))
}

/// Trains in other processes until one ends for another reason than a lack of memory. The program then ends as that one did.
///
/// # Errors
///
/// When a process cannot be started, or not even one object of each image fits.
pub(super) fn train(plan: &TrainPlan, arguments: &RunArguments) -> Result<(), Failure> {
    let accumulation = plan.optimiser.accumulation.max(1);
    let fewest = plan.data.images_per_batch.get() * accumulation;
    let mut n = plan.data.objects_per_batch * accumulation;
    let program = std::env::current_exe().context("the path of this program")?;
    let plan_file = plan.run.dir.join(PLAN);
    let before = written(&plan_file);
    let mut resume = arguments.resume.clone();
    loop {
        let killed_before = killed_for_memory();
        let mut command = Command::new(&program);
        command.args(words(std::env::args_os().skip(1), resume.as_deref())).env(VARIABLE, n.to_string());
        let status = wait(&mut command).context("a process that trains cannot be started")?;
        let Some(how) = lack_of_memory(status, killed_before) else { std::process::exit(code_of(status)) };
        if n <= fewest {
            return Err(Failure::OutOfMemory(anyhow::anyhow!(
                "the memory does not hold one object of each image of a step ({fewest}): {how}; fewer data.images_per_step, or \
                 more optimiser.accumulation, a smaller model.image_size, or run.activations = \"recompute\""
            )));
        }
        let next = (n / 2 / accumulation * accumulation).max(fewest);
        let _ = writeln!(
            errors(),
            "warning: no memory is left with {n} objects in a step: {how}; going on with {next} (data.objects_per_step = \"auto\")"
        );
        n = next;
        if resume.is_none() && written(&plan_file) != before {
            resume = Some(plan.run.dir.clone());
        }
    }
}

/// When a file was written, if it exists.
fn written(path: &Path) -> Option<std::time::SystemTime> {
    path.metadata().and_then(|metadata: Metadata| metadata.modified()).ok()
}

/// The command line of this process; one that resumes has the run folder in place of what a new run needs.
fn words(mut typed: impl Iterator<Item = OsString>, resume: Option<&Path>) -> Vec<OsString> {
    let Some(folder) = resume else { return typed.collect() };
    let mut kept = vec![OsString::from("--resume"), folder.into()];
    while let Some(word) = typed.next() {
        let name = word.to_string_lossy();
        match name.split('=').next().unwrap_or_default() {
            "--config" | "--resume" | "--set" if !name.contains('=') => drop(typed.next()),
            "--config" | "--resume" | "--set" | "--force" => {}
            _ => kept.push(word.clone()),
        }
    }
    kept
}

/// How a process ended that had no memory left; `None` when it ended otherwise.
fn lack_of_memory(status: ExitStatus, killed_before: Option<u64>) -> Option<String> {
    const ABORTED: i32 = 6;
    const KILLED: i32 = 9;
    if status.code() == Some(i32::from(OUT_OF_MEMORY)) {
        return Some("the device could not allocate more".to_owned());
    }
    match signal_of(status)? {
        ABORTED => Some("it ended like a failed allocation, by signal 6".to_owned()),
        KILLED if killed_for_memory() > killed_before => Some("the system ended it (out of memory)".to_owned()),
        _ => None,
    }
}

/// Processes that the system has ended since it started because its memory was full.
fn killed_for_memory() -> Option<u64> {
    let counters = sam_files::read_text(Path::new("/proc/vmstat"), sam_files::MAX_TEXT_BYTES).ok()?;
    counters.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + signal_of(status).unwrap_or_default())
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_status: ExitStatus) -> Option<i32> {
    None
}

/// Starts a process and waits for it. Ctrl-C reaches both from the terminal, and the other one decides; signals that are sent
/// to this one alone are passed on.
#[cfg(unix)]
fn wait(command: &mut Command) -> std::io::Result<ExitStatus> {
    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    let mut child = command.spawn()?;
    let process = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
    let handle = signals.handle();
    let passing_on = std::thread::spawn(move || {
        for signal in signals.forever().filter(|&signal| signal != SIGINT) {
            // It may have ended in this moment.
            let _ = Signal::try_from(signal).map(|signal| kill(process, signal));
        }
    });
    let status = child.wait();
    handle.close();
    let _ = passing_on.join();
    status
}

#[cfg(not(unix))]
fn wait(command: &mut Command) -> std::io::Result<ExitStatus> {
    command.status()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_has_begun_is_resumed_with_the_options_that_say_how_it_is_shown() {
        let of = |typed: &[&str], resume: Option<&str>| {
            let words = words(typed.iter().map(OsString::from), resume.map(Path::new));
            words.into_iter().map(|word| word.into_string().expect("UTF-8")).collect::<Vec<_>>().join(" ")
        };
        let typed =
            ["--config", "a.toml", "--plain", "--set", "run.seed=1", "--set=run.name=b", "--force", "--verbose"];
        assert_eq!(of(&typed, None), typed.join(" "));
        assert_eq!(of(&typed, Some("runs/a")), "--resume runs/a --plain --verbose");
        assert_eq!(of(&["--quiet", "--resume=x", "--config=a.toml"], Some("x")), "--resume x --quiet");
    }
}
