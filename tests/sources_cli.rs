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
    // Data that has moved is found again, and other data is not taken for it.
    std::fs::rename(run.path("cells"), run.path("moved")).expect("renamed");
    run.refused(
        &["--resume", "run", "--plain", "--set", "schedule.steps=7"],
        &["cells does not exist", "--set data.sources[0].path=PATH"],
    );
    let moved = ["--resume", "run", "--plain", "--set", "schedule.steps=7", "--set"];
    run.refused(
        &[&moved[..], &["data.sources[0].path=photos"]].concat(),
        &["data.sources[0]", "not the data of this run"],
    );
    let out = run.ok(&[&moved[..], &["data.sources[0].path=moved"]].concat());
    assert!(out.contains("step 7/7"), "{out}");
    std::fs::rename(run.path("moved"), run.path("cells")).expect("renamed");
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

/// A set beside the run's own has its scores in the log, the table and the report, and chooses nothing.
#[test]
fn other_data_is_validated_beside_the_runs_own() {
    let run = prepared("");
    let config = read(&run, "train.toml");
    let own = "[data.synth]\nseed = 1\nn_scenes = 8\nside_px_min = 32\nside_px_max = 32\n\
               [data.validation_synth]\nfirst_index = 100\nn_scenes = 2\n";
    let config = config.replace("[prompts]", &format!("{own}[prompts]"));
    let also = "[[validation.also]]\npath = \"cells\"\nmax_images = 3\n\
                [[validation.also]]\npath = \"photos\"\nname = \"street scenes\"\npart = \"val\"\n";
    let with = |also: &str| std::fs::write(run.path("train.toml"), format!("{config}{also}")).expect("written");
    with("");
    run.ok(&["--config", "train.toml", "--plain", "--set", "run.dir=\"alone\""]);
    with(also);
    let out = run.ok(&["--config", "train.toml", "--plain"]);
    for part in [
        "validates on 3 images of",
        "validates on 2 images of",
        "as \"street scenes\"",
        "also:cells/miou_box",
        "on street scenes",
        "(best by miou_box",
    ] {
        assert!(out.contains(part), "must say `{part}`:\n{out}");
    }
    let [beside, alone] = ["run", "alone"].map(|name| lines(&run, name, "validation", "metrics"));
    for (beside, alone) in beside.iter().zip(&alone) {
        assert_eq!(beside["miou_box"], alone["miou_box"], "the run's own scores are those without");
        assert!(beside["also:street scenes/miou_1"].is_f64() && beside["also:cells/miou_box"].is_f64(), "{beside}");
        assert!(alone["also:cells/miou_box"].is_null() && beside["also:cells/small/miou_box"].is_null());
    }
    assert_eq!(lines(&run, "run", "step", "loss"), lines(&run, "alone", "step", "loss"));
    assert!(read(&run, "run/report.md").contains("also:street scenes/miou_box"));
    // Scores stay comparable: the sets are those of the run, wherever they are.
    std::fs::rename(run.path("cells"), run.path("moved")).expect("renamed");
    let more = ["--resume", "run", "--plain", "--set", "schedule.steps=6", "--set"];
    run.refused(
        &[&more[..], &["log.every_steps=1"]].concat(),
        &["cells does not exist", "--set validation.also[0].path"],
    );
    let out = run.ok(&[&more[..], &["validation.also[0].path=moved"]].concat());
    assert!(out.contains("also:cells/miou_box"), "{out}");
    let refuse = |also: &str, parts: &[&str]| {
        with(also);
        run.refused(&["--config", "train.toml", "--set", "run.dir=\"x\""], parts);
    };
    refuse("[[validation.also]]\nname = \"a\"\n", &["validation.also[0].path must be given"]);
    refuse("[[validation.also]]\npath = \"photos\"\nname = \"a/b\"\n", &["validation.also[0].name", "without `/`"]);
    let twice = "[[validation.also]]\npath = \"photos\"\n".repeat(2);
    refuse(&twice, &["validation.also[1]", "photos", "`name`"]);
    refuse(
        "[[validation.also]]\npath = \"photos\"\nmetric = \"x\"\n",
        &["no key `metric` in [validation.also[0]]", "[validation]"],
    );
}
