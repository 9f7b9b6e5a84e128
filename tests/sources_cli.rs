//! Several data sets as training data, through the real program.

use serde_json::Value;

use crate::cli::Run;
use crate::train_cli::{SMALL, read};

/// Eight scenes of one seed and three of another; the first drawn three times as often.
fn prepared(sources: &str) -> Run {
    let run = Run::new();
    let synth = "[data.synth]\nseed = 1\nn_scenes = 8\nside_px_min = 32\nside_px_max = 32\n";
    let held_out = "[data.validation_synth]\nfirst_index = 100\nn_scenes = 2\n";
    let text = SMALL.replace(synth, "").replace(held_out, "").replace("[prompts]", &format!("{sources}[prompts]"));
    std::fs::write(run.path("train.toml"), text).expect("written");
    for (name, n, seed) in [("cells", "8", "5"), ("photos", "3", "6")] {
        run.ok(&["data", "synth", "--out", name, "--train", n, "--val", "2", "--seed", seed]);
    }
    run
}

const SOURCES: &str = "[[data.sources]]\npath = \"cells\"\nweight = 3.0\nsplit = \"given\"\n\
                       [[data.sources]]\npath = \"photos\"\nsplit = { val = 0.34 }\npart = \"train\"\n";

fn lines(run: &Run, name: &str, event: &str, field: &str) -> Vec<Value> {
    let log = read(run, &format!("{name}/metrics.jsonl"));
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["event"] == event && !line[field].is_null()).map(|line| line[field].clone()).collect()
}

#[test]
fn several_data_sets_are_drawn_by_weight_and_validated_each() {
    let run = prepared(SOURCES);
    let out = run.ok(&["--config", "train.toml", "--plain"]);
    for part in ["trains on 8 images of", "75.0 % of the training images drawn", "25.0 %", "step 4/4"] {
        assert!(out.contains(part), "must say `{part}`:\n{out}");
    }
    let metrics = lines(&run, "run", "validation", "metrics");
    let last = metrics.last().expect("validated");
    let value = |name: &str| last[name].as_f64().unwrap_or_else(|| panic!("no {name} in {last}"));
    let mean = (value("cells/miou_1") + value("photos/miou_1")) / 2.0;
    assert!((value("miou_1") - mean).abs() < 1e-9, "the mean over the sets, each with the same weight");
    // What the data was is recorded for each, and a resumed run is the uninterrupted one.
    let environment = read(&run, "run/environment.json");
    assert!(environment.contains("data.sources[0].split") && environment.contains("data.sources[1]"), "{environment}");
    run.ok(&["--config", "train.toml", "--plain", "--set", "run.dir=\"other\"", "--set", "schedule.steps=6"]);
    run.ok(&["--resume", "run", "--plain", "--set", "schedule.steps=6"]);
    assert_eq!(lines(&run, "run", "step", "loss"), lines(&run, "other", "step", "loss"));
    // The configuration with every default runs as well.
    let resolved = run.ok(&["--config", "train.toml", "--check"]);
    std::fs::write(run.path("resolved.toml"), resolved).expect("written");
    run.ok(&["--config", "resolved.toml", "--plain", "--set", "run.dir=\"third\"", "--set", "schedule.steps=6"]);
    assert_eq!(lines(&run, "third", "step", "loss"), lines(&run, "other", "step", "loss"));
}

#[test]
fn what_does_not_fit_several_data_sets_is_named() {
    let refuse = |sources: &str, parts: &[&str]| prepared(sources).refused(&["--config", "train.toml"], parts);
    refuse(&format!("train = \"cells\"\n{SOURCES}"), &["data.sources", "without data.train"]);
    refuse(&format!("validation = \"photos\"\n{SOURCES}"), &["data.validation", "a source has a split"]);
    refuse("[[data.sources]]\nweight = 1.0\n", &["data.sources[0].path must be given"]);
    refuse("[[data.sources]]\npath = \"cells\"\nweight = 0\n", &["data.sources[0].weight", "above 0"]);
    refuse("[[data.sources]]\npath = \"cells\"\nweigth = 2\n", &["weigth", "weight"]);
    refuse("[[data.sources]]\npath = \"nowhere\"\n", &["data.sources[0].path", "nowhere"]);
}

/// Without a word about validation, every set holds out its own part.
#[test]
fn every_source_holds_out_images_by_default() {
    let run = prepared("[[data.sources]]\npath = \"cells\"\n[[data.sources]]\npath = \"photos\"\n");
    let out = run.ok(&["--config", "train.toml", "--plain"]);
    assert_eq!(out.matches("the data set has its own train and val").count(), 2, "{out}");
    assert_eq!(out.matches("50.0 % of the training images drawn").count(), 2, "{out}");
}
