//! `kill -9` and signals at random moments of a run and of its resumptions.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

use super::{Results, draws, finish, finish_as_a_user, prepared, program, repetitions, report, start, wait};

/// A killed run that is resumed, and killed again, ends with the files of the uninterrupted run; its log holds every step
/// and every validation once.
#[test]
fn a_killed_run_ends_as_the_uninterrupted_one() {
    let expected = Results::uninterrupted();
    let whole = {
        let run = prepared();
        let begun = Instant::now();
        finish(&run, &["--config", "train.toml", "--plain"]);
        begun.elapsed()
    };
    let mut n_kills = 0;
    for repetition in 0..repetitions(4) {
        let mut draws = draws(1, repetition);
        let run = prepared();
        let log = run.path("log.txt");
        for session in 0..1 + draws.index(4) {
            let arguments: &[&str] = match session {
                0 => &["--config", "train.toml", "--plain"],
                _ => &["--resume", "run", "--plain"],
            };
            let after = Duration::from_secs_f64(whole.as_secs_f64() * draws.unit());
            let ended = wait(start(program(&run, arguments), &log), &log, Some(after));
            n_kills += usize::from(ended.signal.is_some());
            if ended.signal.is_none() {
                ended.assert_sound("a session");
            }
        }
        finish_as_a_user(&run);
        assert_eq!(Results::of(&run), expected, "repetition {repetition}");
        assert_no_leftovers(&run);
    }
    report(&format!("{n_kills} kills"));
}

/// Nothing half written stays in a finished run.
fn assert_no_leftovers(run: &crate::cli::Run) {
    let mut folders = vec![run.path("run")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("readable").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(!name.starts_with(".writing-"), "{} is left over", entry.path().display());
            if entry.path().is_dir() {
                folders.push(entry.path());
            }
        }
    }
}

/// SIGTERM and SIGHUP, which clusters and lost connections send, are Ctrl-C: the step is finished and saved.
#[test]
fn termination_signals_save_the_run() {
    // Long enough to be stopped in the middle.
    const STEPS: &str = "schedule.steps=120";
    let begin = ["--config", "train.toml", "--plain", "--set", STEPS, "--set", "validation.every_steps=40"];
    let expected = {
        let run = prepared();
        let ended = finish(&run, &begin);
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        Results::of(&run)
    };
    let mut ends = BTreeSet::new();
    for (repetition, signal) in ["TERM", "HUP", "INT"].into_iter().cycle().take(repetitions(3)).enumerate() {
        let run = prepared();
        let log = run.path("log.txt");
        let child = start(program(&run, &begin), &log);
        let metrics = run.path("run").join("metrics.jsonl");
        let begun = Instant::now();
        let n_lines = 1 + draws(2, repetition).index(60);
        // The run can be asked to stop from its first step on.
        while begun.elapsed() < super::HANG
            && std::fs::read_to_string(&metrics).unwrap_or_default().lines().count() < n_lines
        {
            std::thread::sleep(Duration::from_millis(1));
        }
        let sent = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()) || n_lines > 1, "no process to send SIG{signal} to");
        let ended = wait(child, &log, None);
        ended.assert_sound(signal);
        assert_eq!(ended.code, Some(0), "SIG{signal}:\n{}", ended.text);
        ends.insert(ended.text.contains("resume with: sam-train --resume"));
        finish_as_a_user(&run);
        assert_eq!(Results::of(&run), expected, "SIG{signal}");
    }
    assert!(ends.contains(&true), "no run was stopped in time to say how to resume it");
}
