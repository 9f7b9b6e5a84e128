//! `bench` through the real program: the phases of a training's step and of a pre-training's, bad input.

use serde_json::Value;

use crate::cli::Run;
use crate::train_cli::{SMALL, with_config};

fn benched(run: &Run, words: &[&str]) -> (String, Value) {
    let text = run.ok(&[&["bench", "--steps", "3", "--json", "bench.json"], words].concat());
    let json = std::fs::read(run.path("bench.json")).expect("written");
    (text, serde_json::from_slice(&json).expect("JSON"))
}

fn phase<'a>(report: &'a Value, name: &str) -> &'a Value {
    let phases = report["phases"].as_array().expect("phases");
    phases.iter().find(|phase| phase["phase"] == name).unwrap_or_else(|| panic!("{name} in {report}"))
}

#[test]
fn the_phases_of_a_step_are_its_time() {
    let run = with_config(SMALL);
    let (text, report) = benched(&run, &["--config", "train.toml"]);
    for part in ["machine: ", "GFLOP/s", "ViT 16 x 1", "encoder forward", "decoder backward", "optimiser", "of peak"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let phases = report["phases"].as_array().expect("phases");
    let sum: f64 = phases.iter().filter_map(|phase| phase["seconds"].as_f64()).sum();
    let step_s = report["step_s"].as_f64().expect("a number");
    // Medians of three steps each.
    assert!(sum > 0.5 * step_s && sum < 1.5 * step_s, "{sum} {step_s}");
    assert_eq!(report["images"], 2.0);
    // Forward and backward of everything: the backward pass has twice the operations.
    let gflop = |name: &str| phase(&report, name)["gflop"].as_f64().unwrap_or_else(|| panic!("{name}"));
    assert!((gflop("encoder backward") / gflop("encoder forward") - 2.0).abs() < 1e-9);
    assert!(gflop("decoder forward") > 0.0);
    assert!(!run.path("run").exists(), "nothing is written but the JSON");
    // A frozen encoder has no backward pass, and what layers that learn leave of it is not known.
    let (_, report) = benched(&run, &["--config", "train.toml", "--set", "optimiser.freeze=[\"image_encoder\"]"]);
    assert_eq!(phase(&report, "encoder backward")["seconds"], 0.0);
    let (_, report) = benched(&run, &["--config", "train.toml", "--set", "optimiser.learn=[\"*.bias\"]"]);
    assert!(phase(&report, "encoder backward")["gflop"].is_null());
    // Without a configuration it is the step of a published size.
    let (text, report) = benched(&run, &["--set", "model.image_size=64", "--set", "data.objects_per_step=1"]);
    assert!(text.contains("vit_b, 64 px"), "{text}");
    assert_eq!(report["images"], 1.0);
    run.refused(&["bench", "--config", "nowhere.toml"], &["nowhere.toml"]);
    run.refused(&["bench", "--config", "train.toml", "--device", "tpu"], &["run.device", "cpu, cuda"]);
    std::fs::write(run.path("probe.toml"), "task = \"probe\"\n[model]\ncheckpoint = \"x\"\n[data]\npath = \"y\"\n")
        .expect("written");
    run.refused(&["bench", "--config", "probe.toml"], &["x"]);
}
