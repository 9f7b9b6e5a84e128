//! Faults at single system calls, injected by `strace`: by hand only, since CI need not have it.
//!
//! `cargo test --release --test main system_call -- --ignored --nocapture`, with `FAULTS=N` for more.

use std::collections::BTreeMap;
use std::process::Command;

use super::{Results, draws, finish_as_a_user, prepared, program, repetitions, report, start, wait};
use crate::cli::Run;

/// Calls that write to disk or look at it, which a run makes in an order of its own.
const CALLS: &str = "openat,write,fsync,fdatasync,rename,mkdir,unlink,unlinkat,ftruncate,flock,fchmod,statx";

/// Calls that can fail for reasons outside of the program, with the error.
const FAILURES: [(&str, &str); 9] = [
    ("openat", "EMFILE"),
    ("openat", "EACCES"),
    ("write", "ENOSPC"),
    ("write", "EIO"),
    ("fsync", "EIO"),
    ("rename", "ENOSPC"),
    ("mkdir", "ENOSPC"),
    ("unlink", "EACCES"),
    ("ftruncate", "EIO"),
];

fn traced(run: &Run, options: &[&str]) -> Command {
    let plain = program(run, &["--config", "train.toml", "--plain"]);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq"]).args(options).arg(plain.get_program()).args(plain.get_args());
    command.current_dir(run.path(""));
    command
}

/// How often the threads of a run make each call: the count of the thread that makes most of them, as `strace` counts calls
/// per thread.
fn counts() -> BTreeMap<String, usize> {
    let run = prepared();
    let (log, trace) = (run.path("log.txt"), run.path("trace.txt"));
    let trace_path = trace.display().to_string();
    let ended = wait(start(traced(&run, &["-e", &format!("trace={CALLS}"), "-o", &trace_path]), &log), &log, None);
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    let mut of_threads: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in String::from_utf8_lossy(&std::fs::read(&trace).expect("a trace")).lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        *of_threads.entry((thread.to_owned(), call.to_owned())).or_default() += 1;
    }
    let mut most = BTreeMap::new();
    for ((_, call), n) in of_threads {
        let so_far: &mut usize = most.entry(call).or_default();
        *so_far = n.max(*so_far);
    }
    most
}

/// A run that is killed as it enters any system call ends, resumed, as the uninterrupted one.
#[test]
#[ignore = "needs strace"]
fn a_run_killed_at_a_system_call_ends_as_the_uninterrupted_one() {
    let (expected, counts) = (Results::uninterrupted(), counts());
    let calls: Vec<&String> = counts.keys().collect();
    let mut n_kills = 0;
    for repetition in 0..repetitions(10) {
        let mut draws = draws(6, repetition);
        let run = prepared();
        let log = run.path("log.txt");
        let call = calls[repetition % calls.len()];
        let inject = format!("inject={call}:signal=KILL:when={}", 1 + draws.index(counts[call]));
        let trace = format!("trace={call}");
        let ended = wait(start(traced(&run, &["-o", "/dev/null", "-e", &trace, "-e", &inject]), &log), &log, None);
        n_kills += usize::from(ended.signal.is_some());
        if ended.signal.is_none() {
            ended.assert_sound(&inject);
        }
        finish_as_a_user(&run);
        assert_eq!(Results::of(&run), expected, "{inject}");
    }
    report(&format!("{n_kills} kills at system calls"));
}

/// A run whose system call fails reports it or does without; afterwards it ends as the uninterrupted one.
#[test]
#[ignore = "needs strace"]
fn a_run_survives_a_system_call_that_fails() {
    let (expected, counts) = (Results::uninterrupted(), counts());
    let possible: Vec<_> = FAILURES.into_iter().filter(|(call, _)| counts.contains_key(*call)).collect();
    let mut n_failed = 0;
    for repetition in 0..repetitions(10) {
        let mut draws = draws(7, repetition);
        let run = prepared();
        let log = run.path("log.txt");
        let (call, error) = possible[repetition % possible.len()];
        let inject = format!("inject={call}:error={error}:when={}", 1 + draws.index(counts[call]));
        let trace = format!("trace={call}");
        let ended = wait(start(traced(&run, &["-o", "/dev/null", "-e", &trace, "-e", &inject]), &log), &log, None);
        // Before `main`, the loader fails without the program.
        if ended.code != Some(127) {
            ended.assert_sound(&inject);
        }
        n_failed += usize::from(ended.code != Some(0));
        finish_as_a_user(&run);
        assert_eq!(Results::of(&run), expected, "{inject}");
    }
    report(&format!("{n_failed} runs failed at a system call, with a message"));
}
