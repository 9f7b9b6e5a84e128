//! Fault injection: a run that is killed, runs out of disk space, is damaged or started twice ends with the files of the
//! uninterrupted run or reports the problem; mutated input never causes a panic, a hang or excessive memory.
//!
//! Each test does a few of them in CI. `FAULTS=50 cargo test --release --test main faults -- --nocapture` does fifty times as
//! many, with other random draws, and prints the counts.

mod damage;
mod disk;
mod kills;
mod mutation;
mod pairs;
mod system_calls;

use std::fs::File;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sam_data::random::{Purpose, RandomStream};
use serde_json::Value;

use crate::cli::Run;
use crate::train_cli::SMALL;

/// A command that takes longer hangs; each takes a second or two on an idle machine.
const HANG: Duration = Duration::from_secs(60);

/// A run of about a second whose saves have all parts: a moving average, a baseline, validations between saves.
fn config() -> String {
    let changed = [("dir = \"run\"", "dir = \"run\"\nthreads = 1"), ("lr = 1e-3", "lr = 1e-3\nema_decay = 0.9")];
    let config = changed.iter().fold(SMALL.to_owned(), |text, (from, to)| text.replacen(from, to, 1));
    config.replacen("steps = 4", "steps = 8", 1)
}

/// How often a fault is injected: `in_ci` times, or as many times more as `FAULTS` says.
fn repetitions(in_ci: usize) -> usize {
    let factor = std::env::var("FAULTS").ok().and_then(|text| text.parse::<usize>().ok());
    in_ci * factor.unwrap_or(1)
}

/// Prints how often a fault was injected, for long trials by hand.
fn report(counts: &str) {
    let _ = writeln!(std::io::stdout(), "{counts}");
}

/// Random numbers of one injection; `what` identifies the test.
fn draws(what: u64, repetition: usize) -> RandomStream {
    RandomStream::new(what, Purpose::Order, &[repetition as u64])
}

/// Exit status, output and peak memory of a process.
struct Ended {
    code: Option<i32>,
    signal: Option<i32>,
    text: String,
    peak_mib: u64,
}

impl Ended {
    /// No panic, no abort, an exit code that the program documents.
    fn assert_sound(&self, what: &str) {
        let is_sound = self.signal.is_none() && matches!(self.code, Some(0..=2)) && !self.text.contains("panicked");
        assert!(is_sound, "{what}: exit code {:?}, signal {:?}\n{}", self.code, self.signal, self.text);
    }
}

fn program(run: &Run, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sam-train"));
    command.args(arguments).current_dir(run.path("")).stdin(Stdio::null());
    command
}

/// Starts a command with its output in `log`.
fn start(mut command: Command, log: &Path) -> Child {
    let file = File::create(log).expect("a log");
    let both = file.try_clone().expect("a log");
    command.stdout(file).stderr(both).spawn().expect("the program starts")
}

/// Waits for the end of a process, or kills it after a while.
fn wait(mut child: Child, log: &Path, kill_after: Option<Duration>) -> Ended {
    let begun = Instant::now();
    let mut peak_mib = 0;
    let status = loop {
        if let Some(status) = child.try_wait().expect("a process of ours") {
            break status;
        }
        peak_mib = peak_memory_mib(child.id()).unwrap_or(peak_mib);
        let is_due = kill_after.is_some_and(|after| begun.elapsed() >= after);
        if is_due || begun.elapsed() > HANG {
            child.kill().expect("a process of ours");
            let status = child.wait().expect("a process of ours");
            assert!(is_due, "it hangs:\n{}", std::fs::read_to_string(log).unwrap_or_default());
            break status;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    Ended { code: status.code(), signal: status.signal(), text, peak_mib }
}

/// The largest resident memory of a process so far.
fn peak_memory_mib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

fn finish(run: &Run, arguments: &[&str]) -> Ended {
    let log = run.path("log.txt");
    wait(start(program(run, arguments), &log), &log, None)
}

/// A folder with the configuration in it.
fn prepared() -> Run {
    let run = Run::new();
    std::fs::write(run.path("train.toml"), config()).expect("written");
    run
}

/// The results of a finished run, without times.
#[derive(Clone, Debug, PartialEq)]
struct Results {
    best: Vec<u8>,
    last: Vec<u8>,
    /// Event, step and numbers of each line of `metrics.jsonl`.
    log: Vec<String>,
}

impl Results {
    fn of(run: &Run) -> Self {
        let read = |name: &str| std::fs::read(run.path("run").join(name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&read("metrics.jsonl")).lines().map(without_times).collect();
        Self { best: read("best.safetensors"), last: read("last.safetensors"), log }
    }

    /// Results of an uninterrupted run.
    fn uninterrupted() -> Self {
        let run = prepared();
        let ended = finish(&run, &["--config", "train.toml", "--plain"]);
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        Self::of(&run)
    }
}

fn without_times(line: &str) -> String {
    let value: Value = serde_json::from_str(line).unwrap_or_default();
    ["event", "step", "loss", "grad_norm", "metrics", "is_best", "is_baseline"]
        .map(|key| value.get(key).map(Value::to_string).unwrap_or_default())
        .join(" ")
}

/// Finishes a run as its user would: resumes it if possible, otherwise starts it again.
fn finish_as_a_user(run: &Run) -> Ended {
    let resumed = finish(run, &["--resume", "run", "--plain"]);
    resumed.assert_sound("resume");
    if resumed.code == Some(0) {
        return resumed;
    }
    let begun = finish(run, &["--config", "train.toml", "--plain"]);
    begun.assert_sound("begin again");
    assert_eq!(begun.code, Some(0), "neither resumed nor begun again:\n{}\n{}", resumed.text, begun.text);
    begun
}
