//! Damaged files of a run folder: a flipped bit, a page of zeros, a cut, a file that is gone.

use std::path::{Path, PathBuf};

use sam_data::random::RandomStream;

use super::{Results, draws, finish, prepared, repetitions, report};
use crate::cli::Run;

/// A run that was stopped after its first save, in a folder of its own.
fn stopped_run() -> Run {
    let run = prepared();
    let changed = ["--config", "train.toml", "--plain", "--set", "schedule.steps=4"];
    let ended = finish(&run, &changed);
    assert_eq!(ended.code, Some(0), "{}", ended.text);
    run
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("readable").flatten() {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("copied")),
        }
    }
}

/// All files of a run folder, sorted.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("readable").flatten() {
            match entry.path().is_dir() {
                true => folders.push(entry.path()),
                false => found.push(entry.path()),
            }
        }
    }
    found.sort();
    found
}

/// Damages a file and says how.
fn damage(path: &Path, draws: &mut RandomStream) -> String {
    let mut bytes = std::fs::read(path).expect("readable");
    let at = draws.index(bytes.len().max(1));
    let kind = draws.index(5);
    match kind {
        0 if !bytes.is_empty() => bytes[at] ^= 1 << draws.index(8),
        1 => bytes[at..].iter_mut().take(4096).for_each(|byte| *byte = 0),
        2 => bytes.truncate(at),
        3 => bytes.clear(),
        _ => {
            std::fs::remove_file(path).expect("removed");
            return "removed".to_owned();
        }
    }
    std::fs::write(path, bytes).expect("written");
    format!("damage {kind} at byte {at}")
}

/// A resumed run either ends as the undamaged one or names the damaged file; results never change silently.
#[test]
fn damage_to_a_run_folder_never_changes_results_silently() {
    let stopped = stopped_run();
    let arguments = ["--resume", "run", "--plain", "--set", "schedule.steps=8"];
    let resumed = |run: &Run| (finish(run, &arguments), Results::of(run));
    let whole = {
        let run = Run::new();
        copy(&stopped.path("run"), &run.path("run"));
        let (ended, results) = resumed(&run);
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        results
    };
    let (mut n_refused, mut n_said, mut n_same) = (0, 0, 0);
    for repetition in 0..repetitions(24) {
        let mut draws = draws(3, repetition);
        let run = Run::new();
        copy(&stopped.path("run"), &run.path("run"));
        let all = files(&run.path("run"));
        let path = &all[repetition % all.len()];
        let shown = path.strip_prefix(run.path("run")).expect("inside").display().to_string();
        let how = damage(path, &mut draws);
        let (ended, results) = resumed(&run);
        ended.assert_sound(&format!("{shown}: {how}"));
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let is_said = ended.text.contains(&name);
        match ended.code {
            Some(0) if results == whole => n_same += 1,
            Some(0) => {
                n_said += 1;
                assert!(is_said, "{shown}: {how}: other results, and nothing said\n{}", ended.text);
            }
            _ => {
                n_refused += 1;
                assert!(is_said, "{shown}: {how}: the message does not name the file\n{}", ended.text);
            }
        }
    }
    report(&format!("{n_same} ended as the undamaged run, {n_said} otherwise and said so, {n_refused} were refused"));
}
