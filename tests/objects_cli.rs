//! `data.objects_per_step = "auto"` through the real program.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::cli::texts;
use crate::train_cli::{SMALL, read, with_config};

/// `objects_per_step = "auto"` trains in a process of its own, with the same numbers; what stops one stops both.
#[test]
fn a_run_that_takes_what_fits_is_watched_by_another_process() {
    let text = SMALL.replace("objects_per_step = 4", "objects_per_step = \"auto\"");
    let run = with_config(&text);
    let losses = |name: &str| -> Vec<Value> {
        let log = read(&run, &format!("{name}/metrics.jsonl"));
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.map(|line| line["loss"].clone()).filter(|loss| !loss.is_null()).collect()
    };
    run.ok(&["--config", "train.toml", "--plain"]);
    run.ok(&["--config", "train.toml", "--plain", "--set", "data.objects_per_step=64", "--set", "run.dir=\"fixed\""]);
    assert_eq!(losses("run"), losses("fixed"));
    run.refused(&["--config", "train.toml", "--plain"], &["run", "--force"]);
    let program = env!("CARGO_BIN_EXE_sam-train");
    let long = ["--config", "train.toml", "--plain", "--force", "--set", "schedule.steps=3000"];
    let mut command = Command::new(program);
    command.args(long).current_dir(run.path("")).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("the program starts");
    let began = Instant::now();
    let n_lines = || std::fs::read_to_string(run.path("run/metrics.jsonl")).map_or(0, |text| text.lines().count());
    while n_lines() < 12 {
        assert!(began.elapsed() < Duration::from_secs(60), "it makes steps");
        std::thread::sleep(Duration::from_millis(20));
    }
    let status = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill starts");
    assert!(status.success());
    assert_eq!(child.wait().expect("it ends").code(), Some(0), "the other process has saved");
    let out = run.ok(&["--resume", "run", "--check"]);
    assert!(out.contains("halves_objects = true"), "{out}");
    // With hardly any memory for any number of objects, it says so in the end.
    let config =
        text.replace("image_size = 32", "image_size = 1024").replace("images_per_step = 2", "images_per_step = 8");
    std::fs::write(run.path("large.toml"), config).expect("written");
    let limited =
        format!("ulimit -v 400000; exec {program} --config large.toml --plain --set run.dir=large --set run.threads=2");
    let output = Command::new("sh").args(["-c", &limited]).current_dir(run.path("")).output().expect("sh starts");
    let (_, err) = texts(&output);
    assert_eq!(output.status.code(), Some(3), "{err}");
    for part in [
        "no memory is left with 64 objects",
        "going on with 32",
        "going on with 8",
        "one object of each image of a step (8)",
    ] {
        assert!(err.contains(part), "must say `{part}`: {err}");
    }
}
