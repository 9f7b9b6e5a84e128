//! `sam-train runs` through the real program: states, scores, damaged folders, comparison.

use serde_json::Value;

use crate::cli::Run;
use crate::train_cli::{SMALL, with_config};

/// Three runs: one to its end, one with another rate, one that diverges; and a folder with a damaged plan.
fn some_runs() -> Run {
    let run = with_config(SMALL);
    run.ok(&["--config", "train.toml", "--set", "run.dir=runs/first"]);
    run.ok(&["--config", "train.toml", "--set", "run.dir=runs/deep/second", "--set", "optimiser.lr=2e-3"]);
    let diverging = ["--config", "train.toml", "--set", "run.dir=runs/third", "--set", "optimiser.lr=1e38"];
    assert_eq!(run.sam_train(&diverging).status.code(), Some(1));
    std::fs::create_dir(run.path("runs/fourth")).expect("made");
    std::fs::write(run.path("runs/fourth/plan.toml"), "task = ").expect("written");
    std::fs::write(run.path("runs/fourth/metrics.jsonl"), "{\"event\":\"st").expect("written");
    run
}

#[test]
fn runs_are_listed_with_their_state_and_compared() {
    let run = some_runs();
    let out = run.ok(&["runs", "runs"]);
    for part in [
        "first: train, finished, step 4 of 4",
        "second: train, finished, step 4 of 4",
        "third: train, failed, step ",
        "the run stops",
        "fourth: damaged",
        "plan.toml: ",
        "1 unreadable lines",
        "miou_box 0.",
        "runs/deep/second/best.safetensors",
    ] {
        assert!(out.contains(part), "must say `{part}`:\n{out}");
    }
    let json: Value = serde_json::from_str(&run.ok(&["runs", "runs", "--json", "--metric", "miou_1"])).expect("JSON");
    let states: Vec<&str> = json.as_array().expect("a list").iter().filter_map(|run| run["state"].as_str()).collect();
    assert_eq!(states.len(), 4);
    assert_eq!(states[..2], ["finished"; 2], "those with a best come first: {states:?}");
    let best = |at: usize| json[at]["best"]["metrics"]["miou_1"].as_f64().expect("validated");
    assert!(best(0) >= best(1), "best first");

    // Killed, and at work.
    std::fs::remove_file(run.path("runs/first/ending.json")).expect("there");
    let lock = sam_learn::record::RunLock::acquire(&run.path("runs/deep/second")).expect("free");
    let out = run.ok(&["runs", "runs"]);
    assert!(out.contains("second: train, running") && out.contains("first: train, finished"), "{out}");
    drop(lock);

    let out = run.ok(&["runs", "runs/first", "runs/deep/second"]);
    for part in ["optimiser.lr", "0.001", "0.002", "miou_box", "miou_1_oracle", "finished, step 4 of 4"] {
        assert!(out.contains(part), "must say `{part}`:\n{out}");
    }
    for part in ["run.dir", "schedule.steps", "small/miou_1"] {
        assert!(!out.contains(part), "{out}");
    }
    let out = run.ok(&["runs", "runs/first", "runs/deep/second", "--json", "--metric", "small/miou_1"]);
    let json: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(json["configuration"].as_object().map(serde_json::Map::len), Some(1), "{out}");
    assert!(json["scores"]["small/miou_1"].is_array(), "{out}");
}

#[test]
fn folders_without_runs_are_said() {
    let run = Run::new();
    std::fs::create_dir(run.path("empty")).expect("made");
    assert!(run.ok(&["runs", "empty"]).contains("empty: no runs"));
    assert_eq!(run.ok(&["runs", "empty", "--json"]).trim(), "[]");
    run.refused(&["runs", "nowhere"], &["nowhere"]);
    run.refused(&["runs", "empty", "empty"], &["empty", "plan.toml"]);
    run.refused(&["runs"], &["runs: No such"]);
}

/// A metric that no run has, and the interrupted state of a run that was killed before its last step.
#[test]
fn an_unknown_metric_is_refused_with_those_that_there_are() {
    let run = with_config(SMALL);
    run.ok(&["--config", "train.toml"]);
    run.refused(&["runs", ".", "--metric", "miou_17"], &["miou_17", "miou_box"]);
    std::fs::remove_file(run.path("run/ending.json")).expect("there");
    let plan = std::fs::read_to_string(run.path("run/plan.toml")).expect("there");
    std::fs::write(run.path("run/plan.toml"), plan.replace("\nsteps = 4", "\nsteps = 40")).expect("written");
    let out = run.ok(&["runs", "."]);
    assert!(out.contains("interrupted, step 4 of 40"), "{out}");
}
